"""The only way to time and chance: an actor is given a clock, so that a test can be the one who winds it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import trio

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
VIRTUAL_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    @property
    def random(self) -> random.Random: ...

    def boot_s(self) -> float:
        """Seconds on a clock that never steps and runs while the machine sleeps: deadlines are set on it."""

    def now(self) -> datetime:
        """The wall clock, in UTC: for people and logs, never for deadlines."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    random: random.Random = field(default_factory=random.Random)

    def boot_s(self) -> float:
        return time.clock_gettime(_BOOT)

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class VirtualClock:
    """Follows trio's own clock, which virtual time makes leap. Seeded, so that a run repeats. `stepped_s` is how far
    the wall clock was set forward, or back; what never steps is left alone by it."""

    random: random.Random
    stepped_s: float = 0.0
    time: Callable[[], float] = trio.current_time
    _at_s: float | None = field(default=None, init=False)
    _now: datetime = field(default=VIRTUAL_EPOCH, init=False)

    def boot_s(self) -> float:
        return self.time()

    def now(self) -> datetime:
        at_s = self.time() + self.stepped_s
        if at_s != self._at_s:  # most who ask do so in one moment
            self._at_s, self._now = at_s, VIRTUAL_EPOCH + timedelta(seconds=at_s)
        return self._now
