"""Connections to one mail server: opened, secured, logged in, used again, given up.

A `Session` carries one mail at a time and many in its life; `Sessions` keeps those that are idle. What is said on
them is `dialogue`'s.
"""

from __future__ import annotations

import ipaddress
import select
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar, assert_never

import trio

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.ports.courier import Begin
from heliograph.providers.smtp.dialogue import (
    Bearer,
    Dialogue,
    Features,
    Garbled,
    Heard,
    Login,
    Loss,
    ReplyReader,
    Say,
    Secure,
    Step,
    closing,
    lost,
    opening,
)
from heliograph.providers.smtp.replies import Reply, Row, Stage
from heliograph.providers.verdicts import clip

GOODBYE_S: Final = 1.5
CHUNK: Final = 16 * 1024
MOST_LAST_WORDS: Final = 2
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a mail server is and how it is treated. `tls` is starttls, implicit or none. The answer to the final dot
    may come `final_answer_s` later than any other: giving up on it makes attempts `unknown`."""

    host: str
    port: int
    tls: str
    ehlo_name: str | None = None
    timeout_s: float = 10.0
    final_answer_s: float = 60.0
    idle_s: float = 60.0
    lifetime_s: float = 600.0
    mails_per_session: int = 100
    rows: tuple[Row, ...] = ()

    @property
    def loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Logins(Protocol):
    """Where a session's login comes from."""

    async def login(self, refused: Login | None = None) -> Login | Answer | None:
        """What to log in with; None where the server asks for nothing; an answer where it cannot be had now. `refused`
        is one that the server did not accept: it is not given again, where there can be others."""


@dataclass(frozen=True, slots=True)
class FixedLogin:
    known: Login | None

    async def login(self, refused: Login | None = None) -> Login | None:  # noqa: ARG002 - there is no other
        return self.known


class Session:
    """One connection. After a loss, or when cancelled in the middle of a step, it is of no use any more."""

    def __init__(self, stream: trio.SocketStream, server: Server, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._stream: trio.abc.Stream = stream
        self._socket = stream.socket
        self._server = server
        self._reader = ReplyReader()
        self._ends_s = trio.current_time() + server.lifetime_s
        self._stale_s = trio.current_time() + server.idle_s
        self.features = Features()
        self.mails = 0

    @property
    def ehlo_name(self) -> str:
        """As configured, or our address as a literal (RFC 5321, 4.1.3): few machines have a name that the DNS knows."""
        if self._server.ehlo_name:
            return self._server.ehlo_name
        address = self._socket.getsockname()[0].partition("%")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def rest(self) -> None:
        self._stale_s = trio.current_time() + self._server.idle_s

    @property
    def until_s(self) -> float:
        """When it is too old, or has been idle for too long; at once where it has carried its mails."""
        return 0.0 if self.mails >= self._server.mails_per_session else min(self._stale_s, self._ends_s)

    @property
    def open(self) -> bool:
        """Nobody hung up: whatever comes unasked is a good-bye."""
        return self._reader.idle and not self._shows(select.POLLIN | _HUNG_UP)

    def _shows(self, events: int) -> bool:
        """Whether the socket shows one of them, or an error, now."""
        poll = select.poll()
        poll.register(self._socket.fileno(), events)
        return bool(poll.poll(0))

    async def hold(self, dialogue: Dialogue[T], *, until_s: float, begin: Begin) -> T:
        """Drive a dialogue to its end. Only what `begin` raises comes out, and then nothing was written."""
        try:
            step = next(dialogue)
            while True:
                step = dialogue.send(await self._do(step, until_s, begin))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Step, until_s: float, begin: Begin) -> Heard:
        match step:
            case Secure():
                return await self.secure(until_s)
            case Say():
                return await self._say(step, until_s, begin)
            case _:
                assert_never(step)

    async def _say(self, say: Say, until_s: float, begin: Begin) -> Heard:
        replies: list[Reply] = []
        try:
            with trio.move_on_at(until_s + (self._server.final_answer_s if say.last else 0.0)):
                if say.begins:
                    begin()
                written = await self._write(say.data)
                # It makes a difference whether a broken connection is known before the final dot or after it.
                if not written or (not say.replies and self._shows(_HUNG_UP)):
                    return await self._last_words(written=written)
                while len(replies) < say.replies:
                    replies.append(await self._reply())
                return Heard(tuple(replies))
        except trio.BrokenResourceError:
            return Heard(tuple(replies), Loss.DISCONNECTED, "the connection broke")
        except Garbled as error:
            return Heard(tuple(replies), Loss.GARBLED, f"this is not SMTP: {error}")
        return Heard(tuple(replies), Loss.TIMEOUT, "no answer in time")

    async def _write(self, data: bytes) -> bool:
        """False where the socket did not take all of it."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            return False
        return True

    async def _last_words(self, *, written: bool) -> Heard:
        """Some servers say what they do not like before they hang up."""
        replies: list[Reply] = []
        with suppress(trio.BrokenResourceError, Garbled):
            while len(replies) < MOST_LAST_WORDS:
                replies.append(await self._reply())
        return Heard(tuple(replies), Loss.DISCONNECTED, "the connection broke", written=written)

    async def _reply(self) -> Reply:
        while (reply := self._reader.next()) is None:
            data = await self._stream.receive_some(CHUNK)
            if not data:
                raise trio.BrokenResourceError
            self._reader.feed(data)
        return reply

    async def secure(self, until_s: float) -> Heard:
        """TLS from here on. What was received in the clear and not read is thrown away: anybody may have said it."""
        self._reader.clear()
        stream = trio.SSLStream(self._stream, self._tls, server_hostname=self._server.host, https_compatible=True)
        try:
            with trio.move_on_at(until_s):
                await stream.do_handshake()
                self._stream = stream
                return Heard()
        except trio.BrokenResourceError as error:
            return _tls_fault(error)
        return Heard((), Loss.TIMEOUT, "no TLS handshake in time")

    async def hang_up(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


def _tls_fault(error: BaseException) -> Heard:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Heard((), Loss.CERTIFICATE, f"the server's certificate does not verify: {cause.verify_message}")
        cause = cause.__cause__ or cause.__context__
    return Heard((), Loss.TLS, "the TLS handshake failed")


class Sessions:
    """The idle ones, the last used on top, so that others may grow old and go. It opens as many as are asked for."""

    def __init__(self, server: Server, tls: ssl.SSLContext, logins: Logins) -> None:
        self._server = server
        self._tls = tls
        self._logins = logins
        self._idle: list[Session] = []
        self._watched = False
        self._put_off: Answer | None = None
        self._put_off_until_s = 0.0

    async def take(self) -> Session | Answer:
        while self._idle:
            session = self._idle.pop()
            if not session.open:
                await session.hang_up()
            elif session.until_s <= trio.current_time():
                await self._leave(session)
            else:
                return session
        return await self.open()

    async def open(self) -> Session | Answer:
        """A new session, logged in. A server that wants to be left alone for a while is not asked until then."""
        wait_s = self._put_off_until_s - trio.current_time()
        if self._put_off is not None and wait_s > 0:
            return replace(self._put_off, retry_after_s=wait_s)
        opened = await self._log_in(trio.current_time() + self._server.timeout_s)
        if isinstance(opened, Answer) and opened.retry_after_s is not None:
            self._put_off, self._put_off_until_s = opened, trio.current_time() + opened.retry_after_s
        return opened

    async def _log_in(self, until_s: float) -> Session | Answer:
        """A token may be refused before its time, so another is tried before anybody is told."""
        login = await self._logins.login()
        if isinstance(login, Answer):
            return login
        opened = await self._connect(login, until_s)
        if isinstance(opened, Session) or opened.outcome is not Outcome.MISCONFIGURED or not isinstance(login, Bearer):
            return opened
        another = await self._logins.login(refused=login)
        return another if isinstance(another, Answer) else await self._connect(another, until_s)

    async def _connect(self, login: Login | None, until_s: float) -> Session | Answer:
        server = self._server
        try:
            with trio.fail_at(until_s):
                stream = await trio.open_tcp_stream(server.host, server.port)
        except trio.TooSlowError:
            heard = Heard((), Loss.TIMEOUT, f"no connection to {server.host}:{server.port} in time")
            return lost(heard, Stage.GREETING)
        except OSError as error:
            detail = clip(f"no connection to {server.host}:{server.port}: {_why(error)}")
            return Answer(outcome=Outcome.DEFERRED, code="unreachable", detail=detail)
        session = Session(stream, server, self._tls)
        try:
            fault = await self._introduce(session, login, until_s)
        except BaseException:
            await session.hang_up()
            raise
        if fault is None:
            return session
        await session.hang_up()
        return fault

    async def _introduce(self, session: Session, login: Login | None, until_s: float) -> Answer | None:
        server = self._server
        if server.tls == "implicit":
            heard = await session.secure(until_s)
            if heard.loss is not None:
                return lost(heard, Stage.TLS)
        dialogue = opening(
            ehlo_name=session.ehlo_name, starttls=server.tls == "starttls", login=login, rows=server.rows
        )
        features = await session.hold(dialogue, until_s=until_s, begin=_freely)
        if isinstance(features, Answer):
            return features
        session.features = features
        return None

    async def give_back(self, session: Session, *, reusable: bool) -> None:
        """Cannot be cancelled: there may be an answer to hand on."""
        if not reusable:
            await session.hang_up()
            return
        session.rest()
        if session.until_s <= trio.current_time():
            await self._leave(session)
            return
        self._idle.append(session)
        if not self._watched:
            self._watched = True
            trio.lowlevel.spawn_system_task(self._watch)

    async def _watch(self) -> None:
        """Leave those that are idle for too long, also when no mail comes that would find them so."""
        try:
            while self._idle:
                await trio.sleep_until(min(session.until_s for session in self._idle))
                now_s = trio.current_time()
                for session in [each for each in self._idle if each.until_s <= now_s]:
                    self._idle.remove(session)
                    await self._leave(session)
        finally:
            self._watched = False

    async def _leave(self, session: Session) -> None:
        """Say good-bye and do not wait for the answer: somebody waits for us."""
        with trio.CancelScope(shield=True):
            until_s = trio.current_time() + GOODBYE_S
            await session.hold(closing(replies=0), until_s=until_s, begin=_freely)
            await session.hang_up()

    async def part(self, session: Session) -> None:
        """Say good-bye, and wait a moment for the answer."""
        try:
            until_s = trio.current_time() + GOODBYE_S
            await session.hold(closing(), until_s=until_s, begin=_freely)
        finally:
            await session.hang_up()

    async def aclose(self) -> None:
        async with trio.open_nursery() as nursery:
            while self._idle:
                nursery.start_soon(self.part, self._idle.pop())


def _freely() -> None:
    """Nothing that is said has an effect: no right is needed."""


def _why(error: OSError) -> str:
    """The system's own words. Where several addresses were tried, those of the first."""
    tried = error.__cause__
    if isinstance(tried, BaseExceptionGroup) and isinstance(tried.exceptions[0], OSError):
        return _why(tried.exceptions[0])
    if isinstance(tried, OSError):
        return _why(tried)
    return error.strerror or "failed"
