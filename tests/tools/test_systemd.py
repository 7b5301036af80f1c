"""The systemd unit, as systemd itself reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import DEPLOY

pytestmark = pytest.mark.tools

UNIT = DEPLOY / "systemd" / "heliograph@.service"
INSTALLED = "/opt/heliograph/.venv/bin/heliograph"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing (Debian: apt-get install systemd)"
    text = UNIT.read_text()
    assert INSTALLED in text
    here = tmp_path / "heliograph@main.service"
    here.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("heliograph"))))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
