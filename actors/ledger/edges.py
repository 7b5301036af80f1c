"""Moves along the edges of policy.lifecycle, many messages in one transaction: every edge but the two hot ones.

Rows are locked first, by id, and only then is it looked whether somebody has claimed them: in one statement both would
be read as of its beginning, and a claim that was committed while we waited for the lock would be overlooked. From then
on nothing of these messages changes but by us; what becomes of them is decided in Python and written in one go.

The lock on a message's row is also the lock on its dead letter and its attempts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from heliograph.actors.ledger.pool import Connection
from heliograph.actors.ledger.rows import STANDING, json_of, standing_of
from heliograph.actors.ledger.tallies import Tally
from heliograph.actors.model.attempt import Answer, Attempt, Settled
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.message import Channel, Lane, Priority, Reason, Standing, State
from heliograph.actors.policy.lifecycle import WAITING, Event, move
from heliograph.actors.ports.ledger import WaitingHint

# By the primary key, in its order, so that two who want the same rows do not wait for each other.
LOCK: Final = f"""
SELECT {STANDING}, m.id, m.channel, m.priority, m.landed, m.touched_by, now()
FROM messages AS m
WHERE m.id = ANY(%s)
ORDER BY m.id
FOR NO KEY UPDATE"""  # noqa: S608 - all its parts are constants of ours
LOCK_FREE: Final = LOCK + " SKIP LOCKED"

# By the primary key.
CLAIMED: Final = """
SELECT message_id, number, provider, supervisor, reclaim_at <= now() FROM claims WHERE message_id = ANY(%s)"""

# By the primary key.
UNSETTLED: Final = """
SELECT message_id, number, provider FROM attempts
WHERE message_id = ANY(%s) AND outcome = 'unknown' AND settled IS NULL"""

# By the primary key. A standing's fields are named as its columns are.
SAVE: Final = """
UPDATE messages AS m SET
    state = s.state, due_at = s.due_at, expires_at = s.expires_at, updated_at = now(), attempts = s.attempts,
    counted = s.counted, unknowns = s.unknowns, throttled = s.throttled, reclaims = s.reclaims, passes = s.passes,
    redrives = s.redrives, tried = nullif(s.tried, '{}'), provider = s.provider, reason = s.reason,
    waiting_for = s.waiting_for, waiting_provider = s.waiting_provider, unsettled = s.unsettled,
    unsettled_provider = s.unsettled_provider, landed = f.landed, touched_by = f.touched_by
FROM json_to_recordset(%s::json) AS f (id text, landed text, touched_by text, standing json)
CROSS JOIN LATERAL json_populate_record(NULL::messages, f.standing) AS s
WHERE m.id = f.id AND m.id = ANY(%s)"""

# By the primary key.
UNCLAIM: Final = "DELETE FROM claims WHERE message_id = ANY(%s)"

LOG: Final = """
INSERT INTO attempts (
    message_id, number, provider, started_at, finished_at, outcome, code, detail, provider_message_id
)
SELECT * FROM json_to_recordset(%s::json) AS a (
    message_id text, number integer, provider text, started_at timestamptz, finished_at timestamptz, outcome text,
    code text, detail text, provider_message_id text
)"""

# By the primary key.
TRACE: Final = """
INSERT INTO provider_ids (message_id, number, provider, provider_message_id, recipient)
SELECT c.id, t.number, t.provider, t.provider_message_id, c.recipient
FROM unnest(%s::text[], %s::integer[], %s::text[], %s::text[]) AS t (message_id, number, provider, provider_message_id)
JOIN contents AS c ON c.id = t.message_id
WHERE c.id = ANY(%s)
ON CONFLICT DO NOTHING"""

# By the primary key.
SETTLE: Final = """
UPDATE attempts AS a SET settled = s.settled, settled_at = now()
FROM unnest(%s::text[], %s::integer[], %s::text[]) AS s (message_id, number, settled)
WHERE a.message_id = s.message_id AND a.number = s.number AND a.message_id = ANY(%s)"""

# By the primary keys. One that was redriven before is opened anew.
FILE: Final = """
INSERT INTO dead_letters (
    id, tenant, state, channel, recipient, reason, code, provider, cause, detail, tags, attempts, redrives,
    created_at, updated_at, next_auto_retry_at
)
SELECT m.id, c.tenant, 'open', m.channel, c.recipient, f.reason, f.code, f.provider, f.cause, f.detail, c.tags,
       m.attempts, m.redrives, now(), now(), now() + f.auto_retry_in_s * interval '1 second'
FROM json_to_recordset(%s::json) AS f (
    id text, reason text, code text, provider text, cause text, detail text, auto_retry_in_s double precision
)
JOIN messages AS m USING (id)
JOIN contents AS c USING (id)
WHERE m.id = ANY(%s)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, reason = excluded.reason, code = excluded.code, provider = excluded.provider,
    cause = excluded.cause, detail = excluded.detail, attempts = excluded.attempts, redrives = excluded.redrives,
    created_at = excluded.created_at, updated_at = excluded.updated_at,
    next_auto_retry_at = excluded.next_auto_retry_at"""

# By the primary key.
LETTERS: Final = "SELECT id, state, reason FROM dead_letters WHERE id = ANY(%s)"
CLOSE: Final = """
UPDATE dead_letters AS d SET state = %s, updated_at = now(), next_auto_retry_at = NULL, redrives = m.redrives
FROM messages AS m
WHERE d.id = ANY(%s) AND m.id = d.id"""

NOTHING_AWAITED: Final = {"waiting_for": None, "waiting_provider": None}
BUDGET_ANEW: Final[dict[str, Any]] = {
    "counted": 0, "unknowns": 0, "throttled": 0, "reclaims": 0, "passes": 0, "tried": (),
    "unsettled": None, "unsettled_provider": None,
}  # fmt: skip


def sent_by(provider: str) -> dict[str, Any]:
    """What a standing says of a message that a provider took."""
    return {"provider": provider, "reason": None, "unsettled": None, "unsettled_provider": None, **NOTHING_AWAITED}


@dataclass(frozen=True, slots=True)
class OpenClaim:
    number: int
    provider: str
    supervisor: str
    over: bool


@dataclass(slots=True)
class Held:
    """A message whose row is ours until the end of the transaction."""

    id: str
    lane: Lane
    standing: Standing
    landed: str | None
    touched_by: str
    now: datetime
    claim: OpenClaim | None = None

    @property
    def channel(self) -> Channel:
        return self.lane.channel

    @property
    def state(self) -> State:
        return State.SENDING if self.claim else self.standing.state

    @property
    def waits(self) -> bool:
        """And nobody has claimed it."""
        return self.state in WAITING

    @property
    def due(self) -> bool:
        return self.standing.due_at <= self.now

    def later(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def hint(self) -> WaitingHint:
        due_at = self.standing.due_at
        return WaitingHint(self.id, self.lane, max(0.0, (due_at - self.now).total_seconds()), (due_at, self.id))


@dataclass(slots=True)
class Edges:
    """`held` by id. Nothing is written before `write`, and that once."""

    held: dict[str, Held]
    tally: Tally = field(default_factory=Tally)
    _changed: dict[str, Held] = field(default_factory=dict)
    _ended: list[str] = field(default_factory=list)
    _logged: list[Attempt] = field(default_factory=list)
    _traced: list[tuple[str, int, str, str]] = field(default_factory=list)
    _unsettled: dict[tuple[str, int], str] = field(default_factory=dict)
    _settled: list[tuple[str, int, Settled]] = field(default_factory=list)
    _filed: dict[str, dict[str, Any]] = field(default_factory=dict)
    _closed: dict[DeadLetterState, list[str]] = field(default_factory=dict)

    @classmethod
    async def lock(cls, connection: Connection, ids: Iterable[str], *, skip_locked: bool = False) -> Edges:
        """Those of `ids` that are in the hot tables. With `skip_locked` others' are left out, not waited for."""
        wanted = sorted(set(ids))
        rows = await connection.rows(LOCK_FREE if skip_locked else LOCK, (wanted,))
        held: dict[str, Held] = {}
        for row in rows:
            id_, channel, priority, landed, touched_by, now = row[-6:]
            held[id_] = Held(id_, Lane(Channel(channel), Priority(priority)), standing_of(row), landed, touched_by, now)
        if held:
            for id_, *claim in await connection.rows(CLAIMED, (list(held),)):
                held[id_].claim = OpenClaim(*claim)
        return cls(held)

    def change(self, held: Held, event: Event, supervisor: str | None = None, **changes: Any) -> None:
        """Along one edge, from `sending` where its claim is open; `changes` are fields of its standing."""
        before, after = held.standing.state, move(held.state, event)
        if held.claim:
            self._ended.append(held.id)
            held.claim = None
        held.standing = replace(held.standing, state=after, **changes)
        if supervisor is not None:
            held.touched_by = supervisor
        self._changed[held.id] = held
        self.tally.move(held.channel, before, after)
        self.tally.enter(held.channel, after)

    def wake(self, held: Held) -> None:
        """SCHEDULED to QUEUED, where it is due."""
        if held.waits and held.due and held.standing.state is State.SCHEDULED:
            self.change(held, Event.WOKEN, **NOTHING_AWAITED)

    def put_off(self, held: Held, **changes: Any) -> None:
        """Change what a waiting message waits for; it stays in its state."""
        held.standing = replace(held.standing, **changes)
        self._changed[held.id] = held

    def sent(self, held: Held, provider: str, supervisor: str, **changes: Any) -> None:
        """From `sending`."""
        self.change(held, Event.TAKEN, supervisor, **{**changes, **sent_by(provider)})
        held.landed = None

    def redrive(self, held: Held, *, expires_after_s: float, supervisor: str) -> None:
        self.change(
            held,
            Event.REDRIVEN,
            supervisor,
            due_at=held.now,
            expires_at=held.later(expires_after_s),
            redrives=held.standing.redrives + 1,
            provider=None,
            reason=None,
            **BUDGET_ANEW,
            **NOTHING_AWAITED,
        )
        self.close(held, DeadLetterState.REDRIVEN)

    def log(self, attempt: Attempt) -> None:
        self._logged.append(attempt)

    def trace(self, held: Held, number: int, provider: str, answer: Answer | None) -> None:
        """Where its provider's id alone may name the attempt, make it findable by that."""
        if answer is not None and answer.traced and answer.provider_message_id:
            self._traced.append((held.id, number, provider, answer.provider_message_id))

    # ------------------------------------------------------------------------------------------ late truth

    async def look_for_unsettled(self, connection: Connection, ids: Sequence[str]) -> None:
        """Needed before `settle` for these messages."""
        for message_id, number, provider in await connection.rows(UNSETTLED, (ids,)):
            self._unsettled[message_id, number] = provider

    def settle(self, held: Held, number: int, learnt: Settled) -> None:
        """Write what was learnt of an attempt without an answer, once; where that is `accepted`, the message is sent.
        It stays where it is when it was cancelled, or expired, meanwhile."""
        provider = self._unsettled.pop((held.id, number), None)
        if provider is None:
            return
        self._settled.append((held.id, number, learnt))
        if learnt is not Settled.ACCEPTED:
            return
        if held.claim:
            held.landed = provider
            self._changed[held.id] = held
        elif held.standing.state in (State.QUEUED, State.FAILED):
            self.change(held, Event.PROVED, **sent_by(provider))
            self.close(held, DeadLetterState.SETTLED)

    # ---------------------------------------------------------------------------------------- dead letters

    def file(
        self,
        held: Held,
        reason: Reason,
        *,
        cause: str,
        provider: str | None = None,
        code: str | None = None,
        detail: str | None = None,
        auto_retry_in_s: float | None = None,
    ) -> None:
        """Open the dead letter of a message that has just ended."""
        self._filed[held.id] = {
            "id": held.id,
            "reason": reason,
            "code": code,
            "provider": provider,
            "cause": cause,
            "detail": detail,
            "auto_retry_in_s": auto_retry_in_s,
        }
        self.tally.dead_letter(reason, 1)

    def close(self, held: Held, state: DeadLetterState) -> None:
        """Its dead letter, where it has one."""
        self._closed.setdefault(state, []).append(held.id)

    # --------------------------------------------------------------------------------------------- writing

    async def write(self, connection: Connection) -> None:
        if self._ended:
            await connection.rows(UNCLAIM, (self._ended,))
        if self._logged:
            await connection.rows(LOG, (json_of(self._logged),))
        if self._settled:
            ids, numbers, learnt = (list(column) for column in zip(*self._settled, strict=True))
            await connection.rows(SETTLE, (ids, numbers, learnt, ids))
        if self._changed:
            documents = (
                {"id": h.id, "landed": h.landed, "touched_by": h.touched_by, "standing": h.standing}
                for h in self._changed.values()
            )
            await connection.rows(SAVE, (json_of(documents), list(self._changed)))
        for state, ids in self._closed.items():
            await self._close(connection, state, ids)
        if self._filed:  # one that was closed just now may be opened anew
            await connection.rows(FILE, (json_of(self._filed.values()), list(self._filed)))
        if self._traced:
            ids = [message_id for message_id, *_ in self._traced]
            await connection.rows(TRACE, (*map(list, zip(*self._traced, strict=True)), ids))
        await self.tally.write(connection)

    async def _close(self, connection: Connection, state: DeadLetterState, ids: Sequence[str]) -> None:
        for _, before, reason in await connection.rows(LETTERS, (ids,)):
            if before == DeadLetterState.OPEN:
                self.tally.dead_letter(reason, -1)
        await connection.rows(CLOSE, (state, ids))
