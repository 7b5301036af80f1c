"""What provider actors and the reaper tell the journal.

Each of these ends one claim; none may be lost while the process lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from heliograph.actors.model.attempt import Answer, Settled
from heliograph.actors.model.message import Tracked
from heliograph.actors.model.value import value


@value(frozen=True, slots=True)
class AttemptFinished:
    """A call was made and came to this. `internal`: our own code raised, so the message fails for good.
    `settles`: what was learnt on the way of the earlier attempt without an answer (its number, what)."""

    tracked: Tracked
    number: int
    provider: str
    started_at: datetime
    finished_at: datetime
    answer: Answer
    internal: bool = False
    settles: tuple[int, Settled] | None = None


@value(frozen=True, slots=True, kw_only=True)
class AttemptReleased:
    """No call was made: the right lapsed, the breaker opened, we drain. Nothing is counted."""

    tracked: Tracked
    number: int
    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierSettled:
    """The earlier attempt (`settled_number`) was asked about and had been accepted after all: no call was made
    under this claim, and the message is sent."""

    tracked: Tracked
    number: int
    provider: str
    started_at: datetime
    settled_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOverdue:
    """Its owner did not end it in time (the reaper's word). Nothing happens where the owner was quicker."""

    tracked: Tracked
    number: int
    provider: str
    started_at: datetime


Ended = AttemptFinished | AttemptReleased | EarlierSettled | AttemptOverdue


class Journal(Protocol):
    def offer_all(self, messages: Sequence[Ended]) -> int:
        """Hand over as many as there is room for now, the first ones first; answers how many."""

    async def tell(self, message: Ended) -> None:
        """Hand over, waiting for room. Shielded by the caller: an outcome must get here."""
