"""What a queue object remembers by itself: what is in hand, whose turn it is, who listens; on Redis and in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from heliograph.actors.model.message import Channel, Lane
from heliograph.actors.ports.queue import Hint, Later


class Hand:
    """The hints that were given to our dispatchers and are not settled yet.

    Redis' list of what we took may hold more: a take whose answer was lost. Such an id is *stranded* once two looks
    in a row find it there and not here; at one look alone the answer may just be on its way.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._suspects: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, hints: Iterable[Hint]) -> list[Hint]:
        """Answers those that were not in hand: of a doubled hint one is enough."""
        new: list[Hint] = []
        for hint in hints:
            if hint.message_id not in self._lanes:
                self._lanes[hint.message_id] = hint.lane
                new.append(hint)
        return new

    def lane(self, message_id: str) -> Lane | None:
        return self._lanes.get(message_id)

    def drop(self, ids: Iterable[str]) -> None:
        for message_id in ids:
            self._lanes.pop(message_id, None)

    def stranded(self, listed: Collection[str]) -> Sequence[str]:
        """One look at what Redis lists. In order of age, since ids sort by it."""
        suspects = frozenset(message_id for message_id in listed if message_id not in self._lanes)
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
