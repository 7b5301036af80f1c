"""The coordination in memory keeps the contract."""

from __future__ import annotations

import pytest
import trio

from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.queue.memory import MemoryCoordination, MemoryRedis
from tests.contract.coordination_suite import CoordinationSuite


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
