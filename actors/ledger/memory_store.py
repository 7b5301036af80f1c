"""What the in-memory ledger keeps, and the changes that several of its parts make.

All of it is synchronous: between two checkpoints nothing else runs, so each call is its own transaction. Indexes that
a database would keep (what waits in each lane, what expires next, counts by state) are kept here too, so that a
simulated day with a long backlog costs no scan a second.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from itertools import count
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import trio

from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.attempt import Answer, Attempt, Outcome, Settled
from heliograph.actors.model.deadletter import DeadLetter, DeadLetterState, Operation
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.identity import made_at, new_id
from heliograph.actors.model.message import LANES, Channel, Lane, Message, Reason, Standing, State
from heliograph.actors.model.provider import Controls
from heliograph.actors.model.receipt import Suppression
from heliograph.actors.policy.allowance import Usage
from heliograph.actors.policy.lifecycle import WAITING, Event, move
from heliograph.actors.policy.suppression import fold, recipient_of
from heliograph.actors.ports.ledger import (
    Entered,
    Entry,
    Generation,
    IdempotencyRecord,
    MessageView,
    Peer,
    Reported,
    WaitingHint,
)

Fault = Callable[[str], None]
"""Called with a method's name (`delivery.claim`) before its effect and with `delivery.claim/done` after it. What it
raises comes out of the method: LedgerDown before is a lost request, after a commit in doubt."""

Pause = Callable[[], Awaitable[None]]
"""Awaited at the entry of each method: trio's checkpoint, where others may run, or one that only sees a cancellation,
which makes a long simulation three times as fast."""

P = ParamSpec("P")
R = TypeVar("R")


class Part(Protocol):
    """One of the ledger's protocols over the shared store. `called` is its name to a `Fault`."""

    called: str
    store: Store


S = TypeVar("S", bound=Part)


def transaction(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """A synchronous method as an atomic call: one checkpoint first, then all of it."""

    @wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        store = self.store
        await store.pause()
        if store.fault is None:
            return method(self, *args, **kwargs)
        name = f"{self.called}.{method.__name__}"
        store.fault(name)
        result = method(self, *args, **kwargs)
        store.fault(f"{name}/done")
        return result

    return call


@dataclass(slots=True)
class Row:
    """A message with what belongs to it. `landed` is the late-truth mark: an earlier attempt (its provider) that was
    accepted after all while a newer one was under way."""

    message: Message
    standing: Standing
    touched_by: str
    attempts: list[Attempt] = field(default_factory=list)
    landed: str | None = None
    stripped: bool = False

    @property
    def id(self) -> str:
        return self.message.id


@dataclass(frozen=True, slots=True)
class Claim:
    number: int
    provider: str
    supervisor: str
    started_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Archived:
    row: Row
    letter: DeadLetter | None


@dataclass(slots=True)
class Work:
    """An operation, the ids still to work on, whose dead letters it may touch, and when its next item is due."""

    operation: Operation
    left: list[str]
    tenant: str | None
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Known:
    record: IdempotencyRecord
    at: datetime


@dataclass(slots=True)
class Kept:
    """A receipt that is looked at again at `due_at`, and no more after `until`."""

    reported: Reported
    due_at: datetime
    until: datetime
    looks: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Which attempt a provider names by an id of its own."""

    provider: str
    provider_message_id: str
    recipient: str
    message_id: str
    number: int


@dataclass(slots=True)
class Member:
    peer: Peer
    ended_at: datetime | None = None


IdempotencyName = tuple[str, str, str]
Spelling = tuple[str, Channel, str]
"""Tenant, channel, and a recipient as `policy.suppression` folds it."""


def by_due(row: Row) -> tuple[datetime, str]:
    return row.standing.due_at, row.message.id


class Store:
    def __init__(
        self, now: Callable[[], datetime], fault: Fault | None, pause: Pause = trio.lowlevel.checkpoint
    ) -> None:
        self.now: Final = now
        self.pause: Final = pause
        self.fault: Final = fault
        self.rows: Final[dict[str, Row]] = {}
        self.claims: Final[dict[str, Claim]] = {}
        self.letters: Final[dict[str, DeadLetter]] = {}
        self.archive: Final[dict[str, Archived]] = {}
        self.known: Final[dict[IdempotencyName, Known]] = {}
        self.work: Final[dict[str, Work]] = {}
        self.forbidden: Final[dict[Spelling, Suppression]] = {}
        """By each of its recipient's spellings."""
        self.keys: Final[dict[str, ApiKey]] = {}
        self.usage: Final[dict[str, Usage]] = {}
        self.members: Final[dict[str, Member]] = {}
        self.controls: Final[dict[str, Controls]] = {}
        self.generation: Generation | None = None
        self.accepted: Final[Counter[Channel]] = Counter()
        self.entered: Final[Counter[tuple[Channel, State]]] = Counter()
        self.present: Final[Counter[tuple[Channel, State]]] = Counter()
        self.dropped = 0
        self.kept: Final[list[Kept]] = []
        self.traces: Final[dict[Trace, datetime]] = {}
        """With the moment at which each was noted."""
        self.looked_to: datetime | None = None
        self.free: Final[Mapping[Lane, dict[str, Row]]] = {lane: {} for lane in LANES}
        """Waiting and unclaimed, by lane."""
        self._expiries: Final[list[tuple[datetime, str]]] = []
        self._numbers: Final = count()

    def later(self, seconds: float) -> datetime:
        return self.now() + timedelta(seconds=seconds)

    def in_s(self, at: datetime) -> float:
        return (at - self.now()).total_seconds()

    # ---------------------------------------------------------------------------------------------- messages

    def add(self, row: Row) -> None:
        self.rows[row.id] = row
        self.accepted[row.message.channel] += 1
        self.entered[row.message.channel, row.standing.state] += 1
        self._station(row)

    def change(self, row: Row, event: Event, supervisor: str | None = None, **changes: Any) -> None:
        """Move a row along one edge, from `sending` where its claim is open; `changes` are fields of its standing."""
        self._unstation(row)
        before = State.SENDING if row.id in self.claims else row.standing.state
        after = move(before, event)
        self.claims.pop(row.id, None)
        row.standing = replace(row.standing, state=after, updated_at=self.now(), **changes)
        if supervisor is not None:
            row.touched_by = supervisor
        self.entered[row.message.channel, after] += 1
        self._station(row)

    def put_off(self, row: Row, **changes: Any) -> None:
        """Change what a waiting row waits for; it stays in its state."""
        row.standing = replace(row.standing, updated_at=self.now(), **changes)

    def claim(self, row: Row, claim: Claim) -> None:
        move(row.standing.state, Event.CLAIMED)
        self._unstation(row)
        self.claims[row.id] = claim
        self.entered[row.message.channel, State.SENDING] += 1
        self._station(row)

    def state_of(self, row: Row) -> State:
        return State.SENDING if row.id in self.claims else row.standing.state

    def waiting(self, message_id: str) -> Row | None:
        """The row, where it waits and nobody has claimed it."""
        row = self.rows.get(message_id)
        return row if row is not None and row.id in self.free[row.message.lane] else None

    def pop_expired(self, limit: int) -> Iterator[Row]:
        """Waiting rows past their time. Claimed ones are looked at again when they come back (see `_station`)."""
        now, found = self.now(), 0
        while self._expiries and self._expiries[0][0] <= now and found < limit:
            expires_at, message_id = heapq.heappop(self._expiries)
            row = self.waiting(message_id)
            if row is not None and row.standing.expires_at == expires_at:
                found += 1
                yield row

    def hint(self, row: Row) -> WaitingHint:
        due_in_s = max(0.0, self.in_s(row.standing.due_at))
        return WaitingHint(row.id, row.message.lane, due_in_s, by_due(row))

    def view(self, row: Row, *, archived: bool = False) -> MessageView:
        standing, log = row.standing, tuple(row.attempts)
        if claim := self.claims.get(row.id):
            standing = replace(standing, state=State.SENDING, provider=claim.provider, waiting_for=None)
            begun = Attempt(
                message_id=row.id, number=claim.number, provider=claim.provider, started_at=claim.started_at
            )
            log = (*log, begun)
        return MessageView(message=row.message, standing=standing, attempts=log, archived=archived)

    def find(self, message_id: str, tenant: str | None) -> tuple[Row, bool]:
        """The row, hot or archived (then True). NotFound where there is none for this tenant."""
        row = self.rows.get(message_id)
        archived = row is None and message_id in self.archive
        if archived:
            row = self.archive[message_id].row
        if row is None or not visible(row.message.tenant, tenant):
            raise NotFound(f"there is no message {message_id}")
        return row, archived

    def _station(self, row: Row) -> None:
        self.present[row.message.channel, self.state_of(row)] += 1
        if row.standing.state in WAITING and row.id not in self.claims:
            self.free[row.message.lane][row.id] = row
            heapq.heappush(self._expiries, (row.standing.expires_at, row.id))

    def _unstation(self, row: Row) -> None:
        self.present[row.message.channel, self.state_of(row)] -= 1
        self.free[row.message.lane].pop(row.id, None)

    # ----------------------------------------------------------------------------------------- suppressions

    def is_suppressed(self, of: Message | DeadLetter) -> bool:
        return bool(self.forbidden) and (of.tenant, of.channel, fold(of.to)) in self.forbidden

    def enter(self, entry: Entry, *, held: Collection[str] = ()) -> Entered:
        """Enter it, inside whatever the caller does, and suppress what waits for it but for those he holds."""
        recipient = recipient_of(entry.channel, entry.recipient)
        keys = [(entry.tenant, entry.channel, spelling) for spelling in recipient.spellings]
        known = self.forbidden.get(keys[0])
        suppression = known or Suppression(
            id=new_id("sup", self.now(), next(self._numbers)),
            tenant=entry.tenant,
            channel=entry.channel,
            recipient=recipient.shown,
            reason=entry.reason,
            detail=entry.detail,
            provider=entry.provider,
            message_id=entry.message_id,
            created_at=self.now(),
        )
        self.forbidden.update(dict.fromkeys(keys, suppression))
        waiting = [
            row
            for lane, rows in self.free.items()
            if lane.channel is entry.channel
            for row in rows.values()
            if (row.message.tenant, lane.channel, fold(row.message.to)) in keys and row.id not in held
        ]
        for row in waiting:
            self.suppress(row)
        return Entered(suppression, known is None, len(waiting))

    def suppress(self, row: Row) -> None:
        """One that waits, unclaimed."""
        self.change(row, Event.SUPPRESSED, **NOTHING_AWAITED)

    def archived_row(self, message_id: str) -> Row | None:
        archived = self.archive.get(message_id)
        return None if archived is None else archived.row

    # ------------------------------------------------------------------------------------------- late truth

    def trace(self, row: Row, number: int, provider: str, answer: Answer | None) -> None:
        """Where its provider's id alone may name the attempt, make it findable by that."""
        if answer is not None and answer.traced and answer.provider_message_id:
            trace = Trace(provider, answer.provider_message_id, row.message.to, row.id, number)
            self.traces.setdefault(trace, self.now())

    def settle(self, row: Row, number: int, learnt: Settled) -> None:
        """Write what was learnt of an attempt without an answer, once; where that is `accepted`, the message is sent.
        It stays where it is when it was cancelled, or expired, meanwhile."""
        for index, attempt in enumerate(row.attempts):
            if attempt.number == number and attempt.outcome is Outcome.UNKNOWN and attempt.settled is None:
                row.attempts[index] = replace(attempt, settled=learnt, settled_at=self.now())
                if learnt is Settled.ACCEPTED:
                    self._prove(row, attempt.provider)
                return

    def _prove(self, row: Row, provider: str) -> None:
        if row.id in self.claims:
            row.landed = provider
        elif row.standing.state in (State.QUEUED, State.FAILED):
            self.change(row, Event.PROVED, **sent_by(provider))
            if letter := self.letters.get(row.id):
                self.close(letter, DeadLetterState.SETTLED)

    # ------------------------------------------------------------------------------------------ dead letters

    def file(
        self,
        row: Row,
        reason: Reason,
        *,
        cause: str,
        provider: str | None = None,
        code: str | None = None,
        detail: str | None = None,
        auto_retry_in_s: float | None = None,
    ) -> None:
        """Open the dead letter of a row that has just ended; one that was redriven before is opened anew."""
        now = self.now()
        self.letters[row.id] = DeadLetter(
            id=row.id,
            tenant=row.message.tenant,
            state=DeadLetterState.OPEN,
            channel=row.message.channel,
            to=row.message.to,
            reason=reason,
            code=code,
            provider=provider,
            cause=cause,
            detail=detail,
            tags=row.message.tags,
            attempts=row.standing.attempts,
            redrives=row.standing.redrives,
            created_at=now,
            updated_at=now,
            next_auto_retry_at=None if auto_retry_in_s is None else self.later(auto_retry_in_s),
        )

    def redrive(self, letter: DeadLetter, *, expires_after_s: float, supervisor: str) -> WaitingHint:
        if letter.id not in self.letters:
            self.bring_back(letter.id)
        row = self.rows[letter.id]
        self.change(
            row,
            Event.REDRIVEN,
            supervisor,
            due_at=self.now(),
            expires_at=self.later(expires_after_s),
            redrives=row.standing.redrives + 1,
            provider=None,
            reason=None,
            **BUDGET_ANEW,
            **NOTHING_AWAITED,
        )
        redriven = closed(letter, DeadLetterState.REDRIVEN, self.now())
        self.letters[letter.id] = replace(redriven, redrives=row.standing.redrives)
        return self.hint(row)

    def close(self, letter: DeadLetter, state: DeadLetterState) -> None:
        """Hot or archived."""
        ended = closed(letter, state, self.now())
        if letter.id in self.letters:
            self.letters[letter.id] = ended
        else:
            self.archive[letter.id] = replace(self.archive[letter.id], letter=ended)

    def put_away(self, row: Row) -> None:
        """Into the archive, with attempts and dead letter. An open dead letter counts as archived from then on."""
        letter = self.letters.pop(row.id, None)
        if letter is not None and letter.state is DeadLetterState.OPEN:
            letter = closed(letter, DeadLetterState.ARCHIVED, self.now())
        del self.rows[row.id]
        self._unstation(row)
        self.archive[row.id] = Archived(row, letter)

    def forget(self, row: Row) -> None:
        """Drop a row for good, as a partition that is old."""
        del self.rows[row.id]
        self._unstation(row)
        self.dropped += 1

    def bring_back(self, message_id: str) -> None:
        archived = self.archive.pop(message_id)
        self.rows[message_id] = archived.row
        if archived.letter is not None:
            self.letters[message_id] = archived.letter
        self._station(archived.row)

    def letter(self, message_id: str, tenant: str | None) -> DeadLetter | None:
        """Hot or archived."""
        letter = self.letters.get(message_id)
        if letter is None and (archived := self.archive.get(message_id)):
            letter = archived.letter
        return letter if letter is not None and visible(letter.tenant, tenant) else None

    def all_letters(self) -> Iterator[DeadLetter]:
        yield from self.letters.values()
        for archived in self.archive.values():
            if archived.letter is not None:
                yield archived.letter


BUDGET_ANEW: Final[Mapping[str, Any]] = {
    "counted": 0, "unknowns": 0, "throttled": 0, "reclaims": 0, "passes": 0, "tried": (),
    "unsettled": None, "unsettled_provider": None,
}  # fmt: skip
NOTHING_AWAITED: Final[Mapping[str, Any]] = {"waiting_for": None, "waiting_provider": None}


def sent_by(provider: str) -> dict[str, Any]:
    """What a standing says of a message that a provider took."""
    return {"provider": provider, "reason": None, "unsettled": None, "unsettled_provider": None, **NOTHING_AWAITED}


def closed(letter: DeadLetter, state: DeadLetterState, at: datetime) -> DeadLetter:
    return replace(letter, state=state, updated_at=at, next_auto_retry_at=None)


def visible(owner: str, tenant: str | None) -> bool:
    """Whether a caller who may see `tenant` (None: all) may see what belongs to `owner`."""
    return tenant is None or tenant == owner


def month_of(message_id: str) -> tuple[int, int]:
    """The archive's partition: year and month (UTC) of the id."""
    at = made_at(message_id).astimezone(UTC)
    return at.year, at.month
