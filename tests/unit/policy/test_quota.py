"""The ring that counts what a quota allows."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.provider import Quota
from heliograph.actors.policy.quota import AHEAD_S, KEPT, PARTS, Ring, ordinary, part_us, seeded

DAY: Final = Quota(100, 86_400.0)


def test_a_part_leaves_the_count_only_when_the_window_has_wholly_left_it() -> None:
    ring = Ring(part_us(DAY))
    first_us = 1_000_000 * ring.part_us + 7
    ring.turn(first_us)
    ring.take(100)
    ring.turn(first_us + int(DAY.window_s * 1e6))
    assert ring.room(100, 1) == 0
    opens_us = ring.opens_us(100, 1)
    assert opens_us - first_us <= (PARTS + 1) * ring.part_us
    ring.turn(opens_us - 1)
    assert ring.room(100, 1) == 0
    ring.turn(opens_us)
    assert ring.room(100, 1) == 100


def test_a_clock_set_back_turns_nothing() -> None:
    ring = Ring(1000)
    ring.turn(5_000_000)
    ring.take(3)
    ring.turn(1_000_000)
    assert (ring.at, ring.total) == (5000, 3)


def test_what_could_never_fit_opens_no_sooner_than_a_window_from_now() -> None:
    ring = Ring(1000)
    ring.turn(5_000_000)
    ring.take(3)
    assert ring.opens_us(3, 50) == (5000 + KEPT) * 1000


def test_what_a_former_part_counted_is_not_given_back_to_it_once_it_is_gone() -> None:
    ring = Ring(1000)
    ring.turn(5_000_000)
    ring.take(3)
    ring.turn(5_000_000 + KEPT * 1000)
    ring.give_back(0, 5000, 3)
    assert ring.total == 0


def test_the_last_of_a_quota_is_for_urgent_messages() -> None:
    assert ordinary(Quota(100, 60.0)) == 95
    assert ordinary(Quota(1, 60.0)) == 1


def test_what_a_lost_ring_had_counted_is_not_given_back_to_the_one_that_follows() -> None:
    lost = seeded(1000, 5_000_000, [3])
    ring = seeded(1000, 5_000_500, [3])
    ring.give_back(lost.made, lost.at, 3)
    assert ring.total == 3
    ring.give_back(ring.made, ring.at, 1)
    assert ring.total == 2


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40_000_000),  # microseconds pass
        st.integers(0, 8),  # calls wanted
        st.integers(1, 4),  # recipients of each
        st.integers(0, int(0.3e6)),  # and how much later than reserved it is made
        st.booleans(),  # it is not made after all
    ),
    max_size=60,
)


@given(st.integers(1, 12), STEPS)
def test_no_window_ever_holds_more_than_the_limit(limit: int, steps: list[tuple[int, int, int, int, bool]]) -> None:
    quota = Quota(limit, 60.0)
    ring, now_us, calls = Ring(part_us(quota)), 1_795_000_000_000_000, list[tuple[int, int]]()
    for passed_us, want, cost, late_us, unused in steps:
        now_us += passed_us
        ring.turn(now_us)
        taken = min(want, ring.room(limit, cost))
        ring.take(taken * cost)
        if unused:
            ring.give_back(ring.made, ring.at, taken * cost)
        else:
            calls += [(now_us + late_us, cost)] * taken
    for first_us, _ in calls:
        assert sum(cost for at_us, cost in calls if first_us <= at_us <= first_us + 60_000_000) <= limit
    assert ring.total == sum(ring.counts) >= 0


@given(st.integers(1, 12), STEPS, st.integers(0, 59))
def test_a_count_that_is_lost_and_made_anew_allows_no_more_either(
    limit: int, steps: list[tuple[int, int, int, int, bool]], lost_at: int
) -> None:
    quota = Quota(limit, 60.0)
    ring, now_us, calls = Ring(part_us(quota)), 1_795_000_000_000_000, list[tuple[int, int]]()
    for number, (passed_us, want, cost, late_us, _) in enumerate(steps):
        now_us += passed_us
        if number == lost_at:
            now_us += int(AHEAD_S * 1e6)  # whoever seeds lets the slots in hand run out first
            ages = [0] * KEPT
            for at_us, recipients in calls:
                if (age := (now_us - at_us) // ring.part_us) < KEPT:
                    ages[age] += recipients
            ring = seeded(ring.part_us, now_us, ages)
        ring.turn(now_us)
        taken = min(want, ring.room(limit, cost))
        ring.take(taken * cost)
        calls += [(now_us + late_us, cost)] * taken
    for first_us, _ in calls:
        assert sum(cost for at_us, cost in calls if first_us <= at_us <= first_us + 60_000_000) <= limit
