"""A quota: at most so many recipients in any window of time, counted in a ring of parts.

The window is cut into `PARTS` parts of equal length, and a part leaves the count only when the window has wholly left
it: whatever window of that length one looks at lies within the parts that are counted at its end. So the count errs to
the safe side, by one part at most. A recipient is counted when its send slot is reserved, which is up to `AHEAD_S`
before its call; the window is longer by that.

Redis keeps the ring and turns it by the same rule (`queue/lua/quota.lua`), with the same numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from heliograph.actors.model.provider import Quota

PARTS: Final = 100
KEPT: Final = PARTS + 1
AHEAD_S: Final = 1.0
"""More than a slot's horizon, its width and its way to the provider together."""
URGENT_RESERVE: Final = 0.05
"""The last of a quota, kept for urgent messages."""


def part_us(quota: Quota) -> int:
    """The length of a part, in microseconds."""
    return math.ceil((quota.window_s + AHEAD_S) * 1e6 / PARTS)


def ordinary(quota: Quota) -> int:
    """What messages that are not urgent may use up.

    >>> ordinary(Quota(50_000, 86_400.0)), ordinary(Quota(20, 60.0)), ordinary(Quota(5, 60.0))
    (47500, 19, 5)
    """
    return quota.limit - math.floor(quota.limit * URGENT_RESERVE)


@dataclass(slots=True)
class Ring:
    """`at` is the number of the newest part; the counts lie at their numbers modulo `KEPT`. Times never run
    backwards here: a clock that was set back turns nothing. `made` is when it was seeded."""

    part_us: int
    made: int = 0
    at: int = 0
    total: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * KEPT)

    def turn(self, now_us: int) -> None:
        """Let go of what has left the window."""
        number = now_us // self.part_us
        if number - self.at >= KEPT:
            self.counts[:] = [0] * KEPT
            self.at, self.total = number, 0
        while self.at < number:
            self.at += 1
            self.total -= self.counts[self.at % KEPT]
            self.counts[self.at % KEPT] = 0

    def room(self, allowed: int, cost: int) -> int:
        """How many calls of `cost` recipients fit beneath `allowed`."""
        return max(0, (allowed - self.total) // cost)

    def take(self, recipients: int) -> None:
        self.counts[self.at % KEPT] += recipients
        self.total += recipients

    def give_back(self, made: int, part: int, recipients: int) -> None:
        """What the ring of that name counted in that part, and what was never handed over."""
        if made == self.made and part > self.at - KEPT:
            self.counts[part % KEPT] -= recipients
            self.total -= recipients

    def opens_us(self, allowed: int, cost: int) -> int:
        """When another call of `cost` recipients fits beneath `allowed`, if nothing is taken meanwhile; a whole window
        from now where it never does."""
        missing = self.total + cost - allowed
        for number in range(self.at - PARTS, self.at + 1):
            missing -= self.counts[number % KEPT]
            if missing <= 0:
                return (number + KEPT) * self.part_us
        return (self.at + KEPT) * self.part_us


def seeded(part: int, now_us: int, ages: Sequence[int]) -> Ring:
    """A ring made anew from what is known to have been handed over: `ages[n]` recipients between n and n + 1 parts ago.
    The newest moment of each counts.

    >>> ring = seeded(1000, 5_000_500, [1, 0, 4])
    >>> ring.total, ring.opens_us(5, 2)
    (5, 5099000)
    """
    ring = Ring(part, now_us, at=now_us // part)
    for age, recipients in enumerate(ages[:KEPT]):
        ring.counts[(ring.at - age) % KEPT] = recipients
        ring.total += recipients
    return ring
