"""The queue on real Redis keeps the contract, and answers as the one in memory does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from heliograph.actors.ports.queue import Queue
from heliograph.actors.queue.memory import MemoryQueue, MemoryRedis
from heliograph.actors.queue.redis import open_queue
from tests.contract.queue_suite import QueueSuite, play
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
