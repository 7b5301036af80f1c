"""SendGrid against an emulator that refuses what the API reference refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.message import Attachment
from heliograph.providers import build
from heliograph.providers.sendgrid.courier import SendGridCourier
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, an_email
from tests.support.emulators import Emulator, Mode, SendGrid, running


@asynccontextmanager
async def sendgrid(api: SendGrid | None = None, **fields: Any) -> AsyncIterator[tuple[SendGridCourier, Emulator]]:
    async with running(api or SendGrid()) as emulator:
        courier = build(http_settings("sendgrid", emulator.url, **fields))
        assert isinstance(courier, SendGridCourier)
        yield courier, emulator
        await courier.aclose()


def a_mail(to: str = "asha@example.net", **content: Any) -> ProviderCall:
    return a_call(an_email(to, **content))


async def sent(courier: SendGridCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


async def test_a_mail_with_everything_is_taken() -> None:
    async with sendgrid(options={"ip_pool": "transactional", "unsubscribe_group": 7}) as (courier, emulator):
        call = a_mail(
            html="<p>Hello, Asha.</p>",
            sender='"Shop, Ltd" <orders@shop.in>',
            reply_to="help@shop.in",
            cc=("ravi@example.net", "Asha@example.net"),
            bcc=("audit@shop.in",),
            headers=(("X-Entity-Ref-ID", "order-1"),),
            attachments=(
                Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8="),
                Attachment(filename="b.png", content_type="image/png", content_base64="aGVsbG8=", content_id="b"),
            ),
        )
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert answer.provider_message_id == "sg-1"
        body = emulator.requests[-1].json()
        assert body["personalizations"] == [
            {
                "to": [{"email": "asha@example.net"}],
                "cc": [{"email": "ravi@example.net"}],
                "bcc": [{"email": "audit@shop.in"}],
                "headers": {"X-Entity-Ref-ID": "order-1"},
                "subject": "Hello",
                "custom_args": {"hg_attempt": call.attempt_id},
            }
        ]
        assert body["from"] == {"email": "orders@shop.in", "name": "Shop, Ltd"}
        assert body["tracking_settings"] == {"click_tracking": {"enable": False}, "open_tracking": {"enable": False}}
        assert [part["type"] for part in body["content"]] == ["text/plain", "text/html"]
        assert [part["disposition"] for part in body["attachments"]] == ["attachment", "inline"]


async def test_mails_of_one_content_share_a_call() -> None:
    async with sendgrid(batch=1000) as (courier, emulator):
        calls = [a_mail(f"a{n}@example.net", subject=f"Order {n}") for n in range(50)]
        assert len({courier.batch_key(call.message) for call in calls}) == 1
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.provider_message_id) for a in answers} == {(Outcome.ACCEPTED, "sg-1")}
        assert emulator.seen.taken.total() == 50
        assert set(emulator.seen.attempts) == {call.attempt_id for call in calls}


async def test_one_bad_address_is_named_and_the_others_come_again_together() -> None:
    api = SendGrid()
    api.rejects = {"a17@example.net"}
    async with sendgrid(api, batch=1000) as (courier, emulator):
        calls = [a_mail(f"a{n}@example.net") for n in range(20)]
        answers = await sent(courier, *calls)
        assert answers[17].outcome is Outcome.REJECTED
        others = calls[:17] + calls[18:]
        assert {(a.outcome, a.scope) for n, a in enumerate(answers) if n != 17} == {(Outcome.DEFERRED, Scope.MESSAGE)}
        assert emulator.seen.taken.total() == 0
        assert None not in {courier.batch_key(call.message) for call in others}
        assert {answer.outcome for answer in await sent(courier, *others)} == {Outcome.ACCEPTED}
        assert emulator.seen.taken.total() == 19


async def test_a_shared_refusal_that_names_nobody_sends_all_alone() -> None:
    async with sendgrid(batch=1000) as (courier, emulator):
        emulator.set(Mode.REFUSE, times=1)
        calls = [a_mail(f"a{n}@example.net") for n in range(3)]
        assert {a.outcome for a in await sent(courier, *calls)} == {Outcome.DEFERRED}
        assert {courier.batch_key(call.message) for call in calls} == {None}


async def test_an_unverified_sender_is_the_fault_of_whoever_named_it() -> None:
    async with sendgrid(SendGrid(senders={"verified.example"})) as (courier, _):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "403")
        (answer,) = await sent(courier, a_mail(sender="me@elsewhere.example"))
        assert answer.outcome is Outcome.REJECTED
        (answer,) = await sent(courier, a_mail(sender="me@verified.example"))
        assert answer.outcome is Outcome.ACCEPTED


async def test_sandbox_mode_is_taken_and_sends_nothing() -> None:
    async with sendgrid(options={"sandbox_mode": "true"}) as (courier, emulator):
        assert (await sent(courier, a_mail()))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 0


async def test_a_name_outside_ascii_and_a_foreign_domain_are_written_as_sendgrid_wants_them() -> None:
    async with sendgrid(sender="Büro <büro@bücher.example>".replace("büro@", "buero@")) as (courier, emulator):
        assert (await sent(courier, a_mail("asha@bücher.example")))[0].outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json()["from"] == {"email": "buero@xn--bcher-kva.example", "name": "Büro"}
        assert emulator.seen.taken == {"asha@xn--bcher-kva.example": 1}


async def test_an_empty_text_part_is_left_out() -> None:
    async with sendgrid() as (courier, emulator):
        assert (await sent(courier, a_mail(text="", html="<p>x</p>")))[0].outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json()["content"] == [{"type": "text/html", "value": "<p>x</p>"}]
