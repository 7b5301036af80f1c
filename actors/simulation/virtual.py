"""Virtual time: a clock that leaps whenever all tasks wait, and a scheduler whose draws repeat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run as scheduler
from trio.testing import MockClock

T = TypeVar("T")


def leaping_clock() -> MockClock:
    """It stands still while any task can run. Asked for the time it does not look at the real clock, as a MockClock
    otherwise would each time: a simulated day asks a hundred million times. A test says when `_virtual_base` has gone.
    """
    clock = MockClock(autojump_threshold=0)
    clock.current_time = lambda: clock._virtual_base  # type: ignore[method-assign]
    return clock


def play(story: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run a story in virtual time. One seed is one run: trio's own draws are seeded too."""
    with seeded(seed):
        return trio.run(story, clock=leaping_clock())


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
