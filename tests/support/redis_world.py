"""Real Redis as a contract suite needs it: two servers behind one address, which may be emptied, swapped, cut off."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TypeVar
from urllib.parse import urlsplit

import trio
import trio.testing

from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.services import RedisServer

T = TypeVar("T")


class RedisWorld:
    """Adapters opened through `keep` live in tasks of their own until `close`."""

    def __init__(self, nursery: trio.Nursery, *servers: RedisServer) -> None:
        self._nursery = nursery
        self._servers = list(servers)
        self._proxy = Proxy(_port(servers[0]))
        self._over = trio.Event()

    async def start(self) -> None:
        for server in self._servers:
            server.flush()
        await self._nursery.start(self._proxy.serve)

    async def close(self) -> None:
        self._over.set()
        await trio.testing.wait_all_tasks_blocked()
        self._nursery.cancel_scope.cancel()

    @property
    def server(self) -> RedisServer:
        """The one that answers."""
        return self._servers[0]

    @property
    def url(self) -> str:
        return self.server.url.replace(f":{_port(self.server)}", f":{self._proxy.port}")

    async def keep(self, opening: AbstractAsyncContextManager[T]) -> T:
        async def live(task_status: trio.TaskStatus[T]) -> None:
            async with opening as opened:
                task_status.started(opened)
                await self._over.wait()

        return await self._nursery.start(live)  # type: ignore[no-any-return]

    async def flush(self) -> None:
        self.server.flush()

    async def replace(self) -> None:
        self._servers.reverse()
        self._proxy.lead_to(_port(self.server))

    async def fail_over(self) -> None:
        """The other one has copied all there is, and answers from now on."""
        before, after = self._servers
        after.ask("CONFIG", "SET", "masterauth", urlsplit(before.url).password or "")
        after.ask("REPLICAOF", "127.0.0.1", before.port)

        async def follows() -> bool:
            return after.follows

        await eventually(follows)
        after.ask("REPLICAOF", "NO", "ONE")
        await self.replace()
        await trio.testing.wait_all_tasks_blocked()  # the old connections have ended

    def down(self, is_down: bool) -> None:
        self._proxy.cut(is_down)

    def lose_reply(self) -> None:
        self._proxy.lose_replies = 1


def _port(server: RedisServer) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port
