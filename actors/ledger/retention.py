"""What age does to rows."""

from __future__ import annotations

from typing import Final

from heliograph.actors.ledger.archive import drop_months_before, make_partitions, put_away
from heliograph.actors.ledger.edges import Edges
from heliograph.actors.ledger.pool import Connection, Pool

_OLD: Final = """
SELECT m.id
FROM messages AS m LEFT JOIN dead_letters AS d USING (id)
WHERE m.state NOT IN ('queued', 'scheduled') AND m.stripped = ANY('{false,true}')
  AND m.updated_at <= now() - least(%(letters_s)s, %(messages_s)s) * interval '1 second'
  AND CASE WHEN d.state IN ('open', 'redriven') THEN d.updated_at <= now() - %(letters_s)s * interval '1 second'
           ELSE m.updated_at <= now() - %(messages_s)s * interval '1 second' END"""
# By messages_at_rest, from its old end, in two ranges; by the primary key.
OLD: Final = _OLD + " LIMIT %(limit)s"
STILL_OLD: Final = _OLD + " AND m.id = ANY(%(ids)s)"

# By messages_at_rest, from its old end, and the primary keys. What can still be redriven keeps its body: it would be
# sent empty.
STRIP: Final = """
WITH old AS (
    SELECT m.id FROM messages AS m
    WHERE m.state NOT IN ('queued', 'scheduled') AND NOT m.stripped
      AND m.updated_at <= now() - %s * interval '1 second'
      AND NOT EXISTS (SELECT FROM dead_letters AS d WHERE d.id = m.id AND d.state IN ('open', 'archived'))
    ORDER BY m.updated_at
    LIMIT %s
    FOR NO KEY UPDATE OF m SKIP LOCKED
), marked AS (
    UPDATE messages AS m SET stripped = true FROM old WHERE m.id = old.id RETURNING m.id
)
UPDATE contents AS c SET content = NULL FROM marked WHERE c.id = marked.id RETURNING c.id"""

# By idempotency_by_age.
FORGET_KEYS: Final = """
DELETE FROM idempotency AS i USING (
    SELECT key_id, route, key FROM idempotency WHERE created_at <= now() - interval '24 hours'
    ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED
) AS old
WHERE (i.key_id, i.route, i.key) = (old.key_id, old.route, old.key)
RETURNING 1"""

# All operations: they are few. Their items by their primary key.
FORGET_OPERATIONS: Final = """
WITH gone AS (
    DELETE FROM operations WHERE id IN (
        SELECT id FROM operations WHERE finished_at <= now() - interval '30 days'
        ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED
    )
    RETURNING id
), items AS (
    DELETE FROM operation_items AS i USING gone WHERE i.operation_id = gone.id
)
SELECT id FROM gone"""

FORGET_SUPERVISORS: Final = """
DELETE FROM supervisors WHERE id IN (
    SELECT id FROM supervisors WHERE ended_at <= now() - interval '1 day'
    ORDER BY ended_at LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING id"""

# All tallies: some rows for each connection that wrote within the last hour. Those that nobody wrote for an hour are
# added up under one name; whoever still lives begins with new ones.
FOLD_TALLIES: Final = """
WITH idle AS (
    DELETE FROM tallies WHERE writer <> '' AND updated_at <= now() - interval '1 hour'
    RETURNING channel, counted, present, entered
)
INSERT INTO tallies AS t (writer, channel, counted, present, entered)
SELECT '', channel, counted, sum(present), sum(entered) FROM idle GROUP BY channel, counted ORDER BY channel, counted
ON CONFLICT (writer, channel, counted) DO UPDATE
SET present = t.present + excluded.present, entered = t.entered + excluded.entered, updated_at = now()"""


class PostgresRetention:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def archive(self, *, dead_letters_after_s: float, messages_after_s: float, limit: int) -> int:
        ages: dict[str, object] = {"letters_s": dead_letters_after_s, "messages_s": messages_after_s, "limit": limit}
        found = [row[0] for row in await self._pool.rows(OLD, ages)]
        await make_partitions(self._pool, found)

        async def work(connection: Connection) -> int:
            edges = await Edges.lock(connection, found, skip_locked=True)
            old = [row[0] for row in await connection.rows(STILL_OLD, ages | {"ids": list(edges.held)})]
            await put_away(connection, edges, old)
            await edges.write(connection)
            return len(old)

        return await self._pool.transact(work) if found else 0

    async def strip_content(self, *, after_s: float, limit: int) -> int:
        return len(await self._pool.rows(STRIP, (after_s, limit)))

    async def drop(self, *, after_s: float) -> list[str]:
        return await drop_months_before(self._pool, after_s)

    async def purge(self, *, limit: int) -> int:
        gone = 0
        for query in (FORGET_KEYS, FORGET_OPERATIONS, FORGET_SUPERVISORS):
            gone += len(await self._pool.rows(query, (limit,)))
        await self._pool.rows(FOLD_TALLIES)
        return gone
