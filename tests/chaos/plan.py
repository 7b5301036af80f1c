"""What happens in a run, and when: drawn whole from its seed before it begins, so that a seed can be run again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from random import Random
from typing import Final

PROVIDERS: Final = ("first", "second")


class Kind(StrEnum):
    KILL = "kill"  # a supervisor; started again after `for_s`
    STOP = "stop"  # SIGSTOP, then SIGCONT after `for_s`
    TERM = "term"  # a supervisor drains and is started again
    FLUSH = "flush"
    REDIS = "redis"  # it is restarted; `how`: kept, lost, old (the older half of its file)
    POSTGRES = "postgres"  # it is restarted; `how`: fast, immediate
    BACKENDS = "backends"  # all of PostgreSQL's sessions are terminated
    PROMOTE = "promote"  # another Redis takes over; `how`: empty, behind (it followed for the first half of `for_s`)
    FULL = "full"  # a store takes no writes; `how`: postgres (disk full), redis (memory full), saves (it cannot save)
    STANDBY = "standby"  # a store is read only; `how`: redis, postgres, failover (PostgreSQL falls and comes back so)
    PAUSE = "pause"  # SIGSTOP of a store; `how`: redis, postgres
    CLOCK = "clock"  # the wall clock of a supervisor, or of Redis, steps by `how` and back (where libfaketime is there)
    CUT = "cut"  # a line to a store: refused and ended; `how`: redis, postgres
    STALL = "stall"  # nothing goes through
    RESET = "reset"  # TCP resets
    PROVIDER = "provider"  # `how`: a mode of the sink


# How often each is drawn.
WEIGHTS: Final = {
    Kind.KILL: 5,
    Kind.STOP: 5,
    Kind.TERM: 2,
    Kind.FLUSH: 2,
    Kind.REDIS: 2,
    Kind.POSTGRES: 2,
    Kind.BACKENDS: 1,
    Kind.PROMOTE: 2,
    Kind.FULL: 2,
    Kind.STANDBY: 2,
    Kind.PAUSE: 2,
    Kind.CLOCK: 3,
    Kind.CUT: 3,
    Kind.STALL: 3,
    Kind.RESET: 2,
    Kind.PROVIDER: 4,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`target` is a supervisor's number or a provider's name; None: all of them, or what has only one."""

    at_s: float
    kind: Kind
    target: int | str | None = None
    how: str = ""
    for_s: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.at_s:6.2f} s  {self.kind}"]
        if self.target is not None:
            words.append(str(self.target))
        if self.how:
            words.append(self.how)
        if self.for_s:
            words.append(f"for {self.for_s:.2f} s")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Plan:
    """`rates` and `bursts` by provider. `gateways`: so many supervisors have every role, the others deliver only.
    `batch`: of the second provider. `backlog`: messages posted before all else. `posted`: messages a second then."""

    seed: int
    faults_s: float
    supervisors: int
    gateways: int
    rates: dict[str, int]
    bursts: dict[str, int]
    batch: int
    backlog: int
    posted: float
    faults: tuple[Fault, ...]


def written(plan: Plan) -> dict[str, object]:
    """As JSON has it, to be read by a person."""
    return asdict(plan) | {"faults": [str(fault) for fault in plan.faults]}


def draw(seed: int, faults_s: float) -> Plan:
    random = Random(seed)
    supervisors = random.randint(2, 4)
    rates = {name: random.choice((60, 100, 160)) for name in PROVIDERS}
    bursts = {name: random.choice((1, 10, rate)) for name, rate in rates.items()}
    faults: list[Fault] = []
    at_s = random.uniform(0.3, 1.0)
    while at_s < faults_s:
        faults.append(_fault(random, at_s, supervisors, longest_s=faults_s - at_s))
        at_s += random.expovariate(1.0)
    return Plan(
        seed=seed,
        faults_s=faults_s,
        supervisors=supervisors,
        gateways=random.randint(1, 2),
        rates=rates,
        bursts=bursts,
        batch=random.choice((1, 1, 5)),
        backlog=random.choice((200, 500, 1000)),
        posted=random.choice((60.0, 120.0, 180.0)),
        faults=tuple(faults),
    )


def _fault(random: Random, at_s: float, supervisors: int, longest_s: float) -> Fault:
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    one = random.randint(1, supervisors)
    match kind:
        case Kind.KILL:
            return Fault(at_s, kind, one, for_s=_about(random, 0.1, 4))
        case Kind.STOP:
            return Fault(at_s, kind, one, for_s=min(longest_s, _about(random, 0.1, 20)))
        case Kind.TERM:
            return Fault(at_s, kind, one)
        case Kind.FLUSH | Kind.BACKENDS:
            return Fault(at_s, kind)
        case Kind.REDIS:
            return Fault(at_s, kind, how=random.choice(("kept", "lost", "old")), for_s=_about(random, 0.05, 3))
        case Kind.POSTGRES:
            return Fault(at_s, kind, how=random.choice(("fast", "immediate")), for_s=_about(random, 0.05, 3))
        case Kind.PROMOTE:
            return Fault(at_s, kind, how=random.choice(("empty", "behind")), for_s=_about(random, 0.2, 5))
        case Kind.FULL:
            return Fault(at_s, kind, how=random.choice(("postgres", "redis", "saves")), for_s=_about(random, 0.2, 5))
        case Kind.STANDBY:
            how = random.choice(("redis", "postgres", "failover"))
            return Fault(at_s, kind, how=how, for_s=_about(random, 0.2, 5))
        case Kind.PAUSE:
            return Fault(at_s, kind, how=random.choice(("redis", "postgres")), for_s=_about(random, 0.1, 5))
        case Kind.CLOCK:
            how = f"{random.choice((-1, 1)) * _about(random, 1, 100_000):+.0f}s"
            return Fault(at_s, kind, random.choice((one, one, None)), how, _about(random, 1, 8))
        case Kind.CUT | Kind.STALL | Kind.RESET:
            target = random.choice((one, one, None))
            how = random.choice(("redis", "postgres"))
            return Fault(at_s, kind, target, how, 0.0 if kind is Kind.RESET else _about(random, 0.1, 5))
        case Kind.PROVIDER:
            how = random.choice(("refuse", "drop", "hold", "slow", "throttle"))
            return Fault(at_s, kind, random.choice(PROVIDERS), how, _about(random, 0.3, 4))


def _about(random: Random, least_s: float, most_s: float) -> float:
    """As often from 0.1 to 1 as from 1 to 10."""
    return math.exp(random.uniform(math.log(least_s), math.log(most_s)))
