"""Limits of keys, and who is let in when more comes than can be taken."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.gateway.admission import Admission
from heliograph.gateway.auth import make_key
from heliograph.gateway.problems import Code, Refused
from tests.support.gateway_world import SMS, Answer, Gateway, HandClock, World, a_gateway


async def limited(gateway: Gateway, **limits: int) -> str:
    """The secret of a new key."""
    answer = await gateway.post("/v1/keys", {"name": "k", "scopes": ["messages:write"], **limits})
    assert answer.status == 201, answer.raw
    secret: str = answer.json["key"]
    return secret


def batch_of(n: int) -> dict[str, Any]:
    return {"messages": [SMS] * n}


def told(answer: Answer) -> tuple[int, str, str]:
    return answer.status, answer.json["code"], answer.headers["Retry-After"]


# ------------------------------------------------------------------------------------------- rate and daily


async def test_a_key_sends_its_rate_and_is_told_when_to_come_again() -> None:
    async with a_gateway() as gateway:
        secret = await limited(gateway, rate=3)
        answers = [await gateway.post("/v1/messages", SMS, secret=secret) for _ in range(4)]
        assert [a.status for a in answers] == [202, 202, 202, 429]
        assert told(answers[3]) == (429, "rate_limited", "1")
        assert answers[3].headers["Content-Type"] == "application/problem+json"
        assert (await gateway.post("/v1/messages", SMS)).status == 202
        gateway.world.clock.move(0.34)
        assert (await gateway.post("/v1/messages", SMS, secret=secret)).status == 202
        assert (await gateway.post("/v1/messages", SMS, secret=secret)).status == 429


async def test_a_batch_counts_for_its_messages_and_is_taken_whole_or_not_at_all() -> None:
    async with a_gateway() as gateway:
        secret = await limited(gateway, rate=10)
        assert (await gateway.post("/v1/messages/batch", batch_of(8), secret=secret)).status == 202
        assert told(await gateway.post("/v1/messages/batch", batch_of(5), secret=secret)) == (429, "rate_limited", "1")
        assert (await gateway.post("/v1/messages/batch", batch_of(2), secret=secret)).status == 202
        assert len(gateway.world.accepted) == 2


async def test_a_batch_larger_than_the_rate_is_paid_for_afterwards() -> None:
    async with a_gateway() as gateway:
        secret = await limited(gateway, rate=10)
        assert (await gateway.post("/v1/messages/batch", batch_of(100), secret=secret)).status == 202
        assert told(await gateway.post("/v1/messages", SMS, secret=secret)) == (429, "rate_limited", "10")


async def test_a_day_s_messages_are_counted_until_midnight_in_utc() -> None:
    async with a_gateway() as gateway:
        secret = await limited(gateway, daily=5)
        assert (await gateway.post("/v1/messages/batch", batch_of(3), secret=secret)).status == 202
        refused = await gateway.post("/v1/messages/batch", batch_of(3), secret=secret)
        assert told(refused) == (429, "daily_limit", str(12 * 3600))
        assert (await gateway.post("/v1/messages/batch", batch_of(2), secret=secret)).status == 202
        assert told(await gateway.post("/v1/messages", SMS, secret=secret))[:2] == (429, "daily_limit")


async def test_a_repeat_is_answered_and_not_counted_and_a_refused_one_is_not_kept() -> None:
    async with a_gateway() as gateway:
        secret = await limited(gateway, daily=1)
        first = await gateway.post("/v1/messages", SMS, secret=secret, headers={"Idempotency-Key": "a"})
        again = await gateway.post("/v1/messages", SMS, secret=secret, headers={"Idempotency-Key": "a"})
        assert (first.status, again.status, again.raw) == (202, 202, first.raw)
        late = {"secret": secret, "headers": {"Idempotency-Key": "b"}}
        assert (await gateway.post("/v1/messages", SMS, **late)).status == 429
        gateway.world.clock.move(12 * 3600)
        answer = await gateway.post("/v1/messages", SMS, **late)
        assert (answer.status, "Idempotent-Replayed" in answer.headers) == (429, False)  # as it was remembered


async def test_a_message_to_a_suppressed_recipient_counts_once() -> None:
    async with a_gateway() as gateway:
        entry = {"channel": "sms", "to": SMS["to"]}
        made = await gateway.post("/v1/suppressions", entry)
        assert made.status == 201, made.raw
        secret = await limited(gateway, daily=2)
        states = [(await gateway.post("/v1/messages", SMS, secret=secret)).json["state"] for _ in range(2)]
        assert states == ["suppressed", "suppressed"]
        assert (await gateway.post("/v1/messages", SMS, secret=secret)).status == 429


async def test_limits_hold_over_all_gateways(postgres_url: str) -> None:
    """Two of them, which know nothing of each other, and many requests at once."""
    async with (
        open_ledger(postgres_url, supervisor="s1") as one,
        open_ledger(postgres_url, supervisor="s2") as two,
        a_gateway(World(store=one)) as first,
        a_gateway(World(store=two)) as second,
    ):
        by_day, by_rate = await limited(first, daily=25), await limited(first, rate=10)
        statuses: dict[str, list[int]] = {by_day: [], by_rate: []}

        async def post(gateway: Gateway, secret: str, key: str) -> None:
            how = {"secret": secret, "headers": {"Idempotency-Key": key}} if key else {"secret": secret}
            statuses[secret].append((await gateway.post("/v1/messages", SMS, **how)).status)

        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for n in range(30):
                for gateway in (first, second):
                    nursery.start_soon(post, gateway, by_day, f"{n}-{id(gateway)}" if n % 3 else "")
            for _ in range(10):
                for gateway in (first, second):
                    nursery.start_soon(post, gateway, by_rate, "")
        assert statuses[by_day].count(202) == 25
        leaked = 10 * (trio.current_time() - began_s)
        assert 10 <= statuses[by_rate].count(202) <= 10 + leaked + 1
        assert set(statuses[by_day] + statuses[by_rate]) == {202, 429}
        assert len((await first.get("/v1/messages?limit=200")).json["data"]) == 25 + statuses[by_rate].count(202)


# ------------------------------------------------------------------------------------------------ fair shares


def a_key(name: str) -> ApiKey:
    return make_key(name, now=HandClock().now(), scopes={ScopeName.MESSAGES_WRITE})[0]


async def test_a_flood_is_told_so_while_another_is_let_in_and_has_the_next_turn(autojump_clock: object) -> None:
    admission = Admission(HandClock(), room=3_250_000, work=1_100)
    flood, other = a_key("flood"), a_key("other")
    codes: list[str] = []
    done: list[str] = []

    async def read() -> bytes:
        return b"x" * 500

    async def post(key: ApiKey) -> None:
        try:
            with await admission.through(key, "500", read):
                await trio.sleep(1)  # its commit
                done.append(key.name)
        except Refused as error:
            codes.append(error.refusal.code)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(post, flood)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(post, other)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(2.5)
        assert "other" in done
        assert len(done) <= 3
        nursery.cancel_scope.cancel()
    assert codes == [Code.FLOODED] * 50


async def test_when_nobody_s_turn_comes_all_are_told_to_come_again(autojump_clock: object) -> None:
    admission = Admission(HandClock(), room=330_000, work=1_000)
    answers: list[str] = []

    async def read() -> bytes:
        return b"{}"

    async def post(n: int) -> None:
        try:
            with await admission.through(a_key(f"key {n}"), "2", read):
                await trio.sleep(60)
                answers.append("done")
        except Refused as error:
            answers.append(f"{error.refusal.code} {error.refusal.headers['Retry-After']}")

    async with trio.open_nursery() as nursery:
        for n in range(30):
            nursery.start_soon(post, n)
    assert sorted(answers) == ["done"] * 2 + ["unavailable 1"] * 28


async def test_what_is_cut_off_while_it_is_read_or_waits_gives_its_room_back(autojump_clock: object) -> None:
    admission = Admission(HandClock(), room=330_000, work=1_000)
    key = a_key("key")

    async def never() -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def read() -> bytes:
        return b"x" * 900

    for body in (never, read):
        for _ in range(20):
            with trio.move_on_after(1):
                with await admission.through(key, "900", body):
                    await trio.sleep_forever()
    with trio.fail_after(1):
        turn = await admission.through(key, "900", read)
    assert len(turn.raw) == 900
    turn.close()


@pytest.mark.parametrize("length", [None, "12", "²"])
async def test_any_announced_length_is_stood(length: str | None) -> None:
    async def read() -> bytes:
        return b"{}"

    with await Admission(HandClock()).through(a_key("key"), length, read) as turn:
        assert turn.raw == b"{}"
