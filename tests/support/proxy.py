"""A line that can be cut: a TCP proxy in the test's own loop, in front of a real server."""

from __future__ import annotations

import trio


class Proxy:
    """`lose_replies`: that many answers of the server are swallowed, and their connections cut. `cut`: nobody gets
    through, and open connections end. `upstream` may be changed: connections to the old one end."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._cut = False
        self._open: set[trio.CancelScope] = set()
        self.lose_replies = 0
        self.port = 0

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._carry, [listener], task_status=task_status)  # type: ignore[arg-type]

    def cut(self, is_cut: bool) -> None:
        self._cut = is_cut
        if is_cut:
            self.break_connections()

    def lead_to(self, port: int) -> None:
        self._upstream = port
        self.break_connections()

    def break_connections(self) -> None:
        for scope in self._open:
            scope.cancel()

    async def _carry(self, client: trio.SocketStream) -> None:
        async with client:
            if self._cut:
                return
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._upstream)
            except OSError:
                return
            async with server:
                with trio.CancelScope() as scope:
                    self._open.add(scope)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, client, server, scope)
                        nursery.start_soon(self._pump, server, client, scope, True)
                self._open.discard(scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, replies: bool = False
    ) -> None:
        try:
            async for data in source:
                if replies and self.lose_replies > 0:
                    self.lose_replies -= 1
                    break
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
