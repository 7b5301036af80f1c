"""The fast way says what the plain one says, and takes only what the plain one would read in the same way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import h11
import orjson
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.settings import Server
from heliograph.gateway import hot
from heliograph.gateway.app import hot_of, make_app
from heliograph.gateway.front import Front
from heliograph.gateway.hot import MOST_HEAD_BYTES, recognise
from tests.support.gateway_world import SMS, World
from tests.support.lines import Lines

ONE = "msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True, params=[Server.FAST])
def server(request: pytest.FixtureRequest) -> Server:
    """These compare the two servers themselves."""
    return Server(request.param)


def asks(line: str, *headers: str, key: str | None = "KEY", body: bytes | None = None) -> bytes:
    named = ["Host: localhost", *([f"X-API-Key: {key}"] if key else []), *headers]
    if body is not None:
        named += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([f"{line} HTTP/1.1", *named, "", ""]).encode("latin-1") + (body or b"")


def posts(posted: Any, *headers: str, to: str = "/v1/messages", **how: Any) -> bytes:
    return asks(f"POST {to}", *headers, body=orjson.dumps(posted), **how)


def batch(*items: Any) -> dict[str, Any]:
    return {"messages": list(items)}


HOT: dict[str, bytes] = {
    "live": asks("GET /livez", key=None),
    "ready": asks("GET /readyz", key=None),
    "a message": posts(SMS),
    "by the other header": posts(SMS, "Authorization: Bearer KEY", key=None),
    "in both headers": posts(SMS, "authorization: bearer KEY"),
    "two keys": posts(SMS, "Authorization: Bearer ANOTHER"),
    "no key": posts(SMS, key=None),
    "a key that is none": posts(SMS, key="sesame"),
    "without the scope": posts(SMS, key="READER"),
    "reading without the scope": asks(f"GET /v1/messages/{ONE}", key="WRITER"),
    "a trace": posts(SMS, f"traceparent: {TRACE}"),
    "a request's id": posts(SMS, "X-Request-Id: abc-17"),
    "an odd request's id": posts(SMS, "X-Request-Id: <b>"),
    "an idempotency key": posts(SMS, "Idempotency-Key: k1") * 2,
    "one for two bodies": posts(SMS, "Idempotency-Key: k2") + posts({**SMS, "text": "x"}, "Idempotency-Key: k2"),
    "an idempotency key too long": posts(SMS, f"Idempotency-Key: {'k' * 256}"),
    "wrong": posts({**SMS, "to": "me", "colour": 7}),
    "no json": asks("POST /v1/messages", body=b"{"),
    "no body": asks("POST /v1/messages", body=b""),
    "deep": asks("POST /v1/messages", body=b"[" * 5000 + b"]" * 5000),
    "later": posts({**SMS, "send_at": "2026-11-25T12:00:00Z", "tags": ["é"]}),
    "a batch": posts(batch(SMS, {**SMS, "to": "me"}, SMS), to="/v1/messages/batch"),
    "a batch with keys": posts(batch({**SMS, "idempotency_key": "a"}, SMS), to="/v1/messages/batch") * 2,
    "an empty batch": posts(batch(), to="/v1/messages/batch"),
    "a message that is not there": asks(f"GET /v1/messages/{ONE}"),
    "kept alive": asks("GET /livez", "Connection: Keep-Alive") * 3,
    "several in one": posts(SMS) + asks("GET /livez") + posts(batch(SMS), to="/v1/messages/batch"),
}

LEFT: dict[str, bytes] = {
    "no type": asks("POST /v1/messages", "Content-Length: 2") + b"{}",
    "another type": asks("POST /v1/messages", "Content-Type: text/plain", "Content-Length: 2") + b"{}",
    "a query": asks("GET /livez?a=b"),
    "a list": asks("GET /v1/messages"),
    "another method": asks("PUT /v1/messages", "Content-Length: 0"),
    "a method for pages": asks("POST /livez", "Content-Length: 0"),
    "head": asks("HEAD /livez"),
    "nowhere": asks("GET /nowhere"),
    "a bad id": asks("GET /v1/messages/msg_1"),
    "an id in small letters": asks(f"GET /v1/messages/{ONE.lower()}"),
    "a slash too many": asks("GET /livez/"),
    "absolute": asks("GET http://localhost/livez"),
    "escaped": asks("GET /live%7a"),
    "asterisk": asks("OPTIONS *"),
    "1.0": b"GET /livez HTTP/1.0\r\n\r\n",
    "1.0 kept alive": b"GET /livez HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "closing": asks("GET /livez", "Connection: close"),
    "closing in a list": asks("GET /livez", "Connection: keep-alive, close"),
    "upgrade": asks("GET /livez", "Connection: Upgrade", "Upgrade: h2c"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": asks("GET /livez", "Host: b"),
    "an odd host": b"GET /livez HTTP/1.1\r\nHost: a b/@\r\n\r\n",
    "two lengths": asks("POST /v1/messages", "Content-Length: 2", "Content-Length: 2") + b"{}",
    "two different lengths": asks("POST /v1/messages", "Content-Length: 2", "Content-Length: 3") + b"{}",
    "a list of lengths": asks("POST /v1/messages", "Content-Length: 2, 2") + b"{}",
    "a signed length": asks("POST /v1/messages", "Content-Length: +2") + b"{}",
    "a length in hexadecimal": asks("POST /v1/messages", "Content-Length: 0x2") + b"{}",
    "a length of 30 digits": asks("POST /v1/messages", f"Content-Length: {'0' * 29}2") + b"{}",
    "a length too long": asks("POST /v1/messages", f"Content-Length: {'9' * 30}") + b"{}",
    "a length on a get": asks("GET /livez", "Content-Length: 2") + b"{}" + asks("GET /livez"),
    "a length and chunks": asks("POST /v1/messages", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks": asks("POST /v1/messages", "Content-Type: application/json", "Transfer-Encoding: chunked")
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(orjson.dumps(SMS)), orjson.dumps(SMS)),
    "chunks with a trailer": asks("POST /v1/messages", "Content-Type: application/json", "Transfer-Encoding: chunked")
    + b"2;x=y\r\n{}\r\n0\r\nX: y\r\n\r\n"
    + asks("GET /livez"),
    "a bad chunk": asks("POST /v1/messages", "Content-Type: application/json", "Transfer-Encoding: chunked") + b"g\r\n",
    "another coding": asks("POST /v1/messages", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "expecting": asks("POST /v1/messages", "Expect: 100-continue", body=orjson.dumps(SMS)),
    "a space before the colon": b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n",
    "a space before a name": b"GET /livez HTTP/1.1\r\n Host: a\r\n\r\n",
    "a folded line": asks("GET /livez", "X: a\r\n b"),
    "a bare line feed": b"GET /livez HTTP/1.1\nHost: a\n\n",
    "a line feed in a value": asks("GET /livez", "X: a\nY: b"),
    "a return in a value": asks("GET /livez", "X: a\rb"),
    "a null": asks("GET /livez", "X: \0"),
    "latin": asks("GET /livez", "X-Request-Id: \xe9"),
    "an empty value": asks("GET /livez", "X-Request-Id:"),
    "no space after the colon": asks("GET /livez", "X-Request-Id:a"),
    "tabs": asks("GET /livez", "X-Request-Id:\ta\t"),
    "a name with an underscore": asks("GET /livez", "x_request_id: a"),
    "a header twice": asks("GET /livez", "X-Request-Id: a", "x-request-id: b"),
    "a key twice": posts(SMS, "X-API-Key: KEY"),
    "two spaces": b"GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab in the line": b"GET\t/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a small method": asks("get /livez"),
    "a small version": b"GET /livez http/1.1\r\nHost: a\r\n\r\n",
    "blank lines first": b"\r\n\r\n" + asks("GET /livez"),
    "a null in the target": asks("GET /livez\0"),
    "a long head": asks("GET /livez", f"X: {'x' * MOST_HEAD_BYTES}"),
    "too long a head": asks("GET /livez", f"X: {'x' * 40_000}"),
    "many headers": asks("GET /livez", *(f"X{n}: y" for n in range(500))),
    "no http": b"NONSENSE\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
"""What is none of the plainest: h11 reads it."""


class Twins:
    """The same world twice, one behind each server. Keys are known by short names."""

    def __init__(self, worlds: Sequence[World], lines: Sequence[Lines], secrets: Sequence[dict[bytes, bytes]]) -> None:
        self.worlds = worlds
        self.lines = lines
        self.secrets = secrets

    @classmethod
    async def new(cls) -> Twins:
        worlds = World(), World()
        lines = []
        secrets = []
        for world, fast in zip(worlds, (False, True), strict=True):
            front = Front(world.services)
            lines.append(Lines(make_app(world.services, front), hot_of(front) if fast else None))
            made = {b"READER": [ScopeName.MESSAGES_READ], b"WRITER": [ScopeName.MESSAGES_WRITE], b"KEY": []}
            secrets.append({name: (await world.key(*scopes)).encode() for name, scopes in made.items()})
        return cls(worlds, lines, secrets)

    async def both(self, pieces: Sequence[bytes]) -> list[bytes]:
        return [
            _settled(await lines.said([_named(piece, secrets) for piece in pieces]))
            for lines, secrets in zip(self.lines, self.secrets, strict=True)
        ]

    def counted(self) -> list[dict[Any, float]]:
        return [
            {
                tuple(sorted(sample.labels.items())): sample.value
                for family in world.registry.collect()
                for sample in family.samples
                if sample.name in ("heliograph_http_requests_total", "heliograph_http_request_duration_seconds_count")
            }
            for world in self.worlds
        ]


def _named(piece: bytes, secrets: dict[bytes, bytes]) -> bytes:
    return re.sub(rb"\b(READER|WRITER|KEY)\b(?=\r)", lambda name: secrets[name[1]], piece)


def _settled(said: bytes) -> bytes:
    """With one word for what is drawn anew each time, and headers in one order."""
    said = re.sub(rb"(msg|key|req)_[0-9a-zA-Z]+", rb"\1_X", re.sub(rb"\r\ndate: [^\r]*", b"", said))
    return re.sub(rb"(?<=\r\n)(?:[a-z-]+: [^\r\n]*\r\n)+", _sorted, said)


def _sorted(lines: re.Match[bytes]) -> bytes:
    return b"".join(sorted(lines[0].splitlines(keepends=True)))


@pytest.mark.parametrize("name", [*HOT, *LEFT])
async def test_both_servers_say_and_count_the_same(name: str, autojump_clock: trio.abc.Clock) -> None:
    twins = await Twins.new()
    plain, fast = await twins.both([(HOT | LEFT)[name]])
    assert fast == plain
    counted = twins.counted()
    assert counted[0] == counted[1]
    assert len(twins.worlds[0].accepted) == len(twins.worlds[1].accepted)
    assert [m.traceparent for a in twins.worlds[0].accepted for m in a.messages] == [
        m.traceparent for a in twins.worlds[1].accepted for m in a.messages
    ]


@pytest.mark.parametrize("name", list(HOT))
def test_what_is_asked_most_is_recognised(name: str) -> None:
    assert recognise(HOT[name]) is not None


def test_a_message_is_read_with_its_id() -> None:
    found = recognise(asks(f"GET /v1/messages/{ONE}"))
    assert found is not None
    assert found.path == f"/v1/messages/{ONE}"


TOKENS = st.sampled_from(
    [
        b"GET", b"POST", b"HEAD", b" ", b"  ", b"\t", b"/livez", b"/v1/messages", b"/v1/messages/batch", ONE.encode(),
        b"?a=b", b"/%2e", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b":", b": ", b"Host", b"localhost", b"a,b",
        b"Content-Length", b"2", b"0", b"-1", b"Transfer-Encoding", b"chunked", b"Connection", b"close", b"keep-alive",
        b"Expect", b"100-continue", b"Upgrade", b"X", b"y z", b"\xe9", b"\0", b"{}",
    ]
)  # fmt: skip
GARBAGE = st.lists(TOKENS | st.binary(max_size=4), max_size=40).map(b"".join)
SHORT = [data for data in HOT.values() if len(data) < 2000]
# A list shows messages of one instant in no order.
SHORT_LEFT = [data for name, data in LEFT.items() if len(data) < 2000 and name != "a list"]
CHANGED = st.tuples(st.sampled_from(SHORT + SHORT_LEFT), st.integers(0, 2000), TOKENS, st.integers(0, 3)).map(
    lambda of: of[0][: of[1]] + of[2] + of[0][of[1] + of[3] :]
)


@given(GARBAGE | CHANGED)
@example(HOT["a message"])
@settings(max_examples=1500)
def test_what_is_recognised_is_read_by_h11_as_the_same(data: bytes) -> None:
    found = recognise(data)
    if found is None:
        return
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target.decode(), event.http_version) == (found.method, found.path, b"1.1")
    named = {name.decode(): value.decode() for name, value in event.headers}
    assert len(named) == len(list(event.headers))
    assert all(found.headers.get(name.title()) == value for name, value in named.items())
    assert not {"transfer-encoding", "expect", "upgrade"} & set(named)
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += bytes(event.data)
    assert (event is h11.NEED_DATA) == (len(data) < found.head_bytes + found.body_bytes)
    assert body == data[found.head_bytes : found.head_bytes + found.body_bytes]


def _pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    begins = [0, *ends]
    yield from (data[a:b] for a, b in zip(begins, ends, strict=False) if a < b)


@cache
def _twins() -> Twins:
    """Of all examples: making an application takes longer than asking it."""
    return trio.run(Twins.new)


def _said(server: int, data: bytes, cuts: Sequence[int]) -> bytes:
    """By one of the twins, in virtual time."""
    twins = _twins()
    pieces = _pieces(_named(data, twins.secrets[server]), cuts)
    return _settled(trio.run(twins.lines[server].said, pieces, clock=trio.testing.MockClock(autojump_threshold=0)))


@given(
    st.lists(st.sampled_from(SHORT), min_size=1, max_size=4),
    st.sampled_from([b"", *SHORT_LEFT]),
    st.lists(st.integers(0, 4000), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_however_it_is_cut_the_answers_are_the_same(several: list[bytes], last: bytes, cuts: list[int]) -> None:
    data = b"".join(several) + last
    assert _said(1, data, cuts) == _said(0, data, [])


@given(GARBAGE | CHANGED, st.lists(st.integers(0, 2000), max_size=4))
@settings(max_examples=150, deadline=None)
def test_garbage_is_no_fault_of_ours_and_holds_nothing_up(data: bytes, cuts: list[int]) -> None:
    with capture_logs() as logs:
        said = _said(1, data, cuts)
    assert logs == []
    assert all(status[:1] in b"1234" for status in re.findall(rb"HTTP/1.1 (\d\d\d) ", said))


# ---------------------------------------------------------------------------------------------- bodies to come


@pytest.mark.parametrize("key", ["KEY", "READER", "nobody"])
async def test_a_body_that_comes_later_is_waited_for(key: str, autojump_clock: trio.abc.Clock) -> None:
    twins = await Twins.new()
    whole = posts(SMS, key=key)
    plain, fast = await twins.both([whole[:-40], whole[-40:-20], whole[-20:] + asks("GET /livez")])
    assert fast == plain
    assert fast.count(b"HTTP/1.1 ") == 2


async def test_a_body_that_is_late_is_the_plain_connections_to_wait_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    twins = await Twins.new()
    lines, secrets = twins.lines[1], twins.secrets[1]
    whole = _named(posts(SMS), secrets)
    async with lines.line() as stream:
        await stream.send_all(whole[:-20])
        await trio.sleep(hot.REST_S * 3)
        await stream.send_all(whole[-20:])
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 202")
    async with lines.line() as stream:
        await stream.send_all(whole[:-20])
        with trio.fail_after(30):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408")


async def test_a_body_that_ends_early_has_no_effect(autojump_clock: trio.abc.Clock) -> None:
    twins = await Twins.new()
    lines, secrets = twins.lines[1], twins.secrets[1]
    async with lines.line() as stream:
        await stream.send_all(_named(posts(SMS), secrets)[:-20])
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()
        assert not (await stream.receive_some()).startswith(b"HTTP/1.1 2")
    assert twins.worlds[1].accepted == []
