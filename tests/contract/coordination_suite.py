"""What every coordination must do: run on the one in memory and on real Redis."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

import pytest
import trio

from heliograph.actors.model.errors import QueueDown
from heliograph.actors.model.provider import BreakerState, Quota
from heliograph.actors.policy.bucket import HORIZON_S, BucketShape, shape
from heliograph.actors.policy.quota import KEPT, PARTS
from heliograph.actors.ports.coordination import (
    LOST,
    BreakerRecord,
    Coordination,
    QuotaAsk,
    QuotaWord,
    Reservation,
    Verdict,
)
from tests.support.eventually import eventually

QUICK: Final = BucketShape(0.001, 5.0)
SOON_S: Final = 10.0
HALF_OPEN: Final = BreakerRecord(epoch=1, state=BreakerState.HALF_OPEN, since_s=0.0, until_in_s=0.0, openings=1)
OPEN: Final = replace(HALF_OPEN, state=BreakerState.OPEN, until_in_s=60.0)


class CoordinationWorld(Protocol):
    """A server, and what may happen to it. Each coordination it makes is another supervisor's."""

    async def coordination(self, supervisor: str) -> Coordination: ...

    async def flush(self) -> None: ...

    async def replace(self) -> None: ...

    def down(self, is_down: bool) -> None: ...

    def boot_s(self) -> float: ...


async def ask(coordination: Coordination, *, want: int = 4, cost: float = 1, name: str = "p") -> Reservation:
    return await coordination.reserve(name, QUICK, want=want, cost=cost, horizon_s=HORIZON_S)


async def filled(coordination: Coordination, boot_s: Callable[[], float], name: str = "p") -> None:
    """Wait until the bucket, lost or never used, gives slots that open at once."""

    async def opens_at_once() -> bool:
        return any(s.opens_s < boot_s() + 0.02 for s in (await ask(coordination, want=1, name=name)).slots)

    await eventually(opens_at_once)


async def half_open(coordination: Coordination, epoch: int = 1) -> None:
    record = replace(HALF_OPEN, epoch=epoch)
    assert (await coordination.change("p", expected_epoch=epoch - 1, record=record)).epoch == epoch


def worst_excess(moments: list[float], rate: float) -> float:
    """The most, over all windows, of calls less rate x T."""
    worst, best_start = 0.0, float("-inf")
    for index, moment in enumerate(sorted(moments)):
        best_start = max(best_start, rate * moment - index)
        worst = max(worst, index + 1 - rate * moment + best_start)
    return worst


QUOTA: Final = Quota(10, 3600.0)
FRESH: Final = BucketShape(0.0001, 100.0)


async def within(coordination: Coordination, quota: Quota = QUOTA, *, want: int = 4, **more: object) -> Reservation:
    """Slots from a bucket that never runs dry, within the quota."""
    fields: dict[str, Any] = {"allowed": quota.limit, **more}
    cost = fields.pop("cost", 1)
    ask = QuotaAsk(quota, **fields)
    return await coordination.reserve("p", FRESH, want=want, cost=cost, horizon_s=HORIZON_S, quota=ask)


async def counted(world: CoordinationWorld, *names: str, quota: Quota = QUOTA) -> list[Coordination]:
    """Coordinations of supervisors, with a full bucket and nothing used of the quota."""
    made = [await world.coordination(name) for name in names]
    await made[0].seed("p", quota, [])

    async def opens_at_once() -> bool:
        found = await made[0].reserve("p", FRESH, want=1, cost=1, horizon_s=HORIZON_S)
        return any(s.opens_s < world.boot_s() + 0.02 for s in found.slots)

    await eventually(opens_at_once)
    return made


def used(reservation: Reservation) -> int:
    assert isinstance(reservation.quota, QuotaWord)
    return reservation.quota.used


class QuotaSuite:
    async def test_without_a_count_nobody_gets_a_slot_until_one_is_given(self, world: CoordinationWorld):
        (first,) = await counted(world, "a", quota=Quota(10, 60.0))
        assert await first.used("p", QuotaAsk(QUOTA, 0)) is LOST
        lost = await within(first)
        assert (lost.slots, lost.quota) == ((), LOST)
        await first.seed("p", QUOTA, [3, 0, 4])
        second = await world.coordination("b")
        await second.seed("p", QUOTA, [])
        assert await second.used("p", QuotaAsk(QUOTA, 0)) == 7
        told = await within(second, want=8)
        assert (len(told.slots), used(told)) == (3, 10)

    async def test_the_quota_is_one_for_all_and_never_exceeded(self, world: CoordinationWorld):
        first, second = await counted(world, "a", "b")
        assert used(await within(first, want=6)) == 6
        told = await within(second, want=6)
        assert (len(told.slots), used(told)) == (4, 10)
        shut = await within(first, want=6)
        assert shut.slots == ()
        assert isinstance(shut.quota, QuotaWord)
        assert QUOTA.window_s < shut.quota.opens_in_s <= QUOTA.window_s * (1 + 2 / PARTS) + 5

    async def test_recipients_are_counted_and_not_calls(self, world: CoordinationWorld):
        (coordination,) = await counted(world, "a")
        told = await within(coordination, cost=4)
        assert (len(told.slots), used(told)) == (2, 8)
        assert len((await within(coordination, cost=1)).slots) == 2

    async def test_a_part_can_be_kept_for_others(self, world: CoordinationWorld):
        first, second = await counted(world, "a", "b")
        assert len((await within(first, want=20, allowed=8)).slots) == 8
        assert (await within(second, want=20, allowed=8)).slots == ()
        assert len((await within(second, want=20)).slots) == 2

    async def test_what_was_not_used_can_be_given_back(self, world: CoordinationWorld):
        (coordination,) = await counted(world, "a")
        told = await within(coordination, want=10)
        assert isinstance(told.quota, QuotaWord)
        assert told.quota.counted == 10
        again = await within(
            coordination, want=10, made=told.quota.made, unused={told.quota.part: 3, told.quota.part - KEPT: 5}
        )
        assert (len(again.slots), used(again)) == (3, 10)
        assert await coordination.used("p", QuotaAsk(QUOTA, 0, told.quota.made, {told.quota.part: 4})) == 6
        stale = QuotaAsk(QUOTA, 0, told.quota.made - 1, {told.quota.part: 4})
        assert await coordination.used("p", stale) == 6, "counted by a count that was lost"

    async def test_a_paused_provider_uses_nothing_up(self, world: CoordinationWorld):
        (coordination,) = await counted(world, "a")
        await coordination.pause("p", for_s=60.0)
        told = await within(coordination)
        assert (told.slots, used(told)) == ((), 0)

    @pytest.mark.parametrize("loss", ["flush", "replace"])
    async def test_a_server_that_lost_its_count_says_so(self, world: CoordinationWorld, loss: str):
        (coordination,) = await counted(world, "a")
        await within(coordination)
        await (world.flush() if loss == "flush" else world.replace())
        with suppress(QueueDown):
            await coordination.record("p")  # the connection to the former one is gone
        assert await coordination.used("p", QuotaAsk(QUOTA, 0)) is LOST
        assert (await within(coordination)).quota is LOST

    async def test_no_window_holds_more_than_the_quota(self, world: CoordinationWorld):
        quota = Quota(30, 0.5)
        calls: list[float] = []

        async def work(coordination: Coordination) -> None:
            unused: dict[int, int] = {}
            made = 0
            while True:
                told = await within(coordination, quota, want=7, made=made, unused=unused)
                assert isinstance(told.quota, QuotaWord)
                made = told.quota.made
                unused = {}
                for number, slot in enumerate(told.slots):
                    if number % 3 == 2:
                        unused[told.quota.part] = unused.get(told.quota.part, 0) + 1
                        continue
                    await trio.sleep(max(0.0, slot.opens_s - world.boot_s()))
                    calls.append(world.boot_s())
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for coordination in await counted(world, "a", "b", "c", quota=quota):
                nursery.start_soon(work, coordination)
            await trio.sleep(4)
            nursery.cancel_scope.cancel()
        calls.sort()
        for index, moment in enumerate(calls):
            assert sum(1 for later in calls[index:] if later < moment + quota.window_s) <= quota.limit
        assert len(calls) > 2 * quota.limit


class CoordinationSuite(QuotaSuite):
    async def test_a_bucket_that_is_missing_counts_as_just_spent(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        first = await ask(coordination)
        assert first.slots == ()
        assert 0 < first.next_in_s <= HORIZON_S
        assert (first.record, first.paused_for_s) == (None, 0.0)
        await filled(coordination, world.boot_s)

    async def test_slots_are_as_many_as_wanted_in_order_and_open_only_for_a_short_while(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await filled(coordination, world.boot_s)
        found = (await ask(coordination, want=30)).slots
        assert len(found) == 30
        assert sorted(found, key=lambda slot: slot.opens_s) == list(found)
        assert all(slot.closes_s - slot.opens_s <= QUICK.lateness_s + 1e-6 for slot in found)
        assert found[-1].opens_s - found[0].opens_s >= (30 - QUICK.burst - 1) * QUICK.interval_s

    async def test_two_supervisors_share_one_bucket_and_providers_do_not(self, world: CoordinationWorld):
        first, second = await world.coordination("a"), await world.coordination("b")
        await filled(first, world.boot_s)
        await filled(first, world.boot_s, "other")
        await second.record("p")  # to connect takes as long as some slots need
        empty_at_s = world.boot_s()
        while (await ask(first, want=64)).slots:
            empty_at_s = world.boot_s()
        slots = (await ask(second, want=64)).slots
        assert len(slots) < 32 + (world.boot_s() - empty_at_s) / QUICK.interval_s
        assert len((await ask(second, want=64, name="other")).slots) == 64

    async def test_a_slot_that_costs_more_is_paid_for(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await filled(coordination, world.boot_s)
        found = (await ask(coordination, want=10, cost=5)).slots
        assert found[-1].opens_s - found[0].opens_s >= (9 * 5 - 5) * QUICK.interval_s - 1e-4
        with pytest.raises(ValueError, match="does not fit"):
            await ask(coordination, cost=6)

    async def test_nobody_gets_a_slot_while_the_provider_is_paused(self, world: CoordinationWorld):
        first, second = await world.coordination("a"), await world.coordination("b")
        await filled(first, world.boot_s)
        await first.pause("p", for_s=600.0)
        await second.pause("p", for_s=5.0)
        told = await ask(second)
        assert told.slots == ()
        assert told.paused_for_s == told.next_in_s == pytest.approx(600.0, abs=SOON_S)
        assert (await second.record("p"))[1] == pytest.approx(600.0, abs=SOON_S)
        assert (await ask(first, name="other")).paused_for_s == 0.0
        await second.pause("p", for_s=0.0)
        assert (await ask(first)).slots
        assert await first.record("p") == (None, 0.0)

    async def test_a_pause_ends_by_itself(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await filled(coordination, world.boot_s)
        await coordination.pause("p", for_s=0.05)
        assert (await ask(coordination)).slots == ()
        await filled(coordination, world.boot_s)

    async def test_a_record_is_changed_by_whoever_knows_its_epoch(self, world: CoordinationWorld):
        first, second = await world.coordination("a"), await world.coordination("b")
        opened = replace(OPEN, openings=3, refused="a1b2")
        for told in (
            await first.change("p", expected_epoch=0, record=opened),
            await second.change("p", expected_epoch=0, record=replace(HALF_OPEN, epoch=7)),
            (await ask(second)).record,
        ):
            assert told is not None
            assert (told.epoch, told.state, told.openings, told.refused) == (1, BreakerState.OPEN, 3, "a1b2")
            assert told.until_in_s == pytest.approx(60.0, abs=SOON_S)
            assert 0 <= told.since_s < SOON_S
        assert (await second.change("p", expected_epoch=1, record=replace(HALF_OPEN, epoch=2))).epoch == 2
        assert (await first.record("other"))[0] is None

    async def test_a_lost_record_answers_the_epoch_0_and_is_written_by_one_who_expects_that(
        self, world: CoordinationWorld
    ):
        coordination = await world.coordination("a")
        await coordination.change("p", expected_epoch=0, record=OPEN)
        await world.flush()
        assert (await coordination.change("p", expected_epoch=1, record=replace(OPEN, epoch=2))).epoch == 0
        assert (await coordination.record("p"))[0] is None
        assert (await coordination.change("p", expected_epoch=0, record=replace(OPEN, epoch=2))).epoch == 2

    async def test_an_open_breaker_gives_nobody_a_slot_and_a_half_open_one_does(self, world: CoordinationWorld):
        first, second = await world.coordination("a"), await world.coordination("b")
        await filled(first, world.boot_s)
        await first.change("p", expected_epoch=0, record=OPEN)
        told = await ask(second)
        assert told.slots == ()
        assert told.next_in_s == pytest.approx(60.0, abs=SOON_S)
        await second.change("p", expected_epoch=1, record=replace(HALF_OPEN, epoch=2))
        assert (await ask(first)).slots

    async def test_no_more_than_the_permits_are_given_out_in_the_whole_cluster(self, world: CoordinationWorld):
        members = [await world.coordination(name) for name in "abcd"]
        await half_open(members[0])
        given: list[str] = []

        async def probe(coordination: Coordination) -> None:
            for _ in range(5):
                permit = await coordination.permit("p", epoch=1, most=3, ttl_s=60.0)
                given.extend([permit] if permit else [])

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(probe, member)
        assert len(set(given)) == len(given) == 3
        record = (await members[0].record("p"))[0]
        assert record is not None
        assert record.permits_out == 3

    async def test_only_a_permit_that_was_returned_is_given_out_again(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await half_open(coordination)

        async def permit() -> str | None:
            return await coordination.permit("p", epoch=1, most=3, ttl_s=60.0)

        async def close(permit: str | None, verdict: Verdict) -> tuple[int, int]:
            assert permit is not None
            record = await coordination.close_permit("p", epoch=1, permit=permit, verdict=verdict)
            assert record is not None
            return record.permits_out, record.successes

        first, second, third = await permit(), await permit(), await permit()
        assert await close(first, Verdict.SUCCESS) == (2, 1)
        assert await close(first, Verdict.SUCCESS) == (2, 1), "a permit ends once"
        assert await close(second, Verdict.FAILURE) == (1, 1)
        assert await permit() is None
        assert await close(third, Verdict.RETURNED) == (0, 1)
        fourth = await permit()
        assert await close(fourth, Verdict.SUCCESS) == (0, 2)
        assert await permit() is None

    async def test_a_permit_runs_out_by_itself(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await half_open(coordination)
        held = await coordination.permit("p", epoch=1, most=1, ttl_s=0.05)
        assert held is not None
        got: list[str] = []

        async def another_is_given() -> bool:
            permit = await coordination.permit("p", epoch=1, most=1, ttl_s=60.0)
            got.extend([permit] if permit else [])
            return bool(got)

        await eventually(another_is_given)
        late = await coordination.close_permit("p", epoch=1, permit=held, verdict=Verdict.SUCCESS)
        assert late is not None
        assert (late.permits_out, late.successes) == (1, 0), "what ran out counts for nothing"

    async def test_permits_and_verdicts_of_another_epoch_count_for_nothing(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        assert await coordination.permit("p", epoch=0, most=3, ttl_s=60.0) is None
        await half_open(coordination)
        old = await coordination.permit("p", epoch=1, most=1, ttl_s=60.0)
        assert old is not None
        assert await coordination.permit("p", epoch=2, most=1, ttl_s=60.0) is None
        await half_open(coordination, epoch=2)
        assert await coordination.close_permit("p", epoch=1, permit=old, verdict=Verdict.SUCCESS) is None
        assert await coordination.permit("p", epoch=1, most=1, ttl_s=60.0) is None
        assert await coordination.permit("p", epoch=2, most=1, ttl_s=60.0) is not None
        record = (await coordination.record("p"))[0]
        assert record is not None
        assert (record.permits_out, record.successes) == (1, 0)
        await world.flush()
        assert await coordination.close_permit("p", epoch=2, permit=old, verdict=Verdict.FAILURE) is None

    async def test_permits_are_for_a_half_open_breaker_only(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await coordination.change("p", expected_epoch=0, record=OPEN)
        assert await coordination.permit("p", epoch=1, most=3, ttl_s=60.0) is None

    async def test_a_server_that_is_away_is_said_to_be_down_and_is_found_again(self, world: CoordinationWorld):
        coordination = await world.coordination("a")
        await filled(coordination, world.boot_s)
        world.down(True)
        for call in (lambda: ask(coordination), lambda: coordination.record("p")):
            with pytest.raises(QueueDown):
                await call()
        world.down(False)
        await filled(coordination, world.boot_s)

    @pytest.mark.parametrize("loss", ["nothing", "flush", "replace"])
    @pytest.mark.parametrize(("rate", "burst"), [(200.0, 20.0), (50.0, 1.0)])
    async def test_no_window_holds_more_than_the_rate_and_the_burst(
        self, world: CoordinationWorld, rate: float, burst: float, loss: str
    ):
        bucket = shape(rate, burst)
        calls: list[float] = []

        async def work(coordination: Coordination) -> None:
            while True:
                try:
                    told = await coordination.reserve("p", bucket, want=8, cost=1, horizon_s=HORIZON_S)
                except QueueDown:  # its connection went with the old server
                    await trio.sleep(0.01)
                    continue
                for slot in told.slots:
                    await trio.sleep(max(0.0, slot.opens_s - world.boot_s()))
                    if slot.opens_s <= (now := world.boot_s()) < slot.closes_s:
                        calls.append(now)
                await trio.sleep(max(0.001, 0 if told.slots else told.next_in_s))

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(work, await world.coordination(name))
            await trio.sleep(0.8)

            async def more() -> bool:
                return len(calls) > before

            before = 5  # a limiter that lets nothing through keeps any bound
            await eventually(more)
            before = len(calls)
            if loss == "flush":
                await world.flush()
            elif loss == "replace":
                await world.replace()
            await trio.sleep(0.8)
            await eventually(more)
            nursery.cancel_scope.cancel()
        assert worst_excess(calls, rate) <= burst + 1e-6
