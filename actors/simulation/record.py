"""What a run came to, gathered as it goes on: nothing here grows with the messages but one number for each latency.

It shares no code with what it watches. What a provider took, when, and how much, it hears from the provider itself.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Channel, Message, Priority, State
from heliograph.actors.model.provider import BreakerState, ProviderSettings

TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class BreakerChange:
    at_s: float
    state: BreakerState


@dataclass(slots=True, eq=False)
class ProviderRecord:
    """`handed` counts messages; rate and bursts count recipients, as the promise does. `violations` are calls after
    which some window held more than rate x time + burst."""

    settings: ProviderSettings
    handed: int = 0
    parts: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    breaker: list[BreakerChange] = field(default_factory=list)
    most_in_one_second: int = 0
    violations: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _in_recent: int = 0
    _total: int = 0
    _lowest: float = float("inf")

    def begin(self, at_s: float, recipients: int) -> None:
        """A call's first byte."""
        settings = self.settings
        # The maximum over i <= j of (recipients of i..j) - rate * (t_j - t_i), in one pass.
        self._lowest = min(self._lowest, self._total - settings.rate * at_s)
        self._total += recipients
        if self._total - settings.rate * at_s - self._lowest > settings.burst + TOLERANCE:
            self.violations += 1
        recent = self._recent
        recent.append((at_s, recipients))
        self._in_recent += recipients
        while recent[0][0] <= at_s - 1.0:
            self._in_recent -= recent.popleft()[1]
        self.most_in_one_second = max(self.most_in_one_second, self._in_recent)


class Record:
    """`part_s` is the width of a step of the time series."""

    def __init__(self, providers: Sequence[ProviderSettings], part_s: float) -> None:
        self.part_s: Final = part_s
        self.providers: Final = {p.name: ProviderRecord(p) for p in providers}
        self.accepted = 0
        self.refused = 0
        self.duplicates = 0
        self.latencies: Final[dict[Priority, array[float]]] = {priority: array("d") for priority in Priority}
        self.gone: Final[Counter[State]] = Counter()
        """Messages at rest that the store was told to forget, by state."""
        self.accepted_over_time: Final[Counter[tuple[int, Channel]]] = Counter()
        self.taken_over_time: Final[Counter[tuple[int, Channel]]] = Counter()
        self.calls_over_time: Final[Counter[tuple[int, str, Outcome]]] = Counter()
        self.waiting_over_time: Final[dict[tuple[int, Priority], int]] = {}
        self._posted: Final[dict[str, tuple[float, Priority]]] = {}

    def post(self, message: Message, at_s: float) -> None:
        """Before it is known whether it is accepted: a provider may have it sooner than its client has the answer."""
        self._posted[message.id] = (at_s, message.priority)

    def accept(self, message: Message, at_s: float) -> None:
        self.accepted += 1
        self.accepted_over_time[self._part(at_s), message.channel] += 1

    def handed(self, provider: str, outcome: Outcome, at_s: float) -> None:
        """`outcome` is what the caller would be told if it waited long enough."""
        record = self.providers[provider]
        record.handed += 1
        record.outcomes[outcome] += 1
        self.calls_over_time[self._part(at_s), provider, outcome] += 1

    def taken(self, provider: str, message: Message, at_s: float) -> None:
        self.providers[provider].parts += message.parts or 0
        self.taken_over_time[self._part(at_s), message.channel] += 1
        posted = self._posted.pop(message.id, None)
        if posted is None:
            self.duplicates += 1
            return
        self.latencies[posted[1]].append(at_s - posted[0])

    def waiting(self, at_s: float, count: Mapping[Priority, int]) -> None:
        for priority, waiting in count.items():
            key = self._part(at_s), priority
            self.waiting_over_time[key] = max(waiting, self.waiting_over_time.get(key, 0))

    def changed(self, provider: str, state: BreakerState, at_s: float) -> None:
        self.providers[provider].breaker.append(BreakerChange(at_s, state))

    def _part(self, at_s: float) -> int:
        return int(at_s / self.part_s)


def percentile(ordered: Sequence[float], share: float) -> float:
    """By the nearest rank, of values in order; 0 of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ordered:
        return 0.0
    return ordered[max(0, -(-round(share * len(ordered) * 1e6) // 1_000_000) - 1)]
