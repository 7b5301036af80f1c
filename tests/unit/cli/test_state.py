from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heliograph.actors.model.errors import HeliographError
from heliograph.gateway.cli.processes import Identity
from heliograph.gateway.cli.state import AlreadyRunning, Folder, Register


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "a folder" / ".heliograph")
    made.make()
    return made


def ourselves() -> Identity:
    identity = Identity.of(os.getpid())
    assert identity is not None
    return identity


def test_one_owner_at_a_time(folder: Folder) -> None:
    with folder.lock(), pytest.raises(AlreadyRunning, match="heliograph down"), folder.lock():
        pass
    with folder.lock():
        pass


def test_no_lock_file_is_left(folder: Folder) -> None:
    with folder.lock():
        assert (folder.path / "lock").exists()
    assert not (folder.path / "lock").exists()


def test_the_lock_of_a_killed_owner_is_free(folder: Folder) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from heliograph.gateway.cli.state import Folder\n"
        "with Folder(pathlib.Path(sys.argv[1])).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder.path)], check=False)
    assert killed.returncode == -9
    assert (folder.path / "lock").exists()
    with folder.lock():
        pass


def test_what_runs_is_found_only_while_its_owner_lives(folder: Folder) -> None:
    register = Register(folder, ourselves())
    register.update(url="http://127.0.0.1:1", metrics_urls=("http://127.0.0.1:2/metrics",))
    assert folder.running() == register.running
    gone = Identity(os.getpid(), 1)
    Register(folder, gone)
    assert folder.running() is None
    assert folder.left() is not None


def test_secrets_are_readable_by_their_owner_only(folder: Folder) -> None:
    folder.keep_secrets({"api_key": "x"})
    Register(folder, ourselves())
    for name in ("secrets.json", "up.json"):
        assert (folder.path / name).stat().st_mode & 0o077 == 0


def test_a_broken_file_is_as_good_as_none(folder: Folder) -> None:
    (folder.path / "up.json").write_text("{")
    (folder.path / "secrets.json").write_text("[]")
    assert folder.running() is None
    assert folder.secrets() == {}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeliographError, match="--data-dir"):
        Folder(tmp_path / "file" / "x").make()
