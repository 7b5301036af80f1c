"""What only a real socket shows: large and slow bodies, framing, ends of connections, ports."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import orjson
import pytest
import trio
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived

from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.settings import GatewaySettings
from heliograph.gateway import limits, listening
from heliograph.gateway.app import serve_gateway
from tests.support.gateway_world import EMAIL, SMS, Served, World, a_served_gateway


@asynccontextmanager
async def a_connection(served: Served) -> AsyncIterator[Connection]:
    stream = await trio.open_tcp_stream("127.0.0.1", served.port)
    async with stream:
        yield Connection(stream, served.secret)


class Connection:
    """A client that says what a test wants it to say, byte by byte."""

    def __init__(self, stream: trio.SocketStream, secret: str) -> None:
        self.stream = stream
        self.secret = secret
        self.h11 = h11.Connection(h11.CLIENT)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        first = [f"{method} {path} HTTP/1.1", "Host: localhost", f"X-API-Key: {self.secret}"]
        return "\r\n".join([*first, *lines, "", ""]).encode()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Read one answer, whatever was sent so far."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        reader.send(h11.EndOfMessage())
        response: h11.Response | None = None
        body = b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(await self.stream.receive_some(65_536))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        assert response is not None
        headers = {name.decode().lower(): value.decode() for name, value in response.headers}
        return response.status_code, headers, orjson.loads(body) if body else None

    async def ended(self) -> bool:
        """Whether the other side closes the connection, soon."""
        with trio.move_on_after(5):
            try:
                return await self.stream.receive_some(1) == b""
            except trio.BrokenResourceError:
                return True
        return False


JSON = "Content-Type: application/json"


def large(size: int, **fields: Any) -> bytes:
    empty = len(orjson.dumps({**EMAIL, **fields, "text": ""}))
    return orjson.dumps({**EMAIL, **fields, "text": "x" * (size - empty)})


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413_also_for_a_client_that_writes_it_whole_first(chunked: bool) -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        body = large(30_000_000)
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        await connection.send(connection.head("POST", "/v1/messages", JSON, framing))
        if chunked:
            for start in range(0, len(body), 1_000_000):
                part = body[start : start + 1_000_000]
                await connection.send(b"%x\r\n%s\r\n" % (len(part), part))
            await connection.send(b"0\r\n\r\n")
        else:
            await connection.send(body)
        status, headers, problem = await connection.answer()
        assert (status, problem["code"]) == (413, "too_large")
        assert headers["content-type"] == "application/problem+json"
        # All of it was read: the connection is as good as before.
        await connection.send(connection.head("GET", "/v1/messages"))
        assert (await connection.answer())[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/messages", large(2_000_000), 202),
        ("/v1/messages", large(2_000_001), 413),
        ("/v1/messages", b"x" * 2_000_001, 413),
        ("/v1/messages", large(10_000_000, attachments=[{"filename": "a", "content": "aGVsbG8="}]), 202),
        ("/v1/messages", large(10_000_001, attachments=[{"filename": "a", "content": "aGVsbG8="}]), 413),
        ("/v1/keys", b'{"name":"k"}' + b" " * 2_000_000, 413),
    ],
    ids=["plain", "plain and one", "no JSON and one", "attached", "attached and one", "other and one"],
)
async def test_each_kind_of_body_has_its_limit(path: str, body: bytes, status: int) -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("POST", path, JSON, f"Content-Length: {len(body)}") + body)
        assert (await connection.answer())[0] == status


async def test_a_batch_may_have_20_mb() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        item = large(1_990_000)
        body = b'{"messages":[' + b",".join([item] * 10) + b"]}"
        head = connection.head("POST", "/v1/messages/batch", JSON, f"Content-Length: {len(body)}")
        await connection.send(head + body)
        assert (await connection.answer())[0] == 202
        padded = body + b" " * (20_000_001 - len(body))
        head = connection.head("POST", "/v1/messages/batch", JSON, f"Content-Length: {len(padded)}")
        await connection.send(head + padded)
        assert (await connection.answer())[0] == 413


async def test_beyond_what_is_thrown_away_the_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DRAIN_BYTES", 25_000_000)
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("POST", "/v1/messages", JSON, "Content-Length: 100000000"))
        with pytest.raises(trio.BrokenResourceError):
            await connection.send(b"x" * 100_000_000)


async def test_an_idle_connection_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "KEEP_ALIVE_S", 0.1)
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("GET", "/livez"))
        assert (await connection.answer())[0] == 200
        assert await connection.ended()


async def test_a_body_of_a_stranger_is_thrown_away_and_answered_401() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        connection.secret = "nobody"
        body = large(1_900_000)
        await connection.send(connection.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}") + body)
        assert (await connection.answer())[0] == 401
        await connection.send(connection.head("GET", "/livez"))
        assert (await connection.answer())[0] == 200


async def test_a_body_that_drips_is_408_and_its_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE_S", 0.3)
    monkeypatch.setattr(limits, "DRAIN_S", 0.3)
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("POST", "/v1/messages", JSON, "Content-Length: 1000"))

        async def drip() -> None:
            try:
                while True:
                    await connection.send(b" ")
                    await trio.sleep(0.02)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drip)
                status, headers, problem = await connection.answer()
                assert (status, problem["code"], headers["connection"]) == (408, "request_timeout", "close")
        # The dripping ended by itself: the other side closed.


async def test_two_framings_of_one_body_are_400_and_end_the_connection() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(
            connection.head("POST", "/v1/messages", JSON, "Content-Length: 5", "Transfer-Encoding: chunked")
            + b"0\r\n\r\n"
        )
        status, _, problem = await connection.answer()
        assert (status, problem["code"]) == (400, "malformed_request")


async def test_what_is_no_http_is_400() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(b"NONSENSE\r\n\r\n")
        assert (await connection.answer())[0] == 400
        assert await connection.ended()


async def test_there_are_no_websockets() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        await connection.send(
            connection.head("GET", "/v1/stats", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        )
        assert (await connection.answer())[0] == 403


async def test_http_2_without_tls_is_answered_the_same() -> None:
    async with a_served_gateway() as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        h2 = H2Connection()
        h2.initiate_connection()
        body = orjson.dumps(SMS)
        head = [(":method", "POST"), (":path", "/v1/messages"), (":scheme", "http"), (":authority", "localhost"),
                ("x-api-key", served.secret), ("content-type", "application/json")]  # fmt: skip
        h2.send_headers(1, head)
        h2.send_data(1, body, end_stream=True)
        status = None
        answer = b""
        async with stream:
            await stream.send_all(h2.data_to_send())
            while status is None or not answer:
                for event in h2.receive_data(await stream.receive_some(65_536)):
                    if isinstance(event, ResponseReceived):
                        status = dict(event.headers)[b":status"]
                    elif isinstance(event, DataReceived):
                        answer += event.data
        assert status == b"202"
        assert orjson.loads(answer)["state"] == "queued"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /v1//messages HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/messages/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /%ff%2e%2e/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431),
    ],
    ids=["1.0", "absolute", "two slashes", "null", "not utf-8", "asterisk", "no host", "long head"],
)
async def test_odd_requests_are_answered_plainly(head: bytes, status: int) -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(head)
        assert (await connection.answer())[0] == status


async def test_many_requests_share_a_connection() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        body = orjson.dumps(SMS)
        head = connection.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}")
        for _ in range(30):
            await connection.send(head + body)
            status, headers, _ = await connection.answer()
            assert status == 202
            assert "server" not in headers
            assert "connection" not in headers


async def test_a_client_that_asks_whether_to_go_on_is_told_to() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        body = orjson.dumps(SMS)
        head = connection.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}", "Expect: 100-continue")
        await connection.send(head)
        assert (await connection.stream.receive_some(1000)).startswith(b"HTTP/1.1 100")
        await connection.send(body)
        assert (await connection.answer())[0] == 202


async def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    world = World(held=trio.Event())
    async with a_served_gateway(world) as served:
        async with a_connection(served) as connection:
            body = orjson.dumps(SMS)
            await connection.send(connection.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}") + body)
            await world.arrived.wait()
        async with a_connection(served) as connection:
            await connection.send(connection.head("GET", "/livez"))
            assert (await connection.answer())[0] == 200


async def test_a_head_request_of_the_stream_ends() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("HEAD", "/v1/stats/stream", "Connection: close"))
        received = b""
        with trio.fail_after(5):
            while data := await connection.stream.receive_some(1000):
                received += data
        assert received.startswith(b"HTTP/1.1 200")


async def test_serving_ends_when_it_is_told_to_and_requests_under_way_are_answered() -> None:
    world = World(held=trio.Event())
    assert world.held is not None
    async with a_served_gateway(world) as served, a_connection(served) as connection:
        body = orjson.dumps(SMS)
        await connection.send(connection.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}") + body)
        await world.arrived.wait()
        served.stop.set()
        world.held.set()
        assert (await connection.answer())[0] == 202
        assert await connection.ended()


async def test_an_open_stream_ends_with_the_process() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("GET", "/v1/stats/stream"))
        assert b"event: stats" in await connection.stream.receive_some(10_000) + await connection.stream.receive_some(
            10_000
        )
        served.world.draining = True
        served.stop.set()
        with trio.fail_after(5):
            while await connection.stream.receive_some(1000):
                pass


async def test_a_port_that_is_taken_is_named_with_the_mend() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1:{port} is in use: .*gateway.bind"):
            await serve_gateway(
                World().services,
                GatewaySettings(port=port),
                shutdown_trigger=trio.sleep_forever,
                ready=lambda host, port: None,
            )


async def test_an_address_of_another_machine_is_named_with_the_mend() -> None:
    with pytest.raises(ConfigurationError, match=r"192.0.2.1:8080 cannot be listened on .*gateway.bind"):
        await serve_gateway(
            World().services,
            GatewaySettings(host="192.0.2.1"),
            shutdown_trigger=trio.sleep_forever,
            ready=lambda host, port: None,
        )
