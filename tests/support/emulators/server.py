"""A small HTTP/1.1 server that can misbehave on order, and the counts of what arrived at it."""

from __future__ import annotations

import json
import ssl
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio


class Mode(StrEnum):
    """What the server does with each call. Those of the second group take the messages and lose the answer."""

    OK = "ok"
    UNAVAILABLE = "503"
    THROTTLED = "429"
    REFUSE = "refuse"  # every message for good, in the provider's own words
    UNAUTHORIZED = "unauthorized"
    REDIRECT = "redirect"
    DROP = "drop"  # read, not taken, closed without a word
    SLOW = "slow"  # well, after `delay_s`
    TRICKLE = "trickle"  # well, byte by byte
    EARLY_HINTS = "early-hints"  # well, after 100 and 103
    CUT_AFTER = "cut-after"  # well, a body that ends with the connection
    HANGUP = "hangup"  # answers well, then closes the connection without announcing it

    LOST = "lost"  # closed before the answer
    BAD_GATEWAY = "502"  # something in front of the server answers for it
    CUT_HEAD = "cut-head"  # closed in the middle of the answer's head
    CUT = "cut"  # closed in the middle of the answer's body
    STALLED_HEAD = "stalled-head"  # as much of the head as CUT_HEAD, and then nothing more
    STALLED = "stalled"  # as much of the body as CUT, and then nothing more
    SILENT = "silent"  # never answers
    GARBAGE = "garbage"  # what comes is no HTTP
    HTML = "html"  # a page with status 200
    ENDLESS = "endless"  # a body that never ends
    RAW = "raw"  # exactly the bytes of `raw`


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    target: str

    def json(self) -> Any:
        """None where the body is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, status: int, value: object, *headers: tuple[str, str]) -> Response:
        return cls(status, json.dumps(value).encode(), (("content-type", "application/json"), *headers))


@dataclass(slots=True)
class Seen:
    """The judge. `taken`: how often each recipient's message was taken; `attempts`: under which of our ids;
    `refused`: recipients refused for good; `calls`: requests whose body was read, whatever came of them."""

    calls: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    @property
    def messages(self) -> int:
        return sum(self.taken.values())

    def take(self, to: str, attempt_id: str | None, text: str) -> None:
        self.taken[to] += 1
        self.texts[text] += 1
        if attempt_id:
            self.attempts[attempt_id] += 1

    def as_json(self) -> dict[str, object]:
        return {
            "calls": self.calls,
            "connections": self.connections,
            "messages": self.messages,
            "unique": len(self.taken),
            "refused": sum(self.refused.values()),
            "recipients": dict(self.taken),
            "refused_recipients": dict(self.refused),
            "attempts": dict(self.attempts),
        }


class Api(ABC):
    """One provider's documented behaviour. `rejects` are recipients that it refuses for good."""

    def __init__(self) -> None:
        self.rejects: set[str] = set()
        self.seen = Seen()

    @abstractmethod
    def handle(self, request: Request) -> Response: ...

    @abstractmethod
    def refuse(self, request: Request) -> Response:
        """Refuse every message of the call for good."""

    @abstractmethod
    def unauthorized(self) -> Response: ...


class Emulator:
    """An Api behind a socket. `times`: the mode holds for so many calls more, then it is OK again."""

    def __init__(self, api: Api, tls: ssl.SSLContext | None = None) -> None:
        self.api = api
        self.mode = Mode.OK
        self.times: int | None = None
        self.retry_after: str | None = None
        self.delay_s = 0.5
        self.raw = b""
        self.port = 0
        self.requests: deque[Request] = deque(maxlen=200)
        self._tls = tls

    @property
    def seen(self) -> Seen:
        return self.api.seen

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def set(self, mode: Mode | str, times: int | None = None, **how: Any) -> None:
        self.mode, self.times = Mode(mode), times
        for name, value in how.items():
            setattr(self, name, value)

    async def serve(
        self, host: str = "127.0.0.1", port: int = 0, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=1024)
        self.port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._connection, listeners)
            task_status.started()

    async def _connection(self, stream: trio.abc.Stream) -> None:
        self.seen.connections += 1
        if self._tls is not None:
            stream = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        try:
            while (request := await _read(http, stream)) is not None:
                if not await self._respond(http, stream, request):
                    return
                http.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError, ssl.SSLError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _respond(self, http: h11.Connection, stream: trio.abc.Stream, request: Request) -> bool:
        """False: close the connection."""
        if request.path.startswith("/_"):
            await _write(http, stream, self._own(request))
            return http.our_state is not h11.MUST_CLOSE
        self.seen.calls += 1
        self.requests.append(request)
        mode = self._next_mode()
        match mode:
            case Mode.DROP:
                return False
            case Mode.LOST:
                self.api.handle(request)
                return False
            case Mode.SILENT:
                self.api.handle(request)
                await trio.sleep_forever()
            case Mode.GARBAGE:
                self.api.handle(request)
                await stream.send_all(b"\x00\xff\xfe no http at all \r\n\r\n")
                return False
            case Mode.RAW:
                self.api.handle(request)
                await stream.send_all(self.raw)
                return False
            case Mode.ENDLESS:
                self.api.handle(request)
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    await stream.send_all(b"[" * 65536)
            case Mode.CUT_HEAD | Mode.CUT | Mode.STALLED_HEAD | Mode.STALLED:
                head, body = _by_hand(self.api.handle(request))
                in_head = mode in (Mode.CUT_HEAD, Mode.STALLED_HEAD)
                await stream.send_all(head[: len(head) // 2] if in_head else head + body[: len(body) // 2])
                if mode in (Mode.STALLED_HEAD, Mode.STALLED):
                    await trio.sleep_forever()
                return False
            case Mode.CUT_AFTER:
                head, body = _by_hand(self.api.handle(request), length=False)
                await stream.send_all(head + body)
                return False
            case Mode.EARLY_HINTS | Mode.TRICKLE:
                if mode is Mode.EARLY_HINTS:
                    await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
                data = _whole(http, self.api.handle(request))
                step = 1 if mode is Mode.TRICKLE else len(data)
                for at in range(0, len(data), step):
                    await stream.send_all(data[at : at + step])
                return http.our_state is not h11.MUST_CLOSE
            case _:
                response = await self._whole_response(mode, request)
        await _write(http, stream, response)
        return mode is not Mode.HANGUP and http.our_state is not h11.MUST_CLOSE

    async def _whole_response(self, mode: Mode, request: Request) -> Response:
        retry_after = (("retry-after", self.retry_after),) if self.retry_after is not None else ()
        match mode:
            case Mode.UNAVAILABLE:
                return Response(503, b"<html>Service Unavailable</html>", retry_after)
            case Mode.THROTTLED:
                return Response(429, b"too many requests", retry_after)
            case Mode.REFUSE:
                return self.api.refuse(request)
            case Mode.BAD_GATEWAY:
                self.api.handle(request)
                return Response(502, b"<html>Bad Gateway</html>")
            case Mode.UNAUTHORIZED:
                return self.api.unauthorized()
            case Mode.REDIRECT:
                return Response(302, b"", (("location", f"{self.url}/elsewhere"),))
            case Mode.HTML:
                self.api.handle(request)
                return Response(200, b"<!doctype html><title>Welcome</title>", (("content-type", "text/html"),))
            case Mode.SLOW:
                await trio.sleep(self.delay_s)
                return self.api.handle(request)
            case _:
                return self.api.handle(request)

    def _next_mode(self) -> Mode:
        mode = self.mode
        if self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.mode, self.times = Mode.OK, None
        return mode

    def _own(self, request: Request) -> Response:
        match request.method, request.path:
            case "GET", "/_seen":
                return Response.of(200, self.seen.as_json())
            case "POST", "/_control":
                return self._control(request.json())
        return Response.of(404, {"error": "GET /_seen, POST /_control"})

    def _control(self, order: Any) -> Response:
        known = {"mode", "times", "retry_after", "delay_s", "reject", "forget"}
        if not isinstance(order, dict) or not set(order) <= known:
            return Response.of(400, {"error": f"known are {sorted(known)}"})
        if order.get("mode", "ok") not in set(Mode):
            return Response.of(400, {"error": f"modes are {[str(mode) for mode in Mode]}"})
        if "mode" in order:
            self.set(order["mode"], order.get("times"))
        if "retry_after" in order:
            self.retry_after = None if order["retry_after"] is None else str(order["retry_after"])
        if "delay_s" in order:
            self.delay_s = float(order["delay_s"])
        if "reject" in order:
            self.api.rejects = set(order["reject"])
        if order.get("forget"):
            self.api.seen = Seen()
        return Response.of(200, {"mode": self.mode, "rejects": len(self.api.rejects)})


@asynccontextmanager
async def running(api: Api, tls: ssl.SSLContext | None = None) -> AsyncIterator[Emulator]:
    emulator = Emulator(api, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(emulator.serve)
        try:
            yield emulator
        finally:
            nursery.cancel_scope.cancel()


async def _read(http: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    target = head.target.decode()
    parts = urlsplit(target)
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(head.method.decode(), unquote(parts.path), query, headers, body, target)


async def _write(http: h11.Connection, stream: trio.abc.Stream, response: Response) -> None:
    await stream.send_all(_whole(http, response))


def _by_hand(response: Response, *, length: bool = True) -> tuple[bytes, bytes]:
    """Head and body, so that they can be sent in part; a body where there should be none, so that it can break off."""
    body = response.body or b"{}"
    headers = [*response.headers, *([("content-length", str(len(body)))] if length else [("connection", "close")])]
    lines = [f"HTTP/1.1 {response.status} X", *(f"{name}: {value}" for name, value in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode(), body


def _whole(http: h11.Connection, response: Response) -> bytes:
    length = ("content-length", str(len(response.body)))
    head = h11.Response(status_code=response.status, headers=[*response.headers, length])
    data = http.send(head) or b""
    data += http.send(h11.Data(data=response.body)) or b""
    return data + (http.send(h11.EndOfMessage()) or b"")


def unknown_keys(given: Iterable[str], known: Iterable[str]) -> list[str]:
    return sorted(set(given) - set(known))
