"""Fast2SMS against an emulator that refuses what Fast2SMS refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.message import SmsContent
from heliograph.providers import build
from heliograph.providers.fast2sms.courier import Fast2SmsCourier
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, a_message
from tests.support.emulators import Emulator, Fast2Sms, running


@asynccontextmanager
async def fast2sms(api: Fast2Sms | None = None, **fields: Any) -> AsyncIterator[tuple[Fast2SmsCourier, Emulator]]:
    async with running(api or Fast2Sms()) as emulator:
        courier = build(http_settings("fast2sms", emulator.url, **fields))
        assert isinstance(courier, Fast2SmsCourier)
        yield courier, emulator
        await courier.aclose()


def an_sms(to: str = "+919876543210", text: str = "Your OTP is 5566 for Login.", **content: Any) -> ProviderCall:
    return a_call(a_message(to, content=SmsContent(text=text, **content)))


async def sent(courier: Fast2SmsCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


async def test_a_message_with_a_template_goes_by_dlt_manual() -> None:
    async with fast2sms(Fast2Sms(templates=[r"Your OTP is .{1,30} for Login\."]), options={"entity_id": "110"}) as (
        courier,
        emulator,
    ):
        call = an_sms(dlt_template_id="1107161234567890123")
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert answer.provider_message_id == "lwdtp0000000001"
        assert emulator.requests[-1].json() == {
            "route": "dlt_manual",
            "sender_id": "HELIOG",
            "message": "Your OTP is 5566 for Login.",
            "template_id": "1107161234567890123",
            "entity_id": "110",
            "numbers": "9876543210",
            "sms_details": "1",
            "udf1": call.attempt_id,
        }
        (answer,) = await sent(courier, an_sms(text="Something else", dlt_template_id="1107161234567890123"))
        assert (answer.outcome, answer.code) == (Outcome.REJECTED, "425")


@pytest.mark.parametrize("text", ["Hello, Asha.", "नमस्ते आशा", "costs 5 €", "smart ’quote’", "🎉"])
async def test_the_quick_route_takes_any_text_in_its_own_alphabet(text: str) -> None:
    async with fast2sms() as (courier, emulator):
        (answer,) = await sent(courier, an_sms(text=text))
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.seen.texts == {text: 1}


async def test_the_dlt_route_sends_the_templates_number_and_its_variables() -> None:
    async with fast2sms(options={"route": "dlt"}) as (courier, emulator):
        (answer,) = await sent(courier, an_sms(dlt_template_id="111111", dlt_variables=("Rahul", "5599")))
        assert answer.outcome is Outcome.ACCEPTED
        body = emulator.requests[-1].json()
        assert (body["message"], body["variables_values"]) == ("111111", "Rahul|5599|")
        (answer,) = await sent(courier, an_sms(dlt_template_id="not a number"))
        assert (answer.outcome, answer.code) == (Outcome.REJECTED, "424")


async def test_the_otp_route_sends_digits() -> None:
    async with fast2sms(options={"route": "otp"}, sender=None) as (courier, emulator):
        (answer,) = await sent(courier, an_sms(text="5566"))
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json()["variables_values"] == "5566"


async def test_equal_texts_share_a_call_and_its_request_id() -> None:
    async with fast2sms(batch=10) as (courier, emulator):
        calls = [an_sms(f"+9198765432{n}") for n in range(10, 20)]
        assert len({courier.batch_key(call.message) for call in calls}) == 1
        answers = await sent(courier, *calls)
        assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}
        assert len({answer.provider_message_id for answer in answers}) == 1
        assert emulator.seen.calls == 1
        assert emulator.seen.taken.total() == 10
        assert "udf1" not in emulator.requests[-1].json()


async def test_one_bad_number_refuses_the_call_and_all_go_alone_next() -> None:
    api = Fast2Sms()
    api.rejects = {"+919876543213"}
    async with fast2sms(api, batch=10) as (courier, emulator):
        calls = [an_sms(f"+9198765432{n}") for n in range(10, 15)]
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.scope, a.code) for a in answers} == {(Outcome.DEFERRED, Scope.MESSAGE, "411")}
        assert emulator.seen.taken.total() == 0
        assert {courier.batch_key(call.message) for call in calls} == {None}
        outcomes = [(await sent(courier, call))[0].outcome for call in calls]
        assert outcomes.count(Outcome.ACCEPTED) == 4
        assert outcomes[3] is Outcome.REJECTED
        assert emulator.seen.taken.total() == 4


async def test_the_same_number_twice_is_sent_once_and_put_back_once() -> None:
    async with fast2sms(batch=10) as (courier, emulator):
        calls = [an_sms(), an_sms("+919876543211"), an_sms()]
        answers = await sent(courier, *calls)
        assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.DEFERRED]
        assert answers[2].scope is Scope.MESSAGE
        assert emulator.seen.taken == {"+919876543210": 1, "+919876543211": 1}
        assert courier.batch_key(calls[2].message) is None
        assert (await sent(courier, calls[2]))[0].outcome is Outcome.ACCEPTED


async def test_an_empty_wallet_is_the_accounts_fault() -> None:
    async with fast2sms(Fast2Sms(wallet=0.1)) as (courier, _):
        (answer,) = await sent(courier, an_sms())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "416")


async def test_a_bad_sender_that_the_message_named_says_nothing_of_the_account() -> None:
    async with fast2sms(sender="TOOLONGNAME") as (courier, _):
        template = {"dlt_template_id": "1107161234567890123"}
        (answer,) = await sent(courier, an_sms(**template))
        assert (answer.outcome, answer.code, answer.scope) == (Outcome.MISCONFIGURED, "406", Scope.PROVIDER)
        (answer,) = await sent(courier, an_sms(sender_id="ALSOWRONG", **template))
        assert (answer.outcome, answer.code, answer.scope) == (Outcome.MISCONFIGURED, "406", Scope.MESSAGE)


async def test_the_check_tells_the_wallet() -> None:
    async with fast2sms() as (courier, _):
        assert (await courier.check()).detail == "wallet 1000000.00 INR, enough for 1000 SMS"


async def test_a_key_that_the_provider_repeats_is_blotted_out() -> None:
    async with fast2sms(credentials={"api_key": "wrong-key-1234"}) as (courier, emulator):
        emulator.set("raw", raw=b"HTTP/1.1 401 X\r\ncontent-length: 31\r\n\r\n" + b'{"message":"no wrong-key-1234"}')
        (answer,) = await sent(courier, an_sms())
        assert answer.detail == "no …"
