"""Work in a process of its own, so that what it loads goes when it ends.

A supervisor reads its configuration once and lives for months, and what reading takes, pydantic above all, would stay
with it for all that time.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

from heliograph.gateway.cli.processes import die_with_parent

T = TypeVar("T")
READ: Final = 65_536


class Apart(Generic[T]):
    """`work` begins at once, in a fork: no thread and no event loop may run yet. What it answers goes through pickle.

    An error goes up in the fork, which tells of it as the command itself would, and ends.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        parent = os.getpid()
        self._answer, told = os.pipe()
        self._child = os.fork()
        if not self._child:
            die_with_parent(parent, signal.SIGKILL)
            with os.fdopen(told, "wb") as pipe:
                pipe.write(pickle.dumps(work()))
            os._exit(0)
        os.close(told)

    async def result(self) -> T:
        """SystemExit, with the fork's own code, where that did not come to an answer. To cancel it ends the fork."""
        pieces: list[bytes] = []
        try:
            await trio.lowlevel.wait_readable(self._answer)
            while piece := os.read(self._answer, READ):
                pieces.append(piece)
        except trio.Cancelled:
            os.kill(self._child, signal.SIGKILL)
            raise
        finally:
            os.close(self._answer)
            _, status = os.waitpid(self._child, 0)  # noqa: ASYNC222 - it has closed its end, or is killed
        if not pieces:
            raise SystemExit(os.waitstatus_to_exitcode(status))
        answer: T = pickle.loads(b"".join(pieces))  # noqa: S301 - of our own fork
        return answer
