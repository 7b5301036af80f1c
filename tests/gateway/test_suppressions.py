"""Suppressions: who is entered is not written to, whoever asks, and however."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.message import Channel
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.ledger import Entry
from tests.gateway.test_on_postgres import on_postgres
from tests.support.gateway_world import EMAIL, SMS, Gateway, a_gateway

PATH = "/v1/suppressions"
MESSAGES = "/v1/messages"
BATCH = "/v1/messages/batch"
ASHA = {"channel": "email", "to": "asha@shop.in"}


async def enter(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    answer = await gateway.post(PATH, {**ASHA, **fields})
    assert answer.status == 201, answer.raw
    entered: dict[str, Any] = answer.json
    return entered


async def test_an_entry_is_made_once_and_read_back() -> None:
    async with a_gateway() as gateway:
        made = await gateway.post(PATH, {**ASHA, "to": "Asha@SHOP.in", "detail": "asked by phone"})
        assert made.status == 201
        assert made.headers["Location"] == f"{PATH}/{made.json['id']}"
        assert made.json == {
            "id": made.json["id"], "tenant": "default", "channel": "email", "to": "Asha@shop.in", "reason": "manual",
            "detail": "asked by phone", "provider": None, "message_id": None, "created_at": "2026-11-24T12:00:00Z",
        }  # fmt: skip
        again = await gateway.post(PATH, {**ASHA, "reason": "complaint"})
        assert (again.status, again.json) == (200, made.json)
        assert (await gateway.get(f"{PATH}/{made.json['id']}")).json == made.json


async def test_entries_are_listed_in_pages_and_narrowed() -> None:
    async with a_gateway() as gateway:
        ids = []
        for fields in ({}, {"channel": "sms", "to": SMS["to"]}, {"to": "ravi@shop.in", "reason": "complaint"}):
            ids.append((await enter(gateway, **fields))["id"])
            gateway.world.clock.move(1)
        first = (await gateway.get(f"{PATH}?limit=2")).json
        second = (await gateway.get(f"{PATH}?limit=2&cursor={first['next_cursor']}")).json
        assert [each["id"] for each in first["data"] + second["data"]] == ids[::-1]
        assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)
        for query, place in (
            ("channel=sms", 1), ("reason=complaint", 2), ("to=ASHA@shop.in", 0), ("to=+919876540000", 1),
            ("to=%2B919876540000&channel=sms&reason=manual", 1),
        ):  # fmt: skip
            assert [each["id"] for each in (await gateway.get(f"{PATH}?{query}")).json["data"]] == [ids[place]], query
        assert (await gateway.get(f"{PATH}?to=x@y.in")).json["data"] == []


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"#/channel", "#/to"}),
        ({"channel": "fax", "to": "asha@shop.in"}, {"#/channel"}),
        ({"channel": "sms", "to": "asha@shop.in"}, {"#/to"}),
        ({"channel": "email", "to": "+919876540000"}, {"#/to"}),
        ({**ASHA, "reason": "whim"}, {"#/reason"}),
        ({**ASHA, "detail": ""}, {"#/detail"}),
        ({**ASHA, "until": "2027-01-01T00:00:00Z"}, {"#/until"}),
    ],
)
async def test_a_wrong_entry_is_refused_with_its_places(body: Any, pointers: set[str]) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(PATH, body)
        assert answer.status == 422
        assert {error["pointer"] for error in answer.json["errors"]} == pointers


@pytest.mark.parametrize("query", ["reason=whim", "channel=fax", "cursor=x", "limit=0", "state=queued"])
async def test_a_wrong_query_is_refused(query: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get(f"{PATH}?{query}")
        assert answer.json["errors"][0]["pointer"] == f"?{query.partition('=')[0]}"


async def test_an_entry_is_removed_and_then_there_is_none() -> None:
    async with a_gateway() as gateway:
        name = (await enter(gateway))["id"]
        assert (await gateway.ask("DELETE", f"{PATH}/{name}")).status == 204
        for method in ("GET", "DELETE"):
            assert (await gateway.ask(method, f"{PATH}/{name}")).status == 404
        assert (await gateway.post(MESSAGES, EMAIL)).json["state"] == "queued"


async def test_tenants_have_their_own() -> None:
    async with a_gateway() as gateway:
        acme = await gateway.world.key(ScopeName.MESSAGES_READ, ScopeName.MESSAGES_WRITE, tenant="acme")
        name = (await enter(gateway))["id"]
        assert (await gateway.get(PATH, secret=acme)).json["data"] == []
        for method in ("GET", "DELETE"):
            assert (await gateway.ask(method, f"{PATH}/{name}", secret=acme)).status == 404
        assert (await gateway.post(MESSAGES, EMAIL, secret=acme)).json["state"] == "queued"
        theirs = await gateway.post(PATH, ASHA, secret=acme)
        assert (theirs.status, theirs.json["tenant"]) == (201, "acme")
        assert len((await gateway.get(PATH)).json["data"]) == 2, "the operator sees all"


async def test_each_call_needs_its_scope() -> None:
    async with a_gateway() as gateway:
        name = (await enter(gateway))["id"]
        reads, writes = [await gateway.world.key(s) for s in (ScopeName.MESSAGES_READ, ScopeName.MESSAGES_WRITE)]
        assert (await gateway.get(PATH, secret=reads)).status == 200
        assert (await gateway.get(f"{PATH}/{name}", secret=writes)).status == 403
        assert (await gateway.post(PATH, ASHA, secret=reads)).status == 403
        assert (await gateway.ask("DELETE", f"{PATH}/{name}", secret=reads)).status == 403
        assert (await gateway.post(PATH, ASHA, secret=writes)).status == 200


@pytest.mark.parametrize("to", ["asha@shop.in", "ASHA@Shop.IN"])
async def test_a_message_to_a_suppressed_address_is_202_and_suppressed(to: str) -> None:
    async with a_gateway() as gateway:
        await enter(gateway)
        posted = await gateway.post(MESSAGES, {**EMAIL, "to": to, "send_at": "2026-11-25T00:00:00Z"})
        assert (posted.status, posted.json["state"], posted.json["to"]) == (202, "suppressed", to)
        assert (posted.json["waiting"], posted.json["attempts"], posted.json["reason"]) == (None, [], None)
        assert (await gateway.get(f"{MESSAGES}/{posted.json['id']}")).json == posted.json
        cancelled = await gateway.post(f"{MESSAGES}/{posted.json['id']}/cancel")
        assert (cancelled.status, cancelled.json["code"]) == (409, "conflict")


async def test_a_repeat_is_answered_as_the_first_was() -> None:
    async with a_gateway() as gateway:
        name = (await enter(gateway))["id"]
        first = await gateway.post(MESSAGES, EMAIL, headers={"Idempotency-Key": "k"})
        await gateway.ask("DELETE", f"{PATH}/{name}")
        again = await gateway.post(MESSAGES, EMAIL, headers={"Idempotency-Key": "k"})
        assert (again.raw, again.headers["Idempotent-Replayed"]) == (first.raw, "true")
        assert first.json["state"] == "suppressed"
        assert len((await gateway.get(MESSAGES)).json["data"]) == 1


async def in_a_batch(gateway: Gateway) -> None:
    await enter(gateway)
    items = [SMS, EMAIL, {**SMS, "to": "x"}, {**EMAIL, "idempotency_key": "a"}, {**EMAIL, "to": "ravi@shop.in"}]
    first = await gateway.post(BATCH, {"messages": items}, headers={"Idempotency-Key": "k"})
    assert first.status == 202
    data = first.json["data"]
    assert [item.get("state") for item in data] == ["queued", "suppressed", None, "suppressed", "queued"]
    read = [(await gateway.get(f"{MESSAGES}/{item['id']}")).json["state"] for item in data if "id" in item]
    assert read == ["queued", "suppressed", "suppressed", "queued"]
    again = await gateway.post(BATCH, {"messages": items}, headers={"Idempotency-Key": "k"})
    assert again.raw == first.raw
    keyed = await gateway.post(BATCH, {"messages": [items[3]]})
    assert keyed.json["data"] == [data[3]]
    assert len((await gateway.get(MESSAGES)).json["data"]) == 4


async def test_in_a_batch_only_those_are_suppressed_that_are_meant() -> None:
    async with a_gateway() as gateway:
        await in_a_batch(gateway)


async def test_and_so_it_is_on_postgres(postgres_url: str) -> None:
    async with on_postgres(postgres_url) as gateway:
        await in_a_batch(gateway)


async def test_an_entry_takes_what_waits_already() -> None:
    async with a_gateway() as gateway:
        waits = (await gateway.post(MESSAGES, {**EMAIL, "send_at": "2026-11-25T00:00:00Z"})).json["id"]
        await enter(gateway)
        message = (await gateway.get(f"{MESSAGES}/{waits}")).json
        assert (message["state"], message["waiting"]) == ("suppressed", None)
        count = gateway.world.registry.get_sample_value(
            "heliograph_messages_total", {"channel": "email", "state": "suppressed"}
        )
        assert count == 1


async def test_a_copy_to_a_suppressed_address_goes_along() -> None:
    async with a_gateway() as gateway:
        await enter(gateway)
        posted = await gateway.post(MESSAGES, {**EMAIL, "to": "ravi@shop.in", "cc": ["asha@shop.in"]})
        assert posted.json["state"] == "queued"


async def test_a_word_of_a_provider_is_shown_as_such() -> None:
    async with a_gateway() as gateway:
        entry = Entry(
            tenant="default", channel=Channel.EMAIL, recipient="asha@shop.in", reason=SuppressionReason.BOUNCE,
            detail="550 5.1.1", provider="post", message_id="msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F",
        )  # fmt: skip
        await gateway.world.ledger.suppressions.enter(entry)
        [shown] = (await gateway.get(PATH)).json["data"]
        assert (shown["reason"], shown["detail"], shown["provider"]) == ("bounce", "550 5.1.1", "post")
        assert shown["message_id"] == entry.message_id
