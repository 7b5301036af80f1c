"""One connection to Redis, driven from trio: what the queue and the coordination send their commands through.

The client is asyncio's, so it runs in a trio-asyncio loop. Three rules hold here for every command. It is never
cancelled in flight: its caller may be cancelled until it is sent, and then it ends by its own limit of time. It is
never repeated: whether it took effect after a failure is for the caller to find out. And every new connection asks
which server it reached (its `run_id`, new at each start), for a new server may hold nothing, or old lists.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import trio
import trio_asyncio
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from heliograph.actors.model.errors import QueueDown

LIMIT_S: Final = 2.0
CLOSE_LIMIT_S: Final = 1.0

Argument = str | int | float
Command = Sequence[Argument]


class Replaced(Exception):  # a finding, which the adapters turn into ours
    """Another server answers than the caller meant. Nothing was sent to it."""


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
class Exchange:
    """What came back, from which server, and the local moments just before it was asked and just after it was
    answered."""

    replies: list[Any]
    run_id: str
    asked_s: float
    answered_s: float


class Link:
    """Commands go one after the other. When one fails, those that waited behind it fail with it: otherwise each
    would wait out the whole limit in turn."""

    def __init__(
        self, loop: trio_asyncio.BaseTrioEventLoop, connection: AbstractConnection, boot_s: Callable[[], float]
    ):
        self._loop = loop
        self._connection = connection
        self._boot_s = boot_s
        self._lock = trio.Lock()
        self._failures = 0
        self._run_id = ""

    async def server(self) -> str:
        """The `run_id` of the server that answers now."""
        return (await self.exchange([("PING",)])).run_id

    async def call(self, *command: Argument, on: str | None = None, limit_s: float = LIMIT_S) -> Any:
        """Send one command, wait for its answer. `on`: only to this server, `Replaced` where another one answers.

        Raises QueueDown where there was no answer within `limit_s`, or Redis refused (loading, memory full, read
        only): it is not known then whether the command took effect.
        """
        return (await self.exchange([command], on=on, limit_s=limit_s)).replies[0]

    async def run(self, script: Script, keys: Sequence[str], arguments: Command, *, on: str | None = None) -> Any:
        """Run a script. A server that does not know it is sent its text: it did nothing the first time."""
        return (await self.run_timed(script, keys, arguments, on=on)).replies[0]

    async def run_timed(
        self, script: Script, keys: Sequence[str], arguments: Command, *, on: str | None = None
    ) -> Exchange:
        try:
            return await self.exchange([("EVALSHA", script.sha, len(keys), *keys, *arguments)], on=on)
        except NoScriptError:
            return await self.exchange([("EVAL", script.text, len(keys), *keys, *arguments)], on=on)

    async def exchange(
        self, commands: Sequence[Command], *, on: str | None = None, limit_s: float = LIMIT_S
    ) -> Exchange:
        """Send commands in one go and wait for all answers."""
        failures = self._failures
        async with self._lock:
            if self._failures != failures:
                raise QueueDown("Redis gave no answer to the command before this one")
            exchange: Exchange
            with trio.CancelScope(shield=True):
                exchange = await self._loop.run_aio_coroutine(self._exchange(commands, on, limit_s))
            return exchange

    async def _exchange(self, commands: Sequence[Command], on: str | None, limit_s: float) -> Exchange:
        try:
            async with asyncio.timeout(limit_s):
                await self._reach(on)
                return await self._ask(commands)
        except (NoScriptError, Replaced):
            raise
        except ResponseError as error:
            if str(error).startswith("STALE"):
                raise Replaced(str(error)) from error
            raise QueueDown(f"Redis refused a command: {error}") from error
        except (RedisError, OSError, asyncio.IncompleteReadError) as error:
            self._failures += 1
            await self._connection.disconnect(nowait=True)
            raise QueueDown(f"Redis gave no answer: {str(error) or 'the time was over'}") from error

    async def _reach(self, on: str | None) -> None:
        if not self._connection.is_connected:
            await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it bare
            [server] = (await self._ask([("INFO", "server")])).replies
            self._run_id = next(line[7:] for line in server.splitlines() if line.startswith("run_id:"))
        if on is not None and on != self._run_id:
            raise Replaced(f"the Redis server {on} was replaced by {self._run_id}")

    async def _ask(self, commands: Sequence[Command]) -> Exchange:
        asked_s = self._boot_s()
        await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        refusal: ResponseError | None = None
        for _ in commands:
            try:
                replies.append(await self._connection.read_response())
            except ResponseError as error:  # the answers behind it have to be read all the same
                refusal = refusal or error
        answered_s = self._boot_s()
        if refusal is not None:
            raise refusal
        return Exchange(replies, self._run_id, asked_s, answered_s)

    async def aclose(self) -> None:
        with trio.move_on_after(CLOSE_LIMIT_S, shield=True):
            await self._loop.run_aio_coroutine(self._connection.disconnect())


@asynccontextmanager
async def open_links(url: str, name: str, count: int, boot_s: Callable[[], float]) -> AsyncIterator[list[Link]]:
    """Links that are not connected yet, in a loop of their own. `name` is how `CLIENT LIST` shows them."""
    pool = ConnectionPool.from_url(
        url,
        client_name=name,
        decode_responses=True,
        protocol=2,
        driver_info=None,
        socket_timeout=None,
        socket_connect_timeout=LIMIT_S,
        retry=Retry(NoBackoff(), 0),
    )
    async with trio_asyncio.open_loop() as loop:
        links = [Link(loop, pool.connection_class(**pool.connection_kwargs), boot_s) for _ in range(count)]
        try:
            yield links
        finally:
            for link in links:
                await link.aclose()
