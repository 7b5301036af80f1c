"""How much of the rate is used, and that using less of it never takes a slot too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.policy.bucket import HORIZON_S, reserve, shape
from heliograph.actors.policy.pace import LEAST_SHARE, RECOVER_S, Pace, demands, slots_to_ask, slowed


def test_it_is_halved_and_recovers() -> None:
    pace = Pace()
    pace.slow(0.0, 1.0)
    assert pace.share(1.0) == 0.5
    assert pace.share(1.0 + RECOVER_S / 4) == pytest.approx(0.75)
    assert pace.share(1.0 + RECOVER_S) == 1.0


def test_calls_that_were_in_the_air_slow_it_only_once() -> None:
    pace = Pace()
    for _ in range(32):
        pace.slow(0.0, 1.0)
    assert pace.share(1.0) == 0.5
    pace.slow(1.5, 1.6)
    assert pace.share(1.6) < 0.3


def test_something_is_always_left_of_the_rate() -> None:
    pace = Pace()
    for i in range(100):
        pace.slow(i * 0.01, i * 0.01)
    assert pace.share(1.0) >= LEAST_SHARE


@given(
    rate=st.floats(1, 500),
    burst=st.integers(1, 50),
    asks=st.lists(
        st.tuples(st.floats(0, 0.5), st.integers(1, 8), st.integers(1, 5), st.sampled_from([1.0, 0.5, 0.1, 1 / 32])),
        max_size=40,
    ),
)
def test_a_slowed_supervisor_keeps_the_cluster_within_the_rate(
    rate: float, burst: int, asks: list[tuple[float, int, int, float]]
) -> None:
    """Slots of all who share one bucket, each with its own share, span at least what the whole shape demands."""
    whole = shape(rate, burst)
    level, now_us = 0, 10_000_000
    slots: list[tuple[float, int]] = []
    for wait_s, want, cost, share in asks:
        now_us += int(wait_s * 1e6)
        if cost > whole.burst:
            continue
        bucket = slowed(whole, share, cost)
        grant = reserve(level, now_us, bucket, want=want, cost=cost, horizon_us=HORIZON_S * 1e6)
        level = grant.level_us
        slots += [(at_us / 1e6, cost) for at_us in grant.slots_us]
    slots.sort()
    for i in range(len(slots)):
        taken = 0
        for at_s, cost in slots[i:]:
            taken += cost
            assert at_s - slots[i][0] >= (taken - whole.burst) * whole.interval_s - 1e-4


def test_what_concerns_a_message_alone_asks_nothing_of_us() -> None:
    throttled = Answer(outcome=Outcome.THROTTLED, retry_after_s=9.0, scope=Scope.MESSAGE)
    assert demands([throttled]) == (False, 0.0)


def test_the_longest_retry_after_of_a_call_holds() -> None:
    answers = [
        Answer(outcome=Outcome.THROTTLED, retry_after_s=2.0),
        Answer(outcome=Outcome.DEFERRED, retry_after_s=5.0),
        Answer(outcome=Outcome.ACCEPTED, retry_after_s=1.0),
    ]
    assert demands(answers) == (True, 5.0)


def test_one_that_accepts_may_ask_for_a_pause_and_slows_nothing_down() -> None:
    assert demands([Answer(outcome=Outcome.ACCEPTED), Answer(outcome=Outcome.ACCEPTED, retry_after_s=60.0)]) == (
        False,
        60.0,
    )


def test_slots_are_asked_for_by_what_can_be_used() -> None:
    assert slots_to_ask(500, rate=1e9, supervisors=1, capacity=1000) == 256
    assert slots_to_ask(3, rate=1e9, supervisors=1, capacity=1000) == 3
    assert slots_to_ask(500, rate=0.1, supervisors=4, capacity=1000) == 1
    assert slots_to_ask(500, rate=1e9, supervisors=1, capacity=-5) == 0
