"""How long processes waited for a processor, by the kernel's own account, moment by moment beside a run.

Between a caller's last look at its slot and its first byte lies a tenth of a millisecond of code. On a machine that has
more to do than processors a process can be put off in the midst of it for longer than the slots allow for: that is the
machine's doing, and this is what proves it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

EVERY_S: Final = 0.01


class Waits:
    """`pids`: whose, as of now. Of each its first thread, the one that calls."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._known: dict[int, int] = {}
        self._looked_s: list[float] = []
        self._waited_s: list[float] = []

    def before(self, at_s: float) -> float:
        """The longest that any of them had waited when it got a processor again, about `at_s`: it is put to account at
        that moment, which may lie just before a look, and the call just after."""
        look = bisect_left(self._looked_s, at_s)
        return sum(self._waited_s[max(0, look - 1) : look + 1])

    def look_on(self, end: threading.Event) -> None:
        while not end.wait(EVERY_S):
            waited_ns = max((self._since(pid) for pid in list(self._pids())), default=0)
            self._waited_s.append(waited_ns / 1e9)
            self._looked_s.append(time.time())

    def _since(self, pid: int) -> int:
        """Nanoseconds since the look before."""
        with suppress(OSError, IndexError, ValueError):  # it has ended
            total = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
            before = self._known.get(pid, total)
            self._known[pid] = total
            return total - before
        return 0
