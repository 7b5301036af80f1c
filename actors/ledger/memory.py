"""The ledger in dicts: the same port as PostgreSQL's, for simulation and tests. Passes the same contract suite.

Deterministic: time is the clock given to it, order is the order of calls. Each method is atomic, with one checkpoint
at its entry. A `Fault` can lose a request or its answer at any call.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

import trio

from heliograph.actors.ledger.memory_aftercare import MemoryDeadLetters, MemoryOperations, MemoryRetention
from heliograph.actors.ledger.memory_cluster import MemoryCluster, MemoryKeys
from heliograph.actors.ledger.memory_receipts import MemoryReceipts
from heliograph.actors.ledger.memory_store import (
    NOTHING_AWAITED,
    Claim,
    Fault,
    Known,
    Pause,
    Row,
    Store,
    by_due,
    sent_by,
    transaction,
    visible,
)
from heliograph.actors.ledger.memory_suppressions import MemorySuppressions
from heliograph.actors.model.attempt import Answer, Attempt, Outcome, Settled
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.errors import Conflict
from heliograph.actors.model.message import (
    LANES,
    Channel,
    Lane,
    Message,
    Move,
    Reason,
    Standing,
    State,
    Tracked,
    WaitingFor,
)
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.policy.allowance import Exceeded, Usage, charge
from heliograph.actors.policy.lifecycle import BIRTHS, WAITING, Event
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    Admission,
    Census,
    Claimed,
    ClaimRequest,
    Entry,
    Finish,
    Finished,
    Ledger,
    Loaded,
    MessageFilter,
    MessageView,
    Mismatch,
    Overdue,
    Park,
    Replay,
    Suppressed,
    WaitingHint,
)

KEY_LIFE: Final = timedelta(hours=24)


def memory_ledger(
    now: Callable[[], datetime], fault: Fault | None = None, pause: Pause = trio.lowlevel.checkpoint
) -> Ledger:
    """An empty ledger whose time is `now` (UTC)."""
    store = Store(now, fault, pause)
    return Ledger(
        intake=MemoryIntake(store),
        delivery=MemoryDelivery(store),
        messages=MemoryMessages(store),
        dead_letters=MemoryDeadLetters(store),
        operations=MemoryOperations(store),
        receipts=MemoryReceipts(store),
        suppressions=MemorySuppressions(store),
        keys=MemoryKeys(store),
        cluster=MemoryCluster(store),
        stats=MemoryStats(store),
        retention=MemoryRetention(store),
    )


class MemoryIntake:
    called = "intake"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def accept(self, batch: Sequence[Acceptance], *, supervisor: str) -> list[Admission]:
        for acceptance in batch:
            if not BIRTHS.issuperset(acceptance.states):
                raise ValueError("a message is born queued, scheduled or suppressed")
        return [self._accept(acceptance, supervisor) for acceptance in batch]

    def _accept(self, acceptance: Acceptance, supervisor: str) -> Admission:
        store = self.store
        for record in acceptance.idempotency:
            if (known := self._known(record.key_id, record.route, record.key, record.fingerprint)) is not None:
                return known
        born = list(zip(acceptance.messages, acceptance.states, strict=True))
        if hits := frozenset(m.id for m, s in born if s is not State.SUPPRESSED and store.is_suppressed(m)):
            return Suppressed(hits)
        if (limits := acceptance.limits) is not None:
            usage = store.usage.get(limits.key_id, Usage())
            charged = charge(limits, usage, len(acceptance.messages), round(store.now().timestamp() * 1e6))
            if isinstance(charged, Exceeded):
                return charged
            store.usage[limits.key_id] = charged
        for record in acceptance.idempotency:
            store.known[record.key_id, record.route, record.key] = Known(record, store.now())
        for message, state in born:
            if message.id not in store.rows and message.id not in store.archive:  # else a commit in doubt is repeated
                store.add(Row(message, _born(message, state, store.now()), supervisor))
        return Accepted()

    @transaction
    def recall(self, key_id: str, route: str, key: str, fingerprint: bytes) -> Replay | Mismatch | None:
        return self._known(key_id, route, key, fingerprint)

    def _known(self, key_id: str, route: str, key: str, fingerprint: bytes) -> Replay | Mismatch | None:
        known = self.store.known.get((key_id, route, key))
        if known is None or known.at + KEY_LIFE <= self.store.now():
            return None
        if known.record.fingerprint != fingerprint:
            return Mismatch()
        return Replay(status=known.record.status, body=known.record.body)


def _born(message: Message, state: State, now: datetime) -> Standing:
    scheduled = state is State.SCHEDULED
    return Standing(
        state=state,
        due_at=message.send_at if scheduled and message.send_at is not None else now,
        updated_at=now,
        expires_at=message.expires_at,
        waiting_for=WaitingFor.SEND_AT if scheduled else None,
    )


class MemoryDelivery:
    called = "delivery"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def load(self, ids: Sequence[str]) -> list[Loaded]:
        store = self.store
        rows = [row for i in dict.fromkeys(ids) if (row := store.waiting(i)) is not None and not self._refused(row)]
        return [
            Loaded(Tracked(r.message, r.standing), store.in_s(r.standing.due_at), store.in_s(r.standing.expires_at))
            for r in rows
        ]

    def _refused(self, row: Row) -> bool:
        """Whether a waiting row's recipient is suppressed; then the row is, too."""
        refused = self.store.is_suppressed(row.message)
        if refused:
            self.store.suppress(row)
        return refused

    @transaction
    def claim(self, requests: Sequence[ClaimRequest], *, supervisor: str) -> list[Claimed]:
        store, now, won = self.store, self.store.now(), []
        for request in requests:
            waits = store.waiting(request.message_id)
            if waits is None or waits.standing.expires_at <= now or store.is_suppressed(waits.message):
                continue
            if (row := self._due(waits.id)) is None:
                continue
            number = row.standing.attempts + 1
            store.claim(row, Claim(number, request.provider, supervisor, now, store.later(request.hold_s)))
            won.append(Claimed(row.id, number, now))
        return won

    def _due(self, message_id: str) -> Row | None:
        """The row, where it waits, is due, and nobody has claimed it; a scheduled one is woken."""
        row = self.store.waiting(message_id)
        if row is None or row.standing.due_at > self.store.now():
            return None
        if row.standing.state is State.SCHEDULED:
            self.store.change(row, Event.WOKEN, **NOTHING_AWAITED)
        return row

    @transaction
    def release(self, claims: Sequence[tuple[str, int]], *, supervisor: str) -> None:
        for message_id, number in claims:
            claim = self.store.claims.get(message_id)
            if claim is None or claim.number != number or claim.supervisor != supervisor:
                continue
            row = self.store.rows[message_id]
            if row.landed is not None:
                self._sent(row, row.landed, supervisor)
            else:
                self.store.change(row, Event.RETURNED, supervisor)
                self._refused(row)

    @transaction
    def finish(self, finishes: Sequence[Finish], *, supervisor: str) -> list[Finished]:
        return [self._finish(finish, supervisor) for finish in finishes]

    def _finish(self, finish: Finish, supervisor: str) -> Finished:
        store = self.store
        row = store.rows.get(finish.message_id)
        if row is None:
            return Finished(message_id=finish.message_id, state=State.FAILED, applied=False)
        if finish.answer is not None and finish.answer.suppress is not None:
            store.enter(_entry(row, finish.provider, finish.answer, finish.answer.suppress), held=(row.id,))
        if not self._may_end(finish, supervisor):
            if not finish.overdue_only:
                self._late(row, finish)
            self._look_again(row, finish)
            return Finished(message_id=row.id, state=store.state_of(row), applied=False)
        if finish.settles is not None:
            store.settle(row, *finish.settles)
        if finish.answer is not None:
            row.attempts.append(_logged(finish, finish.answer))
            store.trace(row, finish.number, finish.provider, finish.answer)
        self._end(row, finish, supervisor)
        self._look_again(row, finish)
        queued = row.standing.state is State.QUEUED
        return Finished(
            message_id=row.id,
            state=row.standing.state,
            applied=True,
            due_in_s=max(0.0, store.in_s(row.standing.due_at)) if queued else None,
        )

    def _look_again(self, row: Row, finish: Finish) -> None:
        """At one that may be back in the queue, or whose recipient is entered just now."""
        blamed = finish.answer is not None and finish.answer.suppress is not None
        if (blamed or finish.move.state is State.QUEUED) and self.store.waiting(row.id) is not None:
            self._refused(row)

    def _may_end(self, finish: Finish, supervisor: str) -> bool:
        claim = self.store.claims.get(finish.message_id)
        if claim is None or claim.number != finish.number:
            return False
        return claim.until <= self.store.now() if finish.overdue_only else claim.supervisor == supervisor

    def _late(self, row: Row, finish: Finish) -> None:
        """The claim was closed before its owner's word came. Where no call was made that is a truth, too."""
        self.store.trace(row, finish.number, finish.provider, finish.answer)
        if finish.settles is not None:
            self.store.settle(row, *finish.settles)
        learnt = Settled.NOT_SENT if finish.answer is None else LEARNT.get(finish.answer.outcome)
        if learnt is not None:
            self.store.settle(row, finish.number, learnt)

    def _end(self, row: Row, finish: Finish, supervisor: str) -> None:
        going = finish.move
        changes: dict[str, Any] = {
            "attempts": finish.number if finish.answer is not None else row.standing.attempts,
            "counted": going.counted,
            "unknowns": going.unknowns,
            "throttled": going.throttled,
            "reclaims": going.reclaims,
            "passes": going.passes,
            "tried": going.tried,
            "unsettled": going.unsettled,
            "unsettled_provider": going.unsettled_provider,
        }
        if going.state is State.SENT or row.landed is not None:
            taken_by = finish.provider if going.state is State.SENT or row.landed is None else row.landed
            self._sent(row, taken_by, supervisor, **changes)
        elif going.state is State.QUEUED:
            self.store.change(
                row,
                Event.RETURNED,
                supervisor,
                due_at=self.store.later(going.due_in_s),
                waiting_for=going.waiting_for,
                waiting_provider=going.waiting_provider,
                provider=None,
                **changes,
            )
        else:
            self._dead(row, going, finish.provider, supervisor, changes)

    def _sent(self, row: Row, provider: str, supervisor: str, **changes: Any) -> None:
        self.store.change(row, Event.TAKEN, supervisor, **{**changes, **sent_by(provider)})
        row.landed = None

    def _dead(self, row: Row, going: Move, provider: str, supervisor: str, changes: dict[str, Any]) -> None:
        if going.state is State.EXPIRED:
            self.store.change(row, Event.RETURNED, supervisor)
            event, reason = Event.EXPIRED, going.reason or Reason.EXPIRED
        elif going.state is State.FAILED:
            event, reason = Event.GIVEN_UP, going.reason or Reason.REJECTED
        else:
            raise ValueError(f"an attempt cannot end in {going.state}")
        self.store.change(row, event, supervisor, provider=provider, reason=reason, **{**changes, **NOTHING_AWAITED})
        self.store.file(
            row,
            reason,
            cause=going.cause or reason,
            provider=provider,
            code=going.code,
            detail=going.detail,
            auto_retry_in_s=going.auto_retry_in_s,
        )

    @transaction
    def overdue(self, limit: int, *, within_s: float = 0.0) -> list[Overdue]:
        store, now = self.store, self.store.now()
        by = now + timedelta(seconds=within_s)
        late = heapq.nsmallest(limit, ((c.until, i) for i, c in store.claims.items() if c.until <= by))
        found = []
        for until, message_id in late:
            row, claim = store.rows[message_id], store.claims[message_id]
            tracked = Tracked(row.message, row.standing)
            due_in_s = (until - now).total_seconds()
            found.append(Overdue(tracked, claim.number, claim.provider, claim.supervisor, claim.started_at, due_in_s))
        return found

    @transaction
    def expire(self, limit: int) -> list[Tracked]:
        ended = []
        for row in self.store.pop_expired(limit):
            self.store.change(row, Event.EXPIRED, reason=Reason.EXPIRED, provider=None, **NOTHING_AWAITED)
            self.store.file(row, Reason.EXPIRED, cause=Reason.EXPIRED)
            ended.append(Tracked(row.message, row.standing))
        return ended

    @transaction
    def wake(self, ids: Sequence[str]) -> None:
        for message_id in ids:
            self._due(message_id)

    @transaction
    def park(self, parks: Sequence[Park]) -> None:
        for park in parks:
            row = self.store.waiting(park.message_id)
            if row is not None and row.standing.state is State.QUEUED:
                self.store.put_off(
                    row,
                    due_at=self.store.later(park.due_in_s),
                    waiting_for=park.waiting_for,
                    waiting_provider=park.waiting_provider,
                )

    @transaction
    def give_up(self, ids: Sequence[str], *, reason: Reason, cause: str, auto_retry_in_s: float | None) -> None:
        for message_id in ids:
            self._due(message_id)
            row = self.store.waiting(message_id)
            if row is None or row.standing.state is not State.QUEUED:
                continue
            self.store.change(row, Event.GIVEN_UP, reason=reason, provider=None, **NOTHING_AWAITED)
            self.store.file(row, reason, cause=cause, auto_retry_in_s=auto_retry_in_s)

    @transaction
    def waiting(self, lane: Lane, *, after: tuple[datetime, str] | None, limit: int) -> list[WaitingHint]:
        rows = (r for r in self.store.free[lane].values() if after is None or by_due(r) > after)
        return [self.store.hint(row) for row in heapq.nsmallest(limit, rows, key=by_due)]

    @transaction
    def touched_by(self, supervisor: str, *, limit: int) -> list[WaitingHint]:
        rows = (r for lane in LANES for r in self.store.free[lane].values() if r.touched_by == supervisor)
        return [self.store.hint(row) for row in islice(rows, limit)]

    @transaction
    def due_count(self, lane: Lane, *, older_than_s: float, limit: int) -> int:
        due_by = self.store.later(-older_than_s)
        return sum(1 for _ in islice((1 for r in self.store.free[lane].values() if r.standing.due_at <= due_by), limit))

    @transaction
    def spent(self, provider: str, *, part_s: float, parts: int) -> list[int]:
        store, ages = self.store, [0] * parts
        for row in store.rows.values():
            ended = [-store.in_s(a.finished_at) for a in row.attempts if a.provider == provider and a.finished_at]
            claim = store.claims.get(row.id)
            if claim is not None and claim.provider == provider:
                ended.append(0.0)
            for ago_s in ended:
                age = int(max(0.0, ago_s) / part_s)
                if age < parts:
                    ages[age] += row.message.recipients
        return ages

    @transaction
    def accepted_elsewhere(self, ids: Sequence[str], provider: str, *, within_s: float) -> set[str]:
        store = self.store
        asked = {i: (row.message.channel, row.message.to) for i in ids if (row := store.rows.get(i)) is not None}
        wanted, since = set(asked.values()), store.later(-within_s)
        known = {
            (row.message.channel, row.message.to)
            for row in store.rows.values()
            if (row.message.channel, row.message.to) in wanted
            and any(
                a.outcome is Outcome.ACCEPTED and a.provider != provider and a.finished_at and a.finished_at > since
                for a in row.attempts
            )
        }
        return {i for i, recipient in asked.items() if recipient in known}


LEARNT: Final = {
    Outcome.ACCEPTED: Settled.ACCEPTED,
    Outcome.REJECTED: Settled.REJECTED,
    Outcome.DEFERRED: Settled.NOT_SENT,
    Outcome.THROTTLED: Settled.NOT_SENT,
    Outcome.MISCONFIGURED: Settled.NOT_SENT,
}
"""What an owner's late answer says of the attempt that was closed as unknown; a late `unknown` says nothing."""


def _entry(row: Row, provider: str, answer: Answer, reason: SuppressionReason) -> Entry:
    return Entry(
        tenant=row.message.tenant,
        channel=row.message.channel,
        recipient=row.message.to,
        reason=reason,
        detail=answer.detail,
        provider=provider,
        message_id=row.id,
    )


def _logged(finish: Finish, answer: Answer) -> Attempt:
    return Attempt(
        message_id=finish.message_id,
        number=finish.number,
        provider=finish.provider,
        started_at=finish.started_at,
        finished_at=finish.finished_at,
        outcome=answer.outcome,
        code=answer.code,
        detail=answer.detail,
        provider_message_id=answer.provider_message_id,
    )


class MemoryMessages:
    called = "messages"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def get(self, message_id: str, *, tenant: str | None) -> MessageView:
        row, archived = self.store.find(message_id, tenant)
        return self.store.view(row, archived=archived)

    @transaction
    def cancel(self, message_id: str, *, tenant: str | None, supervisor: str) -> MessageView:
        row, _ = self.store.find(message_id, tenant)
        state = self.store.state_of(row)
        if state not in WAITING:
            raise Conflict(f"message {message_id} is {state}: it is too late to cancel it")
        self.store.change(row, Event.CANCELLED, supervisor, **NOTHING_AWAITED)
        return self.store.view(row)

    @transaction
    def list(self, wanted: MessageFilter, *, tenant: str | None, before: str | None, limit: int) -> list[MessageView]:
        ids = (i for i in self.store.rows if before is None or i < before)
        rows = (row for i in sorted(ids, reverse=True) if self._matches(row := self.store.rows[i], wanted, tenant))
        return [self.store.view(row) for row in islice(rows, limit)]

    def _matches(self, row: Row, wanted: MessageFilter, tenant: str | None) -> bool:
        message = row.message
        return (
            visible(message.tenant, tenant)
            and wanted.state in (None, self.store.state_of(row))
            and wanted.channel in (None, message.channel)
            and wanted.to in (None, message.to)
            and (wanted.tag is None or wanted.tag in message.tags)
            and (wanted.since is None or message.created_at >= wanted.since)
            and (wanted.until is None or message.created_at < wanted.until)
        )


class MemoryStats:
    called = "stats"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def census(self, *, count_to: int = 10_000) -> Census:
        store, now = self.store, self.store.now()
        due = {lane: [d for r in store.free[lane].values() if (d := r.standing.due_at) <= now] for lane in LANES}
        open_letters = [x for x in store.letters.values() if x.state is DeadLetterState.OPEN]
        return Census(
            accepted={channel: store.accepted[channel] for channel in Channel},
            messages={(c, s): store.present[c, s] for c in Channel for s in State},
            entered={(c, s): store.entered[c, s] for c in Channel for s in State},
            dead_letters={r: sum(1 for x in open_letters if x.reason is r) for r in Reason},
            due={lane: min(count_to, len(times)) for lane, times in due.items()},
            oldest_due_age_s={
                lane: (now - min(times)).total_seconds() if times else None for lane, times in due.items()
            },
        )

    @transaction
    def drift(self) -> int:
        store = self.store
        return sum(store.accepted.values()) - len(store.rows) - len(store.archive) - store.dropped
