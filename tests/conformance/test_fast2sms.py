"""Fast2SMS against an emulator that looks through every field and refuses what Fast2SMS refuses."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Channel, Priority, SmsContent
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.ports.receipts import Genuine, ReceiptCall, Refused, Reports
from heliograph.providers import KINDS, build
from heliograph.providers.fast2sms.answers import CODES
from heliograph.providers.fast2sms.courier import Fast2SmsCourier
from heliograph.providers.fast2sms.receipts import EFFECTS
from heliograph.providers.fast2sms.templates import Template
from tests.conformance.cases import fixtures
from tests.conformance.rigs import http_settings
from tests.support.builders import NOW, a_call, a_message, a_provider
from tests.support.emulators import Emulator, Fast2Sms, running
from tests.support.emulators import fast2sms as emulated
from tests.support.emulators.server import Request, Response
from tests.support.gateway_world import SMS, World, a_gateway

TEMPLATE: Final = "1107161234567890123"
OTHER_TEMPLATE: Final = "1107161234567890124"
ENTITY: Final = "1101456789012345678"
SECRET: Final = "kJ4vq2mZ8xTnW0pR"
LOGIN: Final = "Your OTP is {#var#} for Login."
KNOWN: Final = {
    TEMPLATE: LOGIN,
    OTHER_TEMPLATE: {"text": "Dear {#var#}, order {#var#} is on its way.", "message_id": "111111", "sender": "SHIPIN"},
}


@asynccontextmanager
async def fast2sms(api: Fast2Sms | None = None, **fields: Any) -> AsyncIterator[tuple[Fast2SmsCourier, Emulator]]:
    async with running(api or Fast2Sms()) as emulator:
        courier = build(http_settings("fast2sms", emulator.url, **fields))
        assert isinstance(courier, Fast2SmsCourier)
        yield courier, emulator
        await courier.aclose()


def a_courier(**fields: Any) -> Fast2SmsCourier:
    courier = build(http_settings("fast2sms", "http://127.0.0.1:9", **fields))
    assert isinstance(courier, Fast2SmsCourier)
    return courier


def an_sms(to: str = "+919876543210", text: str = "Your OTP is 5566 for Login.", **content: Any) -> ProviderCall:
    return a_call(a_message(to, content=SmsContent(text=text, **content)))


async def sent(courier: Fast2SmsCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


def refused_by(courier: Fast2SmsCourier, **content: Any) -> str | None:
    return courier.takes(an_sms(**content).message)


# ----------------------------------------------------------------------------------------------------- the routes


async def test_a_message_with_a_template_goes_by_dlt_manual() -> None:
    api = Fast2Sms(templates=[r"Your OTP is .{1,30} for Login\."])
    async with fast2sms(api, options={"entity_id": ENTITY}) as (courier, emulator):
        call = an_sms(dlt_template_id=TEMPLATE)
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert answer.provider_message_id == "lwdtp0000000001"
        assert emulator.requests[-1].path == "/dev/bulkV2"
        assert emulator.requests[-1].json() == {
            "route": "dlt_manual",
            "sender_id": "HELIOG",
            "message": "Your OTP is 5566 for Login.",
            "template_id": TEMPLATE,
            "entity_id": ENTITY,
            "numbers": "9876543210",
            "sms_details": "1",
            "udf1": call.attempt_id,
        }
        (answer,) = await sent(courier, an_sms(text="Something else", dlt_template_id=TEMPLATE))
        assert (answer.outcome, answer.code) == (Outcome.REJECTED, "425")


async def test_what_a_message_names_goes_before_what_is_configured() -> None:
    async with fast2sms(options={"entity_id": ENTITY, "templates": KNOWN}) as (courier, emulator):
        other = "1101456789012345679"
        text = "Dear Asha, order 7 is on its way."
        await sent(courier, an_sms(text=text, dlt_template_id=OTHER_TEMPLATE, dlt_entity_id=other))
        assert emulator.requests[-1].json()["entity_id"] == other
        assert emulator.requests[-1].json()["sender_id"] == "SHIPIN", "the template's own header"
        await sent(courier, an_sms(text=text, dlt_template_id=OTHER_TEMPLATE, sender_id="OTHERS"))
        assert emulator.requests[-1].json()["entity_id"] == ENTITY
        assert emulator.requests[-1].json()["sender_id"] == "OTHERS"


async def test_dlt_manual_leaves_out_ids_that_nobody_gave() -> None:
    async with fast2sms(options={"route": "dlt_manual"}) as (courier, emulator):
        assert (await sent(courier, an_sms()))[0].outcome is Outcome.ACCEPTED
        assert not {"template_id", "entity_id"} & emulator.requests[-1].json().keys()


@pytest.mark.parametrize("text", ["Hello, Asha.", "नमस्ते आशा", "costs 5 €", "smart ’quote’", "🎉", "مرحبا", "~[x]~"])
async def test_the_quick_route_takes_any_text_in_its_own_alphabet(text: str) -> None:
    async with fast2sms() as (courier, emulator):
        call = an_sms(text=text)
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.seen.texts == {text: 1}
        assert emulator.requests[-1].json() == {
            "route": "q",
            "message": text,
            "language": "english" if text in ("Hello, Asha.", "costs 5 €", "~[x]~") else "unicode",
            "numbers": "9876543210",
            "sms_details": "1",
            "udf1": call.attempt_id,
        }


async def test_the_dlt_route_sends_the_templates_number_and_its_variables() -> None:
    async with fast2sms(options={"route": "dlt"}) as (courier, emulator):
        call = an_sms(dlt_template_id="111111", dlt_variables=("Rahul", "5599"))
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json() == {
            "route": "dlt",
            "sender_id": "HELIOG",
            "message": "111111",
            "variables_values": "Rahul|5599|",
            "numbers": "9876543210",
            "sms_details": "1",
            "udf1": call.attempt_id,
        }
        (answer,) = await sent(courier, an_sms(dlt_template_id="not a number"))
        assert (answer.outcome, answer.code) == (Outcome.REJECTED, "424")


async def test_the_dlt_route_knows_a_templates_number_by_its_id_with_the_operators() -> None:
    async with fast2sms(options={"route": "dlt", "templates": KNOWN}) as (courier, emulator):
        call = an_sms(dlt_template_id=OTHER_TEMPLATE, dlt_variables=("Asha", ""))
        assert courier.takes(call.message) is None
        assert (await sent(courier, call))[0].outcome is Outcome.ACCEPTED
        body = emulator.requests[-1].json()
        assert (body["message"], body["variables_values"], body["sender_id"]) == ("111111", "Asha||", "SHIPIN")


async def test_the_otp_route_sends_digits() -> None:
    async with fast2sms(options={"route": "otp"}, sender=None) as (courier, emulator):
        call = an_sms(text="5566")
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json() == {
            "route": "otp",
            "variables_values": "5566",
            "numbers": "9876543210",
            "sms_details": "1",
            "udf1": call.attempt_id,
        }


async def test_a_flash_sms_says_so_on_every_route() -> None:
    routes = {"q": {}, "otp": {"text": "5566"}, "dlt": {"dlt_template_id": "1"}, "dlt_manual": {}}
    for route, content in routes.items():
        async with fast2sms(options={"route": route, "flash": True}) as (courier, emulator):
            assert (await sent(courier, an_sms(**content)))[0].outcome is Outcome.ACCEPTED
            assert emulator.requests[-1].json()["flash"] == "1"


async def test_the_key_is_in_the_header_alone() -> None:
    async with fast2sms() as (courier, emulator):
        await sent(courier, an_sms())
        request = emulator.requests[-1]
        assert request.headers["authorization"] == emulated.KEY
        assert request.target == "/dev/bulkV2"
        assert emulated.KEY.encode() not in request.body


async def test_an_answer_tells_parts_and_price_whatever_their_names() -> None:
    api = Fast2Sms()
    async with fast2sms(api) as (courier, _):
        (answer,) = await sent(courier, an_sms())
        wanted = "character_count 27, sms_count 1, sms_language english, per_sms_rate 0.20, amount_debited 0.20"
        assert answer.detail == wanted
        for details, told in (
            ([{"count": 2, "message": "Your OTP", "credits_debited": 0.5}], "count 2, credits_debited 0.5"),
            ("none", "Fast2SMS took the message"),
            ({"sms_count": {"x": 1}, "secret text count": "y"}, "Fast2SMS took the message"),
        ):
            api.says.append(Response.of(200, {"return": True, "request_id": "r", "sms_details": details}))
            assert (await sent(courier, an_sms()))[0].detail == told


# -------------------------------------------------------------------------------------- what can never be right


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"text": "Your OTP is 5566 for Login."}, None),
        ({"text": "Your OTP is  for Login."}, None),
        ({"text": f"Your OTP is {'x' * 40} for Login."}, None),
        ({"text": f"Your OTP is {'x' * 41} for Login."}, "dlt_text"),
        ({"text": "Your OTP is 5566 for login."}, "dlt_text"),
        ({"text": "Your OTP is 5566 for Login. "}, "dlt_text"),
        ({"text": "Your OTP is 55\n66 for Login."}, "dlt_text"),
        ({"text": "Your code is 5566."}, "dlt_text"),
        ({"dlt_variables": ("5566",)}, None),
        ({"dlt_variables": ("5566", "x")}, "dlt_variables"),
        ({"dlt_variables": ("x" * 41,)}, "dlt_variables"),
        ({"text": LOGIN, "dlt_variables": ("5566",)}, "dlt_text"),
        ({"sender_id": "TOOLONG"}, "sender"),
        ({"sender_id": "H1"}, "sender"),
    ],
)
def test_a_text_must_be_its_templates(content: dict[str, Any], why: str | None) -> None:
    courier = a_courier(options={"templates": KNOWN})
    assert refused_by(courier, **{"dlt_template_id": TEMPLATE} | content) == why


def test_a_text_of_a_template_that_is_not_known_is_only_looked_at_for_gaps() -> None:
    courier = a_courier(options={"templates": KNOWN})
    unknown = {"dlt_template_id": "1107161234567890999"}
    assert refused_by(courier, text="Whatever it says", **unknown) is None
    assert refused_by(courier, text=LOGIN, **unknown) == "dlt_text"
    assert refused_by(courier, text=LOGIN) is None, "without a template it goes by q, as it is"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("Asha", "7")}, None),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("Asha",)}, "dlt_variables"),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ()}, "dlt_variables"),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("Asha", "7", "8")}, "dlt_variables"),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("Asha", "7|8")}, "dlt_variables"),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("Asha", "7\n8")}, "dlt_variables"),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("x" * 40, "7")}, None),
        ({"dlt_template_id": OTHER_TEMPLATE, "dlt_variables": ("x" * 41, "7")}, "dlt_variables"),
        ({"dlt_template_id": "222222", "dlt_variables": ("x" * 41,)}, "dlt_variables"),
        ({"dlt_template_id": "222222"}, None),
        ({"dlt_template_id": "111111", "dlt_variables": ("Asha", "7")}, None),
        ({"dlt_template_id": "111111", "dlt_variables": ("Asha",)}, "dlt_variables"),
        ({"dlt_template_id": TEMPLATE, "dlt_variables": ("5566",)}, "dlt_template"),
        ({}, "dlt_template"),
        ({"dlt_template_id": "222222", "sender_id": "12345"}, "sender"),
    ],
)
def test_variables_must_be_as_many_as_the_template_has_and_short_enough(content: dict[str, Any], why: str) -> None:
    assert refused_by(a_courier(options={"route": "dlt", "templates": KNOWN}), **content) == why


def test_how_long_a_variable_may_be_is_the_configurations_to_say() -> None:
    for option, longest in ((30, 30), ("100", 100)):
        courier = a_courier(options={"templates": KNOWN, "variable_length": option})
        for length, why in ((longest, None), (longest + 1, "dlt_text")):
            assert refused_by(courier, text=f"Your OTP is {'x' * length} for Login.", dlt_template_id=TEMPLATE) == why


async def test_a_variable_longer_than_the_classic_length_is_warned_of_once() -> None:
    async with fast2sms(options={"templates": KNOWN}) as (courier, _):
        with structlog.testing.capture_logs() as logs:
            for length in (30, 31, 40):
                text = f"Your OTP is {'x' * length} for Login."
                assert (await sent(courier, an_sms(text=text, dlt_template_id=TEMPLATE)))[0].outcome is Outcome.ACCEPTED
        assert [(line["event"], line["template"]) for line in logs] == [("provider.long_variable", TEMPLATE)]
        assert "xxx" not in str(logs)


WORDS: Final = st.text(alphabet="ab .{#}", max_size=8)


@given(pieces=st.lists(WORDS, min_size=1, max_size=6), values=st.data())
def test_a_template_fits_whatever_it_was_filled_with(pieces: list[str], values: st.DataObject) -> None:
    longest = 5
    filled = pieces[0]
    for piece in pieces[1:]:
        filled += values.draw(st.text(alphabet="ab .", max_size=longest)) + piece
    assert Template(tuple(pieces)).fits(filled, longest)


@given(pieces=st.lists(WORDS, min_size=1, max_size=4), text=st.text(alphabet="ab .\n", max_size=20))
def test_a_template_fits_what_its_regular_expression_does(pieces: list[str], text: str) -> None:
    pattern = ".{0,3}".join(map(re.escape, pieces))
    assert Template(tuple(pieces)).fits(text, 3) == (re.fullmatch(pattern, text) is not None)


def test_a_template_of_many_gaps_is_matched_in_no_time() -> None:
    hostile = Template.of("{#var#} " * 60 + "end")
    assert not hostile.fits(" " * 1500, 40)
    assert hostile.fits("x " * 60 + "end", 40)


@pytest.mark.parametrize(
    ("templates", "named"),
    [
        ("a text", "options.templates"),
        ({TEMPLATE: ""}, TEMPLATE),
        ({TEMPLATE: {"message_id": "1"}}, TEMPLATE),
        ({TEMPLATE: {"text": "x", "header": "SHIPIN"}}, "unknown key header"),
        ({TEMPLATE: {"text": "x", "message_id": TEMPLATE}}, "message_id"),
        ({TEMPLATE: {"text": "x", "message_id": "abc"}}, "message_id"),
        ({TEMPLATE: {"text": "x", "sender": "TOOLONG"}}, "sender"),
        ({TEMPLATE: 7}, TEMPLATE),
    ],
)
def test_a_template_that_is_wrong_is_told_as_it_is_configured(templates: object, named: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        a_courier(options={"templates": templates})
    assert "options.templates" in str(told.value)
    assert named in str(told.value)


async def test_what_fits_no_template_is_refused_as_it_is_posted() -> None:
    only = a_provider(
        "fast2sms", Channel.SMS, name="india", credentials={"api_key": "x"}, sender="HELIOG",
        options={"templates": KNOWN, "route": "dlt_manual"},
    )  # fmt: skip
    async with a_gateway(World(providers=[only])) as gateway:
        for text, variables, pointer in (
            ("Your OTP was 5566 for Login.", [], "#/text"),
            ("Your OTP is 5566 for Login.", ["5566", "7788"], "#/sms/dlt_variables"),
        ):
            posted = {**SMS, "text": text, "sms": {"dlt_template_id": TEMPLATE, "dlt_variables": variables}}
            answer = await gateway.post("/v1/messages", posted)
            assert (answer.status, answer.json["code"]) == (422, "no_route")
            assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
        posted = {**SMS, "text": "Your OTP is 5566 for Login.", "sms": {"dlt_template_id": TEMPLATE}}
        assert (await gateway.post("/v1/messages", posted)).status == 202


# --------------------------------------------------------------------------------------------------- shared calls


async def test_equal_texts_share_a_call_and_its_request_id() -> None:
    async with fast2sms(batch=10, receipts={"secret": SECRET}) as (courier, emulator):
        calls = [an_sms(f"+9198765432{n}") for n in range(10, 20)]
        assert len({courier.batch_key(call.message) for call in calls}) == 1
        answers = await sent(courier, *calls)
        assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}
        assert len({answer.provider_message_id for answer in answers}) == 1
        assert all(answer.traced for answer in answers)
        assert emulator.seen.calls == 1
        assert emulator.seen.taken.total() == 10
        assert emulator.requests[-1].path == "/dev/bulkV2"
        assert "udf1" not in emulator.requests[-1].json()
        assert (answers[0].detail or "").endswith("amount_debited 2.00, for 10 messages")


async def test_different_texts_share_a_call_on_the_dlt_routes() -> None:
    async with fast2sms(batch=10, options={"entity_id": ENTITY, "templates": KNOWN}) as (courier, emulator):
        calls = [
            an_sms("+919876543210", "Your OTP is 5566 for Login.", dlt_template_id=TEMPLATE),
            an_sms("+919876543211", "Your OTP is 7788 for Login.", dlt_template_id=TEMPLATE),
            an_sms("+919876543212", "Dear Asha, order 7 is on its way.", dlt_template_id=OTHER_TEMPLATE),
        ]
        assert len({courier.batch_key(call.message) for call in calls} - {None}) == 1
        answers = await sent(courier, *calls)
        assert {(answer.outcome, answer.provider_message_id) for answer in answers} == {
            (Outcome.ACCEPTED, "lwdtp0000000001")
        }
        request = emulator.requests[-1]
        assert request.path == "/dev/custom"
        assert request.json() == {
            "route": "dlt_manual",
            "requests": [
                {
                    "sender_id": sender,
                    "message": text,
                    "template_id": template,
                    "entity_id": ENTITY,
                    "flash": 0,
                    "numbers": number,
                }
                for sender, text, template, number in (
                    ("HELIOG", "Your OTP is 5566 for Login.", TEMPLATE, "9876543210"),
                    ("HELIOG", "Your OTP is 7788 for Login.", TEMPLATE, "9876543211"),
                    ("SHIPIN", "Dear Asha, order 7 is on its way.", OTHER_TEMPLATE, "9876543212"),
                )
            ],
        }
        assert emulator.seen.taken.total() == 3


async def test_different_variables_share_a_call_on_the_dlt_route() -> None:
    async with fast2sms(batch=10, options={"route": "dlt"}) as (courier, emulator):
        calls = [
            an_sms(f"+91987654321{n}", dlt_template_id="111111", dlt_variables=(f"Asha {n}", "7")) for n in range(3)
        ]
        assert {answer.outcome for answer in await sent(courier, *calls)} == {Outcome.ACCEPTED}
        assert emulator.requests[-1].path == "/dev/custom"
        assert [entry["variables_values"] for entry in emulator.requests[-1].json()["requests"]] == [
            f"Asha {n}|7|" for n in range(3)
        ]


def test_urgent_messages_quick_texts_that_differ_and_codes_share_nothing() -> None:
    quick, otp = a_courier(batch=10), a_courier(batch=10, options={"route": "otp"})
    urgent = a_message(content=SmsContent(text="x", dlt_template_id=TEMPLATE), priority=Priority.URGENT)
    assert quick.batch_key(urgent) is None
    assert quick.batch_key(an_sms(text="a").message) != quick.batch_key(an_sms(text="b").message)
    assert otp.batch_key(an_sms(text="5566").message) is None
    assert a_courier().batch_key(an_sms().message) is None


async def test_a_call_of_several_texts_may_be_answered_with_an_id_for_each() -> None:
    api = Fast2Sms()
    async with fast2sms(api, batch=10, receipts={"secret": SECRET}) as (courier, _):
        calls = [an_sms(f"+91987654321{n}", f"text {n}", dlt_template_id=TEMPLATE) for n in range(3)]
        for said, ids in (
            (["a", "b", "c"], ["a", "b", "c"]),
            (["a"], ["a", "a", "a"]),
            (["a", "b"], [None, None, None]),
            ([], [None, None, None]),
            (None, [None, None, None]),
            (77, ["77", "77", "77"]),
        ):
            api.says.append(Response.of(200, {"return": True, "request_id": said, "message": ["ok"]}))
            answers = await sent(courier, *calls)
            assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}
            assert [answer.provider_message_id for answer in answers] == ids
            assert [answer.traced for answer in answers] == [known is not None for known in ids]


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


SPLIT: Final = {402, 405, 407, 411, 417, 424, 425, 426, 427, 500, 995, 997}


@pytest.mark.parametrize("code", sorted(CODES))
async def test_a_refusal_for_one_messages_sake_splits_a_shared_call_and_any_other_is_everyones(code: int) -> None:
    api = Fast2Sms()
    async with fast2sms(api, batch=10) as (courier, _):
        calls = [an_sms(f"+91987654321{n}", f"text {n}", dlt_template_id=TEMPLATE) for n in range(3)]
        api.say(code)
        answers = await sent(courier, *calls)
        split = {courier.batch_key(call.message) for call in calls} == {None}
        assert split == (code in SPLIT)
        assert {answer.outcome for answer in answers} == {Outcome.DEFERRED if split else CODES[code].outcome}
        assert {answer.code for answer in answers} == {str(code)}


async def test_a_sender_that_one_message_named_does_not_stop_its_neighbours() -> None:
    api = Fast2Sms()
    async with fast2sms(api, batch=10) as (courier, _):
        calls = [
            an_sms("+919876543210", dlt_template_id=TEMPLATE, sender_id="OTHERS"),
            an_sms("+919876543211", dlt_template_id=TEMPLATE),
        ]
        api.say(406)
        assert {answer.outcome for answer in await sent(courier, *calls)} == {Outcome.DEFERRED}
        api.say(406)
        (answer,) = await sent(courier, calls[0])
        assert (answer.outcome, answer.scope) == (Outcome.MISCONFIGURED, Scope.MESSAGE)


async def test_the_same_number_twice_is_sent_once_and_put_back_once() -> None:
    async with fast2sms(batch=10) as (courier, emulator):
        calls = [an_sms(), an_sms("+919876543211"), an_sms()]
        answers = await sent(courier, *calls)
        assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.DEFERRED]
        assert answers[2].scope is Scope.MESSAGE
        assert emulator.seen.taken == {"+919876543210": 1, "+919876543211": 1}
        assert courier.batch_key(calls[2].message) is None
        assert (await sent(courier, calls[2]))[0].outcome is Outcome.ACCEPTED


async def test_of_a_call_without_an_answer_the_second_text_for_a_number_is_known_not_to_have_gone() -> None:
    async with fast2sms(batch=10) as (courier, emulator):
        emulator.set("lost", times=1)
        calls = [an_sms(text="one", dlt_template_id=TEMPLATE), an_sms(text="two", dlt_template_id=TEMPLATE)]
        assert [answer.outcome for answer in await sent(courier, *calls)] == [Outcome.UNKNOWN, Outcome.DEFERRED]
        assert emulator.seen.texts == {"one": 1}


# --------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize("code", sorted(emulated.MESSAGES))
async def test_every_code_comes_to_its_row(code: int) -> None:
    api = Fast2Sms()
    async with fast2sms(api) as (courier, _):
        api.say(code)
        (answer,) = await sent(courier, an_sms())
        row = CODES[code]
        assert (answer.outcome, answer.scope, answer.code) == (row.outcome, row.scope, str(code))
        assert answer.detail == emulated.MESSAGES[code]


async def test_an_empty_wallet_is_the_accounts_fault() -> None:
    async with fast2sms(Fast2Sms(wallet=0.1)) as (courier, _):
        (answer,) = await sent(courier, an_sms())
        assert (answer.outcome, answer.code, answer.scope) == (Outcome.MISCONFIGURED, "416", Scope.PROVIDER)


async def test_a_number_on_the_do_not_disturb_list_is_refused_on_the_quick_route_alone() -> None:
    api = Fast2Sms()
    api.dnd = {"+919876543210"}
    async with fast2sms(api) as (courier, _):
        (answer,) = await sent(courier, an_sms())
        assert (answer.outcome, answer.code, answer.suppress) == (Outcome.REJECTED, "427", None)
        assert (await sent(courier, an_sms(dlt_template_id=TEMPLATE)))[0].outcome is Outcome.ACCEPTED


async def test_a_bad_sender_that_the_message_named_says_nothing_of_the_account() -> None:
    async with fast2sms(sender="TOOLONGNAME") as (courier, _):
        template = {"dlt_template_id": TEMPLATE}
        (answer,) = await sent(courier, an_sms(**template))
        assert (answer.outcome, answer.code, answer.scope) == (Outcome.MISCONFIGURED, "406", Scope.PROVIDER)
        (answer,) = await sent(courier, an_sms(sender_id="ALSOWRONG", **template))
        assert (answer.outcome, answer.code, answer.scope) == (Outcome.MISCONFIGURED, "406", Scope.MESSAGE)


async def test_the_check_tells_the_wallet() -> None:
    async with fast2sms() as (courier, emulator):
        assert (await courier.check()).detail == "wallet 1000000.00 INR, enough for 1000 SMS"
        assert (emulator.requests[-1].method, emulator.requests[-1].path) == ("POST", "/dev/wallet")


@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        ({"return": True, "wallet": "500.50"}, Outcome.ACCEPTED, "wallet 500.50 INR"),
        ({"return": True, "wallet": 12}, Outcome.ACCEPTED, "wallet 12.00 INR"),
        ({"return": True, "wallet": 0.5, "sms_count": "2"}, Outcome.ACCEPTED, "wallet 0.50 INR, enough for 2 SMS"),
        ({"return": True, "wallet": "1,234.5"}, Outcome.ACCEPTED, "wallet 1234.50 INR"),
        ({"return": True, "wallet": "0.00"}, Outcome.MISCONFIGURED, "the wallet is empty: wallet 0.00 INR"),
        ({"return": True, "wallet": "-3"}, Outcome.MISCONFIGURED, "the wallet is empty: wallet -3.00 INR"),
        ({"return": True}, Outcome.UNKNOWN, "the answer names no wallet"),
        ({"return": True, "wallet": "NaN"}, Outcome.UNKNOWN, "the answer names no wallet"),
        ({"return": True, "wallet": "much"}, Outcome.UNKNOWN, "the answer names no wallet"),
        ({"return": False, "status_code": 413, "message": "x"}, Outcome.MISCONFIGURED, "x"),
    ],
)
async def test_the_wallet_is_read_in_any_form(body: Mapping[str, Any], outcome: Outcome, detail: str) -> None:
    async with fast2sms() as (courier, emulator):
        said = json.dumps(body).encode()
        emulator.set("raw", raw=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))
        answer = await courier.check()
        assert (answer.outcome, answer.detail) == (outcome, detail)


async def test_a_key_that_the_provider_repeats_is_blotted_out() -> None:
    async with fast2sms(credentials={"api_key": "wrong-key-1234"}) as (courier, emulator):
        emulator.set("raw", raw=b"HTTP/1.1 401 X\r\ncontent-length: 31\r\n\r\n" + b'{"message":"no wrong-key-1234"}')
        (answer,) = await sent(courier, an_sms())
        assert answer.detail == "no …"


# -------------------------------------------------------------------------------------------------- the receipts


def reports(body: bytes, **receipts: Any) -> tuple[Receipt, ...]:
    build_reader = KINDS["fast2sms"].receipts
    assert build_reader is not None
    reader = build_reader(http_settings("fast2sms", "http://127.0.0.1:9", receipts={"secret": SECRET} | receipts))
    call = ReceiptCall(headers={}, query={"secret": SECRET}, body=body, received_at=NOW)
    assert isinstance(reader.verify(call, {}), Genuine)
    said = reader.read(call)
    assert isinstance(said, Reports)
    return said.receipts


async def test_a_receipt_leads_back_to_the_attempt_that_went_alone() -> None:
    api = Fast2Sms()
    async with fast2sms(api) as (courier, _):
        call = an_sms()
        (answer,) = await sent(courier, call)
        standard = api.sent[-1].standard("Delivered")
        for body in (json.dumps(standard).encode(), urlencode(standard).encode()):
            (receipt,) = reports(body)
            assert receipt.attempt_id == call.attempt_id
            assert (receipt.effect, receipt.recipient) == (Effect.DELIVERED, call.message.to)
            assert receipt.provider_message_id == answer.provider_message_id
            assert receipt.at is not None
            assert receipt.at.isoformat() == "2026-11-24T12:01:02+00:00"


async def test_a_receipt_of_a_shared_call_names_the_request_and_the_number() -> None:
    api = Fast2Sms()
    async with fast2sms(api, batch=10) as (courier, _):
        calls = [an_sms(f"+91987654321{n}") for n in range(3)]
        answers = await sent(courier, *calls)
        for call, answer, taken in zip(calls, answers, api.sent, strict=True):
            (receipt,) = reports(json.dumps(taken.standard("failed")).encode())
            assert (receipt.attempt_id, receipt.effect) == (None, Effect.UNDELIVERED)
            assert (receipt.provider_message_id, receipt.recipient) == (answer.provider_message_id, call.message.to)
        path = f"/dev/dlr/{answers[0].provider_message_id}"
        said = api.handle(Request("GET", path, {}, {"authorization": emulated.KEY}, b"", path))
        found = reports(said.body)
        assert [receipt.recipient for receipt in found] == [call.message.to for call in calls]
        assert {receipt.provider_message_id for receipt in found} == {answers[0].provider_message_id}


def test_a_blocked_number_is_suppressed_unless_the_configuration_says_no() -> None:
    body = b'{"request_id":"r","mobile":"9876543210","status":"failed","failure_reason":"DND number"}'
    assert reports(body)[0].suppress == "carrier_block"
    assert reports(body, carrier_blocks=False)[0].suppress is None


@pytest.mark.parametrize(
    ("receipts", "named"),
    [
        ({}, "receipts.secret"),
        ({"secret": SECRET, "carrier_blocks": "perhaps"}, "receipts.carrier_blocks"),
        ({"secret": SECRET, "carrier_block": True}, "did you mean carrier_blocks?"),
    ],
)
def test_a_receipts_table_that_is_wrong_is_told(receipts: dict[str, Any], named: str) -> None:
    build_reader = KINDS["fast2sms"].receipts
    assert build_reader is not None
    with pytest.raises(ConfigurationError) as told:
        build_reader(http_settings("fast2sms", "http://127.0.0.1:9", receipts=receipts))
    assert named in str(told.value)
    assert SECRET not in str(told.value)


def test_a_secret_is_asked_for_in_every_call() -> None:
    build_reader = KINDS["fast2sms"].receipts
    assert build_reader is not None
    reader = build_reader(http_settings("fast2sms", "http://127.0.0.1:9", receipts={"secret": SECRET}))
    for query in ({}, {"secret": ""}, {"secret": SECRET[:-1]}, {"secret": f"{SECRET}x"}, {"token": SECRET}):
        refused = reader.verify(ReceiptCall(headers={}, query=query, body=b"{}", received_at=NOW), {})
        assert isinstance(refused, Refused)
        assert refused.status == 401


async def test_a_report_is_taken_by_the_gateway_as_json_and_as_a_form_with_the_secret_and_not_without() -> None:
    india = a_provider("fast2sms", Channel.SMS, name="india", credentials={"api_key": "x"}, receipts={"secret": SECRET})
    body = emulated.Taken("lwdtp1", "9876543210", "x", "HELIOG", None).standard("delivered")
    path, form = f"/v1/receipts/india?secret={SECRET}", {"Content-Type": "application/x-www-form-urlencoded"}
    async with a_gateway(World(providers=[india])) as gateway:
        for how in ({"body": body}, {"raw": urlencode(body).encode(), "headers": form}):
            for method in ("POST", "PUT"):
                answer = await gateway.ask(method, path, **how, secret=None)
                assert (answer.status, answer.json) == (200, {"receipts": 1, "ignored": 0})
        assert (await gateway.post(path, raw=b"\xff{", secret=None)).status == 200
        for wrong in (path[:-1], "/v1/receipts/india"):
            assert (await gateway.post(wrong, body, secret=None)).status == 401


# --------------------------------------------------------------------------------------------------- the fixtures


def test_every_code_and_every_status_has_its_fixture() -> None:
    answers = [each.entry for each in fixtures("answers.toml", "answer", "provider") if each.kind == "fast2sms"]
    assert {str(code) for code in CODES} <= {entry.get("code") for entry in answers}
    receipts = [each.entry for each in fixtures("receipts.toml", "receipt", "settings") if each.kind == "fast2sms"]
    told = {report["code"] for entry in receipts for report in entry.get("reports", []) if "code" in report}
    assert set(EFFECTS) <= told


# ------------------------------------------------------------------------------------------------------ the page


def test_the_configuration_on_the_page_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers" / "fast2sms.md").read_text()
    block = page.partition("```toml")[2].partition("```")[0]
    (table,) = tomllib.loads(textwrap.dedent(block))["providers"]
    courier = a_courier(sender=table["sender"], batch=table["batch"], options=table["options"])
    assert courier.account.templates.keys() == {TEMPLATE, OTHER_TEMPLATE, "111111"}
    text = "Dear Asha, order 7 is on its way."
    assert refused_by(courier, text=text, dlt_template_id=OTHER_TEMPLATE) is None
    assert refused_by(courier, text=f"{text}!", dlt_template_id=OTHER_TEMPLATE) == "dlt_text"


def test_every_code_and_every_word_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers" / "fast2sms.md").read_text()
    answers = page.partition("## What becomes of an answer")[2].partition("##")[0]
    told = {int(code) for code in re.findall(r"\b[0-9]{3}\b", answers)} | set(range(412, 416))
    assert set(CODES) <= told
    assert all(f"`{status}`" in page for status in EFFECTS)
