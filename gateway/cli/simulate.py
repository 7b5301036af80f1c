"""`heliograph simulate`: what would have happened, by the very actors that would have been at work."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import CommandFailed, JsonFlag
from heliograph.gateway.cli.system import ConfigFile

if TYPE_CHECKING:
    from heliograph.actors.model.settings import Config
    from heliograph.actors.simulation.run import Outcome
    from heliograph.actors.simulation.scenario import Scenario

DIGITS: Final = 6


def add(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scenarios; several are set side by side.")],
    config: ConfigFile = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the file's.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with charts, which opens offline.")] = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Play a scenario in virtual time: scripted traffic, providers that behave as told, faults; the real actors.

    Of the configuration only [[providers]] and [delivery] count, and no credentials are needed. Without --config a
    sandbox carries each channel.
    """
    from heliograph.gateway.cli import scenario_file

    configured = _configured(config)
    names = frozenset(p.name for p in configured.providers if not p.test_only)
    scenarios = [scenario_file.read(file, names, seed=seed) for file in files]
    outcomes: list[tuple[str, Outcome]] = []
    for file, (outcome, took_s) in zip(files, _played(scenarios, configured), strict=True):
        outcomes.append((file.stem, outcome))
        output.tell(f"heliograph: {file.name}: {outcome.virtual_s:,.0f} s in {took_s:.1f} s")
    figures = [as_figures(outcome) for _, outcome in outcomes]
    if report is not None:
        _write(report, outcomes)
    if output.as_json():
        output.say_json(figures[0] if len(figures) == 1 else figures)
        return
    for (name, outcome), each in zip(outcomes, figures, strict=True):
        for line in _lines(name, outcome, each):
            output.say(line)
    if report is not None:
        output.say(f"report  {report}")


def _configured(file: Path | None) -> Config:
    from heliograph.gateway.cli.config import Need, load
    from heliograph.gateway.cli.up import SANDBOXES

    environ = dict(os.environ)
    if file is None:
        environ = {**SANDBOXES, **environ}
    return load(file, environ, need=frozenset({Need.PROVIDERS}), credentials=False).config


def _played(scenarios: Sequence[Scenario], configured: Config) -> Iterator[tuple[Outcome, float]]:
    """Each with the seconds that it took. Several are played at the same time, each by a process of its own."""
    if len(scenarios) == 1:
        yield _play(scenarios[0], configured)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(min(len(scenarios), os.cpu_count() or 1)) as processes:
        yield from processes.map(_play, scenarios, repeat(configured))


def _play(scenario: Scenario, configured: Config) -> tuple[Outcome, float]:
    import structlog

    from heliograph.actors.simulation.run import simulate as play
    from heliograph.providers import build, country_of

    # Virtual supervisors would tell of their virtual troubles.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    couriers = {p.name: build(p) for p in configured.providers if not p.test_only}
    # What is made lives for a moment; the collector has nothing to find in it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    began_s = time.monotonic()
    return play(scenario, configured, couriers, country_of), time.monotonic() - began_s


def _write(report: Path, outcomes: list[tuple[str, Outcome]]) -> None:
    from heliograph.gateway.cli.report import page

    try:
        report.write_text(page(outcomes), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{report} cannot be written: {error.strerror}") from error


def as_figures(outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints; times in seconds since the start."""
    from heliograph.actors.simulation.record import percentile

    record = outcome.record
    latencies = {priority: sorted(values) for priority, values in record.latencies.items()}
    return {
        "seed": outcome.scenario.seed,
        "virtual_seconds": _round(outcome.virtual_s),
        "accepted": record.accepted,
        "states": {str(state): n for state, n in outcome.states.items()},
        "lost": outcome.lost,
        "duplicates": record.duplicates,
        "rate_violations": sum(p.violations for p in record.providers.values()),
        "latency": {
            str(priority): {
                "p50": _round(percentile(values, 0.5)) if values else None,
                "p99": _round(percentile(values, 0.99)) if values else None,
                "max": _round(values[-1]) if values else None,
            }
            for priority, values in latencies.items()
        },
        "providers": {
            name: {
                "calls": p.handed,
                "outcomes": {str(o): p.outcomes[o] for o in sorted(p.outcomes)},
                "max_in_one_second": p.most_in_one_second,
                "breaker": [{"at": _round(change.at_s), "state": str(change.state)} for change in p.breaker],
            }
            for name, p in record.providers.items()
        },
    }


def _round(seconds: float) -> float:
    return round(seconds, DIGITS)


def _lines(name: str, outcome: Outcome, figures: dict[str, Any]) -> list[str]:
    found = {state: n for state, n in figures["states"].items() if n}
    return [
        f"{name}: seed {figures['seed']}, {figures['virtual_seconds']:,.0f} s until all was settled",
        f"accepted {figures['accepted']:,}; " + ", ".join(f"{state} {n:,}" for state, n in found.items()),
        f"lost {figures['lost']}, duplicates {figures['duplicates']}, rate violations {figures['rate_violations']}",
        *output.columns(
            ["priority", "p50 s", "p99 s", "max s"],
            [[p, each["p50"], each["p99"], each["max"]] for p, each in figures["latency"].items() if each["max"]],
        ),
        *output.columns(
            ["provider", "calls", "parts", "most in 1 s", "breaker opened", "outcomes"],
            [
                [
                    provider,
                    each["calls"],
                    outcome.record.providers[provider].parts,
                    each["max_in_one_second"],
                    sum(1 for change in each["breaker"] if change["state"] == "open"),
                    " ".join(f"{outcome}={n}" for outcome, n in each["outcomes"].items()),
                ]
                for provider, each in figures["providers"].items()
            ],
        ),
        "",
    ]
