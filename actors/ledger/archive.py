"""Moving final messages out of the hot tables into the archive, and back again when they are redriven.

A message goes whole, with its body, its attempts and its dead letter, so that it comes back as it was. Partitions are
by the month of the id, made when first needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Final

from heliograph.actors.ledger.edges import LETTERS, Edges
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.tallies import DROPPED, Tally
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.identity import made_at, time_prefix

Month = tuple[int, int]

# By the primary keys. An open dead letter counts as archived from then on.
PUT_AWAY: Final = """
WITH m AS (
    DELETE FROM messages WHERE id = ANY(%(ids)s) RETURNING *
), c AS (
    DELETE FROM contents WHERE id = ANY(%(ids)s) RETURNING *
), a AS (
    DELETE FROM attempts WHERE message_id = ANY(%(ids)s) RETURNING *
), d AS (
    DELETE FROM dead_letters WHERE id = ANY(%(ids)s) RETURNING *
), logs AS (
    SELECT message_id AS id, json_agg(a ORDER BY number) AS attempts FROM a GROUP BY message_id
)
INSERT INTO archive (
    id, tenant, channel, recipient, tags, message, content, attempts, letter_state, letter_reason, letter_code,
    letter_provider, letter_cause, letter_detail, letter_attempts, letter_redrives, letter_created_at,
    letter_updated_at
)
SELECT m.id, c.tenant, m.channel, c.recipient, c.tags, to_json(m), to_json(c), coalesce(logs.attempts, '[]'),
       CASE d.state WHEN 'open' THEN 'archived' ELSE d.state END, d.reason, d.code, d.provider, d.cause, d.detail,
       d.attempts, d.redrives, d.created_at, CASE d.state WHEN 'open' THEN now() ELSE d.updated_at END
FROM m JOIN c USING (id) LEFT JOIN logs USING (id) LEFT JOIN d USING (id)"""

# By the primary key of the partitions.
BRING_BACK: Final = """
WITH back AS (
    DELETE FROM archive WHERE id = ANY(%s) RETURNING *
), m AS (
    INSERT INTO messages SELECT r.* FROM back, json_populate_record(NULL::messages, back.message) AS r
), c AS (
    INSERT INTO contents SELECT r.* FROM back, json_populate_record(NULL::contents, back.content) AS r
), a AS (
    INSERT INTO attempts SELECT r.* FROM back, json_populate_recordset(NULL::attempts, back.attempts) AS r
), d AS (
    INSERT INTO dead_letters (
        id, tenant, state, channel, recipient, reason, code, provider, cause, detail, tags, attempts, redrives,
        created_at, updated_at
    )
    SELECT id, tenant, letter_state, channel, recipient, letter_reason, letter_code, letter_provider, letter_cause,
           letter_detail, tags, letter_attempts, letter_redrives, letter_created_at, letter_updated_at
    FROM back WHERE letter_state IS NOT NULL
)
SELECT id, channel, message ->> 'state' FROM back"""

EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"
PARTITIONS: Final = """
SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'archive'::regclass ORDER BY c.relname"""
NOW: Final = "SELECT now()"
ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('archive'))"
STORED: Final = "SELECT coalesce(sum(present), 0)::bigint FROM tallies WHERE channel = '' AND counted = %s"


def name_of(month: Month) -> str:
    year, number = month
    return f"archive_{year:04}_{number:02}"


def counted_as(month: Month) -> str:
    return f"archive/{name_of(month)}"


def month_of(message_id: str) -> Month:
    at = made_at(message_id)
    return at.year, at.month


def start_of(month: Month) -> datetime:
    return datetime(*month, 1, tzinfo=UTC)


def after(month: Month) -> Month:
    year, number = month
    return (year + 1, 1) if number == 12 else (year, number + 1)


async def make_partitions(pool: Pool, ids: Iterable[str]) -> None:
    """For all months of these messages; each in a short transaction of its own, because others wait for it."""
    for month in sorted({month_of(message_id) for message_id in ids}):
        [[exists]] = await pool.rows(EXISTS, (name_of(month),))
        if not exists:
            await _make_partition(pool, month)


async def _make_partition(pool: Pool, month: Month) -> None:
    name = name_of(month)
    first, beyond = (f"msg_{time_prefix(start_of(m))}" for m in (month, after(month)))

    async def work(connection: Connection) -> None:
        await connection.rows(ONE_AT_A_TIME)
        [[exists]] = await connection.rows(EXISTS, (name,))
        if exists:
            return
        # Attaching does not wait for those who read; PARTITION OF would.
        await connection.command(
            f"CREATE TABLE {name} (LIKE archive INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)"
        )
        await connection.command(
            f"ALTER TABLE archive ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{beyond}')"
        )

    await pool.transact(work)


async def put_away(connection: Connection, edges: Edges, ids: Collection[str]) -> None:
    """All of `ids` are held by `edges`, which is written afterwards; their partitions exist."""
    letters = await connection.rows(LETTERS, (list(ids),))
    await connection.rows(PUT_AWAY, {"ids": list(ids)})
    for message_id in ids:
        held = edges.held.pop(message_id)
        edges.tally.move(held.channel, held.standing.state, None)
    for month, n in Counter(map(month_of, ids)).items():
        edges.tally.plain(counted_as(month), n)
    for _, state, reason in letters:
        if state == DeadLetterState.OPEN:
            edges.tally.dead_letter(reason, -1)


async def bring_back(connection: Connection, tally: Tally, ids: Collection[str]) -> None:
    for message_id, channel, state in await connection.rows(BRING_BACK, (list(ids),)):
        tally.move(channel, None, state)
        tally.plain(counted_as(month_of(message_id)), -1)


async def drop_months_before(pool: Pool, after_s: float) -> list[str]:
    """Whole partitions, by DDL alone; answers their names."""
    [[now]] = await pool.rows(NOW)
    dropped = []
    for [name] in await pool.rows(PARTITIONS):
        year, number = name.removeprefix("archive_").split("_")
        month = int(year), int(number)
        if (now - start_of(after(month))).total_seconds() >= after_s:
            await _drop(pool, month)
            dropped.append(name)
    return dropped


async def _drop(pool: Pool, month: Month) -> None:
    name = name_of(month)

    async def work(connection: Connection) -> None:
        # In the order in which a query locks them. From here on nobody moves messages in or out.
        await connection.command(f"LOCK TABLE ONLY archive, {name} IN ACCESS EXCLUSIVE MODE")
        [[stored]] = await connection.rows(STORED, (counted_as(month),))
        await connection.command(f"DROP TABLE {name}")
        tally = Tally()
        tally.plain(counted_as(month), -stored)
        tally.plain(DROPPED, stored)
        await tally.write(connection)

    await pool.transact(work)
