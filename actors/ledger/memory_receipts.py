"""What receipts do, in memory: the twin of `receipts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from heliograph.actors.ledger.memory_store import NOTHING_AWAITED, Kept, Row, Store, transaction
from heliograph.actors.model.attempt import Settled
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.identity import of_attempt
from heliograph.actors.model.message import Channel, EmailContent, Reason, State
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.policy.causes import cause_of
from heliograph.actors.policy.lifecycle import AT_REST, Event
from heliograph.actors.policy.receipts import Ended, Situation, concerns, next_look_s, rule
from heliograph.actors.ports.ledger import Entry, Reported, Taken

LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)
IN_DOUBT_S: Final = 10.0


class MemoryReceipts:
    called = "receipts"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def take(self, reported: Sequence[Reported], *, keep_s: float) -> list[Taken]:
        looked = [self._look(each) for each in reported]
        for each, (taken, entries) in zip(reported, looked, strict=True):
            if taken.kept:
                self._keep(each, entries, in_s=min(next_look_s(0), keep_s), keep_s=keep_s)
        self._suppress([entry for _, entries in looked for entry in entries])
        return [taken for taken, _ in looked]

    @transaction
    def expect(self, reported: Sequence[Reported], *, in_s: float, keep_s: float) -> None:
        for each in reported:
            self._keep(each, (), in_s=in_s, keep_s=keep_s)

    @transaction
    def look_again(self, *, limit: int) -> tuple[list[Taken], float | None]:
        store, now = self.store, self.store.now()
        due = sorted((k for k in store.kept if k.due_at <= now), key=lambda k: k.due_at)[:limit]
        looked = [(kept, *self._look(kept.reported)) for kept in due]
        decided: list[Taken] = []
        entered: list[Entry] = []
        for kept, taken, entries in looked:  # after all that the others prove
            if taken.kept and kept.until <= now:
                last, entries = self._look(kept.reported, last=True)
                moves = (*taken.entered, *last.entered)
                taken = replace(last, kept=False, entered=moves, settled=taken.settled or last.settled)
            entered += entries
            if taken.kept:
                kept.looks += 1
                kept.due_at = min(kept.until, store.later(next_look_s(kept.looks)))
                kept.reported = _entered(kept.reported, entries)
            else:
                store.kept.remove(kept)
                decided.append(taken)
        self._suppress(entered)
        coming = min((k.due_at for k in store.kept), default=None)
        return decided, None if coming is None else max(0.0, store.in_s(coming))

    @transaction
    def close(self, providers: Sequence[str], *, after_s: float, limit: int) -> tuple[int, bool]:
        store, looked = self.store, self.store.looked_to or LONG_AGO
        to, sure = store.later(-after_s), store.later(-IN_DOUBT_S)
        old = (r for r in store.rows.values() if r.standing.state in AT_REST and looked < r.standing.updated_at <= to)
        page = sorted(old, key=lambda r: r.standing.updated_at)
        if not page:
            return 0, False
        full = len(page) >= limit
        if full:
            to = page[limit - 1].standing.updated_at
        waited = [r for r in page if r.standing.updated_at <= to and _waits(r, providers)]
        for row in waited:
            row.standing = replace(row.standing, reason=Reason.NO_RECEIPT)
        store.looked_to = max(looked, min(to, sure))
        return len(waited), full and store.looked_to > looked

    @transaction
    def forget(self, *, after_s: float, limit: int) -> int:
        old_by = self.store.later(-after_s)
        old = [trace for trace, noted_at in self.store.traces.items() if noted_at <= old_by][:limit]
        for trace in old:
            del self.store.traces[trace]
        return len(old)

    # ------------------------------------------------------------------------------------------- one receipt

    def _suppress(self, entries: Sequence[Entry]) -> None:
        """After all else that the receipts of one commit do."""
        for entry in entries:
            self.store.enter(entry)

    def _keep(self, reported: Reported, entries: Sequence[Entry], *, in_s: float, keep_s: float) -> None:
        store = self.store
        store.kept.append(Kept(_entered(reported, entries), store.later(in_s), store.later(keep_s)))

    def _look(self, reported: Reported, *, last: bool = False) -> tuple[Taken, list[Entry]]:
        taken, entries = Taken(provider=reported.provider), list[Entry]()
        named = self._named(reported)
        if named is None:
            return replace(taken, kept=True), entries
        for row, number in named:
            taken = self._apply(reported, row, number, taken, entries, last=last)
        return taken, entries

    def _named(self, reported: Reported) -> list[tuple[Row, int]] | None:
        """None where the provider's id may become known later."""
        store, receipt = self.store, reported.receipt
        belongs = of_attempt(receipt.attempt_id) if receipt.attempt_id else None
        if belongs is not None:
            first, until, number = belongs
            rows = [*store.rows.values(), *(a.row for a in store.archive.values())]
            return [(row, number) for row in rows if first <= row.id <= until]
        if not receipt.provider_message_id:
            return []
        traces = [
            t
            for t in store.traces
            if (t.provider, t.provider_message_id) == (reported.provider, receipt.provider_message_id)
            and receipt.recipient in (None, t.recipient)
        ]
        if not traces:
            return None
        if receipt.recipient is None and len(traces) > 1:
            return []
        found = [(store.rows.get(t.message_id) or store.archived_row(t.message_id), t.number) for t in traces]
        return [(row, number) for row, number in found if row is not None]

    def _apply(
        self, reported: Reported, row: Row, number: int, taken: Taken, entries: list[Entry], *, last: bool
    ) -> Taken:
        receipt, store = reported.receipt, self.store
        effect = _effect(receipt, row)
        ruling = rule(
            effect,
            number,
            reported.provider,
            self._situation(row, last=last),
            provider_message_id=receipt.provider_message_id,
        )
        if ruling.known or ruling.kept:
            channel = row.message.channel
            taken = replace(taken, message_id=row.id, channel=channel, kept=taken.kept or ruling.kept)
        if ruling.known and receipt.suppress is not None:
            entries.append(_entry(reported, receipt.suppress, row))
        if ruling.settles is None and ruling.event is None:
            return taken
        if row.id in store.archive:
            store.bring_back(row.id)
        entered: list[State] = []
        if ruling.settles is not None:
            before = store.state_of(row)
            store.settle(row, ruling.settles, Settled.ACCEPTED)
            if (after := store.state_of(row)) is not before:
                entered.append(after)
        if ruling.event is not None:
            self._move(row, ruling.event, ruling.provider, receipt)
            entered.append(row.standing.state)
        return replace(taken, entered=(*taken.entered, *entered), settled=taken.settled or ruling.settles)

    def _situation(self, row: Row, *, last: bool) -> Situation:
        store, claim = self.store, self.store.claims.get(row.id)
        letter = store.letter(row.id, None)
        redriven = letter is not None and letter.state is DeadLetterState.REDRIVEN
        return Situation(
            state=store.state_of(row),
            reason=row.standing.reason,
            attempts=[
                Ended(a.number, a.provider, a.outcome, a.settled, a.provider_message_id)
                for a in row.attempts
                if a.outcome
            ],
            under_way=(claim.number, claim.provider) if claim else None,
            earlier_lives=letter.attempts if letter is not None and redriven else 0,
            last=last,
        )

    def _move(self, row: Row, event: Event, provider: str | None, receipt: Receipt) -> None:
        if event is not Event.BOUNCED:
            self.store.change(row, event, reason=None, **NOTHING_AWAITED)
            return
        self.store.change(row, event, reason=Reason.UNDELIVERED, **NOTHING_AWAITED)
        self.store.file(
            row,
            Reason.UNDELIVERED,
            cause=cause_of(receipt.detail, code=receipt.code, reason=Reason.UNDELIVERED),
            provider=provider,
            code=receipt.code,
            detail=receipt.detail,
        )


def _waits(row: Row, providers: Sequence[str]) -> bool:
    standing = row.standing
    return standing.state is State.SENT and standing.reason is None and standing.provider in providers


def _effect(receipt: Receipt, row: Row) -> Effect | None:
    """Of a copy's recipient it proves no more than that the provider has it."""
    content = row.message.content
    copies: tuple[str, ...] | None = ()
    if row.stripped:
        copies = None
    elif isinstance(content, EmailContent):
        copies = (*content.cc, *content.bcc)
    if receipt.effect is None or concerns(receipt, row.message.channel, row.message.to, copies):
        return receipt.effect
    return Effect.TAKEN


def _entry(reported: Reported, reason: SuppressionReason, row: Row) -> Entry:
    receipt, message = reported.receipt, row.message
    return Entry(
        tenant=message.tenant,
        channel=message.channel,
        recipient=receipt.recipient if receipt.recipient and message.channel is Channel.EMAIL else message.to,
        reason=reason,
        detail=receipt.detail or receipt.code,
        provider=reported.provider,
        message_id=message.id,
    )


def _entered(reported: Reported, entries: Sequence[Entry]) -> Reported:
    """As it is kept: what it says to suppress was entered where its message is known."""
    return replace(reported, receipt=replace(reported.receipt, suppress=None)) if entries else reported
