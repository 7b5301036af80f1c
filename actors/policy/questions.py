"""Questions about earlier attempts that ended without an answer: to be asked before another call is made."""

from __future__ import annotations

from collections import deque
from math import inf

from heliograph.actors.model.attempt import Settled
from heliograph.actors.policy.hand import Held


class Questions:
    """Messages that wait for such an answer, in the order they came.

    What was told is remembered for the next claim of the same message (at most `most` of them): an answer that takes
    longer than a claim would else never help.
    """

    def __init__(self, most: int = 1000) -> None:
        self._waiting: deque[Held] = deque()
        self._told: dict[tuple[str, int], tuple[int, Settled] | None] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, held: Held) -> bool:
        """False where it was told before: then `held` knows, and can be called for."""
        key = (held.tracked.message.id, held.ask or 0)
        if key not in self._told:
            self._waiting.append(held)
            return True
        hear(held, self._told.pop(key))
        return False

    def take(self) -> Held:
        return self._waiting.popleft()

    def clear(self) -> list[Held]:
        waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def next_lapse_s(self) -> float:
        return min((held.lapses_s for held in self._waiting), default=inf)

    def lapsed(self, now_s: float) -> list[Held]:
        late = [held for held in self._waiting if held.lapses_s <= now_s]
        if late:
            self._waiting = deque(held for held in self._waiting if held.lapses_s > now_s)
        return late

    def remember(self, held: Held) -> None:
        """`held` is given up."""
        if not held.told or held.ask is None:
            return
        if len(self._told) >= self._most:
            del self._told[next(iter(self._told))]
        self._told[held.tracked.message.id, held.ask] = held.settles


def hear(held: Held, settles: tuple[int, Settled] | None) -> None:
    """What is known of its earlier attempts: the last one was not sent, or (None) nobody can tell."""
    held.told = True
    held.settles = settles
