"""The SMTP and Gmail couriers against aiosmtpd, over real sockets and real TLS."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography.hazmat.primitives.serialization import Encoding

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.errors import ConfigurationError, RightLapsed
from heliograph.actors.model.message import Attachment, Channel, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.support.builders import a_call, a_provider, an_email
from tests.support.certificates import Authority
from tests.support.emulators.smtp import LOGIN, Mode, Smtp

CREDENTIALS = dict(zip(("username", "password"), LOGIN, strict=True))


LARGE = Attachment(filename="a", content_type="a/b", content_base64=base64.b64encode(bytes(12_000_000)).decode())
"""More than the buffers between two sockets hold."""


def begin() -> None:
    """The right holds."""


def settings(port: int, kind: str = "smtp", **fields: Any) -> ProviderSettings:
    known: dict[str, Any] = {
        "host": "localhost",
        "port": port,
        "tls": "none",
        "sender": "Shop <hi@shop.in>",
        "timeout_s": 5.0,
    }
    return a_provider(kind, Channel.EMAIL, **known | fields)


@asynccontextmanager
async def courier_of(wanted: ProviderSettings) -> AsyncIterator[Courier]:
    courier = build(wanted)
    try:
        yield courier
    finally:
        await courier.aclose()


async def send(courier: Courier, message: Message, right: Callable[[], None] = begin) -> Answer:
    (answer,) = await courier.send([a_call(message)], right)
    return answer


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def trusting(authority: Authority) -> dict[str, str]:
    """Options of a provider that trusts our own authority."""
    file = authority.folder / "authority.pem"
    file.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return {"ca_file": str(file)}


# ------------------------------------------------------------------------------------------------------ the mail


async def test_the_mail_arrives_as_it_was_written() -> None:
    message = an_email(
        "asha@example.net",
        subject="बिल, ₹ 500",
        text=".a line with a dot\n..two\nFrom here on\nनमस्ते",
        html="<p>नमस्ते</p>",
        cc=("Ravi <ravi@example.net>",),
        bcc=("audit@shop.in",),
        headers=(("List-Unsubscribe", "<https://shop.in/u/" + "t" * 200 + ">"),),
        attachments=(Attachment(filename="बिल.pdf", content_type="application/pdf", content_base64="AAECAw=="),),
    )
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            answer = await send(courier, message)
    assert (answer.outcome, answer.code) == (Outcome.ACCEPTED, "250 2.0.0")
    assert answer.provider_message_id == "OK queued as 00000001"
    assert server.seen.mails[-1].rcpt_tos == ["asha@example.net", "ravi@example.net", "audit@shop.in"]
    mail = server.seen.last
    assert (mail["subject"], str(mail["to"])) == ("बिल, ₹ 500", "asha@example.net")
    assert mail["message-id"] == f"<{message.id}@shop.in>"
    assert mail["list-unsubscribe"] == "<https://shop.in/u/" + "t" * 200 + ">"
    assert b"audit@shop.in" not in (server.seen.mails[-1].content or b"")
    plain = mail.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().replace("\r\n", "\n") == ".a line with a dot\n..two\nFrom here on\nनमस्ते\n"
    assert [part.get_filename() for part in mail.iter_attachments()] == ["बिल.pdf"]


@pytest.mark.parametrize("offers", [(), ("PIPELINING",)])
async def test_it_speaks_to_servers_that_offer_nothing(offers: tuple[str, ...]) -> None:
    with Smtp(offers=offers, hides=("SIZE", "8BITMIME", "SMTPUTF8")) as server:
        async with courier_of(settings(server.port)) as courier:
            answer = await send(courier, an_email(text="नमस्ते", cc=("b@x.in",)))
    assert answer.outcome is Outcome.ACCEPTED
    assert server.seen.commands[0] == "MAIL"
    assert (server.seen.mails[-1].content or b"").isascii()


async def test_a_server_that_takes_eight_bits_gets_them() -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            await send(courier, an_email(text="नमस्ते"))
    assert "BODY=8BITMIME" in server.seen.commands[0]
    assert "नमस्ते".encode() in (server.seen.mails[-1].content or b"")


async def test_an_address_outside_ascii_needs_smtputf8() -> None:
    message = an_email("आशा@उदाहरण.भारत")
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            assert (await send(courier, message)).outcome is Outcome.ACCEPTED
    assert server.seen.mails[-1].rcpt_tos == ["आशा@xn--p1b6ci4b4b3a.xn--h2brj9c"]
    assert "SMTPUTF8" in server.seen.commands[0]
    with Smtp(utf8=False) as server:
        async with courier_of(settings(server.port)) as courier:
            assert courier.takes(message) is None
            answer = await send(courier, message)
            assert (answer.outcome, answer.code, answer.scope) == (Outcome.DEFERRED, "no_smtputf8", Scope.MESSAGE)
            assert courier.takes(message) == "address", "what the server cannot do is known from here on"
            assert (await send(courier, an_email("asha@उदाहरण.भारत"))).outcome is Outcome.ACCEPTED
    assert server.seen.taken == {"asha@xn--p1b6ci4b4b3a.xn--h2brj9c": 1}


async def test_a_large_mail_arrives_whole_even_if_its_first_slot_passes() -> None:
    data = os.urandom(9_000_000)
    bill = Attachment(
        filename="a.bin", content_type="application/octet-stream", content_base64=base64.b64encode(data).decode()
    )
    message, rights = an_email(attachments=(bill,)), iter([True, False])

    def lapses_once() -> None:
        if next(rights):
            raise RightLapsed

    with Smtp() as server:
        async with courier_of(settings(server.port, timeout_s=20.0)) as courier:
            with pytest.raises(RightLapsed):
                await send(courier, message, lapses_once)
            assert (await send(courier, message, lapses_once)).outcome is Outcome.ACCEPTED
    (part,) = server.seen.last.iter_attachments()
    assert part.get_content() == data
    assert server.seen.connections == 1


async def test_a_mail_above_the_servers_size_is_not_even_begun() -> None:
    bill = Attachment(filename="a", content_type="a/b", content_base64=base64.b64encode(bytes(200_000)).decode())
    with Smtp(size=100_000) as server:
        async with courier_of(settings(server.port)) as courier:
            answer = await send(courier, an_email(attachments=(bill,)))
            assert (answer.outcome, answer.code) == (Outcome.REJECTED, "unsendable")
            assert "100000" in (answer.detail or "")
            assert server.seen.commands == []


@pytest.mark.parametrize(
    "content",
    [
        {"subject": "Hi\r\nBcc: x@evil.in"},
        {"subject": "=?UTF-8?Q?=0A?=Bcc: x@evil.in"},
        {"headers": (("X-A\r\nBcc", "x@evil.in"),)},
        {"headers": (("X-A", "b\r\nBcc: x@evil.in"),)},
        {"sender": "hi@shop.in>\r\nRCPT TO:<x@evil.in"},
        {"cc": ("a@b.in>\r\nRCPT TO:<x@evil.in",)},
        {"reply_to": "A\r\nBcc: x@evil.in <a@b.in>"},
    ],
)
async def test_nothing_typed_becomes_a_command_or_a_header(content: dict[str, Any]) -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            answer = await send(courier, an_email(**content))
            assert (answer.outcome, answer.code) == (Outcome.REJECTED, "unsendable")
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
    assert server.seen.taken == {"asha@shop.in": 1}


# --------------------------------------------------------------------------------------------------- recipients


async def test_a_refused_copy_does_not_keep_the_others_from_their_mail() -> None:
    with Smtp() as server:
        server.rejects, server.defers = {"gone@x.in"}, {"full@x.in"}
        async with courier_of(settings(server.port)) as courier:
            answer = await send(courier, an_email("asha@x.in", cc=("gone@x.in", "ok@x.in"), bcc=("full@x.in",)))
    assert answer.outcome is Outcome.ACCEPTED
    assert "gone@x.in (550 5.1.1" in (answer.detail or "")
    assert "full@x.in (452 4.2.2" in (answer.detail or "")
    assert server.seen.taken == {"asha@x.in": 1, "ok@x.in": 1}


@pytest.mark.parametrize("copies", [(), ("ok@x.in",)])
async def test_a_refused_recipient_leaves_the_session_for_the_next_mail(copies: tuple[str, ...]) -> None:
    with Smtp() as server:
        server.rejects, server.defers = {"gone@x.in"}, {"full@x.in"}
        async with courier_of(settings(server.port)) as courier:
            gone = await send(courier, an_email("gone@x.in", cc=copies))
            full = await send(courier, an_email("full@x.in", cc=copies))
            fine = await send(courier, an_email("asha@x.in"))
    assert [a.outcome for a in (gone, full, fine)] == [Outcome.REJECTED, Outcome.DEFERRED, Outcome.ACCEPTED]
    assert (gone.code, full.code) == ("550 5.1.1", "452 4.2.2")
    assert server.seen.taken == {"asha@x.in": 1}
    assert server.seen.connections == 1


# -------------------------------------------------------------------------------------------------- bad moments


@pytest.mark.parametrize("offers", [(), ("PIPELINING",)])
@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        (Mode.UNAVAILABLE, Outcome.DEFERRED),
        (Mode.CLOSING, Outcome.DEFERRED),
        (Mode.DROP_MAIL, Outcome.DEFERRED),
        (Mode.DROP_RCPT, Outcome.DEFERRED),
        (Mode.DROP_DATA, Outcome.DEFERRED),
        (Mode.DROP_CONTENT, Outcome.DEFERRED),
        (Mode.BUSY_AFTER, Outcome.DEFERRED),
        (Mode.SPAM, Outcome.REJECTED),
        (Mode.LOST, Outcome.UNKNOWN),
        (Mode.GARBAGE, Outcome.UNKNOWN),
    ],
)
async def test_where_the_line_breaks_decides_what_is_known(
    mode: Mode, outcome: Outcome, offers: tuple[str, ...]
) -> None:
    with Smtp(offers=offers) as server:
        async with courier_of(settings(server.port)) as courier:
            server.set(mode, times=1)
            answer = await send(courier, an_email(attachments=(LARGE,) if mode is Mode.DROP_CONTENT else ()))
            assert answer.outcome is outcome
            assert server.seen.taken.total() == (outcome is Outcome.UNKNOWN)
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED


async def test_no_answer_to_a_command_defers_and_no_answer_to_the_dot_is_unknown() -> None:
    with Smtp() as server:
        quick = settings(server.port, timeout_s=0.3, options={"final_answer": "200ms"})
        async with courier_of(quick) as courier:
            server.set(Mode.MUTE)
            assert (await send(courier, an_email())).outcome is Outcome.DEFERRED
            server.set(Mode.SILENT)
            assert (await send(courier, an_email())).outcome is Outcome.UNKNOWN
            assert courier.longest_call_s == pytest.approx(0.3 + 0.2 + 1.0)


async def test_the_dot_is_waited_for_a_minute_longer_unless_told_otherwise() -> None:
    async with courier_of(settings(25)) as courier:
        assert courier.longest_call_s == pytest.approx(5.0 + 60.0 + 1.0)


async def test_a_server_of_another_language_defers() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with courier_of(settings(port, host="127.0.0.1")) as courier:
            answer = await send(courier, an_email())
        nursery.cancel_scope.cancel()
    assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "garbled")


# ----------------------------------------------------------------------------------------------------- sessions


async def test_one_session_carries_many_mails_and_says_good_bye() -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            for _ in range(10):
                assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert server.seen.connections == 1
        assert server.seen.commands[-1] == "QUIT"


async def test_a_session_is_given_up_after_so_many_mails() -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port, options={"mails_per_session": 3})) as courier:
            for _ in range(7):
                await send(courier, an_email())
    assert server.seen.connections == 3


async def test_a_session_is_given_up_when_idle_for_too_long() -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port, options={"idle": "0s"})) as courier:
            for _ in range(3):
                assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
    assert server.seen.connections == 3


@pytest.mark.parametrize("mode", [Mode.CLOSING, Mode.DROP_MAIL])
async def test_a_session_that_the_server_ends_between_two_mails_is_no_attempt(mode: Mode) -> None:
    begun: list[int] = []
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            await send(courier, an_email())
            server.set(mode, times=1)
            answer = await send(courier, an_email(), lambda: begun.append(1))
    assert answer.outcome is Outcome.ACCEPTED
    assert len(begun) == 2, "the right is asked for again, since this is a new first byte"
    assert (server.seen.connections, server.seen.taken.total()) == (2, 2)


async def test_a_lapsed_right_leaves_the_session_as_it_was() -> None:
    def lapsed() -> None:
        raise RightLapsed

    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            for _ in range(3):
                with pytest.raises(RightLapsed):
                    await send(courier, an_email(), lapsed)
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
            assert server.seen.commands == ["MAIL SIZE=" + server.seen.commands[0].partition("=")[2]]
    assert server.seen.connections == 1


async def test_a_cancelled_call_takes_its_session_with_it() -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port)) as courier:
            server.set(Mode.MUTE, times=1)
            with trio.move_on_after(0.2) as scope:
                await send(courier, an_email())
            assert scope.cancelled_caught
            server.set(Mode.OK)
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
    assert server.seen.connections == 2


# ----------------------------------------------------------------------------------------------- TLS and logins


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_it_logs_in_behind_tls(tls: str, authority: Authority, trusting: dict[str, str]) -> None:
    with Smtp(**{tls: authority.server()}, login=LOGIN) as server:
        wanted = settings(server.port, tls=tls, credentials=CREDENTIALS, options=trusting)
        async with courier_of(wanted) as courier:
            assert (await courier.check()).outcome is Outcome.ACCEPTED
            assert server.seen.taken.total() == 0
            for _ in range(3):
                assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
    assert server.seen.connections == 2


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_either_way_of_saying_a_password_will_do(mechanism: str) -> None:
    with Smtp(login=LOGIN, mechanisms=(mechanism,)) as server:
        async with courier_of(settings(server.port, credentials=CREDENTIALS)) as courier:
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED


async def test_a_wrong_password_is_the_accounts_fault() -> None:
    with Smtp(login=LOGIN) as server:
        wrong = settings(server.port, credentials={"username": LOGIN[0], "password": "wrong"})
        async with courier_of(wrong) as courier:
            for answer in (await courier.check(), await send(courier, an_email())):
                assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "535 5.7.8")
                assert "wrong" not in (answer.detail or "")


async def test_a_server_that_wants_a_login_is_the_accounts_fault_too() -> None:
    with Smtp(login=LOGIN) as server:
        async with courier_of(settings(server.port)) as courier:
            answer = await send(courier, an_email())
    assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "530 5.7.0")


async def test_a_stripped_starttls_stops_it_before_the_password(trusting: dict[str, str]) -> None:
    with Smtp(login=LOGIN) as server:
        wanted = settings(server.port, tls="starttls", credentials=CREDENTIALS, options=trusting)
        async with courier_of(wanted) as courier:
            answer = await send(courier, an_email())
    assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "no_starttls")
    assert server.seen.logins == 0


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_certificate_of_a_stranger_or_for_another_name_is_refused(
    tls: str, authority: Authority, trusting: dict[str, str]
) -> None:
    for name, options in (("localhost", {}), ("elsewhere.example", trusting)):
        with Smtp(**{tls: authority.server(name)}, login=LOGIN) as server:
            wanted = settings(server.port, tls=tls, credentials=CREDENTIALS, options=options)
            async with courier_of(wanted) as courier:
                answer = await send(courier, an_email())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "certificate")
        assert (server.seen.logins, server.seen.taken.total()) == (0, 0)


async def test_what_was_slipped_in_before_tls_is_thrown_away(authority: Authority, trusting: dict[str, str]) -> None:
    """A man in the middle adds replies behind the 220 to STARTTLS; believing them would be off by one ever after."""
    context = authority.server()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 hi\r\n")
        await stream.receive_some()
        await stream.send_all(b"250-m\r\n250 STARTTLS\r\n")
        await stream.receive_some()
        await stream.send_all(b"220 go\r\n250-m\r\n250 AUTH PLAIN\r\n235 forged\r\n")
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        assert b"EHLO" in await secure.receive_some()
        await secure.send_all(b"250-m\r\n250 AUTH PLAIN\r\n")
        assert b"AUTH PLAIN" in await secure.receive_some()
        await secure.send_all(b"535 5.7.8 the true answer\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        wanted = settings(port, tls="starttls", credentials=CREDENTIALS, options=trusting)
        async with courier_of(wanted) as courier:
            answer = await courier.check()
        nursery.cancel_scope.cancel()
    assert answer.code == "535 5.7.8"


async def test_no_tls_handshake_defers(trusting: dict[str, str]) -> None:
    with Smtp() as server:
        async with courier_of(settings(server.port, tls="implicit", options=trusting)) as courier:
            answer = await send(courier, an_email())
    assert (answer.outcome, answer.code) == (Outcome.DEFERRED, "tls")


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"host": None}, "host"),
        ({"host": "mail.example", "credentials": CREDENTIALS}, "clear"),
        ({"credentials": {"username": "u"}}, "password"),
        ({"sender": "not an address"}, "sender"),
        ({"options": {"ca_file": "/nowhere.pem"}}, "ca_file"),
        ({"options": {"envelope_sender": "x"}}, "envelope_sender"),
        ({"options": {"idle": "soon"}}, "idle"),
        ({"options": {"color": "red"}}, "color"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_its_key(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        build(settings(25, **fields))


async def test_a_message_that_it_could_never_carry_is_not_routed_here() -> None:
    async with courier_of(settings(25, sender=None)) as courier:
        assert courier.takes(an_email()) == "sender"
        assert courier.takes(an_email(sender="Me <me@shop.in>")) is None
        assert courier.batch_key(an_email()) is None


async def test_bounces_and_ids_go_where_they_are_configured_to() -> None:
    options = {"envelope_sender": "bounces@shop.in", "message_id_domain": "mail.shop.in", "ehlo_name": "app.shop.in"}
    with Smtp() as server:
        async with courier_of(settings(server.port, options=options)) as courier:
            message = an_email()
            await send(courier, message)
    assert server.seen.mails[-1].mail_from == "bounces@shop.in"
    assert server.seen.last["message-id"] == f"<{message.id}@mail.shop.in>"


# --------------------------------------------------------------------------------------------------------- gmail


def gmail(port: int, **fields: Any) -> ProviderSettings:
    return settings(port, "gmail", **fields)


async def test_gmail_strips_the_blanks_of_an_app_password() -> None:
    with Smtp(login=("me@gmail.com", "abcdefghijklmnop")) as server:
        credentials = {"username": "me@gmail.com", "password": "abcd efgh ijkl mnop"}
        async with courier_of(gmail(server.port, credentials=credentials)) as courier:
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED


async def test_gmail_takes_a_hundred_recipients() -> None:
    credentials = {"username": "me@gmail.com", "password": "p"}
    async with courier_of(gmail(25, credentials=credentials)) as courier:
        assert courier.takes(an_email(bcc=tuple(f"a{n}@x.in" for n in range(99)))) is None
        assert courier.takes(an_email(bcc=tuple(f"a{n}@x.in" for n in range(100)))) == "recipients"


async def test_gmail_opens_few_sessions_at_a_time() -> None:
    with Smtp(login=("u", "p")) as server:
        wanted = gmail(server.port, credentials={"username": "u", "password": "p"})
        async with courier_of(wanted) as courier, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send, courier, an_email())
    assert server.seen.taken.total() == 20
    assert server.seen.connections <= 5


class Google(Smtp):
    """Logs in by token, as Google does: a refusal is JSON in a 334, then 535 to whatever comes."""

    token = "fresh"

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        said = base64.b64decode(args[1])
        if said == f"user=me@gmail.com\x01auth=Bearer {self.token}\x01\x01".encode():
            self.seen.logins += 1
            return AuthResult(success=True, auth_data=b"me@gmail.com")
        await server.challenge_auth(base64.b64encode(b'{"status":"400","schemes":"Bearer"}'), encode_to_b64=False)
        return AuthResult(success=False, handled=False, message="535 5.7.8 Username and Password not accepted")


@asynccontextmanager
async def tokens(status: int, **body: object) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The server for tokens; its address, and what it was sent."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request or not request.endswith(b"grant_type=refresh_token"):
            request += await stream.receive_some()
        asked.append(request)
        answer = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n"
        await stream.send_all(head.encode() + answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/token", asked
        nursery.cancel_scope.cancel()


OAUTH = {"username": "me@gmail.com", "client_id": "id.apps", "client_secret": "s&cret", "refresh_token": "1//r"}


async def test_gmail_logs_in_by_a_token_and_keeps_it() -> None:
    async with tokens(200, access_token="fresh", expires_in=3599, token_type="Bearer") as (url, asked):
        with Google(login=LOGIN) as server:
            options = {"token_url": url, "mails_per_session": 1}
            async with courier_of(gmail(server.port, credentials=OAUTH, options=options)) as courier:
                for _ in range(3):
                    assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
    assert (server.seen.logins, len(asked)) == (3, 1)
    assert asked[0].startswith(b"POST /token HTTP/1.1\r\n")
    assert b"client_id=id.apps&client_secret=s%26cret&refresh_token=1%2F%2Fr&grant_type=refresh_token" in asked[0]


async def test_gmail_fetches_another_token_where_one_was_refused() -> None:
    async with tokens(200, access_token="fresh", expires_in=3599) as (url, asked):
        with Google(login=LOGIN) as server:
            async with courier_of(gmail(server.port, credentials=OAUTH, options={"token_url": url})) as courier:
                server.token = "another"
                refused = await send(courier, an_email())
                server.token = "fresh"
                taken = await send(courier, an_email())
    assert (refused.outcome, refused.code) == (Outcome.MISCONFIGURED, "535 5.7.8")
    assert (taken.outcome, len(asked)) == (Outcome.ACCEPTED, 2)


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, {"error": "invalid_grant", "error_description": "revoked"}, Outcome.MISCONFIGURED),
        (401, {"error": "invalid_client"}, Outcome.MISCONFIGURED),
        (503, {}, Outcome.DEFERRED),
        (429, {"error": "slow down"}, Outcome.DEFERRED),
        (200, {"access_token": 17}, Outcome.DEFERRED),
    ],
)
async def test_gmail_tells_why_there_is_no_token(status: int, body: dict[str, object], outcome: Outcome) -> None:
    async with tokens(status, **body) as (url, _):
        with Google(login=LOGIN) as server:
            async with courier_of(gmail(server.port, credentials=OAUTH, options={"token_url": url})) as courier:
                answer = await send(courier, an_email())
    assert answer.outcome is outcome
    assert server.seen.connections == 0
    assert not any(secret in repr(answer) for secret in ("s&cret", "1//r"))


# --------------------------------------------------------------------------------------------- as a process


async def test_the_emulator_runs_as_a_process_and_tells_what_it_saw() -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - it is short, and its pipe is read by lines
        [sys.executable, "-m", "tests.support.emulators.smtp", "--reject", "gone@x.in"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        _, _, mail, _, control = process.stdout.readline().split()
        async with courier_of(settings(int(mail.rpartition(":")[2]))) as courier:
            await send(courier, an_email("asha@x.in"))
            await send(courier, an_email("gone@x.in"))
            order = urllib.request.Request(f"{control}/_control", b'{"mode": "unavailable", "times": 1}')
            await trio.to_thread.run_sync(lambda: urllib.request.urlopen(order).close())
            assert (await send(courier, an_email("asha@x.in"))).outcome is Outcome.DEFERRED
        with await trio.to_thread.run_sync(urllib.request.urlopen, f"{control}/_seen") as answer:
            seen = json.load(answer)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        if process.stdout is not None:
            process.stdout.close()
    assert (seen["messages"], seen["refused"], seen["recipients"]) == (1, 1, {"asha@x.in": 1})
