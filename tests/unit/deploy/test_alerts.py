"""Alerts and runbooks: each names the other, what they name exists, and cluster facts are counted once."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import typer.main
import yaml

from grafana.build import CLUSTER_FACTS, FOLDER
from heliograph.gateway.cli import main
from tests.support.deployment import DEPLOY, ROOT, alerts
from tests.support.promql import families, names_in

BOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
WANTED = {
    "NobodyUp", "SupervisorDown", "StoreUnreachable", "AccountingDrift", "QueueTooOld", "NoProgress",
    "DeliveryBurnsBudget", "DeadLettersGrowing", "BreakerOpen", "ProviderMisconfigured",
    "ProviderRejectsGoodRecipients", "QuotaUsedUp", "MailboxNearlyFull", "ActorStuck", "RestartStorm", "GatewayErrors",
}  # fmt: skip
each_alert = pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])


def test_the_alerts_that_there_are() -> None:
    assert {rule["alert"] for rule in alerts()} == {f"Heliograph{name}" for name in WANTED}


@each_alert
def test_an_alert_says_what_where_and_what_to_do(rule: dict[str, Any]) -> None:
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "dashboard", "runbook"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert told["summary"].endswith(".")
    book = told["runbook"].removeprefix("{{ $externalLabels.runbooks }}/")
    assert ROOT / "docs" / "runbooks" / book in BOOKS


@each_alert
def test_an_alert_leads_to_a_dashboard_with_its_variables_filled(rule: dict[str, Any]) -> None:
    match = re.fullmatch(
        r"\{\{ \$externalLabels\.grafana \}\}/d/(?P<uid>[\w-]+)\?(?P<query>.+)", rule["annotations"]["dashboard"]
    )
    assert match
    boards = {board["uid"]: board for board in (json.loads(path.read_text()) for path in FOLDER.iterdir())}
    variables = {each["name"] for each in boards[match["uid"]]["templating"]["list"]}
    filled = dict(part.split("=", 1) for part in match["query"].split("&"))
    for name, value in filled.items():
        variable = name.removeprefix("var-")
        assert variable in variables
        assert value == f"{{{{ $labels.{variable} | urlquery }}}}"
    assert set(filled) == {f"var-{name}" for name in labels_of(rule["expr"]) & variables}


def labels_of(expr: str) -> set[str]:
    """What an alert can be about: what it is summed by, else all that one supervisor's series have."""
    if by := re.search(r"by \(([^)]+)\)", expr):
        return set(by[1].split(", "))
    return {"job", "instance"} | ({"actor"} if "heliograph_actor_" in expr else set())


@each_alert
def test_a_fact_of_the_cluster_is_counted_once(rule: dict[str, Any]) -> None:
    for fact in CLUSTER_FACTS:
        reads = re.findall(rf"max by \([\w, ]+\) \((?:abs\()?heliograph_{fact}\b", rule["expr"])
        assert len(reads) == len(re.findall(rf"\bheliograph_{fact}\b", rule["expr"]))


@each_alert
def test_an_alert_reads_metrics_that_exist_and_counters_as_rates(rule: dict[str, Any]) -> None:
    known = families()
    for name in names_in(rule["expr"]):
        assert name in known
        as_rate = re.findall(rf"(?:rate|increase)\({name}(?:\{{[^}}]*\}})?\[", rule["expr"])
        assert len(as_rate) == (0 if known[name] == "gauge" else len(re.findall(rf"\b{name}\b", rule["expr"])))


def test_prometheus_reads_the_rules_and_drops_what_only_links_need() -> None:
    found = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert found["rule_files"] == ["alerts.yml"]
    (drop,) = found["alerting"]["alert_relabel_configs"]
    assert set(drop["regex"].split("|")) == set(found["global"]["external_labels"])
    (scrape,) = found["scrape_configs"]
    assert scrape["job_name"] == "heliograph"


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbook_has_its_four_parts_and_an_alert(book: Any) -> None:
    assert re.findall(r"^## (.+)$", book.read_text(), re.MULTILINE) == [
        "Meaning", "Impact", "Diagnosis", "Mitigation",
    ]  # fmt: skip
    assert any(rule["annotations"]["runbook"].endswith(f"/{book.name}") for rule in alerts())
    for link in re.findall(r"\]\(([\w-]+\.md)\)", book.read_text()):
        assert book.with_name(link).exists()


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbook_names_commands_that_exist(book: Any) -> None:
    root = typer.main.get_command(main.application())
    for words in (line.split() for line in re.findall(r"`heliograph ([^`]+)`", book.read_text())):
        command: Any = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not root, words
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbook_points_to_panels_that_exist(book: Any) -> None:
    titles = " ".join(path.read_text() for path in FOLDER.iterdir()).lower()
    for panel in re.findall("\u201c([^\u201d]+)\u201d", book.read_text()):
        assert panel.lower() in titles
