"""One supervisor's part in a provider's quota: what it may still ask for, and what it counted and did not use.

A slot is counted against the quota when it is reserved. One that nobody used in time, or only in part, is given back
with the next reservation, to the part of the ring it was counted in; where its owner dies it stays counted.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from heliograph.actors.model.provider import Quota
from heliograph.actors.policy.hand import Counted
from heliograph.actors.policy.quota import ordinary
from heliograph.actors.ports.coordination import LOST, Lost, QuotaAsk, QuotaWord


class Budget:
    """`remaining` is what the quota allows urgent messages, as it was last told; None before."""

    __slots__ = ("_made", "_ordinary", "_unused", "closed_until_s", "lost", "quota", "remaining", "reserved_until_s")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.lost = True  # until somebody told otherwise
        self.remaining: int | None = None
        self.closed_until_s = -inf
        self.reserved_until_s = -inf
        self._ordinary = ordinary(quota)
        self._made = 0
        self._unused: Counter[int] = Counter()

    def unused(self, counted: Counted, recipients: int) -> None:
        """Counted there, and surely not handed over. What a count that was lost knew, the new one never did."""
        made, part = counted
        if recipients > 0 and made == self._made:
            self._unused[part] += recipients

    def ask(self, *, urgent: bool) -> QuotaAsk:
        unused, self._unused = dict(self._unused), Counter()
        return QuotaAsk(self.quota, self.quota.limit if urgent else self._ordinary, self._made, unused)

    def hear(self, word: QuotaWord | Lost, *, urgent: bool, slots: int, cost: int, now_s: float) -> bool:
        """The answer to a reservation that brought so many slots; True where it shut something: everything, or all
        but what is urgent."""
        if isinstance(word, Lost):
            self.lost = True
            return False
        if word.made != self._made:
            self._made = word.made
            self._unused.clear()
        self.unused((word.made, word.part), word.counted - slots * cost)
        self.know(word.used)
        if word.opens_in_s <= 0 or slots:
            return False
        if urgent:
            self.closed_until_s = now_s + word.opens_in_s
        self.reserved_until_s = max(self.reserved_until_s, now_s + word.opens_in_s)
        return True

    def know(self, used: int | Lost) -> None:
        self.lost = used is LOST
        if not isinstance(used, Lost):
            self.remaining = max(0, self.quota.limit - used)

    def reopened(self) -> bool:
        """Others gave back, or it was raised: what was shut is looked at anew."""
        return self.remaining is not None and self.remaining > self.quota.limit - self._ordinary
