"""BulkSMS against an emulator that checks every entry, counts credits and remembers deduplication ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import SmsContent
from heliograph.providers import KINDS
from heliograph.providers.bulksms import BulkSmsCourier
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, a_message
from tests.support.emulators import BulkSms, Emulator, Mode, running


@asynccontextmanager
async def bulksms(api: BulkSms | None = None, **fields: Any) -> AsyncIterator[tuple[BulkSmsCourier, Emulator]]:
    async with running(api or BulkSms()) as emulator:
        settings = http_settings("bulksms", emulator.url, **fields)
        courier = BulkSmsCourier(KINDS["bulksms"].prepare(settings), second_look_s=0.0)
        yield courier, emulator
        await courier.aclose()


def an_sms(to: str = "+919876543210", text: str = "Your code is 5566", **content: Any) -> ProviderCall:
    return a_call(a_message(to, content=SmsContent(text=text, **content)))


async def sent(courier: BulkSmsCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


async def test_an_entry_has_everything_that_it_needs() -> None:
    async with bulksms(options={"routing_group": "premium", "max_parts": 6}) as (courier, emulator):
        call = an_sms()
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json() == [
            {
                "to": [{"type": "INTERNATIONAL", "address": "919876543210"}],
                "from": {"type": "ALPHANUMERIC", "address": "HELIOG"},
                "body": "Your code is 5566",
                "longMessageMaxParts": 6,
                "routingGroup": "PREMIUM",
                "deliveryReports": "ALL",
                "userSuppliedId": call.attempt_id,
            }
        ]


@pytest.mark.parametrize("text", ["नमस्ते आशा", "smart ’quote’", "🎉", "costs 5 €"])
async def test_no_letter_becomes_a_question_mark(text: str) -> None:
    async with bulksms() as (courier, emulator):
        assert (await sent(courier, an_sms(text=text)))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.texts == {text: 1}


async def test_a_long_text_is_taken_up_to_the_configured_parts() -> None:
    async with bulksms() as (courier, _):
        assert (await sent(courier, an_sms(text="a" * 1530)))[0].outcome is Outcome.ACCEPTED
        assert (await sent(courier, an_sms(text="a" * 1531)))[0].outcome is Outcome.REJECTED


async def test_a_shared_call_is_told_apart_message_by_message() -> None:
    api = BulkSms()
    api.rejects = {"+919876543212"}
    async with bulksms(api, batch=100) as (courier, emulator):
        calls = [an_sms(f"+9198765432{n}", text=f"Code {n}") for n in range(10, 15)]
        assert len({courier.batch_key(call.message) for call in calls}) == 1
        answers = await sent(courier, *calls)
        assert [a.outcome is Outcome.ACCEPTED for a in answers] == [True, True, False, True, True]
        assert (answers[2].outcome, answers[2].code) == (Outcome.REJECTED, "FAILED.NOT_SENT")
        assert emulator.seen.calls == 1
        assert len({answer.provider_message_id for answer in answers}) == 5


async def test_one_bad_entry_refuses_the_call_and_all_go_alone_next() -> None:
    async with bulksms(batch=100) as (courier, emulator):
        calls = [an_sms(text="a" * (1600 if n == 2 else 10)) for n in range(4)]
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.scope) for a in answers} == {(Outcome.DEFERRED, Scope.MESSAGE)}
        assert emulator.seen.taken.total() == 0
        outcomes = [(await sent(courier, call))[0].outcome for call in calls]
        assert [outcome is Outcome.ACCEPTED for outcome in outcomes] == [True, True, False, True]
        assert {courier.batch_key(call.message) for call in calls} == {None}


async def test_no_credits_are_the_accounts_fault() -> None:
    async with bulksms(BulkSms(balance=0)) as (courier, _):
        (answer,) = await sent(courier, an_sms())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "insufficient-credits")


async def test_the_same_call_again_is_not_sent_again() -> None:
    async with bulksms() as (courier, emulator):
        call = an_sms()
        first, again = await sent(courier, call) + await sent(courier, call)
        assert first == again
        assert emulator.seen.taken.total() == 1


async def test_a_call_swallowed_by_anothers_deduplication_id_is_put_back() -> None:
    api = BulkSms()
    async with bulksms(api) as (courier, emulator):
        await sent(courier, an_sms())
        (stranger,) = api.answered.values()
        call = an_sms()
        api.answered.update(dict.fromkeys([deduplication(call)], stranger))
        (answer,) = await sent(courier, call)
        assert (answer.outcome, answer.scope, answer.code) == (Outcome.DEFERRED, Scope.MESSAGE, "deduplicated")
        assert emulator.seen.taken.total() == 1


def deduplication(call: ProviderCall) -> int:
    from heliograph.providers.bulksms import deduplication_id

    return deduplication_id([call])


async def test_a_lost_answer_is_asked_for() -> None:
    async with bulksms() as (courier, emulator):
        taken, dropped = an_sms(), an_sms("+919876543211")
        emulator.set(Mode.LOST, times=1)
        assert (await sent(courier, taken))[0].outcome is Outcome.UNKNOWN
        emulator.set(Mode.DROP, times=1)
        assert (await sent(courier, dropped))[0].outcome is Outcome.UNKNOWN
        assert await courier.ask(taken) is Settled.ACCEPTED
        assert await courier.ask(dropped) is Settled.NOT_SENT


async def test_a_lost_refusal_is_asked_for() -> None:
    api = BulkSms()
    api.rejects = {"+919876543210"}
    async with bulksms(api) as (courier, emulator):
        call = an_sms()
        emulator.set(Mode.LOST, times=1)
        await sent(courier, call)
        assert await courier.ask(call) is Settled.REJECTED


@pytest.mark.parametrize("mode", [Mode.UNAVAILABLE, Mode.GARBAGE, Mode.HTML, Mode.CUT, Mode.UNAUTHORIZED])
async def test_a_question_without_an_answer_settles_nothing(mode: Mode) -> None:
    async with bulksms() as (courier, emulator):
        call = an_sms()
        await sent(courier, call)
        emulator.set(mode)
        assert await courier.ask(call) is None


async def test_an_answer_without_our_ids_is_matched_by_place() -> None:
    async with bulksms(batch=10) as (courier, emulator):
        body = b'[{"id":"1","status":{"type":"ACCEPTED"}},{"id":"2","status":{"type":"FAILED","subtype":"BLOCKED"}}]'
        emulator.set(Mode.RAW, raw=b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        first, second = await sent(courier, an_sms(), an_sms("+919876543211"))
        assert (first.outcome, first.provider_message_id) == (Outcome.ACCEPTED, "1")
        assert (second.outcome, second.code) == (Outcome.REJECTED, "FAILED.BLOCKED")


async def test_an_answer_that_leaves_a_message_out_leaves_it_unknown() -> None:
    async with bulksms(batch=10) as (courier, emulator):
        call, other = an_sms(), an_sms("+919876543211")
        body = b'[{"id":"1","status":{"type":"SENT"},"userSuppliedId":"%s"}]' % call.attempt_id.encode()
        emulator.set(Mode.RAW, raw=b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert [a.outcome for a in await sent(courier, call, other)] == [Outcome.ACCEPTED, Outcome.UNKNOWN]


async def test_name_and_password_serve_as_well_as_a_token() -> None:
    async with bulksms(credentials={"username": "token-id", "password": "token-secret"}) as (courier, _):
        assert (await courier.check()).outcome is Outcome.ACCEPTED


async def test_the_check_tells_credits_and_quota() -> None:
    async with bulksms(BulkSms(balance=12.5)) as (courier, _):
        assert (await courier.check()).detail == "credits 12.5, messages left today 7"


async def test_a_sender_that_the_message_named_is_its_own_fault() -> None:
    async with bulksms() as (courier, _):
        assert (await sent(courier, an_sms(sender_id="+27001234567")))[0].outcome is Outcome.ACCEPTED
        assert (await sent(courier, an_sms(sender_id="12345")))[0].outcome is Outcome.ACCEPTED
        assert (await sent(courier, an_sms(sender_id="far too long a name")))[0].outcome is Outcome.REJECTED
