"""A count over a sliding span of time, in a fixed number of parts: right to one part, constant in memory."""

from __future__ import annotations

from typing import Final

PARTS: Final = 20


class Tally:
    """How much was added within the last `span_s` seconds. Times must not run backwards by more than the span.

    >>> tally = Tally(10.0)
    >>> tally.add(100.0, 3)
    >>> tally.add(104.0)
    >>> tally.total(105.0), tally.total(111.0), tally.total(200.0)
    (4, 1, 0)
    """

    __slots__ = ("_part_s", "_parts", "_tick", "_total")

    def __init__(self, span_s: float) -> None:
        self._part_s = span_s / PARTS
        self._parts = [0] * PARTS
        self._tick = -PARTS
        self._total = 0

    def add(self, now_s: float, amount: int = 1) -> None:
        tick = int(now_s / self._part_s)
        if tick > self._tick:
            self._turn(tick)
        self._parts[self._tick % PARTS] += amount
        self._total += amount

    def total(self, now_s: float) -> int:
        tick = int(now_s / self._part_s)
        if tick > self._tick:
            self._turn(tick)
        return self._total

    def clear(self) -> None:
        self._parts[:] = [0] * PARTS
        self._total = 0

    def _turn(self, tick: int) -> None:
        if tick - self._tick >= PARTS:
            self.clear()
            self._tick = tick
        while self._tick < tick:
            self._tick += 1
            self._total -= self._parts[self._tick % PARTS]
            self._parts[self._tick % PARTS] = 0
