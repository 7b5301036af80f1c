"""The HTTP wire over real sockets: what was written decides what a lost call means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from heliograph.actors.model.errors import RightLapsed
from heliograph.providers.wire import Base, LineTransport, Loss, WireAnswer, WireFailure, WireRequest
from tests.support.certificates import Authority
from tests.support.emulators import Emulator, Mode, running
from tests.support.emulators.server import Api, Request, Response


class Echo(Api):
    """Answers every call with what it was sent."""

    def handle(self, request: Request) -> Response:
        self.seen.take(request.body.decode("latin-1"), None, "")
        return Response(200, request.body, (("x-echo", request.target),))

    refuse = handle

    def unauthorized(self) -> Response:
        return Response(401)


POST = WireRequest(method="POST", target="/echo?a=b", headers=(("x-own", "1"),), body=b"hello")


def begin() -> None:
    """A right that holds."""


def lapse() -> None:
    raise RightLapsed("too late")


def transport_to(emulator: Emulator, timeout_s: float = 5.0, **how: object) -> LineTransport:
    return LineTransport(Base.parse(emulator.url), timeout_s=timeout_s, **how)


async def exchanged(transport: LineTransport, request: WireRequest = POST) -> WireAnswer:
    answer = await transport.exchange(request, begin)
    assert isinstance(answer, WireAnswer)
    return answer


async def lost(transport: LineTransport, request: WireRequest = POST) -> WireFailure:
    failure = await transport.exchange(request, begin)
    assert isinstance(failure, WireFailure)
    return failure


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with running(Echo()) as opened:
        yield opened


@pytest.fixture
async def transport(emulator: Emulator) -> AsyncIterator[LineTransport]:
    opened = transport_to(emulator)
    yield opened
    await opened.aclose()


async def test_an_answer_comes_whole_with_its_headers(emulator: Emulator, transport: LineTransport) -> None:
    answer = await exchanged(transport)
    assert (answer.status, answer.body, answer.whole) == (200, b"hello", True)
    assert answer.headers["x-echo"] == "/echo?a=b"
    assert answer.at_s > 1_700_000_000
    seen = emulator.requests[-1].headers
    assert seen["host"] == f"localhost:{emulator.port}"
    assert seen["x-own"] == "1"


async def test_one_connection_serves_calls_in_a_row(emulator: Emulator, transport: LineTransport) -> None:
    for _ in range(5):
        await exchanged(transport)
    assert emulator.seen.connections == 1


async def test_calls_at_once_open_lines_of_their_own_and_keep_them(
    emulator: Emulator, transport: LineTransport
) -> None:
    emulator.set(Mode.SLOW, delay_s=0.05)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(exchanged, transport)
    assert emulator.seen.connections == 4


async def test_a_refused_right_writes_nothing_and_keeps_the_line(emulator: Emulator, transport: LineTransport) -> None:
    for _ in range(3):
        with pytest.raises(RightLapsed):
            await transport.exchange(POST, lapse)
    assert emulator.seen.calls == 0
    await exchanged(transport)
    assert emulator.seen.connections == 1


async def test_a_line_that_was_closed_while_idle_is_replaced_without_a_word(
    emulator: Emulator, transport: LineTransport
) -> None:
    emulator.set(Mode.HANGUP)
    for _ in range(3):
        answer = await exchanged(transport)
        assert answer.whole
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert emulator.seen.taken == {"hello": 3}
    assert emulator.seen.connections == 3


async def test_a_used_line_that_breaks_under_the_head_is_replaced_and_asks_for_its_right_again(
    emulator: Emulator, transport: LineTransport
) -> None:
    """The race that `usable` cannot see: closed between the look and the write."""
    await exchanged(transport)
    (line,) = transport._idle
    begun = 0

    def begin_and_break() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            line._socket.shutdown(trio.socket.SHUT_WR)

    answer = await transport.exchange(POST, begin_and_break)
    assert isinstance(answer, WireAnswer)
    assert begun == 2
    assert emulator.seen.taken == {"hello": 2}


async def test_a_fresh_line_that_breaks_under_the_head_is_not_sent(
    emulator: Emulator, transport: LineTransport
) -> None:
    with pytest.raises(RightLapsed):
        await transport.exchange(POST, lapse)
    (line,) = transport._idle
    failure = await transport.exchange(POST, lambda: line._socket.shutdown(trio.socket.SHUT_WR))
    assert isinstance(failure, WireFailure)
    assert failure.loss is Loss.NOT_SENT
    assert emulator.seen.calls == 0


@pytest.mark.parametrize("mode", [Mode.DROP, Mode.LOST, Mode.GARBAGE])
async def test_a_call_that_was_written_and_not_answered_is_unanswered(
    emulator: Emulator, transport: LineTransport, mode: Mode
) -> None:
    emulator.set(mode)
    assert (await lost(transport)).loss is Loss.UNANSWERED
    emulator.set(Mode.OK)
    assert (await exchanged(transport)).whole


async def test_silence_ends_with_the_timeout(emulator: Emulator) -> None:
    transport = transport_to(emulator, timeout_s=0.2)
    emulator.set(Mode.SILENT)
    failure = await lost(transport)
    assert (failure.loss, failure.code) == (Loss.UNANSWERED, "timeout")


async def test_a_body_that_breaks_off_is_told_with_its_status(emulator: Emulator, transport: LineTransport) -> None:
    emulator.set(Mode.CUT)
    answer = await exchanged(transport)
    assert (answer.status, answer.whole, answer.body) == (200, False, b"he")


async def test_a_body_that_never_ends_is_cut_at_the_limit(emulator: Emulator) -> None:
    transport = transport_to(emulator, most_bytes=100_000)
    emulator.set(Mode.ENDLESS)
    answer = await exchanged(transport)
    assert not answer.whole
    assert len(answer.body) < 300_000


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok", 201, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil it closes", 200, b"until it closes"),
        (b"HTTP/1.1 204 No Content\r\nx-odd: caf\xe9\r\n\r\n", 204, b""),
    ],
)
async def test_other_forms_of_http_are_read(
    emulator: Emulator, transport: LineTransport, raw: bytes, status: int, body: bytes
) -> None:
    emulator.set(Mode.RAW, raw=raw)
    answer = await exchanged(transport)
    assert (answer.status, answer.body, answer.whole) == (status, body, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
    ],
)
async def test_odd_answers_are_lost_and_never_an_error(
    emulator: Emulator, transport: LineTransport, raw: bytes
) -> None:
    emulator.set(Mode.RAW, raw=raw)
    assert (await lost(transport)).loss is Loss.UNANSWERED


async def test_an_early_refusal_of_a_large_body_is_read(emulator: Emulator, transport: LineTransport) -> None:
    """A server that answers 413 after the head, and hangs up while we are still writing."""

    async def refusing(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await stream.send_eof()
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, refusing, 0)
        port = listeners[0].socket.getsockname()[1]
        transport = LineTransport(Base.parse(f"http://127.0.0.1:{port}"), timeout_s=5)
        large = WireRequest(method="POST", target="/", body=b"x" * 3_000_000)
        answer = await exchanged(transport, large)
        assert (answer.status, answer.whole) == (413, True)
        await transport.aclose()
        nursery.cancel_scope.cancel()


async def test_nobody_listening_is_not_sent(unused_port: int) -> None:
    failure = await lost(LineTransport(Base.parse(f"http://127.0.0.1:{unused_port}"), timeout_s=5))
    assert (failure.loss, failure.code) == (Loss.NOT_SENT, "unreachable")
    assert "Connection refused" in failure.detail


async def test_a_host_without_an_address_is_not_sent() -> None:
    failure = await lost(LineTransport(Base.parse("http://no-such-host.invalid"), timeout_s=5))
    assert (failure.loss, failure.code) == (Loss.NOT_SENT, "unreachable")


async def test_a_connection_that_does_not_come_is_not_sent_when_time_is_up() -> None:
    """A listener with a full backlog: the handshake of TCP never ends."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_occupy, port)
            await trio.testing.wait_all_tasks_blocked(0.05)
            failure = await lost(LineTransport(Base.parse(f"http://127.0.0.1:{port}"), timeout_s=0.3))
            nursery.cancel_scope.cancel()
    assert (failure.loss, failure.code) == (Loss.NOT_SENT, "timeout")


async def _occupy(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port):
        await trio.sleep_forever()


class TestTls:
    async def test_a_trusted_server_is_spoken_to_on_one_connection(self, tmp_path: Path) -> None:
        authority = Authority.new(tmp_path)
        async with running(Echo(), authority.server()) as emulator:
            transport = transport_to(emulator, trust=authority.client)
            for _ in range(3):
                assert (await exchanged(transport)).body == b"hello"
            assert emulator.seen.connections == 1
            await transport.aclose()

    async def test_a_refused_right_keeps_the_line_though_tickets_wait_on_it(self, tmp_path: Path) -> None:
        authority = Authority.new(tmp_path)
        async with running(Echo(), authority.server()) as emulator:
            transport = transport_to(emulator, trust=authority.client)
            for _ in range(3):
                with pytest.raises(RightLapsed):
                    await transport.exchange(POST, lapse)
                await trio.testing.wait_all_tasks_blocked(0.02)
            await exchanged(transport)
            assert emulator.seen.connections == 1
            await transport.aclose()

    async def test_a_line_closed_by_the_server_is_replaced(self, tmp_path: Path) -> None:
        authority = Authority.new(tmp_path)
        async with running(Echo(), authority.server()) as emulator:
            transport = transport_to(emulator, trust=authority.client)
            emulator.set(Mode.HANGUP)
            for _ in range(3):
                await exchanged(transport)
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert emulator.seen.taken == {"hello": 3}
            await transport.aclose()

    @pytest.mark.parametrize("name", ["localhost", "other.example"])
    async def test_a_certificate_that_does_not_verify_is_untrusted(self, tmp_path: Path, name: str) -> None:
        ours, theirs = Authority.new(tmp_path), Authority.new(tmp_path)
        server = (theirs if name == "localhost" else ours).server(name)
        async with running(Echo(), server) as emulator:
            failure = await lost(transport_to(emulator, trust=ours.client))
            assert (failure.loss, failure.code) == (Loss.UNTRUSTED, "certificate")
            assert emulator.seen.calls == 0

    async def test_a_server_that_speaks_no_tls_is_not_sent(self, tmp_path: Path, emulator: Emulator) -> None:
        base = Base.parse(emulator.url.replace("http:", "https:"))
        failure = await lost(LineTransport(base, timeout_s=5, trust=Authority.new(tmp_path).client))
        assert failure.loss is Loss.NOT_SENT


@pytest.mark.parametrize(
    ("url", "authority", "prefix"),
    [
        ("https://api.example.com", "api.example.com", ""),
        ("https://api.example.com:443/", "api.example.com", ""),
        ("http://127.0.0.1:5077/mock/", "127.0.0.1:5077", "/mock"),
        ("http://[::1]:80", "[::1]", ""),
    ],
)
def test_a_base_url_is_taken_apart(url: str, authority: str, prefix: str) -> None:
    base = Base.parse(url)
    assert (base.authority, base.prefix) == (authority, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://a.b",
        "https://",
        "https://a.b?q=1",
        "https://u:p@a.b",
        "https://a.b:x",
        "http://ä.b",
    ],
)
def test_what_no_call_could_go_to_is_no_base_url(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Base.parse(url)
