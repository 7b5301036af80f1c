"""What the actors of one provider in all supervisors agree through: the bucket's number and the breaker's record.

Redis, or a twin in memory. Losing it costs time only: a lost bucket starts empty, a lost record closes nobody's
breaker, and while it is unreachable no call is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from heliograph.actors.model.provider import BreakerState
from heliograph.actors.policy.bucket import BucketShape


@dataclass(frozen=True, slots=True)
class Slot:
    """One moment for one call of the cost asked for, on the local boot clock: usable from `opens_s` to `closes_s`,
    once; never refunded."""

    opens_s: float
    closes_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRecord:
    """The cluster's word. `epoch` rises with each change; `since_s` is how long ago that was, `until_in_s` how long it
    stays open; `openings` counts the times in a row; `successes` and `permits_out` belong to the half-open epoch, and
    are 0 when it begins."""

    epoch: int
    state: BreakerState
    since_s: float
    until_in_s: float
    openings: int
    permits_out: int = 0
    successes: int = 0


NO_RECORD: Final = BreakerRecord(epoch=0, state=BreakerState.CLOSED, since_s=0.0, until_in_s=0.0, openings=0)


class Verdict(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """`next_in_s` is when it is worth asking again: when half the horizon can be filled anew, or the pause or the
    breaker's time is over. `record` is None where Redis has none."""

    slots: tuple[Slot, ...]
    next_in_s: float
    record: BreakerRecord | None
    paused_for_s: float


class Coordination(Protocol):
    """Errors: `QueueDown`."""

    async def reserve(
        self, provider: str, shape: BucketShape, *, want: int, cost: float, horizon_s: float
    ) -> Reservation:
        """Up to `want` slots of `cost` recipients each within the horizon. None while paused or the record is open."""

    async def record(self, provider: str) -> tuple[BreakerRecord | None, float]:
        """The record and how long the provider is paused (seconds, 0.0 where not), without asking for slots."""

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        """Compare and set; answers the record in force afterwards. A missing record has the epoch 0: where it was lost
        and another epoch was expected, nothing is written and the answer is a closed record of the epoch 0."""

    async def permit(self, provider: str, *, epoch: int, most: int, ttl_s: float) -> str | None:
        """A half-open permit of this epoch, which runs out by itself after `ttl_s`; None where all are out, or used up
        by a success or a failure, or the epoch is over."""

    async def close_permit(self, provider: str, *, epoch: int, permit: str, verdict: Verdict) -> BreakerRecord | None:
        """End a permit, once; `successes` counts it. Answers the record; None where it is lost or of another epoch."""

    async def pause(self, provider: str, *, for_s: float) -> None:
        """Nobody gets a slot for so long (Retry-After, or an operator). 0 lifts it. The longest one holds."""

    async def aclose(self) -> None: ...
