"""The only way to time and chance: an actor is given a clock, so that a test can be the one who winds it."""

from __future__ import annotations

import random
import time
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


@dataclass(frozen=True, slots=True)
class VirtualClock:
    """Follows trio's own clock, which a MockClock makes leap. Seeded, so that a run repeats."""

    random: random.Random

    def boot_s(self) -> float:
        return trio.current_time()

    def now(self) -> datetime:
        return VIRTUAL_EPOCH + timedelta(seconds=trio.current_time())
