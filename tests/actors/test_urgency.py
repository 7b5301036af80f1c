"""Urgent messages among a long backlog and past a dead provider: the whole tree, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Channel, Message, Priority, State
from heliograph.actors.model.settings import DeliverySettings
from tests.support.builders import a_provider
from tests.support.world import Life, Script, Spell, World

LATENCY_S = 0.05
EVERY_S = 0.7


def provider(name: str, **fields: Any) -> Any:
    known: dict[str, Any] = {"name": name, "rate": 100.0, "burst": 20.0}
    return a_provider(channel=Channel.SMS, **known | fields)


async def post(world: World, count: int, **wanted: Any) -> list[Message]:
    messages = [world.message(**wanted) for _ in range(count)]
    for first in range(0, count, 1000):
        assert await world.post(*messages[first : first + 1000])
    return messages


async def urgent_waits(world: World, count: int) -> list[float]:
    """How long each of so many urgent messages, posted at a pace, waited for its first accepted call to begin."""
    posted: dict[str, float] = {}
    for _ in range(count):
        [message] = await post(world, 1, priority=Priority.URGENT)
        posted[message.id] = trio.current_time()
        await trio.sleep(EVERY_S)
    began = {c.message.id: c.began_s for c in world.judge.calls if c.answer and c.answer.outcome is Outcome.ACCEPTED}
    return sorted(began[message_id] - at_s for message_id, at_s in posted.items())


@pytest.mark.parametrize("supervisors", [1, 2])
async def test_an_urgent_message_passes_twenty_thousand_that_wait(
    autojump_clock: object, nursery: trio.Nursery, supervisors: int
) -> None:
    """One provider: the lane's and its line's backlog stand behind it, and its room is never all of bulk's."""
    world = World(nursery, [provider("x")])
    await world.start(supervisors)
    await post(world, 20_000, priority=Priority.BULK)
    await trio.sleep(5)
    waits = await urgent_waits(world, 20)
    assert waits[-1] < 0.25
    bulk = [c for c in world.judge.calls if c.message.priority is Priority.BULK]
    assert len(bulk) > 0.9 * 100 * (5 + 20 * EVERY_S) - 100, "the rate goes to bulk meanwhile"


async def test_an_urgent_message_passes_a_line_that_stands_at_its_provider(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Two providers, one of them slow: what is for the slow one alone stands in its line and keeps nobody behind it."""
    world = World(nursery, [provider("slow", rate=10.0, burst=2.0), provider("quick")])
    await world.start()
    await post(world, 5_000, priority=Priority.BULK, providers=("slow",))
    await trio.sleep(60)
    urgent = await post(world, 5, priority=Priority.URGENT, providers=("slow",))
    at_s = trio.current_time()
    await trio.sleep(3)
    began = {c.message.id: c.began_s - at_s for c in world.judge.calls}
    assert max(began[message.id] for message in urgent) < 1.0


async def test_bulk_has_its_share_of_a_provider_that_urgent_ones_would_fill(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = World(nursery, [provider("x", rate=50.0)], delivery=DeliverySettings(bulk_share=0.1))
    await world.start()
    await post(world, 500, priority=Priority.BULK)
    for _ in range(30):
        await post(world, 60, priority=Priority.URGENT)
        await trio.sleep(1)
    calls = [c for c in world.judge.calls if c.began_s > 5]
    bulk = sum(c.message.priority is Priority.BULK for c in calls)
    assert 0.07 * len(calls) < bulk < 0.2 * len(calls)


@pytest.mark.parametrize("outcome", [Outcome.DEFERRED, Outcome.MISCONFIGURED])
async def test_the_second_provider_is_asked_in_the_same_instant(
    autojump_clock: object, nursery: trio.Nursery, outcome: Outcome
) -> None:
    """From acceptance, with the first one's answer: before its breaker opens, while it is open, and by its probes."""
    world = World(
        nursery,
        [provider("first", priority=1), provider("second", priority=2)],
        {"first": Script(latency_s=0.002, spells=(Spell(outcome),)), "second": Script(latency_s=LATENCY_S)},
    )
    life: Life = await world.start()
    await trio.sleep(1)
    waits = await urgent_waits(world, 60)
    assert waits[-1] < 0.05
    asked = [c for c in world.judge.calls if c.provider == "first"]
    assert 0 < len(asked) < 60, "it is not asked while it is known to be down"
    assert {world.store.rows[c.message.id].standing.state for c in world.judge.calls} == {State.SENT}
    assert life.living
