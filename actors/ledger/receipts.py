"""What receipts do, on PostgreSQL: find the messages, lock them, decide (policy.receipts), write it all in one commit.

Receipts find their message by an attempt's id, which is a range of message ids, or by an id of the provider's that was
noted with the attempt. What is decided is decided under the lock on the message's row, so a receipt and the end of an
attempt, or two receipts, come one after the other whatever happens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from heliograph.actors.ledger.archive import bring_back
from heliograph.actors.ledger.edges import NOTHING_AWAITED, Edges, Held
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.rows import json_of
from heliograph.actors.ledger.suppressions import enter
from heliograph.actors.ledger.tallies import Tally
from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.identity import of_attempt
from heliograph.actors.model.message import Channel, Reason, State
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.policy.causes import cause_of
from heliograph.actors.policy.lifecycle import Event
from heliograph.actors.policy.receipts import Ended, Ruling, Situation, addressed, concerns, next_look_s, rule
from heliograph.actors.ports.ledger import Entry, Reported, Taken

# By the primary keys of messages and of the archive's partitions. At once, so that one that is being moved is not
# missed.
BY_ATTEMPT: Final = """
WITH asked AS (SELECT * FROM unnest(%s::integer[], %s::text[], %s::text[]) AS a (n, first, last))
SELECT a.n, m.id, false FROM asked AS a
CROSS JOIN LATERAL (SELECT id FROM messages WHERE id >= a.first AND id <= a.last ORDER BY id LIMIT 9) AS m
UNION ALL
SELECT a.n, m.id, true FROM asked AS a
CROSS JOIN LATERAL (SELECT id FROM archive WHERE id >= a.first AND id <= a.last ORDER BY id LIMIT 9) AS m"""

# By the primary key of provider_ids. Without a recipient an id must be that of one message.
BY_PROVIDER_ID: Final = """
SELECT a.n, p.message_id, p.number
FROM unnest(%s::integer[], %s::text[], %s::text[], %s::text[]) AS a (n, provider, provider_message_id, recipient)
CROSS JOIN LATERAL (
    SELECT message_id, number FROM provider_ids AS p
    WHERE p.provider = a.provider AND p.provider_message_id = a.provider_message_id
      AND (a.recipient IS NULL OR p.recipient = a.recipient)
    LIMIT 9
) AS p"""

# By the primary key of the partitions.
ARCHIVED: Final = """
SELECT id, tenant, channel, recipient, message ->> 'state', message ->> 'reason', attempts,
       CASE WHEN content ->> 'content' IS NOT NULL
            THEN json_build_array(content #> '{content,cc}', content #> '{content,bcc}') END,
       CASE letter_state WHEN 'redriven' THEN letter_attempts ELSE 0 END
FROM archive WHERE id = ANY(%s)"""

# By the primary keys.
ATTEMPTS: Final = """
SELECT message_id, number, provider, outcome, settled, provider_message_id FROM attempts WHERE message_id = ANY(%s)"""
RECIPIENTS: Final = "SELECT id, tenant, recipient FROM contents WHERE id = ANY(%s)"
COPIES: Final = """
SELECT id, CASE WHEN content IS NOT NULL THEN json_build_array(content -> 'cc', content -> 'bcc') END
FROM contents WHERE id = ANY(%s)"""
REDRIVEN: Final = "SELECT id, attempts FROM dead_letters WHERE id = ANY(%s) AND state = 'redriven'"

KEEP: Final = """
INSERT INTO kept_receipts (due_at, until, provider, receipt)
SELECT now() + %s * interval '1 second', now() + %s * interval '1 second', k.provider, k.receipt
FROM json_to_recordset(%s::json) AS k (provider text, receipt json)"""

# By kept_receipts_due.
DUE: Final = """
SELECT id, provider, receipt, looks, until <= now() FROM kept_receipts
WHERE due_at <= now()
ORDER BY due_at, id
LIMIT %s
FOR UPDATE SKIP LOCKED"""
NEXT_DUE: Final = "SELECT greatest(0, date_part('epoch', due_at - now())) FROM kept_receipts ORDER BY due_at LIMIT 1"

# By the primary key.
DECIDED: Final = "DELETE FROM kept_receipts WHERE id = ANY(%s)"
PUT_OFF: Final = """
UPDATE kept_receipts AS k SET
    looks = least(k.looks + 1, 1000), due_at = least(k.until, now() + p.in_s * interval '1 second'), receipt = p.receipt
FROM json_to_recordset(%s::json) AS p (id bigint, in_s double precision, receipt json)
WHERE k.id = p.id AND k.id = ANY(%s)"""

# One row; who finds it locked leaves the work to its holder. A change that is committed late bears the moment of its
# transaction's beginning, so the last seconds are looked at again.
BEGIN_TO_LOOK: Final = """
INSERT INTO receipts_awaited (looked_to) VALUES ('2000-01-01') ON CONFLICT (only_row) DO NOTHING"""
LOOKED_TO: Final = """
SELECT looked_to, now() - %s * interval '1 second', now() - interval '10 seconds'
FROM receipts_awaited FOR UPDATE SKIP LOCKED"""
LOOKED: Final = "UPDATE receipts_awaited SET looked_to = %s"
# By messages_at_rest, in two ranges, so many of each. What has the same moment as the last is looked at with it.
PAGE: Final = """
SELECT max(updated_at), count(*) FROM (
    SELECT updated_at FROM (
        (SELECT updated_at FROM messages
         WHERE state NOT IN ('queued', 'scheduled') AND NOT stripped
           AND updated_at > %(looked)s AND updated_at <= %(to)s
         ORDER BY updated_at LIMIT %(limit)s)
        UNION ALL
        (SELECT updated_at FROM messages
         WHERE state NOT IN ('queued', 'scheduled') AND stripped
           AND updated_at > %(looked)s AND updated_at <= %(to)s
         ORDER BY updated_at LIMIT %(limit)s)
    ) AS both_ranges
    ORDER BY updated_at LIMIT %(limit)s
) AS page"""
# By messages_at_rest; the moment of its last change stays, by which all else that age does goes.
CLOSE: Final = """
WITH waited AS (
    SELECT id FROM messages
    WHERE state NOT IN ('queued', 'scheduled') AND stripped = ANY('{false,true}')
      AND updated_at > %(looked)s AND updated_at <= %(to)s
      AND state || '' = 'sent' AND reason IS NULL AND provider = ANY(%(providers)s)
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE messages AS m SET reason = 'no_receipt' FROM waited WHERE m.id = waited.id RETURNING m.id"""

# By provider_ids_by_age.
FORGET: Final = """
DELETE FROM provider_ids AS p USING (
    SELECT provider, provider_message_id, recipient, message_id, number FROM provider_ids
    WHERE noted_at <= now() - %s * interval '1 second'
    ORDER BY noted_at LIMIT %s FOR UPDATE SKIP LOCKED
) AS old
WHERE (p.provider, p.provider_message_id, p.recipient, p.message_id, p.number)
    = (old.provider, old.provider_message_id, old.recipient, old.message_id, old.number)
RETURNING 1"""


@dataclass(slots=True)
class _Known:
    """A message that some receipt names. `held` None: it is in the archive, and nothing moves it."""

    id: str
    tenant: str
    channel: Channel
    to: str
    attempts: list[Ended]
    held: Held | None = None
    copies: tuple[str, ...] | None = ()
    earlier_lives: int = 0
    archived: tuple[State, Reason | None] = (State.SENT, None)

    def situation(self, *, last: bool) -> Situation:
        held = self.held
        state, reason = (held.state, held.standing.reason) if held else self.archived
        claim = held.claim if held else None
        return Situation(
            state=state,
            reason=reason,
            attempts=self.attempts,
            under_way=(claim.number, claim.provider) if claim else None,
            earlier_lives=self.earlier_lives,
            last=last,
        )

    def settled(self, number: int) -> None:
        self.attempts = [replace(a, settled=Settled.ACCEPTED) if a.number == number else a for a in self.attempts]


@dataclass(slots=True)
class _Look:
    """A receipt that is being looked at, the attempts that it names (mostly one), what came of it, and whom it says to
    suppress. `last`: it is not looked at again."""

    reported: Reported
    last: bool = False
    named: list[tuple[str, int]] = field(default_factory=list)
    taken: Taken = field(init=False)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken = Taken(provider=self.reported.provider)


class PostgresReceipts:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, reported: Sequence[Reported], *, keep_s: float) -> list[Taken]:
        async def work(connection: Connection) -> list[Taken]:
            looks = [_Look(each) for each in reported]
            await _look(connection, looks)
            kept = [look for look in looks if look.taken.kept]
            if kept:
                await connection.rows(KEEP, (min(next_look_s(0), keep_s), keep_s, json_of(map(_document, kept))))
            return [look.taken for look in looks]

        return await self._pool.transact(work) if reported else []

    async def expect(self, reported: Sequence[Reported], *, in_s: float, keep_s: float) -> None:
        documents = [_document(_Look(each)) for each in reported]
        await self._pool.rows(KEEP, (in_s, keep_s, json_of(documents)))

    async def look_again(self, *, limit: int) -> tuple[list[Taken], float | None]:
        async def work(connection: Connection) -> tuple[list[Taken], float | None]:
            due = await connection.rows(DUE, (limit,))
            looks = [_Look(Reported(provider, _receipt(told)), last=last) for _, provider, told, _, last in due]
            if looks:
                await _look(connection, looks)
            again, decided = [], []
            for (id_, _, _, seen, last), look in zip(due, looks, strict=True):
                if look.taken.kept and not last:
                    again.append({"id": id_, "in_s": next_look_s(seen + 1), **_document(look)})
                else:
                    decided.append(id_)
                    look.taken = replace(look.taken, kept=False)
            if decided:
                await connection.rows(DECIDED, (decided,))
            if again:
                await connection.rows(PUT_OFF, (json_of(again), [each["id"] for each in again]))
            coming = await connection.rows(NEXT_DUE)
            return [look.taken for look in looks if not look.taken.kept], coming[0][0] if coming else None

        return await self._pool.transact(work)

    async def close(self, providers: Sequence[str], *, after_s: float, limit: int) -> tuple[int, bool]:
        async def work(connection: Connection) -> tuple[int, bool]:
            await connection.rows(BEGIN_TO_LOOK)
            mine = await connection.rows(LOOKED_TO, (after_s,))
            if not mine:
                return 0, False
            [[looked, to, sure]] = mine
            [[reached, count]] = await connection.rows(PAGE, {"looked": looked, "to": to, "limit": limit})
            if not count:
                return 0, False
            if count == limit:
                to = reached
            params = {"looked": looked, "to": to, "providers": list(providers)}
            closed = await connection.rows(CLOSE, params)
            to = max(looked, min(to, sure))
            await connection.rows(LOOKED, (to,))
            return len(closed), count == limit and to > looked

        return await self._pool.transact(work)

    async def forget(self, *, after_s: float, limit: int) -> int:
        return len(await self._pool.rows(FORGET, (after_s, limit)))


# -------------------------------------------------------------------------------------------- one group of them


async def _look(connection: Connection, looks: Sequence[_Look]) -> None:
    """Does what they do, but for keeping them; what came of each is its `taken`."""
    await _find(connection, looks)
    ids = {message_id for look in looks for message_id, _ in look.named}
    if not ids:
        return
    archived = await _archived(connection, ids)
    moved = {i for look in looks for i, number in look.named if i in archived and _moves(look, archived[i], number)}
    back = Tally()
    if moved:
        await bring_back(connection, back, moved)
        await back.write(connection)
    edges = await Edges.lock(connection, ids - (archived.keys() - moved))
    known = {**archived, **await _hot(connection, edges)}
    await _find_copies(connection, looks, known)
    for look in looks:
        _apply(edges, look, known, last=False)
    for look in looks:  # after all that the others prove
        if look.last and look.taken.kept:
            look.taken, look.entries = replace(look.taken, kept=False), []
            _apply(edges, look, known, last=True)
    await edges.write(connection)
    await enter(connection, [entry for look in looks for entry in look.entries])


async def _find(connection: Connection, looks: Sequence[_Look]) -> None:
    ranges, ids = [], []
    for n, look in enumerate(looks):
        receipt = look.reported.receipt
        belongs = of_attempt(receipt.attempt_id) if receipt.attempt_id else None
        if belongs is not None:
            ranges.append((n, *belongs))
        elif receipt.provider_message_id:
            ids.append((n, look.reported.provider, receipt.provider_message_id, receipt.recipient))
    if ranges:
        numbers = {n: number for n, _, _, number in ranges}
        columns = [list(column) for column in zip(*((n, first, last) for n, first, last, _ in ranges), strict=True)]
        for n, message_id, _ in await connection.rows(BY_ATTEMPT, columns):
            looks[n].named.append((message_id, numbers[n]))
    if ids:
        found: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for n, message_id, number in await connection.rows(BY_PROVIDER_ID, [list(c) for c in zip(*ids, strict=True)]):
            found[n].append((message_id, number))
        for n, _, _, recipient in ids:
            look, named = looks[n], found[n]
            if named and (recipient is not None or len(named) == 1):
                look.named = named
            elif not named:
                look.taken = replace(look.taken, kept=True)


def _moves(look: _Look, known: _Known, number: int) -> bool:
    ruling = _ruling(look, known, number, last=True)
    return ruling.settles is not None or ruling.event is not None


def _ruling(look: _Look, known: _Known, number: int, *, last: bool) -> Ruling:
    receipt = look.reported.receipt
    return rule(
        _effect(receipt, known),
        number,
        look.reported.provider,
        known.situation(last=last),
        provider_message_id=receipt.provider_message_id,
    )


async def _archived(connection: Connection, ids: Collection[str]) -> dict[str, _Known]:
    known = {}
    for id_, tenant, channel, to, state, reason, log, copies, lives in await connection.rows(ARCHIVED, (list(ids),)):
        known[id_] = _Known(
            id_,
            tenant,
            Channel(channel),
            to,
            [
                _ended(*(a[key] for key in ("number", "provider", "outcome", "settled", "provider_message_id")))
                for a in log
            ],
            copies=_copies(copies),
            earlier_lives=lives,
            archived=(State(state), Reason(reason) if reason else None),
        )
    return known


async def _hot(connection: Connection, edges: Edges) -> dict[str, _Known]:
    ids = list(edges.held)
    if not ids:
        return {}
    await edges.look_for_unsettled(connection, ids)
    logs: dict[str, list[Ended]] = defaultdict(list)
    for message_id, *attempt in await connection.rows(ATTEMPTS, (ids,)):
        logs[message_id].append(_ended(*attempt))
    known = {}
    for id_, tenant, to in await connection.rows(RECIPIENTS, (ids,)):
        held = edges.held[id_]
        log = sorted(logs[id_], key=lambda a: a.number)
        known[id_] = _Known(id_, tenant, held.channel, to, log, held)
    redriven = [i for i, held in edges.held.items() if held.standing.redrives]
    if redriven:
        for id_, attempts in await connection.rows(REDRIVEN, (redriven,)):
            known[id_].earlier_lives = attempts
    return known


async def _find_copies(connection: Connection, looks: Sequence[_Look], known: Mapping[str, _Known]) -> None:
    """Of messages that are reported of under another address than `to`: who else they went to."""
    asked = [
        i
        for look in looks
        for i, _ in look.named
        if (one := known.get(i)) and one.held and not addressed(look.reported.receipt, one.channel, one.to)
    ]
    if asked:
        for id_, copies in await connection.rows(COPIES, (asked,)):
            known[id_].copies = _copies(copies)


def _copies(told: Sequence[Sequence[str] | None] | None) -> tuple[str, ...] | None:
    return None if told is None else tuple(address for some in told for address in some or ())


def _effect(receipt: Receipt, known: _Known) -> Effect | None:
    """Of a copy's recipient it proves no more than that the provider has it."""
    if receipt.effect is None or concerns(receipt, known.channel, known.to, known.copies):
        return receipt.effect
    return Effect.TAKEN


def _apply(edges: Edges, look: _Look, known: Mapping[str, _Known], *, last: bool) -> None:
    for message_id, number in look.named:
        if message_id in known:
            _apply_to(edges, look, known[message_id], number, last=last)
        else:
            look.taken = replace(look.taken, kept=True)  # moved to the archive, or back, since it was found


def _apply_to(edges: Edges, look: _Look, known: _Known, number: int, *, last: bool) -> None:
    receipt, taken = look.reported.receipt, look.taken
    ruling = _ruling(look, known, number, last=last)
    if ruling.known or ruling.kept:
        taken = replace(taken, message_id=known.id, channel=known.channel, kept=taken.kept or ruling.kept)
    if ruling.known and receipt.suppress is not None:
        look.entries.append(_entry(look, receipt.suppress, known))
    if (held := known.held) is not None:
        entered: list[State] = []
        if ruling.settles is not None:
            before = held.state
            edges.settle(held, ruling.settles, Settled.ACCEPTED)
            known.settled(ruling.settles)
            entered += [held.state] if held.state is not before else []
        if ruling.event is not None:
            entered.append(_move(edges, held, ruling, receipt))
        taken = replace(taken, entered=(*taken.entered, *entered), settled=taken.settled or ruling.settles)
    look.taken = taken


def _move(edges: Edges, held: Held, ruling: Ruling, receipt: Receipt) -> State:
    if ruling.event is Event.BOUNCED:
        edges.change(held, Event.BOUNCED, reason=Reason.UNDELIVERED, **NOTHING_AWAITED)
        cause = cause_of(receipt.detail, code=receipt.code, reason=Reason.UNDELIVERED)
        edges.file(
            held,
            Reason.UNDELIVERED,
            cause=cause,
            provider=ruling.provider,
            code=receipt.code,
            detail=receipt.detail,
        )
    else:
        edges.change(held, Event.DELIVERED, reason=None, **NOTHING_AWAITED)
    return held.state


def _entry(look: _Look, reason: SuppressionReason, known: _Known) -> Entry:
    receipt = look.reported.receipt
    recipient = receipt.recipient if receipt.recipient and known.channel is Channel.EMAIL else known.to
    return Entry(
        tenant=known.tenant,
        channel=known.channel,
        recipient=recipient,
        reason=reason,
        detail=receipt.detail or receipt.code,
        provider=look.reported.provider,
        message_id=known.id,
    )


def _ended(number: int, provider: str, outcome: str, settled: str | None, provider_message_id: str | None) -> Ended:
    return Ended(number, provider, Outcome(outcome), Settled(settled) if settled else None, provider_message_id)


def _document(look: _Look) -> dict[str, Any]:
    """A kept receipt. What it says to suppress was entered where its message is known."""
    receipt = look.reported.receipt
    if look.entries:
        receipt = replace(receipt, suppress=None)
    return {"provider": look.reported.provider, "receipt": {k: v for k, v in asdict(receipt).items() if v is not None}}


def _receipt(told: Mapping[str, Any]) -> Receipt:
    effect, suppress, at = told.get("effect"), told.get("suppress"), told.get("at")
    return Receipt(
        **{
            **told,
            "effect": Effect(effect) if effect else None,
            "suppress": SuppressionReason(suppress) if suppress else None,
            "at": datetime.fromisoformat(at) if at else None,
        }
    )
