"""Room and stops, as dispatchers see them."""

from __future__ import annotations

import sys
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.message import Priority, WaitingFor
from heliograph.actors.policy.availability import Stop, Stops, ahead, room, window

URGENT, NORMAL, BULK = Priority


def test_about_a_second_of_the_rate_may_wait_for_its_call_and_always_one() -> None:
    assert [ahead(rate) for rate in (14, 0.1, 1e6, inf)] == [14, 1, 1_000_000, sys.maxsize]


def test_a_fast_one_holds_what_it_completes_while_claims_are_on_their_way() -> None:
    assert window(concurrency=64, batch=1, completed=0, rate=1e6) == 128
    assert window(concurrency=64, batch=1, completed=300, rate=1e6) == 364
    assert window(concurrency=64, batch=1, completed=10**6, rate=1e6) == 64 + 960


def test_calls_that_carry_many_have_room_for_as_many() -> None:
    assert window(concurrency=4, batch=100, completed=0, rate=1e6) >= 400


def test_a_rate_without_bound_has_a_bounded_window() -> None:
    assert window(concurrency=8, batch=1, completed=0, rate=inf) == 16


@given(st.integers(1, 600), st.lists(st.sampled_from(Priority), max_size=1000))
def test_whoever_claims_only_where_there_is_room_keeps_to_the_parts(size: int, wishes: list[Priority]) -> None:
    held = dict.fromkeys(Priority, 0)
    for priority in wishes:
        if room(size, held, priority) > 0:
            held[priority] += 1
    assert sum(held.values()) <= size
    assert held[BULK] <= max(1, size // 2)
    assert held[NORMAL] + held[BULK] <= size - size // 5
    assert room(size, held, URGENT) == size - sum(held.values())


def test_room_is_what_can_be_claimed_at_once() -> None:
    held = dict.fromkeys(Priority, 0)
    for priority in (BULK, NORMAL, URGENT):
        held[priority] += room(100, held, priority)
        assert room(100, held, priority) == 0
    assert held == {BULK: 50, NORMAL: 30, URGENT: 20}


def test_the_stop_that_ends_last_is_told_and_each_ends_by_itself() -> None:
    stops = Stops()
    assert stops.last(0.0) is None
    stops.put(Stop.PERMITS, 5.0)
    stops.put(Stop.RATE, 3.0)
    assert stops.last(0.0) == (5.0, WaitingFor.BREAKER)
    assert (stops.no_calls_until_s, stops.next_end_s(0.0), stops.next_end_s(3.0)) == (3.0, 3.0, 5.0)
    stops.lift(Stop.PERMITS)
    assert stops.last(0.0) == (3.0, WaitingFor.RATE)
    assert stops.last(3.0) is None
