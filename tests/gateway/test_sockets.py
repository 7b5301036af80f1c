"""What only a real socket shows: large and slow bodies, framing, ends of connections, ports."""

from __future__ import annotations

import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import orjson
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.settings import DeliverySettings, GatewaySettings
from heliograph.gateway import connections, limits
from heliograph.gateway.app import serve_gateway
from heliograph.gateway.listening import OTHER_FILES, room_for
from tests.support.gateway_world import EMAIL, SMS, Served, World, a_served_gateway


@asynccontextmanager
async def a_connection(
    served: Served, *, source: str = "127.0.0.1", buffer: int | None = None
) -> AsyncIterator[Connection]:
    """From an address of this machine; `buffer` bytes is what its end holds of what nobody reads."""
    end = trio.socket.socket()
    if buffer is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await end.bind((source, 0))
    await end.connect(("127.0.0.1", served.port))
    async with trio.SocketStream(end) as stream:
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
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
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


async def drip(connection: Connection, data: bytes) -> None:
    while True:
        await connection.send(data)
        await trio.sleep(0.02)


async def test_a_body_that_drips_is_408_and_its_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE_S", 0.3)
    monkeypatch.setattr(limits, "DRAIN_S", 0.3)
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("POST", "/v1/messages", JSON, "Content-Length: 1000"))

        async def go_on() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await drip(connection, b" ")

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on)
                status, headers, problem = await connection.answer()
                assert (status, problem["code"], headers["connection"]) == (408, "request_timeout", "close")
        # The dripping ended by itself: the other side closed.


def is_problem(answer: tuple[int, dict[str, str], Any], status: int, code: str) -> None:
    found, headers, problem = answer
    assert (found, problem["status"], problem["code"]) == (status, status, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX : spaced\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/messages HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\nzz\r\n",
    ],
    ids=[
        "no http", "no host", "two hosts", "2.0", "http/2", "space before colon", "null", "two lengths",
        "negative length", "length and chunks", "chunks twice", "coded", "chunks in 1.0", "no chunk",
    ],
)  # fmt: skip
async def test_what_two_readers_could_read_differently_is_400_and_nothing_after_it_is_read(request_: bytes) -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(request_ + b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        is_problem(await connection.answer(), 400, "malformed_request")
        assert await connection.ended()
        async with a_connection(served) as another:
            await another.send(another.head("GET", "/livez"))
            assert (await another.answer())[0] == 200


@pytest.mark.parametrize("size", [40_000, 900_000])
async def test_a_long_head_is_431_also_for_a_client_that_writes_it_whole_first(size: int) -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("GET", "/livez", "X: " + "x" * size))
        is_problem(await connection.answer(), 431, "head_too_large")
        assert await connection.ended()


@pytest.mark.parametrize(
    "upgrade",
    [
        ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="],
        ["Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"],
    ],
    ids=["websocket", "h2c"],
)
async def test_an_upgrade_is_not_made_and_the_request_is_answered_as_it_stands(upgrade: list[str]) -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("GET", "/livez", "Connection: Upgrade", *upgrade))
        assert (await connection.answer())[0] == 200
        await connection.send(connection.head("GET", "/v1/messages"))
        assert (await connection.answer())[0] == 200


async def test_requests_that_come_before_their_answers_are_answered_in_order() -> None:
    async with a_served_gateway() as served, a_connection(served) as connection:
        whole = b""
        for number in range(20):
            body = orjson.dumps({**SMS, "tags": [str(number)]})
            whole += connection.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}") + body
        await connection.send(whole + connection.head("GET", "/nowhere"))
        for number in range(20):
            status, _, message = await connection.answer()
            assert (status, message["tags"]) == (202, [str(number)])
        is_problem(await connection.answer(), 404, "not_found")


# ------------------------------------------------------------------------------------------ bounds on memory


async def test_a_stranger_cannot_fill_our_memory_while_it_is_asked_who_it_is() -> None:
    world = World()
    find, asked, go_on = world.ledger.keys.find, trio.Event(), trio.Event()

    async def held(digest: bytes) -> ApiKey | None:
        asked.set()
        await go_on.wait()
        return await find(digest)

    async with a_served_gateway(world) as served, a_connection(served) as connection:
        world.ledger.keys.find = held  # type: ignore[method-assign]
        connection.secret = "hg_live_" + "A" * 43
        before = limits.HELD.bytes
        async with trio.open_nursery() as nursery:
            head = connection.head("POST", "/v1/messages/batch", JSON, "Content-Length: 20000000")
            nursery.start_soon(connection.send, head + b" " * 20_000_000)
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)  # the client, too, cannot write on
            assert limits.HELD.bytes - before <= connections.READ_BYTES
            go_on.set()
            is_problem(await connection.answer(), 401, "unauthorized")
        assert limits.HELD.bytes == before


async def test_all_bodies_together_have_so_much_room_and_leave_none_of_it_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HELD_BYTES", limits.HELD.bytes + 3_000_000)
    world = World(held=trio.Event())
    assert world.held is not None
    body = large(1_900_000)
    async with a_served_gateway(world) as served, a_connection(served) as first, a_connection(served) as second:
        head = first.head("POST", "/v1/messages", JSON, f"Content-Length: {len(body)}")
        await first.send(head + body)
        await world.arrived.wait()
        await second.send(head + body)
        answer = await second.answer()
        is_problem(answer, 503, "unavailable")
        assert answer[1]["retry-after"] == "1"
        world.held.set()
        assert (await first.answer())[0] == 202
        await second.send(head + body)
        assert (await second.answer())[0] == 202
        async with a_connection(served) as gone:
            await gone.send(head + body[:1_000_000])
        for _ in range(3):
            await second.send(head + body)
            assert (await second.answer())[0] == 202


# ------------------------------------------------------------------------------------- bounds on connections


async def is_served(connection: Connection) -> bool:
    await connection.send(connection.head("GET", "/livez"))
    return (await connection.answer())[0] == 200


async def is_turned_away(connection: Connection) -> None:
    with trio.fail_after(5):
        answer = await connection.answer()
    is_problem(answer, 503, "unavailable")
    assert answer[1]["retry-after"] == "1"
    assert await connection.ended()


async def test_one_address_has_so_many_connections_and_others_have_room_beside_it() -> None:
    async with (
        a_served_gateway(connections=4, connections_per_address=2) as served,
        a_connection(served) as first, a_connection(served) as second,
    ):  # fmt: skip
        assert await is_served(first)
        assert await is_served(second)
        async with a_connection(served) as third:
            await is_turned_away(third)
        async with a_connection(served, source="127.0.0.2") as of_another:
            assert await is_served(of_another)
        assert await is_served(first)
        await second.stream.aclose()
        await soon_served(served)


async def test_all_together_have_so_many_connections() -> None:
    async with (
        a_served_gateway(connections=2, connections_per_address=2) as served,
        a_connection(served, source="127.0.0.2") as first, a_connection(served, source="127.0.0.3") as second,
    ):  # fmt: skip
        assert await is_served(first)
        assert await is_served(second)
        async with a_connection(served) as third:
            await is_turned_away(third)
        assert await is_served(second)


async def soon_served(served: Served) -> None:
    """The place of a connection that ended is free at once, but for the turn that it takes to see its end."""
    with trio.fail_after(5):
        while True:
            async with a_connection(served) as connection:
                await connection.send(connection.head("GET", "/livez"))
                if (await connection.answer())[0] == 200:
                    return
            await trio.sleep(0.01)


async def test_a_head_that_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.2)
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(b"GET /livez HTTP/1.1\r\nX: ")
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await drip(connection, b"x")


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 0.2)
    monkeypatch.setattr(connections, "SLOWEST_READ_PER_S", 1e9)
    async with a_served_gateway(connections=1) as served, a_connection(served, buffer=4096) as connection:
        with trio.move_on_after(1):  # its end may come before all is written
            await connection.send(connection.head("GET", "/openapi.json") * 300)
        await soon_served(served)


async def test_a_client_that_does_not_read_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(delivery=DeliverySettings(drain_grace_s=0.2))
    with trio.fail_after(5):
        async with a_served_gateway(world) as served, a_connection(served, buffer=4096) as connection:
            with trio.move_on_after(0.3):
                await connection.send(connection.head("GET", "/openapi.json") * 300)
            served.stop.set()


async def test_a_fault_in_one_connection_is_the_end_of_that_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = connections._sound

    def stumble(request: h11.Request) -> h11.Request:
        if request.target == b"/stumble":
            raise KeyError("as a library might")
        return sound(request)

    monkeypatch.setattr(connections, "_sound", stumble)
    async with a_served_gateway() as served, a_connection(served) as one, a_connection(served) as another:
        await one.send(one.head("GET", "/stumble"))
        assert await one.ended()
        assert await is_served(another)


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_a_network_that_is_one_customers_counts_as_one_address(host: str, counted: str) -> None:
    assert connections.counted_as(host) == counted


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60))
def test_the_gate_holds_its_bounds_and_forgets_who_left(steps: list[tuple[bool, str]]) -> None:
    gate = connections.Gate(5, 3)
    inside: list[str] = []
    for enters, address in steps:
        if enters:
            let_in = gate.enter(address)
            assert let_in == (len(inside) < 5 and inside.count(address) < 3)
            inside += [address] * let_in
        elif address in inside:
            gate.leave(address)
            inside.remove(address)
    for address in inside:
        gate.leave(address)
    assert not gate._of


def test_clients_leave_the_stores_their_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert (room_for(1000), told) == (1000, [(1256, 4096)])
    assert (room_for(10_000), told[-1]) == (4096 - OTHER_FILES, (4096, 4096))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (room_for(10_000), len(told)) == (10_000, 2)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /v1//messages HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/messages/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /%ff%2e%2e/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
    ids=["1.0", "absolute", "two slashes", "null", "not utf-8", "asterisk"],
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
