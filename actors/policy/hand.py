"""What a provider actor has in hand: claimed messages by urgency, and the send slots they may go out at.

A slot carries no message. When its time comes the most urgent message takes it, so that an urgent one that arrived a
moment ago overtakes everything claimed before. A slot has a cost, the recipients it may carry; messages that share a
batch key may share a slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush
from math import inf
from typing import Final

from heliograph.actors.model.attempt import Settled
from heliograph.actors.model.message import Priority, Tracked
from heliograph.actors.model.value import value

RANK: Final = {priority: rank for rank, priority in enumerate(Priority)}
RETRY_PART: Final = 0.1
"""So many retries go in their turn for each first try; what is beyond goes behind all first tries of its priority."""
RETRIES_AT_ONCE: Final = 20.0
BEHIND_S: Final = 3600.0


Counted = tuple[int, int]


@value(frozen=True, slots=True)
class Slot:
    """One moment for one call, on the local boot clock: usable from `opens_s` to `closes_s`, once; never refunded.
    `counted` is where a quota counted it: in which count, and which part of that."""

    opens_s: float
    closes_s: float
    counted: Counted = (0, 0)


@dataclass(slots=True, eq=False)
class Held:
    """A claimed message that waits for its call. Times in seconds are on the boot clock.

    From `lapses_s` on its first byte may not be written: its claim's `deadline_s` or its own end, whichever is sooner.
    `batch_key` None: it goes alone. `retry`: this provider has been asked before, in vain. `ask`: its attempts from
    this number on ended without an answer and are to be asked about first; `told`: that was done; `settles`: what was
    told of the last of them.
    """

    tracked: Tracked
    number: int
    started_at: datetime
    deadline_s: float
    lapses_s: float
    arrived_s: float
    cost: int
    retry: bool = False
    batch_key: Hashable | None = None
    ask: int | None = None
    told: bool = False
    settles: tuple[int, Settled] | None = None

    @property
    def priority(self) -> Priority:
        return self.tracked.message.priority


@dataclass(slots=True)
class _Grant:
    slot: Slot
    cost: int


Entry = tuple[float, int, Held]
"""A message and its turn among those of its priority."""


class Hand:
    """`batch` is the most messages in one call, `largest` the most recipients. A share of the calls, `low_share`,
    begins with what is least urgent, so that no load of others keeps it here until it lapses. `unused` is told what
    of a slot is surely not used: where it was counted, and recipients."""

    def __init__(
        self,
        *,
        batch: int,
        largest: float,
        low_share: float = 0.0,
        unused: Callable[[Counted, int], None] | None = None,
    ) -> None:
        self._unused = unused
        self._batch = batch
        self._largest = largest
        self._low_every = max(1, round(1 / low_share)) if low_share > 0 else 0
        self._calls = 0
        self._retries = RETRIES_AT_ONCE
        self._lanes: tuple[list[Entry], ...] = tuple([] for _ in Priority)
        """A heap for each priority."""
        self._count = 0
        self._large = 0
        """How many of the messages have more than one recipient."""
        self._grants: deque[_Grant] = deque()
        self._serial = 0
        self._lapse_s = inf

    def __len__(self) -> int:
        return self._count

    @property
    def urgent(self) -> int:
        """How many of the messages are urgent."""
        return len(self._lanes[0])

    # ------------------------------------------------------------------------------------------- messages

    def add(self, held: Held) -> None:
        """By priority, then by the age of the claim: lanes are in order already, and the oldest claim lapses first.
        Retries beyond their part go last."""
        self._serial += 1
        turn_s = held.deadline_s
        if held.retry and self._retries < 1:
            turn_s += BEHIND_S
        elif held.retry:
            self._retries -= 1
        heappush(self._lanes[RANK[held.tracked.message.priority]], (turn_s, self._serial, held))
        self._count += 1
        self._large += held.cost > 1
        if held.lapses_s < self._lapse_s:
            self._lapse_s = held.lapses_s

    def clear(self) -> list[Held]:
        """All messages, the most urgent first; slots are kept."""
        taken = self._in_order()
        self._keep([[] for _ in self._lanes])
        self._lapse_s = inf
        return taken

    def surplus(self, now_s: float, *, urgent: bool) -> list[Held]:
        """Take out what no slot in hand will carry, the least urgent first; with `urgent`, urgent ones too."""
        self._drop_past(now_s)
        room = sum(grant.cost for grant in self._grants)
        gone: list[Held] = []
        for held in self._in_order():
            if held.cost <= room or (not urgent and held.priority is Priority.URGENT):
                room = max(0, room - held.cost)
            else:
                gone.append(held)
        self._remove(gone)
        return gone

    def next_lapse_s(self) -> float:
        """No message lapses before."""
        return self._lapse_s if self._count else inf

    def lapsed(self, now_s: float) -> list[Held]:
        """Take out what may no longer be sent."""
        if now_s < self.next_lapse_s():
            return []
        late = [held for held in self._in_order() if held.lapses_s <= now_s]
        self._remove(late)
        self._lapse_s = min((entry[2].lapses_s for lane in self._lanes for entry in lane), default=inf)
        return late

    # ---------------------------------------------------------------------------------------------- slots

    def wanted(self, now_s: float, *, most: int) -> tuple[int, int]:
        """How many slots to ask for, and of what cost each: for the most urgent calls that have none yet."""
        if most <= 0:
            return 0, 0
        self._drop_past(now_s)
        if self._batch == 1 and (not self._large or self._count <= len(self._grants)):
            return min(most, max(0, self._count - len(self._grants))), 1
        spare = [grant.cost for grant in self._grants]
        want = cost = 0
        for planned in self._plan(most + len(spare)):
            covering = next((i for i, granted in enumerate(spare) if granted >= planned), None)
            if covering is not None:
                spare.pop(covering)
                continue
            if want and planned != cost:
                break
            want, cost = want + 1, planned
            if want >= most:
                break
        return want, cost

    def grant(self, slots: Iterable[Slot], cost: int) -> None:
        self._grants.extend(_Grant(slot, cost) for slot in slots)

    def drop_slots(self) -> None:
        while self._grants:
            grant = self._grants.popleft()
            self._waste(grant, grant.cost)

    def slots(self, now_s: float) -> int:
        self._drop_past(now_s)
        return len(self._grants)

    def next_open_s(self, now_s: float, *, after: bool = False) -> float:
        """When a slot in hand can be used; with `after`, one that cannot be used yet. inf without any."""
        self._drop_past(now_s)
        return next((g.slot.opens_s for g in self._grants if not after or g.slot.opens_s > now_s), inf)

    def ready(self, now_s: float, most: int) -> int:
        """How many calls could begin now, as far as that is to be known."""
        self._drop_past(now_s)
        most, count = min(most, self._count), 0
        for grant in self._grants:
            if count == most or grant.slot.opens_s > now_s:
                break
            count += 1
        return count

    def take_slot(self, now_s: float, cost: int) -> Slot | None:
        """An open slot that can carry `cost` recipients."""
        self._drop_past(now_s)
        for i, grant in enumerate(self._grants):
            if grant.slot.opens_s > now_s:
                return None
            if grant.cost >= cost:
                del self._grants[i]
                self._waste(grant, grant.cost - cost)
                return grant.slot
        return None

    def pick(self, now_s: float, *, urgent_only: bool, fresh_only: bool = False) -> tuple[list[Held], Slot] | None:
        """The messages of the next call and the slot for them: the most urgent that an open slot can carry. With
        `fresh_only` a call that no retry leads."""
        self._drop_past(now_s)
        if not self._count or not self._grants or self._grants[0].slot.opens_s > now_s:
            return None
        if fresh_only:
            return self._picked(self._pick_fresh(now_s))
        occupied = [lane for lane in self._lanes if lane]
        if urgent_only and occupied[0] is not self._lanes[0]:
            return None
        low = not urgent_only and self._low_every > 0 and (self._calls + 1) % self._low_every == 0
        lane = occupied[-1 if low else 0]
        picked = None
        if self._batch == 1 and lane[0][2].cost <= self._grants[0].cost:
            held, grant = heappop(lane)[2], self._grants.popleft()
            self._count -= 1
            self._large -= held.cost > 1
            self._waste(grant, grant.cost - held.cost)
            picked = [held], grant.slot
        elif low:
            picked = self._pick_from(now_s, self._in_order(), self._count - len(lane))
        return self._picked(picked or self._pick_fitting(now_s, urgent_only=urgent_only))

    def _picked(self, picked: tuple[list[Held], Slot] | None) -> tuple[list[Held], Slot] | None:
        if picked is not None:
            self._calls += 1
            if self._retries < RETRIES_AT_ONCE:
                first_tries = sum(not held.retry for held in picked[0])
                self._retries = min(self._retries + RETRY_PART * first_tries, RETRIES_AT_ONCE)
        return picked

    # ------------------------------------------------------------------------------------------- workings

    def _in_order(self) -> list[Held]:
        for lane in self._lanes:
            lane.sort()  # a sorted list is a heap
        return [entry[2] for lane in self._lanes for entry in lane]

    def _remove(self, gone: Collection[Held]) -> None:
        if gone:
            left = set(gone)
            self._keep([[entry for entry in lane if entry[2] not in left] for lane in self._lanes])

    def _keep(self, lanes: Sequence[list[Entry]]) -> None:
        self._lanes = tuple(lanes)
        self._count = sum(map(len, self._lanes))
        self._large = sum(entry[2].cost > 1 for lane in self._lanes for entry in lane)

    def _pick_fresh(self, now_s: float) -> tuple[list[Held], Slot] | None:
        order = self._in_order()
        for i, held in enumerate(order):
            if not held.retry and (picked := self._pick_from(now_s, order, i)) is not None:
                return picked
        return None

    def _pick_fitting(self, now_s: float, *, urgent_only: bool) -> tuple[list[Held], Slot] | None:
        order = self._in_order()
        for i in range(len(self._lanes[0]) if urgent_only else len(order)):
            if (picked := self._pick_from(now_s, order, i)) is not None:
                return picked
        return None

    def _pick_from(self, now_s: float, order: Sequence[Held], first: int) -> tuple[list[Held], Slot] | None:
        """A call led by the message `first` of all in their order, where there is a slot for it."""
        at = self._best_grant(now_s, order, first)
        if at is None:
            return None
        grant = self._grants[at]
        del self._grants[at]
        taken = self._share(order, first, grant.cost)
        self._remove(taken)
        self._waste(grant, grant.cost - sum(held.cost for held in taken))
        return taken, grant.slot

    def _best_grant(self, now_s: float, order: Sequence[Held], first: int) -> int | None:
        """The open slot that best fits a call led by that message: the largest that it can fill, else the smallest
        that can carry it."""
        cost = order[first].cost
        open_ones = [(g.cost, i) for i, g in enumerate(self._grants) if g.slot.opens_s <= now_s and g.cost >= cost]
        if not open_ones:
            return None
        full = sum(held.cost for held in self._share(order, first, self._largest))
        fillable = [(granted, -i) for granted, i in open_ones if granted <= full]
        return -max(fillable)[1] if fillable else min(open_ones)[1]

    def _share(self, order: Sequence[Held], first: int, room: float) -> list[Held]:
        """Those that go with that message in one call."""
        leader = order[first]
        chosen, total = [leader], leader.cost
        if leader.batch_key is None or self._batch == 1:
            return chosen
        for k in range(first + 1, len(order)):
            if len(chosen) == self._batch:
                break
            held = order[k]
            if held.batch_key == leader.batch_key and total + held.cost <= room:
                chosen.append(held)
                total += held.cost
        return chosen

    def _plan(self, most: int) -> list[int]:
        """The costs of the next calls, the most urgent first."""
        order = self._in_order()
        if self._batch == 1:
            return [held.cost for held in order[:most]]
        planned: list[int] = []
        open_calls: dict[Hashable, list[int]] = {}  # batch key: [index in planned, messages]
        for held in order:
            call = open_calls.get(held.batch_key) if held.batch_key is not None else None
            if call is not None and call[1] < self._batch and planned[call[0]] + held.cost <= self._largest:
                planned[call[0]] += held.cost
                call[1] += 1
                continue
            if held.batch_key is not None:
                open_calls[held.batch_key] = [len(planned), 1]
            planned.append(held.cost)
        return planned[:most]

    def _drop_past(self, now_s: float) -> None:
        grants = self._grants
        while grants and grants[0].slot.closes_s < now_s:
            past = grants.popleft()
            self._waste(past, past.cost)

    def _waste(self, grant: _Grant, recipients: int) -> None:
        if self._unused is not None and recipients > 0:
            self._unused(grant.slot.counted, recipients)
