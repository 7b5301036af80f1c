"""Virtual time: a clock that leaps whenever all tasks wait, and a scheduler whose draws repeat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import TypeVar

import trio
from trio._core import _run as scheduler

T = TypeVar("T")


class LeapingClock(trio.abc.Clock):
    """It stands still while any task can run. Trio asks how long it may sleep only when none can; then it is that
    moment already. A MockClock does the same with a turn of the scheduler more for each leap, and a look at the real
    clock whenever it is asked for the time: a simulated day asks a hundred million times."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def start_clock(self) -> None:
        """It has no moment to begin at but its own."""

    def current_time(self) -> float:
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if deadline == inf:
            return inf
        self._now_s = max(self._now_s, deadline)
        return 0.0

    def leap(self, by_s: float) -> None:
        """As on a machine that was suspended: whatever was due meanwhile is due now."""
        self._now_s += by_s


def play(story: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run a story in virtual time. One seed is one run: trio's own draws are seeded too."""
    with seeded(seed):
        return trio.run(story, clock=LeapingClock())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Trio shuffles its ready tasks, so that nobody relies on their order; its switch for tests makes the shuffle
    repeat. Both names are private: this is the only place that knows them, and a test says when they have gone."""
    state, was = scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._r.seed(seed)
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    try:
        yield
    finally:
        scheduler._r.setstate(state)
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]
