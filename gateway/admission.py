"""Lets messages in: keeps each key to its limits, and shares what this process can do fairly among keys.

A request holds room from before its body is read until it is answered, and has its turn at the processor before the
body is parsed; so what floods in costs no more than its head. `policy.shares` says who may come in, and in which order.

A key's own limits are looked at twice. Here, by this process alone and before anything is read, so that a key far
beyond its rate costs the ledger nothing; and by the ledger with the commit (`policy.allowance`), which is exact over
all gateways.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from heliograph.actors.kernel.clock import Clock
from heliograph.actors.model.access import ApiKey
from heliograph.actors.policy.allowance import Exceeded, KeyLimits, Limit, Usage, charge
from heliograph.actors.policy.shares import Refusal, Room, Ticket, Turns
from heliograph.gateway.problems import Code, Refused, unavailable

ROOM_BYTES: Final = 64_000_000
"""Bodies that wait or are worked on. A key alone may have half of it."""
LEAST_BYTES: Final = 32_000
"""What a request costs beside its body."""
UNTOLD_BYTES: Final = 250_000
"""What a body is taken for whose length is not announced, until it is there."""
WORK_BYTES: Final = 150_000
"""Bodies that are parsed or wait for their commit: what a request of another key may find before it. So much is enough
for one batch to be read while two are committed, and for groups of 60 single messages."""
WORK_LEAST_BYTES: Final = 2_500
PATIENCE_S: Final = 10.0
FLOOD_RETRY_S: Final = 1
DAILY_MEMORY_S: Final = 10.0
"""How long a day's limit that the ledger found spent is taken for spent without asking again."""
MOST_KEYS: Final = 10_000


@dataclass(slots=True)
class _Known:
    """Of a key with limits. `usage` is of the rate alone, as this process has seen it."""

    usage: Usage = field(default_factory=Usage)
    spent: Exceeded | None = None
    spent_until_s: float = -math.inf


class Admission:
    def __init__(self, clock: Clock, *, room: int = ROOM_BYTES, work: int = WORK_BYTES) -> None:
        self._clock = clock
        self._room = Room(room)
        self._turns = Turns(work)
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def through(self, key: ApiKey, length: str | None, read: Callable[[], Awaitable[bytes]]) -> _Turn:
        """Read the body of one of the key's requests, whose announced length is `length`, and wait for its turn; to be
        closed when it is answered. Refused with 429 or 503, before the body is read where that can be told."""
        self._refuse_beyond_limits(key)
        size = LEAST_BYTES + (
            int(length) if length is not None and length.isascii() and length.isdigit() else UNTOLD_BYTES
        )
        turn = self._enter(key, size)
        try:
            turn.raw = await read()
            turn.holds(LEAST_BYTES + len(turn.raw))
            await self._wait(turn)
        except BaseException:
            turn.close()
            raise
        return turn

    def charge(self, key: ApiKey, messages: int) -> None:
        """Count so many messages against the key's rate, or refuse them all with 429."""
        limits = KeyLimits.of(key)
        if limits is None or limits.rate is None:
            return
        known = self._of(key.id)
        match charge(KeyLimits(key.id, limits.rate, None), known.usage, messages, self._now_us()):
            case Usage() as usage:
                known.usage = usage
            case Exceeded() as exceeded:
                raise refused(exceeded)

    def learn(self, key: ApiKey, exceeded: Exceeded) -> Refused:
        """What the ledger said of a key's limits, as an answer; a spent day is remembered."""
        if exceeded.limit is Limit.DAILY and exceeded.spent:
            known = self._of(key.id)
            known.spent = exceeded
            known.spent_until_s = trio.current_time() + min(DAILY_MEMORY_S, exceeded.retry_after_s)
        return refused(exceeded)

    def _refuse_beyond_limits(self, key: ApiKey) -> None:
        limits = KeyLimits.of(key)
        if limits is None:
            return
        known = self._of(key.id)
        if known.spent is not None and trio.current_time() < known.spent_until_s:
            raise refused(known.spent)
        if limits.rate is not None:
            found = charge(KeyLimits(key.id, limits.rate, None), known.usage, 1, self._now_us())
            if isinstance(found, Exceeded):
                raise refused(found)

    def _of(self, key_id: str) -> _Known:
        known = self._known.setdefault(key_id, _Known())
        self._known.move_to_end(key_id)
        while len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)
        return known

    def _now_us(self) -> int:
        return int(self._clock.now().timestamp() * 1e6)

    def _enter(self, key: ApiKey, size: int) -> _Turn:
        match self._room.enter(key.id, size):
            case Refusal.GREEDY:
                detail = "this key has more under way than its share while others wait; nothing was accepted"
                raise Refused(Code.FLOODED, detail, headers={"Retry-After": str(FLOOD_RETRY_S)})
            case Refusal.FULL:
                raise Refused.of(unavailable("more comes in than can be taken; nothing was accepted", FLOOD_RETRY_S))
            case None:
                return _Turn(self._room, self._turns, key.id, size)

    async def _wait(self, turn: _Turn) -> None:
        ticket = turn.ticket = Ticket(turn.key_id, WORK_LEAST_BYTES + len(turn.raw), turn.begin)
        self._turns.ask(ticket)
        if ticket.started:
            return
        turn.begun = trio.Event()
        with trio.move_on_after(PATIENCE_S):
            await turn.begun.wait()
        if not ticket.started:
            raise Refused.of(unavailable("its turn did not come in time; nothing was accepted", FLOOD_RETRY_S))


class _Turn:
    """A request that is inside: its body, and the room that it holds until it is closed."""

    __slots__ = ("_room", "_size", "_turns", "begun", "key_id", "raw", "ticket")

    def __init__(self, room: Room, turns: Turns, key_id: str, size: int) -> None:
        self._room = room
        self._turns = turns
        self._size = size
        self.key_id = key_id
        self.raw = b""
        self.ticket: Ticket | None = None
        self.begun: trio.Event | None = None

    def begin(self) -> None:
        if self.begun is not None:
            self.begun.set()

    def holds(self, size: int) -> None:
        """It turned out to be so large."""
        if size != self._size:
            self._room.resize(self.key_id, self._size, size)
            self._size = size

    def close(self) -> None:
        if self.ticket is not None:
            self._turns.leave(self.ticket)
        self._room.leave(self.key_id, self._size)

    def __enter__(self) -> _Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refused(exceeded: Exceeded) -> Refused:
    retry = {"Retry-After": str(max(1, math.ceil(exceeded.retry_after_s)))}
    match exceeded.limit:
        case Limit.RATE:
            return Refused(Code.RATE_LIMITED, f"this key may send {exceeded.most} messages a second", headers=retry)
        case Limit.DAILY:
            return Refused(Code.DAILY_LIMIT, f"this key may send {exceeded.most} messages a day (UTC)", headers=retry)
