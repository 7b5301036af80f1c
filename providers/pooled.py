"""Calls through httpx: the plain transport (`http_client = "httpx"`).

The same promises by other means. httpcore tells what it does as it does it, and waits for whom it tells (the `trace`
extension): so the right is asked for between the connection and the first byte, and what was written is known as far as
it matters. Three things are coarser than over our own lines: a refused right costs the connection; under TLS a turn of
the loop lies between the right and the byte; and what a server sends beyond its answer, together with it, is taken for
the beginning of its next one.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any, Final

import httpx
import trio

from heliograph.actors.ports.courier import Begin
from heliograph.providers.wire import (
    IDLE_S,
    MIB,
    USER_AGENT,
    Base,
    Lost,
    WireAnswer,
    WireFailure,
    WireRequest,
    broken_off,
    tls_fault,
    too_late,
    trusted,
    unanswered,
    unreachable,
)

_UNBOUNDED: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)


class _Call:
    """How far a call has come. `fresh`: its connection was made for it; `head_left`: the request's whole head."""

    def __init__(self, base: Base, begin: Begin, most_bytes: int) -> None:
        self._base = base
        self._begin = begin
        self._most_bytes = most_bytes
        self.fresh = False
        self.head_left = False
        self.lost: Lost | None = None
        self._opened: Any
        self._status: int | None = None
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._whole = False

    async def trace(self, event: str, told: Mapping[str, Any]) -> None:
        match event:
            case "connection.connect_tcp.started":
                self.fresh = True
            case "connection.connect_tcp.failed":
                cause = told["exception"].__cause__
                self.lost = unreachable(self._base, cause) if isinstance(cause, OSError) else None
            case "connection.connect_tcp.complete":
                self._opened = told["return_value"]
            case "connection.start_tls.failed":
                self.lost = tls_fault(self._base, told["exception"])
                with trio.CancelScope(shield=True):
                    await self._opened.aclose()  # httpcore leaves it open when it is cancelled here
            case "http11.send_request_headers.started":
                self._begin()
            case "http11.send_request_headers.complete":
                self.head_left = True

    async def take(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.SWITCHING_PROTOCOLS:
            raise broken_off()
        self._status = response.status_code
        self._headers = {name.decode().lower(): value.decode("latin-1") for name, value in response.headers.raw}
        assert isinstance(response.stream, AsyncIterable)  # noqa: S101 - for types: an asynchronous transport's is
        with trio.CancelScope() as reading:
            async for part in response.stream:
                self._body += part
                if len(self._body) > self._most_bytes:
                    # To leave the loop would leave httpcore's generators to the collector.
                    reading.cancel()
        self._whole = not reading.cancel_called

    def result(self, failure: WireFailure) -> WireAnswer | WireFailure:
        if self._status is None:
            return unanswered(failure, written=self.head_left)
        return WireAnswer(
            status=self._status, headers=self._headers, body=bytes(self._body), whole=self._whole, at_s=time.time()
        )


class _Body(httpx.AsyncByteStream):
    """All at once. Not a generator, as httpx's own is: one that is cut off is left to the collector."""

    def __init__(self, data: bytes) -> None:
        self._parts = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class PooledTransport:
    """httpx's pool of connections to one provider; it has as many as there are calls in flight."""

    def __init__(
        self,
        base: Base,
        *,
        timeout_s: float,
        most_bytes: int = MIB,
        trust: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._base = base
        self._timeout_s = timeout_s
        self._too_late = too_late(timeout_s)
        self._most_bytes = most_bytes
        # Without TLS the context is not used, and trust takes a while to load.
        verify = (trust or trusted)() if base.secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._pool = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=_UNBOUNDED)

    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        call = _Call(self._base, begin, self._most_bytes)
        failure = self._too_late
        with trio.move_on_after(self._timeout_s):
            try:
                await self._carry(request, call)
            except Lost as lost:
                failure = lost.failure
        return call.result(failure)

    async def _carry(self, request: WireRequest, call: _Call) -> None:
        while True:
            try:
                return await self._try(request, call)
            except Lost:
                if call.fresh or call.head_left:
                    raise
                # The other side had hung up while the connection was idle: that is no attempt.

    async def _try(self, request: WireRequest, call: _Call) -> None:
        try:
            response = await self._pool.handle_async_request(self._order(request, call))
            try:
                await call.take(response)
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
        except httpx.LocalProtocolError as bug:
            raise ValueError("a target or a header that HTTP cannot carry") from bug
        except httpx.TransportError as error:
            raise call.lost or _lost(error) from None

    def _order(self, request: WireRequest, call: _Call) -> httpx.Request:
        base = self._base
        return httpx.Request(
            request.method,
            f"{'https' if base.secure else 'http'}://{base.authority}/",
            headers=[
                ("host", base.authority),
                ("user-agent", USER_AGENT),
                ("accept-encoding", "identity"),
                *request.headers,
                ("content-length", str(len(request.body))),
            ],
            stream=_Body(request.body),
            # The target as it is, not as a URL's path would be written: it may be signed.
            extensions={"trace": call.trace, "target": request.target.encode("ascii")},
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


def _lost(error: httpx.TransportError) -> Lost:
    """A fault of the protocol that is the connection's end, and one that is none."""
    text = str(error)
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in text and "closed" not in text:
        return Lost("garbled", "what came back is no HTTP")
    return broken_off()
