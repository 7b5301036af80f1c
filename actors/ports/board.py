"""The board: what dispatchers read of the providers' actors, and how they are told apart from each other's haste.

One `Desk` for each provider. Its actor publishes whether it can be asked and how much it may hold; a dispatcher that
claims a message for it *enters*, and whoever is done with the message *leaves*: the actor when it handed the outcome to
the journal, the dispatcher when it did not win the claim. All of it is in one process and synchronous, so what a
dispatcher reads stays true until its next await.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

import trio

from heliograph.actors.model.message import Priority, WaitingFor
from heliograph.actors.model.provider import Controls, ProviderSettings
from heliograph.actors.policy.availability import ProviderView, ahead, room, window

AWAY_S: Final = 1.0
"""When to look again at a provider whose actor has crashed; nobody knows when the next one begins."""
_WAKE_PART: Final = 8
"""A dispatcher is woken when so much of the window is free, not for each place: claims are cheap in groups only."""


class Desk:
    """Before its actor has published anything a provider has the room that its settings allow. `controls` is the
    operators' last word on it: the actor keeps it here, where it outlives a crash. `away`: its actor has crashed, and
    the next one has not begun."""

    def __init__(self, settings: ProviderSettings, waiting: trio.lowlevel.ParkingLot) -> None:
        self.settings = settings
        self.controls: Controls | None = None
        self._waiting = waiting
        self._window = window(concurrency=settings.concurrency, batch=settings.batch, completed=0, rate=settings.rate)
        self._ahead = ahead(settings.rate)
        self._blocked_until_s = -inf
        self._blocked_for: WaitingFor | None = None
        self._spared: tuple[float, WaitingFor] | None = None
        self.away = False
        self._held = dict.fromkeys(Priority, 0)
        self._in_air = dict.fromkeys(Priority, 0)
        self._freed = 0
        self._arrived = dict.fromkeys(Priority, 0)

    # ------------------------------------------------------------------------------------- for dispatchers

    def room(self, priority: Priority) -> int:
        """How many more messages of this priority may be claimed for it."""
        free = room(self._window, self._held, priority)
        if self._ahead >= self._window:
            return free
        waiting = {p: held - self._in_air[p] for p, held in self._held.items()}
        return min(free, room(self._ahead, waiting, priority))

    def blocked(self, now_s: float, priority: Priority = Priority.NORMAL) -> tuple[float, WaitingFor] | None:
        """None where it can be asked; else for how many seconds it cannot, and why. Urgent messages may be spared."""
        if self.away:
            return AWAY_S, WaitingFor.PROVIDER
        until_s, why = self._blocked_until_s, self._blocked_for
        if priority is not Priority.URGENT and self._spared is not None and self._spared[0] > until_s:
            until_s, why = self._spared
        if why is None or until_s <= now_s:
            return None
        return until_s - now_s, why

    @property
    def in_air(self) -> int:
        return sum(self._in_air.values())

    @property
    def held(self) -> int:
        """How many messages are claimed or being claimed for it, here."""
        return sum(self._held.values())

    def view(self) -> ProviderView:
        return ProviderView(
            settings=self.settings,
            blocked_until_s=self._blocked_until_s,
            blocked_for=self._blocked_for,
            room={priority: self.room(priority) for priority in Priority},
        )

    def enter(self, priority: Priority, n: int = 1) -> None:
        """`n` messages are being claimed for it. Whoever enters and does not hand them over, leaves."""
        self._held[priority] += n

    def leave(self, priority: Priority, n: int = 1) -> None:
        """`n` that had entered were never handed over."""
        self._held[priority] -= n
        self._free(n)

    def _free(self, n: int) -> None:
        self._freed += n
        if self._freed >= min(self._window, self._ahead) // _WAKE_PART:
            self._freed = 0
            if self._waiting:
                self._waiting.unpark_all()

    # ------------------------------------------------------------------------------------ for the actor

    def arrive(self, priority: Priority) -> None:
        """The actor has taken a message out of its mailbox."""
        self._arrived[priority] += 1

    def done(self, priority: Priority, n: int = 1) -> None:
        """`n` arrived messages were finished or released, and the journal has them."""
        self._arrived[priority] -= n
        self.leave(priority, n)

    def take_off(self, priority: Priority) -> None:
        """An arrived message is being called for until it `lands`: meanwhile another one may wait in its stead."""
        self._in_air[priority] += 1
        if self._ahead < self._window:
            self._free(1)

    def lands(self, priority: Priority) -> None:
        self._in_air[priority] -= 1

    def publish(
        self,
        *,
        window: int,
        ahead: int | None = None,
        blocked_until_s: float,
        blocked_for: WaitingFor | None,
        spared: tuple[float, WaitingFor] | None = None,
    ) -> None:
        """`blocked_for` None: it can be asked. `spared`: until when and why it is only for urgent messages."""
        ahead = window if ahead is None else ahead
        more = window > self._window or ahead > self._ahead
        sooner = self._blocked_for is not None and (blocked_for is None or blocked_until_s < self._blocked_until_s)
        sooner = sooner or (self._spared is not None and (spared is None or spared[0] < self._spared[0]))
        stopped = blocked_for is not None and self._blocked_for is None  # then its line goes to others
        self._window, self._ahead = window, ahead
        self._blocked_until_s, self._blocked_for, self._spared = blocked_until_s, blocked_for, spared
        if sooner or more or stopped:
            self._waiting.unpark_all()

    def vacate(self) -> None:
        """The actor has crashed: nothing is to be claimed for it until another one begins."""
        self.away = True

    def reset(self) -> None:
        """A new actor begins: what the old one had taken out of its mailbox is gone, the rest still waits in it."""
        self.away = False
        for priority in Priority:
            self._held[priority] -= self._arrived[priority]
            self._arrived[priority] = 0
        self._waiting.unpark_all()


class Board:
    def __init__(self, providers: Iterable[ProviderSettings]) -> None:
        self._waiting = trio.lowlevel.ParkingLot()
        self._desks = {settings.name: Desk(settings, self._waiting) for settings in providers}

    def desk(self, provider: str) -> Desk:
        return self._desks[provider]

    def __iter__(self) -> Iterator[Desk]:
        return iter(self._desks.values())

    def ring(self) -> None:
        """Have the dispatchers look again: one of them has given up room that it had reckoned with."""
        self._waiting.unpark_all()

    async def changed(self) -> None:
        """Wait until some desk has room it had not, or can be asked again. What is looked at before this is awaited,
        in the same synchronous stretch, is not missed."""
        await self._waiting.park()
