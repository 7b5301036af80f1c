"""What a dispatcher may know of a provider: whether it can be asked, and how many more messages it has room for.

Enough are claimed to keep all calls going while the next claims are on their way: as many as were completed within the
last half second. But a message that is claimed has to be called within its send window (two seconds), so no more wait
for their call than the provider's rate takes within about one; those in the air are no part of that.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from heliograph.actors.model.message import Priority, WaitingFor
from heliograph.actors.model.provider import ProviderSettings

PREFETCH_S: Final = 0.5
MOST_PREFETCH: Final = 960
CLAIMED_AHEAD_S: Final = 1.0
URGENT_PART: Final = 5
"""One part in so many of the room, and of the calls in the air, is kept for urgent messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    """A snapshot. `blocked_until_s` is on the boot clock; once it is past, the provider can be asked. `blocked_for` is
    None where it was never blocked."""

    settings: ProviderSettings
    blocked_until_s: float
    blocked_for: WaitingFor | None
    room: Mapping[Priority, int]


def window(*, concurrency: int, batch: int, completed: int, rate: float) -> int:
    """How many messages one supervisor may hold for a provider, with those in the air. `completed`: within the last
    PREFETCH_S; `rate`: this supervisor's part, in messages per second.

    >>> window(concurrency=32, batch=1, completed=0, rate=14)
    39
    >>> window(concurrency=64, batch=1, completed=5000, rate=1e6)
    1024
    """
    calls = concurrency * batch
    prefetch = min(max(completed, min(calls, rate * PREFETCH_S)), MOST_PREFETCH)
    return math.ceil(calls + prefetch)


def ahead(rate: float) -> int:
    """How many of them may wait for their call.

    >>> ahead(14), ahead(0.1)
    (14, 1)
    """
    return max(1, math.ceil(min(rate * CLAIMED_AHEAD_S, sys.maxsize)))


def room(window: int, held: Mapping[Priority, int], priority: Priority) -> int:
    """How many more of `priority` fit. Bulk may hold half of the window; a part is kept for urgent.

    >>> held = {Priority.URGENT: 0, Priority.NORMAL: 6, Priority.BULK: 0}
    >>> [room(10, held, priority) for priority in Priority]
    [4, 2, 2]
    """
    others = held[Priority.NORMAL] + held[Priority.BULK]
    free = window - others - held[Priority.URGENT]
    if priority is Priority.URGENT:
        return max(0, free)
    free = min(free, window - window // URGENT_PART - others)
    if priority is Priority.BULK:
        free = min(free, max(1, window // 2) - held[Priority.BULK])
    return max(0, free)


SOON_S: Final = 5.0
LATE_S: Final = 60.0
QUOTA_LATE_S: Final = 600.0
"""A quota is used up for hours; what others gave back, or a higher one, is found out within this."""
LIFTED_EARLY: Final = frozenset({WaitingFor.PAUSED, WaitingFor.BREAKER})
ASKED_FOR: Final = frozenset({WaitingFor.RATE, WaitingFor.PROVIDER})


def put_off(for_s: float, why: WaitingFor, waited_s: float = 0.0) -> float:
    """How long a message is put off that finds all its providers stopped. An operator may end a pause, close a breaker,
    or lift what a provider's `Retry-After` asked for long before its time, so it looks again soon; the longer it has
    waited, the less often.

    >>> [put_off(3600, WaitingFor.PAUSED, waited_s) for waited_s in (0, 160, 7200)]
    [5.0, 20.0, 60.0]
    >>> put_off(45, WaitingFor.RATE), put_off(86_400, WaitingFor.RATE)
    (45, 60.0)
    """
    if why is WaitingFor.QUOTA:
        return min(for_s, max(SOON_S, waited_s / 8), QUOTA_LATE_S)
    if why in ASKED_FOR and for_s > LATE_S:
        return min(for_s, max(LATE_S, waited_s / 8), QUOTA_LATE_S)
    if why not in LIFTED_EARLY:
        return for_s
    return min(for_s, max(SOON_S, waited_s / 8), LATE_S)


class Stop(StrEnum):
    """Why a provider is not asked for a while, the breaker's own word apart."""

    PAUSED = "paused"  # an operator said so
    RATE = "rate"  # the provider's Retry-After, or a next slot that is far away
    PERMITS = "permits"  # half-open, and others have all permits
    REDIS = "redis"  # no slots without it
    QUOTA = "quota"  # used up
    RESERVED = "reserved"  # what is left of the quota is kept for urgent messages


_WAITING_FOR: Final = {
    Stop.PAUSED: WaitingFor.PAUSED,
    Stop.RATE: WaitingFor.RATE,
    Stop.PERMITS: WaitingFor.BREAKER,
    Stop.REDIS: WaitingFor.RATE,
    Stop.QUOTA: WaitingFor.QUOTA,
    Stop.RESERVED: WaitingFor.QUOTA,
}


class Stops:
    """Each stop with its end, which comes by itself. `no_calls_until_s`: the end of those that forbid calls outright;
    the others let what is in hand wait for its chance, and only keep more away."""

    __slots__ = ("_until_s", "no_calls_until_s")

    def __init__(self) -> None:
        self._until_s = dict.fromkeys(Stop, -math.inf)
        self.no_calls_until_s = -math.inf

    def put(self, stop: Stop, until_s: float) -> None:
        self._until_s[stop] = until_s
        self.no_calls_until_s = max(self._until_s[Stop.PAUSED], self._until_s[Stop.RATE])

    def lift(self, stop: Stop) -> None:
        self.put(stop, -math.inf)

    def until_s(self, stop: Stop) -> float:
        return self._until_s[stop]

    def last(self, now_s: float, *, urgent: bool = False) -> tuple[float, WaitingFor] | None:
        """The one that ends last, if any still holds; `urgent`: for an urgent message."""
        stops = [stop for stop in Stop if not (urgent and stop is Stop.RESERVED)]
        stop = max(stops, key=self._until_s.__getitem__)
        return (self._until_s[stop], _WAITING_FOR[stop]) if self._until_s[stop] > now_s else None

    def next_end_s(self, now_s: float) -> float:
        return min((until_s for until_s in self._until_s.values() if until_s > now_s), default=math.inf)
