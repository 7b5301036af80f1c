"""The scenarios against a peer, in turns, by the runner of the peers kit; and whether the ratio is what it was.

Only ratios within one run count: absolute figures move with the machine. The recorded ones stand in ratios.json, each
Heliograph's figure by the peer's; a figure that is worse than recorded by more than a tenth is reported.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

RATIOS: Final = Path(__file__).with_name("ratios.json")
SCENARIOS: Final = ("accept-single", "accept-bulk", "drain-noop", "drain-http", "drain-http-bulk", "e2e", "memory")
WORSE: Final = 1.1
ALIKE: Final = {"drain-http-bulk": "drain-http"}
"""What a peer does in a scenario that it has not."""

Figures = Mapping[tuple[str, str], float]
"""By scenario and metric, medians."""


def run(kit: Path, *, scenarios: Sequence[str], peer: str, repeat: int, seconds: float, record: bool) -> int:
    """The exit code: 1 where a run was void or a ratio has become worse."""
    command = [kit / "run", ",".join(scenarios), peer, "heliograph", "--repeat", repeat, "--seconds", seconds]
    environ = os.environ | {"HELIOGRAPH_HOME": str(Path.cwd())}
    lines: list[str] = []
    with subprocess.Popen(list(map(str, command)), env=environ, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        for line in runner.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    found = ratios(figures(lines, peer), figures(lines, "heliograph"))
    known: dict[str, float] = json.loads(RATIOS.read_text())
    worse = regressions(known, found)
    for name, ratio in found.items():
        before = f"{known[name]:.2f}" if name in known else "none"
        print(f"{name}: {ratio:.2f}, recorded {before}{'  WORSE' if name in worse else ''}")
    if record:
        RATIOS.write_text(json.dumps(known | {name: round(r, 3) for name, r in found.items()}, indent=2) + "\n")
        return runner.returncode
    return runner.returncode or int(bool(worse))


def figures(lines: Sequence[str], peer: str) -> Figures:
    """Of the kit's lines; `cpu_s_per_1k` is that of all processes together."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    cpu: dict[tuple[str, int], float] = defaultdict(float)
    for line in lines:
        told = json.loads(line) if line.startswith("{") else {}
        if told.get("peer") != peer or "metric" not in told:
            continue
        values[told["scenario"], told["metric"]].append(told["value"])
        if told["metric"].startswith("cpu_s_per_1k_"):
            cpu[told["scenario"], told["run"]] += told["value"]
    for (scenario, _), used in cpu.items():
        values[scenario, "cpu_s_per_1k"].append(used)
    return {name: statistics.median(each) for name, each in values.items()}


def ratios(theirs: Figures, ours: Figures) -> dict[str, float]:
    """By "scenario metric", of what there is a goal for."""
    found = {}
    for (scenario, metric), value in ours.items():
        base = theirs.get((scenario, metric)) or theirs.get((ALIKE.get(scenario, scenario), metric))
        wanted = metric in ("msgs_per_s", "cpu_s_per_1k", "e2e_p50_ms", "e2e_p99_ms") or metric.endswith("_mib")
        if wanted and base:
            found[f"{scenario} {metric}"] = value / base
    return found


def regressions(known: Mapping[str, float], found: Mapping[str, float]) -> set[str]:
    """More is better of messages a second, less of all else."""
    return {
        name
        for name, ratio in found.items()
        if name in known
        and (ratio * WORSE < known[name] if name.endswith("msgs_per_s") else ratio > known[name] * WORSE)
    }
