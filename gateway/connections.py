"""One connection, and how many there may be: between the socket and hypercorn's reading of HTTP.

hypercorn reads HTTP/1.1 (by h11) and calls the application; the socket is ours. So there is an end to every wait for a
client: for a head, for what it does not read, for its own close; a fault in one connection is the end of that one; and
what is no request is answered as every error is. HTTP/2 and other upgrades are for a proxy in front: a stream there
may stand still for ever without its connection being idle.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from heliograph.gateway.api.replies import dumps
from heliograph.gateway.problems import Code, Refusal, new_request_id, unavailable

KEEP_ALIVE_S: Final = 30.0
"""From an answer, or the connection's beginning, to the end of the next request's head."""
UNREAD_S: Final = 30.0
SLOWEST_READ_PER_S: Final = 16 * 1024
"""What is sent must be read at this speed, with UNREAD_S on top; else the connection is cut."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1_000_000
"""A client that still writes when we have closed loses our answer to a reset, so that much is read and thrown away."""
READ_BYTES: Final = 64 * 1024
MOST_HEAD_BYTES: Final = 32 * 1024
FULL_RETRY_S: Final = 1

log = structlog.get_logger()


class Gate:
    """Counts connections, in all and by address. An IPv6 network of 64 bits is one address: it is one customer's."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._of: Counter[str] = Counter()
        self._inside = 0
        self._full = False

    def enter(self, address: str) -> bool:
        """Whether there is room; then `leave` has to follow."""
        if self._inside >= self._most or self._of[address] >= self._most_of_one:
            if not self._full:  # told once, not for each of a flood
                log.warning("http.full", connections=self._inside, of_this_address=self._of[address])
            self._full = True
            return False
        self._of[address] += 1
        self._inside += 1
        return True

    def leave(self, address: str) -> None:
        self._inside -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]
        self._full = False


def counted_as(host: str) -> str:
    """What an address is counted under.

    >>> counted_as("::ffff:192.0.2.7"), counted_as("2001:db8:1:2:3:4:5:6")
    ('192.0.2.7', '2001:db8:1:2::')
    """
    address = ip_address(host.partition("%")[0])
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))


async def turn_away(stream: trio.SocketStream) -> None:
    """Say that there is no room, as far as that takes no waiting, and close."""
    refusal = unavailable("there are as many connections as this process takes", FULL_RETRY_S)
    with contextlib.suppress(OSError):
        os.write(stream.socket.fileno(), _whole(refusal))
    await trio.aclose_forcefully(stream)


class Connection:
    """Serves the requests that come over one socket, until either side is through with it."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:  # fmt: skip
        self._app = app
        self._config = config
        self._context = context
        self._stream = stream
        self._sending = trio.Lock()
        self._all = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._until_s = trio.current_time() + KEEP_ALIVE_S
        self._idle = True
        self._over = False
        self._protocol: _Http1

    async def serve(self) -> None:
        of = self._stream.socket
        try:
            with self._all:
                async with TaskGroup() as tasks:
                    self._protocol = _Http1(
                        self._app, self._config, self._context, tasks, ConnectionState({}), False,
                        parse_socket_addr(of.family, of.getpeername()), parse_socket_addr(of.family, of.getsockname()),
                        self._handle,
                    )  # fmt: skip
                    await self._read()
        except OSError:
            pass  # it went away
        except Exception:  # whatever a stranger can make us stumble over must not end the others
            log.exception("http.connection_failed")
        finally:
            await trio.aclose_forcefully(self._stream)

    def no_more(self) -> None:
        """Take no further request: at once where none is under way, else after its answer."""
        if self._idle:
            self._wait_until(trio.current_time())

    def cut(self) -> None:
        """End it now, and throw away what was not sent yet."""
        with contextlib.suppress(OSError):
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()
        # Not by telling hypercorn: it would wait for ever to go on with a request that came in the meantime.
        self._all.cancel()

    async def _read(self) -> None:
        thrown_away = 0
        while thrown_away <= LINGER_BYTES:
            try:
                with trio.CancelScope(deadline=self._until_s) as self._reading:
                    data = await self._receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            if self._reading.cancelled_caught:
                break
            if self._over:
                thrown_away += len(data)
            else:
                await self._take(data)
            if not data:
                break
        await self._protocol.handle(Closed())

    async def _receive(self) -> bytes:
        return bytes(await self._stream.receive_some(READ_BYTES))

    async def _take(self, data: bytes) -> None:
        """What was received; empty at its end."""
        await self._protocol.handle(RawData(data))

    def is_between_requests(self) -> bool:
        """Whether the last one was answered and nothing of another came yet."""
        return self._idle and not self._over and not self._protocol.connection.trailing_data[0]

    async def _handle(self, event: Event) -> None:
        """What hypercorn has to say to the socket."""
        match event:
            case RawData(data=data):
                await self._send(data)
            case Closed():
                await self._end()
            case Updated(idle=idle):
                self._idle = idle
                self._wait_until(trio.current_time() + KEEP_ALIVE_S if idle else float("inf"))

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            limit_s = UNREAD_S + len(data) / SLOWEST_READ_PER_S
            # Half an answer helps nobody: what a cancelled request has begun to say is said.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limit_s) as limit:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.cut()
            if limit.cancelled_caught:
                self.cut()

    async def _end(self) -> None:
        if not self._over:
            self._over = True
            self._wait_until(trio.current_time() + LINGER_S)
            async with self._sending:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_eof()
        await self._protocol.handle(Closed())

    def _wait_until(self, until_s: float) -> None:
        if not self._over or until_s < self._until_s:
            self._until_s = self._reading.deadline = until_s


class _Http1(H11Protocol):
    """hypercorn's, with our words for what cannot be read."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, tasks: TaskGroup, state: ConnectionState,
        ssl: bool, client: tuple[str, int] | None, server: tuple[str, int] | None, send: Callable[..., object],
    ) -> None:  # fmt: skip
        super().__init__(app, config, context, tasks, state, ssl, client, server, send)  # type: ignore[arg-type]
        self.connection = _Requests(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)

    async def _send_error_response(self, status_code: int) -> None:
        body, headers = _problem(_refusal(status_code))
        headers += self.config.response_headers("h11")
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Requests(h11.Connection):
    """Takes no request that another reader between the client and us could have read as a different one."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            # 431 or 400: that we lack a transfer coding (501) is no fault of ours to be counted.
            raise h11.RemoteProtocolError(str(error), 431 if error.error_status_hint == 431 else 400) from None
        return _sound(event) if isinstance(event, h11.Request) else event


def _sound(request: h11.Request) -> h11.Request:
    if request.http_version not in (b"1.1", b"1.0"):
        raise h11.RemoteProtocolError("another version of HTTP")
    # h11 looks at the size of what is not whole yet only.
    if len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers) > MOST_HEAD_BYTES:
        raise h11.RemoteProtocolError("a long head", 431)
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        raise h11.RemoteProtocolError("two framings of one body")  # RFC 9112, 6.1
    if b"upgrade" not in names:
        return request
    # There is nothing here to upgrade to, and a request may be answered as if it did not ask (RFC 9110, 7.8).
    kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
    return h11.Request(method=request.method, target=request.target, headers=kept, http_version=request.http_version)


def _refusal(status: int) -> Refusal:
    match status:
        case 431:
            return Refusal(Code.HEAD_TOO_LARGE, "the request's line and headers are too long together")
        case 400:
            return Refusal(Code.MALFORMED_REQUEST, "this is no request of HTTP/1.1")
        case _:
            return Refusal(Code.INTERNAL, "this request failed; the log knows it by its id")


def _problem(refusal: Refusal) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A last answer's body and headers."""
    request_id = new_request_id()
    body = dumps(refusal.problem(request_id))
    headers = {
        "content-type": "application/problem+json", "content-length": str(len(body)), "connection": "close",
        "x-request-id": request_id, "x-content-type-options": "nosniff", **refusal.headers,
    }  # fmt: skip
    return body, [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _whole(refusal: Refusal) -> bytes:
    body, headers = _problem(refusal)
    lines = [b"HTTP/1.1 %d " % refusal.status, *(b"%s: %s" % header for header in headers), b"", body]
    return b"\r\n".join(lines)
