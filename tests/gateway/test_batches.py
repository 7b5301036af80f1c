"""Batches: each item is judged by itself, in order, and the whole can be repeated."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.support.gateway_world import EMAIL, SMS, World, a_gateway

BATCH = "/v1/messages/batch"
BAD = {**SMS, "to": "x"}


def keyed(key: str, **changes: Any) -> dict[str, Any]:
    return {**SMS, **changes, "idempotency_key": key}


async def test_answers_come_in_order_and_a_bad_item_harms_no_neighbour() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(BATCH, {"messages": [SMS, BAD, EMAIL, "text", {**SMS, "template": "x"}]})
        assert answer.status == 202
        data = answer.json["data"]
        assert [item.get("channel", "error") for item in data] == ["sms", "error", "email", "error", "error"]
        problem = data[1]["error"]
        assert (problem["status"], problem["code"], problem["errors"][0]["pointer"]) == (422, "invalid", "#/to")
        assert problem["request_id"] == answer.headers["X-Request-Id"]
        assert data[4]["error"]["code"] == "not_available"
        assert [m.id for m in gateway.world.accepted[0].messages] == [data[0]["id"], data[2]["id"]]
        read = await gateway.get(f"/v1/messages/{data[2]['id']}")
        assert read.json == data[2]


async def test_a_batch_of_nothing_but_bad_items_is_answered_item_by_item() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(BATCH, {"messages": [BAD, BAD]})
        assert answer.status == 202
        assert [item["error"]["status"] for item in answer.json["data"]] == [422, 422]
        assert gateway.world.accepted == []


async def test_a_thousand_items_are_taken_in_one_commit_and_one_more_is_too_many() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(BATCH, {"messages": [SMS] * 1000})
        assert len({item["id"] for item in answer.json["data"]}) == 1000
        assert len(gateway.world.accepted) == 1
        more = await gateway.post(BATCH, {"messages": [SMS] * 1001})
        assert (more.status, more.json["errors"][0]["pointer"]) == (422, "#/messages")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"#/messages"}),
        ({"messages": []}, {"#/messages"}),
        ({"messages": {}}, {"#/messages"}),
        ({"messages": None, "colour": 1}, {"#/messages", "#/colour"}),
        ([SMS], {"#"}),
    ],
)
async def test_a_body_that_is_no_batch_is_refused_as_a_whole(body: Any, pointers: set[str]) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(BATCH, body)
        assert answer.status == 422
        assert {e["pointer"] for e in answer.json["errors"]} == pointers


async def test_an_item_with_a_character_that_cannot_be_stored_harms_no_neighbour() -> None:
    async with a_gateway() as gateway:
        good = b'{"channel":"sms","to":"+919876540000","text":"x"}'
        raw = b'{"messages":[%s,%s,%s]}' % (
            good,
            good.replace(b'"x"', b'"\\u0000"'),
            good.replace(b'"x"', b'"\\ud800"'),
        )
        data = (await gateway.post(BATCH, raw=raw)).json["data"]
        assert [("id" in item) for item in data] == [True, False, False]
        assert data[2]["error"]["errors"][0]["pointer"] == "#/text"


async def test_an_item_that_is_nested_too_deep_harms_no_neighbour() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": deep}
    async with a_gateway() as gateway:
        data = (await gateway.post(BATCH, {"messages": [SMS, {**SMS, "metadata": deep}]})).json["data"]
        assert "id" in data[0]
        assert data[1]["error"]["status"] == 422


async def test_the_headers_key_covers_the_whole() -> None:
    async with a_gateway() as gateway:
        body = {"messages": [SMS, BAD, EMAIL]}
        first = await gateway.post(BATCH, body, headers={"Idempotency-Key": "k"})
        again = await gateway.post(BATCH, body, headers={"Idempotency-Key": "k"})
        assert again.raw == first.raw
        assert again.headers["Idempotent-Replayed"] == "true"
        other = await gateway.post(BATCH, {"messages": [SMS]}, headers={"Idempotency-Key": "k"})
        assert other.json["code"] == "idempotency_mismatch"
        assert len(gateway.world.accepted) == 1


async def test_the_headers_key_covers_a_batch_of_which_nothing_was_accepted() -> None:
    async with a_gateway() as gateway:
        body = {"messages": [{**SMS, "expires_at": "2026-11-24T11:00:00Z"}]}
        first = await gateway.post(BATCH, body, headers={"Idempotency-Key": "k"})
        again = await gateway.post(BATCH, body, headers={"Idempotency-Key": "k"})
        assert (again.status, again.raw) == (202, first.raw)


async def test_an_items_own_key_holds_over_requests() -> None:
    async with a_gateway() as gateway:
        first = (await gateway.post(BATCH, {"messages": [keyed("a"), SMS, keyed("b")]})).json["data"]
        second = (await gateway.post(BATCH, {"messages": [keyed("b"), keyed("a"), keyed("c")]})).json["data"]
        assert second[0] == first[2]
        assert second[1] == first[0]
        assert second[2]["id"] not in {item["id"] for item in first}
        other = (await gateway.post(BATCH, {"messages": [keyed("a", text="Other"), SMS]})).json["data"]
        assert other[0]["error"]["code"] == "idempotency_mismatch"
        assert "id" in other[1]


async def test_the_same_key_twice_in_one_batch_is_one_message() -> None:
    async with a_gateway() as gateway:
        items = [keyed("a"), keyed("a"), keyed("a", text="Other")]
        data = (await gateway.post(BATCH, {"messages": items})).json["data"]
        assert data[0] == data[1]
        assert data[2]["error"]["code"] == "idempotency_mismatch"


async def test_an_items_key_and_the_headers_key_of_the_same_text_are_two_keys() -> None:
    async with a_gateway() as gateway:
        data = await gateway.post(BATCH, {"messages": [keyed("k"), SMS]}, headers={"Idempotency-Key": "k"})
        assert data.status == 202
        assert all("id" in item for item in data.json["data"])


async def test_a_repeat_under_the_headers_key_with_other_keyed_items_takes_no_effect() -> None:
    async with a_gateway() as gateway:
        await gateway.post(BATCH, {"messages": [keyed("a")]}, headers={"Idempotency-Key": "k"})
        count = len((await gateway.get("/v1/messages")).json["data"])
        other = await gateway.post(BATCH, {"messages": [keyed("b")]}, headers={"Idempotency-Key": "k"})
        assert other.json["code"] == "idempotency_mismatch"
        assert len((await gateway.get("/v1/messages")).json["data"]) == count


async def test_a_keyed_item_that_is_too_late_by_now_is_answered_as_the_first_was() -> None:
    async with a_gateway() as gateway:
        item = keyed("a", expires_at="2026-11-24T12:05:00Z")
        first = (await gateway.post(BATCH, {"messages": [item]})).json["data"]
        gateway.world.clock.move(3600)
        assert (await gateway.post(BATCH, {"messages": [item]})).json["data"] == first


@pytest.mark.parametrize("key", ["", "k" * 256, "clé", " a"])
async def test_an_items_key_must_be_a_short_printable_string(key: str) -> None:
    async with a_gateway() as gateway:
        [item] = (await gateway.post(BATCH, {"messages": [keyed(key)]})).json["data"]
        assert item["error"]["errors"][0]["pointer"] == "#/idempotency_key"
    async with a_gateway() as gateway:
        [item] = (await gateway.post(BATCH, {"messages": [{**SMS, "idempotency_key": 5}]})).json["data"]
        assert item["error"]["errors"][0]["pointer"] == "#/idempotency_key"


async def test_an_item_whose_key_is_in_flight_is_409_and_harms_no_neighbour() -> None:
    world = World(held=trio.Event())
    answers = []
    async with a_gateway(world) as gateway, trio.open_nursery() as nursery:

        async def post(*items: dict[str, Any]) -> None:
            answers.append(await gateway.post(BATCH, {"messages": list(items)}))

        nursery.start_soon(post, keyed("a"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(post, keyed("a"), keyed("b"), SMS)
        await trio.testing.wait_all_tasks_blocked()
        assert world.held is not None
        world.held.set()
    data = max((a.json["data"] for a in answers), key=len)
    assert data[0]["error"]["code"] == "idempotency_in_flight"
    assert "id" in data[1]
    assert "id" in data[2]


@pytest.mark.parametrize("trouble", ["full", "ledger_down"])
async def test_a_batch_that_cannot_be_committed_is_503_and_can_be_repeated(trouble: str) -> None:
    async with a_gateway() as gateway:
        await gateway.get("/v1/messages")  # the key is remembered for a moment
        setattr(gateway.world, trouble, True)
        for items in ([SMS], [keyed("a")], [keyed("a"), SMS]):
            answer = await gateway.post(BATCH, {"messages": items})
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
        setattr(gateway.world, trouble, False)
        assert (await gateway.post(BATCH, {"messages": [keyed("a"), SMS]})).status == 202
