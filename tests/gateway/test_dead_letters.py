"""Dead letters: read by cause, worked on in operations."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.actors.model.attempt import Answer as ProviderAnswer
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Move, Reason, State
from heliograph.actors.ports.ledger import ClaimRequest, Finish
from tests.support.gateway_world import SMS, Gateway, a_gateway

LETTERS = "/v1/dead-letters"


async def failed(gateway: Gateway, cause: str = "no such number", detail: str | None = None, **fields: Any) -> str:
    """The id of a message that a provider refused for good."""
    detail = detail or f"{cause}: 9876"
    world = gateway.world
    message_id = await gateway.accepted(**fields)
    [claimed] = await world.ledger.delivery.claim([ClaimRequest(message_id, "text", 13.0)], supervisor="s1")
    finish = Finish(
        message_id=message_id,
        number=claimed.number,
        provider="text",
        started_at=claimed.started_at,
        finished_at=world.clock.now(),
        answer=ProviderAnswer(outcome=Outcome.REJECTED, code="411", detail=detail),
        move=Move(state=State.FAILED, reason=Reason.REJECTED, cause=cause, code="411", detail=detail),
    )
    await world.ledger.delivery.finish([finish], supervisor="s1")
    world.clock.move(1)
    return message_id


async def test_a_dead_letter_is_listed_and_read_with_its_message_and_attempts() -> None:
    async with a_gateway() as gateway:
        message_id = await failed(gateway, tags=["x"])
        [letter] = (await gateway.get(LETTERS)).json["data"]
        assert letter["id"] == message_id
        assert (letter["state"], letter["reason"], letter["code"], letter["provider"], letter["channel"]) == (
            "open", "rejected", "411", "text", "sms",
        )  # fmt: skip
        one = (await gateway.get(f"{LETTERS}/{message_id}")).json
        assert one["message"]["state"] == "failed"
        assert one["message"]["attempts"][0]["outcome"] == "rejected"
        assert {k: v for k, v in one.items() if k != "message"} == letter
        message = (await gateway.get(f"/v1/messages/{message_id}")).json
        assert (message["state"], message["reason"], len(message["attempts"])) == ("failed", "rejected", 1)


async def test_dead_letters_come_in_pages_the_newest_first() -> None:
    async with a_gateway() as gateway:
        ids = [await failed(gateway) for _ in range(3)]
        first = (await gateway.get(f"{LETTERS}?limit=2")).json
        second = (await gateway.get(f"{LETTERS}?limit=2&cursor={first['next_cursor']}")).json
        assert [letter["id"] for letter in first["data"] + second["data"]] == ids[::-1]
        assert (second["has_more"], second["next_cursor"]) == (False, None)


async def test_dead_letters_are_narrowed_by_each_filter() -> None:
    async with a_gateway() as gateway:
        mine = await failed(gateway, "no such number", tags=["mine"])
        await failed(gateway, "other cause")
        for query in (
            "tag=mine", "text=SUCH", "cause=no+such+number",
            "tag=mine&channel=sms&provider=text&reason=rejected&code=411",
            "tag=mine&since=2026-11-24T11:00:00Z&until=2026-11-25T00:00:00Z",
        ):  # fmt: skip
            assert [d["id"] for d in (await gateway.get(f"{LETTERS}?{query}")).json["data"]] == [mine], query
        for query in ("channel=email", "provider=x", "reason=expired", "code=1", "tag=y", "text=zz", "state=archived"):
            assert (await gateway.get(f"{LETTERS}?{query}")).json["data"] == [], query


async def test_groups_count_by_cause_the_largest_first() -> None:
    async with a_gateway() as gateway:
        for cause in ("rare", "often", "often"):
            await failed(gateway, cause)
        page = (await gateway.get(f"{LETTERS}/groups")).json
        assert [(g["cause"], g["count"]) for g in page["data"]] == [("often", 2), ("rare", 1)]
        assert set(page["data"][0]) == {
            "cause", "reason", "code", "provider", "channel", "count", "first_at", "last_at", "sample_id",
        }  # fmt: skip
        assert page["has_more"] is False
        assert (await gateway.get(f"{LETTERS}/groups?limit=1")).json["has_more"] is True


@pytest.mark.parametrize("kind", ["redrive", "archive", "discard"])
async def test_an_operation_works_on_ids_or_on_all_that_match(kind: str) -> None:
    async with a_gateway() as gateway:
        ids = [await failed(gateway) for _ in range(3)]
        first = await gateway.post(f"{LETTERS}/{kind}", {"ids": [ids[0], ids[0]], "reason": "try"})
        assert first.status == 202
        operation = first.json
        assert set(operation) == {
            "id", "kind", "state", "total", "done", "failed", "skipped", "failures", "created_at", "finished_at",
        }  # fmt: skip
        assert (operation["kind"], operation["state"], operation["total"]) == (kind, "running", 1)
        assert first.headers["Location"] == f"/v1/operations/{operation['id']}"
        rest = await gateway.post(f"{LETTERS}/{kind}", {"filter": {"reason": "rejected"}, "rate": 0.5})
        assert rest.json["total"] == 3


async def test_an_operation_is_followed_to_its_end_and_can_be_cancelled() -> None:
    async with a_gateway() as gateway:
        ids = [await failed(gateway) for _ in range(2)]
        operation = (await gateway.post(f"{LETTERS}/redrive", {"ids": [*ids, "msg_nowhere"]})).json
        path = f"/v1/operations/{operation['id']}"
        await gateway.world.ledger.operations.step(limit=10, max_redrives=10, expires_after_s=60, supervisor="s1")
        done = (await gateway.get(path)).json
        assert (done["state"], done["done"], done["skipped"], done["total"]) == ("done", 2, 1, 3)
        assert (await gateway.get(f"/v1/messages/{ids[0]}")).json["state"] == "queued"
        assert (await gateway.post(f"{path}/cancel")).status == 409
        second = (await gateway.post(f"{LETTERS}/archive", {"filter": {}})).json
        if second["state"] == "running":
            assert (await gateway.post(f"/v1/operations/{second['id']}/cancel")).json["state"] == "cancelled"


async def test_a_dry_run_says_what_would_be_done_and_does_nothing() -> None:
    async with a_gateway() as gateway:
        message_id = await failed(gateway)
        answer = await gateway.post(f"{LETTERS}/redrive", {"ids": [message_id, "msg_nowhere"], "dry_run": True})
        assert answer.status == 200
        assert answer.json == {"matched": 2, "eligible": 1, "skipped": {"not_found": 1}}
        assert (await gateway.get(f"/v1/messages/{message_id}")).json["state"] == "failed"


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"#"}),
        ({"dry_run": True}, {"#"}),
        ({"ids": ["msg_1"], "filter": {}}, {"#"}),
        ({"ids": []}, {"#/ids"}),
        ({"ids": "msg_1"}, {"#/ids"}),
        ({"ids": [5, ""]}, {"#/ids/0", "#/ids/1"}),
        ({"filter": {"state": "lost", "colour": 1}}, {"#/filter/state", "#/filter/colour"}),
        ({"filter": {}, "rate": 0}, {"#/rate"}),
        ({"filter": {}, "rate": "5", "reason": "", "dry_run": "yes"}, {"#/rate", "#/reason", "#/dry_run"}),
    ],
)
async def test_an_operation_that_says_not_what_to_work_on_is_refused(body: Any, pointers: set[str]) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(f"{LETTERS}/redrive", body)
        assert answer.status == 422
        assert {e["pointer"] for e in answer.json["errors"]} == pointers


async def test_another_tenants_dead_letters_are_not_there() -> None:
    async with a_gateway() as gateway:
        mine = await failed(gateway)
        theirs = await gateway.world.key(tenant="acme")
        assert (await gateway.get(f"{LETTERS}/{mine}", secret=theirs)).status == 404
        assert (await gateway.get(LETTERS, secret=theirs)).json["data"] == []
        assert (await gateway.get(f"{LETTERS}/groups", secret=theirs)).json["data"] == []
        run = await gateway.post(f"{LETTERS}/redrive", {"ids": [mine], "dry_run": True}, secret=theirs)
        assert run.json["eligible"] == 0
        operation = (await gateway.post(f"{LETTERS}/redrive", {"ids": [mine]})).json
        assert (await gateway.get(f"/v1/operations/{operation['id']}", secret=theirs)).status == 404


async def test_a_message_that_is_well_has_no_dead_letter() -> None:
    async with a_gateway() as gateway:
        message_id = (await gateway.post("/v1/messages", SMS)).json["id"]
        assert (await gateway.get(f"{LETTERS}/{message_id}")).status == 404
