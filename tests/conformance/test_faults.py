"""The fault matrix: what can go wrong between us and an HTTP provider, cell by cell, for every kind.

Each cell says what the attempt comes to. The server's own count then shows what was sent: after each fault the message
is given to the courier again, as delivery would do, and is sent twice only where the first outcome was `unknown`.
A server that is not there, and one that loses or never gives its answer, are in `test_every_kind` for all kinds.
What a kind makes of an answer is the same over both HTTP clients, so the plain one goes through the matrix with one.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Channel, Message
from heliograph.actors.model.provider import HttpClient
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.conformance.rigs import CHANNELS, RIG_TIMEOUT_S, an_order, http_settings
from tests.support.builders import a_call
from tests.support.certificates import Authority
from tests.support.emulators import APIS, Emulator, Mode, running

KINDS: Final = sorted(CHANNELS)
EACH: Final = [*((kind, HttpClient.FAST) for kind in KINDS), ("bulksms", HttpClient.HTTPX)]
PATIENCE_S: Final = 0.1
STALLED_S: Final = 0.3  # the timeout, where the server keeps us waiting for ever
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Cell:
    """`taken`: whether the server has taken the message by the end of the first call."""

    name: str
    mode: Mode
    outcome: Outcome
    taken: bool
    raw: bytes = b""
    timeout_s: float = RIG_TIMEOUT_S

    def __str__(self) -> str:
        return self.name


CELLS: Final = (
    Cell("slow headers, in time", Mode.SLOW, Outcome.ACCEPTED, taken=True),
    Cell("slow body, in time", Mode.TRICKLE, Outcome.ACCEPTED, taken=True),
    Cell("slow headers, too slow", Mode.STALLED_HEAD, Outcome.UNKNOWN, taken=True, timeout_s=STALLED_S),
    Cell("slow body, too slow", Mode.STALLED, Outcome.UNKNOWN, taken=True, timeout_s=STALLED_S),
    Cell("cut before the answer, the message taken", Mode.LOST, Outcome.UNKNOWN, taken=True),
    Cell("cut before the answer, the message dropped", Mode.DROP, Outcome.UNKNOWN, taken=False),
    Cell("cut inside the head", Mode.CUT_HEAD, Outcome.UNKNOWN, taken=True),
    Cell("cut inside the body", Mode.CUT, Outcome.UNKNOWN, taken=True),
    Cell("cut after the body, which ends so", Mode.CUT_AFTER, Outcome.ACCEPTED, taken=True),
    Cell("cut after the body, unannounced", Mode.HANGUP, Outcome.ACCEPTED, taken=True),
    Cell("garbage", Mode.GARBAGE, Outcome.UNKNOWN, taken=True),
    Cell("somebody's page", Mode.HTML, Outcome.UNKNOWN, taken=True),
    Cell("an oversized answer", Mode.ENDLESS, Outcome.UNKNOWN, taken=True),
    Cell("a redirect", Mode.REDIRECT, Outcome.MISCONFIGURED, taken=False),
    Cell("100 and 103 before the answer", Mode.EARLY_HINTS, Outcome.ACCEPTED, taken=True),
    Cell("101 in place of the answer", Mode.RAW, Outcome.UNKNOWN, taken=True, raw=SWITCHING),
)


class Begun:
    """A right to call, counted."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@dataclass(frozen=True, slots=True)
class Line:
    """One courier and its server."""

    courier: Courier
    emulator: Emulator
    order: Callable[..., Message]

    async def send(self, message: Message, number: int = 1, begun: Begun | None = None) -> Answer:
        (answer,) = await self.courier.send([a_call(message, number)], begun or Begun())
        return answer


@asynccontextmanager
async def opened(kind: str, tls: ssl.SSLContext | None = None, **fields: Any) -> AsyncIterator[Line]:
    async with running(APIS[kind](), tls) as emulator:
        emulator.delay_s = 0.05
        courier = build(http_settings(kind, fields.pop("url", emulator.url), **fields))
        try:
            yield Line(courier, emulator, an_order(CHANNELS[kind]))
        finally:
            await courier.aclose()


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Time passes where nothing else goes on, so that a busy machine alone is no time-out."""
    return trio.testing.MockClock(autojump_threshold=PATIENCE_S)


@pytest.fixture(params=["in the clear", "over TLS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext | None:
    """The server's side; this process trusts who signed for it."""
    if request.param == "in the clear":
        return None
    authority = Authority.new(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file()))
    return authority.server()


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize(("kind", "client"), EACH)
async def test_a_fault_comes_to_what_is_known_and_sends_nothing_twice(
    kind: str, client: HttpClient, cell: Cell, tls: ssl.SSLContext | None, patient_clock: trio.testing.MockClock
) -> None:
    async with opened(kind, tls, timeout_s=cell.timeout_s, http_client=client) as line:
        line.emulator.set(cell.mode, times=1, raw=cell.raw)
        message, begun = line.order(), Begun()
        answer = await line.send(message, begun=begun)
        assert answer.outcome is cell.outcome
        assert (begun.times, line.emulator.seen.calls) == (1, 1)
        assert line.emulator.seen.taken.total() == int(cell.taken)
        if answer.outcome is not Outcome.ACCEPTED:
            assert answer.detail
            assert (await line.send(message, 2)).outcome is Outcome.ACCEPTED
        assert line.emulator.seen.taken.total() <= (2 if cell.outcome is Outcome.UNKNOWN else 1)
        await trio.testing.wait_all_tasks_blocked(0.02)  # until the server has hung up, where it does
        assert (await line.send(line.order())).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(("kind", "client"), EACH)
async def test_a_kept_connection_closed_while_idle_is_no_attempt(
    kind: str, client: HttpClient, tls: ssl.SSLContext | None
) -> None:
    async with opened(kind, tls, http_client=client) as line:
        line.emulator.set(Mode.HANGUP)
        for _ in range(3):
            begun = Begun()
            assert (await line.send(line.order(), begun=begun)).outcome is Outcome.ACCEPTED
            assert begun.times == 1
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert line.emulator.seen.taken.total() == line.emulator.seen.calls == line.emulator.seen.connections == 3


@pytest.mark.parametrize(("kind", "client"), EACH)
async def test_a_kept_connection_closed_under_a_whole_request_is_unknown_and_not_written_again(
    kind: str, client: HttpClient, tls: ssl.SSLContext | None
) -> None:
    async with opened(kind, tls, http_client=client) as line:
        assert (await line.send(line.order())).outcome is Outcome.ACCEPTED
        line.emulator.set(Mode.DROP, times=1)
        assert (await line.send(line.order())).outcome is Outcome.UNKNOWN
        assert (line.emulator.seen.calls, line.emulator.seen.connections) == (2, 1)


# ------------------------------------------------------------------------------- what never reaches the provider


async def never_sent(line: Line) -> Answer:
    """Of a call that fails before its first byte, without using its right."""
    begun = Begun()
    answer = await line.send(line.order(), begun=begun)
    assert (begun.times, line.emulator.seen.calls, line.emulator.seen.taken.total()) == (0, 0, 0)
    return answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["localhost", "other.example"])
async def test_a_certificate_that_does_not_verify_is_the_configurations_fault(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Authority.new(tmp_path), Authority.new(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.file()))
    async with opened(kind, (theirs if name == "localhost" else ours).server(name)) as line:
        answer = await never_sent(line)
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "certificate")
        assert "does not verify" in (answer.detail or "")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_speaks_no_tls_defers(kind: str) -> None:
    async with opened(kind) as plain:
        url = plain.emulator.url.replace("http:", "https:")
        async with opened(kind, url=url) as line:
            assert (await never_sent(line)).outcome is Outcome.DEFERRED
        assert plain.emulator.seen.calls == 0


async def hangs_up(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)


async def stalls(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    await trio.sleep_forever()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", [hangs_up, stalls])
async def test_a_handshake_that_does_not_end_defers(
    kind: str, server: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, server, 0)
        url = f"https://localhost:{listeners[0].socket.getsockname()[1]}"
        async with opened(kind, url=url, timeout_s=STALLED_S if server is stalls else RIG_TIMEOUT_S) as line:
            assert (await never_sent(line)).outcome is Outcome.DEFERRED
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_name_without_an_address_defers(kind: str) -> None:
    async with opened(kind, url="http://no-such-host.invalid") as line:
        answer = await never_sent(line)
        assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "unreachable")
        assert "no-such-host.invalid" in (answer.detail or "")


# ------------------------------------------------------------------------------------------------ shared calls


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [(Mode.LOST, Outcome.UNKNOWN), (Mode.CUT, Outcome.UNKNOWN), (Mode.UNAVAILABLE, Outcome.DEFERRED)],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_shared_call_that_fails_comes_to_the_same_for_each_of_its_messages(
    kind: str, mode: Mode, outcome: Outcome
) -> None:
    async with opened(kind, batch=10) as line:
        sms = CHANNELS[kind] is Channel.SMS
        people = [f"+9198765432{n}" if sms else f"asha{n}@example.net" for n in range(10, 13)]
        messages = [line.order(to) for to in people]
        assert len({line.courier.batch_key(message) for message in messages} - {None}) == 1
        line.emulator.set(mode, times=1)
        answers = await line.courier.send([a_call(message) for message in messages], Begun())
        assert [answer.outcome for answer in answers] == [outcome] * 3
        assert line.emulator.seen.taken == (dict.fromkeys(people, 1) if outcome is Outcome.UNKNOWN else {})
        assert line.emulator.seen.calls == 1
