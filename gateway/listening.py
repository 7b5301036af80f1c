"""Ports and hypercorn: what the gateway and the monitor share in being served."""

from __future__ import annotations

import errno
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ResponseSummary,
    WWWScope,
)
from hypercorn.utils import wrap_app

from heliograph.actors.model.errors import ConfigurationError
from heliograph.gateway.connections import UNREAD_S, Connection, Gate, counted_as, turn_away

BACKLOG: Final = 1024
LAST_WORDS_S: Final = 0.5
OTHER_FILES: Final = 256
"""Open files that a process needs besides its clients' connections: stores, providers, logs."""

Connect = Callable[[AppWrapper, Config, WorkerContext, trio.SocketStream], Connection]

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
    gate: Gate,
    connect: Connect = Connection,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    ready: Callable[[str, int], None],
    grace_s: float,
) -> None:
    """Serve an ASGI application until `shutdown_trigger` returns; what is under way then has `grace_s` to end, and is
    cut off after it. `connect` makes the connections."""
    config = _settings()
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    lifespan = Lifespan(wrapped, config, {})
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            ready(*listener.getsockname()[:2])
            await _serve(listener, _Clients(wrapped, config, gate, connect), shutdown_trigger, grace_s)
            await lifespan.wait_for_shutdown()
            nursery.cancel_scope.cancel()
    finally:
        listener.close()


def _settings() -> Config:
    config = Config()
    config.logger_class = _Log
    config.keep_alive_max_requests = 1_000_000_000
    config.include_server_header = False
    return config


async def _serve(
    listener: socket.socket, clients: _Clients, shutdown_trigger: Callable[[], Awaitable[None]], grace_s: float
) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, clients.serve, listeners, handler_nursery=connections))
            await shutdown_trigger()
            accepting.cancel_scope.cancel()
        listener.close()
        await clients.no_more()
        # Those that are through have left the nursery, and with the last of them this is over.
        connections.start_soon(clients.cut_after, grace_s, connections.cancel_scope)


class _Clients:
    """All connections of one listener."""

    def __init__(self, app: AppWrapper, config: Config, gate: Gate, connect: Connect) -> None:
        self._connect = connect
        self._app = app
        self._config = config
        self._gate = gate
        self._context = WorkerContext(None)
        self._connections: set[Connection] = set()
        self._none = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            address = counted_as(stream.socket.getpeername()[0])
        except OSError:  # it is gone already
            return
        if not self._gate.enter(address):
            await turn_away(stream)
            return
        connection = self._connect(self._app, self._config, self._context, stream)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._gate.leave(address)
            self._connections.discard(connection)
            if not self._connections:
                self._none.set()

    async def no_more(self) -> None:
        await self._context.terminated.set()
        for connection in self._connections:
            connection.no_more()

    async def cut_after(self, grace_s: float, all_of_them: trio.CancelScope) -> None:
        if self._connections:
            self._none = trio.Event()
            with trio.move_on_after(grace_s):
                await self._none.wait()
        all_of_them.cancel()
        if self._connections:  # what is being sent is sent, if anybody reads it
            with trio.move_on_after(LAST_WORDS_S, shield=True):
                await self._none.wait()
            for connection in self._connections:
                connection.cut()


def room_for(connections: int) -> int:
    """Raise the limit of open files, so that clients cannot take those which the stores need. Answers how many
    connections there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    room = max(1, min(connections, wanted - OTHER_FILES))
    if room < connections:
        log.warning("http.few_files", connections=room, wanted=connections, limit=hard, mend="raise LimitNOFILE")
    return room


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
