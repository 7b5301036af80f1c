"""Sessions with a strict mail server: reused, bounded, logged in; copies beyond its limit; what is said on the wire."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import pytest
import trio
import trio.testing

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Attachment, Channel, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.support.builders import a_call, a_provider, an_email
from tests.support.certificates import Authority
from tests.support.emulators.postmaster import Fault, Stage, postmaster

LOGIN: Final = ("me@gmail.com", "abcdefghijklmnop")
PLAIN: Final = ("SIZE 50000000", "8BITMIME", "SMTPUTF8")
OAUTH: Final = {"username": LOGIN[0], "client_id": "id.apps", "client_secret": "s&cret", "refresh_token": "1//r"}


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


async def send(courier: Courier, message: Message) -> Answer:
    (answer,) = await courier.send([a_call(message)], lambda: None)
    return answer


# -------------------------------------------------------------------------------------------- the life of a session


async def test_a_session_that_carried_its_mails_is_left_with_a_good_bye() -> None:
    async with postmaster() as server, courier_of(settings(server.port, options={"mails_per_session": 2})) as courier:
        for _ in range(4):
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (server.connections, server.goodbyes) == (2, 2)


async def test_an_idle_session_is_left_without_a_next_mail_that_would_find_it_so() -> None:
    async with postmaster() as server, courier_of(settings(server.port, options={"idle": "50ms"})) as courier:
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        with trio.fail_after(5):
            await server.left.wait()
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert server.connections == 2


async def test_a_session_grows_no_older_than_it_may() -> None:
    options = {"lifetime": "50ms", "idle": "1h"}
    async with postmaster() as server, courier_of(settings(server.port, options=options)) as courier:
        for _ in range(2):
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert server.connections == 1
        with trio.fail_after(5):
            await server.left.wait()
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert server.connections == 2


async def test_all_sessions_are_left_with_a_good_bye_when_the_courier_closes() -> None:
    async with postmaster(delay_s=0.1) as server:
        async with courier_of(settings(server.port)) as courier:
            server.play(Stage.END, Fault.SLOW, times=3)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(send, courier, an_email())
            assert (server.connections, server.goodbyes) == (3, 0)
        assert server.goodbyes == 3


async def test_a_failed_transaction_is_reset_before_the_next_mail() -> None:
    async with postmaster(offers=PLAIN) as server, courier_of(settings(server.port)) as courier:
        server.play(Stage.RECIPIENT, b"550 5.1.1 no\r\n")
        assert (await send(courier, an_email())).outcome is Outcome.REJECTED
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        verbs = [command.partition(" ")[0] for command in server.commands]
        assert verbs == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]
        assert server.connections == 1


@pytest.mark.parametrize("stage", [Stage.RESET, Stage.GOODBYE])
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.GARBAGE])
async def test_what_happens_after_the_answer_changes_nothing(stage: Stage, fault: Fault) -> None:
    async with postmaster(offers=PLAIN) as server:
        async with courier_of(settings(server.port)) as courier:
            server.play(stage, fault)
            server.play(Stage.RECIPIENT, b"550 5.1.1 no\r\n")
            assert (await send(courier, an_email())).outcome is Outcome.REJECTED
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert server.taken.total() == 1


async def test_good_bye_to_an_idle_session_is_no_failure_but_too_fast_is() -> None:
    credentials = {"username": LOGIN[0], "password": LOGIN[1]}
    async with (
        postmaster(login=LOGIN) as server,
        courier_of(settings(server.port, "gmail", credentials=credentials)) as courier,
    ):
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        server.play(Stage.SENDER, b"421 4.4.2 idle for too long\r\n")
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert server.connections == 2
        server.play(Stage.SENDER, b"421 4.7.0 Try again later\r\n")
        assert (await send(courier, an_email())).outcome is Outcome.THROTTLED
        assert server.connections == 2


# ------------------------------------------------------------------------------------------------ what is on the wire


async def test_a_mail_to_one_takes_one_write_where_the_server_pipelines() -> None:
    async with postmaster() as server, courier_of(settings(server.port)) as courier:
        call = a_call(an_email(text="नमस्ते"))
        await courier.send([call], lambda: None)
        size = len(server.mails[0].content)
        assert server.commands[1:] == [
            f"MAIL FROM:<hi@shop.in> SIZE={size} BODY=8BITMIME RET=HDRS ENVID={call.attempt_id}",
            "RCPT TO:<asha@shop.in>",
            "DATA",
        ]
        assert 3 in server.bursts


async def test_where_nothing_is_offered_nothing_is_assumed() -> None:
    async with postmaster(offers=()) as server, courier_of(settings(server.port)) as courier:
        assert (await send(courier, an_email(text="नमस्ते", cc=("b@x.in",)))).outcome is Outcome.ACCEPTED
        assert server.commands[1:] == [
            "MAIL FROM:<hi@shop.in>", "RCPT TO:<asha@shop.in>", "RCPT TO:<b@x.in>", "DATA",
        ]  # fmt: skip
        assert server.mails[0].content.isascii()
        assert max(server.bursts) == 1


async def test_the_name_we_give_is_an_address_that_the_server_can_see() -> None:
    async with postmaster() as server, courier_of(settings(server.port, host="127.0.0.1")) as courier:
        await send(courier, an_email())
        assert server.commands[0] == "EHLO [127.0.0.1]"


@pytest.mark.parametrize("name", ["", "my shop", "sh\u00f6p", "shop\r\nMAIL"])
def test_a_name_that_servers_do_not_like_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="ehlo_name"):
        build(settings(25, options={"ehlo_name": name}))


async def test_a_mail_of_thirty_megabytes_arrives_whole() -> None:
    data = os.urandom(30_000_000)
    film = Attachment(filename="f.mp4", content_type="video/mp4", content_base64=base64.b64encode(data).decode())
    async with postmaster() as server, courier_of(settings(server.port, timeout_s=60.0)) as courier:
        assert (await send(courier, an_email(attachments=(film,)))).outcome is Outcome.ACCEPTED
        rest = server.mails[0].content.partition(b'filename="f.mp4"')[2]
        body = re.split(rb"\r\n\r\n", rest, maxsplit=1)[1].partition(b"\r\n--")[0]
        assert base64.b64decode(body) == data


async def test_the_message_id_is_the_same_at_each_attempt_and_of_the_senders_domain() -> None:
    async with postmaster() as server, courier_of(settings(server.port)) as courier:
        message = an_email(sender="Asha <asha@b\u00fccher.example>")
        for number in (1, 2, 3):
            await courier.send([a_call(message, number)], lambda: None)
        assert {mail.message_id for mail in server.mails} == {f"<{message.id}@xn--bcher-kva.example>"}
        assert len({mail.content for mail in server.mails}) == 1
        assert len({command for command in server.commands if "ENVID" in command}) == 3


async def test_copies_that_are_hidden_are_in_the_envelope_alone() -> None:
    async with postmaster() as server, courier_of(settings(server.port)) as courier:
        await send(courier, an_email(cc=("open@shop.in",), bcc=("hidden@shop.in",)))
        (mail,) = server.mails
        assert mail.recipients == ("asha@shop.in", "open@shop.in", "hidden@shop.in")
        assert b"hidden" not in mail.content


async def test_both_lines_of_a_one_click_unsubscribe_arrive_as_given() -> None:
    lines = (
        ("List-Unsubscribe", f"<https://shop.in/u/{'t' * 120}>, <mailto:stop@shop.in>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
    )
    async with postmaster() as server, courier_of(settings(server.port)) as courier:
        await send(courier, an_email(headers=lines))
        content = server.mails[0].content.replace(b"\r\n ", b" ")
        for name, value in lines:
            assert f"\r\n{name}: {value}\r\n".encode() in content


# --------------------------------------------------------------------------------------------------- recipients


@pytest.mark.parametrize("offers", [PLAIN, (*PLAIN, "PIPELINING")], ids=["one by one", "pipelined"])
async def test_copies_beyond_what_a_server_takes_at_once_go_in_further_transactions(offers: tuple[str, ...]) -> None:
    copies = tuple(f"copy{n}@x.in" for n in range(50))
    begun: list[int] = []
    async with postmaster(offers=offers, most_recipients=20) as server:
        async with courier_of(settings(server.port)) as courier:
            call = a_call(an_email(cc=copies))
            (answer,) = await courier.send([call], lambda: begun.append(1))
        assert (answer.outcome, answer.detail) == (Outcome.ACCEPTED, None)
        assert [len(mail.recipients) for mail in server.mails] == [20, 20, 11]
        assert server.taken == dict.fromkeys(("asha@shop.in", *copies), 1)
        assert len({mail.content for mail in server.mails}) == 1
        assert (len(begun), server.connections) == (1, 1)


@pytest.mark.parametrize("play", [Fault.CUT, b"451 4.3.0 not now\r\n", b"554 5.7.1 not again\r\n"])
async def test_what_happens_to_later_copies_does_not_change_what_became_of_the_mail(play: Fault | bytes) -> None:
    class Second:
        """The first mail is taken; this is what the second one gets."""

        def __call__(self, address: str) -> bytes | None:
            if address == "copy19@x.in":
                server.play(Stage.END, b"250 2.0.0 OK first\r\n")
            if address == "copy30@x.in" and server.mails:
                server.play(Stage.END, play)
            return None

    copies = tuple(f"copy{n}@x.in" for n in range(31))
    async with postmaster(most_recipients=20, judge=Second()) as server, courier_of(settings(server.port)) as courier:
        answer = await send(courier, an_email(cc=copies))
        assert (answer.outcome, answer.provider_message_id) == (Outcome.ACCEPTED, "OK first")
        assert "not taken for copy19@x.in (" in (answer.detail or "")
        server.heal()
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("offers", [PLAIN, (*PLAIN, "PIPELINING")], ids=["one by one", "pipelined"])
async def test_nobody_gets_a_mail_whose_own_recipient_is_refused(offers: tuple[str, ...]) -> None:
    def judge(address: str) -> bytes | None:
        return b"450 4.2.1 busy\r\n" if address == "asha@shop.in" else None

    async with postmaster(offers=offers, judge=judge) as server, courier_of(settings(server.port)) as courier:
        message = an_email(cc=("b@x.in",), bcc=("c@x.in",))
        answer = await send(courier, message)
        assert (answer.outcome, answer.scope, server.taken.total()) == (Outcome.DEFERRED, Scope.MESSAGE, 0)
        server.judge = lambda _: None
        assert (await send(courier, message)).outcome is Outcome.ACCEPTED
        assert server.taken == {"asha@shop.in": 1, "b@x.in": 1, "c@x.in": 1}, "no copy went out twice"


async def test_only_a_refusal_of_its_own_recipient_suppresses() -> None:
    def judge(address: str) -> bytes | None:
        return b"550 5.1.1 no such user\r\n" if address.startswith("gone") else None

    async with postmaster(judge=judge) as server, courier_of(settings(server.port)) as courier:
        gone = await send(courier, an_email("gone@x.in"))
        copied = await send(courier, an_email("asha@x.in", cc=("gone@x.in",)))
        server.play(Stage.END, b"550 5.1.1 one of them does not exist\r\n")
        several = await send(courier, an_email("asha@x.in", cc=("b@x.in",)))
    assert (gone.outcome, gone.suppress) == (Outcome.REJECTED, SuppressionReason.BOUNCE)
    assert (copied.outcome, copied.suppress) == (Outcome.ACCEPTED, None)
    assert (several.outcome, several.suppress) == (Outcome.REJECTED, None)


# ------------------------------------------------------------------------------------------------------- logins


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("authority"))


async def test_a_server_that_cannot_log_us_in_is_left_alone_for_a_minute(mock_clock: trio.testing.MockClock) -> None:
    credentials = {"username": LOGIN[0], "password": LOGIN[1]}
    async with postmaster(login=LOGIN) as server, courier_of(settings(server.port, credentials=credentials)) as courier:
        server.play(Stage.LOGIN, b"454 4.7.0 Temporary authentication failure\r\n")
        first = await send(courier, an_email())
        mock_clock.jump(20)
        second = await send(courier, an_email())
        assert (first.retry_after_s, second.retry_after_s) == (60, pytest.approx(40, abs=1))
        assert (second.outcome, second.code) == (Outcome.DEFERRED, "454 4.7.0")
        assert server.connections == 1, "one login was tried"
        mock_clock.jump(41)
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED


@asynccontextmanager
async def tokens(*given: dict[str, object]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The server for tokens, which gives one after the other; its address, and what it was sent."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while b"grant_type=refresh_token" not in request:
            request += await stream.receive_some()
        asked.append(request)
        body = json.dumps(given[min(len(asked), len(given)) - 1]).encode()
        await stream.send_all(
            f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/token", asked
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("kind", ["gmail", "smtp"])
async def test_a_token_logs_in_behind_tls(kind: str, mechanism: str, authority: Authority) -> None:
    async with (
        tokens({"access_token": "fresh", "expires_in": 3599, "token_type": "Bearer"}) as (url, asked),
        postmaster(starttls=authority.server(), token="fresh", mechanisms=("PLAIN", mechanism)) as server,
    ):
        options = {"token_url": url, "ca_file": str(authority.file()), "mails_per_session": 1}
        wanted = settings(server.port, kind, tls="starttls", credentials=OAUTH, options=options)
        async with courier_of(wanted) as courier:
            for _ in range(3):
                assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert (server.logins, len(asked)) == (3, 1)


async def test_many_sessions_that_open_together_fetch_one_token() -> None:
    async with (
        tokens({"access_token": "fresh", "expires_in": 3599}) as (url, asked),
        postmaster(token="fresh", delay_s=0.1) as server,
        courier_of(settings(server.port, "gmail", credentials=OAUTH, options={"token_url": url})) as courier,
    ):
        server.play(Stage.END, Fault.SLOW, times=5)
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(send, courier, an_email())
        assert (server.taken.total(), server.connections, len(asked)) == (12, 5, 1)


async def test_a_token_that_is_refused_before_its_time_is_renewed_at_once() -> None:
    one, two = ({"access_token": name, "expires_in": 3599} for name in ("first", "second"))
    async with tokens(one, two) as (url, asked), postmaster(token="first") as server:
        options = {"token_url": url, "mails_per_session": 1}
        async with courier_of(settings(server.port, "gmail", credentials=OAUTH, options=options)) as courier:
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
            server.token = "second"
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
        assert (server.connections, server.logins, len(asked)) == (4, 3, 2)


async def test_a_token_that_is_refused_though_it_is_new_is_the_accounts_fault() -> None:
    async with tokens({"access_token": "fresh", "expires_in": 3599}) as (url, asked), postmaster(token="x") as server:
        async with courier_of(settings(server.port, "gmail", credentials=OAUTH, options={"token_url": url})) as courier:
            answer = await send(courier, an_email())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "535 5.7.8")
        assert (server.connections, len(asked)) == (2, 2)


@pytest.mark.parametrize("lasts", [3599, "3599", 3599.0, None, "soon", True, -5])
async def test_a_tokens_life_is_read_however_it_is_told(lasts: object) -> None:
    async with (
        tokens({"access_token": "fresh", "expires_in": lasts}) as (url, _),
        postmaster(token="fresh") as server,
        courier_of(settings(server.port, "gmail", credentials=OAUTH, options={"token_url": url})) as courier,
    ):
        assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED


def test_a_login_by_token_needs_to_know_where_tokens_come_from() -> None:
    with pytest.raises(ConfigurationError, match="token_url"):
        build(settings(25, credentials=OAUTH))


@pytest.mark.parametrize(
    "credentials", [OAUTH, {"username": LOGIN[0], "password": LOGIN[1]}], ids=["token", "password"]
)
@pytest.mark.parametrize("kind", ["smtp", "gmail"])
def test_no_credentials_are_said_in_the_clear_to_another_machine(kind: str, credentials: dict[str, str]) -> None:
    options = {"token_url": "https://tokens.example/token"} if credentials is OAUTH else {}
    with pytest.raises(ConfigurationError, match="clear"):
        build(settings(25, kind, host="mail.example", credentials=credentials, options=options))


async def test_the_check_tells_what_the_server_offers_and_sends_nothing() -> None:
    async with postmaster(login=LOGIN) as server:
        credentials = {"username": LOGIN[0], "password": LOGIN[1]}
        async with courier_of(settings(server.port, credentials=credentials)) as courier:
            answer = await courier.check()
        assert answer.outcome is Outcome.ACCEPTED
        assert "PIPELINING" in (answer.detail or "")
        assert "50.0 MB" in (answer.detail or "")
        assert server.commands == ["EHLO [127.0.0.1]", "AUTH", "QUIT"]
