"""The reaper in virtual time: overdue attempts are closed, once, and owners get their chance first."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
import trio

from heliograph.actors.kernel.actor import Mailbox
from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.message import Reason, State, Tracked
from heliograph.actors.ports.journal import AttemptOverdue
from heliograph.actors.ports.ledger import MessageView
from heliograph.actors.reaper import AFTER_OUTAGE_S, AGAIN_S, EVERY_S, MOST, Reaper
from tests.support.couriers import ACCEPTED
from tests.support.journal_world import HOLD_S, JournalWorld
from tests.support.stage import Stage

LOOKS_S = 0.25
"""After its time an attempt is closed within so much."""


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


async def reaper_for(stage: Stage, journal: Any) -> Mailbox[Any]:
    mailbox, _ = await stage.start("reaper", lambda: Reaper(stage.ledger.delivery, journal, stage.clock))
    return mailbox


async def supervisor(stage: Stage, nursery: trio.Nursery, name: str, *, ask: bool = False) -> JournalWorld:
    """One with a journal and a reaper."""
    world = JournalWorld(stage, name, ask=ask)
    await world.start(nursery)
    await reaper_for(stage, world.mailbox.ref)
    return world


async def view(stage: Stage, tracked: Tracked) -> MessageView:
    return await stage.ledger.messages.get(tracked.message.id, tenant=None)


class Listens:
    def __init__(self) -> None:
        self.told: list[AttemptOverdue] = []

    async def tell(self, message: AttemptOverdue) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(message)


async def test_an_attempt_is_closed_once_its_time_is_over_and_not_before(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = await supervisor(stage, nursery, "a")
    [tracked] = await JournalWorld(stage, "dead").under_way()
    await trio.sleep(HOLD_S - 0.1)
    assert (await view(stage, tracked)).standing.state is State.SENDING
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(LOOKS_S + 0.1)
    seen = await view(stage, tracked)
    assert [attempt.outcome for attempt in seen.attempts] == [Outcome.UNKNOWN]
    assert (seen.standing.state, seen.standing.reclaims) == (State.QUEUED, 1)
    assert world.in_lanes() == [tracked.message.id]
    assert [(entry["event"], entry["owner"]) for entry in logs] == [("attempt.overdue", "dead")]


async def test_of_two_reapers_one_closes_an_attempt(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    worlds = [await supervisor(stage, nursery, name) for name in "ab"]
    under_way = await JournalWorld(stage, "dead").under_way(20)
    await trio.sleep(HOLD_S + 2 * LOOKS_S)
    for each in under_way:
        seen = await view(stage, each)
        assert (len(seen.attempts), seen.standing.reclaims) == (1, 1)
    assert set(worlds[0].in_lanes()) == {each.message.id for each in under_way}
    assert worlds[0].counted("messages_total", channel="sms", state="queued") == 20


async def test_a_message_that_kills_its_owners_is_given_up_as_poison(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    await supervisor(stage, nursery, "a", ask=True)
    dead = JournalWorld(stage, "dead")
    [tracked] = await dead.under_way()
    for _ in range(2):
        await trio.sleep(HOLD_S + LOOKS_S)
        await dead.claim([tracked.message.id])
    await trio.sleep(HOLD_S + LOOKS_S)
    seen = await view(stage, tracked)
    assert (seen.standing.state, seen.standing.reason) == (State.FAILED, Reason.POISON)


async def test_after_an_outage_owners_land_the_answers_they_kept_first(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Whenever in the reaper's round the ledger comes back."""
    for outage_s in (20.0, 20.3, 20.6, 20.9, 21.2, 21.5):
        owner = await supervisor(stage, nursery, f"owner-{outage_s}")
        [tracked] = await owner.under_way()
        stage.ledger_down = True
        await trio.sleep(outage_s)
        stage.ledger_down = False
        await trio.sleep(AFTER_OUTAGE_S - 0.1)
        assert (await view(stage, tracked)).attempts[0].outcome is None
        await owner.tell(owner.finished(tracked, ACCEPTED))
        await trio.sleep(5)
        seen = await view(stage, tracked)
        assert [(a.outcome, a.settled) for a in seen.attempts] == [(Outcome.ACCEPTED, None)]


async def test_a_second_outage_gives_owners_their_time_anew(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    for again_s in (2.0, 3.0, 4.0, 5.0):
        owner = await supervisor(stage, nursery, f"owner-{again_s}")
        [tracked] = await owner.under_way()
        for outage_s, rest_s in ((20.0, 1.6), (again_s, AFTER_OUTAGE_S - 0.1)):
            stage.ledger_down = True
            await trio.sleep(outage_s)
            stage.ledger_down = False
            await trio.sleep(rest_s)
        assert (await view(stage, tracked)).attempts[0].outcome is None
        await owner.tell(owner.finished(tracked, ACCEPTED))
        await trio.sleep(5)


async def test_what_no_owner_came_for_is_closed_after_all(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    await supervisor(stage, nursery, "a")
    [tracked] = await JournalWorld(stage, "dead").under_way()
    stage.ledger_down = True
    await trio.sleep(30)
    stage.ledger_down = False
    await trio.sleep(2 * AFTER_OUTAGE_S)
    assert (await view(stage, tracked)).attempts[0].outcome is Outcome.UNKNOWN


async def test_an_owner_that_comes_later_still_tells_the_truth(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    await supervisor(stage, nursery, "a")
    owner = JournalWorld(stage, "slow")
    await owner.start(nursery)
    [tracked] = await owner.under_way()
    await trio.sleep(HOLD_S + LOOKS_S)
    await owner.tell(owner.finished(tracked, ACCEPTED))
    await trio.sleep(0.1)
    seen = await view(stage, tracked)
    assert [(a.outcome, a.settled) for a in seen.attempts] == [(Outcome.UNKNOWN, Settled.ACCEPTED)]
    assert seen.standing.state is State.SENT


async def test_a_full_page_is_followed_by_the_next_at_once(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = JournalWorld(stage, "a")
    await world.start(nursery)
    under_way = await JournalWorld(stage, "dead").under_way(2 * MOST + 10)
    await trio.sleep(HOLD_S)
    await reaper_for(stage, world.mailbox.ref)
    await trio.sleep(1.5 + 0.5)
    assert len(world.in_lanes()) == len(under_way)


async def test_it_waits_for_a_journal_that_is_behind(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    gate = trio.Event()

    class Behind(Listens):
        async def tell(self, message: AttemptOverdue) -> None:
            await gate.wait()
            await super().tell(message)

    journal = Behind()
    await JournalWorld(stage, "dead").under_way(3)
    await reaper_for(stage, journal)
    await trio.sleep(60)
    assert journal.told == []
    gate.set()
    await trio.sleep(0.1)
    assert len(journal.told) == 3, "one page, however long it took"


async def test_what_it_has_told_of_it_does_not_tell_again_at_once(stage: Stage, autojump_clock: object) -> None:
    """However often others make it look: a journal that is slow already would get the slower. (Chaos, seed 297.)"""
    journal = Listens()
    dead = JournalWorld(stage, "dead")
    first = await dead.under_way(3)
    await reaper_for(stage, journal)
    for _ in range(20):
        await trio.sleep(0.05)
        await dead.under_way()
    await trio.sleep(HOLD_S - 1.0 + 0.9)
    told = [each.tracked.message.id for each in journal.told]
    assert sorted(told[:3]) == sorted(each.message.id for each in first)
    assert len(told) == len(set(told))
    await trio.sleep(AGAIN_S + EVERY_S)
    assert len(journal.told) > len(told), "where the word was lost, it is told again"


async def test_told_to_finish_it_ends_at_once(stage: Stage, autojump_clock: object) -> None:
    mailbox = await reaper_for(stage, Listens())
    await trio.sleep(10.3)
    mailbox.close()
    await trio.sleep(0.01)
    assert stage.living == set()
