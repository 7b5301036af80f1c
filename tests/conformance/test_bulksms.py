"""BulkSMS against an emulator that checks every entry, counts credits and remembers deduplication ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import SmsContent
from heliograph.actors.model.settings import DeliverySettings
from heliograph.actors.ports.courier import Allowance, Measured
from heliograph.providers import KINDS
from heliograph.providers.bulksms.answers import FAILED, FAILED_SOMEHOW, ROWS, TAKEN, judge
from heliograph.providers.bulksms.courier import SECOND_LOOK_S, BulkSmsCourier
from heliograph.providers.bulksms.receipts import EFFECTS, MEANINGS
from heliograph.providers.bulksms.requests import deduplication_id
from tests.conformance.cases import fixtures
from tests.conformance.rigs import http_settings
from tests.conformance.test_answers import wire_answer
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


async def test_a_call_swallowed_by_anothers_deduplication_id_is_put_back_and_goes_under_another() -> None:
    api = BulkSms()
    async with bulksms(api) as (courier, emulator):
        await sent(courier, an_sms())
        (stranger,) = api.answered.values()
        call = an_sms()
        api.answered[deduplication_id([call.attempt_id])] = stranger
        (answer,) = await sent(courier, call)
        assert (answer.outcome, answer.scope, answer.code) == (Outcome.DEFERRED, Scope.MESSAGE, "deduplicated")
        assert emulator.seen.taken.total() == 1
        assert (await sent(courier, again(call)))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 2


async def test_a_shared_call_swallowed_by_anothers_deduplication_id_is_put_back() -> None:
    api = BulkSms()
    async with bulksms(api, batch=10) as (courier, _):
        await sent(courier, an_sms())
        (stranger,) = api.answered.values()
        calls = [an_sms(), an_sms("+919876543211")]
        api.answered[deduplication_id([call.attempt_id for call in calls])] = stranger
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.scope, a.code) for a in answers} == {(Outcome.DEFERRED, Scope.MESSAGE, "deduplicated")}


@pytest.mark.parametrize("mode", [Mode.BAD_GATEWAY, Mode.LOST, Mode.HTML])
async def test_a_message_that_went_alone_and_had_no_clear_answer_is_repeated_and_sent_once(mode: Mode) -> None:
    async with bulksms() as (courier, emulator):
        call = an_sms()
        emulator.set(mode, times=1)
        first, repeat = await sent(courier, call) + await sent(courier, again(call))
        assert first.outcome is (Outcome.DEFERRED if mode is Mode.BAD_GATEWAY else Outcome.UNKNOWN)
        assert (repeat.outcome, repeat.provider_message_id is None) == (Outcome.ACCEPTED, False)
        assert emulator.seen.attempts == {call.attempt_id: 1}


async def test_a_repeat_may_be_made_by_another_process_that_has_asked() -> None:
    async with bulksms() as (courier, emulator):
        call = an_sms()
        emulator.set(Mode.LOST, times=1)
        await sent(courier, call)
        other = BulkSmsCourier(KINDS["bulksms"].prepare(http_settings("bulksms", emulator.url)), second_look_s=0.0)
        emulator.set(Mode.UNAVAILABLE, times=1)
        assert await other.ask(call) is None
        (answer,) = await other.send([again(call)], lambda: None)
        await other.aclose()
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 1


async def test_a_message_that_is_to_be_repeated_shares_no_call() -> None:
    async with bulksms(batch=10) as (courier, emulator):
        call = an_sms()
        assert courier.batch_key(call.message) is not None
        emulator.set(Mode.LOST, times=1)
        await sent(courier, call)
        assert courier.batch_key(call.message) is None
        await sent(courier, again(call))
        assert courier.batch_key(call.message) is not None


async def test_a_message_that_was_answered_and_is_sent_anew_is_no_repeat() -> None:
    async with bulksms() as (courier, emulator):
        call = an_sms()
        for number in (1, 2):
            assert (await sent(courier, again(call, number)))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 2


async def test_a_message_that_was_found_and_is_sent_anew_is_no_repeat() -> None:
    async with bulksms() as (courier, emulator):
        call = an_sms()
        emulator.set(Mode.LOST, times=1)
        await sent(courier, call)
        assert await courier.ask(call) is Settled.ACCEPTED
        assert (await sent(courier, again(call)))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 2


def again(call: ProviderCall, number: int = 2) -> ProviderCall:
    return a_call(call.message, number)


async def test_a_lost_answer_is_asked_for() -> None:
    async with bulksms() as (courier, emulator):
        taken, dropped = an_sms(), an_sms("+919876543211")
        emulator.set(Mode.LOST, times=1)
        assert (await sent(courier, taken))[0].outcome is Outcome.UNKNOWN
        emulator.set(Mode.DROP, times=1)
        assert (await sent(courier, dropped))[0].outcome is Outcome.UNKNOWN
        assert await courier.ask(taken) is Settled.ACCEPTED
        assert await courier.ask(dropped) is Settled.NOT_SENT


def test_two_looks_fit_into_the_time_that_a_question_has() -> None:
    assert DeliverySettings().send_window_s / 2 >= SECOND_LOOK_S


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


TO_FIRST, TO_SECOND = "+919876543210", "+919876543211"
FAILED_AND_SENT = b"""[{"id":"2","to":"919876543211","status":{"type":"FAILED","subtype":"BLOCKED"}},
{"id":"1","to":"919876543210","status":{"type":"ACCEPTED"}}]"""


async def test_an_answer_without_our_ids_is_matched_by_number_and_never_by_place() -> None:
    async with bulksms(batch=10) as (courier, emulator):
        emulator.set(Mode.RAW, raw=created(FAILED_AND_SENT))
        first, second = await sent(courier, an_sms(TO_FIRST), an_sms(TO_SECOND))
        assert (first.outcome, first.provider_message_id) == (Outcome.ACCEPTED, "1")
        assert (second.outcome, second.code) == (Outcome.REJECTED, "FAILED.BLOCKED")
        answers = await sent(courier, an_sms(TO_FIRST), an_sms(TO_FIRST))
        assert {answer.outcome for answer in answers} == {Outcome.UNKNOWN}


async def test_a_message_that_the_answer_leaves_out_is_unknown() -> None:
    async with bulksms(batch=10) as (courier, emulator):
        call, other = an_sms(), an_sms("+919876543211")
        emulator.set(
            Mode.RAW,
            raw=created(b'[{"id":"1","status":{"type":"SENT"},"userSuppliedId":"%s"}]' % call.attempt_id.encode()),
        )
        assert [a.outcome for a in await sent(courier, call, other)] == [Outcome.ACCEPTED, Outcome.UNKNOWN]


def created(body: bytes) -> bytes:
    return b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def test_name_and_password_serve_as_well_as_a_token() -> None:
    async with bulksms(credentials={"username": "token-id", "password": "token-secret"}) as (courier, _):
        assert (await courier.check()).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("api", "outcome", "said"),
    [
        (BulkSms(balance=12.5, remaining=7), Outcome.ACCEPTED, "credits 12.5, messages left today 7 of 50000"),
        (
            BulkSms(balance=0),
            Outcome.MISCONFIGURED,
            "no credits are left: credits 0, messages left today 49990 of 50000",
        ),
        (
            BulkSms(balance=1204.5, remaining=0),
            Outcome.MISCONFIGURED,
            "today's quota is used up: credits 1204.5, messages left today 0 of 50000",
        ),
    ],
)
async def test_the_check_tells_credits_and_quota(api: BulkSms, outcome: Outcome, said: str) -> None:
    async with bulksms(api) as (courier, _):
        answer = await courier.check()
        assert (answer.outcome, answer.detail) == (outcome, said)


async def test_the_account_is_asked_how_much_it_may_still_send_today() -> None:
    async with bulksms(BulkSms(remaining=7)) as (courier, emulator):
        assert isinstance(courier, Measured)
        assert await courier.allowance() == Allowance(remaining=7)
        for mode in (Mode.UNAVAILABLE, Mode.HTML, Mode.CUT, Mode.LOST, Mode.UNAUTHORIZED):
            emulator.set(mode, times=1)
            assert await courier.allowance() is None


async def test_senders_are_told_as_what_they_are() -> None:
    async with bulksms() as (courier, emulator):
        for sender, kind, address in (
            ("+27001234567", "INTERNATIONAL", "27001234567"),
            ("12345", "SHORTCODE", "12345"),
            ("My Shop", "ALPHANUMERIC", "My Shop"),
        ):
            assert (await sent(courier, an_sms(sender_id=sender)))[0].outcome is Outcome.ACCEPTED
            assert emulator.requests[-1].json()[0]["from"] == {"type": kind, "address": address}


async def test_a_sender_that_no_message_can_have_is_routed_around() -> None:
    async with bulksms() as (courier, _):
        assert courier.takes(an_sms(sender_id="far too long a name").message) == "sender"
        assert courier.takes(an_sms(sender_id="HELIOG").message) is None


async def test_a_sender_that_one_message_named_is_not_its_neighbours_fault() -> None:
    async with bulksms(batch=10) as (courier, emulator):
        calls = [an_sms(), an_sms("+919876543211", sender_id="NOTOURS")]
        refusal = b'{"type":"errors#forbidden","title":"Forbidden","detail":"The sender NOTOURS is not allowed"}'
        head = b"HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n" % len(refusal)
        emulator.set(Mode.RAW, times=1, raw=head + refusal)
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.scope) for a in answers} == {(Outcome.DEFERRED, Scope.MESSAGE)}
        assert not any("NOTOURS" in (a.detail or "") for a in answers)
        assert {courier.batch_key(call.message) for call in calls} == {None}


def test_every_row_of_the_tables_is_in_a_fixture() -> None:
    answers = [f.entry for f in fixtures("answers.toml", "answer", "provider") if f.kind == "bulksms"]
    said = {judge(wire_answer(entry)).verdict for entry in answers}
    assert {row.verdict for row in ROWS} | {TAKEN, *FAILED.values(), FAILED_SOMEHOW} <= said
    receipts = [f.entry for f in fixtures("receipts.toml", "receipt", "settings") if f.kind == "bulksms"]
    reported = " ".join(entry["body"].upper() for entry in receipts)
    assert [status for status in (*EFFECTS, *MEANINGS) if f'"{status}' not in reported] == []
