"""psycopg driven by trio: connections, a small pool of them, and one meaning for everything that can go wrong.

psycopg's protocol code is generators that say what they wait for; only the waiting is asyncio's, and is replaced here.
A statement that is cancelled or breaks leaves its connection in the middle of something, so that connection is thrown
away. Whoever calls gets rows, `LedgerDown`, or, where our own SQL is wrong, the driver's error.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, LiteralString, Self, TypeVar

import orjson
import psycopg
import trio
from psycopg import pq
from psycopg.abc import RV, Buffer, PQGen, PQGenConn
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from heliograph.actors.ledger.statement import Params, Statements
from heliograph.actors.model.errors import LedgerDown

T = TypeVar("T")

CONNECT_LIMIT_S: Final = 5.0
STATEMENT_LIMIT_S: Final = 5.0
"""The server ends a statement by itself after this; our own limit is a little longer, for a server that cannot."""
MARGIN_S: Final = 2.0
ROLLBACK_LIMIT_S: Final = 1.0
REPEATS: Final = 5
"""How often a transaction is repeated that lost a deadlock."""
LONGER: Final = "SELECT set_config('statement_timeout', %s, true)"

_SESSION: Final = {
    "TimeZone": "UTC",
    "statement_timeout": f"{STATEMENT_LIMIT_S:g}s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",  # a stopped process of ours must not hold its locks for ever
    # Each statement has its index. A plan made while the tables were empty would rather read them whole, and a
    # prepared statement keeps its plan until the next ANALYZE.
    "enable_seqscan": "off",
    "jit": "off",
}


class _JsonLoader(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> Any:
        return orjson.loads(data)


class _Unlocked:
    """In place of psycopg's lock: a connection of the pool belongs to one task at a time."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Connection(psycopg.AsyncConnection[TupleRow]):
    """`writer` names the rows of `tallies` that are this connection's own."""

    writer: str = ""
    _statements: Statements

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        super().__init__(pgconn)
        self.lock = _Unlocked()  # type: ignore[assignment]

    @classmethod
    async def open(cls, url: str, *, application: str, writer: str) -> Self:
        """Tries each address that the URL stands for. psycopg.OperationalError when none answers."""
        params = conninfo_to_dict(url)
        options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        params["options"] = f"{params.get('options') or ''} {options}".strip()
        params.setdefault("application_name", application)
        # In a thread, because names are looked up.
        attempts = await trio.to_thread.run_sync(_addresses, params, abandon_on_cancel=True)
        failure: psycopg.Error | None = None
        for attempt in attempts:
            try:
                connection = await _wait_to_connect(cls._connect_gen(make_conninfo("", **attempt)))
            except psycopg.Error as error:
                failure = error
                continue
            connection._autocommit = True  # transactions are begun by name, see Pool.transact
            connection.writer = writer
            connection.adapters.register_loader("json", _JsonLoader)
            connection._statements = Statements(connection)
            return connection
        raise failure or psycopg.OperationalError("the URL names no address")

    async def wait(self, gen: PQGen[RV], interval: float = 0.0, timeout: float | None = None) -> RV:  # noqa: ARG002
        """Time limits are trio's cancel scopes, so psycopg's own are not looked at."""
        try:
            wants = next(gen)
            while True:
                wants = gen.send(await _ready(self.pgconn.socket, wants))
        except StopIteration as stop:
            result: RV = stop.value
            return result

    async def rows(self, query: LiteralString, params: Params = (), *, prepare: bool = True) -> list[TupleRow]:
        """Run one statement; its rows, or [] where it answers none. `prepare` False: its text is seldom the same."""
        return await self.wait(self._statements.run(query, params, prepare=prepare))

    async def command(self, word: LiteralString) -> None:
        """BEGIN, COMMIT or ROLLBACK: the shortest way to the server."""
        await self.wait(self._exec_command(word))

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nobody has closed it."""
        return not self.closed and self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def hung_up(self) -> bool:
        """An idle connection has nothing to say but that it ends."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))

    def discard(self) -> None:
        self._closed = True
        self.pgconn.finish()


class Pool:
    """At most `size` connections, opened when needed. `writer` is the beginning of their names in `tallies`."""

    def __init__(self, url: str, *, size: int, application: str, writer: str) -> None:
        self._url = url
        self._application = application
        self._writer = writer
        self._room = trio.Semaphore(size)
        self._idle: list[tuple[int, Connection]] = []
        self._unused = list(range(size, 0, -1))
        self._closed = False

    async def rows(
        self,
        query: LiteralString,
        params: Params = (),
        *,
        prepare: bool = True,
        limit_s: float = STATEMENT_LIMIT_S + MARGIN_S,
    ) -> list[TupleRow]:
        """One statement, a transaction of its own."""

        async def work(connection: Connection) -> list[TupleRow]:
            return await connection.rows(query, params, prepare=prepare)

        return await self.once(work, limit_s=limit_s)

    async def once(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        limit_s: float = STATEMENT_LIMIT_S + MARGIN_S,
        shield: bool = False,
    ) -> T:
        """`work` is one statement, a transaction of its own, and may be run several times. With `shield` only the
        time limit can cut it off."""
        asked = False
        try:
            with trio.CancelScope(deadline=trio.current_time() + limit_s, shield=shield):
                for repeat in range(REPEATS):
                    slot, connection = await self._take()
                    asked = True
                    try:
                        return await work(connection)
                    except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                        if repeat == REPEATS - 1:
                            raise
                    finally:
                        self._put_back(slot, connection)
        except psycopg.Error as error:
            if not _means_down(error):
                raise
            raise LedgerDown(f"PostgreSQL cannot answer: {_in_short(error)}", asked=asked) from error
        except trio.TooSlowError:  # in making a connection
            pass
        raise LedgerDown(f"PostgreSQL gave no answer within {limit_s:g} s", asked=asked)

    async def transact(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        limit_s: float = STATEMENT_LIMIT_S + MARGIN_S,
        shield: bool = False,
    ) -> T:
        """All of `work` in one transaction, which an error undoes. It may be run several times. With a longer limit
        than usual its statements may take longer, too."""

        async def whole(connection: Connection) -> T:
            await connection.command("BEGIN")
            try:
                if limit_s > STATEMENT_LIMIT_S + MARGIN_S:
                    await connection.rows(LONGER, (f"{limit_s - MARGIN_S:g}s",))
                result = await work(connection)
            except Exception:
                if not connection.closed:
                    with trio.move_on_after(ROLLBACK_LIMIT_S, shield=True):
                        await connection.command("ROLLBACK")
                raise
            await connection.command("COMMIT")
            return result

        return await self.once(whole, limit_s=limit_s, shield=shield)

    async def aclose(self) -> None:
        """Closes what is idle now, and the rest when it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop()[1].discard()

    async def _take(self) -> tuple[int, Connection]:
        """One that is idle, without a wait; else a new one, or whichever is put back first."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        slot, connection = self._from_idle()
        if connection is not None:
            return slot, connection
        try:
            return slot, await self._open(slot)
        except BaseException:
            self._put_back(slot, None)
            raise

    def _from_idle(self) -> tuple[int, Connection | None]:
        while self._idle:
            slot, connection = self._idle.pop()
            if not connection.hung_up():
                return slot, connection
            connection.discard()
            self._unused.append(slot)
        return self._unused.pop(), None

    def _put_back(self, slot: int, connection: Connection | None) -> None:
        self._room.release()
        if connection is not None and connection.idle and not self._closed:
            self._idle.append((slot, connection))
            return
        if connection is not None:
            connection.discard()
        self._unused.append(slot)

    async def _open(self, slot: int) -> Connection:
        with trio.fail_after(CONNECT_LIMIT_S):
            return await Connection.open(self._url, application=self._application, writer=f"{self._writer}{slot}")


def _means_down(error: psycopg.Error) -> bool:
    if error.diag.severity_nonlocalized in ("FATAL", "PANIC"):  # whatever it says, the session is over
        return True
    if error.sqlstate == "25006":  # read only: we talk to a standby while another server takes over
        return True
    if isinstance(error, psycopg.errors.ProgramLimitExceeded):
        return False
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def _in_short(error: psycopg.Error) -> str:
    """The server's one line, or the driver's; details, which may quote a row, are left out."""
    return error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__


def _addresses(params: dict[str, Any]) -> list[dict[str, Any]]:
    return list(conninfo_attempts(params))


async def _wait_to_connect(gen: PQGenConn[RV]) -> RV:
    try:
        descriptor, wants = next(gen)
        while True:
            descriptor, wants = gen.send(await _ready(descriptor, wants))
    except StopIteration as stop:
        result: RV = stop.value
        return result


async def _ready(descriptor: int, wants: Wait) -> Ready:
    if wants == Wait.R:
        await trio.lowlevel.wait_readable(descriptor)
        return Ready.R
    if wants == Wait.W:
        await trio.lowlevel.wait_writable(descriptor)
        return Ready.W
    return await _either(descriptor)


async def _either(descriptor: int) -> Ready:
    """While more is sent than the socket takes. The server may speak meanwhile, and not listen until it is heard."""
    ready = Ready.NONE

    async def one(wait: Callable[[int], Awaitable[None]], then: Ready) -> None:
        nonlocal ready
        await wait(descriptor)
        ready = Ready(ready | then)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, trio.lowlevel.wait_readable, Ready.R)
        nursery.start_soon(one, trio.lowlevel.wait_writable, Ready.W)
    return ready
