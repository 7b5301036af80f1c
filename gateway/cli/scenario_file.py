"""A scenario as a TOML file: its tables, and how they become plain values. Faults name the key, all at once."""

from __future__ import annotations

import csv
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Category, Channel, Priority
from heliograph.actors.simulation.cluster import CALLING
from heliograph.actors.simulation.scenario import Behaviour, Fault, FaultKind, Scenario, Traffic
from heliograph.gateway.cli import config
from heliograph.gateway.cli.config import ConfigFaults
from heliograph.gateway.cli.schema import Duration, Listed, Real, Table, Whole

LONGEST_S: Final = 31 * 86_400.0
MOST_MESSAGES: Final = 50_000_000
OF_A_SUPERVISOR: Final = frozenset({FaultKind.KILL, FaultKind.PAUSE})


def _chances(value: object) -> object:
    if isinstance(value, dict) and not value:
        raise ValueError("should name at least one, such as { accepted = 1.0 }")
    return value


Chance = Annotated[float, Field(ge=0, le=1)]
Since = Annotated[Duration, Field(ge=0)]


class Simulation(Table):
    duration: Annotated[Duration, Field(gt=0, le=LONGEST_S)]
    supervisors: Annotated[Whole, Field(ge=1, le=64)] = 1
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0


class TrafficTable(Table):
    channel: Channel = Channel.SMS
    priority: Priority = Priority.NORMAL
    priorities: Annotated[dict[Priority, Chance], BeforeValidator(_chances)] | None = None
    rate: Annotated[Real, Field(ge=0, le=100_000)] = 0.0
    rates: Listed[Annotated[float, Field(ge=0, le=100_000)]] = Field([])
    burst: Annotated[Whole, Field(ge=0, le=10_000_000)] = 0
    file: Annotated[str, Field(min_length=1)] | None = None
    from_: Since = Field(0.0, alias="from")
    to: Since | None = None
    category: Category = Category.TRANSACTIONAL
    country: str = "IN"
    tags: Listed[str] = Field([])
    providers: Listed[str] | None = None

    @model_validator(mode="after")
    def _some(self) -> TrafficTable:
        if sum((self.rate > 0 or self.burst > 0, bool(self.rates), self.file is not None)) != 1:
            raise ValueError("should have either rate and burst, or rates (one an hour), or file")
        if self.to is not None and self.to <= self.from_:
            raise ValueError("should have its to after its from")
        if self.country not in CALLING:
            raise ValueError(f"has a country that is not simulated; there are {', '.join(sorted(CALLING))}")
        return self


class BehaviourTable(Table):
    provider: str
    from_: Since = Field(0.0, alias="from")
    to: Since | None = None
    latency: Annotated[Duration, Field(ge=0, le=3600)] | None = None
    latency_p99: Annotated[Duration, Field(ge=0, le=3600)] | None = None
    outcomes: Annotated[dict[Outcome, Chance], BeforeValidator(_chances)] | None = None
    retry_after: Annotated[Duration, Field(ge=0, le=86_400)] | None = None

    @model_validator(mode="after")
    def _sound(self) -> BehaviourTable:
        if self.to is not None and self.to <= self.from_:
            raise ValueError("should have its to after its from")
        if self.latency_p99 is not None and self.latency is not None and self.latency_p99 < self.latency:
            raise ValueError("has a latency_p99 below its latency, which is the median")
        if self.outcomes is not None and not 0.999 <= sum(self.outcomes.values()) <= 1.001:
            raise ValueError("has outcomes whose chances do not add up to 1")
        return self


class FaultTable(Table):
    at: Since
    kind: FaultKind
    supervisor: Annotated[Whole, Field(ge=1, le=64)] | None = None
    for_: Annotated[Duration, Field(ge=0, le=86_400)] | None = Field(None, alias="for")

    @model_validator(mode="after")
    def _whole(self) -> FaultTable:
        if (self.kind in OF_A_SUPERVISOR) != (self.supervisor is not None):
            needs = "needs a supervisor, counted from 1" if self.supervisor is None else "concerns no supervisor"
            raise ValueError(f"of the kind {self.kind} {needs}")
        if self.kind is FaultKind.PAUSE and self.for_ is None:
            raise ValueError('of the kind pause needs a length, such as for = "10s"')
        return self


class File(Table):
    simulation: Simulation
    traffic: list[TrafficTable] = Field([])
    behaviour: list[BehaviourTable] = Field([])
    fault: list[FaultTable] = Field([])


def read(file: Path, providers: frozenset[str], *, seed: int | None = None) -> Scenario:
    """ConfigFaults tells all that is wrong. `providers` are the configured names; `seed` goes before the file's."""
    parsed = _parse(file)
    faults = list(_faults(parsed, providers))
    traffic: list[Traffic] = []
    for number, table in enumerate(parsed.traffic):
        try:
            traffic += _traffic(table, file.parent)
        except ValueError as error:
            faults.append(config.Fault(f"traffic.{number + 1}.file", str(error), file.name))
    if faults:
        raise ConfigFaults(faults)
    settings = parsed.simulation
    return Scenario(
        duration_s=settings.duration,
        supervisors=settings.supervisors,
        seed=settings.seed if seed is None else seed,
        traffic=tuple(traffic),
        behaviours=tuple(map(_behaviour, parsed.behaviour)),
        faults=tuple(Fault(at_s=f.at, kind=f.kind, supervisor=f.supervisor, for_s=f.for_) for f in parsed.fault),
    )


def _parse(file: Path) -> File:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigFaults([config.Fault(str(file), f"cannot be read: {error.strerror}")]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not TOML: {error}"
        raise ConfigFaults([config.Fault(str(file), what)]) from error
    try:
        return File.model_validate(raw)
    except ValidationError as error:
        raise ConfigFaults(_fault(dict(item), file) for item in error.errors(include_url=False)) from None


def _fault(item: dict[str, Any], file: Path) -> config.Fault:
    key = ".".join(str(part + 1) if isinstance(part, int) else part.rstrip("_") for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return config.Fault(key, "unknown key", file.name)
    if item["type"] == "missing":
        return config.Fault(key, "is required", file.name)
    text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return config.Fault(key, text[0].lower() + text[1:], file.name)


def _faults(parsed: File, providers: frozenset[str]) -> Iterator[config.Fault]:
    known = ", ".join(sorted(providers))
    for number, b in enumerate(parsed.behaviour, 1):
        if b.provider not in providers:
            yield config.Fault(f"behaviour.{number}.provider", f"there is no such provider; configured are {known}")
    for number, t in enumerate(parsed.traffic, 1):
        if strangers := set(t.providers or ()) - providers:
            yield config.Fault(f"traffic.{number}.providers", f"there is no {min(strangers)}; configured are {known}")
        if max([t.rate, *t.rates]) * parsed.simulation.duration > MOST_MESSAGES:
            yield config.Fault(f"traffic.{number}.rate", f"makes more than {MOST_MESSAGES:,} messages")
    for number, f in enumerate(parsed.fault, 1):
        if f.supervisor is not None and f.supervisor > parsed.simulation.supervisors:
            yield config.Fault(f"fault.{number}.supervisor", f"there are {parsed.simulation.supervisors}")
    by_supervisor: dict[int | None, list[FaultTable]] = defaultdict(list)
    for f in sorted(parsed.fault, key=lambda f: f.at):
        by_supervisor[f.supervisor if f.kind in OF_A_SUPERVISOR else None].append(f)
    for supervisor, faults in by_supervisor.items():
        for first, second in pairwise(faults):
            if supervisor is not None and first.kind is FaultKind.KILL and first.for_ is None:
                yield config.Fault("fault", f"supervisor {supervisor} was killed for good before {second.at:g} s")
            elif supervisor is not None and second.at < first.at + (first.for_ or 0.0):
                yield config.Fault("fault", f"two faults of supervisor {supervisor} overlap at {second.at:g} s")


def _traffic(table: TrafficTable, folder: Path) -> Iterator[Traffic]:
    common: dict[str, Any] = {
        "channel": table.channel,
        "category": table.category,
        "country": table.country,
        "tags": tuple(table.tags),
        "providers": None if table.providers is None else tuple(table.providers),
        "from_s": table.from_,
        **({} if table.to is None else {"to_s": table.to}),
    }
    if table.file is not None:
        for (channel, priority), moments in sorted(_recorded(folder / table.file, table).items()):
            recorded = tuple(sorted(moments))
            yield Traffic(**common | {"channel": channel, "priority": priority, "recorded": recorded})
        return
    mix = table.priorities or {table.priority: 1.0}
    total = sum(mix.values())
    for priority, chance in mix.items():
        part = chance / total
        yield Traffic(
            **common,
            priority=priority,
            rate=table.rate * part,
            hourly=tuple(rate * part for rate in table.rates),
            burst=round(table.burst * part),
        )


def _recorded(file: Path, table: TrafficTable) -> dict[tuple[Channel, Priority], list[float]]:
    """A CSV with the column `at` (seconds, or RFC 3339: then since the first row), and `channel` and `priority` where
    they differ from the table's. ValueError names the line."""
    found: dict[tuple[Channel, Priority], list[float]] = defaultdict(list)
    first: datetime | None = None
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), 2):
                at = (row.get("at") or "").strip()
                try:
                    at_s = float(at)
                except ValueError:
                    try:
                        moment = datetime.fromisoformat(at)
                        first = first or moment
                        at_s = (moment - first).total_seconds()
                    except (ValueError, TypeError):
                        raise ValueError(f"{file.name}, line {number}: at should be seconds or RFC 3339") from None
                try:
                    channel = Channel(row.get("channel") or table.channel)
                    priority = Priority(row.get("priority") or table.priority)
                except ValueError as error:
                    raise ValueError(f"{file.name}, line {number}: {error}") from None
                found[channel, priority].append(at_s)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{file.name} is not UTF-8") from None
    if not found:
        raise ValueError(f"{file.name} has no rows")
    return found


def _behaviour(table: BehaviourTable) -> Behaviour:
    return Behaviour(
        provider=table.provider,
        from_s=table.from_,
        **({} if table.to is None else {"to_s": table.to}),
        latency_s=table.latency,
        latency_p99_s=table.latency_p99,
        outcomes=table.outcomes,
        retry_after_s=table.retry_after,
    )
