"""Virtual time for suites that also run in real time: a class of tests says `virtual_time = True`.

A test that is only ever run in virtual time asks for pytest-trio's fixture `autojump_clock` instead; one whose run must
repeat, byte for byte, calls `play`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run as scheduler
from trio.abc import Clock, Instrument
from trio.testing import MockClock

T = TypeVar("T")


def run(test: Callable[[], Awaitable[T]], clock: Clock | None, instruments: Sequence[Instrument]) -> T:
    """`trio.run` for pytest-trio, with a clock that leaps whenever all tasks wait."""
    return trio.run(test, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)


def play(story: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run a story in virtual time. One seed is one run: trio's own draws are seeded too."""
    with _seeded(seed):
        return run(story, None, ())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Trio shuffles its ready tasks, so that nobody relies on their order; its switch for tests makes the shuffle
    repeat. Both names are private: this is the only place that knows them, and a test says when they have gone."""
    state, was = scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._r.seed(seed)
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        scheduler._r.setstate(state)
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was
