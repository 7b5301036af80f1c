"""The API over a real PostgreSQL: what the ledger in memory promises holds there, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from heliograph.actors.ledger.postgres import open_ledger
from tests.support.gateway_world import EMAIL, SMS, Gateway, HandClock, World, a_gateway


@asynccontextmanager
async def on_postgres(url: str) -> AsyncIterator[Gateway]:
    async with open_ledger(url, supervisor="s1") as ledger:
        clock = HandClock(datetime.now(UTC).replace(microsecond=123_456))
        async with a_gateway(World(store=ledger, clock=clock)) as gateway:
            yield gateway


def but_for_updated_at(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "updated_at"}


async def test_what_was_answered_is_what_is_read(postgres_url: str) -> None:
    posted = {
        **EMAIL,
        "to": "अशोक@उदाहरण.भारत",
        "subject": "Grüße 😀",
        "cc": ["c@shop.in"],
        "tags": ["a", "β"],
        "metadata": {"n": 12345678901234567890, "big": 1e300, "nested": {"a": [None, True, "\u2028"]}, "empty": {}},
        "send_at": "2026-12-24T19:30:00.5+05:30",
        "expires_at": "2027-01-01T00:00:00Z",
    }
    async with on_postgres(postgres_url) as gateway:
        gateway.world.clock.at = datetime(2026, 11, 24, 12, 0, 0, 123_456, tzinfo=UTC)
        answer = await gateway.post("/v1/messages", posted)
        assert answer.status == 202, answer.raw
        assert answer.json["send_at"] == "2026-12-24T14:00:00.500000Z"
        read = await gateway.get(f"/v1/messages/{answer.json['id']}")
        assert read.status == 200, read.raw
        assert but_for_updated_at(read.json) == but_for_updated_at(answer.json)
        [listed] = (await gateway.get("/v1/messages?channel=email&tag=%CE%B2&state=scheduled")).json["data"]
        assert listed == read.json


async def test_batches_and_repeats(postgres_url: str) -> None:
    async with on_postgres(postgres_url) as gateway:
        items = [SMS, {**SMS, "to": "x"}, {**SMS, "idempotency_key": "a"}, EMAIL]
        first = await gateway.post("/v1/messages/batch", {"messages": items}, headers={"Idempotency-Key": "k"})
        assert first.status == 202, first.raw
        again = await gateway.post("/v1/messages/batch", {"messages": items}, headers={"Idempotency-Key": "k"})
        assert (again.raw, again.headers["Idempotent-Replayed"]) == (first.raw, "true")
        other = await gateway.post("/v1/messages/batch", {"messages": [SMS]}, headers={"Idempotency-Key": "k"})
        assert other.json["code"] == "idempotency_mismatch"
        keyed = await gateway.post("/v1/messages/batch", {"messages": [items[2]]})
        assert keyed.json["data"] == [first.json["data"][2]]
        bad = await gateway.post("/v1/messages/batch", {"messages": [{}]}, headers={"Idempotency-Key": "bad"})
        repeated = await gateway.post("/v1/messages/batch", {"messages": [{}]}, headers={"Idempotency-Key": "bad"})
        assert (bad.status, repeated.raw) == (202, bad.raw)
        assert len((await gateway.get("/v1/messages")).json["data"]) == 3


async def test_lists_pages_and_cancelling(postgres_url: str) -> None:
    async with on_postgres(postgres_url) as gateway:
        ids = []
        for _ in range(3):
            ids.append(await gateway.accepted())
            gateway.world.clock.move(0.01)
        first = (await gateway.get("/v1/messages?limit=2")).json
        second = (await gateway.get(f"/v1/messages?limit=2&cursor={first['next_cursor']}")).json
        assert [m["id"] for m in first["data"] + second["data"]] == ids[::-1]
        assert (await gateway.post(f"/v1/messages/{ids[0]}/cancel")).json["state"] == "cancelled"
        assert (await gateway.post(f"/v1/messages/{ids[0]}/cancel")).status == 409
        assert (await gateway.get(f"/v1/messages/{ids[0]}")).json["state"] == "cancelled"


async def test_every_other_resource_answers(postgres_url: str) -> None:
    async with on_postgres(postgres_url) as gateway:
        for path in (
            "/v1/dead-letters", "/v1/dead-letters?text=x&tag=y&code=z&cause=c&provider=p&reason=rejected&channel=sms",
            "/v1/dead-letters/groups", "/v1/providers", "/v1/providers?view=supervisors", "/v1/keys", "/v1/stats",
            "/v1/messages?to=%2B919876540000&since=2026-01-01T00:00:00Z&until=2036-01-01T00:00:00Z",
        ):  # fmt: skip
            answer = await gateway.get(path)
            assert answer.status == 200, (path, answer.raw)
        operation = await gateway.post("/v1/dead-letters/redrive", {"ids": ["msg_nowhere", "x"]})
        assert operation.status == 202
        assert (await gateway.get(operation.headers["Location"])).json["total"] == 2
        assert (await gateway.post("/v1/dead-letters/archive", {"filter": {}, "dry_run": True})).json["eligible"] == 0
        paused = await gateway.post("/v1/providers/text/pause", {"duration": "1h"})
        assert paused.json["paused"] is not None
        made = (await gateway.post("/v1/keys", {"name": "k"})).json
        assert (await gateway.get("/v1/messages", secret=made["key"])).status == 200
        assert (await gateway.ask("DELETE", f"/v1/keys/{made['id']}")).status == 204
        assert (await gateway.get("/v1/messages/msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F")).status == 404
