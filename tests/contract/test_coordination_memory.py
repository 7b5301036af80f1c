"""The coordination in memory keeps the contract."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from heliograph.actors.policy.bucket import HORIZON_S, shape
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.queue.memory import MemoryCoordination, MemoryRedis
from tests.contract.coordination_suite import CoordinationSuite, worst_excess


class MemoryWorld:
    def __init__(self) -> None:
        self.server = MemoryRedis()

    async def coordination(self, supervisor: str) -> Coordination:
        return MemoryCoordination(self.server)

    async def flush(self) -> None:
        self.server.flush()

    async def replace(self) -> None:
        self.server.replace()

    def down(self, is_down: bool) -> None:
        self.server.down(is_down)

    def boot_s(self) -> float:
        return trio.current_time()


class TestMemoryCoordination(CoordinationSuite):
    virtual_time = True

    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()

    @pytest.mark.parametrize("by_s", [3600.0, 0.5, -0.5, -3600.0])
    async def test_a_clock_that_is_set_lets_nothing_more_through_and_holds_up_for_less_than_a_second(
        self, world: MemoryWorld, by_s: float
    ):
        rate, burst = 100.0, 20.0
        calls: list[float] = []

        async def work(coordination: Coordination) -> None:
            while True:
                told = await coordination.reserve("p", shape(rate, burst), want=8, cost=1, horizon_s=HORIZON_S)
                for slot in told.slots:
                    await trio.sleep(max(0.0, slot.opens_s - trio.current_time()))
                    calls.append(trio.current_time())
                await trio.sleep(max(0.001, 0 if told.slots else told.next_in_s))

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(work, await world.coordination(name))
            for _ in range(3):
                await trio.sleep(2)
                world.server.set_clock(by_s)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert worst_excess(calls, rate) <= burst + 1e-3
        assert max(later - earlier for earlier, later in pairwise(sorted(calls))) < 1.0
