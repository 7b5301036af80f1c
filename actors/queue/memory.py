"""The queue and the coordination in memory: a pretended Redis server, and the two ports on it.

For tests, and for the simulation of a cluster within one process: all supervisors share one `MemoryRedis`. They keep
the promises of their Redis twins and pass the same tests. Nothing ticks, so that virtual time can leap.
"""

from __future__ import annotations

import copy
import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from heliograph.actors.model.errors import QueueDown, StaleGeneration
from heliograph.actors.model.message import LANES, Channel, Lane, Priority
from heliograph.actors.model.provider import BreakerState, Quota
from heliograph.actors.policy.bucket import BucketShape, next_in, reserve
from heliograph.actors.policy.quota import Ring, part_us, seeded
from heliograph.actors.ports.coordination import (
    LOST,
    NO_RECORD,
    BreakerRecord,
    Lost,
    QuotaAsk,
    QuotaWord,
    Reservation,
    Verdict,
    blocked_for,
)
from heliograph.actors.ports.queue import Hint, Later
from heliograph.actors.queue.hand import Hand, Listeners, Turn
from heliograph.actors.queue.slots import SlotClock

PLACE: Final = {priority: place for place, priority in enumerate(Priority)}
OF_CHANNEL: Final = {channel: [Lane(channel, priority) for priority in Priority] for channel in Channel}
EPOCH_US: Final = 1_767_225_600_000_000


@dataclass(slots=True)
class _Delayed:
    """Hints by due time. The heap may hold times that are no longer true; `due_us` is."""

    due_us: dict[Hint, int] = field(default_factory=dict)
    heap: list[tuple[int, int, str, Hint]] = field(default_factory=list)

    def add(self, hint: Hint, at_us: int) -> None:
        self.due_us[hint] = at_us
        heapq.heappush(self.heap, (at_us, PLACE[hint.lane.priority], hint.message_id, hint))

    def first(self) -> tuple[int, Hint] | None:
        while self.heap:
            at_us, _, _, hint = self.heap[0]
            if self.due_us.get(hint) == at_us:
                return at_us, hint
            heapq.heappop(self.heap)
        return None

    def take_due(self, now_us: int, limit: int) -> list[Hint]:
        taken: list[Hint] = []
        while len(taken) < limit and (first := self.first()) is not None and first[0] <= now_us:
            heapq.heappop(self.heap)
            del self.due_us[first[1]]
            taken.append(first[1])
        return taken


@dataclass(slots=True)
class _Lists:
    """One generation's."""

    lanes: dict[Lane, deque[str]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    lines: defaultdict[tuple[str, Lane], deque[str]] = field(default_factory=lambda: defaultdict(deque))
    hands: defaultdict[str, dict[str, Lane]] = field(default_factory=lambda: defaultdict(dict))
    later: dict[Channel, _Delayed] = field(default_factory=lambda: {channel: _Delayed() for channel in Channel})


@dataclass(slots=True)
class _Breaker:
    record: BreakerRecord
    since_us: int
    until_us: int
    failures: int = 0
    permits: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Data:
    """All that a server holds, and loses."""

    generation: str | None = None
    lists: dict[str, _Lists] = field(default_factory=dict)
    buckets: dict[str, int] = field(default_factory=dict)
    rings: dict[str, Ring] = field(default_factory=dict)
    paused_until_us: dict[str, int] = field(default_factory=dict)
    breakers: dict[str, _Breaker] = field(default_factory=dict)


class MemoryRedis:
    """One pretended server. `now` is any monotonic clock in seconds; under a MockClock trio's own. `pause` is awaited
    before each command: trio's checkpoint, or one that lets nobody else run."""

    def __init__(
        self,
        now: Callable[[], float] = trio.current_time,
        pause: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self.now = now
        self.pause = pause
        self.data = Data()
        self.run_id = "run-1"
        self._runs = 1
        self._set_by_us = 0
        self._drawn = 0
        self._down = False
        self._lose_replies = 0
        self._bells: dict[Channel, trio.Event] = {}

    def flush(self) -> None:
        """FLUSHALL."""
        self.data = Data()

    def snapshot(self) -> Data:
        """What a copy of its file would hold."""
        return copy.deepcopy(self.data)

    def replace(self, data: Data | None = None) -> None:
        """Another server answers from now on: an empty one, or one that was started on an old file."""
        self._runs += 1
        self.run_id = f"run-{self._runs}"
        self.data = Data() if data is None else data
        self._ring_all()

    def down(self, is_down: bool) -> None:
        self._down = is_down
        self._ring_all()

    def set_clock(self, by_s: float) -> None:
        """Its clock steps, forward or back; ours does not."""
        self._set_by_us += int(by_s * 1e6)

    def lose_replies(self, count: int) -> None:
        """The next `count` commands take effect, and their callers get QueueDown."""
        self._lose_replies = count

    # What the two adapters below need of it.

    def now_us(self) -> int:
        return EPOCH_US + int(self.now() * 1e6) + self._set_by_us

    def draw(self) -> str:
        self._drawn += 1
        return f"permit-{self._drawn}"

    def reached(self) -> None:
        if self._down:
            raise QueueDown("Redis gave no answer: it is down")

    def replied(self) -> None:
        if self._lose_replies > 0:
            self._lose_replies -= 1
            raise QueueDown("Redis gave no answer: the connection was lost after the command was sent")

    def bell(self, channel: Channel) -> trio.Event:
        return self._bells.setdefault(channel, trio.Event())

    def ring(self, channel: Channel) -> None:
        if (bell := self._bells.pop(channel, None)) is not None:
            bell.set()

    def _ring_all(self) -> None:
        for channel in Channel:
            self.ring(channel)


async def _sent(server: MemoryRedis) -> None:
    """The moment before a command is sent: the last at which its caller may be cancelled."""
    await server.pause()
    server.reached()


class MemoryQueue:
    """`ports.queue.Queue` of one supervisor on a pretended server."""

    def __init__(self, server: MemoryRedis, supervisor: str) -> None:
        self._server = server
        self._supervisor = supervisor
        self._generation: str | None = None
        self._opened_on: str | None = None
        self._hand = Hand()
        self._turns = {channel: Turn() for channel in Channel}
        self._listeners = Listeners()

    async def server(self) -> str:
        await _sent(self._server)
        return self._server.run_id

    async def current(self) -> str | None:
        await _sent(self._server)
        return self._server.data.generation

    async def open(self, generation: str, *, over: str | None = None) -> None:
        await _sent(self._server)
        data = self._server.data
        if over is not None and data.generation not in (over, generation):
            raise StaleGeneration("another generation of lists is in use")
        kept = {data.generation, generation}
        data.lists = {name: lists for name, lists in data.lists.items() if name in kept}
        data.generation = generation
        self._generation, self._opened_on = generation, self._server.run_id
        self._server.replied()

    async def push(self, hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        await _sent(self._server)
        lists = self._lists()
        if front:
            self._to_heads(lists, hints)
        else:
            self._to_tails(lists, hints)
        self._delay(lists, later)
        self._server.replied()

    async def take(
        self, channel: Channel, room: Mapping[Priority, int], *, most: int, bulk_share: float, wait_s: float
    ) -> list[Hint]:
        await _sent(self._server)
        if (taken := self._take(channel, room, most, bulk_share)) or wait_s <= 0:
            return taken
        with trio.move_on_after(wait_s):
            while not taken:
                await self._server.bell(channel).wait()
                taken = self._take(channel, room, most, bulk_share)
        return taken

    def _take(self, channel: Channel, room: Mapping[Priority, int], most: int, bulk_share: float) -> list[Hint]:
        self._server.reached()
        lists = self._lists()
        while moved := self._move_to_hand(lists, channel, room, most, bulk_share):
            self._turns[channel].taken()
            self._server.replied()
            if new := self._hand.add(moved, self._server.now()):
                return new
        return []

    def _move_to_hand(
        self, lists: _Lists, channel: Channel, room: Mapping[Priority, int], most: int, bulk_share: float
    ) -> list[Hint]:
        open_to_us = [lane for lane in OF_CHANNEL[channel] if lists.lanes[lane] and room.get(lane.priority, 0) > 0]
        if self._turns[channel].lowest_first(bulk_share):
            open_to_us = [*open_to_us[-1:], *open_to_us[:-1]]
        hand = lists.hands[self._supervisor]
        moved: list[Hint] = []
        for lane in open_to_us:
            ids = lists.lanes[lane]
            for _ in range(min(len(ids), room[lane.priority], most - len(moved))):
                hint = Hint(ids.popleft(), lane)
                hand[hint.message_id] = lane
                moved.append(hint)
        return moved

    async def settle(self, done: Sequence[str], *, again: Sequence[Hint] = (), later: Sequence[Later] = ()) -> None:
        ids = [*done, *(hint.message_id for hint in again), *(each.hint.message_id for each in later)]
        await self._server.pause()
        self._hand.drop(ids)
        self._server.reached()
        lists = self._lists()
        for message_id in ids:
            lists.hands[self._supervisor].pop(message_id, None)
        self._to_heads(lists, again)
        self._delay(lists, later)
        self._server.replied()

    async def hand_back(self, hints: Sequence[Hint]) -> None:
        await self.settle((), again=hints)

    async def line_up(self, provider: str, hints: Sequence[Hint]) -> None:
        await self._server.pause()
        self._hand.drop(hint.message_id for hint in hints)
        self._server.reached()
        lists = self._lists()
        for hint in hints:
            lists.hands[self._supervisor].pop(hint.message_id, None)
            lists.lines[provider, hint.lane].append(hint.message_id)
        self._server.replied()

    async def take_lined(
        self, channel: Channel, provider: str, room: Mapping[Priority, int], *, most: int
    ) -> list[Hint]:
        await _sent(self._server)
        lists = self._lists()
        hand = lists.hands[self._supervisor]
        while True:
            moved: list[Hint] = []
            for priority in Priority:
                line = lists.lines[provider, Lane(channel, priority)]
                count = min(len(line), room.get(priority, 0), most - len(moved))
                moved += [Hint(line.popleft(), Lane(channel, priority)) for _ in range(count)]
            hand.update((hint.message_id, hint.lane) for hint in moved)
            self._server.replied()
            new = self._hand.add(moved, self._server.now())
            if new or not moved:
                return new

    async def wake(self, channel: Channel, *, limit: int) -> tuple[list[Hint], float | None]:
        await _sent(self._server)
        lists = self._lists()
        now_us = self._server.now_us()
        due = lists.later[channel].take_due(now_us, limit)
        self._to_tails(lists, due)
        first = lists.later[channel].first()
        self._server.replied()
        return due, None if first is None else max(0.0, (first[0] - now_us) / 1e6)

    async def sweep(self) -> int:
        await _sent(self._server)
        lists = self._lists()
        hand = lists.hands[self._supervisor]
        stranded = self._hand.stranded(hand, self._server.now())
        moved = self._return(lists, self._supervisor, stranded)
        self._server.replied()
        return moved

    async def adopt(self, supervisor: str) -> int:
        await _sent(self._server)
        lists = self._lists()
        moved = self._return(lists, supervisor, sorted(lists.hands[supervisor]))
        self._server.replied()
        return moved

    async def depths(self) -> Mapping[Lane, int]:
        await _sent(self._server)
        lists = self._lists()
        lined = Counter(dict.fromkeys(LANES, 0))
        for (_, lane), line in lists.lines.items():
            lined[lane] += len(line)
        return {lane: len(ids) + lined[lane] for lane, ids in lists.lanes.items()}

    async def hints(self, lane: Lane) -> set[str]:
        await _sent(self._server)
        lists = self._lists()
        held = {i for hand in lists.hands.values() for i, its_lane in hand.items() if its_lane == lane}
        delayed = {hint.message_id for hint in lists.later[lane.channel].due_us if hint.lane == lane}
        lined = {i for (_, its_lane), line in lists.lines.items() if its_lane == lane for i in line}
        return held | delayed | lined | set(lists.lanes[lane])

    def on_later(self, channel: Channel, told: Callable[[float], None] | None) -> None:
        self._listeners.set(channel, told)

    async def aclose(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _lists(self) -> _Lists:
        generation = self._generation
        if generation is None or self._server.run_id != self._opened_on or self._server.data.generation != generation:
            raise StaleGeneration(f"the lists in Redis are not those of the generation {generation}")
        lists = self._server.data.lists.get(generation)
        if lists is None:
            lists = self._server.data.lists[generation] = _Lists()
        return lists

    def _to_heads(self, lists: _Lists, hints: Sequence[Hint]) -> None:
        for hint in reversed(hints):
            lists.lanes[hint.lane].appendleft(hint.message_id)
        self._ring(hints)

    def _to_tails(self, lists: _Lists, hints: Sequence[Hint]) -> None:
        for hint in hints:
            lists.lanes[hint.lane].append(hint.message_id)
        self._ring(hints)

    def _ring(self, hints: Iterable[Hint]) -> None:
        for channel in {hint.lane.channel for hint in hints}:
            self._server.ring(channel)

    def _delay(self, lists: _Lists, later: Sequence[Later]) -> None:
        now_us = self._server.now_us()
        for each in later:
            lists.later[each.hint.lane.channel].add(each.hint, now_us + int(each.due_in_s * 1e6))
        self._listeners.tell(later)

    def _return(self, lists: _Lists, supervisor: str, ids: Sequence[str]) -> int:
        hand = lists.hands[supervisor]
        back = [Hint(i, hand.pop(i)) for i in ids if i in hand]
        self._to_heads(lists, back)
        return len(back)


class MemoryCoordination:
    """`ports.coordination.Coordination` on a pretended server."""

    def __init__(self, server: MemoryRedis) -> None:
        self._server = server
        self._slots = SlotClock()

    async def reserve(
        self,
        provider: str,
        shape: BucketShape,
        *,
        want: int,
        cost: float,
        horizon_s: float,
        quota: QuotaAsk | None = None,
    ) -> Reservation:
        await _sent(self._server)
        server = self._server
        now_us, now_s = server.now_us(), server.now()
        record, paused_for_s = self._record(provider), self._paused_for_s(provider)
        blocked_s = blocked_for(record, paused_for_s)
        key = f"{server.run_id}:{provider}"
        ask = self._slots.ask(provider, shape.lateness_s)
        want = want if blocked_s is None else 0
        ring, room = self._ring(provider, quota, int(cost), forget=ask.forget)
        grant = reserve(
            None if ask.forget else server.data.buckets.get(key),
            now_us,
            shape,
            want=want if room is None else min(want, room),
            cost=cost,
            horizon_us=horizon_s * 1e6,
        )
        server.data.buckets[key] = grant.level_us
        word: QuotaWord | Lost | None = None
        if quota is not None:
            word = LOST
        if quota is not None and ring is not None and room is not None:
            ring.take(counted := len(grant.slots_us) * int(cost))
            binds = room < want and len(grant.slots_us) == room
            opens_us = ring.opens_us(quota.allowed, int(cost)) if binds else now_us
            word = QuotaWord(ring.total, ring.made, ring.at, counted, max(0.0, (opens_us - now_us) / 1e6))
        server.replied()
        slots = self._slots.answer(ask, server.run_id, grant.slots_us, asked_s=now_s, now_us=now_us, answered_s=now_s)
        return Reservation(
            slots=slots,
            next_in_s=next_in(grant.next_us, now_us, horizon_s) if blocked_s is None else blocked_s,
            record=record,
            paused_for_s=paused_for_s,
            quota=word,
        )

    def _ring(self, provider: str, ask: QuotaAsk | None, cost: int, *, forget: bool) -> tuple[Ring | None, int | None]:
        """The quota's ring, turned to now, and how many calls it allows; without a ring, none."""
        if ask is None:
            return None, None
        key = self._ring_key(provider, ask.quota)
        rings = self._server.data.rings
        if forget:
            rings.pop(key, None)
        ring = rings.get(key)
        if ring is None:
            return None, 0
        ring.turn(self._server.now_us())
        for part, recipients in ask.unused.items():
            ring.give_back(ask.made, part, recipients)
        return ring, ring.room(ask.allowed, cost)

    def _ring_key(self, provider: str, quota: Quota) -> str:
        return f"{self._server.run_id}:{provider}:{part_us(quota)}"

    async def used(self, provider: str, ask: QuotaAsk) -> int | Lost:
        await _sent(self._server)
        ring, _ = self._ring(provider, ask, 1, forget=False)
        self._server.replied()
        return LOST if ring is None else ring.total

    async def seed(self, provider: str, quota: Quota, ages: Sequence[int]) -> None:
        await _sent(self._server)
        key = self._ring_key(provider, quota)
        self._server.data.rings.setdefault(key, seeded(part_us(quota), self._server.now_us(), ages))
        self._server.replied()

    async def record(self, provider: str) -> tuple[BreakerRecord | None, float]:
        await _sent(self._server)
        return self._record(provider), self._paused_for_s(provider)

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        await _sent(self._server)
        now_us = self._server.now_us()
        breakers = self._server.data.breakers
        known = self._record(provider)
        if expected_epoch == (0 if known is None else known.epoch):
            breakers[provider] = _Breaker(
                replace(record, permits_out=0, successes=0),
                since_us=now_us - int(record.since_s * 1e6),
                until_us=now_us + int(record.until_in_s * 1e6),
            )
        self._server.replied()
        return self._record(provider) or NO_RECORD

    async def permit(self, provider: str, *, epoch: int, most: int, ttl_s: float) -> str | None:
        await _sent(self._server)
        now_us = self._server.now_us()
        record = self._record(provider)
        if record is None or record.epoch != epoch or record.state is not BreakerState.HALF_OPEN:
            return None
        breaker = self._server.data.breakers[provider]
        if record.permits_out + record.successes + breaker.failures >= most:
            return None
        permit = self._server.draw()
        breaker.permits[permit] = now_us + int(ttl_s * 1e6)
        self._server.replied()
        return permit

    async def close_permit(self, provider: str, *, epoch: int, permit: str, verdict: Verdict) -> BreakerRecord | None:
        await _sent(self._server)
        record = self._record(provider)
        if record is None or record.epoch != epoch:
            return None
        breaker = self._server.data.breakers[provider]
        if breaker.permits.pop(permit, None) is not None:
            match verdict:
                case Verdict.SUCCESS:
                    breaker.record = replace(breaker.record, successes=breaker.record.successes + 1)
                case Verdict.FAILURE:
                    breaker.failures += 1
                case Verdict.RETURNED:
                    pass
        self._server.replied()
        return self._record(provider)

    async def pause(self, provider: str, *, for_s: float) -> None:
        await _sent(self._server)
        paused = self._server.data.paused_until_us
        if for_s <= 0:
            paused.pop(provider, None)
        else:
            paused[provider] = max(paused.get(provider, 0), self._server.now_us() + int(for_s * 1e6))
        self._server.replied()

    async def aclose(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _record(self, provider: str) -> BreakerRecord | None:
        breaker = self._server.data.breakers.get(provider)
        if breaker is None:
            return None
        now_us = self._server.now_us()
        breaker.permits = {permit: end for permit, end in breaker.permits.items() if end > now_us}
        return replace(
            breaker.record,
            since_s=max(0.0, (now_us - breaker.since_us) / 1e6),
            until_in_s=max(0.0, (breaker.until_us - now_us) / 1e6),
            permits_out=len(breaker.permits),
        )

    def _paused_for_s(self, provider: str) -> float:
        until_us = self._server.data.paused_until_us.get(provider, 0)
        return max(0.0, (until_us - self._server.now_us()) / 1e6)
