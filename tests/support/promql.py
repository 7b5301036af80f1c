"""Which of our metrics an expression of PromQL reads."""

from __future__ import annotations

import re
from functools import cache

from prometheus_client import CollectorRegistry

from heliograph.actors.metrics.families import Metrics


@cache
def families() -> dict[str, str]:
    """The name of each series that /metrics may have, and its type: counter, gauge or histogram."""
    registry = CollectorRegistry()
    Metrics(registry)
    found: dict[str, str] = {}
    for family in registry.collect():
        match family.type:
            case "counter":
                found[f"{family.name}_total"] = "counter"
            case "histogram":
                found |= dict.fromkeys((f"{family.name}{end}" for end in ("_bucket", "_sum", "_count")), "histogram")
            case other:
                found[family.name] = other
    return found


def family_of(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name) if families()[name] == "histogram" else name


def names_in(expr: str) -> set[str]:
    return set(re.findall(r"\bheliograph_\w+", expr))
