"""What a provider says of our account: that it is refused, or what it may send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.message import Channel, Priority, WaitingFor
from heliograph.actors.model.provider import BreakerSettings, BreakerState
from heliograph.actors.policy.breaker import LONGEST_OPEN_S
from heliograph.actors.ports.courier import Allowance
from heliograph.actors.sending.accord import ALLOWANCE_S
from tests.support.builders import a_message, a_provider
from tests.support.couriers import ACCEPTED, MISCONFIGURED
from tests.support.provider_world import World, tracked, worst_excess

BREAKER = BreakerSettings(open_for_s=300.0, half_open_permits=1)


@asynccontextmanager
async def a_world(**fields: object) -> AsyncIterator[World]:
    known: dict[str, object] = {"channel": Channel.SMS, "rate": 100.0, "burst": 20.0, "breaker": BREAKER}
    async with trio.open_nursery() as nursery:
        yield World(a_provider(**known | fields), nursery)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


def refused_until(world: World, mended_s: float) -> object:
    return lambda _: MISCONFIGURED if world.clock.boot_s() < mended_s else ACCEPTED


# ---------------------------------------------------------------------------------------------------- refused


async def test_a_refused_account_stops_everybody_at_once_and_is_told(autojump_clock: object) -> None:
    async with a_world() as world:
        first = world.add(refused_until(world, 1e9))  # type: ignore[arg-type]
        second = world.add()
        with capture_logs() as logs:
            await first.deliver(tracked())
            await trio.sleep(0.3)
            assert first.desk.blocked(trio.current_time()) is not None
            await second.deliver(tracked())
            await trio.sleep(5)
        assert len(world.handed) == 1
        (told,) = [entry for entry in logs if entry["event"] == "provider.misconfigured"]
        assert (told["log_level"], told["codes"]) == ("error", ["401"])
        labels = {"provider": world.settings.name, "reason": "misconfigured"}
        assert first.registry.get_sample_value("heliograph_provider_stops_total", labels) == 1
        assert first.actor.report().breaker is BreakerState.OPEN


async def test_a_sender_that_the_message_named_stops_nobody(autojump_clock: object) -> None:
    its_own = replace(MISCONFIGURED, scope=Scope.MESSAGE)
    async with a_world() as world:
        node = world.add(lambda call: its_own if call.message.to.endswith("1") else ACCEPTED, claim_s=0.01)
        world.waiting.extend(tracked(a_message(f"+91987654321{n % 2}")) for n in range(40))
        await trio.sleep(5)
        assert [world.outcomes().count(each) for each in (Outcome.MISCONFIGURED, Outcome.ACCEPTED)] == [20, 20]
        assert node.actor.report().breaker is BreakerState.CLOSED
        labels = {"provider": world.settings.name, "reason": "misconfigured"}
        assert node.registry.get_sample_value("heliograph_provider_stops_total", labels) == 0


async def test_a_probe_ends_the_stop_once_the_account_is_mended(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(refused_until(world, 60.0), claim_s=0.01)  # type: ignore[arg-type]
        world.wait_to_be_sent(1)
        await trio.sleep(1)
        world.wait_to_be_sent(19)
        await trio.sleep(LONGEST_OPEN_S)
        assert world.outcomes().count(Outcome.ACCEPTED) == 19
        assert node.actor.report().breaker is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("changed", "asked_within_s"), [({"credentials": {"api_key": "new"}}, 3.0), ({"sender": "OTHER"}, 3.0), ({}, None)]
)
async def test_a_change_of_configuration_ends_it_and_a_mere_restart_does_not(
    changed: dict[str, object], asked_within_s: float | None, autojump_clock: object
) -> None:
    async with a_world(credentials={"api_key": "old"}) as world:
        node = world.add(refused_until(world, 10.0))  # type: ignore[arg-type]
        await node.deliver(tracked())
        await trio.sleep(10)
        node.scope.cancel()
        await node.ended.wait()
        world.settings = replace(world.settings, **changed)  # type: ignore[arg-type]
        node.build_anew()
        world.nursery.start_soon(node.run)
        world.nursery.start_soon(node.dispatch, 0.01)
        world.wait_to_be_sent(10)
        await trio.sleep(5)
        if asked_within_s is None:
            assert len(world.handed) == 1
        else:
            assert world.handed[1].at_s <= 10 + asked_within_s
            assert world.outcomes()[1:] == [Outcome.ACCEPTED] * 10


# -------------------------------------------------------------------------------------------------- allowance


async def test_no_more_is_used_than_the_provider_says_the_account_may(autojump_clock: object) -> None:
    async with a_world() as world:
        nodes = [world.add(claim_s=0.01) for _ in range(2)]
        for node in nodes:
            node.courier.told = Allowance(rate=10.0)
        await trio.sleep(5)
        world.wait_to_be_sent(2000)
        await trio.sleep(60)
        assert worst_excess(world.handed, 10.0) <= 20
        assert len(world.handed) >= 60 * 10 * 0.9
        for node in nodes:
            assert node.actor.report().effective_rate == 10.0
            labels = {"provider": world.settings.name}
            assert node.registry.get_sample_value("heliograph_limiter_rate", labels) == 10.0


async def test_it_never_raises_the_configured_rate_and_follows_what_is_told_later(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        rates = []
        for told in (Allowance(rate=5000.0), Allowance(rate=25.0), None, Allowance(), Allowance(rate=0.0)):
            node.courier.told = told
            await trio.sleep(2 * ALLOWANCE_S)
            rates.append(node.actor.report().effective_rate)
        assert rates[:4] == [100.0, 25.0, 25.0, 100.0]
        assert 0 < rates[4] < 0.01


async def test_a_day_that_is_used_up_keeps_everything_away_until_more_is_told(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(claim_s=0.01)
        node.courier.told = Allowance(rate=100.0, remaining=0)
        await trio.sleep(3)
        for priority in (Priority.NORMAL, Priority.URGENT):
            assert (node.desk.blocked(trio.current_time(), priority) or (0, None))[1] is WaitingFor.QUOTA
        world.wait_to_be_sent(10)
        await trio.sleep(3 * ALLOWANCE_S)
        assert world.handed == []
        node.courier.told = Allowance(rate=100.0, remaining=500)
        await trio.sleep(2 * ALLOWANCE_S)
        assert len(world.handed) == 10


async def test_a_look_up_that_our_code_cannot_stand_changes_nothing(autojump_clock: object) -> None:
    async def broken() -> Allowance | None:
        raise KeyError("SendQuota")

    async with a_world() as world:
        node = world.add(run=False, claim_s=0.01)
        node.courier.allowance = broken  # type: ignore[method-assign]
        node.build_anew()
        world.nursery.start_soon(node.run)
        world.wait_to_be_sent(10)
        await trio.sleep(2 * ALLOWANCE_S)
        assert len(world.handed) == 10
        assert node.actor.report().effective_rate == 100.0
