"""What a key may send, as a table and as laws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.policy.allowance import DAY_US, SECOND_US, Exceeded, KeyLimits, Limit, Usage, charge

NOON_US = 20_000 * DAY_US + DAY_US // 2


def test_a_second_s_messages_may_come_at_once_and_then_one_at_a_time() -> None:
    limits, usage = KeyLimits("k", 4, None), Usage()
    for _ in range(4):
        usage = charge(limits, usage, 1, NOON_US)  # type: ignore[assignment]
    assert charge(limits, usage, 1, NOON_US) == Exceeded(Limit.RATE, 4, 0.25, spent=True)
    assert isinstance(charge(limits, usage, 1, NOON_US + 250_000), Usage)


def test_a_request_larger_than_the_bucket_is_taken_when_it_is_empty_and_paid_for_afterwards() -> None:
    limits = KeyLimits("k", 10, None)
    usage = charge(limits, Usage(), 500, NOON_US)
    assert isinstance(usage, Usage)
    assert charge(limits, usage, 1, NOON_US) == Exceeded(Limit.RATE, 10, 49.1, spent=True)
    assert charge(limits, usage, 500, NOON_US) == Exceeded(Limit.RATE, 10, 50.0, spent=True)
    assert isinstance(charge(limits, usage, 500, NOON_US + 50 * SECOND_US), Usage)


def test_a_request_that_does_not_fit_leaves_room_for_a_smaller_one() -> None:
    limits = KeyLimits("k", 10, None)
    usage = charge(limits, Usage(), 8, NOON_US)
    assert isinstance(usage, Usage)
    refused = charge(limits, usage, 5, NOON_US)
    assert isinstance(refused, Exceeded)
    assert not refused.spent
    assert isinstance(charge(limits, usage, 2, NOON_US), Usage)


def test_a_day_ends_at_midnight_in_utc() -> None:
    limits = KeyLimits("k", None, 3)
    usage = charge(limits, Usage(), 2, NOON_US)
    assert isinstance(usage, Usage)
    assert charge(limits, usage, 2, NOON_US) == Exceeded(Limit.DAILY, 3, 43_200.0, spent=False)
    assert isinstance(charge(limits, usage, 3, NOON_US + DAY_US // 2), Usage)


def test_a_clock_that_was_set_back_stops_nobody_for_long() -> None:
    limits = KeyLimits("k", 1, None)
    assert isinstance(charge(limits, Usage(level_us=NOON_US + 2 * DAY_US), 1, NOON_US), Usage)


@given(
    rate=st.integers(1, 50),
    daily=st.integers(1, 400),
    asks=st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(1, 40)), max_size=60),
)
def test_no_window_has_more_than_rate_and_one_request_allow_and_no_day_more_than_its_number(
    rate: int, daily: int, asks: list[tuple[int, int]]
) -> None:
    limits, usage, now_us = KeyLimits("k", rate, daily), Usage(), NOON_US
    taken: list[tuple[int, int]] = []
    for pause_us, messages in asks:
        now_us += pause_us
        match charge(limits, usage, messages, now_us):
            case Usage() as usage:
                taken.append((now_us, messages))
            case Exceeded(retry_after_s=retry_s, limit=limit):
                assert retry_s > 0
                later = charge(limits, usage, messages, now_us + round(retry_s * SECOND_US) + 1)
                assert isinstance(later, Usage) or limit is Limit.DAILY or later.limit is Limit.DAILY
    largest = max((n for _, n in taken), default=0)
    for i, (since_us, _) in enumerate(taken):
        total = 0
        for at_us, messages in taken[i:]:
            total += messages
            assert total <= rate * (at_us - since_us) / SECOND_US + max(rate, largest) + 1e-3
    by_day: dict[int, int] = {}
    for at_us, messages in taken:
        by_day[at_us // DAY_US] = by_day.get(at_us // DAY_US, 0) + messages
    assert all(n <= daily for n in by_day.values())
