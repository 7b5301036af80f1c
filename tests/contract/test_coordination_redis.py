"""The coordination on real Redis keeps the contract, and its script computes what the policy does."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import AsyncIterator

import pytest
import redis
import trio

from heliograph.actors.kernel.clock import SystemClock
from heliograph.actors.policy.bucket import HORIZON_S, BucketShape, reserve, shape
from heliograph.actors.policy.quota import KEPT, seeded
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.queue.coordination import RESERVE, SEED, USED, open_coordination
from tests.contract.coordination_suite import CoordinationSuite, ask, filled
from tests.support.redis_world import RedisWorld
from tests.support.services import RedisServer


class CoordinationWorld(RedisWorld):
    async def coordination(self, supervisor: str) -> Coordination:
        return await self.keep(open_coordination(self.url, supervisor, self.boot_s))

    def boot_s(self) -> float:
        return SystemClock().boot_s()


class TestRedisCoordination(CoordinationSuite):
    @pytest.fixture
    async def world(self, two_servers: tuple[RedisServer, RedisServer]) -> AsyncIterator[CoordinationWorld]:
        async with trio.open_nursery() as nursery:
            world = CoordinationWorld(nursery, *two_servers)
            await world.start()
            yield world
            await world.close()


@pytest.mark.parametrize("seed", range(5))
def test_the_script_and_the_policy_give_the_same_numbers_out(redis_url: str, seed: int):
    draw = random.Random(seed)
    keys = ["heliograph:breaker:{p}", "heliograph:permits:{p}", "heliograph:pause:{p}", "last:{p}", "bucket:{p}:x"]
    slots_seen = 0
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        script = client.register_script(RESERVE.text)
        client.set(keys[3], keys[4])
        for _ in range(200):
            bucket = shape(draw.choice([0.5, 7, 333.3, 20_000]), draw.choice([1, 2.5, 30, 1000]))
            want, cost = draw.randrange(65), draw.uniform(1, bucket.burst)
            horizon_us = draw.uniform(0, HORIZON_S * 1e6)
            if draw.random() < 0.5:  # sooner than time would pass, or of a clock that was set back
                seconds, microseconds = client.time()
                client.set(keys[4], seconds * 10**6 + microseconds + draw.randrange(-(10**6), 10**6))
            if draw.random() < 0.1:
                client.delete(keys[4])
            before = client.get(keys[4])
            forget = draw.random() < 0.1
            numbers = [bucket.interval_s * 1e6, bucket.burst, want, horizon_us, cost, HORIZON_S * 1e6, int(forget)]
            _, now_us, _, next_us, slots, quota = script(keys, [repr(number) for number in numbers])
            level_us = None if forget or before is None else int(before)
            expected = reserve(level_us, int(now_us), bucket, want=want, cost=cost, horizon_us=horizon_us)
            assert [int(slot) for slot in slots.split()] == list(expected.slots_us)
            assert (int(next_us), quota) == (expected.next_us, "")
            assert client.get(keys[4]) == str(expected.level_us)
            slots_seen += len(expected.slots_us)
    assert slots_seen > 100


@pytest.mark.parametrize("seed", range(5))
def test_the_scripts_and_the_policy_turn_a_ring_alike(redis_url: str, seed: int):
    draw, length = random.Random(seed), 2000  # so short that each call finds another part
    keys = [
        *(f"heliograph:{kind}:{{p}}" for kind in ("breaker", "permits", "pause", "last", "bucket")),
        f"quota:{seed}",
    ]
    plenty = [repr(number) for number in (0.001, 1e6, 20, HORIZON_S * 1e6)]
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.delete(*keys)
        reserve_slots, seed_ring, read = map(client.register_script, (RESERVE.text, SEED.text, USED.text))
        assert reserve_slots(keys, [*plenty, 1, 0, 0, length, 9, ""])[-1] == "lost"
        ages = [draw.randrange(5) for _ in range(120)]
        before_us, _, after_us = _now_us(client), seed_ring(keys, [length, " ".join(map(str, ages))]), _now_us(client)
        part = int(client.hget(keys[5], "at"))
        assert before_us // length <= part <= after_us // length
        made = int(client.hget(keys[5], "made"))
        ring = seeded(length, made, ages)
        assert ring.total == sum(ages[:KEPT]) == int(client.hget(keys[5], "total"))
        held = bound = 0
        for _ in range(400):
            cost, allowed = draw.randrange(1, 5), draw.randrange(1, 200)
            given = {ring.at - draw.randrange(150): 1} if draw.random() < 0.2 else {}
            given = {p: n for p, n in given.items() if p <= ring.at - KEPT or ring.counts[p % KEPT] >= n}
            stale = draw.random() < 0.2
            unused = " ".join([str(made - stale), *(f"{p} {n}" for p, n in given.items())])
            _, now_us, _, _, slots, word = reserve_slots(keys, [*plenty, cost, 0, 0, length, allowed, unused])
            ring.turn(int(now_us))
            for p, n in given.items():
                ring.give_back(made - stale, p, n)
            room = ring.room(allowed, cost)
            ring.take(len(slots.split()) * cost)
            assert len(slots.split()) == min(20, room)
            used, told, at, opens_us = map(int, word.split())
            assert (used, told, at) == (ring.total, made, ring.at)
            assert opens_us == (ring.opens_us(allowed, cost) if room < 20 else 0)
            held, bound = held + len(slots.split()), bound + (room < 20)
            if draw.random() < 0.1:
                time.sleep(draw.choice([0.001, 0.05, 0.3]))
        assert read(keys, [length, ""]) <= ring.total
        assert held > 20
        assert bound > 20


def _now_us(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * 10**6 + int(microseconds)


async def test_a_server_started_on_an_older_file_gives_no_slot_that_was_used_before():
    server = RedisServer()
    try:
        async with open_coordination(server.url, "a", SystemClock().boot_s) as coordination:
            await filled(coordination, SystemClock().boot_s)
            with redis.Redis.from_url(server.url) as client:
                client.save()
            while (await ask(coordination, want=64)).slots:
                pass
            await trio.to_thread.run_sync(server.restart, signal.SIGKILL)
            with redis.Redis.from_url(server.url, decode_responses=True) as client:
                assert client.keys("heliograph:bucket:*"), "the old bucket is there, under the old run's name"
            assert (await ask(coordination, want=64)).slots == ()
    finally:
        server.remove()


async def test_a_server_that_comes_back_from_a_failover_gives_no_slot_anew(
    two_servers: tuple[RedisServer, RedisServer],
) -> None:
    """With what the other one had copied from it: its own bucket is there, as it was when it was left."""
    slow = BucketShape(interval_s=10.0, burst=5.0)
    async with trio.open_nursery() as nursery:
        world = CoordinationWorld(nursery, *two_servers)
        await world.start()
        coordination = await world.coordination("a")

        async def slots() -> int:
            return len((await coordination.reserve("p", slow, want=9, cost=1, horizon_s=HORIZON_S)).slots)

        assert await slots() == 0
        with redis.Redis.from_url(world.server.url) as client:
            [bucket] = client.keys("heliograph:bucket:*")
            client.set(bucket, 1)
            assert await slots() == 5
            client.set(bucket, 1)  # copied before those were given
        for _ in range(2):
            await world.fail_over()
            assert await slots() == 0
        await world.close()
