"""Dashboards and alerts on a real Prometheus, over a real run in which providers fail in every way there is.

Two supervisors, scraped each second. The recipients make the faults: they reject, defer, throttle, never answer, and
are refused for the account, until a breaker has opened, been probed and closed again. Then every query of both
dashboards has to return series, and every alert's expression has to be one.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from grafana import build
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.provider import BreakerState
from heliograph.gateway.cli.embedded import free_port
from heliograph.gateway.cli.processes import spawn
from heliograph.gateway.cli.state import Running
from heliograph.providers.sandbox import NAMES
from tests.support.command import System
from tests.support.deployment import DEPLOY, alerts
from tests.support.promql import families
from tests.support.services import wait_until

pytestmark = pytest.mark.tools

CONFIG: Final = """
[delivery]
max_attempts = 3
backoff_base = "200ms"
backoff_cap = "500ms"
unknown_wait = "200ms"
[dead_letters]
auto_retry = []
[[providers]]
name = "sms-first"
kind = "sandbox"
channel = "sms"
priority = 1
rate = 40
breaker = { open_for = "1s", half_open_permits = 2, slow_call = "30s", window = "2s" }
[[providers]]
name = "sms-second"
kind = "sandbox"
channel = "sms"
priority = 2
rate = 40
breaker = { open_for = "1s", half_open_permits = 2, slow_call = "30s", window = "2s" }
[[providers]]
name = "email-only"
kind = "sandbox"
channel = "email"
rate = 40
quota = "100000/day"
breaker = { open_for = "1s", half_open_permits = 2, slow_call = "30s", window = "2s" }
"""

TESTS_OF_ALERTS: Final = Path(__file__).with_name("alerts_test.yml")
CENSUS_MAY_BE_OLD_S: Final = 1.0
STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
PROVIDERS: Final = ("sms-first", "sms-second", "email-only")


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30)

    def answers(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: str | float) -> Any:
        body = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert body["status"] == "success", f"{parameters.get('query')}: {body.get('error')}"
        assert not body.get("warnings"), body
        return body["data"]

    def values(self, query: str) -> list[float]:
        return [float(row["value"][1]) for row in self.ask("query", query=query)["result"]]

    def close(self) -> None:
        self._http.close()


class Run:
    """The system, what was posted to it, and the Prometheus that watched."""

    def __init__(self, running: Running, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        self.metrics_urls = running.metrics_urls
        self.api = httpx.Client(base_url=running.url, headers={"X-API-Key": running.api_key}, timeout=30)
        self.began_s = time.time()

    def post(self, behaviour: str, count: int, *, expires_in_s: float = 3600) -> None:
        """So many messages for each provider, in every priority."""
        expires_at = (datetime.now(UTC) + timedelta(seconds=expires_in_s)).isoformat()
        messages = [
            {
                "providers": [provider],
                "priority": ("urgent", "normal", "bulk")[number % 3],
                "text": "Faults on purpose",
                "expires_at": expires_at,
                **_recipient(provider, behaviour, number),
            }
            for provider in PROVIDERS
            for number in range(count)
        ]
        answer = self.api.post("/v1/messages/batch", json={"messages": messages})
        assert answer.status_code == 202, answer.text
        assert [each["error"] for each in answer.json()["data"] if "error" in each] == []

    def breakers(self) -> dict[str, str]:
        rows = self.api.get("/v1/providers").json()["data"]
        return {row["name"]: row["breaker"]["state"] for row in rows if row["name"] in PROVIDERS}

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/v1/stats").json()
        return found

    def cancel_one(self) -> None:
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        message = {"text": "Later", "send_at": later, **_recipient("sms", "accepted", 0)}
        posted = self.api.post("/v1/messages", json=message)
        assert posted.json()["state"] == "scheduled"
        assert self.api.post(f"/v1/messages/{posted.json()['id']}/cancel").status_code == 200

    def redrive(self, **chosen: str) -> int:
        """How many went out again."""
        begun = self.api.post("/v1/dead-letters/redrive", json={"filter": chosen, "reason": "a test"}).json()
        path = f"/v1/operations/{begun['id']}"
        wait_until(lambda: self.api.get(path).json()["state"] == "done", "the redrive is done")
        return int(self.api.get(path).json()["done"])

    def is_settled(self) -> None:
        waiting = ("scheduled", "queued", "sending")

        def settled() -> bool:
            # The list, not the stats: those may be a second old, and not know yet of what was posted.
            found = [self.api.get("/v1/messages", params={"state": state, "limit": 1}) for state in waiting]
            return not any(answer.json()["data"] for answer in found)

        wait_until(settled, "every message has come to an end", within_s=60)

    def is_settled_and_scraped(self) -> None:
        self.is_settled()
        fresh = f"min(timestamp(heliograph_build_info)) > {time.time() + CENSUS_MAY_BE_OLD_S}"
        wait_until(lambda: bool(self.prometheus.values(fresh)), "both supervisors were scraped again")

    def reaches(self, state: str) -> None:
        """Wait until every provider's breaker was scraped in this state; what it was in before does not count."""
        since_s = time.time()

        def scraped() -> bool:
            query = f"max by (provider) (heliograph_breaker_state) == {STATES[state]}"
            seen = self.prometheus.ask("query_range", query=query, start=since_s, end=time.time(), step=1)["result"]
            return {row["metric"]["provider"] for row in seen} >= set(PROVIDERS)

        wait_until(scraped, f"every breaker is {state}; they are {self.breakers()}")


def _recipient(provider: str, behaviour: str, number: int) -> dict[str, str]:
    if provider.startswith("email"):
        return {"channel": "email", "to": f"{behaviour}@shop.in", "subject": "Hello"}
    ending = {name: digits for digits, name in NAMES.items()}[behaviour]
    return {"channel": "sms", "to": f"+9198765{number % 10}{ending}"}


def needs(tool: str) -> str:
    found = shutil.which(tool)
    assert found, f"{tool} is missing (Debian: apt-get install prometheus)"
    return found


def promtool(*arguments: str | Path, given: str | None = None) -> str:
    done = subprocess.run(
        [needs("promtool"), *arguments], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told


@contextmanager
def watching(home: Path, metrics_urls: Sequence[str]) -> Iterator[Prometheus]:
    """A Prometheus with the configuration and the rules of deploy/, but for where and how often it looks."""
    settings = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = settings["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [httpx.URL(url).netloc.decode() for url in metrics_urls]}]
    settings["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yml")]
    (home / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port(None)
    with (home / "prometheus.log").open("wb") as log:
        child = spawn(
            [
                needs("prometheus"),
                f"--config.file={home / 'prometheus.yml'}",
                f"--storage.tsdb.path={home / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            environ={"PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=log,
            death_signal=signal.SIGKILL,
        )
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        try:
            wait_until(prometheus.answers, f"Prometheus answers; {(home / 'prometheus.log').read_text()}")
            yield prometheus
        finally:
            prometheus.close()
            child.terminate()
            child.wait(30)


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    needs("prometheus")
    with tempfile.TemporaryDirectory(prefix="heliograph-prometheus-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        (home / "faults.toml").write_text(CONFIG)
        system = System(home)
        try:
            done = system.command("up", "--port", "0", "--supervisors", "2", "--config", "faults.toml", "--detach")
            assert done.returncode == 0, done.stderr
            with watching(home, system.running().metrics_urls) as prometheus:
                made = Run(system.running(), prometheus)
                with made.api:
                    make_faults(made)
                    yield made
        finally:
            system.remove()


def make_faults(run: Run) -> None:
    """Every outcome; then each breaker open, half-open for as long as its probes take, and closed again."""
    wait_until(lambda: run.prometheus.values("sum(up)") == [2], "both supervisors are scraped")
    run.reaches("closed")
    for behaviour in ("accepted", "rejected", "unknown", "accepted"):
        run.post(behaviour, 9)
    assert run.api.post("/v1/messages", json={"channel": "pigeon"}).status_code == 422
    assert run.api.get("/v1/messages/msg_unknown").status_code == 404
    # Each kind of fault by itself: one that opens a breaker, or slows a limiter, would keep the next one from a call.
    run.is_settled()
    run.post("misconfigured", 2, expires_in_s=4)
    run.is_settled()
    run.post("deferred", 12, expires_in_s=4)
    run.is_settled()
    run.reaches("open")  # and stays so while nobody asks for it
    run.post("slow", 4)
    run.reaches("half_open")
    run.reaches("closed")
    run.is_settled()
    run.post("throttled", 2, expires_in_s=4)
    run.is_settled()
    run.post("accepted", 9)
    run.cancel_one()
    run.is_settled_and_scraped()


# ------------------------------------------------------------------------------------------------- the run


def test_the_run_shows_every_outcome_and_every_turn_of_a_breaker(run: Run) -> None:
    def counted(family: str, by: str) -> dict[str, float]:
        rows = run.prometheus.ask("query", query=f"sum by ({by}) (heliograph_{family})")["result"]
        return {row["metric"][by]: float(row["value"][1]) for row in rows}

    assert {outcome for outcome, n in counted("attempts_total", "outcome").items() if n} == set(Outcome)
    assert {to for to, n in counted("breaker_transitions_total", "to").items() if n} == set(BreakerState)
    assert sum(counted("unknown_settled_total", "how").values()) > 0
    assert sum(counted("message_parts_total", "provider").values()) > 0


def test_metrics_and_api_tell_the_same(run: Run) -> None:
    stats, ask = run.stats(), run.prometheus.values
    for channel, states in stats["messages"].items():
        entered = f'sum(heliograph_messages_total{{channel="{channel}", state="%s"}})'
        assert ask(entered % "sent") == [states["sent"]]
        assert ask(entered % "failed") == [states["failed"]]
        assert ask(entered % "expired") == [states["expired"]]
        assert ask(entered % "cancelled") == [states["cancelled"]]
    assert ask('sum(heliograph_messages_total{state="cancelled"})') == [1]
    assert ask("sum(max by (reason) (heliograph_dead_letters))") == [sum(stats["dead_letters"].values())]


def test_what_is_redriven_enters_its_states_again(run: Run) -> None:
    def entered(state: str) -> float:
        (found,) = run.prometheus.values(f'sum(heliograph_messages_total{{state="{state}"}})')
        return found

    before = {state: entered(state) for state in ("queued", "failed")}
    redriven = run.redrive(reason="rejected")
    assert redriven > 0
    run.is_settled_and_scraped()
    assert {state: entered(state) - before[state] for state in before} == {"queued": redriven, "failed": redriven}


def test_every_supervisor_tells_the_facts_of_the_cluster(run: Run) -> None:
    for fact in build.CLUSTER_FACTS:
        by_instance = run.prometheus.values(f"count by (instance) (heliograph_{fact})")
        assert len(by_instance) == 2
        assert run.prometheus.values(f"count(stddev without (instance) (heliograph_{fact}) > 0)") == []
    assert run.prometheus.values("max(abs(heliograph_accounting_drift))") == [0]


def test_every_family_has_series(run: Run) -> None:
    found = {name for name in families() if run.prometheus.values(f"count({name})")}
    assert set(families()) == found


# --------------------------------------------------------------------------------------------- dashboards


def boards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(build.FOLDER.iterdir())}


def panels(board: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Each panel, and by which variable its row is repeated."""
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel, None
        for inner in panel.get("panels") or ():
            yield inner, panel["repeat"]


def filled(query: str, **chosen: str) -> str:
    """As Grafana fills its variables in: everything, but for what is chosen."""
    values = {"job": "heliograph", "instance": ".+", "actor": ".+", "provider": ".+"} | chosen
    query = query.replace("$__rate_interval", "15s").replace("$__range", "10m")
    for name, value in values.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query
    return query


def shows(run: Run, query: str, *, instant: bool) -> bool:
    """Whether there is a number to be drawn, now or at some time of the run."""
    if instant:
        rows = [[row["value"]] for row in run.prometheus.ask("query", query=query)["result"]]
    else:
        span = {"start": run.began_s, "end": time.time(), "step": 1}
        rows = [row["values"] for row in run.prometheus.ask("query_range", query=query, **span)["result"]]
    return any(not math.isnan(float(value)) for row in rows for _, value in row)


@pytest.mark.parametrize("name", sorted(build.DASHBOARDS))
def test_every_query_of_a_dashboard_returns_series(run: Run, name: str) -> None:
    silent = []
    for panel, repeat in panels(boards()[name]):
        choices = [{"provider": each} for each in PROVIDERS] if repeat == "provider" else []
        for target in panel["targets"]:
            for chosen in ({}, *choices):
                query = filled(target["expr"], **chosen)
                if not shows(run, query, instant=bool(target.get("instant"))):
                    silent.append(query)
    assert silent == []


@pytest.mark.parametrize("actor", ["journal", "relay", "heartbeat", "dispatcher/sms", "provider/sms-first"])
def test_the_row_of_an_actor_that_worked_is_full(run: Run, actor: str) -> None:
    for panel, repeat in panels(boards()["actors"]):
        if repeat == "actor":
            for target in panel["targets"]:
                assert shows(run, filled(target["expr"], actor=actor), instant=False), target["expr"]


@pytest.mark.parametrize("name", sorted(build.DASHBOARDS))
def test_every_variable_has_something_to_choose(run: Run, name: str) -> None:
    for variable in boards()[name]["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert match
            assert run.prometheus.ask(f"label/{match[2]}/values", **{"match[]": filled(match[1])})


def test_a_breaker_is_drawn_in_each_of_its_states(run: Run) -> None:
    (query,) = (
        target["expr"]
        for panel, _ in panels(boards()["overview"])
        for target in panel["targets"]
        if panel["title"] == "Breakers"
    )
    span = {"start": run.began_s, "end": time.time(), "step": 1}
    for row in run.prometheus.ask("query_range", query=filled(query), **span)["result"]:
        if row["metric"]["provider"] in PROVIDERS:
            assert {float(value) for _, value in row["values"]} == set(build.BREAKER)


# ------------------------------------------------------------------------------------------------- alerts


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_can_be_evaluated(run: Run, rule: dict[str, Any]) -> None:
    assert run.prometheus.ask("query", query=rule["expr"])["resultType"] == "vector"


def test_prometheus_evaluates_the_rules_without_a_fault(run: Run) -> None:
    (group,) = run.prometheus.ask("rules")["groups"]
    assert len(group["rules"]) == len(alerts())
    assert {(rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {("ok", "")}


def test_what_the_run_did_raises_the_alert_that_it_should(run: Run) -> None:
    firing = [
        each
        for each in run.prometheus.ask("alerts")["alerts"]
        if each["labels"]["alertname"] == "HeliographProviderMisconfigured" and each["state"] == "firing"
    ]
    assert {each["labels"]["provider"] for each in firing} == set(PROVIDERS)
    for each in firing:
        assert each["annotations"]["runbook"] == "docs/runbooks/provider-misconfigured.md"
        assert each["annotations"]["dashboard"].endswith(f"&var-provider={each['labels']['provider']}")


# ----------------------------------------------------------------------------------------------- promtool


def test_promtool_finds_nothing_wrong_with_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in promtool("check", "rules", DEPLOY / "prometheus" / "alerts.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS_OF_ALERTS)


def test_every_alert_has_a_test() -> None:
    text = TESTS_OF_ALERTS.read_text()
    assert [rule["alert"] for rule in alerts() if rule["alert"] not in text] == []


def test_promtool_finds_nothing_wrong_with_the_metrics(run: Run) -> None:
    for url in run.metrics_urls:
        assert promtool("check", "metrics", given=httpx.get(url).text) == ""
