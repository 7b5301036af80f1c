"""The journal in virtual time when a store is away, and at its end: no outcome is thrown away while there is time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
import trio

from heliograph.actors.journal import COMMIT_LIMIT_S
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import State, Tracked
from heliograph.actors.ports.ledger import MessageView
from heliograph.actors.ports.queue import Hint
from tests.support.couriers import ACCEPTED, DEFERRED, REJECTED
from tests.support.journal_world import GRACE_S, JournalWorld
from tests.support.stage import Before, Stage

SOON = 0.01
RETRIED_S = 1.5


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


def having_tried_x(tracked: Tracked) -> Tracked:
    """So that after y nobody of its route is left."""
    return Tracked(tracked.message, replace(tracked.standing, tried=("x",)))


async def test_outcomes_are_kept_until_the_ledger_is_back(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    sent, refused, released = await world.under_way(3)
    stage.ledger_down = True
    with structlog.testing.capture_logs() as logs:
        await world.tell(world.finished(sent, ACCEPTED))
        await trio.sleep(5)
        await world.tell(world.finished(refused, REJECTED), world.released(released))
        await trio.sleep(60)
        assert world.in_hand() == {each.message.id for each in (sent, refused, released)}
        stage.ledger_down = False
        await trio.sleep(RETRIED_S)
    assert (await view(stage, sent)).standing.state is State.SENT
    assert (await view(stage, refused)).standing.state is State.FAILED
    assert (await view(stage, released)).standing.state is State.QUEUED
    assert (world.in_hand(), world.in_lanes()) == (set(), [released.message.id])
    assert [entry["event"] for entry in logs] == ["journal.waits", "journal.landed"], "not at every try"


async def test_a_commit_in_doubt_is_repeated_without_loss_or_double(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    sent, at_once, refused = await world.under_way(3)
    stage.lost_answers.add("delivery.finish")
    await world.tell(
        world.finished(sent, ACCEPTED), world.finished(at_once, DEFERRED), world.finished(refused, REJECTED)
    )
    await trio.sleep(SOON)
    assert world.in_hand() == {each.message.id for each in (sent, at_once, refused)}, "for who knows"
    await trio.sleep(RETRIED_S)
    assert (world.in_hand(), world.in_lanes()) == (set(), [at_once.message.id])
    for each, outcome in ((sent, Outcome.ACCEPTED), (at_once, Outcome.DEFERRED), (refused, Outcome.REJECTED)):
        assert [attempt.outcome for attempt in (await view(stage, each)).attempts] == [outcome]
    for state in (State.SENT, State.QUEUED, State.FAILED):
        assert world.counted("messages_total", channel="sms", state=state) == 1
    assert world.counted("unknown_settled_total", provider="x", how="late") == 0


async def test_a_retry_whose_commit_was_in_doubt_is_delayed_as_long_as_it_should(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    stage.lost_answers.add("delivery.finish")
    await world.tell(world.finished(having_tried_x(tracked), DEFERRED, provider="y"))
    await trio.sleep(RETRIED_S)
    assert (world.delayed(), world.in_lanes(), world.in_hand()) == ({tracked.message.id}, [], set())
    standing = (await view(stage, tracked)).standing
    assert (standing.passes, standing.attempts) == (1, 1)


async def test_a_release_in_doubt_is_repeated_and_costs_no_attempt(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    stage.lost_answers.add("delivery.release")
    await world.tell(world.released(tracked))
    await trio.sleep(RETRIED_S)
    standing = (await view(stage, tracked)).standing
    assert (standing.state, standing.attempts) == (State.QUEUED, 0)
    assert world.in_lanes() == [tracked.message.id]


async def test_a_ledger_that_answers_nothing_is_asked_again(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    hung = 1

    async def hang(name: str) -> None:
        nonlocal hung
        if hung:
            hung -= 1
            await trio.sleep_forever()

    world = JournalWorld(stage)
    world.ledger = Before(world.ledger, hang)
    await world.start(nursery)
    [tracked] = await world.under_way()
    with structlog.testing.capture_logs() as logs:
        await world.tell(world.finished(tracked, ACCEPTED))
        await trio.sleep(COMMIT_LIMIT_S + RETRIED_S)
    assert (await view(stage, tracked)).standing.state is State.SENT
    assert [entry["event"] for entry in logs] == ["journal.waits", "journal.landed"]


# -------------------------------------------------------------------------------------------------- the queue is away


async def test_where_redis_is_away_the_relay_is_told_what_waits_and_the_sweep_finds_the_rest(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    sent, at_once, delayed = await world.under_way(3)
    stage.redis.down(True)
    await world.tell(world.finished(sent, ACCEPTED), world.finished(at_once, DEFERRED))
    await world.tell(world.finished(having_tried_x(delayed), DEFERRED, provider="y"))
    await trio.sleep(SOON)
    assert [hint for now, _ in world.announced for hint in now] == [Hint(at_once.message.id, at_once.message.lane)]
    [later] = [each for _, later in world.announced for each in later]
    assert later.hint.message_id == delayed.message.id
    assert 0 < later.due_in_s <= 10

    stage.redis.down(False)
    assert world.in_hand() == {each.message.id for each in (sent, at_once, delayed)}
    assert [await world.queue.sweep(), await world.queue.sweep()] == [0, 3]
    assert world.in_hand() == set()


async def test_where_nothing_waits_the_relay_is_told_nothing(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    stage.redis.down(True)
    await world.tell(world.finished(tracked, ACCEPTED))
    await trio.sleep(SOON)
    assert (await view(stage, tracked)).standing.state is State.SENT
    assert world.announced == []


async def test_lists_of_another_life_of_redis_keep_no_outcome_from_being_written(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    sent, at_once = await world.under_way(2)
    stage.redis.replace()
    await world.tell(world.finished(sent, ACCEPTED), world.finished(at_once, DEFERRED))
    await trio.sleep(SOON)
    assert (await view(stage, sent)).standing.state is State.SENT
    assert [now for now, _ in world.announced] == [[Hint(at_once.message.id, at_once.message.lane)]]


async def test_a_settling_whose_answer_was_lost_doubles_a_hint_and_loses_none(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    stage.redis.lose_replies(1)
    await world.tell(world.finished(tracked, DEFERRED))
    await trio.sleep(SOON)
    assert world.in_lanes() == [tracked.message.id]
    assert [now for now, _ in world.announced] == [[Hint(tracked.message.id, tracked.message.lane)]]


# ---------------------------------------------------------------------------------------------------------- the end


async def test_told_to_finish_it_writes_all_that_it_was_told(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    under_way = await world.under_way(3)
    await world.tell(*(world.finished(each, ACCEPTED) for each in under_way))
    await world.supervisor.drain()
    assert {(await view(stage, each)).standing.state for each in under_way} == {State.SENT}


async def test_a_ledger_that_comes_back_within_the_grace_has_it_all(
    stage: Stage, world: JournalWorld, autojump_clock: object, nursery: trio.Nursery
) -> None:
    [tracked] = await world.under_way()
    stage.ledger_down = True
    await world.tell(world.finished(tracked, ACCEPTED))
    nursery.start_soon(world.supervisor.drain)
    await trio.sleep(GRACE_S - 2)
    stage.ledger_down = False
    await trio.sleep(2)
    assert (await view(stage, tracked)).standing.state is State.SENT


async def test_with_the_ledger_away_a_drain_ends_with_the_grace_and_the_reaper_has_the_rest(
    stage: Stage, world: JournalWorld, autojump_clock: object
) -> None:
    [tracked] = await world.under_way()
    stage.ledger_down = True
    await world.tell(world.finished(tracked, ACCEPTED))
    began_s = trio.current_time()
    await world.supervisor.drain()
    assert GRACE_S <= trio.current_time() - began_s < GRACE_S + 1
    stage.ledger_down = False
    await trio.sleep(20)
    assert [each.number for each in await stage.ledger.delivery.overdue(9)] == [1]


async def test_a_commit_on_its_way_is_not_cut_short_by_the_end_of_the_grace(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    async def slowly(name: str) -> None:
        await trio.sleep(GRACE_S + 2)

    world = JournalWorld(stage)
    world.ledger = Before(world.ledger, slowly)
    await world.start(nursery)
    [tracked] = await world.under_way()
    await world.tell(world.finished(tracked, ACCEPTED))
    await world.supervisor.drain()
    assert (await view(stage, tracked)).standing.state is State.SENT
