"""Child processes that end with us, and other processes told apart by more than their number.

A number is used again by the system, so a process is known by its number and its start time together. Children get
a session of their own (a Ctrl-C in the terminal reaches only us, and we stop them in order) and are signalled by the
kernel when we die without a word.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import trio

POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for good: `started` is in the kernel's ticks since it booted."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """None where there is no such process, or only its zombie."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # Field 2 is the name in parentheses and may hold anything; state is field 3, the start time field 22.
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return Identity.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """To that process or to nobody."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True, slots=True)
class Account:
    """Another user that a child runs as; only root can ask for it."""

    uid: int
    gid: int


def spawn(
    argv: Sequence[str | Path],
    *,
    environ: Mapping[str, str],
    cwd: Path | None = None,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int | None = None,
    account: Account | None = None,
    death_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    """Start a child of this thread, which must be the one that lives as long as we do.

    `death_signal` is tied to the thread that forks, so trio's `run_process`, which forks in a worker thread, would
    end the child with that thread.
    """
    parent = os.getpid()

    def in_child() -> None:
        die_with_parent(parent, death_signal)  # after the change of user, which would clear it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(  # noqa: S603 - every argument is ours
        list(argv),
        env=dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        preexec_fn=in_child,
    )


def die_with_parent(parent: int, death_signal: signal.Signals) -> None:
    """In a fork of `parent`, whose death may have come before."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != parent:
        os._exit(1)


async def wait(child: subprocess.Popen[bytes]) -> int:
    """The child's exit code, as `Popen.returncode` has it (negative: by that signal)."""
    while child.poll() is None:
        await _until_gone(child.pid)
    return int(child.returncode)


async def wait_gone(process: Identity) -> None:
    """Until that process, which need not be our child, is no more."""
    while process.alive():
        await _until_gone(process.pid)


async def _until_gone(pid: int) -> None:
    """Until something happens to that process, or a moment has passed."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # gone, or a kernel without pidfd
        await trio.sleep(POLL_S)
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def stop(process: Identity, steps: Sequence[tuple[signal.Signals, float]]) -> bool:
    """Ask with each signal in turn and wait for so many seconds; after the last one SIGKILL. True: it took no force."""
    for number, patience_s in steps:
        process.signal(number)
        with trio.move_on_after(patience_s):
            await wait_gone(process)
            return True
    process.signal(signal.SIGKILL)
    await wait_gone(process)
    return False
