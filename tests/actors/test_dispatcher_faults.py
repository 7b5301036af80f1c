"""The dispatcher in virtual time when a store is away, when it crashes, and when it is told to finish: no hint is lost,
and every desk has its whole room again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog
import trio

from heliograph.actors.kernel.actor import Health, Mailbox
from heliograph.actors.kernel.supervision import ChildSpec, Group, Supervisor
from heliograph.actors.model.message import Message, Priority, State, WaitingFor
from heliograph.actors.ports.queue import Hint
from tests.support.dispatch_world import DispatchWorld, provider
from tests.support.stage import Before, Stage

SOON = 0.01
OUTAGE_AT_MOST_S = 2.0


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


def ids(hints: Sequence[Hint]) -> list[str]:
    return [hint.message_id for hint in hints]


# ---------------------------------------------------------------------------------------------- the ledger is away


@pytest.mark.parametrize("call", ["load", "claim"])
async def test_where_the_ledger_is_away_hints_are_handed_back_in_their_order_and_delivered_once_it_is_back(
    call: str, stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"))
    hints = await world.post(3)
    stage.lost_calls.add(f"delivery.{call}")
    mailbox, _ = await world.start()
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(SOON)
        assert (world.handed("x"), world.held("x"), world.lane()) == ([], 0, [])
        await trio.sleep(OUTAGE_AT_MOST_S)
    assert world.ids("x") == ids(hints)
    assert (world.held("x"), world.in_hand(), world.lane()) == (3, set(ids(hints)), [])
    assert [entry["event"] for entry in logs] == ["dispatcher.waits"]
    mailbox.close()


async def test_a_long_outage_of_the_ledger_loses_nothing_and_is_told_once(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    hints = await world.post(5)
    stage.ledger_down = True
    with structlog.testing.capture_logs() as logs:
        await world.start()
        await trio.sleep(60)
        stage.ledger_down = False
        await trio.sleep(2 * OUTAGE_AT_MOST_S)
    assert world.ids("x") == ids(hints)
    assert world.held("x") == 5
    assert [entry["event"] for entry in logs] == ["dispatcher.waits"]


async def test_claims_for_a_provider_that_crashed_meanwhile_are_released_and_not_left_to_the_reaper(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"))

    async def crash(name: str) -> None:
        if name == "claim":
            world.board.desk("x").vacate()

    world.ledger = Before(world.ledger, crash)
    await world.start()
    hints = await world.post(3)
    await trio.sleep(SOON)
    assert (world.handed("x"), world.held("x")) == ([], 0)
    assert {await stage.state(hint) for hint in hints} == {State.QUEUED}
    assert await stage.ledger.delivery.overdue(9) == []
    await trio.sleep(1.5)
    assert sorted(world.delayed()) == ids(hints)


async def test_where_the_answer_to_a_claim_is_lost_nothing_is_sent_and_the_room_is_free_again(
    stage: Stage, autojump_clock: object
) -> None:
    """The claim may be open: then the reaper ends it."""
    world = DispatchWorld(stage, provider("x"))
    stage.lost_answers.add("delivery.claim")
    await world.start()
    [hint] = await world.post()
    await trio.sleep(2 * OUTAGE_AT_MOST_S)
    assert (world.handed("x"), world.held("x")) == ([], 0)
    assert await stage.state(hint) is State.SENDING
    assert (world.in_hand(), world.lane()) == (set(), []), "looked at again, and claimed already"
    await trio.sleep(10)
    assert [overdue.tracked.message.id for overdue in await stage.ledger.delivery.overdue(9)] == [hint.message_id]


@pytest.mark.parametrize("lost", ["lost_calls", "lost_answers"])
async def test_where_the_ledger_goes_away_at_parking_those_already_handed_over_are_sent_once(
    lost: str, stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"), provider("y"))
    world.block("y", 60.0, WaitingFor.PAUSED)
    getattr(stage, lost).add("delivery.park")
    sent = await world.post(2, providers=("x",))
    parked = await world.post(2, providers=("y",))
    await world.start()
    await trio.sleep(3 * OUTAGE_AT_MOST_S)
    assert world.ids("x") == ids(sent)
    assert (world.held("x"), world.held("y"), world.lane()) == (2, 0, [])
    assert sorted(world.delayed()) == ids(parked)
    assert {(await world.standing(hint)).waiting_for for hint in parked} == {WaitingFor.PAUSED}


async def test_where_the_ledger_goes_away_at_giving_up_it_is_done_later(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    stage.lost_calls.add("delivery.give_up")
    await world.start()
    [hint] = await world.post(providers=("nobody",))
    await trio.sleep(SOON)
    assert await stage.state(hint) is State.QUEUED
    await trio.sleep(OUTAGE_AT_MOST_S)
    assert await stage.state(hint) is State.FAILED
    assert (world.in_hand(), world.lane()) == (set(), [])


# ----------------------------------------------------------------------------------------------- the queue is away


async def test_it_waits_for_the_queue_to_come_back(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    await trio.sleep(3)
    with structlog.testing.capture_logs() as logs:
        stage.redis.down(True)
        await trio.sleep(30)
        stage.redis.down(False)
        hints = await world.post(2)
        await trio.sleep(1.1)
    assert world.ids("x") == ids(hints)
    assert [entry["event"] for entry in logs] == ["dispatcher.waits"]


async def test_lists_of_another_life_of_redis_are_waited_for(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    await trio.sleep(3)
    stage.redis.replace()
    await trio.sleep(10)
    await world.queue.open("g")
    hints = await world.post(2)
    await trio.sleep(1.1)
    assert world.ids("x") == ids(hints)


async def test_a_take_whose_answer_was_lost_is_found_by_the_sweep(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    hints = await stage.accept(2)
    await trio.sleep(0.5)
    pushing = stage.queue("gateway")
    await pushing.open("g")
    stage.redis.lose_replies(2)  # the push's and the take's
    with pytest.raises(Exception, match="lost after"):
        await pushing.push(hints)
    await trio.sleep(2)
    assert (world.handed("x"), world.held("x"), world.in_hand()) == ([], 0, set(ids(hints)))
    assert [await world.queue.sweep(), await world.queue.sweep()] == [0, 2]
    await trio.sleep(1.1)
    assert world.ids("x") == ids(hints)


async def test_what_cannot_be_handed_back_stays_in_hand_for_the_sweep(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    stage.lost_calls.add("delivery.load")
    hints = await world.post(2)
    await trio.sleep(SOON)
    stage.redis.down(True)
    await trio.sleep(OUTAGE_AT_MOST_S)
    stage.redis.down(False)
    assert world.in_hand() == set(ids(hints))
    assert [await world.queue.sweep(), await world.queue.sweep()] == [0, 2]
    await trio.sleep(1.1)
    assert world.ids("x") == ids(hints)


async def test_what_cannot_be_settled_is_claimed_all_the_same(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"), provider("y"))
    world.block("y", 60.0)

    async def then_redis_goes_away(name: str) -> None:
        stage.redis.down(name != "load")

    world.ledger = Before(world.ledger, then_redis_goes_away)
    sent, parked = await world.post(1, providers=("x",)), await world.post(1, providers=("y",))
    await world.start()
    await trio.sleep(SOON)
    assert world.ids("x") == ids(sent)
    assert (await world.standing(parked[0])).waiting_for is WaitingFor.BREAKER
    stage.redis.down(False)
    await trio.sleep(3)
    assert [await world.queue.sweep(), await world.queue.sweep()] == [0, 1]
    await trio.sleep(1.1)
    assert list(world.delayed()) == ids(parked), "looked at again, and found to be put off"


# ---------------------------------------------------------------------------------------------------------- the end


async def test_told_to_finish_it_ends_what_is_on_its_way_and_takes_no_more(
    stage: Stage, autojump_clock: object
) -> None:
    async def slowly(name: str) -> None:
        await trio.sleep(1.5)

    world = DispatchWorld(stage, provider("x"), provider("y"))
    world.ledger = Before(world.ledger, slowly)
    mailbox, _ = await world.start()
    hints: list[Hint] = []
    for _ in range(3):  # as many batches as may be on their way
        hints += await world.post()
        await trio.sleep(0.1)
    mailbox.close()
    waiting = await world.post(2)
    await trio.sleep(5)
    assert sorted([*world.ids("x"), *world.ids("y")]) == ids(hints)
    assert world.held("x") + world.held("y") == 3
    assert world.lane() == ids(waiting)
    assert world.in_hand() == set(ids(hints))
    assert stage.living == set()


async def test_told_to_finish_while_the_ledger_is_away_it_hands_back_what_it_holds(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"))
    mailbox, _ = await world.start()
    stage.lost_calls.add("delivery.load")
    hints = await world.post(2)
    await trio.sleep(SOON)
    mailbox.close()
    await trio.sleep(OUTAGE_AT_MOST_S)
    assert (world.lane(), world.in_hand(), world.held("x")) == (ids(hints), set(), 0)
    assert stage.living == set()


async def test_a_claim_whose_provider_takes_no_more_is_given_up_unused(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    world.mailboxes["x"].close()
    mailbox, _ = await world.start()
    [hint] = await stage.accept()
    mailbox.close()
    await world.push([hint])
    await trio.sleep(0.5)
    standing = await world.standing(hint)
    assert (standing.state, standing.attempts, world.held("x")) == (State.QUEUED, 0, 0)
    assert (world.lane(), world.in_hand()) == ([hint.message_id], set())


# ---------------------------------------------------------------------------------------------------------- crashes


class Kept:
    """A dispatcher that is built anew after each crash."""

    def __init__(self, world: DispatchWorld) -> None:
        self.mailbox: Mailbox[Any] = Mailbox("dispatcher/sms", 1, world.stage.clock)
        children = [ChildSpec(mailbox=self.mailbox, build=world.build)]
        self.supervisor = Supervisor(Group(name="dispatch", children=children), world.stage.clock)

    @property
    def health(self) -> Health:
        return self.mailbox.health()


async def test_a_crash_leaves_no_desk_without_its_room(
    stage: Stage, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """One batch waits for its claims while another crashes at a message, after it gave room to others."""
    world = DispatchWorld(stage, provider("x"), provider("y"))

    async def slowly(name: str) -> None:
        if name == "claim":
            await trio.sleep(1)

    def cannot_stand(message: Message) -> str | None:
        if message.tags == ("bad",) and kept.health.restarts == 0:
            raise KeyError(message.to)
        return None

    world.ledger = Before(world.ledger, slowly)
    world.takes["x"] = cannot_stand
    await world.queue.open("g")
    kept = Kept(world)
    await nursery.start(kept.supervisor.run)
    hints = await world.post(3)
    await trio.sleep(0.1)
    batch = [*await stage.accept(2), *await stage.accept(1, tags=("bad",))]
    await world.push(batch)
    hints += batch
    await trio.sleep(1.2)
    assert kept.health.restarts == 1
    assert (world.held("x"), world.held("y")) == (0, 0)
    assert world.in_hand() == set(ids(hints)), "not lost: the queue finds what nobody settled"
    await trio.sleep(121)
    await world.queue.sweep()
    await world.queue.sweep()
    await trio.sleep(3)
    assert sorted([*world.ids("x"), *world.ids("y")]) == ids(hints)
    assert world.held("x") + world.held("y") == len(hints)
    await kept.supervisor.drain()


async def test_cut_off_while_it_waits_for_room_in_a_mailbox_it_keeps_no_place_for_what_it_could_not_hand_over(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"))
    full: Mailbox[Any] = Mailbox("provider/x", 1, stage.clock)
    world.mailboxes = {"x": full}
    _, scope = await world.start()
    await world.post(3, priority=Priority.URGENT)
    await trio.sleep(SOON)
    assert world.held("x") == 3
    scope.cancel()
    await trio.sleep(SOON)
    assert world.held("x") == 1, "the one that got there"
