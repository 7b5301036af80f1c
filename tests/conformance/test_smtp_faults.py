"""The fault matrix of SMTP: what can go wrong at each point of the dialogue, cell by cell.

The server counts what it took. After each fault the message is given to the courier again, as delivery would do, and is
taken twice only where the first outcome was `unknown`.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Attachment, Channel, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.support.builders import a_call, a_provider, an_email
from tests.support.certificates import Authority
from tests.support.emulators.postmaster import Fault, Postmaster, Stage, postmaster

LOGIN: Final = ("shop", "open sesame 16")
QUICK_S: Final = 0.25  # the timeout, where the server keeps us waiting for ever
PATIENT_S: Final = 5.0
WAITS: Final = {Fault.SILENT, Fault.OVERSIZED}
LARGE: Final = Attachment(filename="a", content_type="a/b", content_base64=base64.b64encode(bytes(4_000_000)).decode())
"""More than the buffers between two sockets hold, so that the server is seen to break off before the final dot."""
OPENING: Final = (Stage.GREETING, Stage.HELLO, Stage.TLS, Stage.HANDSHAKE, Stage.LOGIN)
SENDING: Final = (Stage.SENDER, Stage.RECIPIENT, Stage.DATA, Stage.CONTENT, Stage.END)
BREAKS: Final = tuple(fault for fault in Fault if fault is not Fault.SLOW)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def secure(authority: Authority) -> Secure:
    return Secure(authority.server(), str(authority.file()))


@dataclass(frozen=True, slots=True)
class Secure:
    """The server's side of TLS, and the file that the client's side trusts."""

    server: ssl.SSLContext
    ca_file: str


class Begun:
    """A right to call, counted."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@dataclass(frozen=True, slots=True)
class Line:
    """One courier and its server, with STARTTLS and a login between them."""

    courier: Courier
    server: Postmaster

    async def send(self, message: Message, number: int = 1, begun: Begun | None = None) -> Answer:
        (answer,) = await self.courier.send([a_call(message, number)], begun or Begun())
        return answer


def settings(port: int, **fields: Any) -> ProviderSettings:
    known: dict[str, Any] = {
        "host": "localhost",
        "port": port,
        "tls": "starttls",
        "credentials": dict(zip(("username", "password"), LOGIN, strict=True)),
        "sender": "Shop <hi@shop.in>",
        "timeout_s": PATIENT_S,
    }
    return a_provider("smtp", Channel.EMAIL, **known | fields)


@asynccontextmanager
async def opened(secure: Secure, *, pipelining: bool = True, timeout_s: float = PATIENT_S) -> AsyncIterator[Line]:
    offers = ("SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", *(("PIPELINING",) if pipelining else ()))
    async with postmaster(starttls=secure.server, login=LOGIN, offers=offers) as server:
        options = {"ca_file": secure.ca_file, "final_answer": "0s"}
        courier = build(settings(server.port, timeout_s=timeout_s, options=options))
        try:
            yield Line(courier, server)
        finally:
            await courier.aclose()


def expected(stage: Stage) -> Outcome:
    return Outcome.UNKNOWN if stage is Stage.END else Outcome.DEFERRED


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("stage", [*OPENING, *SENDING])
async def test_only_a_break_after_the_final_dot_leaves_it_open_whether_the_mail_was_taken(
    stage: Stage, fault: Fault, pipelining: bool, secure: Secure
) -> None:
    quick = fault in WAITS or (stage, fault) == (Stage.CONTENT, Fault.ENDLESS)  # where neither side reads
    async with opened(secure, pipelining=pipelining, timeout_s=QUICK_S if quick else PATIENT_S) as line:
        message = an_email(attachments=(LARGE,) if stage is Stage.CONTENT else ())
        line.server.play(stage, fault)
        begun = Begun()
        answer = await line.send(message, begun=begun)
        assert answer.outcome is expected(stage)
        assert answer.code
        assert str(stage) in (answer.detail or "") or stage in (
            Stage.HANDSHAKE,
            Stage.SENDER,
            Stage.DATA,
            Stage.RECIPIENT,
        )
        assert begun.times == (stage in SENDING)
        assert line.server.taken == ({message.to: 1} if stage is Stage.END else {})


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RESET, Fault.GARBAGE])
@pytest.mark.parametrize("stage", [*OPENING, *SENDING])
async def test_given_again_it_is_taken_once_unless_nobody_could_know(
    stage: Stage, fault: Fault, secure: Secure
) -> None:
    async with opened(secure) as line:
        message = an_email(attachments=(LARGE,) if stage is Stage.CONTENT else ())
        line.server.play(stage, fault)
        first = await line.send(message)
        assert (await line.send(message, 2)).outcome is Outcome.ACCEPTED
        assert line.server.taken == {message.to: 2 if first.outcome is Outcome.UNKNOWN else 1}
        assert {mail.message_id for mail in line.server.mails} == {f"<{message.id}@shop.in>"}


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RESET])
async def test_a_session_that_breaks_at_its_next_mail_is_no_attempt(fault: Fault, secure: Secure) -> None:
    async with opened(secure) as line:
        assert (await line.send(an_email())).outcome is Outcome.ACCEPTED
        line.server.play(Stage.SENDER, fault)
        begun = Begun()
        assert (await line.send(an_email(), begun=begun)).outcome is Outcome.ACCEPTED
        assert (begun.times, line.server.connections, line.server.taken.total()) == (2, 2, 2)


@pytest.mark.parametrize("stage", SENDING[1:])
async def test_a_session_that_breaks_later_is_not_used_for_a_silent_second_try(stage: Stage, secure: Secure) -> None:
    async with opened(secure, pipelining=False) as line:
        assert (await line.send(an_email())).outcome is Outcome.ACCEPTED
        line.server.play(stage, Fault.CUT)
        answer = await line.send(an_email(attachments=(LARGE,) if stage is Stage.CONTENT else ()))
        assert (answer.outcome, line.server.connections) == (expected(stage), 1)


async def test_a_server_that_is_slow_at_every_step_but_in_time_takes_the_mail(secure: Secure) -> None:
    async with opened(secure, pipelining=False) as line:
        for stage in (*OPENING, *SENDING):
            if stage not in (Stage.HANDSHAKE, Stage.CONTENT):
                line.server.play(stage, Fault.SLOW)
        assert (await line.send(an_email())).outcome is Outcome.ACCEPTED
        assert line.server.taken.total() == 1


async def test_a_server_that_stops_reading_within_the_content_defers(secure: Secure) -> None:
    async with opened(secure, timeout_s=QUICK_S) as line:
        line.server.play(Stage.CONTENT, Fault.SILENT)
        answer = await line.send(an_email(attachments=(LARGE,)))
        assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "timeout")
        assert line.server.taken.total() == 0


async def test_the_answer_to_the_dot_is_waited_for_beyond_the_timeout() -> None:
    async with postmaster(login=LOGIN, delay_s=2 * QUICK_S) as server:
        wanted = settings(server.port, tls="none", timeout_s=QUICK_S, options={"final_answer": "5s"})
        courier = build(wanted)
        server.play(Stage.END, Fault.SLOW)
        (answer,) = await courier.send([a_call(an_email())], Begun())
        await courier.aclose()
    assert answer.outcome is Outcome.ACCEPTED
    assert courier.longest_call_s >= QUICK_S + 5


async def test_a_server_that_says_why_before_it_hangs_up_is_heard() -> None:
    async with postmaster(login=LOGIN) as server:
        courier = build(settings(server.port, tls="none"))
        server.play(Stage.CONTENT, b"552 5.3.4 that is too much\r\n")
        (answer,) = await courier.send([a_call(an_email(attachments=(LARGE,)))], Begun())
        await courier.aclose()
    assert (answer.outcome, answer.code) == (Outcome.REJECTED, "552 5.3.4")
    assert server.taken.total() == 0


# ------------------------------------------------------------------------------------------- never a connection


async def never_connected(wanted: ProviderSettings) -> Answer:
    courier, begun = build(wanted), Begun()
    (answer,) = await courier.send([a_call(an_email())], begun)
    await courier.aclose()
    assert begun.times == 0
    return answer


async def test_a_refused_connection_defers(unused_port: int) -> None:
    answer = await never_connected(settings(unused_port))
    assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "unreachable")
    assert "refused" in (answer.detail or "")


async def test_a_name_that_the_dns_does_not_know_defers() -> None:
    answer = await never_connected(settings(25, host="mail.invalid"))
    assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "unreachable")
    assert "mail.invalid:25" in (answer.detail or "")


@pytest.mark.parametrize(
    "host", ["a" * 70 + ".in", "mail host", "mail\r\n.in", "https://mail.in", "mail.in:587", "[::1"]
)
def test_a_host_that_can_have_no_address_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="host"):
        build(settings(25, host=host))


@pytest.mark.parametrize("host", ["mail.in", "localhost", "192.0.2.1", "::1", "bücher.example", "mail_1.internal"])
def test_a_host_may_be_a_name_or_an_address(host: str) -> None:
    build(settings(25, host=host))


async def test_a_server_that_accepts_and_says_nothing_defers() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    answer = await never_connected(settings(port, timeout_s=QUICK_S))
    await listeners[0].aclose()
    assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "timeout")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_strangers_certificate_sends_nothing_not_even_the_password(
    tls: str, secure: Secure, tmp_path: Path
) -> None:
    stranger = Authority.new(tmp_path)
    async with postmaster(**{tls: stranger.server()}, login=LOGIN) as server:
        wanted = settings(server.port, tls=tls, options={"ca_file": secure.ca_file})
        answer = await never_connected(wanted)
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "certificate")
        assert (server.logins, server.taken.total()) == (0, 0)
        assert "AUTH" not in server.commands
