"""What is to be simulated, as plain values. Times are seconds since the start of the run."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import HeliographError
from heliograph.actors.model.message import Category, Channel, Priority

P99_SIGMAS: Final = 2.326347874
"""The 99th percentile of a normal distribution, in standard deviations."""


class ScenarioError(HeliographError):
    """The scenario cannot be played with this configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Messages of one kind: Poisson arrivals at `rate` a second from `from_s` to `to_s` (or at `hourly`, a rate for
    each hour of the run, again from the first after the last), and `burst` more at `from_s`, all at once; or
    `recorded`, the very moments. Each has a recipient of its own."""

    channel: Channel
    priority: Priority
    rate: float = 0.0
    hourly: tuple[float, ...] = ()
    burst: int = 0
    from_s: float = 0.0
    to_s: float = math.inf
    recorded: tuple[float, ...] = ()
    category: Category = Category.TRANSACTIONAL
    country: str = "IN"
    tags: tuple[str, ...] = ()
    providers: tuple[str, ...] | None = None

    def arrivals(self, draw: random.Random, duration_s: float) -> Iterator[float]:
        """When its messages come, in order.

        A rate that changes by the hour is drawn by thinning (Lewis and Shedler, 1979): moments at the highest rate, of
        which each is kept with the chance of its own hour's rate.
        """
        if self.recorded:
            yield from (at_s for at_s in self.recorded if self.from_s <= at_s < min(self.to_s, duration_s))
            return
        if self.from_s < duration_s:
            yield from (self.from_s for _ in range(self.burst))
        most = max(self.hourly, default=self.rate)
        at_s, end_s = self.from_s, min(self.to_s, duration_s)
        while most > 0:
            at_s += draw.expovariate(most)
            if at_s >= end_s:
                return
            if not self.hourly or draw.random() * most < self.hourly[int(at_s // 3600) % len(self.hourly)]:
                yield at_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a provider does with the calls that begin in a time. `latency_s` is the median and `latency_p99_s` the 99th
    percentile of a log-normal distribution, `outcomes` are chances; what is None is as the behaviour before says."""

    provider: str
    from_s: float = 0.0
    to_s: float = math.inf
    latency_s: float | None = None
    latency_p99_s: float | None = None
    outcomes: Mapping[Outcome, float] | None = None
    retry_after_s: float | None = None


class FaultKind(StrEnum):
    KILL = "kill"  # SIGKILL; after `for_s` another one starts in its place, never where that is None
    PAUSE = "pause"  # SIGSTOP, and SIGCONT after `for_s`
    REDIS_LOSS = "redis_loss"  # away for `for_s`, and empty when it is back
    POSTGRES_RESTART = "postgres_restart"  # away for `for_s`


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`supervisor` counts from 1; it is None for the stores."""

    at_s: float
    kind: FaultKind
    supervisor: int | None = None
    for_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    duration_s: float
    supervisors: int = 1
    seed: int = 0
    traffic: tuple[Traffic, ...] = ()
    behaviours: tuple[Behaviour, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Conduct:
    """A provider's behaviour at one moment. `mu` and `sigma` are those of the latency's logarithm."""

    mu: float
    sigma: float
    outcomes: tuple[tuple[float, Outcome], ...]
    """Cumulative chances, the last one 1."""
    retry_after_s: float | None = None


USUAL_LATENCY_S: Final = 0.1
USUAL_P99: Final = 4.0
"""How many times the median the 99th percentile is, where a scenario does not say."""


@dataclass(slots=True)
class Timeline:
    """One provider's conduct over time, from its behaviours: a later one wins where they overlap."""

    behaviours: tuple[Behaviour, ...]
    _changes: list[float] = field(init=False)
    _until_s: float = field(init=False, default=-math.inf)
    _now: Conduct = field(init=False)

    def __post_init__(self) -> None:
        self._changes = sorted({edge for b in self.behaviours for edge in (b.from_s, b.to_s)})

    def at(self, now_s: float) -> Conduct:
        """Times must not run backwards."""
        if now_s >= self._until_s:
            self._now = _conduct([b for b in self.behaviours if b.from_s <= now_s < b.to_s])
            self._until_s = next((edge for edge in self._changes if edge > now_s), math.inf)
        return self._now


def _conduct(behaviours: list[Behaviour]) -> Conduct:
    latency_s, p99_s, retry_after_s = USUAL_LATENCY_S, None, None
    outcomes: Mapping[Outcome, float] = {Outcome.ACCEPTED: 1.0}
    for b in behaviours:
        if b.latency_s is not None:
            latency_s, p99_s = b.latency_s, None
        if b.latency_p99_s is not None:
            p99_s = b.latency_p99_s
        outcomes = b.outcomes if b.outcomes is not None else outcomes
        retry_after_s = b.retry_after_s if b.retry_after_s is not None else retry_after_s
    latency_s = max(latency_s, 1e-6)
    p99_s = max(p99_s if p99_s is not None else latency_s * USUAL_P99, latency_s)
    total, so_far = sum(outcomes.values()), 0.0
    steps: list[tuple[float, Outcome]] = []
    for outcome, chance in outcomes.items():
        so_far += chance / total
        steps.append((so_far, outcome))
    steps[-1] = (1.0, steps[-1][1])
    return Conduct(math.log(latency_s), math.log(p99_s / latency_s) / P99_SIGMAS, tuple(steps), retry_after_s)
