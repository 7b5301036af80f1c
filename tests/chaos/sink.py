"""Two providers in one process that count what reaches them. Nothing here is the product's.

Fast2SMS' quick route is `first`, BulkSMS is `second`, each as its documentation has it and no further. A call is noted
with the moment at which the kernel took its packet (its last, where head and body were read together), so that neither
this process nor a busy machine moves it; with the id of our attempt that it carries; and with what was answered.
`taken` is what a phone would have shown: a refused call sent nothing, nor did the repeat of one under the same
deduplication id.

    python -m tests.chaos.sink        prints its port; told by POST /_mode, asked by GET /_calls
"""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import trio

SO_TIMESTAMPNS: Final = 35
HELD_S: Final = 4.0
"""Longer than the callers wait."""


@dataclass(slots=True)
class Call:
    """One message in one call. `answer`: accepted, deferred, throttled, or none where nothing was said in time."""

    provider: str
    recipient: str
    attempt: str
    at_s: float
    taken: bool = False
    answer: str = "none"


@dataclass(slots=True)
class Mode:
    """`share` of the calls meet it; the others are answered well."""

    name: str = "ok"
    share: float = 1.0


@dataclass(slots=True)
class Sink:
    calls: list[Call] = field(default_factory=list)
    modes: dict[str, Mode] = field(default_factory=dict)
    repeats: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)

    async def converse(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(3600):
            data, at_s = bytearray(), 0.0
            while True:
                while (request := _cut(data)) is None:
                    received, stamps, _, _ = await stream.socket.recvmsg(65536, 256)
                    if not received:
                        return
                    if not data:
                        at_s = _stamp(stamps)
                    data += received
                if not await self._handle(stream, *request, at_s):
                    return

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await self.converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    async def _handle(self, stream: trio.SocketStream, line: str, body: bytes, at_s: float) -> bool:
        """False: the connection ends."""
        method, target, _ = line.split(" ", 2)
        url = urlsplit(target)
        match method, url.path:
            case "POST", "/_mode":
                told = json.loads(body)
                self.modes[told["provider"]] = Mode(told["mode"], told["share"])
                return await _say(stream, 200, {})
            case "GET", "/_calls":
                return await _say(stream, 200, [asdict(call) for call in self.calls])
            case "POST", "/dev/bulkV2":
                sent = json.loads(body)
                made = [Call("first", f"+91{sent['numbers']}", sent["udf1"], at_s)]
                return await self._take(stream, made, 200, _yes())
            case "POST", "/v1/messages":
                return await self._submit(stream, url.query, json.loads(body), at_s)
            case "GET", "/v1/messages":
                wanted = dict(part.split("=", 1) for part in parse_qs(url.query)["filter"][0].split("&"))
                found = [each for each in self.created if each["userSuppliedId"] == wanted["userSuppliedId"]]
                return await _say(stream, 200, found)
            case "GET", "/v1/profile":
                return await _say(
                    stream, 200, {"credits": {"balance": 1e9}, "quota": {"size": 10**9, "remaining": 10**9}}
                )
        return await _say(stream, 404, {})

    async def _submit(self, stream: trio.SocketStream, query: str, entries: list[dict[str, Any]], at_s: float) -> bool:
        repeat_id = parse_qs(query)["deduplication-id"][0]
        made = [Call("second", "+" + entry["to"][0]["address"], entry["userSuppliedId"], at_s) for entry in entries]
        if repeat_id in self.repeats:
            self.calls += made
            return await self._answer(stream, made, "accepted", 201, self.repeats[repeat_id])
        created = [
            {
                "id": str(len(self.created) + n),
                "type": "SENT",
                "to": call.recipient.removeprefix("+"),
                "userSuppliedId": call.attempt,
                "status": {"id": "ACCEPTED.null", "type": "ACCEPTED", "subtype": None},
            }
            for n, call in enumerate(made)
        ]
        mode = self._mode("second")
        if mode not in ("refuse", "throttle"):
            self.created += created
            self.repeats[repeat_id] = created
        return await self._take(stream, made, 201, created, mode)

    def _mode(self, provider: str) -> str:
        mode = self.modes.get(provider, Mode())
        return mode.name if random.random() < mode.share else "ok"

    async def _take(
        self, stream: trio.SocketStream, made: list[Call], status: int, body: object, mode: str | None = None
    ) -> bool:
        self.calls += made
        mode = mode or self._mode(made[0].provider)
        for call in made:
            call.taken = mode not in ("refuse", "throttle")
        match mode:
            case "refuse":
                return await self._answer(stream, made, "deferred", 503, {})
            case "throttle":
                return await self._answer(stream, made, "throttled", 429, {})
            case "drop":
                return False
            case "hold":
                await trio.sleep(HELD_S)
            case "slow":
                await trio.sleep(random.uniform(0.3, 1.5))
            case _:
                await trio.sleep(min(0.5, random.lognormvariate(-4.0, 0.6)))
        return await self._answer(stream, made, "accepted", status, body)

    async def _answer(
        self, stream: trio.SocketStream, made: list[Call], answer: str, status: int, body: object
    ) -> bool:
        await _say(stream, status, body)
        for call in made:
            call.answer = answer
        return True


def _yes() -> dict[str, Any]:
    return {"return": True, "request_id": f"{random.getrandbits(60):015x}", "message": ["SMS sent successfully."]}


async def _say(stream: trio.SocketStream, status: int, body: object) -> bool:
    data = json.dumps(body).encode()
    more = "retry-after: 1\r\n" if status == 429 else ""
    head = f"HTTP/1.1 {status} .\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
    await stream.send_all(head.encode() + data)
    return True


def _cut(data: bytearray) -> tuple[str, bytes] | None:
    """Take one whole request out of what has come: its first line, and its body."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    line, *fields = data[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
    whole = end + 4 + int(headers.get("content-length", "0"))
    if len(data) < whole:
        return None
    body = bytes(data[end + 4 : whole])
    del data[:whole]
    return line, body


def _stamp(stamps: list[tuple[int, int, bytes]]) -> float:
    """When the kernel took the packet. The first of a connection may carry none."""
    for level, kind, data in stamps:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            return float(seconds + nanoseconds / 1e9)
    return time.time()


async def main() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1000)
    listener.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    print("listening on", listener.socket.getsockname()[1], flush=True)  # noqa: T201
    await trio.serve_listeners(Sink().serve, [listener])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    trio.run(main)
