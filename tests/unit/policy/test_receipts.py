"""What receipts do to a message, in whatever order they and the ends of its attempts come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.identity import MOST_NUMBERED, attempt_id
from heliograph.actors.model.message import Channel, Reason, State
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.policy.receipts import (
    NOTHING,
    RAREST_LOOK_S,
    Ended,
    Ruling,
    Situation,
    concerns,
    next_look_s,
    rule,
)
from heliograph.actors.ports.ledger import Reported
from tests.contract.ledger_script import ENDS
from tests.contract.ledger_world import AGAIN, UNKNOWN
from tests.contract.test_ledger_memory import memory_world

RANKS = {State.SENT: 1, State.DELIVERED: 2, State.UNDELIVERED: 3}
KEEP_S = 300.0
FINISH = "finish"
Event = tuple[int, Effect] | str


async def play(attempts: int, end: str, events: Sequence[Event]) -> object:
    """The last of `attempts` is under way, those before had no answer; then the events, and all the time it takes.
    Answers where the message ends."""
    world = memory_world()
    message = await world.queued()
    for _ in range(attempts - 1):
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
    last = await world.claim(message)
    rank = 0
    for event in (*events, "wait"):
        match event:
            case (number, Effect() as effect):
                receipt = Receipt(attempt_id=attempt_id(message.id, number), effect=effect)
                await world.ledger.receipts.take([Reported("p1", receipt)], keep_s=KEEP_S)
            case "finish":
                await world.finish(last, *ENDS[end])
            case _:
                for _ in range(3):
                    await world.advance(KEEP_S)
                    await world.ledger.receipts.look_again(limit=100)
        now = RANKS.get(await world.state(message), 0)
        assert now >= rank, "a state never goes backwards"
        rank = now
    view = await world.get(message)
    assert await world.ledger.receipts.look_again(limit=100) == ([], None)
    return view.standing.state, view.standing.reason, [(a.outcome, a.settled) for a in view.attempts]


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, str, list[Event], list[Event]]:
    attempts = draw(st.integers(1, 3))
    said = st.tuples(st.integers(1, attempts), st.sampled_from(Effect))
    receipts: list[Event] = list(draw(st.lists(said, max_size=4)))
    again: list[Event] = [*receipts, *(draw(st.lists(st.sampled_from(receipts), max_size=3)) if receipts else [])]
    end = draw(st.sampled_from(["accepted", "rejected", "deferred", "failover", "unknown"]))
    return attempts, end, [FINISH, *receipts], draw(st.permutations([FINISH, *again]))


@given(histories())
@settings(max_examples=300, deadline=None)
def test_any_order_and_repetition_of_receipts_and_the_finish_ends_in_the_same_state(
    drawn: tuple[int, str, list[Event], list[Event]],
) -> None:
    attempts, end, in_order, in_any_order = drawn
    assert trio.run(play, attempts, end, in_order) == trio.run(play, attempts, end, in_any_order)


# ----------------------------------------------------------------------------------------------------- case by case

ACCEPTED = Ended(1, "p1", Outcome.ACCEPTED)
LOST = Ended(1, "p1", Outcome.UNKNOWN)
SENT = Situation(state=State.SENT, reason=None, attempts=[ACCEPTED])


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.DEFERRED, Outcome.THROTTLED, Outcome.MISCONFIGURED])
@pytest.mark.parametrize("state", [State.QUEUED, State.FAILED, State.SENDING])
def test_what_was_refused_stays_refused(outcome: Outcome, state: State) -> None:
    situation = Situation(state=state, reason=None, attempts=[Ended(1, "p1", outcome)])
    assert rule(Effect.DELIVERED, 1, "p1", situation) == Ruling(known=True)


@pytest.mark.parametrize("learnt", [Settled.REJECTED, Settled.NOT_SENT])
def test_what_the_provider_said_when_asked_stands(learnt: Settled) -> None:
    situation = replace(SENT, state=State.QUEUED, attempts=[replace(LOST, settled=learnt)])
    assert rule(Effect.TAKEN, 1, "p1", situation) == Ruling(known=True)


def test_one_without_an_effect_proves_nothing() -> None:
    assert rule(None, 1, "p1", replace(SENT, state=State.QUEUED, attempts=[LOST])) == Ruling(known=True)


def test_numbers_beyond_those_that_an_attempts_id_can_tell_are_one() -> None:
    long = [replace(ACCEPTED, number=n, outcome=Outcome.DEFERRED) for n in range(1, MOST_NUMBERED + 2)]
    situation = replace(SENT, attempts=[*long, replace(ACCEPTED, number=MOST_NUMBERED + 2)])
    assert rule(Effect.DELIVERED, MOST_NUMBERED, "p1", situation).event is not None


def test_an_attempt_under_way_at_another_provider_is_not_meant() -> None:
    situation = replace(SENT, state=State.SENDING, attempts=[], under_way=(1, "p2"))
    assert rule(Effect.DELIVERED, 1, "p1", situation) == NOTHING
    assert rule(Effect.DELIVERED, 1, "p2", situation) == Ruling(kept=True)


def test_what_is_sent_for_good_is_moved_no_more() -> None:
    situation = replace(SENT, reason=Reason.NO_RECEIPT)
    assert rule(Effect.UNDELIVERED, 1, "p1", situation).event is None


@pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED, State.SUPPRESSED])
def test_what_ended_otherwise_stays_so(state: State) -> None:
    ruling = rule(Effect.DELIVERED, 1, "p1", replace(SENT, state=state, attempts=[LOST]))
    assert (ruling.settles, ruling.event, ruling.kept) == (1, None, False)


@pytest.mark.parametrize(
    ("named", "copies", "expected"),
    [
        (None, ("b@shop.in",), True),
        ("asha@shop.in", None, True),
        ("ASHA@Shop.in", ("b@shop.in",), True),
        ("b@shop.in", ("b@shop.in",), False),
        ("c@shop.in", ("b@shop.in",), False),
        ("c@shop.in", (), True),
        ("c@shop.in", None, False),
    ],
)
def test_whom_a_receipt_is_about(named: str | None, copies: tuple[str, ...] | None, expected: bool) -> None:
    assert concerns(Receipt(recipient=named), Channel.EMAIL, "asha@shop.in", copies) is expected
    assert concerns(Receipt(recipient=named), Channel.SMS, "+919876543210", copies)


def test_looks_become_rarer_up_to_one_an_hour() -> None:
    waits = [next_look_s(n) for n in range(100)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, RAREST_LOOK_S)
