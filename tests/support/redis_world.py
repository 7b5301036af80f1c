"""Real Redis as a contract suite needs it: two servers behind one address, which may be emptied, swapped, cut off."""

from __future__ import annotations

from urllib.parse import urlsplit

import trio
import trio.testing

from tests.support.eventually import eventually
from tests.support.kept import Kept
from tests.support.proxy import Proxy
from tests.support.services import RedisServer


class RedisWorld(Kept):
    def __init__(self, nursery: trio.Nursery, *servers: RedisServer) -> None:
        super().__init__(nursery)
        self._servers = list(servers)
        self._proxy = Proxy(_port(servers[0]))

    async def start(self) -> None:
        for server in self._servers:
            server.flush()
        await self._nursery.start(self._proxy.serve)

    @property
    def server(self) -> RedisServer:
        """The one that answers."""
        return self._servers[0]

    @property
    def url(self) -> str:
        return self.server.url.replace(f":{_port(self.server)}", f":{self._proxy.port}")

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
