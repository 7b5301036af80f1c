"""The journal in virtual time: groups, what follows an outcome, late and odd words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import structlog
import trio

from heliograph.actors.journal import MOST
from heliograph.actors.model.attempt import Answer, Outcome, Settled
from heliograph.actors.model.message import Reason, State, Tracked, WaitingFor
from heliograph.actors.policy.triage import Blocked
from heliograph.actors.ports.ledger import MessageView
from tests.support.couriers import ACCEPTED, DEFERRED, REJECTED, UNKNOWN
from tests.support.journal_world import HOLD_S, JournalWorld
from tests.support.stage import Before, Stage

SOON = 0.01


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


@pytest.fixture
async def world(stage: Stage, nursery: trio.Nursery) -> JournalWorld:
    world = JournalWorld(stage)
    await world.start(nursery)
    return world


async def view(stage: Stage, tracked: Tracked) -> MessageView:
    return await stage.ledger.messages.get(tracked.message.id, tenant=None)


# ------------------------------------------------------------------------------------------------------- groups


class Finishes:
    """The ledger, which takes a second for a commit and writes down how many it held."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.sizes: list[int] = []

    async def finish(self, finishes: Any, *, supervisor: str) -> Any:
        self.sizes.append(len(finishes))
        await trio.sleep(1)
        return await self._ledger.finish(finishes, supervisor=supervisor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


async def test_what_piles_up_during_one_commit_is_the_next(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = JournalWorld(stage)
    world.ledger = Finishes(world.ledger)
    await world.start(nursery)
    under_way = await world.under_way(1 + MOST + 10)
    first, *rest = [world.finished(each, ACCEPTED) for each in under_way]
    await world.tell(first)
    await trio.sleep(0.5)
    await world.tell(*rest)
    await trio.sleep(5)
    assert world.ledger.sizes == [1, MOST, 10]
    assert {(await view(stage, each)).standing.state for each in under_way} == {State.SENT}
    assert (world.in_hand(), world.in_lanes()) == (set(), [])


async def test_a_hint_is_settled_only_after_the_commit(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = JournalWorld(stage)
    world.ledger = Finishes(world.ledger)
    await world.start(nursery)
    [tracked] = await world.under_way()
    await world.tell(world.finished(tracked, ACCEPTED))
    await trio.sleep(0.9)
    assert world.in_hand() == {tracked.message.id}
    await trio.sleep(0.2)
    assert world.in_hand() == set()


async def test_releases_and_finishes_in_one_group_each_end_as_they_should(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    sent, refused, released, deferred, retried = await world.under_way(5)
    world.blocked["y"] = Blocked(0.0, WaitingFor.BREAKER)
    await world.tell(
        world.released(released),
        world.finished(sent, ACCEPTED),
        world.finished(refused, REJECTED),
        world.finished(deferred, DEFERRED),
    )
    await trio.sleep(SOON)
    world.blocked.clear()
    await world.tell(world.finished(retried, DEFERRED))
    await trio.sleep(SOON)
    assert world.in_hand() == set()
    assert world.in_lanes() == [retried.message.id, released.message.id], "to the head: they have waited already"
    assert world.delayed() == {deferred.message.id}
    assert (await view(stage, sent)).standing.state is State.SENT
    assert (await view(stage, refused)).standing.reason is Reason.REJECTED
    assert world.rejected == [(refused.message.id, "x")], "the jury hears of it"
    assert (await view(stage, released)).attempts == ()
    waits = (await view(stage, deferred)).standing
    assert (waits.counted, waits.waiting_for, waits.passes) == (1, WaitingFor.BACKOFF, 1)
    at_once = (await view(stage, retried)).standing
    assert (at_once.counted, at_once.waiting_for, at_once.tried) == (1, None, ("x",))


async def test_two_words_for_one_message_are_written_one_after_the_other(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """The late answer to an attempt that the reaper has closed, together with its successor's."""
    world = JournalWorld(stage)
    world.ledger = Finishes(world.ledger)
    await world.start(nursery)
    [before] = await world.under_way()
    late = world.finished(before, REJECTED)
    await trio.sleep(HOLD_S)
    await world.tell(world.overdue(before))
    await trio.sleep(1.5)
    [again] = await world.claim([before.message.id])
    [other] = await world.under_way()
    await world.tell(world.finished(other, ACCEPTED))
    await trio.sleep(0.5)
    await world.tell(late, world.finished(again, ACCEPTED))
    await trio.sleep(5)
    assert world.ledger.sizes == [1, 1, 1, 1]
    seen = await view(stage, before)
    assert [attempt.outcome for attempt in seen.attempts] == [Outcome.UNKNOWN, Outcome.ACCEPTED]
    assert seen.attempts[0].settled is Settled.REJECTED
    assert seen.standing.state is State.SENT


# ------------------------------------------------------------------------------------------------- what follows


async def test_a_failed_message_has_a_dead_letter_with_its_cause(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    answer = Answer(outcome=Outcome.REJECTED, code="550 5.1.1", detail="No mailbox for +919876543210")
    await world.tell(world.finished(tracked, answer))
    await trio.sleep(SOON)
    letter = await stage.ledger.dead_letters.get(tracked.message.id, tenant=None)
    assert (letter.reason, letter.code, letter.provider) == (Reason.REJECTED, "550 5.1.1", "x")
    assert letter.cause == "No mailbox for <number>"
    assert letter.next_auto_retry_at is None
    assert world.counted("messages_total", channel="sms", state="failed") == 1


async def test_our_own_fault_fails_the_message_as_internal(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    await world.tell(world.finished(tracked, UNKNOWN, internal=True))
    await trio.sleep(SOON)
    assert (await view(stage, tracked)).standing.reason is Reason.INTERNAL


async def test_what_was_learnt_of_an_earlier_attempt_is_written_and_the_message_is_sent(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    await world.tell(world.finished(tracked, UNKNOWN))
    await trio.sleep(31)
    [again] = await world.claim([tracked.message.id])
    await world.tell(world.earlier(again, 1))
    await trio.sleep(SOON)
    seen = await view(stage, tracked)
    assert [(a.outcome, a.settled) for a in seen.attempts] == [(Outcome.UNKNOWN, Settled.ACCEPTED)], "and no second one"
    assert seen.standing.state is State.SENT
    assert world.counted("unknown_settled_total", provider="x", how="asked") == 1
    assert world.counted("messages_total", channel="sms", state="sent") == 1


async def test_an_attempt_without_an_answer_is_settled_by_the_one_that_is_made_again(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    await world.tell(world.finished(tracked, UNKNOWN))
    await trio.sleep(31)
    assert world.counted("unknown_settled_total", provider="x", how="retried") == 0
    [again] = await world.claim([tracked.message.id], provider="y")
    with structlog.testing.capture_logs() as logs:
        await world.tell(world.finished(again, ACCEPTED, provider="y"))
        await trio.sleep(SOON)
    assert world.counted("unknown_settled_total", provider="x", how="retried") == 1
    (told,) = [entry for entry in logs if entry["event"] == "unknown.settled"]
    assert (told["message_id"], told["provider"], told["number"], told["how"], told["learnt"]) == (
        tracked.message.id, "x", 1, "retried", "accepted",
    )  # fmt: skip


async def test_an_overdue_attempt_is_unknown_and_its_provider_comes_first_at_once(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    await trio.sleep(HOLD_S)
    await world.tell(world.overdue(tracked))
    await trio.sleep(SOON)
    seen = await view(stage, tracked)
    assert [attempt.outcome for attempt in seen.attempts] == [Outcome.UNKNOWN]
    standing = seen.standing
    assert (standing.unsettled, standing.unsettled_provider, standing.reclaims) == (1, "x", 1)
    assert world.in_lanes() == [tracked.message.id]


async def test_an_overdue_word_does_nothing_where_the_owner_was_quicker(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    sent, waits = await world.under_way(2)
    await world.tell(world.finished(sent, ACCEPTED), world.finished(waits, UNKNOWN))
    await trio.sleep(HOLD_S)
    await world.tell(world.overdue(sent), world.overdue(waits))
    await trio.sleep(SOON)
    assert len((await view(stage, sent)).attempts) == 1
    assert (await view(stage, waits)).standing.reclaims == 0
    assert world.counted("messages_total", channel="sms", state="sent") == 1
    assert world.counted("delivery_duration_seconds_count", channel="sms", priority="normal") == 1


async def test_an_attempt_at_a_provider_that_is_not_configured_here_can_be_closed_too(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    """Its owner died with another configuration."""
    [tracked] = await world.under_way(provider="gone")
    await trio.sleep(HOLD_S)
    await world.tell(world.overdue(tracked, provider="gone"))
    await trio.sleep(SOON)
    standing = (await view(stage, tracked)).standing
    assert (standing.state, standing.unsettled_provider, standing.unknowns) == (State.QUEUED, "gone", 1)
    assert world.mailbox.restarts == 0


# ------------------------------------------------------------------------------------------------- late answers


async def reclaimed(world: JournalWorld) -> Tracked:
    """Closed as unknown by another supervisor's reaper, and queued again there."""
    [tracked] = await world.under_way()
    await trio.sleep(HOLD_S)
    other = JournalWorld(world.stage, "b")
    async with trio.open_nursery() as nursery:
        await other.start(nursery)
        await other.tell(other.overdue(tracked))
        await trio.sleep(SOON)
        await other.supervisor.drain()
    assert other.in_lanes() == [tracked.message.id]
    return tracked


async def test_a_late_acceptance_ends_a_message_that_waits_again(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    tracked = await reclaimed(world)
    await world.tell(world.finished(tracked, ACCEPTED))
    await trio.sleep(SOON)
    seen = await view(stage, tracked)
    assert seen.standing.state is State.SENT
    assert [(a.outcome, a.settled) for a in seen.attempts] == [(Outcome.UNKNOWN, Settled.ACCEPTED)]
    assert world.counted("unknown_settled_total", provider="x", how="late") == 1
    assert world.counted("messages_total", channel="sms", state="sent") == 1
    assert world.in_hand() == set()


async def test_a_late_refusal_is_noted_and_leaves_the_message_to_those_who_have_it(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    tracked = await reclaimed(world)
    await world.tell(world.finished(tracked, DEFERRED))
    await trio.sleep(SOON)
    seen = await view(stage, tracked)
    assert seen.standing.state is State.QUEUED
    assert seen.attempts[0].settled is Settled.NOT_SENT
    assert set(world.in_lanes()) == {tracked.message.id}


async def test_a_late_acceptance_during_a_newer_attempt_ends_the_message_when_that_ends(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    tracked = await reclaimed(world)
    [again] = await world.claim([tracked.message.id])
    await world.tell(world.finished(tracked, ACCEPTED))
    await trio.sleep(SOON)
    assert (await view(stage, tracked)).standing.state is State.SENDING
    await world.tell(world.finished(again, DEFERRED))
    await trio.sleep(SOON)
    assert (await view(stage, tracked)).standing.state is State.SENT
    assert world.counted("messages_total", channel="sms", state="sent") == 1


async def test_a_late_word_on_a_message_that_another_attempt_has_sent_counts_it_no_second_time(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    tracked = await reclaimed(world)
    [again] = await world.claim([tracked.message.id])
    await world.tell(world.finished(again, ACCEPTED))
    await trio.sleep(SOON)
    await world.tell(world.finished(tracked, DEFERRED))
    await trio.sleep(SOON)
    assert (await view(stage, tracked)).attempts[0].settled is Settled.NOT_SENT
    assert world.counted("messages_total", channel="sms", state="sent") == 1


# ---------------------------------------------------------------------------------------------------- odd words


async def test_one_outcome_that_cannot_be_written_takes_no_other_along(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = JournalWorld(stage)
    before, bad, after = await world.under_way(3)

    class Chokes(Finishes):
        async def finish(self, finishes: Any, *, supervisor: str) -> Any:
            if any(each.message_id == bad.message.id and not each.overdue_only for each in finishes):
                raise ValueError("U+0000 in a text")
            return await super().finish(finishes, supervisor=supervisor)

    world.ledger = Chokes(world.ledger)
    await world.start(nursery)
    with structlog.testing.capture_logs() as logs:
        await world.tell(*(world.finished(each, ACCEPTED) for each in (before, bad, after)))
        await trio.sleep(5)
    assert (await view(stage, before)).standing.state is State.SENT
    assert (await view(stage, after)).standing.state is State.SENT
    assert [(entry["event"], entry["message_id"]) for entry in logs] == [("journal.refused", bad.message.id)]
    assert world.mailbox.restarts == 0

    await trio.sleep(HOLD_S)
    await world.tell(world.overdue(bad))
    await trio.sleep(2)
    assert (await view(stage, bad)).attempts[0].outcome is Outcome.UNKNOWN, "for the reaper ends what is left open"


async def test_nothing_is_told_beyond_the_mailbox_until_the_journal_gets_on(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    gate = trio.Event()

    async def closed(name: str) -> None:
        await gate.wait()

    world = JournalWorld(stage)
    world.ledger = Before(world.ledger, closed)
    await world.start(nursery)
    [tracked] = await world.under_way()
    word = world.finished(tracked, ACCEPTED)
    await world.tell(word)
    await trio.sleep(SOON)
    await world.tell(*[word] * world.mailbox.capacity)
    with trio.move_on_after(5) as patience:
        await world.tell(word)
    assert patience.cancelled_caught
    gate.set()
    await world.tell(word)
    await trio.sleep(5)
    seen = await view(stage, tracked)
    assert (seen.standing.state, len(seen.attempts)) == (State.SENT, 1)
    assert seen.attempts[0].finished_at is not None
    assert seen.attempts[0].finished_at - seen.attempts[0].started_at == timedelta(seconds=1)
