"""Ports and hypercorn: what the gateway and the monitor share in being served."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.logging import Logger
from hypercorn.trio import serve
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, ResponseSummary, WWWScope
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

from heliograph.actors.model.errors import ConfigurationError

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 30.0
MOST_HEAD_BYTES: Final = 32 * 1024
UNREAD_S: Final = 30.0

log = structlog.get_logger()


def bind(host: str, port: int, key: str) -> socket.socket:
    """A listening socket; port 0 picks a free one. ConfigurationError names `key` and the mend."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        [found, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{where} is no address of this machine: set {key}") from error
    listener = socket.socket(found[0], socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # hypercorn's writes are shielded: a client that reads no more would hold its connection, and our end, for ever.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_S * 1000))
        listener.bind(found[4])
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_why(error, where, key)) from error
    listener.setblocking(False)
    return listener


def _why(error: OSError, where: str, key: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use: stop what listens there, or set {key}"
    return f"{where} cannot be listened on ({error.strerror}): set {key}"


async def serve_on(
    listener: socket.socket,
    app: Any,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    ready: Callable[[str, int], None],
    grace_s: float,
) -> None:
    """Serve an ASGI application until `shutdown_trigger` returns; what is under way then has `grace_s` to end."""
    config = _Bound(listener)
    config.backlog = BACKLOG
    config.graceful_timeout = grace_s
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 1_000_000_000
    config.h11_max_incomplete_size = MOST_HEAD_BYTES
    config.include_server_header = False
    # read_timeout stays unset: it would end streams, whose clients have nothing to say. Heads are timed by
    # keep_alive_timeout, bodies by limits.py.
    try:
        ready(*listener.getsockname()[:2])
        await serve(app, config, shutdown_trigger=shutdown_trigger)
    finally:
        listener.close()


class FinishingConnection(TrioASGIHTTPConnection):
    """Sees a request to its very end.

    With the last piece of an answer hypercorn tells the application that the request is over, on which quart-trio
    cancels the task that is still sending, and hypercorn with it: before it has closed the connection, or begun to
    time how long it is idle.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def finish(event: ASGISendEvent) -> None:
            last = event["type"] == "http.response.body" and not event.get("more_body", False)
            with trio.CancelScope(shield=last):
                await send(event)

        await super().__call__(receive, finish)


class NoWebsocket(TrioASGIWebsocketConnection):
    """There are none here: refused before a handshake."""

    async def __call__(self, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "websocket.close", "code": 1000, "reason": None})


class _Bound(Config):
    """hypercorn's settings around a socket that is bound already."""

    def __init__(self, listener: socket.socket) -> None:
        self.logger_class = _Log
        self._listener = listener

    def create_sockets(self) -> Sockets:
        return Sockets([], [self._listener], [])


class _Log(Logger):
    """hypercorn's log as events of ours: without tracebacks, and without the addresses that were asked for."""

    def __init__(self, config: Config) -> None:
        """There is nothing to set up."""

    async def access(self, request: WWWScope, response: ResponseSummary, request_time: float) -> None:
        """The metrics count requests."""

    async def debug(self, message: str, *_: object, **__: object) -> None:
        log.debug("http.server", text=message)

    info = debug

    async def warning(self, message: str, *_: object, **__: object) -> None:
        log.warning("http.server", text=message)

    async def error(self, message: str, *_: object, **__: object) -> None:
        raised = sys.exc_info()[0]
        log.error("http.server", text=message, error=raised.__name__ if raised else None)

    critical = exception = error
