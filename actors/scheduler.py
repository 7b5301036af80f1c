"""A scheduler: what is due in one channel goes to its lane; what was not sent in time expires.

Every supervisor runs it, without a leader: a hint is moved once, by whoever is first. The delayed set in Redis is
only a hint, as the lanes are; the ledger's `due_at` decides when a message may be claimed. It sleeps until the next
moment that it knows of, at most a second, and its own queue tells when something sooner is put in.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.errors import LedgerDown, QueueDown, StaleGeneration
from heliograph.actors.model.message import Channel, State
from heliograph.actors.ports.ledger import DeliveryLedger
from heliograph.actors.ports.queue import Queue

log = structlog.get_logger()
MOST: Final = 500
LOOK_S: Final = 1.0
"""Others may have put something in."""
MARGIN_S: Final = 0.001
"""After the moment rather than just before it."""
EXPIRE_S: Final = 3.0
OWED_MOST: Final = 10_000


class Scheduler:
    def __init__(
        self, channel: Channel, queue: Queue, ledger: DeliveryLedger, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._ledger = ledger
        self._clock = clock
        self._expired = {each: metrics.messages.labels(each, State.EXPIRED) for each in Channel}
        self._outage = Outage("scheduler", clock)
        self._ledger_outage = Outage("scheduler.ledger", clock)
        self._rest: trio.CancelScope | None = None
        self._next_s = 0.0  # trio's time, as the rest's deadline
        self._expire_s = 0.0
        self._owed: list[str] = []

    async def run(self, inbox: Inbox[None]) -> None:
        self._expire_s = trio.current_time() + EXPIRE_S * self._clock.random.random()
        self._queue.on_later(self._channel, self._due_in)
        try:
            while not inbox.closed:
                inbox.began()
                self._next_s = trio.current_time() + LOOK_S  # first, for what is put in during this turn counts
                await self._wake()
                await self._tell_ledger()
                with trio.CancelScope(deadline=self._next_s) as self._rest:
                    await inbox.receive(LOOK_S)
                self._rest = None
        finally:
            self._queue.on_later(self._channel, None)

    def _due_in(self, due_in_s: float) -> None:
        self._next_s = min(self._next_s, trio.current_time() + max(0.0, due_in_s) + MARGIN_S)
        if self._rest is not None:
            self._rest.deadline = self._next_s

    async def _wake(self) -> None:
        try:
            woken, next_in_s = await self._queue.wake(self._channel, limit=MOST)
        except (QueueDown, StaleGeneration) as error:
            self._next_s = trio.current_time() + self._outage.failed(error)
            return
        self._outage.over()
        self._owed += [hint.message_id for hint in woken]
        if next_in_s is not None:
            self._due_in(next_in_s)

    async def _tell_ledger(self) -> None:
        """Nothing is lost where the ledger does not hear of it: a message is claimed by its `due_at`, `scheduled` or
        not. It would only be shown as scheduled until then."""
        try:
            if self._owed:
                await self._ledger.wake(self._owed)
                self._owed.clear()
            if trio.current_time() >= self._expire_s:
                await self._expire()
            self._ledger_outage.over()
        except LedgerDown as error:
            del self._owed[:-OWED_MOST]
            self._expire_s = trio.current_time() + self._ledger_outage.failed(error)

    async def _expire(self) -> None:
        expired = await self._ledger.expire(MOST)
        for each in expired:
            self._expired[each.message.channel].inc()
        if expired:
            log.info("messages.expired", count=len(expired))
        self._expire_s = trio.current_time() + (0.0 if len(expired) == MOST else EXPIRE_S)
        if len(expired) == MOST:
            self._due_in(0.0)
