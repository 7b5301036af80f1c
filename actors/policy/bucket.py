"""The leaky bucket, as send slots: moments at which one call may be made.

Granting a call and making it are two moments. A slot is therefore not a token but a time, usable for a short while
(`LATENESS_S`) and lost afterwards, so that no pause between grant and call lets more through than the rate. `JITTER_S`
is what the way to the provider may add. With w = LATENESS_S + JITTER_S, any window of T seconds holds at most
rate x T + burst recipients: slots of total cost n span at least (n - burst') x interval, each call falls inside its
slot, and the numbers below make n <= rate x T + burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LATENESS_S: Final = 0.010
JITTER_S: Final = 0.010
HORIZON_S: Final = 0.200


@dataclass(frozen=True, slots=True)
class BucketShape:
    """Seconds between recipients, and how many may come at once after a quiet time."""

    interval_s: float
    burst: float


def shape(rate: float, burst: float) -> BucketShape:
    """`rate` is recipients per second, `burst` at least 1.

    Where the burst is too small to absorb the slots' width, the interval grows instead: less than the whole
    rate is used then.

    >>> shape(100, 22)
    BucketShape(interval_s=0.01, burst=20.0)
    >>> shape(50, 1)
    BucketShape(interval_s=0.04, burst=1.0)
    """
    width = LATENESS_S + JITTER_S
    if burst - 1 >= rate * width:
        return BucketShape(1 / rate, burst - rate * width)
    return BucketShape(1 / rate + width - (burst - 1) / rate, 1.0)
