"""A request under an idempotency key is done once, and answered the same each time."""

from __future__ import annotations

import orjson
import pytest
import trio

from tests.support.gateway_world import SMS, World, a_gateway

KEY = {"Idempotency-Key": "order-17"}


async def test_a_repeat_is_answered_as_the_first_and_says_so() -> None:
    async with a_gateway() as gateway:
        first = await gateway.post("/v1/messages", SMS, headers=KEY)
        again = await gateway.post("/v1/messages", SMS, headers=KEY)
        assert (first.status, again.status) == (202, 202)
        assert again.raw == first.raw
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers["Location"] == first.headers["Location"]
        assert "Idempotent-Replayed" not in first.headers
        assert len(gateway.world.accepted) == 1


async def test_bodies_are_compared_as_parsed_json() -> None:
    async with a_gateway() as gateway:
        first = await gateway.post("/v1/messages", SMS, headers=KEY)
        turned = dict(reversed(SMS.items()))
        spaced = orjson.dumps(turned, option=orjson.OPT_INDENT_2).replace(b"Hello", b"\\u0048ello")
        again = await gateway.post("/v1/messages", raw=spaced, headers=KEY)
        assert again.raw == first.raw


async def test_the_same_key_with_another_body_is_422() -> None:
    async with a_gateway() as gateway:
        await gateway.post("/v1/messages", SMS, headers=KEY)
        other = await gateway.post("/v1/messages", {**SMS, "text": "Other"}, headers=KEY)
        assert (other.status, other.json["code"]) == (422, "idempotency_mismatch")
        invalid = await gateway.post("/v1/messages", {**SMS, "to": "x"}, headers=KEY)
        assert (invalid.status, invalid.json["code"]) == (422, "idempotency_mismatch")
        assert len(gateway.world.accepted) == 1


async def test_quoted_and_bare_are_the_same_key() -> None:
    async with a_gateway() as gateway:
        first = await gateway.post("/v1/messages", SMS, headers={"Idempotency-Key": '"a \\"b\\""'})
        again = await gateway.post("/v1/messages", SMS, headers={"Idempotency-Key": 'a "b"'})
        assert again.raw == first.raw


async def test_a_key_is_known_by_api_key_and_route() -> None:
    async with a_gateway() as gateway:
        other = await gateway.world.key()
        ids = {
            (await gateway.post("/v1/messages", SMS, headers=KEY)).json["id"],
            (await gateway.post("/v1/messages", SMS, headers=KEY, secret=other)).json["id"],
            (await gateway.post("/v1/messages/batch", {"messages": [SMS]}, headers=KEY)).json["data"][0]["id"],
        }
        assert len(ids) == 3


async def test_a_key_is_forgotten_after_a_day() -> None:
    async with a_gateway() as gateway:
        first = await gateway.post("/v1/messages", SMS, headers=KEY)
        gateway.world.clock.move(86_401)
        later = await gateway.post("/v1/messages", SMS, headers=KEY)
        assert later.json["id"] != first.json["id"]


async def test_while_the_first_is_in_flight_the_second_is_409() -> None:
    world = World(held=trio.Event())
    async with a_gateway(world) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: gateway.post("/v1/messages", SMS, headers=KEY))
        await trio.testing.wait_all_tasks_blocked()
        second = await gateway.post("/v1/messages", SMS, headers=KEY)
        assert (second.status, second.json["code"]) == (409, "idempotency_in_flight")
        assert second.headers["Retry-After"] == "1"
        assert world.held is not None
        world.held.set()
    assert len(world.accepted) == 1


async def test_a_refused_request_is_not_kept() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/messages", {**SMS, "to": "x"}, headers=KEY)).status == 422
        assert (await gateway.post("/v1/messages", SMS, headers=KEY)).status == 202


async def test_what_would_be_too_late_by_now_is_still_answered_as_the_first_was() -> None:
    async with a_gateway() as gateway:
        body = {**SMS, "expires_at": "2026-11-24T12:05:00Z"}
        first = await gateway.post("/v1/messages", body, headers=KEY)
        gateway.world.clock.move(3600)
        again = await gateway.post("/v1/messages", body, headers=KEY)
        assert (again.status, again.raw) == (202, first.raw)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (await gateway.post("/v1/messages", body)).status == 422


async def test_a_failed_commit_frees_the_key() -> None:
    async with a_gateway() as gateway:
        gateway.world.full = True
        assert (await gateway.post("/v1/messages", SMS, headers=KEY)).status == 503
        gateway.world.full = False
        assert (await gateway.post("/v1/messages", SMS, headers=KEY)).status == 202


@pytest.mark.parametrize("key", ["", '""', "k" * 256, "a\tb", '"open', "clé"])
async def test_a_key_must_be_a_short_printable_string(key: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", SMS, headers={"Idempotency-Key": key})
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "Idempotency-Key")


async def test_a_key_of_255_characters_is_taken() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/messages", SMS, headers={"Idempotency-Key": "k" * 255})).status == 202
