"""The census in virtual time: read at most once a second, never crashed by an outage, true in its gauges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import pytest
import trio

from heliograph.actors.census import COUNT_TO, Ask, Census
from heliograph.actors.kernel.actor import Inbox, Mailbox
from heliograph.actors.model.errors import LedgerDown, QueueDown
from heliograph.actors.model.message import LANES, Channel, Lane, Priority, Reason, State
from heliograph.actors.model.stats import Stats
from heliograph.actors.ports.ledger import Census as Counts
from heliograph.actors.ports.ledger import StatsLedger
from tests.support.stage import Stage

NORMAL = Lane(Channel.SMS, Priority.NORMAL)


class Looks:
    """The stage's ledger, with its looks counted; `due` is what it says is due in the normal lane, `drift_s` how long
    the drift takes."""

    def __init__(self, ledger: StatsLedger) -> None:
        self._ledger = ledger
        self.censuses = 0
        self.drifts = 0
        self.due: int | None = None
        self.drift_s = 0.0

    async def census(self, *, count_to: int = 10_000) -> Counts:
        self.censuses += 1
        counts = await self._ledger.census(count_to=count_to)
        return counts if self.due is None else replace(counts, due={**counts.due, NORMAL: self.due})

    async def drift(self) -> int:
        self.drifts += 1
        await trio.sleep(self.drift_s)
        return await self._ledger.drift()


async def no_depths() -> Mapping[Lane, int]:
    return dict.fromkeys(LANES, 0)


async def start(
    stage: Stage, looks: StatsLedger, depths: Callable[[], Awaitable[Mapping[Lane, int]]] = no_depths
) -> Mailbox[Ask]:
    mailbox, _ = await stage.start("census", lambda: Census(looks, depths, clock=stage.clock, metrics=stage.metrics))
    return mailbox


async def ask(mailbox: Mailbox[Ask]) -> Stats:
    return await mailbox.ref.ask(Ask, timeout_s=5)


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


async def test_stats_name_every_state_and_lane(stage: Stage, autojump_clock: object) -> None:
    await stage.accept(3)
    await stage.accept(2, in_s=600.0)
    stats = await ask(await start(stage, stage.ledger.stats))
    assert stats.messages[Channel.SMS, State.QUEUED] == 3
    assert stats.messages[Channel.SMS, State.SCHEDULED] == 2
    assert set(stats.messages) == {(c, s) for c in Channel for s in State}
    assert stats.depth == {lane: 3 if lane == NORMAL else 0 for lane in LANES}
    assert stats.oldest_age_s[NORMAL] == 0


async def test_many_askers_in_one_second_are_one_look(stage: Stage, autojump_clock: object) -> None:
    looks = Looks(stage.ledger.stats)
    mailbox = await start(stage, looks)
    await ask(mailbox)
    looks.censuses = 0
    await trio.sleep(2)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask, mailbox)
    await trio.sleep(0.9)
    await ask(mailbox)
    assert looks.censuses == 1
    await trio.sleep(0.2)
    await ask(mailbox)
    assert looks.censuses == 2


async def test_an_answer_is_at_most_a_second_old(stage: Stage, autojump_clock: object) -> None:
    mailbox = await start(stage, stage.ledger.stats)
    await ask(mailbox)
    await stage.accept()
    await trio.sleep(1.01)
    assert (await ask(mailbox)).messages[Channel.SMS, State.QUEUED] == 1


async def test_rates_are_per_second_over_the_last_minute(stage: Stage, autojump_clock: object) -> None:
    mailbox = await start(stage, stage.ledger.stats)
    for _ in range(60):
        await stage.accept(4)
        await trio.sleep(1)
    assert (await ask(mailbox)).rates == {"accepted": pytest.approx(4, rel=0.1), "sent": 0, "failed": 0}
    await trio.sleep(70)
    assert (await ask(mailbox)).rates["accepted"] == 0


async def test_failures_have_a_rate_and_a_gauge(stage: Stage, autojump_clock: object) -> None:
    mailbox = await start(stage, stage.ledger.stats)
    await ask(mailbox)
    hints = await stage.accept(12)
    await stage.ledger.delivery.give_up(
        [h.message_id for h in hints], reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=None
    )
    await trio.sleep(30)
    stats = await ask(mailbox)
    assert stats.dead_letters[Reason.NO_ROUTE] == 12
    assert 0 < stats.rates["failed"] <= 12 / 25
    assert stage.registry.get_sample_value("heliograph_dead_letters", {"reason": "no_route"}) == 12
    assert stage.registry.get_sample_value("heliograph_dead_letters", {"reason": "poison"}) == 0
    assert stage.registry.get_sample_value("heliograph_dead_letters", {"reason": "no_receipt"}) is None


async def test_the_gauges_follow_although_nobody_asks(stage: Stage, autojump_clock: object) -> None:
    await start(stage, stage.ledger.stats)
    await stage.accept(3)
    await trio.sleep(20)
    labels = {"queue": "sms:normal"}
    assert stage.registry.get_sample_value("heliograph_queue_depth", labels) == 3
    age_s = stage.registry.get_sample_value("heliograph_queue_oldest_age_seconds", labels)
    assert age_s == pytest.approx(20, abs=6)


async def test_a_lane_too_long_to_count_is_told_by_the_queue(stage: Stage, autojump_clock: object) -> None:
    looks = Looks(stage.ledger.stats)
    looks.due = COUNT_TO

    async def depths() -> Mapping[Lane, int]:
        return dict.fromkeys(LANES, 1000000)

    stats = await ask(await start(stage, looks, depths))
    assert stats.depth == {lane: 1_000_000 if lane == NORMAL else 0 for lane in LANES}


async def test_without_the_queue_what_was_counted_stands(stage: Stage, autojump_clock: object) -> None:
    looks = Looks(stage.ledger.stats)
    looks.due = COUNT_TO

    async def depths() -> Mapping[Lane, int]:
        raise QueueDown("Redis gave no answer")

    assert (await ask(await start(stage, looks, depths))).depth[NORMAL] == COUNT_TO


async def test_an_outage_fails_the_asker_and_not_the_census(stage: Stage, autojump_clock: object) -> None:
    mailbox = await start(stage, stage.ledger.stats)
    await ask(mailbox)
    stage.ledger_down = True
    await trio.sleep(100)
    with pytest.raises(LedgerDown):
        await ask(mailbox)
    stage.ledger_down = False
    await stage.accept()
    assert (await ask(mailbox)).messages[Channel.SMS, State.QUEUED] == 1


@pytest.mark.parametrize(("takes_s", "times"), [(1.0, 5), (30.0, 1)])
async def test_drift_is_read_once_a_minute_or_more_rarely_where_it_takes_long_and_nobody_waits_for_it(
    stage: Stage, autojump_clock: object, takes_s: float, times: int
) -> None:
    looks = Looks(stage.ledger.stats)
    looks.drift_s = takes_s
    mailbox = await start(stage, looks)
    await trio.sleep(0.5)
    with trio.fail_after(1):
        await ask(mailbox)
    assert stage.registry.get_sample_value("heliograph_accounting_drift") == 0
    await trio.sleep(280)
    assert looks.drifts == times


async def test_told_to_finish_it_does_so_at_once(stage: Stage, autojump_clock: object) -> None:
    mailbox: Mailbox[Ask] = Mailbox("census", 10, stage.clock)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        census = Census(stage.ledger.stats, no_depths, clock=stage.clock, metrics=stage.metrics)
        nursery.start_soon(census.run, Inbox(mailbox))
        await ask(mailbox)
        mailbox.close()
    assert trio.current_time() == began_s
