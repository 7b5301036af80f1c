"""Receipts among whole supervisors: of a provider that calls back at its own pace, and repeats until it is heard."""

from __future__ import annotations

import pytest
import trio

from heliograph.actors.kernel.actor import ActorStopped
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import LedgerDown, MailboxFull
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import State
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.ports.ledger import Reported
from tests.simulation.test_promises import sms, staged
from tests.support.judge import Call
from tests.support.world import Script, Spell, World

MESSAGES = 100
LOSES_ANSWERS = Script(latency_s=0.2, spells=(Spell(Outcome.UNKNOWN, chance=0.2),), can_ask=False)


async def report(world: World, call: Call) -> None:
    """Soon or late, perhaps before its own answer; again until some gateway has committed it, and once more."""
    draw = world.clock.random
    await trio.sleep(draw.random() * 3)
    reported = Reported(
        call.provider, Receipt(attempt_id=attempt_id(call.message.id, call.number), effect=Effect.DELIVERED)
    )
    heard = 0
    while heard < 2:
        try:
            with trio.move_on_after(5.0) as patience:
                await draw.choice(world.living).node.report([reported])
            heard += not patience.cancelled_caught
        except (LedgerDown, MailboxFull, ActorStopped):
            pass
        await trio.sleep(1.0)


async def told(world: World, kills: bool) -> None:
    async with trio.open_nursery() as reports:
        seen = 0

        async def watch() -> None:
            nonlocal seen
            while True:
                for call in world.judge.calls[seen:]:
                    if call.taken:
                        reports.start_soon(report, world, call)
                seen = len(world.judge.calls)
                await trio.sleep(0.01)

        async with trio.open_nursery() as watching:
            watching.start_soon(watch)
            for number in range(MESSAGES):
                await world.post(world.message())
                await trio.sleep(0.02)
                if kills and number == MESSAGES // 2:
                    await world.kill(world.lives[0])
                    await world.start(1)
            await world.settle()
            await trio.sleep(10.0)
            watching.cancel_scope.cancel()
    await trio.sleep(120.0)  # kept ones are looked at ever more rarely


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kills", [False, True], ids=["all live", "a kill"])
def test_what_was_taken_ends_delivered_and_what_holds_is_never_called_again(seed: int, kills: bool) -> None:
    async def scene(world: World) -> None:
        await told(world, kills)

    world = staged(scene, sms(unknown=UnknownRule.HOLD), scripts={"one": LOSES_ANSWERS}, seed=seed)
    taken = {call.message.id for call in world.judge.calls if call.taken}
    lost = [call for call in world.judge.calls if call.taken and call.answer is not None]
    assert any(call.answer.outcome is Outcome.UNKNOWN for call in lost if call.answer), "some answers were lost"
    assert world.judge.duplicates == 0
    states = {row.id: row.standing.state for row in world.store.rows.values()}
    assert {i for i, state in states.items() if state is State.DELIVERED} == taken
    assert {state for i, state in states.items() if i not in taken} <= {State.FAILED}
    assert world.store.kept == []


@pytest.mark.parametrize("seed", range(3))
def test_a_receipt_within_the_wait_saves_the_second_call(seed: int) -> None:
    async def scene(world: World) -> None:
        await told(world, kills=False)

    world = staged(scene, sms(unknown=UnknownRule.RETRY), scripts={"one": LOSES_ANSWERS}, seed=seed)
    taken = {call.message.id for call in world.judge.calls if call.taken}
    assert len(world.judge.calls) > MESSAGES, "what was not taken is called for again"
    assert world.judge.duplicates == 0
    states = {row.id: row.standing.state for row in world.store.rows.values()}
    assert {i for i, state in states.items() if state is State.DELIVERED} == taken
