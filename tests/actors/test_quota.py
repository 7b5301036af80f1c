"""A provider with a quota: one for the whole cluster, in any window, with a part of it kept for urgent messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import capture_logs

from heliograph.actors.model.message import Channel, EmailContent, Priority, WaitingFor
from heliograph.actors.model.provider import Quota
from heliograph.actors.ports.journal import AttemptReleased
from tests.support.builders import a_message, a_provider
from tests.support.couriers import Handed
from tests.support.provider_world import Node, World, tracked

URGENT = Priority.URGENT


@asynccontextmanager
async def a_world(quota: Quota, **fields: object) -> AsyncIterator[World]:
    known: dict[str, object] = {"channel": Channel.SMS, "rate": 1000.0, "burst": 1000.0, "quota": quota}
    async with trio.open_nursery() as nursery:
        yield World(a_provider(**known | fields), nursery)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


def most_in_a_window(handed: Sequence[Handed], window_s: float) -> int:
    return max(
        sum(later.recipients for later in handed[i:] if later.at_s <= first.at_s + window_s)
        for i, first in enumerate(handed)
    )


@pytest.mark.parametrize(("supervisors", "batch"), [(1, 1), (3, 1), (2, 10)])
async def test_no_window_sees_more_than_the_quota_and_nearly_all_of_it_is_used(
    supervisors: int, batch: int, autojump_clock: object
) -> None:
    async with a_world(Quota(200, 60.0), batch=batch) as world:
        for _ in range(supervisors):
            world.add(claim_s=0.01, latency_s=0.05)
        world.wait_to_be_sent(5000)
        await trio.sleep(600)
        assert most_in_a_window(world.handed, 60.0) <= 200
        assert sum(handed.recipients for handed in world.handed) >= 10 * 190 * 0.95


async def test_copies_use_the_quota_up_too(autojump_clock: object) -> None:
    async with a_world(Quota(40, 60.0), channel=Channel.EMAIL) as world:
        world.add(claim_s=0.01)
        content = EmailContent(subject="s", text="t", cc=("b@example.net", "c@example.net"))
        world.waiting.extend(tracked(a_message(channel=Channel.EMAIL, content=content)) for _ in range(100))
        await trio.sleep(30)
        assert [h.recipients for h in world.handed] == [3] * 12


async def test_the_last_of_it_is_kept_for_urgent_messages(autojump_clock: object) -> None:
    async with a_world(Quota(100, 3600.0)) as world:
        node = world.add(claim_s=0.01)
        world.wait_to_be_sent(150)
        await trio.sleep(10)
        assert len(world.handed) == 95
        for_s, why = node.desk.blocked(trio.current_time()) or (0.0, None)
        assert why is WaitingFor.QUOTA
        assert 3500 < for_s < 3700
        assert node.desk.blocked(trio.current_time(), URGENT) is None
        world.waiting.clear()
        world.wait_to_be_sent(10, URGENT)
        await trio.sleep(10)
        assert len(world.handed) == 100
        assert [call.message.priority for handed in world.handed[95:] for call in handed.calls] == [URGENT] * 5
        assert (node.desk.blocked(trio.current_time(), URGENT) or (0.0, None))[1] is WaitingFor.QUOTA
        assert len(world.waiting) == 5
        await trio.sleep(3700)
        assert len(world.handed) == 105


async def test_what_it_keeps_away_is_given_up_at_once_for_others_to_carry(autojump_clock: object) -> None:
    async with a_world(Quota(20, 3600.0)) as world:
        node = world.add()
        for _ in range(30):
            await node.deliver(tracked())
        await trio.sleep(1.0)
        assert len(world.handed) == 19
        assert len(node.of(AttemptReleased)) == 11
        assert node.desk.held == 0
        await node.deliver(tracked())
        await trio.sleep(0.1)
        assert len(node.of(AttemptReleased)) == 12
        await node.deliver(tracked(a_message(priority=URGENT)))
        await trio.sleep(0.1)
        assert len(world.handed) == 20


@pytest.mark.parametrize("loss", ["flush", "replace", "clock"])
async def test_a_lost_count_is_taken_from_the_ledger(loss: str, autojump_clock: object) -> None:
    async with a_world(Quota(200, 600.0)) as world:
        for _ in range(2):
            world.add(claim_s=0.01, latency_s=0.05)
        world.wait_to_be_sent(120)
        await trio.sleep(30)
        assert len(world.handed) == 120
        match loss:
            case "flush":
                world.redis.flush()
            case "replace":
                world.redis.replace()
            case _:
                world.redis.set_clock(3600.0)
        world.wait_to_be_sent(2000)
        await trio.sleep(400)
        assert len(world.handed) == 190
        await trio.sleep(3000)
        assert most_in_a_window(world.handed, 600.0) <= 200
        assert len(world.handed) > 190 * 5


async def test_a_count_lost_in_full_flight_lets_nothing_more_through(autojump_clock: object) -> None:
    async with a_world(Quota(100, 60.0), rate=20.0, burst=20.0) as world:
        for _ in range(3):
            world.add(claim_s=0.05, latency_s=0.5)
        world.wait_to_be_sent(5000)
        for _ in range(12):
            await trio.sleep(7.3)
            world.redis.flush()
        await trio.sleep(120)
        assert most_in_a_window(world.handed, 60.0) <= 100
        assert len(world.handed) > 300


async def test_it_is_told_when_it_is_used_up(autojump_clock: object) -> None:
    async with a_world(Quota(20, 600.0)) as world:
        node: Node = world.add(claim_s=0.01)
        with capture_logs() as logs:
            world.wait_to_be_sent(15)
            await trio.sleep(20)
            report = node.actor.report()
            assert (report.quota_remaining, report.quota_until) == (5, None)
            world.wait_to_be_sent(30)
            await trio.sleep(20)
        (told,) = [entry for entry in logs if entry["event"] == "provider.quota_used_up"]
        assert (told["log_level"], told["limit"], told["remaining"]) == ("warning", 20, 1)
        assert 580 < told["for_s"] < 620
        report = node.actor.report()
        assert report.quota_remaining == 1
        assert report.quota_until is not None
        assert 550 < (report.quota_until - world.clock.now()).total_seconds() < 620
        labels = {"provider": world.settings.name}
        assert node.registry.get_sample_value("heliograph_provider_quota_remaining", labels) == 1
        stops = {**labels, "reason": "quota"}
        assert node.registry.get_sample_value("heliograph_provider_stops_total", stops) == 1


async def test_a_connection_that_was_never_made_uses_nothing_up(autojump_clock: object) -> None:
    async with a_world(Quota(20, 3600.0)) as world:
        # At first longer than a slot is open: those slots are lost.
        node = world.add(connect_s=lambda at_s: 0.3 if at_s < 2.0 else 0.0, claim_s=0.01)
        world.wait_to_be_sent(100, URGENT)
        await trio.sleep(60)
        assert len(world.handed) == 20
        assert node.actor.report().quota_remaining == 0
