"""`make bench PEERS=…` tells a ratio that has become worse from the machine's noise."""

from __future__ import annotations

import json

from tests.bench.peers import figures, ratios, regressions


def told(peer: str, scenario: str, run: int, **values: float) -> list[str]:
    return [
        json.dumps({"peer": peer, "scenario": scenario, "run": run, "metric": metric, "value": value})
        for metric, value in values.items()
    ]


LINES = [
    *told("node", "drain-http", 1, msgs_per_s=100, cpu_s_per_1k_worker=2, cpu_s_per_1k_redis=1, worker_mib=120),
    *told("node", "drain-http", 2, msgs_per_s=300, cpu_s_per_1k_worker=4, cpu_s_per_1k_redis=1),
    *told("node", "drain-http", 3, msgs_per_s=200, cpu_s_per_1k_worker=3, cpu_s_per_1k_redis=1),
    *told("heliograph", "drain-http", 1, msgs_per_s=400, cpu_s_per_1k_worker=1, cpu_s_per_1k_redis=1, worker_mib=60),
    *told("heliograph", "drain-http-bulk", 1, msgs_per_s=2000),
    json.dumps({"peer": "heliograph", "scenario": "e2e", "run": 1, "void": "lost 1", "figures": {}}),
    "| scenario | figure |\n",
]


def test_ratios_are_of_medians_and_of_all_cpu_together_and_void_runs_have_none() -> None:
    assert ratios(figures(LINES, "node"), figures(LINES, "heliograph")) == {
        "drain-http msgs_per_s": 2.0,
        "drain-http cpu_s_per_1k": 0.5,
        "drain-http worker_mib": 0.5,
        "drain-http-bulk msgs_per_s": 10.0,
    }


def test_worse_is_what_is_less_than_nine_tenths_as_fast_or_more_than_a_tenth_dearer() -> None:
    known = {"a msgs_per_s": 2.0, "b cpu_s_per_1k": 0.5, "c worker_mib": 0.5}
    assert regressions(known, {"a msgs_per_s": 1.85, "b cpu_s_per_1k": 0.54, "c worker_mib": 0.2, "d x": 9.0}) == set()
    assert regressions(known, {"a msgs_per_s": 1.7, "b cpu_s_per_1k": 0.6, "c worker_mib": 0.56}) == set(known)
