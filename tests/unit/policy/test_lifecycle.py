"""The table of states holds exactly the edges that are promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.message import State
from heliograph.actors.policy.lifecycle import (
    AT_REST,
    BIRTHS,
    DEAD,
    TRANSITIONS,
    WAITING,
    Event,
    IllegalTransition,
    move,
)

EDGES = {
    ("scheduled", "queued"),
    ("queued", "sending"),
    ("sending", "sent"),
    ("sending", "failed"),
    ("sending", "queued"),
    ("queued", "failed"),
    ("scheduled", "cancelled"),
    ("scheduled", "expired"),
    ("scheduled", "suppressed"),
    ("queued", "cancelled"),
    ("queued", "expired"),
    ("queued", "suppressed"),
    ("failed", "queued"),
    ("undelivered", "queued"),
    ("expired", "queued"),
    ("sent", "delivered"),
    ("sent", "undelivered"),
    ("delivered", "undelivered"),
    ("queued", "sent"),
    ("failed", "sent"),
}


def test_the_edges_are_those_promised_and_no_others() -> None:
    assert {(str(a), str(b)) for a, row in TRANSITIONS.items() for b in row.values()} == EDGES


def test_every_state_has_a_row_and_every_event_an_edge() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


@given(st.sampled_from(State), st.sampled_from(Event))
def test_a_move_follows_the_table_or_names_both_in_its_refusal(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert (state, move(state, event)) in EDGES
        return
    with pytest.raises(IllegalTransition, match=rf"{state}.*{event}"):
        move(state, event)


def reachable(start: State) -> set[State]:
    seen, new = {start}, {start}
    while new:
        new = {after for state in new for after in TRANSITIONS[state].values()} - seen
        seen |= new
    return seen


def test_every_state_can_come_to_be_and_can_come_to_rest() -> None:
    assert set().union(*(reachable(birth) for birth in BIRTHS)) == set(State)
    for state in State:
        assert reachable(state) & AT_REST


def test_a_cancelled_or_suppressed_message_stays_so() -> None:
    assert reachable(State.CANCELLED) == {State.CANCELLED}
    assert reachable(State.SUPPRESSED) == {State.SUPPRESSED}


def test_what_was_sent_is_sent_again_only_after_it_was_reported_undelivered() -> None:
    without_bounces = {s: {a for e, a in row.items() if e is not Event.BOUNCED} for s, row in TRANSITIONS.items()}
    assert without_bounces[State.SENT] == {State.DELIVERED}
    assert without_bounces[State.DELIVERED] == set()


def test_the_named_sets_follow_from_the_table() -> None:
    assert {State.FAILED, State.UNDELIVERED, State.EXPIRED} == DEAD
    assert WAITING | AT_REST | {State.SENDING} == set(State)
    assert not WAITING & AT_REST
