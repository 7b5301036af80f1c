"""A provider that rejects recipients whom another one accepts is stopped, and what it refused goes on its way again."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from heliograph.actors.jury import PAUSE_S
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.deadletter import OperationKind, OperationState
from heliograph.actors.model.message import Channel, State
from heliograph.actors.model.provider import Pause, ProviderSettings
from tests.support.builders import a_provider
from tests.support.world import Script, Spell, World

FROM_S = 30.0
TO_S = 300.0
NUMBERS = [f"+9198765432{n:02}" for n in range(60)]


def sms(name: str, priority: int) -> ProviderSettings:
    return a_provider(channel=Channel.SMS, name=name, priority=priority, rate=50.0, burst=20.0)


def a_world(nursery: trio.Nursery, *, chance: float = 1.0, **spells: Spell) -> World:
    bad = Spell(Outcome.REJECTED, FROM_S, TO_S, chance=chance)
    scripts = {"x": Script(spells=(bad,)), **{name: Script(spells=(spell,)) for name, spell in spells.items()}}
    return World(nursery, [sms("x", 1), sms("y", 2)], scripts)


async def post(world: World, numbers: list[str], **wanted: Any) -> None:
    for number in numbers:
        assert await world.post(world.message(to=number, **wanted))


async def known_to_y(world: World, numbers: list[str]) -> None:
    await post(world, numbers, providers=("y",))
    await trio.sleep(FROM_S - trio.current_time())


def operations(world: World) -> list[Any]:
    return [work.operation for work in world.store.work.values()]


def pause_of(world: World, name: str) -> Pause | None:
    controls = world.store.controls.get(name)
    pause: Pause | None = controls.pause if controls else None
    return pause


@pytest.mark.parametrize("supervisors", [1, 3])
async def test_it_is_paused_and_everything_arrives_by_the_other(
    supervisors: int, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = a_world(nursery)
    life = await world.start(supervisors)
    await known_to_y(world, NUMBERS)
    with capture_logs() as logs:
        await post(world, NUMBERS)
        await trio.sleep(30)
    pause = pause_of(world, "x")
    assert pause is not None
    assert pause.reason == "rejections"
    assert 0 < (pause.until - world.clock.now()).total_seconds() <= PAUSE_S
    assert {world.store.state_of(row) for row in world.store.rows.values()} == {State.SENT}
    (operation,) = operations(world)
    assert (operation.kind, operation.state, operation.actor) == (OperationKind.REDRIVE, OperationState.DONE, "system")
    assert operation.done == operation.total >= 20
    told = [entry for entry in logs if entry["event"] == "provider.rejects_good_recipients"]
    assert {(entry["log_level"], entry["provider"]) for entry in told} == {("error", "x")}
    assert len(told) <= supervisors
    stops = [
        each.node.registry.get_sample_value(
            "heliograph_provider_stops_total", {"provider": "x", "reason": "rejections"}
        )
        for each in world.lives
    ]
    assert sum(n or 0 for n in stops) == len(told)
    assert life.node.blocked().keys() == {"x"}
    await trio.sleep(PAUSE_S)
    await post(world, NUMBERS)
    await trio.sleep(10)
    assert world.judge.calls[-1].provider == "x", "when the pause is over it is asked again"
    await world.end()


async def test_who_hears_late_of_it_loses_nothing_either(autojump_clock: object, nursery: trio.Nursery) -> None:
    """A supervisor that is cut off from the ledger's controls goes on for a while, and writes its rejections later."""
    world = a_world(nursery)
    await world.start()
    late = await world.start(roles=frozenset({"delivery"}))
    await known_to_y(world, NUMBERS)
    await post(world, NUMBERS[:10])
    async with trio.open_nursery() as cutting:
        cutting.start_soon(lambda: world.cut(late, 4.0, ledger=True))
        await post(world, NUMBERS[10:])
    await trio.sleep(60)
    assert pause_of(world, "x") is not None
    assert {world.store.state_of(row) for row in world.store.rows.values()} == {State.SENT}
    await world.end()


async def test_recipients_that_nobody_else_has_accepted_speak_against_nobody(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = a_world(nursery)
    await world.start()
    await known_to_y(world, NUMBERS[:15])
    await post(world, NUMBERS)
    await trio.sleep(60)
    assert pause_of(world, "x") is None
    assert operations(world) == []
    await world.end()


async def test_what_it_accepted_itself_refutes_nothing(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = a_world(nursery)
    await world.start()
    await post(world, NUMBERS, providers=("x",))
    await trio.sleep(FROM_S - trio.current_time())
    await post(world, NUMBERS)
    await trio.sleep(60)
    assert pause_of(world, "x") is None
    await world.end()


async def test_a_few_among_many_that_it_accepts_are_no_verdict(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = a_world(nursery, chance=0.35)
    await world.start()
    await known_to_y(world, NUMBERS)
    for _ in range(3):
        await post(world, NUMBERS)
    await trio.sleep(60)
    assert sum(1 for call in world.judge.calls if call.answer and call.answer.outcome is Outcome.REJECTED) > 40
    assert pause_of(world, "x") is None
    await world.end()


@pytest.mark.parametrize("why", ["the messages name it", "the other one is paused"])
async def test_with_nobody_else_to_send_by_it_is_only_told(
    why: str, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = a_world(nursery)
    await world.start()
    await known_to_y(world, NUMBERS)
    named: dict[str, Any] = {"providers": ("x",)} if why == "the messages name it" else {}
    if not named:
        until = world.clock.now().replace(year=2030)
        await world.ledger.cluster.pause("y", Pause(until=until, reason="by hand"))
        await trio.sleep(2)
    with capture_logs() as logs:
        await post(world, NUMBERS, **named)
        await trio.sleep(30)
    told = [entry for entry in logs if entry["event"] == "provider.rejects_good_recipients"]
    assert [entry["paused_for_s"] for entry in told] == [None]
    assert pause_of(world, "x") is None
    assert operations(world) == []
    await world.end()


async def test_a_verdict_waits_for_a_ledger_that_is_away(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = a_world(nursery)
    await world.start()
    await known_to_y(world, NUMBERS)
    await post(world, NUMBERS[:25])
    world.fleet.ledger_down = True
    await trio.sleep(5)
    world.fleet.ledger_down = False
    await trio.sleep(30)
    assert pause_of(world, "x") is not None
    assert {world.store.state_of(row) for row in world.store.rows.values()} == {State.SENT}
    await world.end()
