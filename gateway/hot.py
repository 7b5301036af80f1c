"""The fast way: requests that stand as plainly as can be in what a client sent are answered here, at once.

What a few calls are asked most of the time, and how, is known: five request lines, a head that came in one piece, a
body of a known length. Such a request needs neither h11 nor a task of its own nor the web framework. `recognise` takes
nothing that h11 would read as anything else; all that it does not take, and whatever turns out otherwise before it had
an effect, goes on to the plain connection (connections.py) byte for byte. So there is one place where HTTP is
understood, and this is a way around it for those who do not need it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper

from heliograph.gateway import connections
from heliograph.gateway.api.public import PublicRoute
from heliograph.gateway.api.replies import Reply
from heliograph.gateway.api.routing import KINDS_OF_ID, Route
from heliograph.gateway.connections import READ_BYTES, Connection
from heliograph.gateway.front import SAFE, Asked, Front, headers_of, request_id_of

MOST_HEAD_BYTES: Final = 8 * 1024
MOST_BODY_BYTES: Final = 1_000_000
"""Larger ones are counted together (limits.py), which is done on the plain way."""
REST_S: Final = 1.0
"""A body that is not there after so long is the plain connection's to wait for."""

# Possessive throughout: what does not match is known after one pass. Values and names are a part of what RFC 9110
# allows, the part that every client sends.
_HEAD: Final = re.compile(
    rb"(GET|POST) (/[a-z0-9/]++(?:_[0-9A-Z]++)?+) HTTP/1\.1\r\n((?:[-A-Za-z0-9]++: [!-~]++(?: ++[!-~]++)*+\r\n)++)\r\n"
)
_FIELD: Final = re.compile(r"([-A-Za-z0-9]+): ([ -~]+)\r\n")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:.]+\](?::[0-9]+)?")
_LENGTH: Final = re.compile("[0-9]{1,9}")
_ANOTHER_WAY: Final = frozenset({"transfer-encoding", "expect", "upgrade", "trailer", "te"})


class Headers:
    """Of a head in which each name comes once. Names are kept in lower case."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def get(self, key: str, /) -> str | None:
        return self._values.get(key.lower())

    def getlist(self, key: str, /) -> list[str]:
        value = self._values.get(key.lower())
        return [] if value is None else [value]


@dataclass(frozen=True, slots=True)
class Recognised:
    """The body is what follows `head_bytes`."""

    method: str
    path: str
    headers: Headers
    head: bytes
    body_bytes: int

    @property
    def head_bytes(self) -> int:
        return len(self.head)


def recognise(data: bytes) -> Recognised | None:
    """The request that stands at the beginning of `data`, if its head is all there and plain."""
    head = _HEAD.match(data, 0, MOST_HEAD_BYTES)
    if head is None:
        return None
    pairs = _FIELD.findall(head[3].decode("ascii"))
    values = {name.lower(): value for name, value in pairs}
    if len(values) < len(pairs) or not _ANOTHER_WAY.isdisjoint(values):
        return None
    if not _HOST.fullmatch(values.get("host", "")) or values.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    length = values.get("content-length")
    if (length is None) == (head[1] == b"POST") or (length is not None and not _LENGTH.fullmatch(length)):
        return None
    return Recognised(head[1].decode(), head[2].decode(), Headers(values), head[0], int(length or 0))


class _Left(Exception):
    """It is no plain case after all, and nothing came of it yet: the plain connection takes it from its first byte."""


class Hot:
    """The calls that are answered this way."""

    def __init__(self, front: Front, routes: Sequence[Route[Any, Any]], pages: Sequence[PublicRoute]) -> None:
        self.front = front
        self._pages = {("GET", page.path): page for page in pages}
        self._routes: dict[tuple[str, str], Route[Any, Any]] = {
            (route.method, route.path): route for route in routes if not route.parameter
        }
        self._of_one: dict[tuple[str, str], tuple[re.Pattern[str], Route[Any, Any]]] = {
            (route.method, route.path.partition("{")[0]): (re.compile(KINDS_OF_ID[route.id_kind]), route)
            for route in routes
            if route.parameter
        }

    def page(self, request: Recognised) -> PublicRoute | None:
        return self._pages.get((request.method, request.path))

    def route(self, request: Recognised) -> tuple[Route[Any, Any], str] | None:
        """With the id in its path, or ''."""
        route = self._routes.get((request.method, request.path))
        if route is not None:
            return route, ""
        above, slash, path_id = request.path.rpartition("/")
        found = self._of_one.get((request.method, above + slash))
        return (found[1], path_id) if found is not None and found[0].fullmatch(path_id) else None


class HotConnection(Connection):
    """A plain connection that looks at what comes before it hands it on."""

    def __init__(
        self, hot: Hot, app: AppWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        super().__init__(app, config, context, stream)
        self._hot = hot
        self._last: Recognised | None = None

    def _recognised(self, data: bytes) -> Recognised | None:
        """Who asks again mostly does so in the same words."""
        if self._last is None or not data.startswith(self._last.head):
            self._last = recognise(data)
        return self._last

    async def _receive(self) -> bytes:
        """A stream would first try whether something is there, which it is not: a client waits for its answer."""
        listening = self._stream.socket.fileno()
        if listening < 0:
            return await super()._receive()
        await trio.lowlevel.wait_readable(listening)
        try:
            return os.read(listening, READ_BYTES)
        except BlockingIOError:  # a false alarm
            return await super()._receive()
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def _take(self, data: bytes) -> None:
        if data and self.is_between_requests():
            data = await self._answer_all(data)
            if not data:
                return
        await super()._take(data)

    async def _answer_all(self, data: bytes) -> bytes:
        """Answer request after request, and return what is left for the plain connection."""
        while data and (request := self._recognised(data)) is not None:
            self._idle = False
            body = _Body(self._stream, data, request)
            answer = await self._answer(request, body)
            self._idle = True
            data = body.left
            if answer is None:
                break
            sent = self._sent_at_once(answer)
            if sent < len(answer):
                await self._send(answer[sent:])
            elif data:  # who sends many at once does not keep the others waiting
                await trio.lowlevel.checkpoint()
            if self._context.terminated.is_set():
                await self._end()
                return b""
            self._wait_until(trio.current_time() + connections.KEEP_ALIVE_S)
        return data

    def _sent_at_once(self, data: bytes) -> int:
        """How much of it the socket took without waiting: all, but for clients that do not read."""
        try:
            return os.write(self._stream.socket.fileno(), data)
        except OSError:  # no room, or no connection any more: whoever waits for it learns which
            return 0

    async def _answer(self, request: Recognised, body: _Body) -> bytes | None:
        """None where it is left to the plain connection."""
        front = self._hot.front
        began_s = time.perf_counter()
        request_id = request_id_of(request.headers)
        if (page := self._hot.page(request)) is not None:
            path, reply = page.path, page.handler()
        elif (found := self._hot.route(request)) is not None:
            route, path_id = found
            path = route.path
            try:
                reply = await front.answer(route, Asked(request.headers, b"", path_id, request_id, body.whole))
            except _Left:
                return None
            except Exception as error:
                if not body.is_whole:  # nothing came of it, and to throw away what is still to come takes care
                    return None
                reply = front.failed(error, path, request_id)
        else:
            return None
        body.done()
        front.count(path, request.method, reply.status, began_s)
        return _written(reply, request_id)


class _Body:
    """Of one request: what came with its head, and what has to be waited for. `left` is all that nobody used."""

    __slots__ = ("_end", "_most", "_request", "_stream", "left")

    def __init__(self, stream: trio.abc.ReceiveStream, data: bytes, request: Recognised) -> None:
        self.left = data
        self._stream = stream
        self._request = request
        self._end = request.head_bytes + request.body_bytes

    @property
    def is_whole(self) -> bool:
        return len(self.left) >= self._end

    async def whole(self, most_bytes: int) -> bytes:
        if self._request.body_bytes > min(most_bytes, MOST_BODY_BYTES):
            raise _Left
        if not self.is_whole:
            await self._wait()
        return self.left[self._request.head_bytes : self._end]

    async def _wait(self) -> None:
        parts = [self.left]
        missing = self._end - len(self.left)
        try:
            with trio.move_on_after(REST_S):
                while missing > 0:
                    part = bytes(await self._stream.receive_some(READ_BYTES))
                    if not part:
                        break
                    parts.append(part)
                    missing -= len(part)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the plain connection meets it again
        finally:
            self.left = b"".join(parts)
        if missing > 0:
            raise _Left

    def done(self) -> None:
        self.left = self.left[self._end :]


def _written(reply: Reply, request_id: str) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} "]
    lines += [f"{name.lower()}: {value}" for name, value in headers_of(reply).items()]
    lines += [f"content-length: {len(reply.body)}", f"x-request-id: {request_id}", _SAFE, f"date: {_date()}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + reply.body


_SAFE: Final = f"{SAFE[0].lower()}: {SAFE[1]}"
_dated: tuple[int, str] = (0, "")


def _date() -> str:
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]
