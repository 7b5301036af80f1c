"""Who may come in when more comes than can be done: room that keys share, and the order in which they have their turn.

`Room` bounds what is held. A key may hold no more than is still free (dynamic thresholds: Choudhury and Hahne, 1998),
so one that floods gets half of the room, two of them a third each, and there is always some left for whoever holds
nothing yet. Nobody need know how many keys there are.

`Turns` bounds what is worked on, and lets keys have their turns by start-time fair queueing (Goyal, Vin and Cheng,
1996): a key that asks for little waits for what is being worked on, and not for what others have piled up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import Final


class Refusal(StrEnum):
    GREEDY = "greedy"  # who holds less would have been let in
    FULL = "full"  # nobody would


class Room:
    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self.held = 0
        self._by_key: dict[str, int] = {}

    def enter(self, key: str, size: int) -> Refusal | None:
        """None: it holds `size` from now on. What is larger than half of the room has the room to itself."""
        mine, free = self._by_key.get(key, 0), max(0, self.capacity - self.held)
        if self.held and size > free:
            return Refusal.GREEDY if mine > free else Refusal.FULL
        if mine + size > free and mine:
            return Refusal.GREEDY
        self._by_key[key] = mine + size
        self.held += size
        return None

    def leave(self, key: str, size: int) -> None:
        self.held -= size
        left = self._by_key[key] - size
        if left:
            self._by_key[key] = left
        else:
            del self._by_key[key]

    def resize(self, key: str, before: int, after: int) -> None:
        """What is inside turned out to be larger or smaller."""
        self.held += after - before
        self._by_key[key] += after - before

    def held_by(self, key: str) -> int:
        return self._by_key.get(key, 0)


@dataclass(slots=True, eq=False)
class Ticket:
    """`begin` is called once, when its turn has come; `started` says that it was, `aside` that it was by its key's
    being new."""

    key: str
    cost: int
    begin: Callable[[], None]
    started: bool = False
    aside: bool = False
    gone: bool = False


class Turns:
    """At most `capacity` is worked on at once; what is larger counts for no more. As much again is kept for keys that
    have nothing here: theirs begins at once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._at_work = 0
        self._aside = 0
        self._waiting: list[tuple[float, int, Ticket]] = []
        self._here: Counter[str] = Counter()
        self._finish: dict[str, float] = {}
        """By key: where its last request ends in virtual time."""
        self._virtual = 0.0
        self._serial = 0

    def ask(self, ticket: Ticket) -> None:
        ticket.cost = min(ticket.cost, self._capacity)
        is_new = ticket.key not in self._here
        self._here[ticket.key] += 1
        start = max(self._virtual, self._finish.get(ticket.key, 0))
        self._finish[ticket.key] = start + ticket.cost
        is_full = bool(self._waiting) or self._at_work + ticket.cost > self._capacity
        if is_new and is_full and self._aside + ticket.cost <= self._capacity:
            self._aside += ticket.cost
            ticket.aside = True
            self._begin(ticket)
            return
        if not is_full:
            self._take(start, ticket)
            return
        self._serial += 1
        heappush(self._waiting, (start, self._serial, ticket))

    def leave(self, ticket: Ticket) -> None:
        """It is done, or waits no longer."""
        if ticket.gone:
            return
        ticket.gone = True
        self._here[ticket.key] -= 1
        if not self._here[ticket.key]:
            del self._here[ticket.key]
        if ticket.aside:
            self._aside -= ticket.cost
        elif ticket.started:
            self._at_work -= ticket.cost
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            start, _, ticket = self._waiting[0]
            if not ticket.gone and self._at_work + ticket.cost > self._capacity:
                return
            heappop(self._waiting)
            if not ticket.gone:
                self._take(start, ticket)
        if not self._here:
            self._finish.clear()
            self._virtual = 0.0

    def _take(self, start: float, ticket: Ticket) -> None:
        # It goes on with what is served, too, so that no stream of new keys keeps an old one waiting.
        self._virtual = max(self._virtual, start) + ticket.cost / len(self._here)
        self._at_work += ticket.cost
        self._begin(ticket)

    def _begin(self, ticket: Ticket) -> None:
        ticket.started = True
        ticket.begin()
