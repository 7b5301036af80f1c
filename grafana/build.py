"""Makes grafana/dashboards/*.json with the types of Grafana's own SDK: `make dashboards`.

Two dashboards: *overview*, what a message meets on its way, and *actors*, each actor and each provider by itself.

Rules that the tests hold: every panel says what it shows and in which unit; a counter is read as a rate or an increase
over `$__rate_interval`; a fact of the whole cluster (CLUSTER_FACTS) is true on whichever supervisor tells it, so it is
read by `max by` over all of them and never summed, whatever `$instance` chooses.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

with warnings.catch_warnings():
    # The SDK would rather have version 2 of the format, which Grafana reads from files since 13 only.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, timeseries
    from grafana_foundation_sdk.builders import dashboard as make
    from grafana_foundation_sdk.cog import variants
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as c
    from grafana_foundation_sdk.models import dashboard as d
    from grafana_foundation_sdk.models import units
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER: Final = Path(__file__).parent / "dashboards"
CLUSTER_FACTS: Final = ("queue_depth", "queue_oldest_age_seconds", "dead_letters", "accounting_drift")
SOURCE: Final = c.DataSourceRef(type_val="prometheus", uid="${datasource}")
STUCK_S: Final = 60
"""An actor that has not got on for so long is not alive; the alert HeliographActorStuck says the same."""

JOB: Final = 'job="$job"'
HERE: Final = f'{JOB}, instance=~"$instance"'
ACTOR: Final = f'{HERE}, actor=~"$actor"'
PROVIDER: Final = f'{HERE}, provider=~"$provider"'

WHOLE_ROW: Final = 24
HEIGHT: Final = 8

Targets = Mapping[str, str]
"""PromQL by legend."""


AnyPanel = timeseries.Panel | stat.Panel | statetimeline.Panel | table.Panel


# ------------------------------------------------------------------------------------------------- queries


def rate(family: str, by: str, where: str = HERE) -> str:
    return f"sum by ({by}) (rate(heliograph_{family}{{{where}}}[$__rate_interval]))"


def increase(family: str, by: str, where: str = HERE) -> str:
    return f"sum by ({by}) (increase(heliograph_{family}{{{where}}}[$__rate_interval]))"


def quantile(q: float, family: str, by: str = "", where: str = HERE) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{family}_bucket', labels, where)})"


def fact(family: str, by: str = "") -> str:
    """Of the cluster: each supervisor tells the same one."""
    return f"max by ({by or 'job'}) (heliograph_{family}{{{JOB}}})"


def quantiles(family: str, where: str) -> Targets:
    return {f"p{100 * q:g}": quantile(q, family, where=where) for q in (0.5, 0.95, 0.99)}


def alive(where: str, by: str) -> str:
    return f"min by ({by}) (time() - heliograph_actor_last_progress_timestamp_seconds{{{where}}} < bool {STUCK_S})"


# -------------------------------------------------------------------------------------------------- panels


def lines(
    title: str, about: str, unit: str, targets: Targets, *, span: int = 12, stack: bool = False, least: float = 0
) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(least)
        .span(span)
        .height(HEIGHT)
        .fill_opacity(30 if stack else 10)
        .show_points(c.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
        .targets(_queries(targets))
    )
    return panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL)) if stack else panel


def number(
    title: str, about: str, unit: str, targets: Targets, steps: Sequence[tuple[float | None, str]], *, span: int = 4
) -> stat.Panel:
    """One figure as it is now; `steps` are (from, colour)."""
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(4)
        .thresholds(_thresholds(steps))
        .color_mode(c.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(c.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets(_queries(targets))
    )


def timeline(
    title: str, about: str, targets: Targets, states: Mapping[int, tuple[str, str]], *, span: int = WHOLE_ROW
) -> statetimeline.Panel:
    """`states` are a value's (name, colour)."""
    names = {
        str(value): d.ValueMappingResult(text=text, color=colour, index=value)
        for value, (text, colour) in states.items()
    }
    return (
        statetimeline.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(units.Short)
        .span(span)
        .height(HEIGHT)
        .mappings([d.ValueMap(options=names)])
        .merge_values(True)
        .show_value(c.VisibilityMode.AUTO)
        .fill_opacity(80)
        .targets(_queries(targets))
    )


def _queries(targets: Targets) -> list[Builder[variants.Dataquery]]:
    return [
        prometheus.Dataquery().ref_id(ref).expr(expr).legend_format(legend).range()
        for ref, (legend, expr) in zip("ABCDEFGH", targets.items(), strict=False)
    ]


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> make.ThresholdsConfig:
    return (
        make.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=value, color=colour) for value, colour in steps])
    )


def columns(
    title: str, about: str, keys: Sequence[str], figures: Sequence[tuple[str, str, str]], *, height: int = HEIGHT
) -> table.Panel:
    """A line for each combination of the labels `keys`; `figures` are (heading, unit, PromQL)."""
    panel = (table.Panel().title(title).description(about).datasource(SOURCE).unit(units.Short).span(WHOLE_ROW)).height(
        height
    )
    names = {}
    for ref, (heading, unit, expr) in zip("ABCDEFGH", figures, strict=False):
        names[f"Value #{ref}"] = heading
        panel.with_target(prometheus.Dataquery().ref_id(ref).expr(expr).format(PromQueryFormat.TABLE).instant())
        panel.override_by_name(heading, [d.DynamicConfigValue(id_val="unit", value=unit)])
    order = {name: number for number, name in enumerate([*keys, *names])}
    panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names},
        )
    )


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; with `repeat`, once for each value of that variable, the panels shown when opened."""

    title: str
    panels: Sequence[AnyPanel]
    repeat: str | None = None

    def add_to(self, board: make.Dashboard) -> None:
        heading = make.Row(self.title)
        if self.repeat is None:
            board.with_row(heading)
            for panel in self.panels:
                board.with_panel(panel)
            return
        heading.repeat(self.repeat)
        for panel in self.panels:
            heading.with_panel(panel)
        board.with_row(heading)


# ----------------------------------------------------------------------------------------------- variables


def _variables(*more: tuple[str, str]) -> list[Builder[d.VariableModel]]:
    chosen = [_labels("instance", "heliograph_build_info"), *(_labels(name, family) for name, family in more)]
    job = (
        make.QueryVariable("job")
        .label("Job")
        .description("The scrape job of one cluster's supervisors.")
        .datasource(SOURCE)
        .query("label_values(heliograph_build_info, job)")
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
    )
    source = (
        make.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the supervisors.")
        .type("prometheus")
    )
    return [source, job, *chosen]


def _labels(name: str, family: str) -> make.QueryVariable:
    return (
        make.QueryVariable(name)
        .label(name.capitalize())
        .description(f"Which {name}s to show.")
        .datasource(SOURCE)
        .query(f"label_values({family}{{{JOB}}}, {name})")
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


# ---------------------------------------------------------------------------------------------- dashboards

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
BREAKER: Final = {0: ("closed", GREEN), 1: ("half-open", YELLOW), 2: ("open", RED)}
LIFE: Final = {0: ("stuck", RED), 1: ("alive", GREEN)}


def _now() -> list[AnyPanel]:
    good_at_0 = [(None, GREEN), (1, RED)]
    return [
        number(
            "Supervisors up",
            "Supervisors that answered the last scrape, of those that are to be scraped.",
            units.Short,
            {"up": f"sum(up{{{JOB}}})", "of": f"count(up{{{JOB}}})"},
            [(None, RED), (1, GREEN)],
        ),
        number(
            "Stores",
            "Whether PostgreSQL and Redis answer every supervisor: 1 is yes.",
            units.Short,
            {"{{store}}": f"min by (store) (heliograph_store_up{{{HERE}}})"},
            [(None, RED), (1, GREEN)],
        ),
        number(
            "Accounting drift",
            "Messages accepted minus messages accounted for. Anything but 0 is a bug: see its runbook.",
            units.Short,
            {"drift": fact("accounting_drift")},
            [(None, RED), (0, GREEN), (1, RED)],
        ),
        number(
            "Open dead letters",
            "Messages that failed for good and wait for a person.",
            units.Short,
            {"open": f"sum({fact('dead_letters', 'reason')})"},
            [(None, GREEN), (1, YELLOW)],
        ),
        number(
            "Oldest due message",
            "How long the message that is due longest has been due, over all queues.",
            units.Seconds,
            {"oldest": fact("queue_oldest_age_seconds")},
            [(None, GREEN), (60, YELLOW), (300, RED)],
        ),
        number(
            "Breakers not closed",
            "Providers that some supervisor does not call freely just now.",
            units.Short,
            {"providers": f"sum(max by (provider) (heliograph_breaker_state{{{HERE}}}) > bool 0)"},
            good_at_0,
        ),
    ]


def _messages() -> list[AnyPanel]:
    return [
        lines(
            "Messages into each state",
            "Entries of messages into a state per second. One message enters several, `queued` again at each retry.",
            units.MessagesPerSecond,
            {"{{state}}": rate("messages_total", "state")},
            stack=True,
        ),
        lines(
            "Taken by providers",
            "Messages that a provider took, per second.",
            units.MessagesPerSecond,
            {"{{channel}}": rate("messages_total", "channel", f'{HERE}, state="sent"')},
        ),
        lines(
            "Accepted to taken, 95th percentile",
            "From our 202 to a provider's yes, by priority; what waited for send_at waited long.",
            units.Seconds,
            {"{{channel}} {{priority}}": quantile(0.95, "delivery_duration_seconds", "channel, priority")},
        ),
        lines(
            "Accepted to taken, median",
            "From our 202 to a provider's yes, by priority.",
            units.Seconds,
            {"{{channel}} {{priority}}": quantile(0.5, "delivery_duration_seconds", "channel, priority")},
        ),
        lines(
            "SMS parts",
            "Parts that providers took per second; they are what is paid for.",
            units.CountsPerSecond,
            {"{{provider}}": rate("message_parts_total", "provider")},
        ),
        lines(
            "Unanswered attempts settled",
            "Attempts without an answer whose truth was learnt afterwards, by how: asked, or a late answer.",
            units.Short,
            {"{{provider}} {{how}}": increase("unknown_settled_total", "provider, how")},
        ),
    ]


def _queues() -> list[AnyPanel]:
    return [
        lines(
            "Due in each queue",
            "Messages that are due and wait, over the whole cluster.",
            units.Short,
            {"{{queue}}": fact("queue_depth", "queue")},
        ),
        lines(
            "Age of the oldest due message",
            "How long each queue's oldest due message has been due.",
            units.Seconds,
            {"{{queue}}": fact("queue_oldest_age_seconds", "queue")},
        ),
        lines(
            "Open dead letters by reason",
            "Over the whole cluster.",
            units.Short,
            {"{{reason}}": fact("dead_letters", "reason")},
            stack=True,
        ),
        lines(
            "Accounting drift over time",
            "Messages accepted minus messages accounted for, looked up once a minute.",
            units.Short,
            {"drift": fact("accounting_drift")},
            least=-1,
        ),
    ]


def _providers() -> list[AnyPanel]:
    return [
        timeline(
            "Breakers",
            "The strictest state that any supervisor sees.",
            {"{{provider}}": f"max by (provider) (heliograph_breaker_state{{{HERE}}})"},
            BREAKER,
        ),
        lines(
            "Attempts by outcome",
            "Ended attempts per second over all providers.",
            units.RequestsPerSecond,
            {"{{outcome}}": rate("attempts_total", "outcome")},
            stack=True,
        ),
        lines(
            "Attempts by provider",
            "Ended attempts per second.",
            units.RequestsPerSecond,
            {"{{provider}}": rate("attempts_total", "provider")},
            stack=True,
        ),
        lines(
            "Call duration, 95th percentile",
            "From a call's first byte to its answer.",
            units.Seconds,
            {"{{provider}}": quantile(0.95, "attempt_duration_seconds", "provider")},
        ),
        lines(
            "Breaker changes",
            "Changes that supervisors saw, each by itself, in the interval.",
            units.Short,
            {"{{provider}} to {{to}}": increase("breaker_transitions_total", "provider, to")},
        ),
        lines(
            "Effective rate",
            "Recipients per second that the whole cluster may hand over now: less after throttling or an opening.",
            units.CountsPerSecond,
            {"{{provider}}": f"max by (provider) (heliograph_limiter_rate{{{HERE}}})"},
        ),
        lines(
            "Wait for a send slot, 95th percentile",
            "How long claimed messages waited for the provider's rate.",
            units.Seconds,
            {"{{provider}}": quantile(0.95, "limiter_wait_seconds", "provider")},
        ),
        lines(
            "Quota left",
            "What a provider's quota still allows, for those that have one.",
            units.Short,
            {"{{provider}}": f"min by (provider) (heliograph_provider_quota_remaining{{{HERE}}})"},
        ),
        lines(
            "Stops",
            "Stops for more than a passing fault: the account is refused, the quota is used up, or good recipients are "
            "rejected.",
            units.Short,
            {"{{provider}}: {{reason}}": increase("provider_stops_total", "provider, reason")},
        ),
    ]


def _api() -> list[AnyPanel]:
    return [
        lines(
            "Requests by status",
            "Answers of the API and the console per second.",
            units.RequestsPerSecond,
            {"{{status}}": rate("http_requests_total", "status")},
            stack=True,
        ),
        lines(
            "Requests by route",
            "Answers per second.",
            units.RequestsPerSecond,
            {"{{method}} {{route}}": rate("http_requests_total", "method, route")},
        ),
        lines(
            "Request duration, 95th percentile",
            "From a request's head to its answer.",
            units.Seconds,
            {"{{route}}": quantile(0.95, "http_request_duration_seconds", "route")},
            span=16,
        ),
        number(
            "Versions",
            "Supervisors by the version of Heliograph and Python that they run.",
            units.Short,
            {"{{version}} on Python {{python}}": f"count by (version, python) (heliograph_build_info{{{HERE}}})"},
            [(None, BLUE)],
            span=8,
        ),
    ]


def overview() -> d.Dashboard:
    rows = [
        Row("Now", _now()),
        Row("Messages", _messages()),
        Row("Queues and dead letters", _queues()),
        Row("Providers", _providers()),
        Row("Gateway", _api()),
    ]
    return _dashboard(
        "heliograph-overview",
        "Heliograph: overview",
        "What messages meet on their way: intake, queues, providers, dead letters.",
        _variables(),
        rows,
    )


def _all_actors() -> list[AnyPanel]:
    by = "instance, actor"

    def of(family: str) -> str:
        return f"max by ({by}) (heliograph_{family}{{{ACTOR}}})"

    return [
        columns(
            "Actors now",
            "One line for each actor of each supervisor. Alive: it got on within a minute, or has nothing to do.",
            ("instance", "actor"),
            [
                ("Alive", "bool_yes_no", alive(ACTOR, by)),
                ("Since progress", units.Seconds, f"time() - {of('actor_last_progress_timestamp_seconds')}"),
                ("Mailbox", units.Short, of("actor_mailbox_depth")),
                ("Room", units.Short, of("actor_mailbox_capacity")),
                ("Mean handling", units.Seconds, _mean_handling(by)),
                ("Restarts", units.Short, _restarts(by)),
            ],
            height=16,
        ),
        timeline(
            "Alive",
            "Stuck: an actor of that name has not got on for a minute on some supervisor.",
            {"{{actor}}": alive(ACTOR, "actor")},
            LIFE,
        ),
    ]


def _mean_handling(by: str) -> str:
    spent, turns = (rate(f"actor_handle_duration_seconds_{part}", by, ACTOR) for part in ("sum", "count"))
    return f"{spent} / {turns}"


def _restarts(by: str) -> str:
    return f"sum by ({by}) (increase(heliograph_actor_restarts_total{{{ACTOR}}}[$__range]))"


def _one_actor() -> list[AnyPanel]:
    return [
        timeline("$actor alive", "On each supervisor.", {"{{instance}}": alive(ACTOR, "instance")}, LIFE, span=8),
        lines(
            "$actor mailbox",
            "Messages that wait for it, and how many find room.",
            units.Short,
            {
                "{{instance}}": f"max by (instance) (heliograph_actor_mailbox_depth{{{ACTOR}}})",
                "room": f"min(heliograph_actor_mailbox_capacity{{{ACTOR}}})",
            },
            span=8,
        ),
        lines(
            "$actor handling time",
            "What it spends on one message or turn.",
            units.Seconds,
            quantiles("actor_handle_duration_seconds", ACTOR),
            span=8,
        ),
        lines(
            "$actor turns",
            "Messages or turns per second.",
            units.OpsPerSecond,
            {"{{instance}}": rate("actor_handle_duration_seconds_count", "instance", ACTOR)},
            span=8,
        ),
        lines(
            "$actor restarts",
            "Times it was built anew after a crash, in the interval.",
            units.Short,
            {"{{instance}}": increase("actor_restarts_total", "instance", ACTOR)},
            span=8,
        ),
        lines(
            "$actor since its last progress",
            "Stays near nothing while it works or has nothing to do.",
            units.Seconds,
            {
                "{{instance}}": "time() - max by (instance) "
                f"(heliograph_actor_last_progress_timestamp_seconds{{{ACTOR}}})"
            },
            span=8,
        ),
    ]


def _one_provider() -> list[AnyPanel]:
    return [
        timeline(
            "$provider breaker",
            "As each supervisor sees it.",
            {"{{instance}}": f"max by (instance) (heliograph_breaker_state{{{PROVIDER}}})"},
            BREAKER,
            span=12,
        ),
        lines(
            "$provider attempts by outcome",
            "Ended attempts per second.",
            units.RequestsPerSecond,
            {"{{outcome}}": rate("attempts_total", "outcome", PROVIDER)},
            stack=True,
        ),
        lines(
            "$provider effective rate",
            "Recipients per second for the whole cluster, as each supervisor reckons it.",
            units.CountsPerSecond,
            {"{{instance}}": f"max by (instance) (heliograph_limiter_rate{{{PROVIDER}}})"},
        ),
        lines(
            "$provider wait for a send slot",
            "How long claimed messages waited for the rate.",
            units.Seconds,
            quantiles("limiter_wait_seconds", PROVIDER),
        ),
        lines(
            "$provider call duration",
            "From a call's first byte to its answer.",
            units.Seconds,
            quantiles("attempt_duration_seconds", PROVIDER),
        ),
        lines(
            "$provider breaker changes",
            "Changes that supervisors saw, in the interval.",
            units.Short,
            {"to {{to}}": increase("breaker_transitions_total", "to", PROVIDER)},
        ),
    ]


def actors() -> d.Dashboard:
    return _dashboard(
        "heliograph-actors",
        "Heliograph: actors",
        "The health of each actor, and of each provider.",
        _variables(("actor", "heliograph_actor_mailbox_capacity"), ("provider", "heliograph_breaker_state")),
        [
            Row("All actors", _all_actors()),
            Row("Provider $provider", _one_provider(), repeat="provider"),
            Row("Actor $actor", _one_actor(), repeat="actor"),
        ],
    )


def _dashboard(
    uid: str,
    title: str,
    about: str,
    variables: list[Builder[d.VariableModel]],
    rows: Sequence[Row],
) -> d.Dashboard:
    board = (
        make.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["heliograph"])
        .readonly()
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .variables(variables)
        .link(
            make.DashboardLink("Heliograph")
            .type(d.DashboardLinkType.DASHBOARDS)
            .tags(["heliograph"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for each in rows:
        each.add_to(board)
    made = board.build()
    _number(made.panels or [])
    return made


def _number(panels: Sequence[d.Panel | d.RowPanel]) -> None:
    """Links to a panel hold its number."""
    numbers = count(1)
    for panel in panels:
        panel.id_val = next(numbers)
        for inner in panel.panels if isinstance(panel, d.RowPanel) else ():
            inner.id_val = next(numbers)


DASHBOARDS: Final = {"overview": overview, "actors": actors}


def build() -> dict[str, str]:
    """The text of each file by its name."""
    return {
        f"{name}.json": json.dumps(make_it(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
        for name, make_it in DASHBOARDS.items()
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in build().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{FOLDER / name}\n")


if __name__ == "__main__":
    main()
