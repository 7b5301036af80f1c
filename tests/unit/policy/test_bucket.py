"""The bucket's law: no window of T seconds holds more than rate x T + burst recipients. And what the offset knows."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliograph.actors.policy.bucket import (
    HORIZON_S,
    JITTER_S,
    LATENESS_S,
    BucketShape,
    Offset,
    narrow,
    next_in,
    reserve,
    shape,
    window,
)

NOW_US = 1_767_225_600_000_000
rates = st.one_of(st.floats(0.1, 2000), st.sampled_from([1.0, 8.0, 14.0, 50.0, 1000.0]))
bursts = st.one_of(st.floats(1, 100), st.sampled_from([1.0, 2.0, 20.0]))


def worst_excess(slots: list[tuple[float, float]], rate: float, width_s: float) -> float:
    """Over all windows: recipients less rate x T, if the first call of a window comes as late as it can and the last
    one as early. Slots are (moment, cost); a call falls anywhere between its moment and `width_s` later."""
    slots = sorted(slots)
    worst = 0.0
    for first, (opens_s, _) in enumerate(slots):
        recipients = 0.0
        for moment_s, cost in slots[first:]:
            recipients += cost
            worst = max(worst, recipients - rate * max(0.0, moment_s - opens_s - width_s))
    return worst


class Happens(StrEnum):
    NOTHING = "nothing"
    LOST = "lost"  # the bucket is gone
    SET_BACK = "set back"  # its clock
    SET_FORWARD = "set forward"  # which the answer shows: its slots are not used, and the next request forgets


@st.composite
def lives(draw: st.DrawFn) -> tuple[float, float, int, list[tuple[int, int, Happens]]]:
    """Rate, burst, cost, and asks: microseconds since the one before, slots wanted, what happened before it."""
    rate, burst = draw(rates), draw(bursts)
    cost = draw(st.integers(1, int(shape(rate, burst).burst)))
    gap = st.sampled_from([0, 5, 1000, 50_000, 200_000, 400_000, int(3e6 / rate)])
    happens = st.sampled_from([Happens.NOTHING] * 7 + list(Happens))
    return rate, burst, cost, draw(st.lists(st.tuples(gap, st.integers(0, 20), happens), max_size=12))


@settings(max_examples=400)
@given(lives())
@example((50.0, 1.0, 1, [(10**6, 30, Happens.NOTHING), (30, 30, Happens.LOST), (10**6, 30, Happens.LOST)]))
@example((200.0, 20.0, 1, [(0, 64, Happens.NOTHING), (50_000, 64, Happens.NOTHING), (150_000, 64, Happens.NOTHING)]))
def test_no_window_holds_more_than_the_rate_and_the_burst(life):
    rate, burst, cost, asks = life
    bucket = shape(rate, burst)
    level_us: int | None = 0  # as long ago as can be: the whole burst is there
    real_us, set_us = NOW_US, 0
    slots: list[tuple[float, float]] = []
    for gap_us, want, happens in asks:
        real_us += gap_us
        match happens:
            case Happens.LOST:
                level_us = None
            case Happens.SET_BACK:
                set_us -= 10**6
            case Happens.SET_FORWARD:
                set_us += 10**6
        grant = reserve(level_us, real_us + set_us, bucket, want=want, cost=cost, horizon_us=HORIZON_S * 1e6)
        if happens is Happens.SET_FORWARD:
            level_us = None
            continue
        level_us = grant.level_us
        slots += [((at_us - set_us - NOW_US) / 1e6, cost) for at_us in grant.slots_us]
    rounding = rate * 1e-5 + 1e-6  # a float of this many microseconds is a quarter of one wide
    assert worst_excess(slots, rate, bucket.lateness_s + JITTER_S) <= burst + rounding


@given(rates, bursts)
def test_a_steady_asker_gets_the_whole_of_the_rate_its_shape_allows(rate, burst):
    bucket = shape(rate, burst)
    level_us, now_us, given = 0, NOW_US, 0
    seconds = max(5.0, 50 * bucket.interval_s)
    while now_us < NOW_US + seconds * 1e6:
        grant = reserve(level_us, now_us, bucket, want=1000, cost=1.0, horizon_us=HORIZON_S * 1e6)
        level_us, given = grant.level_us, given + len(grant.slots_us)
        now_us += max(1, int(next_in(grant.next_us, now_us, HORIZON_S) * 1e6))
    assert given >= seconds / bucket.interval_s * 0.97 - 1


@given(rates, bursts, st.integers(1, 64), st.floats(0, HORIZON_S))
def test_slots_are_in_order_and_within_the_horizon(rate, burst, want, horizon_s):
    bucket = shape(rate, burst)
    grant = reserve(0, NOW_US, bucket, want=want, cost=1.0, horizon_us=horizon_s * 1e6)
    assert list(grant.slots_us) == sorted(grant.slots_us)
    assert all(NOW_US <= at_us <= NOW_US + horizon_s * 1e6 + 1 for at_us in grant.slots_us)
    assert grant.next_us >= max(grant.slots_us, default=NOW_US)


@given(rates, bursts, st.lists(st.integers(0, 10**6), min_size=1, max_size=10))
def test_a_lost_bucket_is_never_refilled_earlier_than_the_lost_one_could_have_been(rate, burst, gaps_us):
    bucket = shape(rate, burst)
    level_us, now_us = 0, NOW_US
    for gap_us in gaps_us:
        now_us += gap_us
        level_us = reserve(level_us, now_us, bucket, want=64, cost=1.0, horizon_us=HORIZON_S * 1e6).level_us
    assert reserve(None, now_us, bucket, want=0, cost=1.0, horizon_us=0).level_us >= level_us - 1


def test_a_clock_set_back_by_an_hour_refills_nothing_and_holds_nobody_up_for_an_hour():
    bucket = BucketShape(0.01, 5.0)
    spent = reserve(0, NOW_US, bucket, want=5, cost=1, horizon_us=0)
    assert len(spent.slots_us) == 5
    hour_ago_us = NOW_US - 3600 * 10**6
    later = reserve(spent.level_us, hour_ago_us, bucket, want=64, cost=1, horizon_us=HORIZON_S * 1e6)
    assert later.slots_us == ()
    assert later.next_us == hour_ago_us + HORIZON_S * 1e6 + 10_000


@pytest.mark.parametrize(("cost", "horizon_s"), [(0.9, 0.1), (5.1, 0.1), (1.0, HORIZON_S * 1.01), (1.0, -0.1)])
def test_what_could_not_keep_the_rate_is_refused(cost, horizon_s):
    with pytest.raises(ValueError):
        reserve(None, NOW_US, BucketShape(0.01, 5.0), want=1, cost=cost, horizon_us=horizon_s * 1e6)


@given(
    offset_s=st.floats(-1e6, 1e6),
    trips=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 0.3), st.floats(0, 0.3)), min_size=1, max_size=20),
    drift=st.floats(-0.0005, 0.0005),
)
def test_the_true_offset_is_always_within_what_is_known(offset_s, trips, drift):
    known: Offset | None = None
    local_s = 100.0
    for gap_s, there_s, back_s in trips:
        asked_s = local_s + gap_s
        read_s = asked_s + there_s
        answered_s = read_s + back_s
        known, was_set = narrow(known, asked_s, read_s + offset_s + drift * read_s, answered_s)
        assert not was_set
        true_s = offset_s + drift * answered_s
        slack = 1e-6 + 0.0005 * 0.6  # what the clocks part by during a round trip itself
        assert known.low_s - slack <= true_s <= known.high_s + slack
        local_s = answered_s


def test_a_quick_round_trip_saves_the_slots_of_a_slow_one():
    known, _ = narrow(None, 10.0, 110.0, 10.001)
    slow, _ = narrow(known, 12.0, 112.05, 12.1)
    opens_s, closes_s = window(112.5, slow, LATENESS_S)
    assert 12.5 <= opens_s < closes_s <= 12.5 + LATENESS_S
    opens_s, closes_s = window(112.5, narrow(None, 12.0, 112.05, 12.1)[0], LATENESS_S)
    assert closes_s < opens_s, "by itself it leaves no moment that is surely right"


def test_a_clock_that_was_set_is_believed_at_once():
    known, _ = narrow(None, 10.0, 110.0, 10.001)
    assert narrow(known, 12.0, 52.0, 12.5) == (Offset(39.5, 40.0, 12.5), True)
