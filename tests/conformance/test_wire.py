"""The HTTP wire over real sockets, by both transports: what was written decides what a lost call means.

What the plain one leaves to httpx and does coarser is at the end, as is what only our own lines can promise.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from heliograph.actors.model.errors import RightLapsed
from heliograph.providers.lines import LineTransport
from heliograph.providers.pooled import PooledTransport
from heliograph.providers.wire import IDLE_S, Base, Loss, Transport, WireAnswer, WireFailure, WireRequest
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


Connect = Callable[..., Transport]
"""To where, and how: `timeout_s` is 5 unless given."""
Serve = Callable[[trio.SocketStream], Awaitable[None]]
TRANSPORTS: Final[dict[str, Callable[..., Transport]]] = {"fast": LineTransport, "httpx": PooledTransport}
LATE_S: Final = 10.0
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def exchanged(transport: Transport, request: WireRequest = POST) -> WireAnswer:
    answer = await transport.exchange(request, begin)
    assert isinstance(answer, WireAnswer)
    return answer


async def lost(transport: Transport, request: WireRequest = POST) -> WireFailure:
    failure = await transport.exchange(request, begin)
    assert isinstance(failure, WireFailure)
    return failure


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with running(Echo()) as opened:
        yield opened


@asynccontextmanager
async def connecting(kind: str) -> AsyncIterator[Connect]:
    opened: list[Transport] = []

    def connect(url: str, timeout_s: float = 5.0, **how: Any) -> Transport:
        opened.append(TRANSPORTS[kind](Base.parse(url), timeout_s=timeout_s, **how))
        return opened[-1]

    yield connect
    for transport in opened:
        await transport.aclose()


@pytest.fixture(params=TRANSPORTS)
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    async with connecting(request.param) as opened:
        yield opened


@pytest.fixture
async def connect_line() -> AsyncIterator[Connect]:
    async with connecting("fast") as opened:
        yield opened


@pytest.fixture
async def transport(emulator: Emulator, connect: Connect) -> Transport:
    return connect(emulator.url)


@pytest.fixture
async def lines(emulator: Emulator, connect_line: Connect) -> Transport:
    return connect_line(emulator.url)


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Its address. Nothing is answered that `serve` does not."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


class Answering:
    """A server that answers each POST with exactly these bytes, and keeps the line."""

    def __init__(self, *answers: bytes) -> None:
        self.connections = 0
        self._answers = list(answers)

    async def __call__(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        while data := await stream.receive_some(65536):
            if data.endswith(POST.body):
                await stream.send_all(self._answers.pop(0))


async def test_an_answer_comes_whole_with_its_headers(emulator: Emulator, transport: Transport) -> None:
    answer = await exchanged(transport)
    assert (answer.status, answer.body, answer.whole) == (200, b"hello", True)
    assert answer.headers["x-echo"] == "/echo?a=b"
    assert answer.at_s > 1_700_000_000
    seen = emulator.requests[-1].headers
    assert seen["host"] == f"localhost:{emulator.port}"
    assert seen["x-own"] == "1"
    assert seen["user-agent"].startswith("heliograph/")
    assert seen["accept-encoding"] == "identity"


async def test_a_target_is_sent_as_it_was_signed(emulator: Emulator, transport: Transport) -> None:
    target = "/a%2Fb//c/../d?x=%7e&y=a+b'(*)"
    await exchanged(transport, WireRequest(method="GET", target=target))
    assert emulator.requests[-1].target == target


@pytest.mark.parametrize("value", ["1\r\nx-other: 2", "1\nx-other: 2", "\0", "é"])
async def test_a_header_cannot_write_another(emulator: Emulator, transport: Transport, value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        await transport.exchange(WireRequest(method="GET", target="/", headers=(("x-own", value),)), begin)
    assert emulator.seen.calls == 0


async def test_one_connection_serves_calls_in_a_row(emulator: Emulator, transport: Transport) -> None:
    for _ in range(5):
        await exchanged(transport)
    assert emulator.seen.connections == 1


async def test_calls_at_once_open_lines_of_their_own_and_keep_them(emulator: Emulator, transport: Transport) -> None:
    emulator.set(Mode.SLOW, delay_s=0.05)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(exchanged, transport)
    assert emulator.seen.connections == 4


async def test_a_refused_right_writes_nothing(emulator: Emulator, transport: Transport) -> None:
    for _ in range(3):
        with pytest.raises(RightLapsed):
            await transport.exchange(POST, lapse)
    assert emulator.seen.calls == 0
    await exchanged(transport)
    assert emulator.seen.taken == {"hello": 1}


async def test_a_line_that_was_closed_while_idle_is_replaced_without_a_word(
    emulator: Emulator, transport: Transport
) -> None:
    emulator.set(Mode.HANGUP)
    for _ in range(3):
        answer = await exchanged(transport)
        assert answer.whole
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert emulator.seen.taken == {"hello": 3}
    assert emulator.seen.connections == 3


def socket_of(transport: Transport) -> Any:
    """Of its only idle connection."""
    if isinstance(transport, LineTransport):
        return transport._idle[0]._socket
    assert isinstance(transport, PooledTransport)
    return transport._pool._pool.connections[0]._connection._network_stream.get_extra_info("socket")  # type: ignore[attr-defined]


async def test_a_used_line_that_breaks_under_the_head_is_replaced_and_asks_for_its_right_again(
    emulator: Emulator, transport: Transport
) -> None:
    """The race that no look can see: closed between the look and the write."""
    await exchanged(transport)
    broken = socket_of(transport)
    begun = 0

    def begin_and_break() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            broken.shutdown(trio.socket.SHUT_WR)

    answer = await transport.exchange(POST, begin_and_break)
    assert isinstance(answer, WireAnswer)
    assert begun == 2
    assert emulator.seen.taken == {"hello": 2}


@pytest.mark.parametrize("mode", [Mode.DROP, Mode.LOST, Mode.GARBAGE])
async def test_a_call_that_was_written_and_not_answered_is_unanswered_and_not_written_again(
    emulator: Emulator, transport: Transport, mode: Mode
) -> None:
    await exchanged(transport)
    emulator.set(mode)
    failure = await lost(transport)
    assert (failure.loss, emulator.seen.calls) == (Loss.UNANSWERED, 2)
    assert failure.code == ("garbled" if mode is Mode.GARBAGE else "disconnected")
    emulator.set(Mode.OK)
    assert (await exchanged(transport)).whole


async def test_a_call_that_is_cancelled_costs_its_line_and_no_other_call(
    emulator: Emulator, transport: Transport
) -> None:
    emulator.set(Mode.SILENT, times=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchanged, transport)
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
    other = WireRequest(method="POST", target="/", body=b"other")
    assert (await exchanged(transport, other)).body == b"other"
    assert emulator.seen.connections == 2


async def test_a_body_that_breaks_off_is_told_with_its_status(emulator: Emulator, transport: Transport) -> None:
    emulator.set(Mode.CUT)
    answer = await exchanged(transport)
    assert (answer.status, answer.whole, answer.body) == (200, False, b"he")


async def test_a_body_that_never_ends_is_cut_at_the_limit(emulator: Emulator, connect: Connect) -> None:
    emulator.set(Mode.ENDLESS)
    answer = await exchanged(connect(emulator.url, most_bytes=100_000))
    assert not answer.whole
    assert len(answer.body) < 300_000


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok", 201, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil it closes", 200, b"until it closes"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", 200, b"until it closes"),
        (b"HTTP/1.1 204 No Content\r\nx-odd: caf\xe9\r\n\r\n", 204, b""),
    ],
)
async def test_other_forms_of_http_are_read(
    emulator: Emulator, transport: Transport, raw: bytes, status: int, body: bytes
) -> None:
    emulator.set(Mode.RAW, raw=raw)
    answer = await exchanged(transport)
    assert (answer.status, answer.body, answer.whole) == (status, body, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 150_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
    ],
)
async def test_odd_answers_are_lost_and_never_an_error(emulator: Emulator, transport: Transport, raw: bytes) -> None:
    emulator.set(Mode.RAW, raw=raw)
    assert (await lost(transport)).loss is Loss.UNANSWERED


async def test_a_line_is_kept_unless_its_server_says_otherwise(connect: Connect) -> None:
    server = Answering(OK, OK.replace(b"content", b"connection: Close\r\ncontent"), OK)
    async with serving(server) as url:
        transport = connect(url)
        for connections in (1, 1, 2):
            assert (await exchanged(transport)).body == b"ok"
            assert server.connections == connections


async def test_a_large_answer_in_pieces_is_whole(connect: Connect) -> None:
    body = bytes(range(256)) * 4096
    server = Answering(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), OK)
    async with serving(server) as url:
        transport = connect(url, most_bytes=2_000_000)
        assert (await exchanged(transport)).body == body
        assert (await exchanged(transport)).body == b"ok"
        assert server.connections == 1


async def test_an_early_refusal_of_a_large_body_is_read(connect: Connect) -> None:
    """A server that answers 413 after the head, and hangs up while we are still writing."""

    async def refusing(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await stream.send_eof()
        async for _ in stream:
            pass

    async with serving(refusing) as url:
        answer = await exchanged(connect(url), WireRequest(method="POST", target="/", body=b"x" * 3_000_000))
        assert (answer.status, answer.whole) == (413, True)


async def test_nobody_listening_is_not_sent(connect: Connect, unused_port: int) -> None:
    failure = await lost(connect(f"http://127.0.0.1:{unused_port}"))
    assert (failure.loss, failure.code) == (Loss.NOT_SENT, "unreachable")
    assert "Connection refused" in failure.detail


async def test_a_host_without_an_address_is_not_sent(connect: Connect) -> None:
    failure = await lost(connect("http://no-such-host.invalid"))
    assert (failure.loss, failure.code) == (Loss.NOT_SENT, "unreachable")


class TestTimeIsUp:
    """In each phase of a call. The time is virtual, the sockets are not."""

    async def ended(
        self, transport: Transport, clock: trio.testing.MockClock, request: WireRequest = POST
    ) -> WireAnswer | WireFailure:
        """The result of a call that gets no further."""
        results: list[WireAnswer | WireFailure] = []

        async def call() -> None:
            results.append(await transport.exchange(request, begin))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert not results
            clock.jump(LATE_S)
        return results[0]

    async def test_before_a_connection_nothing_was_sent(
        self, connect: Connect, mock_clock: trio.testing.MockClock
    ) -> None:
        """A listener with a full backlog: the handshake of TCP never ends."""
        with trio.socket.socket() as listener:
            await listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(_occupy, port)
                await trio.testing.wait_all_tasks_blocked(0.05)
                failure = await self.ended(connect(f"http://127.0.0.1:{port}"), mock_clock)
                nursery.cancel_scope.cancel()
        assert isinstance(failure, WireFailure)
        assert (failure.loss, failure.code) == (Loss.NOT_SENT, "timeout")

    async def test_inside_the_handshake_nothing_was_sent(
        self, connect: Connect, mock_clock: trio.testing.MockClock, tmp_path: Path
    ) -> None:
        async with serving(_stalling) as url:
            transport = connect(url.replace("http:", "https:"), trust=Authority.new(tmp_path).client)
            failure = await self.ended(transport, mock_clock)
        assert isinstance(failure, WireFailure)
        assert (failure.loss, failure.code) == (Loss.NOT_SENT, "timeout")

    @pytest.mark.parametrize(("in_head", "loss"), [(True, Loss.NOT_SENT), (False, Loss.UNANSWERED)])
    async def test_while_writing_it_depends_on_what_the_system_has_taken(
        self, connect: Connect, mock_clock: trio.testing.MockClock, in_head: bool, loss: Loss
    ) -> None:
        much = "x" * 12_000_000
        request = WireRequest(method="POST", target="/", headers=(("x-much", much),), body=b"{}")
        if not in_head:
            request = WireRequest(method="POST", target="/", body=much.encode())
        async with serving(_stalling) as url:
            failure = await self.ended(connect(url), mock_clock, request)
        assert isinstance(failure, WireFailure)
        assert (failure.loss, failure.code) == (loss, "timeout")

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"])
    async def test_without_a_whole_head_nobody_knows(
        self, connect: Connect, mock_clock: trio.testing.MockClock, answer: bytes
    ) -> None:
        async with serving(Answering(answer)) as url:
            failure = await self.ended(connect(url), mock_clock)
        assert isinstance(failure, WireFailure)
        assert (failure.loss, failure.code) == (Loss.UNANSWERED, "timeout")

    @pytest.mark.parametrize(
        "told", [b"content-length: 9\r\n\r\nhe", b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n", b"\r\nhe"]
    )
    async def test_inside_a_body_the_status_is_told(
        self, connect: Connect, mock_clock: trio.testing.MockClock, told: bytes
    ) -> None:
        async with serving(Answering(b"HTTP/1.1 503 Busy\r\n" + told)) as url:
            answer = await self.ended(connect(url), mock_clock)
        assert isinstance(answer, WireAnswer)
        assert (answer.status, answer.body, answer.whole) == (503, b"he", False)


async def _occupy(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port):
        await trio.sleep_forever()


async def _stalling(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


class TestTls:
    async def test_a_trusted_server_is_spoken_to_on_one_connection(self, connect: Connect, tmp_path: Path) -> None:
        authority = Authority.new(tmp_path)
        async with running(Echo(), authority.server()) as emulator:
            transport = connect(emulator.url, trust=authority.client)
            for _ in range(3):
                assert (await exchanged(transport)).body == b"hello"
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert emulator.seen.connections == 1

    async def test_what_is_larger_than_any_record_goes_both_ways(self, connect: Connect, tmp_path: Path) -> None:
        authority = Authority.new(tmp_path)
        body = bytes(range(256)) * 12_000
        async with running(Echo(), authority.server()) as emulator:
            transport = connect(emulator.url, trust=authority.client, most_bytes=4_000_000)
            for _ in range(2):
                answer = await exchanged(transport, WireRequest(method="POST", target="/", body=body))
                assert answer.body == body
            assert emulator.seen.connections == 1

    async def test_a_line_closed_by_the_server_is_replaced(self, connect: Connect, tmp_path: Path) -> None:
        authority = Authority.new(tmp_path)
        async with running(Echo(), authority.server()) as emulator:
            transport = connect(emulator.url, trust=authority.client)
            emulator.set(Mode.HANGUP)
            for _ in range(3):
                await exchanged(transport)
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert emulator.seen.taken == {"hello": 3}

    @pytest.mark.parametrize("name", ["localhost", "other.example"])
    async def test_a_certificate_that_does_not_verify_is_untrusted(
        self, connect: Connect, tmp_path: Path, name: str
    ) -> None:
        ours, theirs = Authority.new(tmp_path), Authority.new(tmp_path)
        server = (theirs if name == "localhost" else ours).server(name)
        async with running(Echo(), server) as emulator:
            failure = await lost(connect(emulator.url, trust=ours.client))
            assert (failure.loss, failure.code) == (Loss.UNTRUSTED, "certificate")
            assert "does not verify" in failure.detail
            assert emulator.seen.calls == 0

    async def test_a_server_that_speaks_no_tls_is_not_sent(
        self, connect: Connect, tmp_path: Path, emulator: Emulator
    ) -> None:
        url = emulator.url.replace("http:", "https:")
        failure = await lost(connect(url, trust=Authority.new(tmp_path).client))
        assert (failure.loss, failure.code) == (Loss.NOT_SENT, "tls")


class TestOurLines:
    """What only they promise."""

    async def test_a_refused_right_keeps_the_line(self, emulator: Emulator, lines: Transport) -> None:
        for _ in range(3):
            with pytest.raises(RightLapsed):
                await lines.exchange(POST, lapse)
        await exchanged(lines)
        assert emulator.seen.connections == 1

    async def test_a_refused_right_keeps_the_line_though_tickets_wait_on_it(
        self, connect_line: Connect, tmp_path: Path
    ) -> None:
        authority = Authority.new(tmp_path)
        async with running(Echo(), authority.server()) as emulator:
            transport = connect_line(emulator.url, trust=authority.client)
            for _ in range(3):
                with pytest.raises(RightLapsed):
                    await transport.exchange(POST, lapse)
                await trio.testing.wait_all_tasks_blocked(0.02)
            await exchanged(transport)
            assert emulator.seen.connections == 1

    async def test_a_fresh_line_that_breaks_under_the_head_is_not_sent(
        self, emulator: Emulator, lines: Transport
    ) -> None:
        with pytest.raises(RightLapsed):
            await lines.exchange(POST, lapse)
        broken = socket_of(lines)
        failure = await lines.exchange(POST, lambda: broken.shutdown(trio.socket.SHUT_WR))
        assert isinstance(failure, WireFailure)
        assert failure.loss is Loss.NOT_SENT
        assert emulator.seen.calls == 0

    @pytest.mark.parametrize(
        "answer",
        [
            OK + b"HTTP/1.1 500 Not yours\r\ncontent-length: 0\r\n\r\n",
            OK + b"\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 500 X\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
    )
    async def test_what_comes_beyond_an_answer_or_may_be_meant_so_ends_the_line(
        self, connect_line: Connect, answer: bytes
    ) -> None:
        server = Answering(answer, OK)
        async with serving(server) as url:
            transport = connect_line(url)
            for _ in range(2):
                told = await exchanged(transport)
                assert (told.status, told.body) == (200, b"ok")
            assert server.connections == 2

    async def test_what_comes_later_and_unasked_ends_the_line(self, connect_line: Connect) -> None:
        more = trio.Event()

        async def talkative(stream: trio.SocketStream) -> None:
            await stream.receive_some(65536)
            await stream.send_all(OK)
            await more.wait()
            await stream.send_all(b"HTTP/1.1 408 Too slow\r\ncontent-length: 0\r\n\r\n")
            await trio.sleep_forever()

        async with serving(talkative) as url:
            transport = connect_line(url)
            assert (await exchanged(transport)).status == 200
            more.set()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert (await exchanged(transport)).status == 200

    async def test_a_refusal_is_read_though_its_server_neither_reads_on_nor_closes(self, connect_line: Connect) -> None:
        server = Answering(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nless", OK)

        async def refusing(stream: trio.SocketStream) -> None:
            await server(stream) if server.connections else await _refuse(stream)

        async def _refuse(stream: trio.SocketStream) -> None:
            server.connections += 1
            await stream.receive_some(1000)
            await stream.send_all(server._answers.pop(0))
            await trio.sleep_forever()

        async with serving(refusing) as url:
            transport = connect_line(url)
            answer = await exchanged(transport, WireRequest(method="POST", target="/", body=b"x" * 12_000_000))
            assert (answer.status, answer.body, answer.whole) == (413, b"less", True)
            assert (await exchanged(transport)).body == b"ok"
            assert server.connections == 2

    async def test_each_of_many_calls_has_its_own_time(
        self, emulator: Emulator, lines: Transport, mock_clock: trio.testing.MockClock
    ) -> None:
        emulator.set(Mode.SILENT)
        ended: list[float] = []

        async def call() -> None:
            assert (await lost(lines)).code == "timeout"
            ended.append(trio.current_time())

        for _ in range(2):  # the second time when nobody looked at the clock any more
            ended.clear()
            began_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call)
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    mock_clock.jump(2)
                for _ in range(3):
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    mock_clock.jump(2)
            assert [moment - began_s for moment in ended] == [6, 8, 10]
        emulator.set(Mode.OK)
        assert (await exchanged(lines)).whole

    async def test_a_call_that_was_long_in_coming_to_its_line_has_no_more_time_than_others(
        self, connect_line: Connect, mock_clock: trio.testing.MockClock, tmp_path: Path
    ) -> None:
        authority, go_on = Authority.new(tmp_path), trio.Event()
        waits = [go_on.wait, trio.lowlevel.checkpoint]

        async def serve(stream: trio.SocketStream) -> None:
            await waits.pop(0)()
            tls = trio.SSLStream(stream, authority.server(), server_side=True)
            await tls.do_handshake()
            await trio.sleep_forever()

        ended: list[float] = []

        async def call() -> None:
            assert (await lost(transport)).loss is Loss.UNANSWERED
            ended.append(trio.current_time() - began_s)

        async with serving(serve) as url, trio.open_nursery() as nursery:
            transport = connect_line(url.replace("http://127.0.0.1", "https://localhost"), trust=authority.client)
            began_s = trio.current_time()
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(1)
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            go_on.set()
            for _ in range(6):
                await trio.testing.wait_all_tasks_blocked(0.05)
                mock_clock.jump(1)
        assert ended == [5, 6]

    async def test_a_line_rests_no_longer_than_its_server_is_patient(
        self, connect_line: Connect, mock_clock: trio.testing.MockClock
    ) -> None:
        server = Answering(OK.replace(b"content", b"keep-alive: max=9, timeout=5\r\ncontent"), OK, OK, OK)
        async with serving(server) as url:
            transport = connect_line(url)
            for rest_s, connections in ((4.1, 1), (IDLE_S - 1, 2), (IDLE_S + 1, 2), (0, 3)):
                await exchanged(transport)
                assert server.connections == connections
                mock_clock.jump(rest_s)

    async def test_lines_that_grew_old_under_newer_ones_are_closed(
        self, emulator: Emulator, lines: Transport, mock_clock: trio.testing.MockClock
    ) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(exchanged, lines)
        mock_clock.jump(IDLE_S - 1)
        await exchanged(lines)
        mock_clock.jump(IDLE_S - 1)
        for _ in range(2):
            await exchanged(lines)
        assert isinstance(lines, LineTransport)
        assert len(lines._idle) == 1
        assert emulator.seen.connections == 3

    async def test_closing_takes_leave_as_tls_asks_for(self, connect_line: Connect, tmp_path: Path) -> None:
        """Without it the server's stream would break."""
        authority = Authority.new(tmp_path)
        ends: list[bytes] = []

        async def serve(stream: trio.SocketStream) -> None:
            tls = trio.SSLStream(stream, authority.server(), server_side=True)
            await tls.receive_some(65536)
            await tls.send_all(OK)
            ends.append(bytes(await tls.receive_some(1)))

        async with serving(serve) as url:
            transport = connect_line(url.replace("http://127.0.0.1", "https://localhost"), trust=authority.client)
            await exchanged(transport)
            await transport.aclose()
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert ends == [b""]

    async def test_a_call_on_its_way_when_all_are_closed_keeps_no_line(
        self, emulator: Emulator, lines: Transport
    ) -> None:
        emulator.set(Mode.SLOW, delay_s=0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchanged, lines)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await lines.aclose()
        assert isinstance(lines, LineTransport)
        assert not lines._idle

    async def test_over_tls_the_right_and_the_first_byte_are_one(self, connect_line: Connect, tmp_path: Path) -> None:
        """No other task has a turn between them."""
        authority = Authority.new(tmp_path)
        turns: list[str] = []

        class Watched(ssl.SSLSocket):
            def send(self, data: Any, flags: int = 0) -> int:
                turns.append("byte")
                return super().send(data, flags)

        def watched() -> ssl.SSLContext:
            context = authority.client()
            context.sslsocket_class = Watched
            return context

        async def another() -> None:
            while True:
                turns.append("turn")
                await trio.lowlevel.checkpoint()

        async with running(Echo(), authority.server()) as emulator, trio.open_nursery() as nursery:
            nursery.start_soon(another)
            transport = connect_line(emulator.url, trust=watched)
            await transport.exchange(POST, lambda: turns.append("right"))
            nursery.cancel_scope.cancel()
        assert turns[turns.index("right") + 1] == "byte"


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
