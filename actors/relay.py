"""The relay: from the ledger to the queue. New work, and everything again after Redis was lost.

It is told of new work and pushes it in groups. What it cannot push it keeps and pushes later; what it cannot keep, it
finds in the ledger again. So that lists of another life of Redis are never taken for ours, all names carry a
*generation*, kept in the ledger together with the `run_id` of the server it was made on. About once a second the relay
looks whether both are still so. If the name is gone or another server answers, it renews the generation by
compare-and-set; whoever wins fills the new lists from the ledger, urgent and oldest first, while work goes on. The
generation's name tells who that is: if it dies before it can have done so, another one fills them.

Everything here may be done twice: a doubled hint costs one refused claim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.model.errors import LedgerDown, QueueDown, StaleGeneration
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import LANES, Lane, Priority
from heliograph.actors.ports.ledger import Generation, Ledger, WaitingHint
from heliograph.actors.ports.queue import Hint, Later, Queue

log = structlog.get_logger()

Down = (QueueDown, StaleGeneration, LedgerDown)
PILE: Final = 256
PUSH: Final = 1000
PAGE: Final = 1000
KEEP: Final = 100_000
"""Hints kept while Redis is away; beyond them the ledger is walked instead."""
LOOK_S: Final = 1.0
SWEEP_S: Final = 5.0
AUDIT_S: Final = 60.0
OVERDUE_S: Final = 30.0
MEND: Final = 10_000
"""The most that one audit looks at in a lane."""
START_S: Final = 5.0
OPEN_S: Final = 3.0
"""How long the maker of a generation may take to open it before another one renews it."""
OPEN_POLL_S: Final = 0.05
FILL_S: Final = 180.0
"""How long after a generation was found its maker is watched."""

URGENT_FIRST: Final = sorted(LANES, key=lambda lane: list(Priority).index(lane.priority))


@dataclass(frozen=True, slots=True)
class NewWork:
    """Committed messages that wait."""

    hints: Sequence[Hint]
    later: Sequence[Later] = ()


@dataclass(frozen=True, slots=True)
class Dirty:
    """Somebody could not tell of new work: all that waits is to be pushed again."""


RelayMessage = NewWork | Dirty


@dataclass(slots=True)
class _Owed:
    """`due_s` is on the boot clock, for it may have to wait here."""

    hint: Hint
    due_s: float | None


class _Walk:
    """Where filling the lists from the ledger has got to: it goes on after an outage."""

    def __init__(self) -> None:
        self.lanes = deque(URGENT_FIRST)
        self.after: tuple[datetime, str] | None = None
        self.pushed = 0


class Relay:
    def __init__(self, ledger: Ledger, queue: Queue, *, supervisor: str, clock: Clock) -> None:
        self._ledger = ledger
        self._queue = queue
        self._supervisor = supervisor
        self._clock = clock
        self._owed: deque[_Owed] = deque()
        self._push_outage = Outage("relay", clock)
        self._look_outage = Outage("relay.generation", clock)
        self._retry_s = 0.0
        self._rest: trio.CancelScope | None = None
        self._in_use: Generation | None = None
        self._proposed: Generation | None = None
        self._walk: _Walk | None = None
        self._look = trio.Event()
        self._watch_until_s = 0.0
        self._missing: dict[Lane, set[str]] = {}

    @property
    def reaches_queue(self) -> bool:
        """Whether the lists in use answered at the last look."""
        return self._in_use is not None and not self._look_outage.lasts and not self._push_outage.lasts

    async def run(self, inbox: Inbox[RelayMessage]) -> None:
        with trio.move_on_after(START_S):
            try:
                await self._look_at_generation()
            except Down as error:
                log.warning("relay.starts_without_lists", error=str(error))
        inbox.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_generation)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._audit)
            await self._relay(inbox)
            nursery.cancel_scope.cancel()

    @property
    def owes(self) -> bool:
        """Whether it holds hints that the lists do not have."""
        return bool(self._owed)

    # ---------------------------------------------------------------------------------------- new work

    async def _relay(self, inbox: Inbox[RelayMessage]) -> None:
        while True:
            with trio.CancelScope(deadline=self._retry_s if self._owed else float("inf")) as self._rest:
                if first := await inbox.receive(LOOK_S):
                    for message in (first, *inbox.pile(PILE)):
                        self._keep(message)
            self._rest = None
            if self._owed and (trio.current_time() >= self._retry_s or inbox.closed):
                await self._push()
            if inbox.closed and inbox.depth == 0:
                break
        if self._owed:
            log.warning("relay.leaves", hints=len(self._owed))  # committed, and found by the audit of another

    def _keep(self, message: RelayMessage) -> None:
        if isinstance(message, Dirty):
            self._walk_again()
            return
        now_s = self._clock.boot_s()
        self._owed.extend(_Owed(hint, None) for hint in message.hints)
        self._owed.extend(_Owed(each.hint, now_s + each.due_in_s) for each in message.later)
        if len(self._owed) > KEEP:
            self._owed.clear()
            self._walk_again()

    async def _push(self) -> None:
        while self._owed:
            now_s = self._clock.boot_s()
            hints: list[Hint] = []
            later: list[Later] = []
            group = list(islice(self._owed, PUSH))
            for owed in group:
                if owed.due_s is None or owed.due_s <= now_s:
                    hints.append(owed.hint)
                else:
                    later.append(Later(owed.hint, owed.due_s - now_s))
            try:
                await self._queue.push(hints, later=later)
            except (QueueDown, StaleGeneration) as error:
                self._retry_s = trio.current_time() + self._push_outage.failed(error)
                self._look.set()
                return
            for _ in group:
                self._owed.popleft()
        self._push_outage.over()
        self._retry_s = 0.0

    def _push_now(self) -> None:
        self._retry_s = 0.0
        if self._rest is not None and self._owed:
            self._rest.deadline = 0.0

    # -------------------------------------------------------------------------------------- generation

    async def _keep_generation(self) -> None:
        while True:
            wait_s = LOOK_S
            try:
                await self._look_at_generation()
                if self._walk is not None:
                    await self._fill(self._walk)
                self._look_outage.over()
            except Down as error:
                wait_s = self._look_outage.failed(error)
            with trio.move_on_after(wait_s):
                await self._look.wait()
            if self._look.is_set():
                self._look = trio.Event()
                await trio.sleep(0.01)  # whatever rings without an end is not to keep us busy

    async def _look_at_generation(self) -> None:
        patience_ends_s = trio.current_time() + OPEN_S
        # Nothing tells: the maker is another process.
        while not await self._open_what_is_in_force(patient=trio.current_time() < patience_ends_s):  # noqa: ASYNC110
            await trio.sleep(OPEN_POLL_S)

    async def _open_what_is_in_force(self, *, patient: bool) -> bool:
        """False where another one has just renewed the generation and Redis does not have its name yet: its maker is
        to write it, and nobody else. Should Redis lose it at once, a second hand would write it over empty lists."""
        server = await self._queue.server()
        name = await self._queue.current()
        if self._in_use is not None and self._in_use == Generation(name or "", server):
            return True
        in_force = await self._ledger.cluster.generation()
        if self._lost(in_force, server, name, patient=patient):
            in_force = await self._renew(in_force, server)
        if in_force is None or in_force.run_id != server:
            return True  # another one sees another server; whoever is wrong finds out within a second
        if name is None and in_force != self._proposed:
            return False
        await self._queue.open(in_force.name, over=name)
        if in_force != self._in_use and in_force != self._proposed:
            self._found(in_force)
        self._in_use = in_force
        log.info("relay.opened", generation=in_force.name)
        self._push_now()
        return True

    def _lost(self, in_force: Generation | None, server: str, name: str | None, *, patient: bool) -> bool:
        """Whether the lists of the generation in force are gone. Where another one has just renewed it, the server may
        not have its name yet: then it is not lost but new, and so is one of our own making."""
        if in_force is None or in_force.run_id != server:
            return True
        if in_force == self._proposed and in_force != self._in_use:
            self._walk_again()  # ours after all: the ledger's answer to our proposal had been lost
            return False
        return name is None and (in_force.filled or in_force == self._in_use or not patient)

    async def _renew(self, old: Generation | None, server: str) -> Generation:
        if self._proposed is None or self._proposed.run_id != server or self._proposed == old:
            name = f"{new_id('gen', self._clock.now(), self._clock.random.getrandbits(80))}.{self._supervisor}"
            self._proposed = Generation(name, server)
        in_force = await self._ledger.cluster.renew_generation(old, self._proposed)
        if in_force == self._proposed:
            log.info("relay.renewed", generation=in_force.name, before=old and old.name)
            self._walk_again()
        return in_force

    def _found(self, in_force: Generation) -> None:
        """One of another's making, or of our own before we crashed: nobody remembers how far that one got."""
        if in_force.filled:
            return
        if in_force.name.endswith(f".{self._supervisor}"):
            self._walk_again()
        else:
            self._watch_until_s = trio.current_time() + FILL_S

    async def _take_over(self) -> None:
        if self._in_use is None or trio.current_time() >= self._watch_until_s:
            return
        in_force = await self._ledger.cluster.generation()
        if in_force is None or in_force.filled:
            self._watch_until_s = 0.0
            return
        living = [peer.supervisor for peer in await self._ledger.cluster.peers()]
        if any(self._in_use.name.endswith(f".{name}") for name in living):
            return
        self._watch_until_s = 0.0
        if min(living, default=self._supervisor) == self._supervisor:
            log.warning("relay.fills_for_a_dead_one", generation=self._in_use.name)
            self._walk_again()

    def _walk_again(self) -> None:
        self._walk = _Walk()
        self._look.set()

    async def _fill(self, walk: _Walk) -> None:
        """Push all that waits, a page at a time. Ends early when another walk was ordered meanwhile."""
        while walk.lanes and walk is self._walk:
            lane = walk.lanes[0]
            page = await self._ledger.delivery.waiting(lane, after=walk.after, limit=PAGE)
            await self._push_page(page)
            walk.pushed += len(page)
            walk.after = page[-1].cursor if page else None
            if len(page) < PAGE:
                walk.lanes.popleft()
                walk.after = None
        if walk is self._walk:
            self._walk = None
            log.info("relay.filled", hints=walk.pushed)
            if self._in_use is not None:
                await self._ledger.cluster.mark_filled(self._in_use)

    async def _push_page(self, page: Sequence[WaitingHint]) -> None:
        due = [Hint(each.message_id, each.lane) for each in page if each.due_in_s <= 0]
        later = [Later(Hint(each.message_id, each.lane), each.due_in_s) for each in page if each.due_in_s > 0]
        if due:
            await self._ledger.delivery.wake([hint.message_id for hint in due])
        if page:
            await self._queue.push(due, later=later)

    # ------------------------------------------------------------------------------- sweep and audit

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            try:
                if swept := await self._queue.sweep():
                    log.info("relay.swept", hints=swept)
                await self._take_over()
            except Down:
                continue  # the look at the generation says so

    async def _audit(self) -> None:
        while True:
            await trio.sleep(AUDIT_S * (0.75 + self._clock.random.random() / 2))
            try:
                if self._walk is None and await self._is_auditor():
                    for lane in LANES:
                        await self._audit_lane(lane)
            except Down:
                self._missing.clear()

    async def _is_auditor(self) -> bool:
        """One of the living: the one whose name comes first."""
        living = [peer.supervisor for peer in await self._ledger.cluster.peers()]
        return min(living, default=self._supervisor) == self._supervisor

    async def _audit_lane(self, lane: Lane) -> None:
        """Push what has been due for a while and whose hint is nowhere at two looks in a row. Outside faults there is
        none, so the lists are only read where the lane holds fewer hints than the ledger has overdue messages."""
        suspects = self._missing.pop(lane, set())
        depth = (await self._queue.depths())[lane]
        if await self._overdue(lane, limit=depth + 1) <= depth:
            return
        missing = await self._nowhere(lane, await self._overdue(lane, limit=MEND))
        self._missing[lane] = missing
        if mend := sorted(missing & suspects):
            await self._queue.push([Hint(message_id, lane) for message_id in mend])
            log.warning("relay.mended", lane=str(lane), hints=len(mend))

    async def _overdue(self, lane: Lane, *, limit: int) -> int:
        return await self._ledger.delivery.due_count(lane, older_than_s=OVERDUE_S, limit=limit)

    async def _nowhere(self, lane: Lane, overdue: int) -> set[str]:
        """Of the lane's `overdue` oldest messages those that no list holds."""
        held = await self._queue.hints(lane)
        missing: set[str] = set()
        after: tuple[datetime, str] | None = None
        while overdue > 0 and (page := await self._ledger.delivery.waiting(lane, after=after, limit=PAGE)):
            missing |= {each.message_id for each in page[:overdue]} - held
            overdue -= len(page)
            after = page[-1].cursor
        return missing
