"""Whole supervisors, and providers with quotas: what one may not take goes by another, what nobody may take waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio

from heliograph.actors.model.message import Channel, Priority, State, WaitingFor
from heliograph.actors.model.provider import ProviderSettings, Quota
from tests.support.builders import a_provider
from tests.support.world import World


def sms(name: str, priority: int, quota: Quota | None, **fields: Any) -> ProviderSettings:
    known: dict[str, Any] = {"rate": 50.0, "burst": 20.0}
    return a_provider(channel=Channel.SMS, name=name, priority=priority, quota=quota, **known | fields)


async def post(world: World, count: int, **wanted: Any) -> None:
    for _ in range(count):
        assert await world.post(world.message(**wanted))


def calls(world: World) -> Counter[str]:
    return Counter(call.provider for call in world.judge.calls)


def waiting(world: World) -> int:
    return sum(world.store.state_of(row) is State.QUEUED for row in world.store.rows.values())


async def test_a_quota_that_is_used_up_is_routed_around(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = World(nursery, [sms("x", 1, Quota(40, 3600.0)), sms("y", 2, None)])
    await world.start(2)
    await trio.sleep(2)
    await post(world, 100)
    await world.settle(60)
    assert waiting(world) == 0
    assert calls(world) == {"x": 38, "y": 62}
    await post(world, 5, priority=Priority.URGENT)
    await world.settle(60)
    assert calls(world) == {"x": 40, "y": 65}
    attempts = [len(row.attempts) for row in world.store.rows.values()]
    assert set(attempts) == {1}, "a quota costs no attempt"
    await world.end()
    assert world.judge.verdict() == []


async def test_with_all_quotas_used_up_messages_wait_and_go_when_the_window_has_passed(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = World(nursery, [sms("x", 1, Quota(20, 600.0)), sms("y", 2, Quota(40, 300.0))])
    life = await world.start(2)
    await trio.sleep(2)
    await post(world, 100)
    await trio.sleep(60)
    assert calls(world) == {"x": 19, "y": 38}
    assert waiting(world) == 43
    blocked = life.node.blocked()
    assert {name: (each.why, each.spares_urgent) for name, each in blocked.items()} == {
        "x": (WaitingFor.QUOTA, True),
        "y": (WaitingFor.QUOTA, True),
    }
    await trio.sleep(300)
    assert waiting(world) == 5
    assert await world.settle(700) < 700
    await world.end()
    assert world.judge.verdict() == []


async def test_a_provider_that_joins_late_or_dies_takes_no_more_of_it(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = World(nursery, [sms("x", 1, Quota(60, 60.0))])
    first = await world.start()
    await post(world, 300)
    await trio.sleep(20)
    await world.start(2)
    await trio.sleep(30)
    await world.kill(first)
    world.redis.flush()
    assert await world.settle(900) < 900
    await world.end()
    assert world.judge.verdict() == []
