"""A dispatcher: takes hints of one channel, loads and routes their messages, claims them, hands them over.

It takes only what some provider has room for, so that hints which cannot be worked on stay in Redis, where another
supervisor, or a more urgent message, can have its turn. Several batches may be on their way at once; each is one
take, one load, one claim. A message that no provider can take now is put off; that costs it no attempt.

Where a group of equal providers has one that could be asked but has no room, the message waits for it rather than go
to a lower group: a full limiter is no fault, and lower groups are for faults. It waits in that provider's *line*, in
Redis: so a backlog for one provider keeps nobody behind it from another that is free, and is looked at once, not again
and again. A second loop serves the lines as room comes up, and empties those of providers that are stopped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, assert_never

import structlog
import trio

from heliograph.actors.kernel.actor import ActorStopped, Inbox, Ref
from heliograph.actors.kernel.bell import Bell
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.errors import LedgerDown, QueueDown, StaleGeneration
from heliograph.actors.model.message import Channel, Priority, Reason, State, WaitingFor
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import DeliverySettings
from heliograph.actors.model.value import value
from heliograph.actors.policy.availability import put_off
from heliograph.actors.policy.causes import cause_of
from heliograph.actors.policy.route import Candidates, Router, order
from heliograph.actors.policy.triage import next_auto_retry
from heliograph.actors.ports.board import Board, Desk
from heliograph.actors.ports.handover import Deliver, ProviderMessage
from heliograph.actors.ports.ledger import ClaimRequest, DeliveryLedger, Loaded, Park
from heliograph.actors.ports.queue import Hint, Later, Queue

log = structlog.get_logger()
MOST: Final = 500
BATCHES: Final = 3
WAIT_S: Final = 1.0
LOOK_S: Final = 0.02
LINED_S: Final = 1.0
"""How often a line is looked at into which nobody here has put anything: others may have."""
LOOKED_AT_S: Final = 0.0004
"""A rest for each message that had to be lined up: looking through a long lane is not to keep the calls waiting."""
OUTAGE_S: Final = 1.0
LANDING_S: Final = 0.75
"""After the longest call its answer has so long to be written; with the reaper's look it is within a second that what a
dead owner had begun is closed."""
HELD: Final = "held"
"""How an attempt without an answer was settled: nobody calls again, and no receipt came."""


@value(frozen=True, slots=True)
class Take:
    provider: str


@dataclass(frozen=True, slots=True)
class NoRoom:
    """This one could be asked, and is full."""

    provider: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """Every provider of the route is stopped; the first may be asked again in `for_s`."""

    for_s: float
    why: WaitingFor
    provider: str


@dataclass(frozen=True, slots=True)
class Hopeless:
    """No provider could ever take it, or its provider's rule forbids another call: then `held_for` is that provider."""

    reason: Reason
    detail: str
    held_for: str | None = None


Choice = Take | NoRoom | Blocked | Hopeless


Stopped = Mapping[str, tuple[float, WaitingFor]]
"""Providers that cannot be asked now: for how long, and why."""


@dataclass(slots=True)
class _Plan:
    """Of one batch, made in one synchronous slice: what is read of the desks while it is made stays true."""

    now_s: float
    gone: set[str]
    stopped: dict[Priority, Stopped] = field(default_factory=dict)
    takes: dict[str, tuple[Loaded, str]] = field(default_factory=dict)
    later: list[Later] = field(default_factory=list)
    lined: dict[str, list[Hint]] = field(default_factory=lambda: defaultdict(list))
    parks: list[Park] = field(default_factory=list)
    hopeless: list[tuple[str, Hopeless, int]] = field(default_factory=list)


class Dispatcher:
    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        ledger: DeliveryLedger,
        router: Router,
        board: Board,
        providers: Mapping[str, Ref[ProviderMessage]],
        longest_call_s: Mapping[str, float],
        *,
        delivery: DeliverySettings,
        auto_retry_s: Sequence[float],
        supervisor: str,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._ledger = ledger
        self._router = router
        self._board = board
        self._providers = providers
        self._hold_s = {n: delivery.send_window_s + s + LANDING_S for n, s in longest_call_s.items()}
        self._delivery = delivery
        self._auto_retry_s = auto_retry_s
        self._supervisor = supervisor
        self._clock = clock
        self._sending = metrics.messages.labels(channel, State.SENDING)
        self._settled = metrics.unknown_settled
        self._failed = metrics.messages.labels(channel, State.FAILED)
        self._unplaced: Counter[Priority] = Counter()
        self._ushered: Counter[tuple[str, Priority]] = Counter()
        """Taken out of a provider's line, and not on its desk yet."""
        self._lined: set[tuple[str, Priority]] = set()
        """Lines that somebody stands in, as far as is known here."""
        self._line_formed = Bell()
        settings = [p for p in router.settings.values() if p.channel is channel]
        self._names = [p.name for p in settings]
        self._equals = {p.name: [q.name for q in settings if q.priority == p.priority and q is not p] for p in settings}
        self._down = False

    async def run(self, inbox: Inbox[None]) -> None:
        inbox.started()
        slots = trio.Semaphore(BATCHES)
        async with trio.open_nursery() as batches:
            batches.start_soon(self._usher, inbox, batches)
            while True:
                await slots.acquire()
                if inbox.closed:
                    break
                inbox.began()
                hints = await self._take()
                inbox.progressed()
                if not hints:
                    slots.release()
                    continue
                self._unplaced.update([hint.lane.priority for hint in hints])
                batches.start_soon(self._place, hints, slots, None)

    async def _take(self) -> list[Hint]:
        if not self._names:  # a channel that nobody carries; what changes on the board is of no interest
            await trio.sleep(WAIT_S)
            return []
        room = self._room()
        if not any(room.values()):
            await self._room_or(WAIT_S)
            return []
        # A wait for the doorbell cannot be cut short. Where a lane has no room just now, it would sleep through the
        # moment when it has; so it looks, and looks again soon. One that nobody may take from for a while can wait.
        full = any(not free and self._open(priority) for priority, free in room.items())
        try:
            hints = await self._queue.take(
                self._channel,
                room,
                most=room[Priority.URGENT],
                bulk_share=self._delivery.bulk_share,
                wait_s=0.0 if full else WAIT_S,
            )
        except (QueueDown, StaleGeneration) as error:
            self._outage("queue", error)
            await trio.sleep(OUTAGE_S * self._clock.random.random())
            return []
        if full and not hints:
            await self._room_or(LOOK_S)
        return hints

    async def _room_or(self, limit_s: float) -> None:
        with trio.move_on_after(limit_s):
            await self._board.changed()

    def _room(self) -> dict[Priority, int]:
        """How many of each priority one take may move, with what is on its way to the desks counted as there. The room
        for urgent ones is all that there is: a part of it is open to normal ones, and of that a part to bulk. Room at a
        desk with a line is the line's."""
        rooms: dict[Priority, int] = {}
        free, coming = MOST, sum(self._unplaced.values())
        for priority in Priority:
            desks = (d for d in self._open(priority) if (d.settings.name, priority) not in self._lined)
            free = rooms[priority] = max(0, min(free, sum(desk.room(priority) for desk in desks) - coming))
            coming -= self._unplaced[priority]
        return rooms

    def _open(self, priority: Priority) -> list[Desk]:
        """The desks of those that a message of this priority could be sent by now."""
        now_s = self._clock.boot_s()
        desks = map(self._board.desk, self._names)
        return [desk for desk in desks if desk.blocked(now_s, priority) is None]

    # ------------------------------------------------------------------------------------------------ lines

    async def _usher(self, inbox: Inbox[None], batches: trio.Nursery) -> None:
        """Serve the lines, each when its provider, or an equal one, has room, or cannot be asked for a while."""
        slots = trio.Semaphore(BATCHES)
        looked_s = dict.fromkeys(self._names, -LINED_S)
        while not inbox.closed:
            for name in self._names:
                now_s = self._clock.boot_s()
                known = any((name, priority) in self._lined for priority in Priority)
                if not known and now_s < looked_s[name] + LINED_S:
                    continue
                room = self._line_room(name)
                if not any(room.values()):
                    continue
                await slots.acquire()
                looked_s[name] = now_s
                if hints := await self._take_lined(name, room):
                    batches.start_soon(self._place, hints, slots, name)
                else:
                    slots.release()
            if self._lined:
                await self._room_or(LINED_S)
            else:
                await self._line_formed.wait(LINED_S)

    def _line_room(self, name: str) -> dict[Priority, int]:
        """How many of a line may be taken: as many as the provider has room for, or one of its equals. Where it cannot
        be asked, as many as others have room for, and where nobody can be, all: they are put off then."""
        rooms: dict[Priority, int] = {}
        for priority in Priority:
            desks = {desk.settings.name: desk for desk in self._open(priority)}
            names = [n for n in (name, *self._equals[name]) if n in desks] if name in desks else list(desks)
            free = (max(0, desks[n].room(priority) - self._ushered[n, priority]) for n in names)
            rooms[priority] = min(MOST, sum(free)) if desks else MOST
        return rooms

    async def _take_lined(self, name: str, room: Mapping[Priority, int]) -> list[Hint]:
        most = max(room.values())
        try:
            hints = await self._queue.take_lined(self._channel, name, room, most=most)
        except (QueueDown, StaleGeneration) as error:
            self._outage("queue", error)
            await trio.sleep(OUTAGE_S * self._clock.random.random())
            return []
        taken = Counter(hint.lane.priority for hint in hints)
        for priority in Priority:
            self._ushered[name, priority] += taken[priority]
            if taken[priority] < room[priority] and len(hints) < most:
                self._lined.discard((name, priority))
            elif taken[priority]:
                self._lined.add((name, priority))
        return hints

    async def _line_up(self, provider: str, hints: Sequence[Hint]) -> None:
        with self._queue_may_be_away():
            await self._queue.line_up(provider, hints)

    # ---------------------------------------------------------------------------------------------- batches

    async def _place(self, hints: Sequence[Hint], slots: trio.Semaphore, line: str | None) -> None:
        """One batch on its way, out of the lanes or of a provider's line. Cancelled in the middle (a hard stop), its
        hints stay in hand: the supervisor's death moves them, and the claims it opened are overdue soon."""
        try:
            await self._load_and_claim(hints, line)
            self._down = False
        except LedgerDown as error:
            self._outage("ledger", error)
            await trio.sleep(OUTAGE_S * (1 + self._clock.random.random()))
            await self._give_back(hints)
        finally:
            slots.release()

    async def _load_and_claim(self, hints: Sequence[Hint], line: str | None) -> None:
        asked = {hint.message_id: hint for hint in hints}
        try:
            loaded = {each.tracked.message.id: each for each in await self._ledger.load(list(asked))}
            plan = self._plan(loaded, asked, line)
        finally:
            # From here on the desks know what was taken; what was not has left room for others.
            for priority, count in Counter([hint.lane.priority for hint in hints]).items():
                if line is None:
                    self._unplaced[priority] -= count
                else:
                    self._ushered[line, priority] -= count
            self._board.ring()
        gone = plan.gone
        if plan.takes:
            gone |= await self._claim(plan.takes)
        if plan.parks:
            await self._ledger.park(plan.parks)
        for message_id, end, redrives in plan.hopeless:
            await self._give_up(message_id, end, redrives)
        if gone or plan.later:
            await self._settle([*gone, *(each.hint.message_id for each in plan.later)], plan.later)
        for provider, lined in plan.lined.items():
            await self._line_up(provider, lined)
            await trio.sleep(LOOKED_AT_S * len(lined))

    def _plan(self, loaded: Mapping[str, Loaded], asked: Mapping[str, Hint], line: str | None) -> _Plan:
        """What is to become of each, in the order in which they were taken; the desks' room is taken at once."""
        plan = _Plan(self._clock.boot_s(), set(asked) - set(loaded))
        try:
            for message_id, hint in asked.items():
                if (each := loaded.get(message_id)) is not None:
                    self._decide(each, hint, plan, line)
        except Exception:
            self._leave(plan.takes)
            raise
        return plan

    def _decide(self, each: Loaded, hint: Hint, plan: _Plan, line: str | None) -> None:
        message_id = hint.message_id
        if each.expires_in_s <= 0:
            plan.gone.add(message_id)  # the scheduler ends it
            return
        if each.due_in_s > 0:
            plan.later.append(Later(hint, each.due_in_s))
            return
        match self._choose(each, plan, lined=line is not None):
            case Take(provider):
                self._board.desk(provider).enter(each.tracked.message.priority)
                plan.takes[message_id] = (each, provider)
            case NoRoom(provider):
                plan.lined[provider].append(hint)
                self._lined.add((provider, hint.lane.priority))
                self._line_formed.ring()
            case Blocked(for_s, why, provider):
                waited_s = (self._clock.now() - each.tracked.message.created_at).total_seconds()
                wait_s = min(put_off(for_s, why, waited_s), each.expires_in_s)
                plan.parks.append(Park(message_id, wait_s, why, provider))
                plan.later.append(Later(hint, wait_s))
            case Hopeless() as end:
                plan.hopeless.append((message_id, end, each.tracked.standing.redrives))
                plan.gone.add(message_id)
            case _ as never:
                assert_never(never)

    def _leave(self, takes: Mapping[str, tuple[Loaded, str]]) -> None:
        """Give up the room of what was not handed over."""
        for loaded, provider in takes.values():
            self._board.desk(provider).leave(loaded.tracked.message.priority)

    async def _claim(self, takes: Mapping[str, tuple[Loaded, str]]) -> set[str]:
        """Claim and hand over; answers those that were not won. The boot clock is read before the statement is sent:
        whatever delays its answer shortens our right, never the others' patience."""
        asked_s = self._clock.boot_s()
        lost = dict(takes)
        try:
            won = await self._ledger.claim(
                [ClaimRequest(i, provider, self._hold_s[provider]) for i, (_, provider) in takes.items()],
                supervisor=self._supervisor,
            )
            won_by: dict[str, list[Deliver]] = defaultdict(list)
            deadline_s = asked_s + self._delivery.send_window_s
            for claim in won:
                loaded, provider = takes[claim.message_id]
                expires_at_s = asked_s + loaded.expires_in_s
                deliver = Deliver(loaded.tracked, claim.number, claim.started_at, deadline_s, expires_at_s)
                won_by[provider].append(deliver)
            for provider, delivers in won_by.items():
                if self._board.desk(provider).away:  # it crashed meanwhile: their right would be over before it is back
                    await self._release(delivers)
                    continue
                handed = self._providers[provider].offer_all(delivers)
                for deliver in delivers[:handed]:
                    del lost[deliver.tracked.message.id]
                for deliver in delivers[handed:]:
                    await self._hand_over(self._providers[provider], deliver, lost)
            self._sending.inc(len(takes) - len(lost))
        finally:
            self._leave(lost)
        return set(lost)

    async def _hand_over(self, to: Ref[ProviderMessage], deliver: Deliver, lost: dict[str, tuple[Loaded, str]]) -> None:
        message = deliver.tracked.message
        try:
            await to.tell(deliver)
        except ActorStopped:  # draining: the claim was never used
            await self._release([deliver])
        else:
            del lost[message.id]

    async def _release(self, delivers: Sequence[Deliver]) -> None:
        messages = [deliver.tracked.message for deliver in delivers]
        claims = [(message.id, deliver.number) for message, deliver in zip(messages, delivers, strict=True)]
        await self._ledger.release(claims, supervisor=self._supervisor)
        await self._give_back([Hint(message.id, message.lane) for message in messages])

    def _choose(self, loaded: Loaded, plan: _Plan, *, lined: bool) -> Choice:
        message, standing = loaded.tracked.message, loaded.tracked.standing
        candidates = self._router.candidates(message)
        if not candidates.groups:
            why = ", ".join(f"{name}: {word}" for name, word in candidates.refused.items())
            return Hopeless(Reason.NO_ROUTE, f"No provider can take it ({why or 'none is configured'}).")
        first = standing.unsettled_provider
        if first is not None and first in candidates.names:
            rule = self._router.settings[first].unknown
            if rule is UnknownRule.HOLD:
                return Hopeless(Reason.UNKNOWN, f"No receipt came for the attempt that {first} never answered.", first)
            blocked = self._board.desk(first).blocked(plan.now_s, message.priority)
            if blocked is None:
                return Take(first) if self._board.desk(first).room(message.priority) > 0 else NoRoom(first)
            if rule is UnknownRule.ASK:
                return Blocked(blocked[0], blocked[1], first)
        stopped = plan.stopped.get(message.priority)
        if stopped is None:
            stopped = plan.stopped[message.priority] = self._stopped(plan.now_s, message.priority)
        return self._walk(candidates, stopped, standing.tried, message.priority, lined=lined)

    def _stopped(self, now_s: float, priority: Priority) -> Stopped:
        looks = ((name, self._board.desk(name).blocked(now_s, priority)) for name in self._names)
        return {name: blocked for name, blocked in looks if blocked is not None}

    def _walk(
        self, candidates: Candidates, stopped: Stopped, tried: Sequence[str], priority: Priority, *, lined: bool
    ) -> Choice:
        """`lined`: its turn in a line has come; others stand behind those that wait already."""
        for skipped in (tried, ()) if tried else ((),):
            for group in candidates.groups:
                open_ones = [n for n in group if n not in stopped and n not in skipped]
                if not open_ones:
                    continue
                with_room = [
                    n
                    for n in open_ones
                    if (lined or (n, priority) not in self._lined) and self._board.desk(n).room(priority) > 0
                ]
                if not with_room:
                    return NoRoom(order([open_ones], self._router.weights, self._clock.random.random())[0])
                if len(with_room) == 1:
                    return Take(with_room[0])
                return Take(order([with_room], self._router.weights, self._clock.random.random())[0])
        name = min(candidates.names, key=lambda n: stopped[n][0])
        return Blocked(*stopped[name], name)

    async def _give_up(self, message_id: str, end: Hopeless, redrives: int) -> None:
        await self._ledger.give_up(
            [message_id],
            reason=end.reason,
            cause=cause_of(end.detail, code=None, reason=end.reason),
            auto_retry_in_s=next_auto_retry(end.reason, redrives, self._auto_retry_s),
        )
        self._failed.inc()
        if end.held_for is not None:
            self._settled.labels(end.held_for, HELD).inc()
            log.info("unknown.settled", message_id=message_id, provider=end.held_for, how=HELD)
        log.warning("message.given_up", message_id=message_id, reason=end.reason)

    async def _give_back(self, hints: Sequence[Hint]) -> None:
        with self._queue_may_be_away():
            await self._queue.hand_back(hints)

    async def _settle(self, done: Sequence[str], later: Sequence[Later]) -> None:
        with self._queue_may_be_away():
            await self._queue.settle(done, later=later)

    @contextmanager
    def _queue_may_be_away(self) -> Iterator[None]:
        """What cannot be moved now is in our hand, where the sweep finds it, or the new generation makes it anew."""
        try:
            yield
        except (QueueDown, StaleGeneration) as error:
            self._outage("queue", error)

    def _outage(self, what: str, error: Exception) -> None:
        if not self._down:
            log.warning("dispatcher.waits", channel=self._channel, on=what, error=str(error))
        self._down = True
