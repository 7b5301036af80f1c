"""The dispatcher in virtual time: what it takes, and whom it gives it to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import trio

from heliograph.actors.dispatcher import LANDING_S
from heliograph.actors.model.message import Channel, Priority, Reason, State, WaitingFor
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.policy.availability import SOON_S
from heliograph.actors.ports.ledger import Entry, Loaded
from tests.support.dispatch_world import LONGEST_CALL_S, DispatchWorld, provider
from tests.support.stage import Stage

SOON = 0.01


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


# ------------------------------------------------------------------------------------------------ what it takes


async def test_a_message_is_claimed_and_handed_over_with_the_right_to_one_call(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    await trio.sleep(3)
    [hint] = await world.post()
    await trio.sleep(SOON)
    [deliver] = world.handed("x")
    assert (deliver.tracked.message.id, deliver.number) == (hint.message_id, 1)
    assert deliver.deadline_s == 3 + world.delivery.send_window_s
    assert deliver.expires_at_s == 3 + 86_400
    assert await stage.state(hint) is State.SENDING
    assert world.in_hand() == {hint.message_id}, "until the journal settles it"
    [claim] = await _claims(stage)
    assert claim.until - claim.started_at == timedelta(
        seconds=world.delivery.send_window_s + LONGEST_CALL_S + LANDING_S
    )


async def _claims(stage: Stage) -> Sequence[Any]:
    return list(stage.ledger.delivery.store.claims.values())  # type: ignore[attr-defined]


async def test_nobody_is_asked_for_a_suppressed_recipient(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    [hint] = await stage.accept()
    message = (await stage.ledger.messages.get(hint.message_id, tenant=None)).message
    entry = Entry(
        tenant=message.tenant, channel=message.channel, recipient=message.to, reason=SuppressionReason.MANUAL
    )  # fmt: skip
    assert (await stage.ledger.suppressions.enter(entry)).moved == 1
    await world.start()
    await world.push([hint])
    await trio.sleep(2)
    assert world.handed("x") == []
    assert await stage.state(hint) is State.SUPPRESSED
    assert (world.lane(), world.in_hand(), world.delayed()) == ([], set(), {})


async def test_it_takes_no_more_than_there_is_room_for(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    for priority in Priority:
        await world.post(20, priority=priority)
    await world.start()
    await trio.sleep(5)
    handed = [deliver.tracked.message.priority for deliver in world.handed("x")]
    assert handed == [Priority.URGENT] * 10
    assert [len(world.lane(priority)) for priority in Priority] == [10, 20, 20]
    assert world.delayed() == {}, "what there is no room for stays where others can take it"


async def test_bulk_leaves_room_for_normal_and_both_for_urgent(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    for priority, expected in ((Priority.BULK, 5), (Priority.NORMAL, 3), (Priority.URGENT, 2)):
        await world.post(20, priority=priority)
        await trio.sleep(1)
        assert len(world.handed("x")) == expected
    assert world.delayed() == {}


async def test_urgent_comes_before_bulk_however_long_bulk_has_waited(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    world.block("x", 5.0, window=2)
    await world.start()
    await world.post(3, priority=Priority.BULK)
    await trio.sleep(1)
    urgent = await world.post(2, priority=Priority.URGENT)
    await trio.sleep(5)
    assert world.ids("x") == [hint.message_id for hint in urgent]


class LoadsBackwards:
    """The ledger promises no order."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    async def load(self, ids: Sequence[str]) -> list[Loaded]:
        loaded: list[Loaded] = await self._ledger.load(ids)
        return loaded[::-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


async def test_room_is_given_in_the_order_of_the_lanes_not_of_the_ledgers_answer(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x", priority=1), provider("y", priority=2))
    world.ledger = LoadsBackwards(world.ledger)
    world.window("x", 1)
    world.window("y", 1)
    await world.post(1, priority=Priority.NORMAL, providers=("x",))
    [urgent] = await world.post(1, priority=Priority.URGENT, providers=("x",))
    await world.start()
    await trio.sleep(SOON)
    assert world.ids("x") == [urgent.message_id]


async def test_a_share_of_the_takes_begins_with_bulk(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    world.delivery = type(world.delivery)(bulk_share=0.25)
    world.window("x", 1)
    await world.post(20, priority=Priority.URGENT)
    await world.post(20, priority=Priority.BULK)
    await world.start()
    seen: list[Priority] = []
    for _ in range(12):
        await trio.sleep(0.1)
        for deliver in world.handed("x"):
            seen.append(deliver.tracked.message.priority)
            world.board.desk("x").leave(deliver.tracked.message.priority)
    assert seen.count(Priority.BULK) == 3


async def test_new_room_is_used_at_once(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    world.window("x", 1)
    await world.post(2)
    await world.start()
    await trio.sleep(5.5)
    assert len(world.handed("x")) == 1
    world.board.desk("x").leave(Priority.NORMAL)
    await trio.sleep(SOON)
    assert len(world.handed("x")) == 1


# ------------------------------------------------------------------------------------------------- odd hints


async def test_a_doubled_hint_is_sent_once(stage: Stage, autojump_clock: object) -> None:
    """Two supervisors on the same desks, so that what both claim would be seen."""
    world = DispatchWorld(stage, provider("x"))
    other = stage.queue("b")
    await world.start()
    await other.open("g")
    await stage.start("dispatcher/sms", lambda: world.build("b", other))
    hints = await stage.accept(3)
    await world.push([*hints, *hints, *hints])
    await trio.sleep(1)
    assert sorted(world.ids("x")) == [hint.message_id for hint in hints]
    assert world.held("x") == 3
    assert world.lane() == []
    assert len(world.in_hand("a")) + len(world.in_hand("b")) == 3, "the ones that lost are dropped"


async def test_a_hint_of_an_unknown_or_ended_message_is_dropped(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    [hint] = await stage.accept()
    await stage.ledger.messages.cancel(hint.message_id, tenant=None, supervisor="gateway")
    await world.push([hint, type(hint)("msg_of_nobody", hint.lane)])
    await trio.sleep(SOON)
    assert (world.handed("x"), world.in_hand(), world.lane(), world.delayed()) == ([], set(), [], {})


async def test_an_expired_message_is_left_to_the_scheduler(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    [hint] = await world.post(expires_at=stage.clock.now() + timedelta(seconds=5))
    await trio.sleep(6)
    await world.start()
    await trio.sleep(SOON)
    assert (world.handed("x"), world.in_hand(), world.held("x")) == ([], set(), 0)
    assert await stage.state(hint) is State.QUEUED
    assert [tracked.message.id for tracked in await stage.ledger.delivery.expire(9)] == [hint.message_id]


async def test_a_message_that_is_not_due_is_delayed_until_it_is(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    [hint] = await world.post(in_s=30.0)
    await trio.sleep(1)
    assert world.handed("x") == []
    assert world.delayed() == {hint.message_id: pytest.approx(29.0, abs=0.01)}
    assert world.in_hand() == set()


# --------------------------------------------------------------------------------------------------- routes


async def test_a_message_that_no_provider_can_carry_fails_with_a_dead_letter(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"), provider("y", test_only=True))
    world.takes["x"] = lambda message: "country"
    await world.start()
    [hint] = await world.post()
    await trio.sleep(SOON)
    standing = await world.standing(hint)
    assert (standing.state, standing.reason, standing.attempts) == (State.FAILED, Reason.NO_ROUTE, 0)
    letter = await stage.ledger.dead_letters.get(hint.message_id, tenant=None)
    assert letter.cause == "No provider can take it (x: country, y: test_only)."
    assert letter.next_auto_retry_at is not None
    assert letter.next_auto_retry_at - letter.created_at == timedelta(seconds=60)
    assert (world.in_hand(), world.held("x")) == (set(), 0)


async def test_where_all_of_its_providers_are_stopped_a_message_is_parked_for_the_first_that_opens(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"), provider("y", priority=2), provider("other"))
    world.block("x", 60.0, WaitingFor.PAUSED)
    world.block("y", 20.0, WaitingFor.RATE)
    await world.start()
    [hint] = await world.post(providers=("x", "y"))
    await trio.sleep(SOON)
    standing = await world.standing(hint)
    assert (standing.waiting_for, standing.waiting_provider) == (WaitingFor.RATE, "y")
    assert standing.due_at - stage.clock.now() == timedelta(seconds=20 - SOON)
    assert world.delayed() == {hint.message_id: pytest.approx(20 - SOON, abs=1e-3)}
    assert standing.attempts == 0
    assert world.in_hand() == set()


@pytest.mark.parametrize("why", [WaitingFor.PAUSED, WaitingFor.BREAKER])
async def test_what_an_operator_lifts_before_its_time_is_found_soon(
    why: WaitingFor, stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"), provider("other"))
    world.block("x", 3600.0, why)
    await world.start()
    [hint] = await world.post(providers=("x",))
    await trio.sleep(SOON_S / 2)
    assert (await world.standing(hint)).waiting_for is why
    world.window("x", 10)
    await trio.sleep(SOON_S / 2)
    await world.queue.wake(Channel.SMS, limit=10)
    await trio.sleep(1.1)
    assert world.ids("x") == [hint.message_id]


async def test_nothing_is_parked_beyond_its_expiry(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"), provider("other"))
    world.block("x", 600.0, WaitingFor.RATE)
    await world.start()
    [hint] = await world.post(providers=("x",), expires_at=stage.clock.now() + timedelta(seconds=40))
    await trio.sleep(SOON)
    assert world.delayed()[hint.message_id] == pytest.approx(40.0, abs=0.02)


async def test_while_every_provider_is_stopped_hints_stay_in_their_lanes(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    world.block("x", 60.0)
    await world.start()
    hints = await world.post(3)
    await trio.sleep(59)
    assert world.lane() == [hint.message_id for hint in hints]
    await trio.sleep(2.5)
    assert len(world.handed("x")) == 3, "and nobody has to ring when the time is over"


async def test_a_full_group_is_waited_for_and_a_stopped_one_stepped_around(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("upper", priority=1), provider("lower", priority=2))
    world.window("upper", 2)
    await world.start()
    await world.post(3, priority=Priority.URGENT)
    await trio.sleep(SOON)
    assert (len(world.handed("upper")), world.handed("lower")) == (2, [])
    [waits] = world.line("upper")

    world.block("upper", 60.0, window=2)
    [hint] = await world.post()
    await trio.sleep(SOON)
    assert world.ids("lower") == [waits, hint.message_id]
    assert world.line("upper") == []


async def test_equals_share_by_weight(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x", weight=3), provider("y", weight=1))
    world.window("x", 1000)
    world.window("y", 1000)
    await world.start()
    await world.post(400)
    await trio.sleep(5)
    x, y = len(world.handed("x")), len(world.handed("y"))
    assert x + y == 400
    assert 260 < x < 340


async def test_a_full_equal_leaves_its_share_to_the_other(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x", weight=1000), provider("y", weight=1))
    world.window("x", 1)
    await world.start()
    await world.post(5, priority=Priority.URGENT)
    await trio.sleep(SOON)
    assert (len(world.handed("x")), len(world.handed("y"))) == (1, 4)


# ------------------------------------------------------------------------------------------------------- lines


class CountsLoads:
    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.loaded = 0

    async def load(self, ids: Sequence[str]) -> list[Loaded]:
        self.loaded += len(ids)
        loaded: list[Loaded] = await self._ledger.load(ids)
        return loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


async def test_a_backlog_for_a_full_provider_is_looked_through_once_and_keeps_its_order(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("full", priority=1), provider("idle", priority=2))
    world.ledger = counted = CountsLoads(world.ledger)
    world.window("full", 1)
    await world.start()
    posted = await world.post(300, priority=Priority.URGENT)
    await trio.sleep(60)
    assert counted.loaded == 300
    handed = world.ids("full")
    for _ in range(20):
        world.board.desk("full").leave(Priority.URGENT)
        await trio.sleep(SOON)
        handed += world.ids("full")
    assert handed == [hint.message_id for hint in posted[:21]]
    assert world.line("full") == [hint.message_id for hint in posted[21:]]
    assert world.handed("idle") == []


async def test_those_behind_a_backlog_reach_another_provider_that_is_free(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("full"), provider("free"))
    world.window("full", 1)
    await world.start()
    await world.post(500, providers=("full",))
    behind = await world.post(3, providers=("free",))
    await trio.sleep(2)
    assert world.ids("free") == [hint.message_id for hint in behind]


async def test_one_who_comes_later_stands_behind_those_in_the_line(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x", priority=1), provider("y", priority=2))
    world.window("x", 0)
    await world.start()
    first = await world.post(2, priority=Priority.URGENT)
    await trio.sleep(SOON)
    world.window("x", 2)
    last = await world.post(1, priority=Priority.URGENT)
    await trio.sleep(SOON)
    world.window("x", 3)
    await trio.sleep(SOON)
    assert world.ids("x") == [hint.message_id for hint in (*first, *last)]


async def test_a_line_is_served_by_an_equal_that_has_room(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"), provider("y"), provider("z", priority=99))
    world.window("x", 0)
    world.window("y", 0)
    await world.start()
    await world.post(4, priority=Priority.URGENT)
    await trio.sleep(SOON)
    assert len(world.line("x")) + len(world.line("y")) == 4
    world.window("y", 10)
    await trio.sleep(SOON)
    assert len(world.handed("y")) == 4


async def test_a_line_left_by_one_that_died_is_found_by_another(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x", priority=1), provider("y", priority=2))
    world.window("x", 0)
    _, scope = await world.start()
    posted = await world.post(3)
    await trio.sleep(SOON)
    scope.cancel()
    world.window("x", 10)
    other = stage.queue("b")
    await other.open("g")
    await stage.start("dispatcher/sms of b", lambda: world.build("b", other))
    await trio.sleep(2)
    assert world.ids("x") == [hint.message_id for hint in posted]


# --------------------------------------------------------------------------- an attempt that was never answered


async def test_its_provider_comes_first_whatever_the_order(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x", priority=1), provider("y", priority=2, unknown=UnknownRule.ASK))
    await world.start()
    hint = await world.left_unanswered_by("y")
    await trio.sleep(SOON)
    assert world.ids("y") == [hint.message_id]


async def test_it_waits_for_room_at_its_provider_rather_than_go_to_another(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(stage, provider("x"), provider("y", unknown=UnknownRule.RETRY))
    world.window("y", 1)
    world.board.desk("y").enter(Priority.NORMAL)
    await world.start()
    hint = await world.left_unanswered_by("y")
    await trio.sleep(SOON)
    assert world.handed("x") == []
    assert world.line("y") == [hint.message_id]
    world.board.desk("y").leave(Priority.NORMAL)
    await trio.sleep(SOON)
    assert world.ids("y") == [hint.message_id]


async def test_where_its_provider_is_stopped_ask_waits_and_retry_goes_on_to_another(
    stage: Stage, autojump_clock: object
) -> None:
    world = DispatchWorld(
        stage, provider("x"), provider("ask", unknown=UnknownRule.ASK), provider("retry", unknown=UnknownRule.RETRY)
    )
    world.block("ask", 30.0)
    world.block("retry", 30.0)
    await world.start()
    waits, goes_on = await world.left_unanswered_by("ask"), await world.left_unanswered_by("retry")
    await trio.sleep(SOON)
    assert world.ids("x") == [goes_on.message_id]
    standing = await world.standing(waits)
    assert (standing.waiting_for, standing.waiting_provider) == (WaitingFor.BREAKER, "ask")
    assert (standing.unsettled, standing.unsettled_provider) == (1, "ask"), "still to be asked about"


async def test_hold_gives_up_once_the_wait_for_a_receipt_is_over(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x", unknown=UnknownRule.HOLD), provider("y"))
    await world.start()
    hint = await world.left_unanswered_by("x")
    await trio.sleep(SOON)
    standing = await world.standing(hint)
    assert (standing.state, standing.reason) == (State.FAILED, Reason.UNKNOWN)
    assert (world.handed("x"), world.handed("y"), world.in_hand()) == ([], [], set())
    held = {"provider": "x", "how": "held"}
    assert stage.registry.get_sample_value("heliograph_unknown_settled_total", held) == 1


async def test_a_provider_that_is_no_longer_configured_is_not_waited_for(stage: Stage, autojump_clock: object) -> None:
    world = DispatchWorld(stage, provider("x"))
    await world.start()
    hint = await world.left_unanswered_by("gone")
    await trio.sleep(SOON)
    assert world.ids("x") == [hint.message_id]
