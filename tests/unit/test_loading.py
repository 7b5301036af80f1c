"""What a process loads stays in its memory for as long as it lives: a supervisor has what its role needs."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
import heliograph.gateway.cli.main as command
command.application()
import heliograph.gateway.cli.logs
import heliograph.supervisor
print(*sys.modules)
"""


def test_a_supervisor_without_a_gateway_loads_neither_the_web_framework_nor_what_reads_the_configuration() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LOADED], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "heliograph.actors.tree.node" in loaded
    assert not loaded & {
        "quart",
        "jinja2",
        "httpcore",
        "pydantic",
        "cryptography",
        "redis",
        "rich",
        "tenacity",
        "httpx",
    }
