"""The provider actor in virtual time, alone and with others that share its rate and its breaker."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import Channel, EmailContent, Priority, WaitingFor
from heliograph.actors.model.provider import (
    BreakerSettings,
    BreakerState,
    Controls,
    ForcedBreaker,
    Pause,
    ProviderSettings,
    UnknownRule,
)
from heliograph.actors.policy.hand import Slot
from heliograph.actors.ports.journal import AttemptFinished, AttemptReleased, EarlierSettled
from tests.support.builders import a_message, a_provider
from tests.support.couriers import ACCEPTED, DEFERRED, MISCONFIGURED, REJECTED, UNKNOWN, ScriptedCourier, throttled
from tests.support.provider_world import Node, World, tracked, worst_excess

BREAKER = BreakerSettings(minimum_calls=20, window_s=30.0, open_for_s=10.0, half_open_permits=3)


def settings(**fields: object) -> ProviderSettings:
    known: dict[str, object] = {"channel": Channel.SMS, "rate": 1000.0, "burst": 1000.0, "breaker": BREAKER}
    return a_provider(**known | fields)  # type: ignore[arg-type]


@asynccontextmanager
async def a_world(**fields: object) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(settings(**fields), nursery)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Looks each twentieth of a (virtual) second, for ten minutes."""
    with trio.fail_after(600):
        while not condition():  # noqa: ASYNC110 - what happens inside an actor rings no bell here
            await trio.sleep(0.05)


def no_call_twice(world: World) -> None:
    messages = [call.message.id for handed in world.handed for call in handed.calls]
    assert len(messages) == len(set(messages))


# ------------------------------------------------------------------------------------------------ the way


async def test_a_claimed_message_is_called_for_and_told_to_the_journal(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        await node.deliver(each := tracked())
        await trio.sleep(1)
        (finished,) = world.finished
        assert (finished.tracked, finished.number, finished.answer) == (each, 1, ACCEPTED)
        assert node.courier.handed[0].at_s < 0.05


async def test_everything_ends_once_and_leaves_the_desk_empty(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(claim_s=0.01)
        world.wait_to_be_sent(500)
        await trio.sleep(10)
        assert world.outcomes() == [Outcome.ACCEPTED] * 500
        no_call_twice(world)
        assert node.desk.held == 0


async def test_urgent_overtakes_what_was_claimed_before_it(autojump_clock: object) -> None:
    async with a_world(rate=10.0, burst=1.0) as world:
        node = world.add()
        bulk = [tracked(a_message(priority=Priority.BULK)) for _ in range(3)]
        normal = [tracked(a_message(priority=Priority.NORMAL)) for _ in range(3)]
        urgent = tracked(a_message(priority=Priority.URGENT))
        await node.deliver(first := tracked())
        await trio.sleep(0.01)
        for each in (*bulk, *normal, urgent):
            await node.deliver(each)
        await trio.sleep(1.9)
        priorities = [call.message.priority for handed in node.courier.handed for call in handed.calls]
        assert node.courier.messages[:2] == [first.message.id, urgent.message.id]
        assert priorities[2:] == [Priority.NORMAL] * 3 + [Priority.BULK] * 3


async def test_within_a_priority_the_oldest_claim_goes_first(autojump_clock: object) -> None:
    async with a_world(rate=10.0, burst=1.0) as world:
        node = world.add()
        await node.deliver(tracked())
        await trio.sleep(0.01)
        claims = [tracked() for _ in range(4)]
        for each, right_s in zip(claims, (2.0, 1.9, 1.8, 1.7), strict=True):
            await node.deliver(each, right_s=right_s)
        await trio.sleep(1.6)
        assert node.courier.messages[1:] == [each.message.id for each in reversed(claims)]


async def test_slow_ordinary_calls_leave_a_part_of_the_concurrency_to_urgent_ones(autojump_clock: object) -> None:
    async with a_world(concurrency=10) as world:
        node = world.add(latency_s=1.5)
        for _ in range(20):
            await node.deliver(tracked())
        await trio.sleep(0.1)
        assert node.courier.in_air == 8
        await node.deliver(urgent := tracked(a_message(priority=Priority.URGENT)))
        await trio.sleep(0.1)
        assert node.courier.messages[-1] == urgent.message.id
        assert node.courier.in_air == 9


async def test_never_more_calls_in_the_air_than_the_concurrency(autojump_clock: object) -> None:
    async with a_world(concurrency=7) as world:
        node = world.add(claim_s=0.01, latency_s=0.3)
        world.wait_to_be_sent(100, Priority.URGENT)
        await trio.sleep(30)
        assert len(world.finished) == 100
        assert node.courier.most_in_air == 7


async def test_a_fast_provider_is_kept_busy_while_claims_take_their_time(autojump_clock: object) -> None:
    async with a_world(rate=1e6, burst=1e6, concurrency=64) as world:
        node = world.add(claim_s=0.01, latency_s=0.001)
        world.wait_to_be_sent(12_000)
        with trio.fail_after(10):
            await until(lambda: len(world.finished) == 12_000)
        assert 12_000 / trio.current_time() > 10_000
        assert node.of(AttemptReleased) == []


async def test_a_slow_rate_has_no_more_claimed_than_it_can_send_in_time(autojump_clock: object) -> None:
    async with a_world(rate=14.0, burst=14.0) as world:
        node = world.add(claim_s=0.01)
        world.wait_to_be_sent(200)
        assert node.desk.room(Priority.NORMAL) <= 14
        await trio.sleep(16)
        assert len(world.finished) == 200
        assert node.of(AttemptReleased) == []


async def test_a_slot_that_is_far_away_is_not_waited_for_with_a_claim(autojump_clock: object) -> None:
    async with a_world(rate=0.1, burst=1.0) as world:
        node = world.add(claim_s=0.01)
        world.wait_to_be_sent(4)
        await trio.sleep(15)
        blocked = node.desk.blocked(trio.current_time())
        assert blocked is not None
        assert blocked[1] is WaitingFor.RATE
        await trio.sleep(60)
        assert len(world.finished) == 4
        assert len(node.of(AttemptReleased)) < 12


# ------------------------------------------------------------------------------------------------ the rate


@pytest.mark.parametrize(("rate", "burst"), [(50.0, 1.0), (50.0, 10.0), (14.0, 14.0), (200.0, 20.0)])
async def test_the_rate_holds_over_every_window_however_many_supervisors(
    rate: float, burst: float, autojump_clock: object
) -> None:
    async with a_world(rate=rate, burst=burst) as world:
        for _ in range(3):
            world.add(claim_s=0.01)
        count = int(rate * 10)
        world.wait_to_be_sent(count)
        await trio.sleep(30)
        assert len(world.finished) == count
        assert worst_excess(world.handed, rate) <= burst + 1e-6
        no_call_twice(world)


async def test_most_of_the_rate_is_used(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=20.0) as world:
        for _ in range(2):
            world.add(claim_s=0.01)
        world.wait_to_be_sent(2000)
        await trio.sleep(10)
        assert len(world.handed) > 900


async def test_copies_take_their_share_of_the_rate(autojump_clock: object) -> None:
    def mail(copies: int) -> EmailContent:
        return EmailContent(subject="Hello", text="Hi", cc=tuple(f"c{i}@shop.in" for i in range(copies)))

    async with a_world(rate=50.0, burst=10.0, channel=Channel.EMAIL) as world:
        world.add(claim_s=0.01)
        world.add(claim_s=0.01)
        world.waiting.extend(tracked(a_message("a@shop.in", content=mail(i % 6))) for i in range(200))
        await trio.sleep(60)
        assert len(world.finished) == 200
        assert worst_excess(world.handed, 50.0) <= 10 + 1e-6


async def test_a_message_with_more_recipients_than_the_burst_fails_and_blocks_nobody(autojump_clock: object) -> None:
    async with a_world(rate=50.0, burst=3.0, channel=Channel.EMAIL) as world:
        node = world.add()
        content = EmailContent(subject="Hello", text="Hi", cc=tuple(f"c{i}@shop.in" for i in range(9)))
        await node.deliver(tracked(a_message("a@shop.in", content=content)))
        await node.deliver(small := tracked(a_message("a@shop.in")))
        await trio.sleep(2)
        assert node.courier.messages == [small.message.id]
        assert [each.internal for each in world.finished] == [True, False]


async def test_throttling_without_retry_after_halves_the_rate_and_recovers(autojump_clock: object) -> None:
    slow_until_s = 3.0

    def answer(_: ProviderCall) -> Answer:
        return throttled() if trio.current_time() < slow_until_s else ACCEPTED

    async with a_world(rate=100.0, burst=10.0) as world:
        node = world.add(answer, claim_s=0.01)
        world.wait_to_be_sent(3000)
        await trio.sleep(3.1)
        assert node.actor.report().effective_rate < 25
        at_the_slowest = len([h for h in world.handed if 2.5 < h.at_s < 3.0]) * 2
        assert at_the_slowest < 50
        await trio.sleep(11)
        assert node.actor.report().effective_rate == 100
        assert len([h for h in world.handed if 13.0 < h.at_s < 14.0]) > 80
        assert worst_excess(world.handed, 100.0) <= 10 + 1e-6
        assert node.actor.report().breaker is BreakerState.CLOSED


async def test_retry_after_stops_every_supervisor_until_then(autojump_clock: object) -> None:
    def once(_: ProviderCall) -> Answer:
        return throttled(5.0) if len(world.finished) == 0 else ACCEPTED

    async with a_world(rate=100.0, burst=10.0) as world:
        first, second = world.add(once, claim_s=0.01, latency_s=0.01), world.add(claim_s=0.01, latency_s=0.01)
        await first.deliver(tracked())
        await trio.sleep(0.5)
        told_s = first.told[0][0]
        world.wait_to_be_sent(50)
        await trio.sleep(20)
        after = [h.at_s for h in world.handed[1:]]
        assert len(after) == 50
        assert min(after) >= told_s + 5.0
        assert min(after) < told_s + 6.0
        assert second.courier.handed


async def test_the_last_one_that_a_provider_takes_for_now_stops_every_supervisor_until_then(
    autojump_clock: object,
) -> None:
    def last(_: ProviderCall) -> Answer:
        return replace(ACCEPTED, retry_after_s=5.0) if len(world.finished) == 0 else ACCEPTED

    async with a_world(rate=100.0, burst=10.0) as world:
        first, second = world.add(last, claim_s=0.01, latency_s=0.01), world.add(claim_s=0.01, latency_s=0.01)
        await first.deliver(tracked())
        await trio.sleep(0.5)
        told_s = first.told[0][0]
        world.wait_to_be_sent(50)
        await trio.sleep(20)
        after = [h.at_s for h in world.handed[1:]]
        assert len(after) == 50
        assert told_s + 5.0 <= min(after) < told_s + 6.0
        assert second.courier.handed
        assert first.actor.report().effective_rate == 100


async def test_while_paused_by_the_provider_the_desk_says_so(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: throttled(60.0))
        await node.deliver(tracked())
        await trio.sleep(1)
        blocked = node.desk.blocked(trio.current_time())
        assert blocked is not None
        assert blocked[1] is WaitingFor.RATE
        assert 58 < blocked[0] < 60
        assert node.actor.report().effective_rate == 0


async def test_a_resume_lifts_what_the_provider_asked_for(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: throttled(86_400.0) if not world.finished else ACCEPTED, claim_s=0.01)
        await node.deliver(tracked())
        await trio.sleep(1)
        assert node.desk.blocked(trio.current_time()) is not None
        await node.control(Controls(provider=world.settings.name, resumed_at=world.clock.now()))
        await trio.sleep(0.5)
        assert node.desk.blocked(trio.current_time()) is None
        assert node.actor.report().effective_rate > 500, "it was throttled, and recovers"
        world.wait_to_be_sent(3)
        await trio.sleep(2)
        assert len(world.finished) == 4


async def test_what_was_throttled_for_one_recipient_slows_nobody(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: throttled(60.0, Scope.MESSAGE))
        await node.deliver(tracked())
        await trio.sleep(1)
        assert node.desk.blocked(trio.current_time()) is None
        assert node.actor.report().effective_rate == 1000


async def test_a_slow_connection_costs_the_slot_and_never_the_rate(autojump_clock: object) -> None:
    """The slot passes while the courier connects; the message waits for the next one that is open as it begins."""
    async with a_world(rate=100.0, burst=20.0) as world:
        node = world.add(claim_s=0.01, connect_s=0.25)
        world.wait_to_be_sent(100)
        await trio.sleep(1)
        node.courier.connect_s = 0.0
        await trio.sleep(20)
        assert len(world.finished) == 100
        no_call_twice(world)
        assert worst_excess(world.handed, 100.0) <= 20 + 1e-6


async def test_connections_of_uneven_speed_do_not_bunch_calls_up(autojump_clock: object) -> None:
    chance = random.Random(1)
    async with a_world(rate=20.0, burst=1.0) as world:
        world.add(claim_s=0.01, connect_s=lambda _: chance.choice([0.0, 0.0, 0.045]))
        world.wait_to_be_sent(100)
        await trio.sleep(60)
        assert len(world.finished) == 100
        assert worst_excess(world.handed, 20.0) <= 1 + 1e-6


# ------------------------------------------------------------------------------------------------ deadlines


async def test_after_its_deadline_a_message_is_released_and_not_sent(autojump_clock: object) -> None:
    async with a_world(rate=1.0, burst=1.0) as world:
        node = world.add()
        for _ in range(3):
            await node.deliver(tracked(), right_s=0.5)
        await trio.sleep(5)
        assert len(node.courier.handed) + len(node.of(AttemptReleased)) == 3
        assert len(node.courier.handed) <= 1
        assert all(at_s <= 0.6 for at_s, _ in node.told)


async def test_an_expired_message_is_released_and_not_sent(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        await node.deliver(tracked(), expires_s=-1.0)
        await trio.sleep(1)
        assert node.courier.handed == []
        assert len(node.of(AttemptReleased)) == 1


async def test_a_connection_that_outlasts_the_deadline_sends_nothing(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(connect_s=3.0)
        await node.deliver(tracked())
        await trio.sleep(1)
        node.actor._hand.grant([Slot(0.0, 1e6)], 1)  # a slot that never passes: only the deadline can refuse
        await trio.sleep(9)
        assert node.courier.handed == []
        assert len(node.of(AttemptReleased)) == 1


# ---------------------------------------------------------------------------------------------- the breaker


def down_until(until_s: float, answer: Answer = DEFERRED) -> object:
    return lambda _: answer if trio.current_time() < until_s else ACCEPTED


async def test_it_opens_probes_and_closes_over_two_supervisors(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=20.0) as world:
        nodes = [world.add(down_until(25.0), claim_s=0.01) for _ in range(2)]
        world.wait_to_be_sent(400)
        await trio.sleep(3)
        assert {node.actor.report().breaker for node in nodes} == {BreakerState.OPEN}
        opened_s = max(h.at_s for h in world.handed)
        assert opened_s < 1.0
        made = len(world.handed)
        await trio.sleep(4)
        assert len(world.handed) == made, "no call while it is open"
        await trio.sleep(60)
        assert {node.actor.report().breaker for node in nodes} == {BreakerState.CLOSED}
        probes = [h for h in world.handed if opened_s < h.at_s < 25.0]
        assert 1 <= len(probes) <= 2 * BREAKER.half_open_permits
        ended = len(world.finished)
        assert ended + len(world.waiting) == 400 or ended == 400
        no_call_twice(world)


async def test_released_messages_lose_nothing_by_an_open_breaker(autojump_clock: object) -> None:
    async with a_world(rate=200.0, burst=50.0) as world:
        for _ in range(2):
            world.add(down_until(1.0), claim_s=0.01)
        world.wait_to_be_sent(600)
        await trio.sleep(120)
        assert len(world.finished) == 600, "each was attempted once and none is left"
        assert {each.number for each in world.finished} == {1}
        no_call_twice(world)


async def test_opening_gives_up_all_unsent_claims_at_once(autojump_clock: object) -> None:
    async with a_world(rate=10.0, burst=6.0) as world:
        node = world.add(lambda _: MISCONFIGURED, latency_s=0.01)
        for _ in range(30):
            await node.deliver(tracked())
        await trio.sleep(0.3)
        assert len(node.of(AttemptFinished)) + len(node.of(AttemptReleased)) == 30
        assert max(at_s for at_s, _ in node.told) < 0.3
        blocked = node.desk.blocked(trio.current_time())
        assert blocked is not None
        assert blocked[1] is WaitingFor.BREAKER


async def test_a_refused_account_stops_it_at_the_first_answer(autojump_clock: object) -> None:
    async with a_world(rate=10.0, burst=1.0) as world:
        node = world.add(lambda _: MISCONFIGURED, latency_s=0.01, claim_s=0.01)
        world.wait_to_be_sent(20)
        await trio.sleep(5)
        assert len(node.courier.handed) == 1
        assert node.actor.report().breaker is BreakerState.OPEN


@pytest.mark.parametrize("others", [True, False])
async def test_probes_are_messages_that_the_provider_was_not_asked_for_before(
    others: bool, autojump_clock: object
) -> None:
    """Some messages it never takes; as probes they would hold the breaker open as long as they are retried."""
    async with a_world() as world:
        hopeless = [a_message(f"+91987654{n:04}") for n in range(12)]
        ids = {message.id for message in hopeless}
        node = world.add(lambda call: DEFERRED if call.message.id in ids else ACCEPTED, claim_s=0.01)
        world.waiting.extend(tracked(message) for message in hopeless)
        await trio.sleep(5)
        assert node.actor.report().breaker is BreakerState.OPEN
        made = len(world.handed)
        retries = [tracked(m, passes=1, counted=1, attempts=1) for m in hopeless]
        world.waiting.extend(retries[:6])
        if others:
            world.wait_to_be_sent(5)
        world.waiting.extend(retries[6:])
        await until(lambda: len(world.handed) >= made + (BREAKER.half_open_permits if others else 1))
        probes = [call.message.id in ids for handed in world.handed[made:] for call in handed.calls]
        assert set(probes[: BREAKER.half_open_permits]) == {not others}
        if others:
            await until(lambda: node.actor.report().breaker is BreakerState.CLOSED)


async def test_half_open_makes_at_most_its_permits_over_the_cluster(autojump_clock: object) -> None:
    async with a_world(rate=1000.0, burst=100.0) as world:
        for _ in range(3):
            world.add(down_until(1.0), claim_s=0.01, latency_s=lambda at_s: 4.0 if at_s > 5.0 else 0.05)
        world.wait_to_be_sent(3000)
        await trio.sleep(5)
        made = len(world.handed)
        await until(lambda: any(node.actor.report().breaker is BreakerState.HALF_OPEN for node in world.nodes))
        await trio.sleep(3.5)
        assert len(world.handed) - made == BREAKER.half_open_permits
        no_call_twice(world)


async def test_a_failed_probe_opens_it_again_for_longer(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=20.0) as world:
        node = world.add(lambda _: UNKNOWN, claim_s=0.01)
        world.wait_to_be_sent(1000)
        await trio.sleep(300)
        gaps = [b.at_s - a.at_s for a, b in pairwise(world.handed)]
        rests = [gap for gap in gaps if gap > 5]
        assert len(rests) >= 3
        assert all(later > 1.2 * sooner for sooner, later in pairwise(rests))
        assert node.actor.report().breaker is BreakerState.OPEN


async def test_a_probe_that_is_slow_to_begin_needs_its_permit_still(autojump_clock: object) -> None:
    """Its permit runs out, another supervisor gets it: the late one must not make one call more."""
    async with a_world(rate=1000.0, burst=100.0) as world:
        node = world.add(down_until(1.0), claim_s=0.01)
        world.wait_to_be_sent(200)
        await until(lambda: node.actor.report().breaker is BreakerState.OPEN)
        node.courier.connect_s = 1.2
        made = len(world.handed)
        await until(lambda: node.actor.report().breaker is BreakerState.HALF_OPEN)
        node.actor._hand.grant([Slot(0.0, 1e6)] * 20, 1)  # slots that never pass: only the permit can refuse
        await trio.sleep(5)
        assert len(world.handed) == made
        no_call_twice(world)


async def test_a_permit_whose_call_was_not_made_is_free_again_at_once(autojump_clock: object) -> None:
    async with a_world(rate=1000.0, burst=100.0) as world:
        node = world.add(down_until(1.0), claim_s=0.01)
        world.wait_to_be_sent(200)
        await until(lambda: node.actor.report().breaker is BreakerState.OPEN)
        node.courier.connect_s = 0.3  # each slot passes meanwhile
        made = len(world.handed)
        await until(lambda: node.actor.report().breaker is BreakerState.HALF_OPEN)
        await trio.sleep(1)
        assert len(world.handed) == made
        node.courier.connect_s = 0.0
        await trio.sleep(2)
        assert node.actor.report().breaker is BreakerState.CLOSED


async def test_slow_answers_open_it(autojump_clock: object) -> None:
    async with a_world(breaker=replace(BREAKER, slow_call_s=1.0)) as world:
        node = world.add(latency_s=1.5)
        for _ in range(5):
            await node.deliver(tracked())
        await trio.sleep(2)
        assert world.outcomes() == [Outcome.ACCEPTED] * 5
        assert node.actor.report().breaker is BreakerState.OPEN


async def test_calls_that_ran_on_while_this_process_stood_still_say_nothing_of_the_provider(
    autojump_clock: object,
) -> None:
    async with a_world() as world:
        node = world.add(lambda _: UNKNOWN, latency_s=ScriptedCourier.longest_call_s + 8.0)
        for _ in range(5):
            await node.deliver(tracked())
        await trio.sleep(20)
        assert world.outcomes() == [Outcome.UNKNOWN] * 5
        assert node.actor.report().breaker is BreakerState.CLOSED


@pytest.mark.parametrize(
    "answer",
    [REJECTED, replace(DEFERRED, scope=Scope.MESSAGE), replace(MISCONFIGURED, scope=Scope.MESSAGE), throttled()],
)
async def test_what_is_no_failure_of_the_provider_leaves_it_closed(answer: Answer, autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: answer, claim_s=0.01)
        world.wait_to_be_sent(50)
        await trio.sleep(20)
        assert len(world.finished) == 50
        assert node.actor.report().breaker is BreakerState.CLOSED


async def test_the_rate_ramps_up_after_it_closed(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=10.0) as world:
        node = world.add(down_until(1.0), claim_s=0.01)
        world.wait_to_be_sent(5000)
        await until(lambda: node.actor.report().breaker is BreakerState.OPEN)
        await until(lambda: node.actor.report().breaker is BreakerState.CLOSED)
        closed_s = trio.current_time()
        await trio.sleep(20)
        first = len([h for h in world.handed if closed_s <= h.at_s < closed_s + 2])
        later = len([h for h in world.handed if closed_s + 12 <= h.at_s < closed_s + 14])
        assert first < 80
        assert later > 160


async def test_an_open_breaker_that_was_lost_with_redis_stays_open(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=10.0) as world:
        node = world.add(lambda _: MISCONFIGURED, claim_s=0.01)
        world.wait_to_be_sent(50)
        await trio.sleep(3)
        made = len(world.handed)
        world.redis.flush()
        await trio.sleep(3)
        assert len(world.handed) == made
        assert node.actor.report().breaker is BreakerState.OPEN


async def test_another_supervisor_learns_of_an_open_breaker_before_it_calls(autojump_clock: object) -> None:
    async with a_world() as world:
        first, second = world.add(lambda _: MISCONFIGURED), world.add()
        await first.deliver(tracked())
        await trio.sleep(1)
        await second.deliver(tracked())
        await trio.sleep(1)
        assert second.courier.handed == []
        assert len(second.of(AttemptReleased)) == 1
        assert second.actor.report().breaker is BreakerState.OPEN


# ---------------------------------------------------------------------------------------------- operators


def forced(state: BreakerState, world: World, for_s: float) -> Controls:
    until = world.clock.now() + timedelta(seconds=for_s)
    return Controls(provider=world.settings.name, forced=ForcedBreaker(state=state, until=until))


async def test_forced_open_makes_no_call_until_it_runs_out(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(claim_s=0.01)
        await trio.sleep(0.1)
        await node.control(forced(BreakerState.OPEN, world, 20.0))
        world.wait_to_be_sent(10)
        await trio.sleep(19)
        assert world.handed == []
        assert node.actor.report().breaker is BreakerState.OPEN
        await trio.sleep(3)
        assert len(world.finished) == 10
        assert node.actor.report().breaker is BreakerState.CLOSED


async def test_forced_closed_goes_on_through_failures(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: DEFERRED, claim_s=0.01)
        world.wait_to_be_sent(100)
        await trio.sleep(2)
        assert node.actor.report().breaker is BreakerState.OPEN
        await node.control(forced(BreakerState.CLOSED, world, 60.0))
        await trio.sleep(2)
        assert len(world.finished) == 100
        await node.control(None)
        world.wait_to_be_sent(100)
        await trio.sleep(2)
        assert node.actor.report().breaker is BreakerState.OPEN


async def test_a_pause_stops_it_and_resume_lets_it_go_on(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(claim_s=0.01)
        until = world.clock.now() + timedelta(hours=1)
        await node.control(Controls(provider=world.settings.name, pause=Pause(until=until, reason="test")))
        await trio.sleep(0.1)
        world.wait_to_be_sent(10)
        await trio.sleep(5)
        assert world.handed == []
        blocked = node.desk.blocked(trio.current_time())
        assert blocked is not None
        assert blocked[1] is WaitingFor.PAUSED
        await node.control(None)
        await trio.sleep(1)
        assert len(world.finished) == 10


async def test_a_new_actor_still_knows_what_operators_said(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        await node.control(forced(BreakerState.OPEN, world, 60.0))
        await trio.sleep(0.1)
        node.scope.cancel()
        await node.ended.wait()
        node.build_anew()
        world.nursery.start_soon(node.run)
        await node.deliver(tracked())
        await trio.sleep(1)
        assert node.courier.handed == []
        assert node.actor.report().breaker is BreakerState.OPEN


# ------------------------------------------------------------------------------------------------- batches


async def test_messages_of_one_key_share_a_call_and_its_slot(autojump_clock: object) -> None:
    async with a_world(rate=50.0, burst=50.0, batch=10) as world:
        node = world.add(claim_s=0.01)
        world.wait_to_be_sent(200)
        await trio.sleep(10)
        assert len(world.finished) == 200
        no_call_twice(world)
        sizes = [len(h.calls) for h in node.courier.handed]
        assert max(sizes) == 10
        assert sum(sizes) / len(sizes) > 5
        assert worst_excess(world.handed, 50.0) <= 50 + 1e-6


async def test_test_and_live_messages_and_other_keys_never_share_a_call(autojump_clock: object) -> None:
    async with a_world(rate=1000.0, burst=100.0, batch=10) as world:
        node = world.add(batch_key=lambda message: message.tags or None, claim_s=0.01)
        for i in range(60):
            tags = (("a",), ("b",), ())[i % 3]
            world.waiting.append(tracked(a_message(tags=tags, live=bool(i % 2))))
        await trio.sleep(10)
        assert len(world.finished) == 60
        for handed in node.courier.handed:
            assert len({(c.message.live, c.message.tags) for c in handed.calls}) == 1
            if not handed.calls[0].message.tags:
                assert len(handed.calls) == 1, "without a key it goes alone"


# ------------------------------------------------------------------------------------------------ bad days


async def test_without_redis_no_call_is_made_and_claims_go_back(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=10.0) as world:
        node = world.add()
        await trio.sleep(0.1)
        world.redis.down(True)
        for _ in range(10):
            await node.deliver(tracked())
        await trio.sleep(5)
        assert node.courier.handed == []
        assert len(node.of(AttemptReleased)) == 10
        assert max(at_s for at_s, _ in node.told) <= 2.2


async def test_it_goes_on_by_itself_when_redis_is_back(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=10.0) as world:
        world.add(claim_s=0.01)
        world.redis.down(True)
        world.wait_to_be_sent(100)
        await trio.sleep(10)
        assert world.handed == []
        world.redis.down(False)
        await trio.sleep(5)
        assert len(world.finished) == 100


async def test_lost_replies_of_redis_lose_no_message(autojump_clock: object) -> None:
    async with a_world(rate=100.0, burst=10.0) as world:
        for _ in range(2):
            world.add(down_until(2.0), claim_s=0.01)
        world.wait_to_be_sent(500)
        for _ in range(60):
            world.redis.lose_replies(1)
            await trio.sleep(1)
        await trio.sleep(60)
        assert len(world.finished) == 500
        assert worst_excess(world.handed, 100.0) <= 10 + 1e-6
        no_call_twice(world)


async def test_a_message_that_our_code_cannot_stand_fails_alone(autojump_clock: object) -> None:
    async with a_world() as world:
        poison = tracked(a_message("+919999999999"))

        def answer(call: ProviderCall) -> Answer:
            if call.message.id == poison.message.id:
                raise KeyError("+919999999999")
            return ACCEPTED

        node = world.add(answer)
        for each in (tracked(), poison, tracked()):
            await node.deliver(each)
        await trio.sleep(1)
        by_id = {each.tracked.message.id: each for each in world.finished}
        assert len(by_id) == 3
        failed = by_id.pop(poison.message.id)
        assert failed.internal
        assert failed.answer.outcome is Outcome.UNKNOWN
        assert "+91" not in (failed.answer.detail or "")
        assert [each.answer for each in by_id.values()] == [ACCEPTED, ACCEPTED]


async def test_a_bug_before_the_first_byte_of_a_batch_harms_no_neighbour(autojump_clock: object) -> None:
    async with a_world(batch=10) as world:
        node = world.add()
        poison = tracked(a_message("+919999999999"))
        send = node.courier.send

        async def fragile(calls: list[ProviderCall], begin: object) -> object:
            if any(call.message.id == poison.message.id for call in calls):
                raise KeyError("body")
            return await send(calls, begin)  # type: ignore[arg-type]

        node.courier.send = fragile  # type: ignore[assignment,method-assign]
        for each in (tracked(), poison, tracked(), tracked()):
            await node.deliver(each)
        await trio.sleep(1)
        assert len(world.finished) == 4
        assert [e.tracked.message.id for e in world.finished if e.internal] == [poison.message.id]
        assert len(node.courier.messages) == 3


async def test_a_courier_that_answers_for_too_few_fails_nobody_for_good(autojump_clock: object) -> None:
    async with a_world(batch=10) as world:
        node = world.add()
        send = node.courier.send

        async def short(calls: list[ProviderCall], begin: object) -> object:
            answers = await send(calls, begin)  # type: ignore[arg-type]
            return answers[:1] if len(calls) > 1 else answers

        node.courier.send = short  # type: ignore[assignment,method-assign]
        for _ in range(4):
            await node.deliver(tracked())
        await trio.sleep(1)
        assert {each.answer.outcome for each in world.finished} <= {Outcome.UNKNOWN, Outcome.ACCEPTED}
        assert len(world.finished) == 4
        assert not any(each.internal for each in world.finished)


async def test_draining_gives_unsent_claims_back_and_lets_calls_end(autojump_clock: object) -> None:
    async with a_world(rate=10.0, burst=5.0, concurrency=8) as world:
        node = world.add(latency_s=3.0)
        for _ in range(20):
            await node.deliver(tracked())
        await trio.sleep(0.1)
        in_air = node.courier.in_air
        assert in_air > 0
        node.mailbox.close()
        await trio.sleep(0.1)
        assert len(node.of(AttemptReleased)) == 20 - in_air, "given back at once"
        await node.ended.wait()
        assert trio.current_time() < 4
        assert world.outcomes() == [Outcome.ACCEPTED] * in_air
        assert node.courier.closed == 1


async def test_a_call_that_has_not_begun_when_draining_begins_is_not_made(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(connect_s=0.2)
        await node.deliver(tracked())
        await trio.sleep(0.1)
        node.actor._hand.grant([Slot(0.0, 1e6)], 1)  # only the drain can refuse
        node.mailbox.close()
        await node.ended.wait()
        assert node.courier.handed == []
        assert len(node.of(AttemptReleased)) == 1


async def test_a_question_in_the_air_when_draining_begins_gives_its_claim_back(autojump_clock: object) -> None:
    async with a_world() as world:

        async def ask(_: ProviderCall) -> Settled | None:
            await trio.sleep(1)
            return Settled.NOT_SENT

        node = world.add(ask=ask)
        await node.deliver(unsettled(node))  # type: ignore[arg-type]
        await trio.sleep(0.5)
        node.mailbox.close()
        await node.ended.wait()
        assert len(node.of(AttemptReleased)) == 1
        assert node.desk.held == 0


async def test_an_idle_actor_drains_at_once(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        await trio.sleep(1)
        node.mailbox.close()
        await node.ended.wait()
        assert trio.current_time() == 1
        assert node.courier.closed == 1


async def test_a_hard_stop_reports_calls_in_the_air_as_unknown(autojump_clock: object) -> None:
    async with a_world(concurrency=4) as world:
        node = world.add(latency_s=60.0)
        for _ in range(10):
            await node.deliver(tracked(a_message(priority=Priority.URGENT)))
        await trio.sleep(0.5)
        node.scope.cancel()
        await node.ended.wait()
        assert trio.current_time() < 1
        assert world.outcomes() == [Outcome.UNKNOWN] * 4
        assert len(node.of(AttemptReleased)) == 6
        assert node.courier.closed == 1


async def test_a_hard_stop_waits_only_so_long_for_a_journal_that_takes_nothing(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(latency_s=60.0)
        await node.deliver(tracked())
        await trio.sleep(0.5)
        node.journal_open = trio.Event()
        node.scope.cancel()
        await node.ended.wait()
        assert trio.current_time() < 10


async def test_a_full_journal_holds_calls_back_and_loses_no_outcome(autojump_clock: object) -> None:
    async with a_world(concurrency=4) as world:
        node = world.add(claim_s=0.01)
        node.journal_open = trio.Event()
        world.wait_to_be_sent(50, Priority.URGENT)
        await trio.sleep(1)
        made = len(node.courier.handed)
        assert made <= 2 * 4 + 1, "those in the air when it was found to be full, and those before them"
        await trio.sleep(19)
        assert len(node.courier.handed) == made
        node.journal_open.set()
        await trio.sleep(20)
        assert len(world.finished) == 50
        no_call_twice(world)


async def test_a_crash_gives_back_what_was_unsent_and_the_next_actor_goes_on(autojump_clock: object) -> None:
    async with a_world(rate=10.0, burst=2.0) as world:
        node = world.add(run=False, latency_s=1.0)

        async def crashing() -> None:
            with pytest.raises(ExceptionGroup):
                await node.run()
            node.build_anew()
            await node.run()

        world.nursery.start_soon(crashing)
        room = node.desk.room(Priority.URGENT)
        for _ in range(8):
            await node.deliver(tracked())
        await trio.sleep(0.2)

        def broken(*_: object) -> None:
            raise RuntimeError("ours")

        node.actor._accord._publish = broken  # type: ignore[method-assign,assignment]
        await trio.sleep(3)
        ended = [*node.of(AttemptFinished), *node.of(AttemptReleased)]
        assert len(ended) == 8
        assert node.courier.closed == 0, "the next one uses it"
        assert node.desk.room(Priority.URGENT) == room
        await node.deliver(each := tracked())
        await trio.sleep(2)
        assert node.courier.messages[-1] == each.message.id


# ------------------------------------------------------------------------------------- earlier attempts


def unsettled(node: Node, number: int = 1) -> object:
    return tracked(attempts=number, unsettled=number, unsettled_provider=node.world.settings.name)


@pytest.mark.parametrize(
    ("told", "calls", "settles"),
    [(Settled.ACCEPTED, 0, None), (Settled.NOT_SENT, 1, (1, Settled.NOT_SENT)), (None, 1, None)],
)
async def test_an_attempt_without_an_answer_is_asked_about_before_another_call(
    told: Settled | None, calls: int, settles: object, autojump_clock: object
) -> None:
    async with a_world() as world:

        async def ask(_: ProviderCall) -> Settled | None:
            await trio.sleep(0.2)
            return told

        node = world.add(ask=ask)
        await node.deliver(unsettled(node))  # type: ignore[arg-type]
        await trio.sleep(2)
        assert [call.number for call in node.courier.asked] == [1]
        assert len(node.courier.handed) == calls
        if calls:
            (finished,) = world.finished
            assert (finished.number, finished.settles) == (2, settles)
        else:
            (settled,) = node.of(EarlierSettled)
            assert (settled.number, settled.settled_number) == (2, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize(("taken", "asked", "calls"), [(1, [1], 0), (2, [1, 2], 0), (None, [1, 2], 1)])
async def test_all_attempts_without_an_answer_are_asked_about(
    taken: int | None, asked: list[int], calls: int, autojump_clock: object
) -> None:
    async with a_world() as world:

        async def ask(call: ProviderCall) -> Settled | None:
            await trio.lowlevel.checkpoint()
            return Settled.ACCEPTED if call.number == taken else Settled.NOT_SENT

        node = world.add(ask=ask)
        await node.deliver(tracked(attempts=2, unsettled=1, unsettled_provider=world.settings.name))
        await trio.sleep(1)
        assert [call.number for call in node.courier.asked] == asked
        assert len(node.courier.handed) == calls
        assert [word.settled_number for word in world.settled] == ([taken] if taken else [])
        if calls:
            assert [word.settles for word in world.finished] == [(2, Settled.NOT_SENT)]


async def test_an_attempt_that_was_refused_after_all_is_not_repeated(autojump_clock: object) -> None:
    async with a_world() as world:

        async def ask(_: ProviderCall) -> Settled | None:
            await trio.lowlevel.checkpoint()
            return Settled.REJECTED

        node = world.add(ask=ask)
        await node.deliver(unsettled(node))  # type: ignore[arg-type]
        await trio.sleep(1)
        (finished,) = world.finished
        assert (finished.answer.outcome, finished.settles) == (Outcome.REJECTED, (1, Settled.REJECTED))
        assert node.courier.handed == []


@pytest.mark.parametrize("fields", [{"unknown": UnknownRule.RETRY}, {"unknown": UnknownRule.ASK, "can_ask": False}])
async def test_without_a_way_to_ask_it_calls_again(fields: dict[str, object], autojump_clock: object) -> None:
    async with a_world(unknown=fields["unknown"]) as world:
        node = world.add(can_ask=fields.get("can_ask", True))
        await node.deliver(unsettled(node))  # type: ignore[arg-type]
        await trio.sleep(1)
        assert node.courier.asked == []
        assert len(node.courier.handed) == 1


async def test_asking_that_outlasts_the_claim_still_comes_to_an_end(autojump_clock: object) -> None:
    async with a_world() as world:

        async def ask(_: ProviderCall) -> Settled | None:
            await trio.sleep_forever()
            return None

        node = world.add(ask=ask, claim_s=0.01)
        world.waiting.append(unsettled(node))  # type: ignore[arg-type]
        await trio.sleep(10)
        assert len(node.courier.asked) == 1
        assert len(world.finished) == 1


async def test_an_open_breaker_is_not_asked_either(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        await node.control(forced(BreakerState.OPEN, world, 60.0))
        await node.deliver(unsettled(node))  # type: ignore[arg-type]
        await trio.sleep(1)
        assert node.courier.asked == []
        assert len(node.of(AttemptReleased)) == 1


async def test_a_question_can_be_the_only_demand_that_brings_a_provider_back(autojump_clock: object) -> None:
    async with a_world() as world:

        async def ask(_: ProviderCall) -> Settled | None:
            await trio.sleep(0.1)
            return Settled.NOT_SENT

        node = world.add(down_until(1.0), ask=ask, claim_s=0.01)
        world.wait_to_be_sent(10)
        await trio.sleep(5)
        assert node.actor.report().breaker is BreakerState.OPEN
        world.waiting.clear()
        world.waiting.extend(unsettled(node) for _ in range(5))  # type: ignore[misc]
        await trio.sleep(60)
        assert node.actor.report().breaker is BreakerState.CLOSED
        assert world.waiting == world.waiting.__class__()


# ------------------------------------------------------------------------------------------------- metrics


async def test_metrics_count_what_happened(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: MISCONFIGURED)
        await node.deliver(tracked())
        await trio.sleep(1)
        name = world.settings.name
        value = node.registry.get_sample_value
        assert value("heliograph_attempts_total", {"provider": name, "outcome": "misconfigured"}) == 1
        assert value("heliograph_attempt_duration_seconds_count", {"provider": name}) == 1
        assert value("heliograph_breaker_state", {"provider": name}) == 2
        assert value("heliograph_breaker_transitions_total", {"provider": name, "to": "open"}) == 1
        assert value("heliograph_limiter_wait_seconds_count", {"provider": name}) == 1
        assert value("heliograph_limiter_rate", {"provider": name}) == 1000


async def test_parts_are_counted_for_what_was_taken(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add()
        await node.deliver(tracked(a_message(parts=3)))
        await trio.sleep(1)
        assert node.registry.get_sample_value("heliograph_message_parts_total", {"provider": "sandbox"}) == 3


@pytest.mark.parametrize(
    ("outcome", "parts"), [(outcome, 3 if outcome is Outcome.ACCEPTED else 0) for outcome in Outcome]
)
async def test_parts_are_counted_for_nothing_else(outcome: Outcome, parts: int, autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(lambda _: Answer(outcome=outcome))
        await node.deliver(tracked(a_message(parts=3)))
        await trio.sleep(1)
        assert node.registry.get_sample_value("heliograph_message_parts_total", {"provider": "sandbox"}) == parts


async def test_parts_are_counted_for_what_proves_to_have_been_taken(autojump_clock: object) -> None:
    async with a_world() as world:

        async def ask(_: ProviderCall) -> Settled | None:
            return Settled.ACCEPTED

        node = world.add(ask=ask)
        await node.deliver(tracked(a_message(parts=3), attempts=1, unsettled=1, unsettled_provider=world.settings.name))
        await trio.sleep(1)
        assert node.courier.handed == []
        assert node.registry.get_sample_value("heliograph_message_parts_total", {"provider": "sandbox"}) == 3


async def test_the_report_tells_what_was_handed_over(autojump_clock: object) -> None:
    async with a_world() as world:
        node = world.add(claim_s=0.01, latency_s=2.0)
        world.wait_to_be_sent(10)
        await trio.sleep(1)
        report = node.actor.report()
        assert (report.in_flight, report.handled, report.breaker) == (10, 10, BreakerState.CLOSED)
        await trio.sleep(70)
        assert (node.actor.report().in_flight, node.actor.report().handled) == (0, 0)


# ------------------------------------------------------------------------------------------ anything at all


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_nothing_is_lost_doubled_or_too_fast(seed: int, autojump_clock: object) -> None:
    """Three supervisors, a provider with moods, and a Redis that goes away, forgets and loses replies."""
    chance = random.Random(seed)

    def moody(_: ProviderCall) -> Answer:
        if trio.current_time() > 60.0:
            return ACCEPTED
        if trio.current_time() % 20 < 4:
            return DEFERRED
        return chance.choice([ACCEPTED] * 6 + [REJECTED, DEFERRED, UNKNOWN, throttled(), throttled(0.5)])

    async with a_world(rate=60.0, burst=8.0, concurrency=6) as world:
        for _ in range(3):
            world.add(moody, claim_s=0.01, latency_s=lambda _: chance.expovariate(10))
        for priority in Priority:
            world.wait_to_be_sent(300, priority)
        while trio.current_time() < 60.0:
            await trio.sleep(chance.uniform(0.5, 4.0))
            match chance.randrange(5):
                case 0:
                    world.redis.flush()
                case 1:
                    world.redis.lose_replies(chance.randrange(1, 5))
                case 2:
                    world.redis.down(True)
                    await trio.sleep(chance.uniform(0.1, 3.0))
                    world.redis.down(False)
                case 3:
                    node = chance.choice(world.nodes)
                    node.scope.cancel()
                    await node.ended.wait()
                    node.build_anew()
                    world.nursery.start_soon(node.run)
                case _:
                    world.redis.replace(world.redis.snapshot())
        await trio.sleep(120)
        assert len(world.finished) == 900
        world.wait_to_be_sent(100)  # an open breaker closes by demand
        await trio.sleep(60)
        assert len(world.finished) == 1000
        assert all(node.desk.held == 0 for node in world.nodes)
        assert {node.actor.report().breaker for node in world.nodes} == {BreakerState.CLOSED}
        assert worst_excess(world.handed, 60.0) <= 8.0 + 1e-6
        no_call_twice(world)
