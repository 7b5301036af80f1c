"""Connections without a socket: the gateway's own connection at one end of a pair of streams, an HTTP client at the
other. They live in virtual time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import orjson
import trio
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers

from heliograph.gateway import listening
from heliograph.gateway.connections import Connection
from heliograph.gateway.hot import Hot, HotConnection


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.raw)


class _NoSocket:
    family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    getsockname = getpeername

    def fileno(self) -> int:
        return -1  # what is written to it at once is not taken

    def setsockopt(self, *_: object) -> None:
        """There are no options to set."""

    def close(self) -> None:
        """Its stream is closed by itself."""


class Lines:
    """Gives connections to an application: those of the fast server where `hot` says what is hot, else plain ones."""

    def __init__(self, app: QuartTrio, hot: Hot | None) -> None:
        self._app = wrap_app(app, 0, "asgi")
        self._hot = hot
        self._config = listening._settings()

    @asynccontextmanager
    async def line(self) -> AsyncIterator[trio.StapledStream]:
        """The client's end."""
        client, server = trio.testing.memory_stream_pair()
        server.socket = _NoSocket()
        made = (self._app, self._config, WorkerContext(None), server)
        connection = Connection(*made) if self._hot is None else HotConnection(self._hot, *made)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.serve)
            try:
                yield client
            finally:
                await trio.aclose_forcefully(client)

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        async with self.line() as stream:
            client = h11.Connection(h11.CLIENT)
            await stream.send_all(_written(client, method, path, headers, body))
            return await read_answer(stream, client)

    async def said(self, pieces: Iterable[bytes]) -> bytes:
        """All that comes back when these pieces are sent and nothing more."""
        received = bytearray()
        async with self.line() as stream, trio.open_nursery() as nursery:

            async def read() -> None:
                while data := await stream.receive_some():
                    received.extend(data)

            nursery.start_soon(read)
            for piece in pieces:
                try:
                    await stream.send_all(piece)
                except trio.BrokenResourceError:
                    break
                await trio.testing.wait_all_tasks_blocked()
        return bytes(received)


def _written(client: h11.Connection, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Written by hand, since h11 writes nothing that is odd."""
    client.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    client.send(h11.EndOfMessage())
    named = [("Host", "localhost"), *headers.items()]
    if body:
        named.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


async def read_answer(stream: trio.abc.ReceiveStream, client: h11.Connection) -> Answer:
    response: h11.Response | None = None
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            client.receive_data(bytes(await stream.receive_some(65_536)))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
    assert response is not None
    headers = Headers([(name.decode(), value.decode("latin-1")) for name, value in response.headers])
    return Answer(response.status_code, headers, body)
