"""A line that can be cut: a TCP proxy in the test's own loop, in front of a real server."""

from __future__ import annotations

import socket
import struct

import trio


class Proxy:
    """`lose_replies`: that many answers of the server are swallowed, and their connections cut. `cut`: nobody gets
    through, and open connections end. `stall`: connections are made, and nothing goes through. `upstream` may be
    changed: connections to the old one end. `at`: the port to listen at, where it is fixed."""

    def __init__(self, port: int, at: int = 0) -> None:
        self._upstream = port
        self._cut = False
        self._flowing = trio.Event()
        self._flowing.set()
        self._open: dict[trio.CancelScope, tuple[trio.SocketStream, trio.SocketStream]] = {}
        self.lose_replies = 0
        self.port = at

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        [listener] = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._carry, [listener], task_status=task_status)  # type: ignore[arg-type]

    def cut(self, is_cut: bool) -> None:
        self._cut = is_cut
        if is_cut:
            self.break_connections()

    def stall(self, is_stalled: bool) -> None:
        if not is_stalled:
            self._flowing.set()
        elif self._flowing.is_set():
            self._flowing = trio.Event()

    def lead_to(self, port: int) -> None:
        self._upstream = port
        self.break_connections()

    def break_connections(self) -> None:
        for scope in self._open:
            scope.cancel()

    def reset_connections(self) -> None:
        """Both ends are told by a TCP reset; what was on its way is lost."""
        for streams in self._open.values():
            for stream in streams:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.break_connections()

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
                    self._open[scope] = client, server
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, client, server, scope)
                        nursery.start_soon(self._pump, server, client, scope, True)
                del self._open[scope]

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, replies: bool = False
    ) -> None:
        try:
            async for data in source:
                await self._flowing.wait()
                if replies and self.lose_replies > 0:
                    self.lose_replies -= 1
                    break
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
