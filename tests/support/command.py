"""The `heliograph` command as a real process, and a system that its `up` runs, for tests."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heliograph.gateway.cli.processes import Identity
from heliograph.gateway.cli.state import Folder, Running
from tests.support.services import wait_until

COMMAND = [sys.executable, "-P", "-m", "heliograph.gateway.cli.main"]
PATIENCE_S = 120.0


def environment(**more: str) -> dict[str, str]:
    """Ours, without any configuration that happens to lie in it. Bytecode is kept: a test starts many processes."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours | more


def heliograph(*arguments: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Process:
    """A command that goes on. Its lines are read as they come."""

    def __init__(self, *arguments: str, cwd: Path, ignore_sigint: bool = False, **more: str) -> None:
        self.child = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=cwd,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignore_sigint else None,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.errors: list[str] = []
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.child.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(self.child.stderr, self.errors.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, keep: Callable[[str], None]) -> None:
        for line in stream:
            keep(line.rstrip("\n"))
        stream.close()

    def line(self) -> str:
        """The next line of standard output."""
        line = self._lines.get(timeout=PATIENCE_S)
        assert line is not None
        return line

    def tells(self, text: str) -> None:
        """Wait until standard error has said so."""
        wait_until(
            lambda: any(text in line for line in list(self.errors)), f"{text!r} on stderr; it says {self.errors}"
        )

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def ends(self) -> int:
        code = self.child.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def remove(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.ends()


@contextmanager
def process(*arguments: str, cwd: Path, ignore_sigint: bool = False, **more: str) -> Iterator[Process]:
    started = Process(*arguments, cwd=cwd, ignore_sigint=ignore_sigint, **more)
    try:
        yield started
    finally:
        started.remove()


class System:
    """What `up` runs from `home/.heliograph`. `remove` leaves nothing, whatever happened."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = Folder(home / ".heliograph")

    def up(self, *arguments: str, ignore_sigint: bool = False, **more: str) -> Process:
        return Process("up", "--port", "0", *arguments, cwd=self.home, ignore_sigint=ignore_sigint, **more)

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return heliograph(*arguments, cwd=self.home, **more)

    def json(self, *arguments: str) -> Any:
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def running(self) -> Running:
        """Once it is ready."""
        wait_until(lambda: bool((found := self.folder.running()) and found.url), f"up runs from {self.home}")
        found = self.folder.running()
        assert found is not None
        return found

    def children(self) -> list[Identity]:
        left = self.folder.left()
        return list(left.children.values()) if left else []

    def leaves_nothing(self, children: Sequence[Identity]) -> None:
        wait_until(lambda: not any(child.alive() for child in children), "all children are gone")
        for name in ("lock", "up.json", "postgres/postmaster.pid", "redis/redis.pid"):
            assert not (self.folder.path / name).exists(), name

    def remove(self) -> None:
        running = self.folder.running()
        if running is not None:
            running.owner.signal(signal.SIGKILL)
        self.command("down")


def lines_of_up(process: Process) -> tuple[str, str, str, str]:
    """Its first four."""
    url, key, console, curl = (process.line() for _ in range(4))
    assert url.startswith("URL: http://127.0.0.1:")
    assert key.startswith("API key: ")
    assert console.startswith("Console: http://127.0.0.1:")
    assert curl.startswith("curl ")
    return url.removeprefix("URL: "), key.removeprefix("API key: "), console.removeprefix("Console: "), curl
