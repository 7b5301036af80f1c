"""The dashboards: as their code makes them, as Grafana's types read them, and by the rules of the house."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.plugins import register_default_plugins

from grafana import build
from tests.support.promql import families, family_of, names_in

ROOT = Path(__file__).parents[3]
NAMES = sorted(build.DASHBOARDS)
CLUSTER_FACTS = {"queue_depth", "queue_oldest_age_seconds", "dead_letters", "accounting_drift"}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((build.FOLDER / f"{name}.json").read_text())
    return found


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or ()
        else:
            yield panel


@dataclass(frozen=True)
class Query:
    board: str
    panel: str
    expr: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}: {self.expr}"


def queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["expr"], bool(target.get("instant")))
        for name in NAMES
        for panel in panels(read(name))
        for target in panel["targets"]
    ]


def test_the_files_are_what_the_code_makes() -> None:
    """`make dashboards` writes them."""
    assert {path.name: path.read_text() for path in build.FOLDER.iterdir()} == build.build()


@pytest.mark.parametrize("name", NAMES)
def test_the_types_of_grafana_read_a_file_and_write_the_same(name: str) -> None:
    register_default_plugins()
    whole = build.d.Dashboard.from_json(read(name))
    assert json.loads(json.dumps(whole, cls=build.JSONEncoder)) == read(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_asks_for_its_data_source_and_job(name: str) -> None:
    variables = {each["name"]: each for each in read(name)["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["job"]["query"] == "label_values(heliograph_build_info, job)"
    for each in variables.values():
        assert each["label"]
        if each["type"] == "query":
            assert each["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("name", NAMES)
def test_nobody_edits_a_dashboard_in_grafana(name: str) -> None:
    board = read(name)
    assert board["editable"] is False
    assert board["uid"] == f"heliograph-{name}"
    assert "id" not in board


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(read(name)):
        assert panel["title"]
        assert panel["description"].endswith((".", "!"))
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_numbers_and_places_of_their_own(name: str) -> None:
    board = read(name)
    numbers = [each["id"] for each in (*board["panels"], *panels(board)) if each["type"] == "row"]
    numbers += [panel["id"] for panel in panels(board)]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels(board):
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_query_keeps_to_the_chosen_job(query: Query) -> None:
    selectors = re.findall(r"\b(?:up|heliograph_\w+)(\{[^}]*\})?", query.expr)
    assert selectors
    assert all('job="$job"' in selector for selector in selectors)


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_counter_is_read_as_rate_or_increase(query: Query) -> None:
    """Over the interval that Grafana reckons; what is read once, also over the whole time shown."""
    known = families()
    spans = {"[$__rate_interval]", "[$__range]"} if query.instant else {"[$__rate_interval]"}
    for name in names_in(query.expr):
        read_as_rate = re.findall(rf"(?:rate|increase)\({name}\{{[^}}]*\}}(\[[^]]*\])\)", query.expr)
        if known[name] == "gauge":
            assert not read_as_rate
        else:
            assert len(read_as_rate) == len(re.findall(rf"\b{name}\b", query.expr))
            assert set(read_as_rate) <= spans


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_fact_of_the_cluster_is_counted_once(query: Query) -> None:
    """Read by max over all supervisors, whichever instances are chosen."""
    for fact in CLUSTER_FACTS & {name.removeprefix("heliograph_") for name in names_in(query.expr)}:
        reads = re.findall(rf'max by \(\w+\) \(heliograph_{fact}\{{job="\$job"\}}\)', query.expr)
        assert len(reads) == query.expr.count(f"heliograph_{fact}")


def test_the_code_names_the_facts_of_the_cluster() -> None:
    assert set(build.CLUSTER_FACTS) == CLUSTER_FACTS


def test_every_metric_that_is_shown_exists() -> None:
    assert {name for query in queries() for name in names_in(query.expr)} <= set(families())
    variables = [each["query"] for name in NAMES for each in read(name)["templating"]["list"]]
    assert {name for query in variables for name in names_in(query)} <= set(families())


def test_every_family_is_shown_somewhere() -> None:
    shown = {family_of(name) for query in queries() for name in names_in(query.expr)}
    assert {family_of(name) for name in families()} == shown


def test_grafana_finds_the_files_and_prometheus() -> None:
    provisioning = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "heliograph.yml").read_text())["providers"]
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    assert provider["allowUiUpdates"] is False
    services = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yml").read_text())["services"]
    assert f"../../grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "PROMETHEUS_URL" in services["grafana"]["environment"]
