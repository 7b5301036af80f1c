"""Keeps one child of `up` alive: starts it, waits until it is ready, starts it again when it dies.

It never stops the child; `up` does, in the right order, also when this task was cancelled.
"""

from __future__ import annotations

import collections
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import trio

from heliograph.gateway.cli.output import CommandFailed
from heliograph.gateway.cli.processes import Account, Identity, spawn, stop, wait
from heliograph.gateway.cli.state import Register

READY_WITHIN_S: Final = 60.0
ASK_EVERY_S: Final = 0.05
STEADY_S: Final = 60.0
MOST_DEATHS: Final = 10
"""More deaths than that within STEADY_S, and the child is given up."""
LOG_BYTES: Final = 10_000_000

Steps = Sequence[tuple[signal.Signals, float]]

log = structlog.get_logger("up")


class KeepsDying(CommandFailed):
    """A child does not stay alive, or never became ready; the text says where it tells why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """`command` is asked anew for each start. `file` is where it writes (ours where None). Before it was ready once
    it may end `early_ends` times; `ended_early` is told how often it did."""

    name: str
    command: Callable[[], Sequence[str | Path]]
    ready: Callable[[], Awaitable[bool]]
    environ: Mapping[str, str]
    stop_steps: Steps
    account: Account | None = None
    file: Path | None = None
    early_ends: int = 0
    ended_early: Callable[[int], None] = lambda _times: None


class Keeper:
    def __init__(self, child: Child, register: Register) -> None:
        self.child = child
        self._register = register
        self._process: subprocess.Popen[bytes] | None = None

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means ready. Raises KeepsDying; `child.ready` may raise what no other start would mend."""
        process = await self._first_start()
        task_status.started()
        deaths: collections.deque[float] = collections.deque()
        while True:
            code = await self._until_death(process)
            now = trio.current_time()
            deaths.append(now)
            while deaths[0] < now - STEADY_S:
                deaths.popleft()
            if len(deaths) > MOST_DEATHS:
                raise KeepsDying(f"{self._ended(code)}, for the {len(deaths)}th time in a minute{self._where()}")
            log.warning("child.died", child=self.child.name, exit_code=code, deaths=len(deaths))
            await trio.sleep(min(5.0, 0.05 * 2 ** len(deaths)))
            process = self._spawn()

    async def _first_start(self) -> subprocess.Popen[bytes]:
        for times in range(1, self.child.early_ends + 2):
            process = self._spawn()
            with trio.move_on_after(READY_WITHIN_S) as patience:
                while process.poll() is None:
                    if await self.child.ready():
                        return process
                    await trio.sleep(ASK_EVERY_S)
            if patience.cancelled_caught:
                raise KeepsDying(f"{self.child.name} was not ready within {READY_WITHIN_S:g} s{self._where()}")
            code = await self._until_death(process)
            self.child.ended_early(times)
            await trio.sleep(ASK_EVERY_S * 2**times)
        raise KeepsDying(f"{self._ended(code)} before it was ready{self._where()}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        child = self.child
        file = _opened(child.file)
        try:
            self._process = spawn(
                child.command(),
                environ=child.environ,
                cwd=None if child.account is None else Path("/"),
                stdout=file if file is not None else subprocess.DEVNULL,
                stderr=file,
                account=child.account,
                death_signal=signal.SIGTERM,
            )
        finally:
            if file is not None:
                os.close(file)
        self._register.child(child.name, Identity.of(self._process.pid))
        return self._process

    async def _until_death(self, process: subprocess.Popen[bytes]) -> int:
        code = await wait(process)
        self._register.child(self.child.name, None)
        return code

    async def stop(self, *, hurry: trio.Event) -> None:
        """Not to be cancelled. With `hurry` set the patience is over at once."""
        process = self._process
        identity = Identity.of(process.pid) if process is not None and process.poll() is None else None
        if process is None or identity is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_on, hurry, identity)
            gentle = await stop(identity, self.child.stop_steps)
            nursery.cancel_scope.cancel()
        if not gentle:
            log.warning("child.killed", child=self.child.name)
        await wait(process)
        self._register.child(self.child.name, None)

    def _ended(self, code: int) -> str:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"{self.child.name} ended {how}"

    def _where(self) -> str:
        return f"; it says why in {self.child.file}" if self.child.file else "; it says why above"


async def _kill_on(hurry: trio.Event, process: Identity) -> None:
    """The second signal: a supervisor that gets one more stops at once by itself; a second later it has no choice."""
    await hurry.wait()
    process.signal(signal.SIGTERM)
    await trio.sleep(1)
    process.signal(signal.SIGKILL)


def _opened(file: Path | None) -> int | None:
    """For appending; a log that has grown large is set aside once."""
    if file is None:
        return None
    if file.exists() and file.stat().st_size > LOG_BYTES:
        file.replace(file.with_suffix(".log.1"))
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
