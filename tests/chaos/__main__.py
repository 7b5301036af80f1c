"""`make chaos`: seeded runs of real processes under faults, and what a receiving server says of the promises.

    python -m tests.chaos [--runs N] [--seed S] [--faults-s 20] [--file .cache/chaos.jsonl] [--quiet]

Seeds S, S+1, … are run one after the other; one line of JSON is appended for each. Several may be stopped and begun
again: those that the file has, with as long faults, are not run again. One alone is always run; without a seed its seed
is drawn. Exit 1 where any failed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.chaos.plan import draw
from tests.chaos.run import run

FILE: Final = Path(__file__).parents[2] / ".cache/chaos.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Seeded runs under faults.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--faults-s", type=float, default=20.0)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--quiet", action="store_true", help="do not tell each fault")
    asked = parser.parse_args()
    if asked.runs == 1:
        seeds = [asked.seed if asked.seed is not None else random.randrange(10**6)]
        results: dict[int, str] = {}
    else:
        first = 1 if asked.seed is None else asked.seed
        results = _results(asked.file, asked.faults_s)
        seeds = list(range(first, first + asked.runs))
    for seed in seeds:
        if seed not in results:
            results[seed] = _one(seed, asked)
    failed = [seed for seed in seeds if results[seed] != "ok"]
    _say(f"{len(seeds)} runs, {len(failed)} failed" + (f": seeds {failed}" if failed else ""))
    return 1 if failed else 0


def _one(seed: int, asked: argparse.Namespace) -> str:
    plan = draw(seed, asked.faults_s)
    _say(
        f"seed {seed}: {plan.supervisors} supervisors, {len(plan.faults)} faults in {plan.faults_s:g} s, "
        f"{plan.posted:g} messages/s, rates {plan.rates}, bursts {plan.bursts}"
    )
    began_s = time.monotonic()
    report = run(plan, (lambda _: None) if asked.quiet else (lambda line: _say(f"  {line}")))
    told = report.as_json()
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    with asked.file.open("a") as file:
        file.write(json.dumps(told) + "\n")
    shown = {name: told[name] for name in ("accepted", "calls", "duplicates", "lost", "excess", "states", "answers")}
    _say(f"seed {seed}: {told['result']} in {time.monotonic() - began_s:.0f} s; {json.dumps(shown)}")
    wrong = told["wrong"]
    assert isinstance(wrong, list)
    for each in wrong:
        _say(f"  wrong: {each}")
    if not report.good:
        logs = asked.file.with_name(f"{asked.file.stem}-{seed}.log")
        logs.write_text("\n".join([*wrong, "", *report.said]) + "\n")
        _say(f"  the logs are in {logs}")
    return str(told["result"])


def _results(file: Path, faults_s: float) -> dict[int, str]:
    if not file.exists():
        return {}
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["seed"]: row["result"] for row in rows if row["plan"]["faults_s"] == faults_s}


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
