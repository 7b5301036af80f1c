"""Virtual time for suites that also run in real time: a class of tests says `virtual_time = True`.

A test that is only ever run in virtual time asks for pytest-trio's fixture `autojump_clock` instead; one whose run must
repeat, byte for byte, calls `heliograph.actors.simulation.virtual.play`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from trio.abc import Clock, Instrument
from trio.testing import MockClock

T = TypeVar("T")


def run(test: Callable[[], Awaitable[T]], clock: Clock | None, instruments: Sequence[Instrument]) -> T:
    """`trio.run` for pytest-trio, with a clock that leaps whenever all tasks wait."""
    return trio.run(test, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)
