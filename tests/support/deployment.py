"""What deploy/ holds, read as its users read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final = DEPLOY / "compose" / "compose.yml"
SAMPLE: Final = DEPLOY / "heliograph.toml"
OURS: Final = ("migrate", "supervisor", "delivery")
"""The services of compose.yml that run our image."""


def environment_file(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def example_environment() -> dict[str, str]:
    return environment_file(DEPLOY / "compose" / ".env.example")


def example_secrets() -> dict[str, str]:
    return environment_file(DEPLOY / "compose" / "heliograph.env.example")


def compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """compose.yml with `${NAME:?…}` filled in; KeyError where a variable is not given."""
    given = example_environment() if variables is None else variables
    text = re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda match: given[match[1]], COMPOSE.read_text())
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules
