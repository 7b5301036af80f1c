"""The HTML report of simulated runs: one file, charts drawn as SVG, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from heliograph.actors.model.attempt import Outcome as Answered
from heliograph.actors.model.duration import format_duration
from heliograph.actors.model.message import Channel, Priority
from heliograph.actors.model.provider import BreakerState
from heliograph.actors.simulation.record import percentile

if TYPE_CHECKING:
    from heliograph.actors.simulation.run import Outcome

WIDTH: Final = 720
HEIGHT: Final = 180
LEFT: Final = 56
BOTTOM: Final = 22
TOP: Final = 10
TICKS: Final = 6
HERE: Final = files("heliograph.gateway.cli")
# Told apart also by those who see few colours (Okabe and Ito), each on white and on black.
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
BREAKER: Final = {BreakerState.CLOSED: "#009e73", BreakerState.HALF_OPEN: "#e69f00", BreakerState.OPEN: "#d55e00"}

Series = Sequence[tuple[str, Sequence[float]]]
"""A name, and a value for each part of the run."""


def page(outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """The whole report; several runs stand side by side."""
    jinja = Environment(
        loader=FunctionLoader(lambda name: (HERE / "templates" / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template("simulation.html").render(runs=[_run(name, outcome) for name, outcome in outcomes])


def _run(name: str, outcome: Outcome) -> dict[str, Any]:
    record = outcome.record
    over_time = (record.accepted_over_time, record.taken_over_time, record.calls_over_time)
    parts = 1 + max((key[0] for counts in over_time for key in counts), default=0)
    part_s = record.part_s

    def rates(counts: Mapping[Any, int], *key: object) -> list[float]:
        return [counts.get((part, *key), 0) / part_s for part in range(parts)]

    throughput = [
        (f"{channel} {what}", values)
        for channel in Channel
        for what, counts in (("accepted", record.accepted_over_time), ("taken", record.taken_over_time))
        if any(values := rates(counts, channel))
    ]
    waiting = [
        (str(priority), values)
        for priority in Priority
        if any(values := [float(record.waiting_over_time.get((part, priority), 0)) for part in range(parts)])
    ]
    return {
        "name": name,
        "seed": outcome.scenario.seed,
        "length": format_duration(round(outcome.virtual_s)),
        "accepted": record.accepted,
        "lost": outcome.lost,
        "duplicates": record.duplicates,
        "violations": sum(p.violations for p in record.providers.values()),
        "states": [(str(state), n) for state, n in outcome.states.items() if n],
        "latencies": [
            (str(priority), percentile(values, 0.5), percentile(values, 0.99), values[-1])
            for priority, unordered in record.latencies.items()
            if (values := sorted(unordered))
        ],
        "providers": [
            (
                n,
                p.handed,
                p.parts,
                p.most_in_one_second,
                ", ".join(f"{o} {p.outcomes[o]:,}" for o in Answered if o in p.outcomes),
            )
            for n, p in record.providers.items()
        ],
        "throughput": lines("Messages a second, accepted and taken", throughput, part_s),
        "waiting": lines("Messages that wait, by priority", waiting, part_s),
        "breakers": breakers(outcome, parts * part_s),
        "calls": [
            stack(
                f"{n}: messages a second, by what came of them",
                [
                    (str(answered), values)
                    for answered in Answered
                    if any(values := rates(record.calls_over_time, n, answered))
                ],
                part_s,
            )
            for n in record.providers
        ],
    }


# ---------------------------------------------------------------------------------------------------- charts


def lines(title: str, series: Series, part_s: float) -> Markup:
    """One line for each name."""
    most = max((max(values) for _, values in series), default=0.0)
    x, y, parts = _scales(series, most)
    body = [
        f'<polyline fill="none" stroke="{COLOURS[n % len(COLOURS)]}" stroke-width="1.5" points="'
        + " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values))
        + '"/>'
        for n, (_, values) in enumerate(series)
    ]
    return _chart(title, body, series, most, y, parts * part_s)


def stack(title: str, series: Series, part_s: float) -> Markup:
    """Areas on top of each other."""
    count = max((len(values) for _, values in series), default=1)
    sums = [sum(values[i] for _, values in series) for i in range(count)] if series else [0.0]
    most = max(sums)
    x, y, parts = _scales(series, most)
    below, body = [0.0] * count, []
    for n, (_, values) in enumerate(series):
        above = [b + v for b, v in zip(below, values, strict=True)]
        edge = [f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(above)]
        edge += [f"{x(i):.1f},{y(below[i]):.1f}" for i in reversed(range(count))]
        body.append(f'<polygon fill="{COLOURS[n % len(COLOURS)]}" points="{" ".join(edge)}"/>')
        below = above
    return _chart(title, body, series, most, y, parts * part_s)


def breakers(outcome: Outcome, until_s: float) -> Markup:
    """A band for each provider, coloured by its breaker's state."""
    row, records = 24, outcome.record.providers
    height = TOP + row * len(records) + BOTTOM
    body = []
    for n, (name, record) in enumerate(records.items()):
        changes = [(0.0, BreakerState.CLOSED), *((c.at_s, c.state) for c in record.breaker), (until_s, None)]
        for (from_s, state), (to_s, _) in pairwise(changes):
            if state is None:
                continue
            left, right = (LEFT + (WIDTH - LEFT) * min(at_s / until_s, 1.0) for at_s in (from_s, to_s))
            body.append(
                f'<rect x="{left:.1f}" y="{TOP + row * n + 4}" width="{max(right - left, 0.8):.1f}" height="{row - 8}" '
                f'fill="{BREAKER[state]}"><title>{escape(name)} {state} from {format_duration(from_s)}</title></rect>'
            )
        body.append(f'<text x="2" y="{TOP + row * n + 16}">{escape(name[:8])}</text>')
    body += _hours(until_s, height)
    legend = _legend([(str(state).replace("_", "-"), colour) for state, colour in BREAKER.items()])
    return _figure("Breakers", body, height, legend)


def _scales(series: Series, most: float) -> tuple[Callable[[int], float], Callable[[float], float], int]:
    parts = max((len(values) for _, values in series), default=1)
    wide, high = (WIDTH - LEFT) / max(parts - 1, 1), HEIGHT - TOP - BOTTOM
    return (lambda i: LEFT + i * wide), (lambda value: TOP + high * (1 - value / (most or 1.0))), parts


def _chart(
    title: str, body: list[str], series: Series, most: float, y: Callable[[float], float], until_s: float
) -> Markup:
    for value in (0.0, most / 2, most):
        body.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>')
        body.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.4g}</text>')
    body += _hours(until_s, HEIGHT)
    legend = _legend([(name, COLOURS[n % len(COLOURS)]) for n, (name, _) in enumerate(series)])
    return _figure(title, body, HEIGHT, legend)


def _hours(until_s: float, height: int) -> list[str]:
    found = []
    for tick in range(TICKS + 1):
        at = LEFT + (WIDTH - LEFT) * tick / TICKS
        anchor = "end" if tick == TICKS else "middle" if tick else "start"
        text = format_duration(round(until_s * tick / TICKS))
        found.append(f'<text x="{at:.1f}" y="{height - 6}" text-anchor="{anchor}">{text}</text>')
    return found


def _legend(names: Iterable[tuple[str, str]]) -> str:
    return " ".join(
        f'<span class="key"><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in names
    )


def _figure(title: str, body: list[str], height: int, legend: str) -> Markup:
    # Everything in here is drawn by this module; names went through escape.
    return Markup(  # noqa: S704
        f'<figure><figcaption>{escape(title)} {legend}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(body)}</svg></figure>'
    )
