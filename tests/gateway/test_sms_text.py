"""A posted SMS is answered with its number of parts, as the networks count them, or refused with it."""

from __future__ import annotations

import pytest

from tests.support.gateway_world import SMS, a_gateway

FAMILY = "👩\u200d👩\u200d👧\u200d👦"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("€" * 80, 1),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("₹" * 70, 1),
        ("₹" * 60 + FAMILY, 2),
        ("₹" * 60 + FAMILY + "₹" * 63, 3),
        ("₹" * 61 + FAMILY + "₹" * 62, 2),
        ("مرحبا بالعالم", 1),
        ("\u202bשלום\u202c, Asha. " * 6, 2),
        ("a" * 1530, 10),
        ("₹" * 670, 10),
    ],
)
async def test_an_sms_is_stored_as_it_came_and_answered_with_its_parts(text: str, parts: int) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", {**SMS, "text": text})
        assert (answer.status, answer.json["parts"]) == (202, parts)
        assert gateway.world.accepted[0].messages[0].content.text == text


@pytest.mark.parametrize(
    ("text", "parts"), [("a" * 1531, 11), ("₹" * 671, 11), ("😀" * 335, 11), ("{" * 766, 11), ("a" * 20_000, 131)]
)
async def test_an_sms_of_too_many_parts_is_refused_with_their_number(text: str, parts: int) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", {**SMS, "text": text})
        assert answer.status == 422
        assert [error["pointer"] for error in answer.json["errors"]] == ["#/text"]
        assert f"{parts} parts" in answer.json["errors"][0]["detail"]
        assert gateway.world.accepted == []


async def test_an_sms_of_too_many_parts_harms_no_neighbour_in_a_batch() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages/batch", {"messages": [SMS, {**SMS, "text": "₹" * 671}, SMS]})
        assert answer.status == 202
        first, refused, last = answer.json["data"]
        assert first["parts"] == last["parts"] == 1
        assert "11 parts" in str(refused["error"]["errors"])


@pytest.mark.parametrize(
    ("sms", "pointer"),
    [
        ('"text":"\\ud83d"', "#/text"),
        ('"text":"\\ude00\\ud83d"', "#/text"),
        ('"text":"ok","sms":{"dlt_variables":["fine","\\ud83d"]}', "#/sms/dlt_variables/1"),
        ('"text":"ok","sms":{"sender_id":"\\udfff"}', "#/sms/sender_id"),
    ],
)
async def test_half_a_surrogate_pair_is_refused_with_its_place(sms: str, pointer: str) -> None:
    async with a_gateway() as gateway:
        raw = f'{{"channel":"sms","to":"+919876540000",{sms}}}'.encode()
        answer = await gateway.post("/v1/messages", raw=raw)
        assert answer.status == 422
        assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


async def test_a_whole_surrogate_pair_is_the_character_that_it_means() -> None:
    async with a_gateway() as gateway:
        raw = b'{"channel":"sms","to":"+919876540000","text":"\\ud83d\\ude00"}'
        answer = await gateway.post("/v1/messages", raw=raw)
        assert (answer.status, answer.json["parts"]) == (202, 1)
        assert gateway.world.accepted[0].messages[0].content.text == "😀"
