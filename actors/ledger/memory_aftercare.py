"""The in-memory ledger's dead letters, the operations on them, and what age does to rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from heliograph.actors.ledger.memory_store import Row, Store, Work, month_of, transaction, visible
from heliograph.actors.model.access import DEFAULT_TENANT
from heliograph.actors.model.deadletter import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    DeadLetterState,
    DryRun,
    Operation,
    OperationKind,
    OperationState,
)
from heliograph.actors.model.errors import Conflict, NotFound
from heliograph.actors.model.message import Content, EmailContent, Reason, SmsContent
from heliograph.actors.policy.lifecycle import AT_REST
from heliograph.actors.ports.ledger import WaitingHint

OPEN_TO: Final[Mapping[OperationKind, frozenset[DeadLetterState]]] = {
    OperationKind.REDRIVE: frozenset({DeadLetterState.OPEN, DeadLetterState.ARCHIVED}),
    OperationKind.ARCHIVE: frozenset({DeadLetterState.OPEN}),
    OperationKind.DISCARD: frozenset({DeadLetterState.OPEN, DeadLetterState.ARCHIVED}),
}
REDRIVABLE: Final = OPEN_TO[OperationKind.REDRIVE]
IDEMPOTENCY_FOR: Final = timedelta(hours=24)
OPERATIONS_FOR: Final = timedelta(days=30)
SUPERVISORS_FOR: Final = timedelta(days=1)


class MemoryDeadLetters:
    called = "dead_letters"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def get(self, message_id: str, *, tenant: str | None) -> DeadLetter:
        letter = self.store.letter(message_id, tenant)
        if letter is None:
            raise NotFound(f"there is no dead letter {message_id}")
        return letter

    @transaction
    def groups(self, wanted: DeadLetterFilter, *, tenant: str | None, limit: int) -> list[DeadLetterGroup]:
        members: dict[object, list[DeadLetter]] = {}
        for letter in matching(self.store, wanted, tenant):
            key = (letter.cause, letter.reason, letter.code, letter.provider, letter.channel)
            members.setdefault(key, []).append(letter)
        largest = sorted(members.values(), key=lambda group: (-len(group), group[0].cause))
        return [_group(group) for group in largest[:limit]]

    @transaction
    def counts(self) -> Mapping[Reason, int]:
        return Counter(x.reason for x in self.store.letters.values() if x.state is DeadLetterState.OPEN)

    @transaction
    def auto_retry(self, *, limit: int, supervisor: str, expires_after_s: float) -> list[WaitingHint]:
        now = self.store.now()
        due = [
            x
            for x in self.store.letters.values()
            if x.state is DeadLetterState.OPEN and x.next_auto_retry_at is not None and x.next_auto_retry_at <= now
        ]
        hints: list[WaitingHint] = []
        for letter in due[:limit]:
            if self.store.is_suppressed(letter):
                self.store.letters[letter.id] = replace(letter, next_auto_retry_at=None, updated_at=now)
            else:
                hints.append(self.store.redrive(letter, expires_after_s=expires_after_s, supervisor=supervisor))
        return hints

    @transaction
    def list(self, wanted: DeadLetterFilter, *, tenant: str | None, before: str | None, limit: int) -> list[DeadLetter]:
        letters = matching(self.store, wanted, tenant)
        cursor = self.store.letter(before, tenant) if before is not None else None
        if before is not None and cursor is None:
            return []
        older = (x for x in letters if cursor is None or _age(x) < _age(cursor))
        return sorted(older, key=_age, reverse=True)[:limit]


def _age(letter: DeadLetter) -> tuple[datetime, str]:
    return letter.created_at, letter.id


def _group(letters: Sequence[DeadLetter]) -> DeadLetterGroup:
    oldest, newest = min(letters, key=_age), max(letters, key=_age)
    return DeadLetterGroup(
        cause=newest.cause,
        reason=newest.reason,
        code=newest.code,
        provider=newest.provider,
        channel=newest.channel,
        count=len(letters),
        first_at=oldest.created_at,
        last_at=newest.created_at,
        sample_id=newest.id,
    )


def matching(store: Store, wanted: DeadLetterFilter, tenant: str | None) -> list[DeadLetter]:
    return [x for x in store.all_letters() if visible(x.tenant, tenant) and _matches(x, wanted)]


def _matches(letter: DeadLetter, wanted: DeadLetterFilter) -> bool:
    text = wanted.text.lower() if wanted.text is not None else ""
    return (
        wanted.state in (None, letter.state)
        and wanted.channel in (None, letter.channel)
        and wanted.provider in (None, letter.provider)
        and wanted.reason in (None, letter.reason)
        and wanted.code in (None, letter.code)
        and wanted.cause in (None, letter.cause)
        and (wanted.tag is None or wanted.tag in letter.tags)
        and any(text in words.lower() for words in (letter.cause, letter.detail or "", letter.to))
        and (wanted.since is None or letter.created_at >= wanted.since)
        and (wanted.until is None or letter.created_at < wanted.until)
    )


class MemoryOperations:
    called = "operations"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def dry_run(
        self,
        kind: OperationKind,
        *,
        ids: Sequence[str] | None,
        wanted: DeadLetterFilter | None,
        tenant: str | None,
        max_redrives: int,
    ) -> DryRun:
        items = self._items(ids, wanted, tenant)
        judged = [self._eligible(kind, message_id, tenant, max_redrives) for message_id in items]
        skipped = Counter(why for why in judged if isinstance(why, str))
        return DryRun(matched=len(items), eligible=len(items) - skipped.total(), skipped=dict(skipped))

    @transaction
    def create(
        self,
        operation_id: str,
        kind: OperationKind,
        *,
        ids: Sequence[str] | None,
        wanted: DeadLetterFilter | None,
        tenant: str | None,
        rate: float | None,
        reason: str | None,
        actor: str | None,
    ) -> Operation:
        if operation_id in self.store.work:  # a commit in doubt is repeated
            return self.store.work[operation_id].operation
        items, now = self._items(ids, wanted, tenant), self.store.now()
        operation = Operation(
            id=operation_id,
            kind=kind,
            state=OperationState.RUNNING if items else OperationState.DONE,
            tenant=tenant or DEFAULT_TENANT,
            total=len(items),
            rate=rate,
            reason=reason,
            actor=actor,
            created_at=now,
            finished_at=None if items else now,
        )
        self.store.work[operation_id] = Work(operation, items, tenant, now)
        return operation

    def _items(self, ids: Sequence[str] | None, wanted: DeadLetterFilter | None, tenant: str | None) -> list[str]:
        if ids is not None:
            return list(dict.fromkeys(ids))
        return [letter.id for letter in sorted(matching(self.store, wanted or DeadLetterFilter(), tenant), key=_age)]

    def _eligible(
        self, kind: OperationKind, message_id: str, tenant: str | None, max_redrives: int
    ) -> DeadLetter | str:
        """The dead letter to work on, or why the item is skipped."""
        letter = self.store.letter(message_id, tenant)
        if letter is None:
            return "not_found"
        if letter.state not in OPEN_TO[kind]:
            return str(letter.state)
        if kind is OperationKind.REDRIVE and letter.redrives >= max_redrives:
            return "max_redrives"
        if kind is OperationKind.REDRIVE and self.store.is_suppressed(letter):
            return "suppressed"
        return letter

    @transaction
    def get(self, operation_id: str, *, tenant: str | None) -> Operation:
        return self._find(operation_id, tenant).operation

    def _find(self, operation_id: str, tenant: str | None) -> Work:
        work = self.store.work.get(operation_id)
        if work is None or not visible(work.operation.tenant, tenant):
            raise NotFound(f"there is no operation {operation_id}")
        return work

    @transaction
    def cancel(self, operation_id: str, *, tenant: str | None) -> Operation:
        work = self._find(operation_id, tenant)
        operation = work.operation
        if operation.state is not OperationState.RUNNING:
            raise Conflict(f"operation {operation_id} is {operation.state}")
        work.operation = replace(
            operation,
            state=OperationState.CANCELLED,
            skipped=operation.skipped + len(work.left),
            failures=(*operation.failures, *((i, "cancelled") for i in work.left)),
            finished_at=self.store.now(),
        )
        work.left.clear()
        return work.operation

    @transaction
    def step(
        self, *, limit: int, max_redrives: int, expires_after_s: float, supervisor: str
    ) -> tuple[list[WaitingHint], float | None]:
        running = [w for w in self.store.work.values() if w.operation.state is OperationState.RUNNING]
        hints: list[WaitingHint] = []
        if running:
            work = min(running, key=lambda w: (w.due_at, w.operation.id))
            if work.due_at <= self.store.now():
                hints = self._work(work, limit, max_redrives, expires_after_s, supervisor)
        left = [w.due_at for w in running if w.operation.state is OperationState.RUNNING]
        return hints, max(0.0, self.store.in_s(min(left))) if left else None

    def _work(
        self, work: Work, limit: int, max_redrives: int, expires_after_s: float, supervisor: str
    ) -> list[WaitingHint]:
        """At most a second's worth of the rate at once, and then a pause that pays for it."""
        rate = work.operation.rate
        count = limit if rate is None else max(1, min(limit, int(rate)))
        items, work.left = work.left[:count], work.left[count:]
        hints: list[WaitingHint] = []
        skipped: list[tuple[str, str]] = []
        for message_id in items:
            letter = self._eligible(work.operation.kind, message_id, work.tenant, max_redrives)
            if isinstance(letter, str):
                skipped.append((message_id, letter))
            elif work.operation.kind is OperationKind.REDRIVE:
                hints.append(self.store.redrive(letter, expires_after_s=expires_after_s, supervisor=supervisor))
            elif work.operation.kind is OperationKind.ARCHIVE:
                self.store.close(letter, DeadLetterState.ARCHIVED)
            else:
                self.store.close(letter, DeadLetterState.DISCARDED)
        operation = work.operation
        work.operation = replace(
            operation,
            done=operation.done + len(items) - len(skipped),
            skipped=operation.skipped + len(skipped),
            failures=(*operation.failures, *skipped),
            state=OperationState.RUNNING if work.left else OperationState.DONE,
            finished_at=None if work.left else self.store.now(),
        )
        work.due_at = self.store.later(0.0 if rate is None else len(items) / rate)
        return hints

    @transaction
    def list(self, *, tenant: str | None, before: str | None, limit: int) -> list[Operation]:
        ids = sorted((i for i in self.store.work if before is None or i < before), reverse=True)
        operations = (self.store.work[i].operation for i in ids)
        return list(islice((o for o in operations if visible(o.tenant, tenant)), limit))


class MemoryRetention:
    called = "retention"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def archive(self, *, dead_letters_after_s: float, messages_after_s: float, limit: int) -> int:
        letters_by, messages_by = self.store.later(-dead_letters_after_s), self.store.later(-messages_after_s)
        old = [row for row in self._at_rest() if self._archivable(row, letters_by, messages_by)]
        for row in old[:limit]:
            self.store.put_away(row)
        return len(old[:limit])

    def _at_rest(self) -> Iterable[Row]:
        return (row for row in self.store.rows.values() if row.standing.state in AT_REST)

    def _archivable(self, row: Row, letters_by: datetime, messages_by: datetime) -> bool:
        letter = self.store.letters.get(row.id)
        if letter is not None and letter.state in (DeadLetterState.OPEN, DeadLetterState.REDRIVEN):
            return letter.updated_at <= letters_by
        return row.standing.updated_at <= messages_by

    @transaction
    def strip_content(self, *, after_s: float, limit: int) -> int:
        """What can still be redriven keeps its body: it would be sent empty."""
        old_by = self.store.later(-after_s)
        old = [row for row in self._at_rest() if row.standing.updated_at <= old_by and self._strippable(row)]
        for row in old[:limit]:
            row.message = replace(row.message, content=_stripped(row.message.content))
            row.stripped = True
        return len(old[:limit])

    def _strippable(self, row: Row) -> bool:
        letter = self.store.letters.get(row.id)
        return not row.stripped and (letter is None or letter.state not in REDRIVABLE)

    @transaction
    def drop(self, *, after_s: float) -> list[str]:
        old_by = self.store.later(-after_s)
        months = sorted({month_of(i) for i in self.store.archive})
        old = {month for month in months if _end_of(*month) <= old_by}
        gone = [i for i in self.store.archive if month_of(i) in old]
        for message_id in gone:
            del self.store.archive[message_id]
        self.store.dropped += len(gone)
        return [f"archive_{year:04}_{month:02}" for year, month in sorted(old)]

    @transaction
    def purge(self, *, limit: int) -> int:
        """`limit` of each kind."""
        store, now = self.store, self.store.now()
        keys = [name for name, known in store.known.items() if known.at + IDEMPOTENCY_FOR <= now][:limit]
        for name in keys:
            del store.known[name]
        done = [i for i, w in store.work.items() if (at := w.operation.finished_at) and at + OPERATIONS_FOR <= now]
        for operation_id in done[:limit]:
            del store.work[operation_id]
        ended = [i for i, m in store.members.items() if m.ended_at and m.ended_at + SUPERVISORS_FOR <= now]
        for supervisor in ended[:limit]:
            del store.members[supervisor]
        return len(keys) + len(done[:limit]) + len(ended[:limit])


def _stripped(content: Content) -> Content:
    if isinstance(content, SmsContent):
        return SmsContent(text="")
    return EmailContent(subject="", text="")


def _end_of(year: int, month: int) -> datetime:
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
