"""The queue on real Redis keeps the contract, and answers as the one in memory does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis
import trio

from heliograph.actors.model.errors import QueueDown
from heliograph.actors.ports.queue import Later, Queue
from heliograph.actors.queue import redis as redis_queue
from heliograph.actors.queue.link import LIMIT_S
from heliograph.actors.queue.memory import MemoryQueue, MemoryRedis
from heliograph.actors.queue.redis import open_queue
from tests.contract.queue_suite import BULK, NORMAL, URGENT, QueueSuite, hints, play, take
from tests.support.eventually import eventually
from tests.support.redis_world import RedisWorld
from tests.support.services import RedisServer


class QueueWorld(RedisWorld):
    async def queue(self, supervisor: str) -> Queue:
        queue = await self.keep(open_queue(self.url, supervisor))
        await queue.open("g1")
        return queue


class TestRedisQueue(QueueSuite):
    @pytest.fixture
    async def world(self, two_servers: tuple[RedisServer, RedisServer]) -> AsyncIterator[QueueWorld]:
        async with trio.open_nursery() as nursery:
            world = QueueWorld(nursery, *two_servers)
            await world.start()
            yield world
            await world.close()


@pytest.mark.parametrize("seed", range(6))
async def test_a_random_script_has_the_same_answers_on_redis_and_in_memory(redis_url: str, seed: int):
    async with open_queue(redis_url, "a") as first, open_queue(redis_url, "b") as second:
        for queue in (first, second):
            await queue.open("g1")
        real = await play([first, second], seed, 250, lambda: None)
    now_s = 0.0

    def tick() -> None:
        nonlocal now_s
        now_s += 0.001

    server = MemoryRedis(lambda: now_s)
    twins = [MemoryQueue(server, name) for name in "ab"]
    for twin in twins:
        await twin.open("g1")
    pretended = await play(twins, seed, 250, tick)
    for step, (answer, expected) in enumerate(zip(real, pretended, strict=True)):
        assert answer == expected, f"seed {seed}, answer {step}"


@pytest.fixture
def lone_server() -> Iterator[RedisServer]:
    """One that may be mistreated."""
    server = RedisServer()
    yield server
    server.remove()


async def test_lists_of_a_former_generation_are_removed_after_a_while(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        async with open_queue(redis_url, "a") as queue:
            await queue.open("g1")
            await queue.push([*hints(URGENT, 1), *hints(BULK, 2)], later=[Later(hints(BULK, 3)[0], 100.0)])
            await take(queue, 1)
            await queue.open("g2")
            await queue.push(hints(URGENT, 7))
            await queue.sweep()
            assert client.keys("heliograph:g1:*"), "it may have been given up for an older one by mistake"
            monkeypatch.setattr(redis_queue, "KEEP_FORMER_S", 0.05)

            async def are_gone() -> bool:
                await queue.sweep()
                return not client.keys("heliograph:g1:*")

            await eventually(are_gone)
            assert await take(queue) == [7]


async def test_a_server_that_comes_back_from_a_failover_is_another(
    two_servers: tuple[RedisServer, RedisServer],
) -> None:
    """Its lists are those that the other one had copied: older than what it once had. (Chaos, seed 269.)"""
    async with trio.open_nursery() as nursery:
        world = QueueWorld(nursery, *two_servers)
        await world.start()
        queue = await world.queue("a")
        seen = [await queue.server()]
        for _ in range(2):
            await world.fail_over()
            seen.append(await queue.server())
            assert await queue.server() == seen[-1]
        assert len(set(seen)) == 3
        await world.close()


async def test_a_server_that_forgot_the_scripts_is_sent_them_again(redis_url: str) -> None:
    async with open_queue(redis_url, "a") as queue:
        await queue.open("g1")
        await queue.push(hints(NORMAL, 1))
        with redis.Redis.from_url(redis_url) as client:
            client.script_flush()
        assert await take(queue) == [1]


async def test_a_server_with_a_full_memory_is_down_and_says_why(lone_server: RedisServer) -> None:
    with redis.Redis.from_url(lone_server.url) as client:
        async with open_queue(lone_server.url, "a") as queue:
            await queue.open("g1")
            await queue.push(hints(NORMAL, 1, 2))
            client.config_set("maxmemory", 1)
            with pytest.raises(QueueDown, match="refused"):
                await queue.push(hints(NORMAL, 3))
            with pytest.raises(QueueDown, match="refused"):
                await queue.push([], later=[Later(hints(NORMAL, 4)[0], 1.0)])
            assert await take(queue, 1) == [1], "what shortens the lists goes on"
            await queue.settle(["msg_00001"])
            client.config_set("maxmemory", 0)
            assert await take(queue) == [2]


async def test_a_silent_server_fails_all_who_wait_for_it_at_once(
    lone_server: RedisServer,
) -> None:
    async with open_queue(lone_server.url, "a") as queue:
        await queue.open("g1")
        began = trio.current_time()

        async def push() -> None:
            with pytest.raises(QueueDown, match=r"no answer(: the time was over| to the command before this one)$"):
                await queue.push(hints(NORMAL, 1))

        lone_server.pause()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(push)
        lone_server.resume()
        assert trio.current_time() - began < 2 * LIMIT_S, "ten in turn would have waited ten times as long"
        await queue.push(hints(NORMAL, 2))
        assert 2 in await take(queue)


async def test_a_wrong_password_is_told_without_the_password(redis_url: str) -> None:
    wrong = redis_url.replace("@", "-of-somebody-else@")
    async with open_queue(wrong, "a") as queue:
        with pytest.raises(QueueDown) as caught:
            await queue.server()
    assert "password" in str(caught.value)
    assert "somebody" not in str(caught.value)


async def test_whoever_waits_for_a_hint_is_answered_with_it_in_one_round_trip(redis_url: str) -> None:
    def scripts_run() -> int:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])

    with redis.Redis.from_url(redis_url) as client:
        async with open_queue(redis_url, "a") as queue:
            await queue.open("g1")
            assert await take(queue) == []
            before = scripts_run()
            for number in range(1, 6):
                await queue.push(hints(NORMAL, number))
                assert await take(queue, wait_s=1.0) == [number]
    assert scripts_run() - before == 2 * 5, "a push and a take for each"
