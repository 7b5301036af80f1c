"""`heliograph simulate`, as its users call it: figures, faults, repeats, reports, and files that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from heliograph.gateway.cli import main, output, scenario_file

HERE = Path(__file__).parent.parent / "data" / "simulation"
CONFIG = HERE / "config.toml"
BAD_HOUR = HERE / "bad-hour.toml"
BAD_MINUTES = """
[simulation]
duration = "90s"
supervisors = 2
seed = 7
[[traffic]]
channel = "sms"
priority = "urgent"
rate = 2.0
[[traffic]]
channel = "sms"
priority = "bulk"
rate = 4.0
[[behaviour]]
provider = "fast2sms"
latency = "120ms"
latency_p99 = "900ms"
[[behaviour]]
provider = "fast2sms"
from = "10s"
to = "30s"
outcomes = { accepted = 0.2, deferred = 0.8 }
[[fault]]
at = "40s"
kind = "kill"
supervisor = 1
for = "10s"
[[fault]]
at = "60s"
kind = "redis_loss"
[[fault]]
at = "70s"
kind = "postgres_restart"
for = "5s"
"""
CALM = """
[simulation]
duration = "5m"
seed = 3
[[traffic]]
channel = "sms"
rate = 5
[[behaviour]]
provider = "fast2sms"
latency = "100ms"
latency_p99 = "200ms"
"""


def simulate(*arguments: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("heliograph"), "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={k: v for k, v in os.environ.items() if not k.startswith("HELIOGRAPH_")} | dict(environ or {}),
    )


def figures(file: Path, *arguments: str) -> dict[str, Any]:
    result = simulate(file, "--config", CONFIG, "--json", *arguments)
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "scenario.toml") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def test_a_calm_run_delivers_everything_by_the_first_provider_in_its_time(write: Any) -> None:
    told = figures(write(CALM))
    assert told["accepted"] == pytest.approx(5 * 300, rel=0.1)
    assert told["states"]["sent"] == told["accepted"] == told["providers"]["fast2sms"]["calls"]
    assert told["providers"]["bulksms"]["calls"] == 0
    assert told["lost"] == told["duplicates"] == told["rate_violations"] == 0
    assert told["latency"]["normal"]["p50"] == pytest.approx(0.1, rel=0.1)
    assert told["latency"]["normal"]["p99"] == pytest.approx(0.2, rel=0.15)
    assert told["latency"]["urgent"] == {"p50": None, "p99": None, "max": None}
    names = "seed virtual_seconds accepted states lost duplicates rate_violations latency providers"
    assert set(told) == set(names.split())


def test_whatever_befalls_it_loses_nothing_keeps_the_rate_and_opens_the_breaker() -> None:
    told = figures(BAD_HOUR)
    assert told["lost"] == told["rate_violations"] == 0
    assert told["states"]["sent"] == told["accepted"]
    first, second = told["providers"]["fast2sms"], told["providers"]["bulksms"]
    opened = [change["at"] for change in first["breaker"] if change["state"] == "open"]
    assert opened
    assert 60 < opened[0] < 120
    assert first["breaker"][-1]["state"] == "closed"
    assert first["outcomes"]["deferred"] > 0
    assert second["calls"] > 0
    assert sum(first["outcomes"].values()) == first["calls"]
    assert max(first["max_in_one_second"], second["max_in_one_second"]) <= 40


def test_one_seed_is_one_run_byte_for_byte_and_another_seed_another(write: Any, tmp_path: Path) -> None:
    scenario = write(BAD_MINUTES)

    def run(hash_seed: str, *arguments: str) -> tuple[str, str]:
        report = tmp_path / f"{hash_seed}.html"
        environ = {"PYTHONHASHSEED": hash_seed}
        result = simulate(scenario, "--config", CONFIG, "--json", "--report", report, *arguments, environ=environ)
        assert result.returncode == 0, result.stderr
        return result.stdout, report.read_text()

    first = run("1")
    assert run("2") == first
    assert run("1", "--seed", "8")[0] != first[0]


def test_a_supervisor_that_is_killed_for_good_leaves_its_work_to_the_other(write: Any) -> None:
    scenario = CALM.replace("seed = 3", "seed = 3\nsupervisors = 2")
    told = figures(write(scenario + '[[fault]]\nat = "2m"\nkind = "kill"\nsupervisor = 1\n'))
    assert told["lost"] == 0
    assert told["states"]["sent"] == told["accepted"]


def test_with_every_supervisor_gone_what_was_accepted_is_seen_to_wait(write: Any) -> None:
    slow = CALM.replace('latency = "100ms"\nlatency_p99 = "200ms"', 'latency = "3s"\nlatency_p99 = "4s"')
    told = figures(write(slow + '[[fault]]\nat = "2m"\nkind = "kill"\nsupervisor = 1\n'))
    waiting = sum(told["states"][state] for state in ("queued", "sending"))
    assert told["lost"] == 0
    assert 0 < waiting == told["accepted"] - told["states"]["sent"]


def test_rates_by_the_hour_bursts_and_mixes_add_up(write: Any) -> None:
    told = figures(
        write(
            """
[simulation]
duration = "2h"
[[traffic]]
rates = [0.2, 0.6]
[[traffic]]
burst = 300
from = "30m"
priorities = { urgent = 0.1, bulk = 0.9 }
"""
        )
    )
    hourly = (0.2 + 0.6) * 3600
    assert told["accepted"] == pytest.approx(hourly + 300, rel=0.06)
    assert told["latency"]["urgent"]["max"] < told["latency"]["bulk"]["max"]
    assert told["latency"]["bulk"]["max"] > 300 * 0.9 / 20 * 0.7


def test_recorded_traffic_is_played_as_it_was(write: Any) -> None:
    write("at,priority\n" + "\n".join(f"{i}.5,{'urgent' if i % 2 else 'normal'}" for i in range(60)), "recorded.csv")
    told = figures(write('[simulation]\nduration = "2m"\n[[traffic]]\nfile = "recorded.csv"\n'))
    assert told["accepted"] == 60
    assert told["latency"]["urgent"]["p50"] is not None


def test_several_files_are_told_side_by_side_and_the_report_opens_offline(write: Any, tmp_path: Path) -> None:
    calm = CALM.replace("5m", "1m")
    other = write(calm.replace("rate = 5", "rate = 9"), "busier.toml")
    report = tmp_path / "report.html"
    result = simulate(write(calm), other, "--config", CONFIG, "--json", "--report", report)
    assert result.returncode == 0, result.stderr
    first, second = json.loads(result.stdout)
    assert first["accepted"] < second["accepted"]
    assert second == figures(other), "what stands beside it changes no run"
    page = Links()
    page.feed(report.read_text())
    assert page.links == []
    assert page.charts == 2 * 5
    assert page.scripts == 0


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.charts = self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.charts += tag == "svg"
        self.scripts += tag == "script"


def test_without_a_configuration_a_sandbox_carries_each_channel(write: Any) -> None:
    result = simulate(write('[simulation]\nduration = "1m"\n[[traffic]]\nchannel = "email"\nrate = 1\n'))
    assert result.returncode == 0, result.stderr
    assert "sandbox-email" in result.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[simulation]\n", "simulation.duration: is required"),
        ('[simulation]\nduration = "1"\n', "simulation.duration: "),
        ('[simulation]\nduration = "1m"\ntraffik = 1\n', "simulation.traffik: unknown key"),
        ('[simulation]\nduration = "1m"\n[[traffic]]\n', "traffic.1: should have either rate"),
        ('[simulation]\nduration = "1m"\n[[traffic]]\nrate = -1\n', "traffic.1.rate: "),
        ('[simulation]\nduration = "1m"\n[[behaviour]]\nprovider = "x"\n', "behaviour.1.provider: there is no such"),
        (
            '[simulation]\nduration = "1m"\n[[behaviour]]\nprovider = "bulksms"\noutcomes = { accepted = 0.5 }\n',
            "behaviour.1: has outcomes whose chances do not add up to 1",
        ),
        ('[simulation]\nduration = "1m"\n[[fault]]\nat = "1s"\nkind = "kill"\n', "fault.1: of the kind kill needs"),
        (
            '[simulation]\nduration = "1m"\n[[fault]]\nat = "1s"\nkind = "kill"\nsupervisor = 2\n',
            "fault.1.supervisor: there are 1",
        ),
        ('[simulation]\nduration = "1m"\n[[traffic]]\nfile = "none.csv"\n', "traffic.1.file: "),
        ("simulation", "is not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_its_key(
    write: Any, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here and not in a process: nothing is played."""
    output.forget_wishes()
    assert main.run(["simulate", str(write(text)), "--config", str(CONFIG)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_traffic_that_no_provider_takes_is_told(write: Any) -> None:
    result = simulate(
        write('[simulation]\nduration = "1m"\n[[traffic]]\nchannel = "email"\nrate = 1\n'), "--config", CONFIG
    )
    assert result.returncode == 1
    assert "traffic 1: no provider takes its email messages" in result.stderr


def test_the_worked_examples_are_sound() -> None:
    folder = Path(__file__).parents[2] / "docs" / "simulations"
    scenarios = [file for file in folder.glob("*.toml") if file.name != "providers.toml"]
    assert len(scenarios) == 4
    for file in scenarios:
        assert scenario_file.read(file, frozenset({"fast2sms", "bulksms"})).traffic
