"""The ledger in memory keeps the contract, on a clock wound by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from heliograph.actors.kernel.clock import VIRTUAL_EPOCH
from heliograph.actors.ledger.memory import memory_ledger
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.message import State
from tests.contract.ledger_suite import LedgerSuite
from tests.contract.ledger_world import ACCEPTED, SENT, LedgerWorld


class Hands:
    """A clock that stands still until it is wound."""

    def __init__(self) -> None:
        self.at = VIRTUAL_EPOCH

    def now(self) -> datetime:
        return self.at

    async def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def memory_world(fault: Callable[[str], None] = lambda _: None) -> LedgerWorld:
    hands = Hands()
    return LedgerWorld(memory_ledger(hands.now, fault), hands.advance, hands.now)


class TestMemoryLedger(LedgerSuite):
    @pytest.fixture
    def world(self) -> LedgerWorld:
        return memory_world()


class Faults:
    def __init__(self) -> None:
        self.at = ""

    def __call__(self, called: str) -> None:
        if called == self.at:
            raise LedgerDown("as the test wished")


async def test_a_request_that_is_lost_has_no_effect() -> None:
    faults = Faults()
    world = memory_world(faults)
    message = await world.queued()
    faults.at = "delivery.claim"
    with pytest.raises(LedgerDown):
        await world.claim(message)
    assert await world.state(message) is State.QUEUED


async def test_an_answer_that_is_lost_leaves_its_effect() -> None:
    faults = Faults()
    world = memory_world(faults)
    message = await world.queued()
    claimed = await world.claim(message)
    faults.at = "delivery.finish/done"
    with pytest.raises(LedgerDown):
        await world.finish(claimed, ACCEPTED, SENT)
    assert await world.state(message) is State.SENT
    faults.at = ""
    assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT
