"""What a provider actor has in hand: claimed messages by urgency, and the send slots they may go out at.

A slot carries no message. When its time comes the most urgent message takes it, so that an urgent one that arrived a
moment ago overtakes everything claimed before. A slot has a cost, the recipients it may carry; messages that share a
batch key may share a slot.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime
from heapq import heapify, heappop, heappush
from math import inf
from operator import itemgetter
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


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """A claimed message that waits for its call. Times in seconds are on the boot clock.

    `batch_key` None: it goes alone. `ask`: its attempts from this number on ended without an answer and are to
    be asked about first; `told`: that was done; `settles`: what was told of the last of them. `retry`: this provider
    has been asked before, in vain.
    """

    tracked: Tracked
    number: int
    started_at: datetime
    deadline_s: float
    expires_at_s: float
    arrived_s: float
    cost: int
    batch_key: Hashable | None = None
    ask: int | None = None
    told: bool = False
    retry: bool = False
    settles: tuple[int, Settled] | None = None

    @property
    def priority(self) -> Priority:
        return self.tracked.message.priority

    @property
    def lapses_s(self) -> float:
        """From then on its first byte may not be written."""
        return min(self.deadline_s, self.expires_at_s)


@dataclass(slots=True)
class _Grant:
    slot: Slot
    cost: int


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
        self._unused = unused or _nobody
        self._batch = batch
        self._largest = largest
        self._low_every = max(1, round(1 / low_share)) if low_share > 0 else 0
        self._calls = 0
        self._retries = RETRIES_AT_ONCE
        self._heap: list[tuple[int, float, int, Held]] = []
        self._grants: deque[_Grant] = deque()
        self._serial = 0
        self._lapse_s = inf

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def urgent(self) -> int:
        """How many of the messages are urgent."""
        if not self._heap or self._heap[0][0] > RANK[Priority.URGENT]:
            return 0
        return sum(1 for entry in self._heap if entry[0] == RANK[Priority.URGENT])

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
        heappush(self._heap, (RANK[held.priority], turn_s, self._serial, held))
        self._lapse_s = min(self._lapse_s, held.lapses_s)

    def clear(self) -> list[Held]:
        """All messages, the most urgent first; slots are kept."""
        taken = [entry[3] for entry in sorted(self._heap)]
        self._heap.clear()
        self._lapse_s = inf
        return taken

    def surplus(self, now_s: float, *, urgent: bool) -> list[Held]:
        """Take out what no slot in hand will carry, the least urgent first; with `urgent`, urgent ones too."""
        self._drop_past(now_s)
        room = sum(grant.cost for grant in self._grants)
        kept: list[tuple[int, float, int, Held]] = []
        gone: list[Held] = []
        for entry in sorted(self._heap):
            held = entry[3]
            if held.cost <= room or (not urgent and held.priority is Priority.URGENT):
                kept.append(entry)
                room = max(0, room - held.cost)
            else:
                gone.append(held)
        if gone:
            self._heap = kept
        return gone

    def next_lapse_s(self) -> float:
        """No message lapses before."""
        return self._lapse_s if self._heap else inf

    def lapsed(self, now_s: float) -> list[Held]:
        """Take out what may no longer be sent."""
        if now_s < self.next_lapse_s():
            return []
        late = [entry[3] for entry in self._heap if entry[3].lapses_s <= now_s]
        if late:
            self._heap = [entry for entry in self._heap if entry[3].lapses_s > now_s]
            heapify(self._heap)
        self._lapse_s = min((entry[3].lapses_s for entry in self._heap), default=inf)
        return late

    # ---------------------------------------------------------------------------------------------- slots

    def wanted(self, now_s: float, *, most: int) -> tuple[int, int]:
        """How many slots to ask for, and of what cost each: for the most urgent calls that have none yet."""
        if most <= 0:
            return 0, 0
        self._drop_past(now_s)
        spare = [grant.cost for grant in self._grants]
        if self._batch == 1 and len(self._heap) <= len(spare):
            return 0, 0
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
        for grant in self._grants:
            self._unused(grant.slot.counted, grant.cost)
        self._grants.clear()

    def slots(self, now_s: float) -> int:
        self._drop_past(now_s)
        return len(self._grants)

    def next_open_s(self, now_s: float, *, after: bool = False) -> float:
        """When a slot in hand can be used; with `after`, one that cannot be used yet. inf without any."""
        self._drop_past(now_s)
        return next((g.slot.opens_s for g in self._grants if not after or g.slot.opens_s > now_s), inf)

    def open_slots(self, now_s: float) -> int:
        self._drop_past(now_s)
        count = 0
        for grant in self._grants:
            if grant.slot.opens_s > now_s:
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
                self._unused(grant.slot.counted, grant.cost - cost)
                return grant.slot
        return None

    def pick(self, now_s: float, *, urgent_only: bool, fresh_only: bool = False) -> tuple[list[Held], Slot] | None:
        """The messages of the next call and the slot for them: the most urgent that an open slot can carry. With
        `fresh_only` a call that no retry leads."""
        self._drop_past(now_s)
        if not self._heap or not self._grants or self._grants[0].slot.opens_s > now_s:
            return None
        if fresh_only:
            return self._picked(self._pick_fresh(now_s))
        if urgent_only and self._heap[0][0] > RANK[Priority.URGENT]:
            return None
        picked = None
        if self._low_every and not urgent_only and (self._calls + 1) % self._low_every == 0:
            picked = self._pick_lowest(now_s)
        elif self._batch == 1 and self._heap[0][3].cost <= self._grants[0].cost:
            held, grant = heappop(self._heap)[3], self._grants.popleft()
            self._unused(grant.slot.counted, grant.cost - held.cost)
            picked = [held], grant.slot
        return self._picked(picked or self._pick_fitting(now_s, urgent_only=urgent_only))

    def _picked(self, picked: tuple[list[Held], Slot] | None) -> tuple[list[Held], Slot] | None:
        if picked is not None:
            self._calls += 1
            first_tries = sum(not held.retry for held in picked[0])
            self._retries = min(self._retries + RETRY_PART * first_tries, RETRIES_AT_ONCE)
        return picked

    # ------------------------------------------------------------------------------------------- workings

    def _pick_lowest(self, now_s: float) -> tuple[list[Held], Slot] | None:
        self._heap.sort()  # a sorted list is a heap
        lowest = bisect_left(self._heap, self._heap[-1][0], key=itemgetter(0))
        return self._pick_from(now_s, lowest)

    def _pick_fresh(self, now_s: float) -> tuple[list[Held], Slot] | None:
        self._heap.sort()
        for i, entry in enumerate(self._heap):
            if not entry[3].retry and (picked := self._pick_from(now_s, i)) is not None:
                return picked
        return None

    def _pick_fitting(self, now_s: float, *, urgent_only: bool) -> tuple[list[Held], Slot] | None:
        self._heap.sort()
        for i, (rank, _, _, _) in enumerate(self._heap):
            if urgent_only and rank > RANK[Priority.URGENT]:
                return None
            if (picked := self._pick_from(now_s, i)) is not None:
                return picked
        return None

    def _pick_from(self, now_s: float, first: int) -> tuple[list[Held], Slot] | None:
        """A call led by entry `first` of the sorted heap, where there is a slot for it."""
        at = self._best_grant(now_s, first)
        if at is None:
            return None
        grant = self._grants[at]
        del self._grants[at]
        chosen = self._share(first, grant.cost) if self._heap[first][3].batch_key is not None else [first]
        taken = [self._heap[k][3] for k in chosen]
        gone = set(chosen)
        self._heap = [entry for k, entry in enumerate(self._heap) if k not in gone]
        self._unused(grant.slot.counted, grant.cost - sum(held.cost for held in taken))
        return taken, grant.slot

    def _best_grant(self, now_s: float, first: int) -> int | None:
        """The open slot that best fits a call led by entry `first`: the largest that it can fill, else the smallest
        that can carry it."""
        cost = self._heap[first][3].cost
        open_ones = [(g.cost, i) for i, g in enumerate(self._grants) if g.slot.opens_s <= now_s and g.cost >= cost]
        if not open_ones:
            return None
        full = sum(self._heap[k][3].cost for k in self._share(first, self._largest))
        fillable = [(granted, -i) for granted, i in open_ones if granted <= full]
        return -max(fillable)[1] if fillable else min(open_ones)[1]

    def _share(self, first: int, room: float) -> list[int]:
        """Entries of the sorted heap that go with entry `first` in one call."""
        leader = self._heap[first][3]
        if leader.batch_key is None or self._batch == 1:
            return [first]
        chosen, total = [first], leader.cost
        for k in range(first + 1, len(self._heap)):
            if len(chosen) == self._batch:
                break
            held = self._heap[k][3]
            if held.batch_key == leader.batch_key and total + held.cost <= room:
                chosen.append(k)
                total += held.cost
        return chosen

    def _plan(self, most: int) -> list[int]:
        """The costs of the next calls, the most urgent first."""
        if self._batch == 1:
            return [entry[3].cost for entry in sorted(self._heap)[:most]]
        self._heap.sort()
        planned: list[int] = []
        open_calls: dict[Hashable, list[int]] = {}  # batch key: [index in planned, messages]
        for _, _, _, held in self._heap:
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
            self._unused(past.slot.counted, past.cost)


def _nobody(_counted: Counted, _recipients: int) -> None:
    """Without a quota nobody counts."""
