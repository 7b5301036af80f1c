"""The main job, with the redrive from the console in a real browser: minutes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.tools
def test_ten_thousand_messages_through_failing_providers_are_counted_the_same_everywhere() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.main_job", "--no-picture"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9900 delivered, each once; 100 refused twice" in done.stdout
