"""What the actors of one provider in all supervisors agree through: the bucket's number and the breaker's record.

Redis, or a twin in memory. Losing it costs time only: a lost bucket starts empty, a lost record closes nobody's
breaker, a lost quota is counted anew from the ledger, and while it is unreachable no call is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from heliograph.actors.model.provider import BreakerState, Quota
from heliograph.actors.policy.breaker import NO_RECORD, BreakerRecord, Verdict
from heliograph.actors.policy.bucket import BucketShape
from heliograph.actors.policy.hand import Slot

__all__ = [
    "LOST",
    "NO_RECORD",
    "BreakerRecord",
    "Coordination",
    "Lost",
    "QuotaAsk",
    "QuotaWord",
    "Reservation",
    "Slot",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class QuotaAsk:
    """Reserve within a quota: `allowed` may be used of it in its window. `unused`: what the count `made` had counted
    earlier, by part, and what was never handed over."""

    quota: Quota
    allowed: int
    made: int = 0
    unused: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuotaWord:
    """What is used of a quota now, and the part in which this reservation was counted (slots x cost recipients, also
    where the slots got lost on the way). `made` names the count: one that was lost and made anew has another.
    `opens_in_s`: in how long one more such call will fit; 0.0 where the quota held nothing back."""

    used: int
    made: int
    part: int
    counted: int
    opens_in_s: float


class Lost(Enum):
    """Nothing is known of what was handed over: no slot is given before the ring is seeded."""

    LOST = "lost"


LOST: Final = Lost.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """`next_in_s` is when it is worth asking again: when half the horizon can be filled anew, or the pause or the
    breaker's time is over. `record` is None where Redis has none."""

    slots: tuple[Slot, ...]
    next_in_s: float
    record: BreakerRecord | None
    paused_for_s: float
    quota: QuotaWord | Lost | None = None


def blocked_for(record: BreakerRecord | None, paused_for_s: float) -> float | None:
    """How long nobody gets a slot; None where nothing forbids it."""
    if record is not None and record.state is BreakerState.OPEN:
        return max(paused_for_s, record.until_in_s)
    return paused_for_s if paused_for_s > 0 else None


class Coordination(Protocol):
    """Errors: `QueueDown`."""

    async def reserve(
        self,
        provider: str,
        shape: BucketShape,
        *,
        want: int,
        cost: float,
        horizon_s: float,
        quota: QuotaAsk | None = None,
    ) -> Reservation:
        """Up to `want` slots of `cost` recipients each within the horizon and the quota. None while paused or the
        record is open."""

    async def used(self, provider: str, ask: QuotaAsk) -> int | Lost:
        """What is used of the quota now; takes back what is unused."""

    async def seed(self, provider: str, quota: Quota, ages: Sequence[int]) -> None:
        """Count anew what is known to have been handed over, where the count is lost: `ages[n]` recipients between n
        and n + 1 parts (`policy.quota`) ago. Who comes second changes nothing."""

    async def record(self, provider: str) -> tuple[BreakerRecord | None, float]:
        """The record and how long the provider is paused (seconds, 0.0 where not), without asking for slots."""

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        """Compare and set; answers the record in force afterwards. A missing record has the epoch 0: where it was lost
        and another epoch was expected, nothing is written and the answer is a closed record of the epoch 0."""

    async def permit(self, provider: str, *, epoch: int, most: int, ttl_s: float) -> str | None:
        """A half-open permit of this epoch, which runs out by itself after `ttl_s`; None where all are out, or used up
        by a success or a failure, or the epoch is over."""

    async def close_permit(self, provider: str, *, epoch: int, permit: str, verdict: Verdict) -> BreakerRecord | None:
        """End a permit, once; one that ended as success stays used, and `successes` counts it. Ending it again, or
        after it ran out, changes nothing. Answers the record; None where it is lost or of another epoch."""

    async def pause(self, provider: str, *, for_s: float) -> None:
        """Nobody gets a slot for so long (Retry-After, or an operator). 0 lifts it. The longest one holds."""

    async def aclose(self) -> None: ...
