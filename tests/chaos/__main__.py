"""`make chaos`: seeded runs of real processes under faults, and what a receiving server says of the promises.

    python -m tests.chaos [--runs N] [--seed S] [--jobs 1] [--faults-s 20] [--file .cache/chaos.jsonl] [--quiet]
    python -m tests.chaos --sum [--file .cache/chaos.jsonl]

Seeds S, S+1, … are run one after the other, or so many at a time; one line of JSON is appended for each. Several may be
stopped and begun again: those whose plan the file has are not run again. One alone is always run; without a seed its
seed is drawn. Exit 1 where any failed. `--sum` tells what all runs in the file came to.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, Final

from tests.chaos.cluster import Ground
from tests.chaos.plan import draw, written
from tests.chaos.run import run

FILE: Final = Path(__file__).parents[2] / ".cache/chaos.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Seeded runs under faults.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--faults-s", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--quiet", action="store_true", help="do not tell each fault")
    parser.add_argument("--sum", action="store_true", help="run nothing")
    asked = parser.parse_args()
    if asked.sum:
        _say(json.dumps(_sum(_rows(asked.file)), indent=1))
        return 0
    # A shell without job control has these ignored, here and in all we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if asked.runs == 1:
        seeds = [asked.seed if asked.seed is not None else random.randrange(10**6)]
        results: dict[int, str] = {}
    else:
        first = 1 if asked.seed is None else asked.seed
        seeds = list(range(first, first + asked.runs))
        results = _results(asked.file, seeds, asked.faults_s)
    wanted = [seed for seed in seeds if seed not in results]
    grounds: Queue[Ground] = Queue()
    with ThreadPoolExecutor(asked.jobs) as pool:
        try:
            results |= zip(wanted, pool.map(partial(_one, asked=asked, grounds=grounds), wanted), strict=True)
        finally:
            while not grounds.empty():
                grounds.get().remove()
    failed = [seed for seed in seeds if results[seed] != "ok"]
    _say(f"{len(seeds)} runs, {len(failed)} failed" + (f": seeds {failed}" if failed else ""))
    return 1 if failed else 0


def _one(seed: int, asked: argparse.Namespace, grounds: Queue[Ground]) -> str:
    """On the ground of a run before it, where that is free."""
    plan = draw(seed, asked.faults_s)
    _say(
        f"seed {seed}: {plan.supervisors} supervisors, {len(plan.faults)} faults in {plan.faults_s:g} s, "
        f"{plan.posted:g} messages/s, rates {plan.rates}, bursts {plan.bursts}"
    )
    began_s = time.monotonic()
    ground = Ground() if grounds.empty() else grounds.get()
    tell = (lambda _: None) if asked.quiet or asked.jobs > 1 else (lambda line: _say(f"  {line}"))
    try:
        report = run(plan, tell, ground)
    except Exception as error:  # of the run itself, not of what it judges; the next one may still be worth it
        ground.remove()
        _say(f"seed {seed}: could not be run: {error!r}")
        return "not run"
    grounds.put(ground)
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


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _results(file: Path, seeds: Sequence[int], faults_s: float) -> dict[int, str]:
    """Those that ran by the plan that is drawn from their seed today."""
    plans = {seed: written(draw(seed, faults_s)) for seed in seeds}
    return {row["seed"]: row["result"] for row in _rows(file) if row["plan"] == plans.get(row["seed"])}


def _sum(rows: Sequence[dict[str, Any]]) -> dict[str, object]:
    faults: Counter[str] = Counter()
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("duplicates", "states", "breakers", "answers")}
    for row in rows:
        faults.update(fault.split(" s  ", 1)[1].split()[0] for fault in row["plan"]["faults"])
        for name, total in sums.items():
            total.update(row.get(name, {}))
    return {
        "runs": len(rows),
        "seeds": len({row["seed"] for row in rows}),
        "failed": [row["seed"] for row in rows if row["result"] != "ok"],
        "faults": dict(faults.most_common()),
        **{name: sum(row[name] for row in rows) for name in ("accepted", "calls", "lost")},
        **{name: dict(total.most_common()) for name, total in sums.items()},
        "fullest_window": max(excess / burst for row in rows for excess, burst in row["excess"].values()),
        "longest_settling_s": max(row["settled_s"] for row in rows),
    }


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
