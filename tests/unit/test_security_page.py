"""docs/SECURITY.md names what shows its claims, and what is open to all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from heliograph.actors.model.settings import GatewaySettings
from heliograph.gateway import connections, limits
from tests.gateway.test_access import OPEN_TO_ALL

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "SECURITY.md").read_text()


def test_each_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:tests/[\w/]*)?(?:test_\w+\.py|conformance))`", PAGE))
    assert len(named) > 10
    assert [name for name in named if not list(ROOT.glob(name if "/" in name else f"tests/**/{name}"))] == []


def test_its_figures_are_those_in_force() -> None:
    gateway = GatewaySettings()
    figures = (
        f"{gateway.connections:,} connections, {gateway.connections_per_address} of one address",
        f"heads of {connections.MOST_HEAD_BYTES // 1024} KB",
        f"nesting of {limits.MOST_NESTING}, {limits.HELD_BYTES // limits.MB} MB of bodies in all",
        f"no more than {connections.READ_BYTES // 1024} KB of a body before its key is known",
    )
    assert [figure for figure in figures if figure not in PAGE] == []


def test_what_is_open_to_all_is_said() -> None:
    [line] = re.findall(r"Open to all: ([^.]*(?:\.json[^.]*)?)\.", PAGE)
    assert set(re.findall(r"`(/\w+[.\w]*)`", line)) == {rule.removeprefix("GET ") for rule in OPEN_TO_ALL}
