"""Calls over a stack of idle lines: the fast transport.

A line is a socket, in the clear or under TLS, and nothing between us and the system's own calls. What is to be written
is written at once, in the slice in which `begin` was asked; where the socket takes it all, a call waits once: for its
answer, and one task looks at the clock for all calls that do. `reading.py` makes the answer out of the bytes. How many
bytes the system took is known throughout, and decides what a lost call means.
"""

from __future__ import annotations

import math
import re
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import trio
from trio.lowlevel import wait_readable, wait_writable

from heliograph.actors.ports.courier import Begin
from heliograph.providers.reading import Reading
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

CHUNK: Final = 64 * 1024
"""More than a TLS record, so that nothing is left decrypted and unread, of which the system would not tell."""
RECORD: Final = 16 * 1024
"""What TLS seals at once (RFC 8446, 5.1). Of a record that went out in part nothing can be read."""
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)
_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_REQUEST: Final = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~]*\r\n)+\r\n")


class _Call:
    """How far a call has come; what is left of it when time runs out. The system has taken `written` of `data`."""

    __slots__ = ("begin", "data", "head_bytes", "overdue", "reading", "until_s", "written")

    def __init__(self, head: bytes, body: bytes, begin: Begin, most_bytes: int, until_s: float) -> None:
        self.until_s = until_s
        self.overdue = False
        self.data = head + body
        self.head_bytes = len(head)
        self.begin = begin
        self.reading = Reading(most_bytes)
        self.written = 0

    def result(self, failure: WireFailure) -> WireAnswer | WireFailure:
        """An answer where a status line came; else the failure. While only the head has left, nobody can have acted."""
        if self.reading.status is not None:
            return self.reading.answer()
        return unanswered(failure, written=self.written > self.head_bytes or self.written == len(self.data))


class _Watch:
    """Looks at the clock for every call that waits for its answer. A cancel scope for each would cost a quarter of it.

    The task ends when it finds nobody waiting at the time for which it had looked ahead.
    """

    def __init__(self) -> None:
        self._waiting: dict[_Call, int] = {}
        self._asleep: trio.CancelScope | None = None

    def add(self, call: _Call, number: int) -> None:
        """From now on `overdue` is set when time is up, and whoever waits for this file descriptor wakes."""
        self._waiting[call] = number
        if self._asleep is None:
            self._asleep = trio.CancelScope(deadline=call.until_s)
            trio.lowlevel.spawn_system_task(self._look, self._asleep)
        elif call.until_s < self._asleep.deadline:
            self._asleep.deadline = call.until_s

    def remove(self, call: _Call) -> None:
        self._waiting.pop(call, None)

    async def _look(self, asleep: trio.CancelScope) -> None:
        try:
            while True:
                with asleep:
                    await trio.sleep_forever()
                next_s = self._wake(trio.current_time())
                if next_s == math.inf:
                    return
                self._asleep = asleep = trio.CancelScope(deadline=next_s)
        finally:
            self._asleep = None

    def _wake(self, now_s: float) -> float:
        """Those whose time is up; when the next one's is."""
        next_s = math.inf
        for call, number in self._waiting.items():
            if call.until_s > now_s:
                next_s = min(next_s, call.until_s)
            elif not call.overdue:
                call.overdue = True
                trio.lowlevel.notify_closing(number)
        return next_s


class _Line:
    """One connection, for one call at a time. `fit`: it can carry another; `used`: it has carried one to its end."""

    __slots__ = ("_good_until_s", "_number", "_poll", "_secure", "_socket", "fit", "used")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._number = connected.fileno()
        self._secure = isinstance(connected, ssl.SSLSocket)
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN | _HUNG_UP)
        self._good_until_s = trio.current_time() + IDLE_S
        self.fit = True
        self.used = False

    def is_old(self, now_s: float) -> bool:
        return now_s >= self._good_until_s

    def is_open(self) -> bool:
        """Nobody hung up. In the clear, whatever comes unasked ends the line; over TLS it may be session tickets."""
        seen = self._poll.poll(0)
        return not seen or (self._secure and seen[0][1] == select.POLLIN and self._has_tickets_only())

    def _has_tickets_only(self) -> bool:
        try:
            self._socket.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        return False

    async def carry(self, call: _Call, watch: _Watch) -> None:
        """Write the request, read the answer into `call`, as far as there is time. Raises Lost, and what `call.begin`
        raises."""
        call.begin()
        self.fit = False
        if not self._write(call):
            await self._write_on(call)
        reading = call.reading
        watch.add(call, self._number)
        try:
            while not reading.whole and not call.overdue:
                await wait_readable(self._number)
                self._read(reading)
        except trio.ClosedResourceError:
            return  # overdue
        finally:
            watch.remove(call)
        if reading.whole and reading.keeps and call.written == len(call.data):
            self.fit = self.used = True
            self._good_until_s = trio.current_time() + _kept_alive_s(reading.headers)

    def _write(self, call: _Call) -> bool:
        """As much as goes without waiting. True where no more is to be written: all is, or the line broke under it."""
        data, end = memoryview(call.data), len(call.data)
        most = RECORD if self._secure else end
        try:
            while call.written < end:
                call.written += self._socket.send(data[call.written : call.written + most])
        except _LATER:
            return False
        except OSError:
            if call.written <= call.head_bytes and call.written < end:
                raise Lost("disconnected", "the connection broke before the request was written") from None
            # A server may refuse a large body before its end, and hang up: its answer can still be there.
        return True

    async def _write_on(self, call: _Call) -> None:
        """The rest, when there is room for it, or until an answer comes before its time (RFC 9112, 9.5)."""
        with trio.move_on_at(call.until_s) as limit:
            while not await self._has_answer_or_room(call) and not self._write(call):
                pass
        call.overdue = limit.cancelled_caught

    async def _has_answer_or_room(self, call: _Call) -> bool:
        """True: there is an answer, or a part of it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_either, wait_readable, nursery.cancel_scope)
            nursery.start_soon(self._wait_for_either, wait_writable, nursery.cancel_scope)
        if self._poll.poll(0):
            self._read(call.reading)
        return call.reading.status is not None

    async def _wait_for_either(self, wait: Callable[[int], Awaitable[None]], other: trio.CancelScope) -> None:
        await wait(self._number)
        other.cancel()

    def _read(self, reading: Reading) -> None:
        """What has come, if anything that is ours."""
        try:
            data = self._socket.recv(CHUNK)
        except _LATER:
            return
        except OSError:
            raise broken_off() from None
        reading.feed(data)

    def close(self) -> None:
        self._socket.close()

    def say_goodbye(self) -> None:
        """Close as TLS asks for; the other side's goodbye is not waited for."""
        if isinstance(self._socket, ssl.SSLSocket):
            with suppress(OSError, ValueError):
                self._socket.unwrap()
        self._socket.close()


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
        self._too_late = too_late(timeout_s)
        self._most_bytes = most_bytes
        self._tls = (trust or trusted)() if base.secure else None
        self._fixed = f"host: {base.authority}\r\nuser-agent: {USER_AGENT}\r\naccept-encoding: identity\r\n"
        self._watch = _Watch()
        self._idle: list[_Line] = []
        self._closed = False

    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        until_s = trio.current_time() + self._timeout_s
        call = _Call(encoded(request, self._fixed), request.body, begin, self._most_bytes, until_s)
        try:
            await self._carry(call)
        except Lost as lost:
            return call.result(lost.failure)
        return call.result(self._too_late)

    async def _carry(self, call: _Call) -> None:
        while (line := self._take() or await self._open(call.until_s)) is not None:
            try:
                return await line.carry(call, self._watch)
            except Lost:
                if not line.used or call.written:
                    raise
                # The other side had hung up while the line was idle, and took nothing: that is no attempt.
            finally:
                self._give_back(line)
        return None

    def _take(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if not line.is_old(trio.current_time()) and line.is_open():
                return line
            line.close()
        return None

    def _give_back(self, line: _Line) -> None:
        if not line.fit or self._closed:
            return line.close()
        self._idle.append(line)
        if self._idle[0].is_old(trio.current_time()):
            self._idle.pop(0).say_goodbye()
        return None

    async def _open(self, until_s: float) -> _Line | None:
        """None where time is up."""
        with trio.move_on_at(until_s):
            return await self._connect()
        return None

    async def _connect(self) -> _Line:
        try:
            stream = await trio.open_tcp_stream(self._base.host, self._base.port)
        except OSError as error:
            raise unreachable(self._base, error) from error
        opened = stream.socket
        connected = socket.socket(opened.family, opened.type, opened.proto, fileno=opened.detach())
        connected.setblocking(False)
        return _Line(connected if self._tls is None else await self._shake_hands(connected, self._tls))

    async def _shake_hands(self, connected: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            connected = tls.wrap_socket(connected, server_hostname=self._base.host, do_handshake_on_connect=False)
            while True:
                try:
                    connected.do_handshake()
                except ssl.SSLWantReadError:
                    await wait_readable(connected)
                except ssl.SSLWantWriteError:
                    await wait_writable(connected)
                else:
                    return connected
        except BaseException as error:
            connected.close()
            if isinstance(error, OSError):
                raise tls_fault(self._base, error) from error
            raise

    async def aclose(self) -> None:
        """Calls that are still on their way end, and their lines with them."""
        self._closed = True
        while self._idle:
            self._idle.pop().say_goodbye()


def encoded(request: WireRequest, fixed: str) -> bytes:
    """The request's head. ValueError where a header would write more than itself."""
    headers = "".join([f"{name}: {value}\r\n" for name, value in request.headers])
    text = f"{request.method} {request.target} HTTP/1.1\r\n{fixed}{headers}content-length: {len(request.body)}\r\n\r\n"
    head = text.encode("ascii")
    if not _REQUEST.fullmatch(head) or head.count(b"\n") != fixed.count("\n") + len(request.headers) + 3:
        raise ValueError("a target or a header that HTTP cannot carry")
    return head


def _kept_alive_s(headers: Mapping[str, str]) -> float:
    """`Keep-Alive: timeout=5` names the server's patience; a second less is ours."""
    _, named, rest = headers.get("keep-alive", "").lower().partition("timeout=")
    digits = rest.split(",")[0].strip()
    if not named or not digits.isdecimal() or len(digits) > 6:
        return IDLE_S
    return min(IDLE_S, int(digits) - 1)
