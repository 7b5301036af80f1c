"""Who is not written to.

Three things keep calls from being made. `enter` takes what waits, in the transaction of the entry. What comes to wait
later is looked at on its way there: as it is accepted, returned or redriven. What slipped through between the two (a
message accepted while the entry was being committed) is found when a dispatcher loads it; and CLAIM opens no claim for
it, whatever happened before. All of them ask first whether there is any entry at all, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

from heliograph.actors.ledger.conditions import Conditions
from heliograph.actors.ledger.edges import NOTHING_AWAITED, Edges
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.rows import refuse_nul
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Channel
from heliograph.actors.model.receipt import Suppression, SuppressionReason
from heliograph.actors.policy.lifecycle import Event
from heliograph.actors.policy.suppression import Recipient, recipient_of, spellings_of
from heliograph.actors.ports.ledger import Entered, Entry, SuppressionFilter

COLUMNS: Final[LiteralString] = (
    "s.id, s.tenant, s.channel, s.recipient, s.reason, s.detail, s.provider, s.message_id, s.created_at, s.folded"
)

# By suppressions_tenant_channel_folded_key. One that is there already is written again as it was, so that it is
# answered, and not removed before we are done.
INSERT: Final = f"""
INSERT INTO suppressions AS s (id, tenant, channel, recipient, folded, spelled, reason, detail, provider, message_id)
SELECT * FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[]
)
ON CONFLICT (tenant, channel, folded) DO UPDATE SET folded = s.folded
RETURNING {COLUMNS}"""  # noqa: S608 - all its parts are constants of ours

# By contents_by_recipient and contents_by_folded. A recipient of very many messages has them looked through from the
# newest on, and only so far; the rest is found when it is loaded.
MOST_LOOKED_AT: Final = 20_000
WAITING: Final = f"""
SELECT m.id
FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (tenant, channel, spelling)
CROSS JOIN LATERAL (
    (SELECT id, tenant, channel FROM contents WHERE recipient = k.spelling ORDER BY id DESC LIMIT {MOST_LOOKED_AT})
    UNION ALL
    (SELECT id, tenant, channel FROM contents
     WHERE lower(recipient) = k.spelling AND recipient <> lower(recipient)
     ORDER BY id DESC LIMIT {MOST_LOOKED_AT})
) AS c
JOIN messages AS m ON m.id = c.id AND m.state || '' IN ('queued', 'scheduled')
WHERE c.tenant = k.tenant AND c.channel = k.channel"""  # noqa: S608

# By the primary key.
GET: Final = f"SELECT {COLUMNS} FROM suppressions AS s WHERE s.id = %s"  # noqa: S608
REMOVE: Final = "DELETE FROM suppressions WHERE id = %s AND (%s::text IS NULL OR tenant = %s) RETURNING id"

# As the filter has it by the primary key, suppressions_by_tenant or suppressions_by_recipient.
LIST: Final = f"SELECT {COLUMNS} FROM suppressions AS s WHERE true"  # noqa: S608


def suppressed(row: LiteralString) -> LiteralString:
    """The condition that a row with `tenant`, `channel` and `recipient` is to nobody who is written to.

    Its first part is asked once a statement; where there is no entry, nothing else is. Then by
    suppressions_tenant_channel_folded_key, and where the recipient has letters beyond ASCII by
    suppressions_by_spelling: `OFFSET 0` keeps the planner from reading all entries into a table of its own.
    """
    known: LiteralString = f"s.tenant = {row}.tenant AND s.channel = {row}.channel"
    return f"""(EXISTS (SELECT FROM suppressions) AND (
        EXISTS (SELECT FROM suppressions AS s WHERE {known} AND s.folded = lower({row}.recipient) OFFSET 0)
        OR octet_length({row}.recipient) > length({row}.recipient)
           AND EXISTS (SELECT FROM suppressions AS s WHERE {known} AND s.spelled = lower({row}.recipient) OFFSET 0)
    ))"""  # noqa: S608


# By the primary key.
AMONG: Final = f"SELECT c.id FROM contents AS c WHERE c.id = ANY(%s) AND {suppressed('c')}"  # noqa: S608


class PostgresSuppressions:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def enter(self, entry: Entry) -> Entered:
        refuse_nul([entry.recipient, entry.detail or ""])

        async def work(connection: Connection) -> Entered:
            [entered] = await enter(connection, [entry])
            return entered

        return await self._pool.transact(work)

    async def get(self, suppression_id: str, *, tenant: str | None) -> Suppression:
        rows = await self._pool.rows(GET, (suppression_id,))
        if not rows or tenant not in (None, rows[0][1]):
            raise NotFound(f"there is no suppression {suppression_id}")
        return _suppression(rows[0])

    async def list(
        self, wanted: SuppressionFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[Suppression]:
        where, params = _conditions(wanted, tenant, before)
        rows = await self._pool.rows(f"{LIST}{where} ORDER BY s.id DESC LIMIT %s", (*params, limit), prepare=False)
        return [_suppression(row) for row in rows]

    async def remove(self, suppression_id: str, *, tenant: str | None) -> None:
        if not await self._pool.rows(REMOVE, (suppression_id, tenant, tenant)):
            raise NotFound(f"there is no suppression {suppression_id}")


async def enter(connection: Connection, entries: Sequence[Entry], *, held: Collection[str] = ()) -> list[Entered]:
    """Enter them in the caller's transaction, and suppress what waits for them; answers in their order, `moved` of all
    with the first.

    `held`: ids of messages that the caller has locked himself and not written yet. They are left alone, and are the
    caller's to look at afterwards (`among`). It waits for whoever is moving such a message: a deadlock is repeated by
    the pool, as all are.
    """
    if not entries:
        return []
    now = datetime.now(UTC)
    recipients = [recipient_of(entry.channel, entry.recipient) for entry in entries]
    # In the order of the key, for two who enter the same ones.
    named = sorted({_key(e, r): (e, r) for e, r in reversed(list(zip(entries, recipients, strict=True)))}.items())
    rows = [_row(new_id("sup", now), entry, recipient) for _, (entry, recipient) in named]
    new = {row[0] for row in rows}
    stored = await connection.rows(INSERT, [list(column) for column in zip(*rows, strict=True)])
    known = {(row[1], row[2], row[-1]): _suppression(row) for row in stored}
    moved = await _suppress_waiting(connection, [pair for _, pair in named], held)
    results: list[Entered] = []
    for entry, recipient in zip(entries, recipients, strict=True):
        suppression = known[_key(entry, recipient)]
        results.append(Entered(suppression, suppression.id in new, 0 if results else moved))
        new.discard(suppression.id)
    return results


async def among(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Those of these messages whose recipient is suppressed."""
    wanted = list(ids)
    return {row[0] for row in await connection.rows(AMONG, (wanted,))} if wanted else set()


async def suppress(connection: Connection, ids: Iterable[str]) -> int:
    """Move those that wait, unclaimed, to SUPPRESSED; answers how many."""
    edges = await Edges.lock(connection, ids)
    waiting = [held for held in edges.held.values() if held.waits]
    for held in waiting:
        edges.change(held, Event.SUPPRESSED, **NOTHING_AWAITED)
    await edges.write(connection)
    return len(waiting)


async def _suppress_waiting(
    connection: Connection, entered: Sequence[tuple[Entry, Recipient]], held: Collection[str]
) -> int:
    spellings = [(e.tenant, str(e.channel), spelling) for e, r in entered for spelling in r.spellings]
    rows = await connection.rows(WAITING, [list(column) for column in zip(*spellings, strict=True)])
    waiting = {row[0] for row in rows} - set(held)
    return await suppress(connection, waiting) if waiting else 0


def _key(entry: Entry, recipient: Recipient) -> tuple[str, str, str]:
    return entry.tenant, str(entry.channel), recipient.folded


def _row(id_: str, entry: Entry, recipient: Recipient) -> tuple[str | None, ...]:
    return (
        id_, entry.tenant, str(entry.channel), recipient.shown, recipient.folded, recipient.spelled, str(entry.reason),
        entry.detail, entry.provider, entry.message_id,
    )  # fmt: skip


def _suppression(row: Sequence[Any]) -> Suppression:
    id_, tenant, channel, recipient, reason, detail, provider, message_id, created_at = row[:9]
    return Suppression(
        id=id_,
        tenant=tenant,
        channel=Channel(channel),
        recipient=recipient,
        reason=SuppressionReason(reason),
        detail=detail,
        provider=provider,
        message_id=message_id,
        created_at=created_at,
    )


def _conditions(
    wanted: SuppressionFilter, tenant: str | None, before: str | None
) -> tuple[LiteralString, list[object]]:
    found = Conditions()
    if tenant is not None:
        found.also("s.tenant = %s", tenant)
    if before is not None:
        found.also("s.id < %s", before)
    if wanted.channel is not None:
        found.also("s.channel = %s", wanted.channel)
    if wanted.to is not None:
        found.also("s.folded = ANY(%s)", list(spellings_of(wanted.to)))
    if wanted.reason is not None:
        found.also("s.reason = %s", wanted.reason)
    return found.sql, found.params
