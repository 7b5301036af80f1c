"""Connections to Redis on trio: what the queue and the coordination send their commands through.

All commands of one link are about keys of one hash tag. Where the URL names a node of a Redis Cluster, which a new
connection finds out for itself, the link goes to the node that serves its tag, and follows the tag when that moves.

hiredis packs commands and reads answers, and the rest is here: through an asyncio client a round trip costs five times
as much (docs/decisions/0010). Three rules hold for every command. It is never cancelled in flight: its caller may be
cancelled until it is sent, and then it ends by its own limit of time. It is never repeated: whether it took effect
after a failure is for the caller to find out. And every new connection asks which server it reached (its `run_id`,
new at each start), for a new server may hold nothing, or old lists.
"""

from __future__ import annotations

import hashlib
import os
import select
from binascii import crc_hqx
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import hiredis
import trio

from heliograph.actors.model.errors import QueueDown
from heliograph.actors.queue.place import Place

LIMIT_S: Final = 2.0
READ: Final = 65_536
SLOTS: Final = 16_384
ENDED: Final = getattr(select, "POLLRDHUP", 0)
"""That the other side has hung up; without it, where it is not Linux's, that the connection has broken."""

Argument = str | int | float
Command = Sequence[Argument]


class Replaced(Exception):  # a finding, which the adapters turn into ours
    """Another server answers than the caller meant. Nothing was sent to it."""


class _Refused(Exception):
    """The server's own words."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, known to the server by its digest."""

    text: str
    sha: str

    @classmethod
    def load(cls, *names: str) -> Script:
        """The files of these names, one after the other."""
        folder = files("heliograph.actors.queue") / "lua"
        text = "\n".join((folder / f"{name}.lua").read_text() for name in names)
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a script. A server that does not know it is sent its text: it did nothing the first time."""

    script: Script
    keys: Sequence[str]
    arguments: Command

    @property
    def command(self) -> Command:
        return "EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments

    @property
    def in_full(self) -> Command:
        return "EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came back, from which server, and the local moments just before it was asked and just after it was
    answered."""

    replies: list[Any]
    run_id: str
    asked_s: float
    answered_s: float


class Nodes:
    """Where the server is or, of a cluster, the nodes: first by the URL, then as they tell."""

    def __init__(self, url: str) -> None:
        self._first = Place.of(url)
        self._known = deque([self._first])

    def next(self) -> Place:
        """Who is to be asked now: another one each time, until one has answered."""
        place = self._known[0]
        self._known.rotate(-1)
        return place

    def answered(self) -> None:
        """The one that `next` gave is asked first from now on."""
        self._known.rotate(1)

    def at(self, host: str, port: int) -> Place:
        return self._first.at(host, port)

    def learn(self, addresses: Iterable[tuple[str, int]]) -> None:
        for host, port in addresses:
            if (place := self.at(host, port)) not in self._known:
                self._known.append(place)


class _Line:
    """One connection. `trio.BrokenResourceError` or `OSError` where it stands no longer."""

    def __init__(self, stream: trio.abc.Stream, descriptor: int) -> None:
        self._stream = stream
        self._end = select.poll()
        self._end.register(descriptor, ENDED)
        # The system's calls themselves, where nothing has to be ciphered: half the price of a stream's.
        self._plain = descriptor if isinstance(stream, trio.SocketStream) else None
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace", notEnoughData=_Line)

    @classmethod
    async def to(cls, place: Place) -> _Line:
        if place.path is not None:
            transport = await trio.open_unix_socket(place.path)
        else:
            transport = await trio.open_tcp_stream(place.host, place.port)
        descriptor = transport.socket.fileno()
        if place.tls is None:
            return cls(transport, descriptor)
        secured = trio.SSLStream(transport, place.tls, server_hostname=place.host, https_compatible=True)
        return cls(secured, descriptor)

    def is_over(self) -> bool:
        """Whether the server has hung up. Known before anything is sent, it is no failure of what is asked next."""
        return bool(self._end.poll(0))

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, among them `hiredis.ReplyError`."""
        # Its stub knows commands of one word only.
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        await self._send(b"".join(packed))
        replies: list[Any] = []
        while len(replies) < len(commands):
            if (reply := self._reader.gets()) is not _Line:
                replies.append(reply)
                continue
            if not (data := await self._receive()):
                raise trio.BrokenResourceError("the server closed the connection")
            self._reader.feed(data)
        return replies

    async def _send(self, data: bytes) -> None:
        sent = 0
        if self._plain is not None:
            with suppress(BlockingIOError):
                sent = os.write(self._plain, data)
        if sent < len(data):
            await self._stream.send_all(data[sent:])

    async def _receive(self) -> bytes:
        if self._plain is None:
            return bytes(await self._stream.receive_some(READ))
        await trio.lowlevel.wait_readable(self._plain)
        return os.read(self._plain, READ)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


class Link:
    """Commands go one after the other. When one fails, those that waited behind it fail with it: otherwise each
    would wait out the whole limit in turn."""

    def __init__(self, nodes: Nodes, tag: str, name: str, boot_s: Callable[[], float]) -> None:
        self._nodes = nodes
        self._slot = crc_hqx(tag.encode(), 0) % SLOTS
        self._name = name
        self._boot_s = boot_s
        self._line: _Line | None = None
        self._lock = trio.Lock()
        self._failures = 0
        self._run_id = ""

    async def server(self) -> str:
        """The `run_id` of the server that answers now."""
        return (await self.exchange([("PING",)])).run_id

    async def lineage(self) -> str:
        """That, and the history of its data: another one after each failover, though the server be an old friend."""
        server, replication = (await self.exchange([("INFO", "server"), ("INFO", "replication")])).replies
        return f"{_facts(server)['run_id']}.{_facts(replication).get('master_replid', '')}"

    async def call(self, *command: Argument, on: str | None = None) -> Any:
        return (await self.exchange([command], on=on)).replies[0]

    async def run(self, script: Script, keys: Sequence[str], arguments: Command, *, on: str | None = None) -> Any:
        return (await self.exchange([Run(script, keys, arguments)], on=on)).replies[0]

    async def exchange(
        self, commands: Sequence[Command | Run], *, on: str | None = None, limit_s: float = LIMIT_S
    ) -> Exchange:
        """Send commands in one go and wait for all answers. `on`: only to this server, `Replaced` where another one
        answers.

        Raises QueueDown where there was no answer within `limit_s`, or Redis refused one of them (loading, memory full,
        read only): it is not known then which of them took effect.
        """
        failures = self._failures
        await self._turn()
        try:
            if self._failures != failures:
                raise QueueDown("Redis gave no answer to the command before this one")
            with trio.CancelScope(deadline=trio.current_time() + limit_s, shield=True):
                return await self._follow(on, commands)
            raise await self._lost("the time was over")
        except _Refused as refusal:
            if str(refusal).startswith("STALE"):
                raise Replaced(str(refusal)) from refusal
            raise QueueDown(f"Redis refused a command: {refusal}") from refusal
        except (trio.BrokenResourceError, trio.ClosedResourceError, hiredis.ProtocolError, OSError) as error:
            raise await self._lost(_why(error)) from error
        finally:
            self._lock.release()

    async def _turn(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def _lost(self, why: str) -> QueueDown:
        self._failures += 1
        await self._hang_up()
        return QueueDown(f"Redis gave no answer: {why}")

    async def _follow(self, on: str | None, commands: Sequence[Command | Run]) -> Exchange:
        try:
            return await self._ask(await self._reach(on), commands)
        except _Refused as refusal:
            if not str(refusal).startswith("MOVED"):
                raise
        await self._hang_up()  # nothing was done there: our keys are another node's now
        return await self._ask(await self._reach(on), commands)

    async def _ask(self, line: _Line, commands: Sequence[Command | Run]) -> Exchange:
        asked_s = self._boot_s()
        replies = await line.ask([each.command if isinstance(each, Run) else each for each in commands])
        if unknown := {n: each for n, each in enumerate(commands) if isinstance(each, Run) and _is_unknown(replies[n])}:
            asked_s = self._boot_s()
            for n, reply in zip(unknown, await line.ask([run.in_full for run in unknown.values()]), strict=True):
                replies[n] = reply
        answered_s = self._boot_s()
        return Exchange(_accepted(replies), self._run_id, asked_s, answered_s)

    async def _reach(self, on: str | None) -> _Line:
        line = self._line
        if line is None or line.is_over():
            await self._hang_up()
            try:
                line, server = await self._connect()
            except BaseException:
                await self._hang_up()
                raise
            self._run_id = server["run_id"]
        if on is not None and on != self._run_id:
            raise Replaced(f"the Redis server {on} was replaced by {self._run_id}")
        return line

    async def _connect(self) -> tuple[_Line, Mapping[str, str]]:
        """To the server or, in a cluster, by way of any node to the one that serves our slot; and its `INFO`."""
        line, server = await self._greet(self._nodes.next())
        self._nodes.answered()
        if "cluster" not in (server.get("redis_mode"), server.get("server_mode")):
            return line, server
        ranges, own_id = _accepted(await line.ask([("CLUSTER", "SLOTS"), ("CLUSTER", "MYID")]))
        self._nodes.learn((host, port) for _, _, *nodes in ranges for host, port, *_ in nodes)
        masters = [nodes[0] for first, last, *nodes in ranges if first <= self._slot <= last]
        if not masters:
            raise _Refused(f"no node of the cluster serves slot {self._slot}")
        host, port, node_id, *_ = masters[0]
        if node_id == own_id:
            return line, server
        await self._hang_up()
        return await self._greet(self._nodes.at(host, port))

    async def _greet(self, place: Place) -> tuple[_Line, Mapping[str, str]]:
        self._line = line = await _Line.to(place)
        *_, told = _accepted(await line.ask([*_greeting(place, self._name), ("INFO", "server")]))
        return line, _facts(told)

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def aclose(self) -> None:
        await self._hang_up()


def _facts(info: str) -> Mapping[str, str]:
    return {name: value for name, _, value in (line.partition(":") for line in info.splitlines())}


def _accepted(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise _Refused(str(reply))
    return replies


def _is_unknown(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _why(error: Exception) -> str:
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):  # of the attempts to connect
        cause = cause.exceptions[0]
    return str(cause) or type(cause).__name__


def _greeting(place: Place, name: str) -> list[Command]:
    login = [word for word in (place.username, place.password) if word]
    greeting: list[Command] = [("AUTH", *login)] if login else []
    greeting.append(("CLIENT", "SETNAME", name))
    if place.database:
        greeting.append(("SELECT", place.database))
    return greeting


@asynccontextmanager
async def open_links(url: str, name: str, boot_s: Callable[[], float]) -> AsyncIterator[Callable[[str], Link]]:
    """What makes links, each for the keys of one hash tag; they connect when they are used. `name` is how `CLIENT LIST`
    shows them."""
    nodes = Nodes(url)
    links: list[Link] = []

    def link_to(tag: str) -> Link:
        links.append(Link(nodes, tag, name, boot_s))
        return links[-1]

    try:
        yield link_to
    finally:
        for link in links:
            await link.aclose()
