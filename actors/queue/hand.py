"""What a queue object remembers by itself: what is in hand, whose turn it is, who listens; on Redis and in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from heliograph.actors.model.message import Channel, Lane
from heliograph.actors.ports.queue import Hint, Later

FORGOTTEN_S: Final = 120.0
"""Longer than any message is worked on while all goes well."""


class Hand:
    """The hints that were given to our dispatchers and are not settled yet.

    Redis' list of what we took may hold more: a take whose answer was lost. Such an id is *stranded* once two looks
    in a row find it there and not here; at one look alone the answer may just be on its way. So is one that has been
    in hand for `FORGOTTEN_S`: a dispatcher that crashed forgot it. If none did, another's claim is refused.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[Lane, float]] = {}
        self._suspects: frozenset[str] = frozenset()

    def add(self, hints: Iterable[Hint], now_s: float) -> list[Hint]:
        """Answers those that were not in hand: of a doubled hint one is enough."""
        new: list[Hint] = []
        for hint in hints:
            if hint.message_id not in self._held:
                self._held[hint.message_id] = (hint.lane, now_s)
                new.append(hint)
        return new

    def lane(self, message_id: str) -> Lane | None:
        held = self._held.get(message_id)
        return None if held is None else held[0]

    def drop(self, ids: Iterable[str]) -> None:
        for message_id in ids:
            self._held.pop(message_id, None)

    def stranded(self, listed: Collection[str], now_s: float) -> Sequence[str]:
        """One look at what Redis lists. In order of age, since ids sort by it."""
        self.drop([i for i, (_, since_s) in self._held.items() if now_s - since_s > FORGOTTEN_S])
        suspects = frozenset(message_id for message_id in listed if message_id not in self._held)
        stranded = sorted(suspects & self._suspects)
        self._suspects = suspects
        return stranded


class Turn:
    """Counts takes that found something, so that a share of them can begin at the lowest lane."""

    def __init__(self) -> None:
        self._takes = 0

    def lowest_first(self, share: float) -> bool:
        """Whether the next take should."""
        return share > 0 and (self._takes + 1) % max(1, round(1 / share)) == 0

    def taken(self) -> None:
        self._takes += 1


class Listeners:
    """Who wants to know of later hints."""

    def __init__(self) -> None:
        self._told: dict[Channel, Callable[[float], None]] = {}

    def set(self, channel: Channel, told: Callable[[float], None] | None) -> None:
        if told is None:
            self._told.pop(channel, None)
        else:
            self._told[channel] = told

    def tell(self, later: Sequence[Later]) -> None:
        soonest_s: dict[Channel, float] = {}
        for each in later:
            channel = each.hint.lane.channel
            soonest_s[channel] = min(soonest_s.get(channel, each.due_in_s), each.due_in_s)
        for channel, due_in_s in soonest_s.items():
            if told := self._told.get(channel):
                told(due_in_s)
