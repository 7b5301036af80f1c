"""One HTTP call: written, answered or lost. The couriers' only I/O.

What a lost call means depends on how much of it was written, and the right to a call ends with its first byte
(`Begin`). A client that connects, asks and writes behind one door can tell neither: here the line is opened first,
then the right is asked for, then the first byte goes out, and a refused right leaves the line open for the next
call. h11 speaks the protocol, trio moves the bytes; another client fits behind `Transport`.
"""

from __future__ import annotations

import select
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from importlib.metadata import version
from typing import Final, Protocol
from urllib.parse import urlsplit

import certifi
import h11
import trio

from heliograph.actors.ports.courier import Begin

MIB: Final = 1024 * 1024
CHUNK: Final = 64 * 1024
USER_AGENT: Final = f"heliograph/{version('heliograph')}"
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)
IDLE_S: Final = 30.0
"""Servers close quiet connections after 5 s to some minutes, and say so in `Keep-Alive` or by closing; both are seen
before the next call. The bound keeps us from firewalls that forget connections without a word."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where a provider is: `https://host:8443/prefix`, taken apart. `authority` is what `Host` says."""

    secure: bool
    host: str
    port: int
    authority: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Base:
        """ValueError where it is no URL that a call could go to."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with https:// or http:// and a host")
        if parts.query or parts.fragment or parts.username is not None or not url.isascii() or not url.isprintable():
            raise ValueError("must be scheme, host, port and path only, in ASCII")
        secure = parts.scheme == "https"
        usual = 443 if secure else 80
        port = parts.port or usual
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = host if port == usual else f"{host}:{port}"
        return cls(secure, parts.hostname, port, authority, parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """`target` is path and query as sent, with the base's prefix; the transport adds `host` and the body's length.
    Headers and body hold secrets: not in the repr."""

    method: str
    target: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAnswer:
    """`headers` have lower-case names, the last of equal names. `whole` is False where the body broke off, took too
    long or grew over the limit. `at_s` is the wall clock (Unix) when it came."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    whole: bool = True
    at_s: float = 0.0


class Loss(Enum):
    """How a call can end without an answer."""

    NOT_SENT = auto()  # not a byte of the body was written: the provider cannot have acted
    UNTRUSTED = auto()  # nothing was written, since the certificate does not verify
    UNREADY = auto()  # nothing was written, since we have no credentials to call with
    UNANSWERED = auto()  # written, maybe in part: nobody knows


@dataclass(frozen=True, slots=True)
class WireFailure:
    """`detail` says what happened to the line; it holds nothing of the request."""

    loss: Loss
    code: str
    detail: str


class Transport(Protocol):
    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        """One call, within the transport's time-out, connecting included.

        `begin` is called in the slice of the first byte. When it raises, nothing is written, the connection stays
        good and the error comes out. It is called again in one case: a kept-alive connection took no byte of
        the request, and the call goes to another one. After cancellation nothing is known of the call.
        """

    async def aclose(self) -> None: ...


class _Sent(Enum):
    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


@dataclass(slots=True)
class _Call:
    """How far a call has come; what is left of it when time runs out."""

    request: WireRequest
    begin: Begin
    most_bytes: int
    sent: _Sent = _Sent.NOTHING
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False

    def result(self, failure: WireFailure) -> WireAnswer | WireFailure:
        """An answer where a status line came; else the failure, by how much was written."""
        if self.status is not None:
            return WireAnswer(
                status=self.status, headers=self.headers, body=bytes(self.body), whole=self.whole, at_s=time.time()
            )
        if failure.loss is Loss.NOT_SENT and self.sent is _Sent.BODY:
            return WireFailure(Loss.UNANSWERED, failure.code, failure.detail)
        return failure


class _Lost(Exception):
    """The line broke, or what came back is no HTTP."""

    def __init__(self, code: str, detail: str, loss: Loss = Loss.NOT_SENT) -> None:
        super().__init__(detail)
        self.failure = WireFailure(loss, code, detail)


class _Line:
    """One connection, for one call at a time. `used`: it has carried a call to its end."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType, base: Base) -> None:
        self._stream = stream
        self._socket = socket
        self._secure = base.secure
        self._headers = (("host", base.authority), ("user-agent", USER_AGENT), ("accept-encoding", "identity"))
        self._http = h11.Connection(h11.CLIENT)
        self._good_until_s = trio.current_time() + IDLE_S
        self._broken = False
        self.used = False

    def usable(self) -> bool:
        """Nobody hung up, and no time-out is near. Over TLS bytes may wait that are no answer (session tickets);
        in the clear, whatever comes unasked ends the line."""
        if trio.current_time() >= self._good_until_s:
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN | _HUNG_UP)
        seen = poll.poll(0)
        return not seen or (self._secure and seen[0][1] == select.POLLIN)

    def renew(self, call: _Call) -> bool:
        """Ready for another call? Yes where this one ended well on both sides, and where it never began."""
        if self._http.our_state is h11.IDLE:
            return True
        if self._broken or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self.used = True
        self._good_until_s = trio.current_time() + _kept_alive_s(call.headers)
        return True

    async def carry(self, call: _Call) -> None:
        """Write the request, read the answer into `call`. Raises _Lost, and what `call.begin` raises."""
        call.begin()
        head, body = self._encode(call.request)
        call.sent = _Sent.HEAD
        try:
            await self._stream.send_all(head)
            call.sent = _Sent.BODY
            if body:
                await self._stream.send_all(body)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._broken = True
            if call.sent is _Sent.HEAD:
                raise _Lost("disconnected", "the connection broke before the request was written") from None
            # A server may refuse a large body before its end, and hang up: its answer can still be there.
        await self._receive(call)

    def _encode(self, request: WireRequest) -> tuple[bytes, bytes]:
        """Head and body apart: while only the head has left, nothing can have been acted on."""
        headers = [*self._headers, *request.headers, ("content-length", str(len(request.body)))]
        head = self._http.send(h11.Request(method=request.method, target=request.target, headers=headers))
        body = self._http.send(h11.Data(data=request.body)) if request.body else b""
        self._http.send(h11.EndOfMessage())
        return head or b"", body or b""

    async def _receive(self, call: _Call) -> None:
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some(CHUNK)))
                    continue
            except h11.RemoteProtocolError:
                ended = self._http.trailing_data[1]
                raise (_broken_off() if ended else _Lost("garbled", "what came back is no HTTP")) from None
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise _broken_off() from None
            match event:
                case h11.Response():
                    call.status = event.status_code
                    call.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                case h11.Data():
                    call.body += event.data
                    if len(call.body) > call.most_bytes:
                        raise _Lost("oversized", f"the answer is longer than {call.most_bytes} bytes")
                case h11.EndOfMessage():
                    call.whole = True
                    return
                case h11.ConnectionClosed() | h11.PAUSED:
                    raise _broken_off()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


class LineTransport:
    """A stack of idle lines to one provider: the last used first, so that the others may grow old and go.

    It opens as many lines as there are calls in flight; whoever calls bounds those.
    """

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
        self._most_bytes = most_bytes
        self._tls = (trust or trusted)() if base.secure else None
        self._idle: list[_Line] = []

    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        call = _Call(request, begin, self._most_bytes)
        failure = WireFailure(Loss.NOT_SENT, "timeout", f"no answer within {self._timeout_s:g} s")
        with trio.move_on_after(self._timeout_s):
            try:
                await self._carry(call)
            except _Lost as lost:
                failure = lost.failure
        return call.result(failure)

    async def _carry(self, call: _Call) -> None:
        while True:
            line = await self._take() or await self._open()
            try:
                await line.carry(call)
            except _Lost:
                if not line.used or call.sent is not _Sent.HEAD:
                    raise
                # The other side had hung up while the line was idle: that is no attempt.
            else:
                return
            finally:
                await self._give_back(line, call)

    async def _take(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.usable():
                return line
            await line.close()
        return None

    async def _give_back(self, line: _Line, call: _Call) -> None:
        if line.renew(call):
            self._idle.append(line)
        else:
            await line.close()

    async def _open(self) -> _Line:
        base = self._base
        try:
            tcp = await trio.open_tcp_stream(base.host, base.port)
        except OSError as error:
            raise _Lost("unreachable", f"no connection to {base.authority}: {_why(error)}") from error
        if self._tls is None:
            return _Line(tcp, tcp.socket, base)
        tls = trio.SSLStream(tcp, self._tls, server_hostname=base.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(tcp)
            if isinstance(error, trio.BrokenResourceError):
                raise _tls_fault(base, error) from error
            raise
        return _Line(tls, tcp.socket, base)

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().close()


def trusted() -> ssl.SSLContext:
    """The machine's own certificate authorities (or SSL_CERT_FILE), and those of certifi where it has none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _broken_off() -> _Lost:
    return _Lost("disconnected", "the connection broke before the answer was complete")


def _why(error: OSError) -> str:
    """The system's own words. Where several addresses were tried, those of the first."""
    tried = error.__cause__
    if isinstance(tried, BaseExceptionGroup) and isinstance(tried.exceptions[0], OSError):
        return _why(tried.exceptions[0])
    if isinstance(tried, OSError):
        return _why(tried)
    return error.strerror or "failed"


def _tls_fault(base: Base, error: BaseException) -> _Lost:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"the certificate of {base.authority} does not verify: {cause.verify_message}"
            return _Lost("certificate", text, Loss.UNTRUSTED)
        cause = cause.__cause__ or cause.__context__
    return _Lost("tls", f"no TLS with {base.authority}")


def _kept_alive_s(headers: Mapping[str, str]) -> float:
    """`Keep-Alive: timeout=5` names the server's patience; a second less is ours."""
    _, named, rest = headers.get("keep-alive", "").lower().partition("timeout=")
    digits = rest.split(",")[0].strip()
    if not named or not digits.isdecimal() or len(digits) > 6:
        return IDLE_S
    return min(IDLE_S, int(digits) - 1)
