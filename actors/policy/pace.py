"""How much of a provider's rate this supervisor uses, and how many messages it may hold for it.

A provider that answers "slow down" without saying for how long gets half of what it got, and more again bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.policy.bucket import HORIZON_S, BucketShape

LEAST_SHARE: Final = 1 / 32
RECOVER_S: Final = 10.0
"""From nothing to the whole rate."""
MOST_SLOTS: Final = 256


class Pace:
    """The share of the rate that throttling leaves: 1.0 is all of it."""

    __slots__ = ("_share", "_slowed_s")

    def __init__(self) -> None:
        self._share = 1.0
        self._slowed_s = -math.inf

    def slow(self, began_s: float, now_s: float) -> None:
        """A call that began at `began_s` was throttled. Calls that were in the air when we last slowed down tell
        nothing new, else one full house of them would stop everything."""
        if began_s < self._slowed_s:
            return
        self._share, self._slowed_s = max(LEAST_SHARE, self.share(now_s) / 2), now_s

    def share(self, now_s: float) -> float:
        if self._share == 1.0:
            return 1.0
        share = self._share + (now_s - self._slowed_s) / RECOVER_S
        if share >= 1.0:
            self._share = share = 1.0
        return share


def demands(answers: Iterable[Answer]) -> tuple[bool, float]:
    """What a call's answers ask of us: to slow down, and to stay away for so many seconds. An answer that concerns its
    message alone asks nothing; one that accepts may say that it was the last for a while (`X-RateLimit-Remaining: 0`).
    """
    slow, stay_away_s = False, 0.0
    for answer in answers:
        if answer.scope is Scope.MESSAGE:
            continue
        slow = slow or answer.outcome is Outcome.THROTTLED
        if answer.retry_after_s is not None:
            stay_away_s = max(stay_away_s, answer.retry_after_s)
    return slow, stay_away_s


def slowed(bucket: BucketShape, share: float, cost: float) -> BucketShape:
    """The bucket's shape for one who takes only `share` of it, in calls of `cost` recipients.

    Slots are further apart, and the burst is smaller by as much, so that this one never takes a slot earlier than the
    whole shape would have given it: others who use the whole rate of the same bucket stay within it.

    >>> slowed(BucketShape(0.01, 20.0), 0.5, 1)
    BucketShape(interval_s=0.02, burst=10.0, lateness_s=0.01)
    """
    if share >= 1.0:
        return bucket
    return BucketShape(bucket.interval_s / share, max(bucket.burst * share, cost), bucket.lateness_s)


def slots_to_ask(ready: int, *, rate: float, supervisors: int, capacity: int) -> int:
    """How many slots to ask for at once: no more than can be used, or than is our part of the horizon.

    >>> slots_to_ask(500, rate=100, supervisors=2, capacity=64)
    10
    """
    ours = math.ceil(min(rate * HORIZON_S / supervisors, MOST_SLOTS))
    return max(0, min(ready, max(1, ours), capacity))
