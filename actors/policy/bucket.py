"""The leaky bucket, as send slots: moments at which one call may be made.

Granting a call and making it are two moments. A slot is therefore not a token but a time, usable for a short while
(`lateness_s`) and lost afterwards, so that no pause between grant and call lets more through than the rate. `JITTER_S`
is what the way to the provider may add. With w = lateness_s + JITTER_S, any window of T seconds holds at most
rate x T + burst recipients: slots of total cost n span at least (n - burst') x interval, each call falls inside its
slot, and the numbers below make n <= rate x T + burst.

A wide slot forgives a busy event loop and a slow round trip to Redis, and is paid for with burst. So a slot is as wide
as a tenth of the burst allows, between a hundredth and a tenth of a second.

`reserve` hands the slots out. Redis runs the same rule in `queue/lua/reserve.lua`, with the same numbers out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

LATENESS_S: Final = 0.010
MOST_LATENESS_S: Final = 0.100
SPARE_BURST: Final = 0.1
JITTER_S: Final = 0.010
HORIZON_S: Final = 0.200


@dataclass(frozen=True, slots=True)
class BucketShape:
    """Seconds between recipients, how many may come at once after a quiet time, and how long a slot may be used."""

    interval_s: float
    burst: float
    lateness_s: float = LATENESS_S


def shape(rate: float, burst: float) -> BucketShape:
    """`rate` is recipients per second, `burst` at least 1.

    Where the burst is too small to absorb the slots' width, the interval grows instead: less than the whole
    rate is used then.

    >>> shape(100, 100)
    BucketShape(interval_s=0.01, burst=90.0, lateness_s=0.09)
    >>> shape(50, 1)
    BucketShape(interval_s=0.04, burst=1.0, lateness_s=0.01)
    """
    width = SPARE_BURST * burst / rate
    lateness = round(min(max(width - JITTER_S, LATENESS_S), MOST_LATENESS_S), 6)
    width = lateness + JITTER_S
    if burst - 1 >= rate * width:
        return BucketShape(1 / rate, burst - rate * width, lateness)
    return BucketShape(1 / rate + width - (burst - 1) / rate, 1.0, lateness)


@dataclass(frozen=True, slots=True)
class Grant:
    """`slots_us` in order; `next_us` is when the slot after them would be; `level_us` is what to keep of the bucket."""

    slots_us: tuple[int, ...]
    next_us: int
    level_us: int


def reserve(
    level_us: int | None, now_us: int, bucket: BucketShape, *, want: int, cost: float, horizon_us: float
) -> Grant:
    """Up to `want` slots of `cost` recipients each, none later than `horizon_us` from now.

    All that is kept of a bucket is its level: the time, in microseconds of its keeper's clock, at which it will have
    leaked empty. None is a bucket that is lost, or whose clock was set: it counts as "just spent", as late as any can
    be, since nobody looks further ahead than `HORIZON_S`. That costs this long and the burst. A level later still is of
    a clock that was set back, and is taken for lost too. `cost` is from 1 to the shape's burst.

    >>> reserve(0, 5_000_000, BucketShape(0.01, 2.0), want=4, cost=1, horizon_us=15_000).slots_us
    (5000000, 5000000, 5010000)
    >>> reserve(None, 5_000_000, BucketShape(0.01, 2.0), want=4, cost=1, horizon_us=200_000).slots_us
    ()
    """
    check_reserve(bucket, cost=cost, horizon_us=horizon_us)
    interval = bucket.interval_s * 1e6
    spent = now_us + HORIZON_S * 1e6 + bucket.burst * interval
    empty = spent if level_us is None else min(float(level_us), spent)
    slack = (bucket.burst - cost) * interval
    slots: list[int] = []
    while len(slots) < want:
        at = max(empty - slack, now_us)
        if at > now_us + horizon_us:
            break
        empty = max(empty, at) + cost * interval
        slots.append(math.ceil(at))
    return Grant(tuple(slots), math.ceil(max(empty - slack, now_us)), math.ceil(empty))


def next_in(next_us: int, now_us: int, horizon_s: float) -> float:
    """Seconds until it is worth asking again: when half the horizon can be filled anew, so that slots neither run out
    nor are asked for one by one."""
    return max(0.0, (next_us - now_us) / 1e6 - horizon_s / 2)


def check_reserve(bucket: BucketShape, *, cost: float, horizon_us: float) -> None:
    """ValueError where the rate could not be kept; the caller's mistake, never chance."""
    if not 1 <= cost <= bucket.burst:
        raise ValueError(f"a call of {cost:g} recipients does not fit a usable burst of {bucket.burst:g}")
    if not 0 <= horizon_us <= HORIZON_S * 1e6:
        raise ValueError(f"slots are given at most {HORIZON_S:g} s ahead, not {horizon_us / 1e6:g} s")


@dataclass(frozen=True, slots=True)
class Offset:
    """What a keeper's clock is ahead of ours, in seconds: somewhere from `low_s` to `high_s`, as of `at_s` (ours)."""

    low_s: float
    high_s: float
    at_s: float


DRIFT: Final = 0.001
"""Seconds a second by which two clocks may part; clocks are slewed at half of this at most."""
SET_S: Final = 0.001
"""A contradiction larger than this is no rounding: a clock was set. Less is within what `JITTER_S` allows for."""


def narrow(known: Offset | None, asked_s: float, keeper_s: float, answered_s: float) -> tuple[Offset, bool]:
    """Learn from one round trip: the keeper read `keeper_s` at some moment between `asked_s` and `answered_s`.

    What earlier, quicker round trips told still counts, wider by `DRIFT`; otherwise one slow answer would spoil all
    its slots. Where the two cannot both be true a clock was set (the second value says so): the new one alone holds.

    >>> narrow(Offset(99.0, 99.5, 0.0), 9.0, 109.25, 10.0)
    (Offset(low_s=99.25, high_s=99.51, at_s=10.0), False)
    """
    fresh = Offset(keeper_s - answered_s, keeper_s - asked_s, answered_s)
    if known is None:
        return fresh, False
    widening = DRIFT * (answered_s - known.at_s)
    low, high = max(fresh.low_s, known.low_s - widening), min(fresh.high_s, known.high_s + widening)
    if low <= high:
        return Offset(low, high, answered_s), False
    return fresh, low - high > SET_S


def window(slot_s: float, offset: Offset, lateness_s: float) -> tuple[float, float]:
    """From when to when, on our clock, a slot on the keeper's clock is surely open and surely not yet over.

    An empty one (the end before the beginning) is a slot lost.
    """
    return slot_s - offset.low_s, slot_s + lateness_s - offset.high_s
