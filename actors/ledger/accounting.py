"""Is every accepted message accounted for? Reads whole tables, message by message, and mends what can be known.

For `heliograph check --deep`, beside whatever runs: each question is one statement, so of one moment, and what an
ordinary commit moves meanwhile is no finding. What is mended is what is still so when it is mended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.rows import TRACKED, TRACKED_WIDTH, tracked_of
from heliograph.actors.ledger.tallies import DEAD_LETTER, Tally
from heliograph.actors.model.message import Channel, Lane, Priority, Reason, State
from heliograph.actors.ports.ledger import Overdue

LIMIT_S: Final = 600.0
MOST: Final = 10_000
"""Of each kind in one look."""

# A message's row is gone, and what was posted is still there. All through the primary keys.
LOST: Final = """
SELECT c.id FROM contents AS c
WHERE NOT EXISTS (SELECT FROM messages AS m WHERE m.id = c.id)
ORDER BY c.id LIMIT %s"""

# Its row again, from what else is known of it: taken where an attempt was accepted; dead where a letter says so; with
# its body taken out it had come to an end that nobody knows; else it waits, and an attempt without an answer stays one.
# The priority is in that row alone: `normal`.
RESTORE: Final = """
WITH known AS (
    SELECT c.*, greatest(a.attempts, k.number, 0) AS attempts, coalesce(a.counted, 0) AS counted,
           coalesce(a.unknowns, 0) AS unknowns, a.accepted_by, l.number AS last, l.provider AS last_by,
           l.outcome = 'unknown' AND l.settled IS NULL AS unsettled, d.state AS letter, d.reason AS letter_reason,
           d.redrives
    FROM contents AS c
    LEFT JOIN claims AS k ON k.message_id = c.id
    LEFT JOIN dead_letters AS d ON d.id = c.id
    CROSS JOIN LATERAL (
        SELECT max(number) AS attempts,
               count(*) FILTER (WHERE outcome NOT IN ('throttled', 'misconfigured')) AS counted,
               count(*) FILTER (WHERE outcome = 'unknown') AS unknowns,
               max(provider) FILTER (WHERE outcome = 'accepted' OR settled = 'accepted') AS accepted_by
        FROM attempts WHERE message_id = c.id
    ) AS a
    LEFT JOIN LATERAL (
        SELECT number, provider, outcome, settled FROM attempts WHERE message_id = c.id ORDER BY number DESC LIMIT 1
    ) AS l ON true
    WHERE c.id = ANY(%s)
), judged AS (
    SELECT *, CASE
        WHEN accepted_by IS NOT NULL AND letter_reason = 'undelivered' THEN 'undelivered'
        WHEN accepted_by IS NOT NULL THEN 'sent'
        WHEN letter IN ('open', 'archived', 'discarded') AND letter_reason = 'expired' THEN 'expired'
        WHEN letter IN ('open', 'archived', 'discarded') THEN 'failed'
        WHEN content IS NULL THEN 'cancelled'
        WHEN send_at > now() AND attempts = 0 THEN 'scheduled'
        ELSE 'queued'
    END AS state
    FROM known
)
INSERT INTO messages (
    id, channel, priority, state, due_at, expires_at, updated_at, attempts, counted, unknowns, redrives, unsettled,
    unsettled_provider, stripped, provider, reason, waiting_for, touched_by
)
SELECT id, channel, 'normal', state, CASE WHEN state = 'scheduled' THEN send_at ELSE now() END, expires_at, now(),
       attempts, counted, unknowns, coalesce(redrives, 0),
       CASE WHEN state = 'queued' AND unsettled THEN last END,
       CASE WHEN state = 'queued' AND unsettled THEN last_by END,
       content IS NULL, coalesce(accepted_by, last_by),
       CASE WHEN state IN ('failed', 'expired', 'undelivered') THEN letter_reason END,
       CASE WHEN state = 'scheduled' THEN 'send_at' END, %s
FROM judged
ON CONFLICT (id) DO NOTHING"""

# What was posted is gone, and the row is still there: nobody can say to whom it was to go.
EMPTY: Final = """
SELECT m.id FROM messages AS m
WHERE NOT EXISTS (SELECT FROM contents AS c WHERE c.id = m.id)
ORDER BY m.id LIMIT %s"""

# Attempts and letters of messages that are nowhere.
ORPHANS: Final = """
SELECT o.id FROM (
    SELECT DISTINCT message_id AS id FROM attempts UNION SELECT id FROM dead_letters
) AS o
WHERE NOT EXISTS (SELECT FROM messages AS m WHERE m.id = o.id)
  AND NOT EXISTS (SELECT FROM contents AS c WHERE c.id = o.id)
ORDER BY o.id LIMIT %s"""

STRAY_CLAIMS: Final = """
DELETE FROM claims AS k
WHERE NOT EXISTS (SELECT FROM messages AS m WHERE m.id = k.message_id)
  AND NOT EXISTS (SELECT FROM contents AS c WHERE c.id = k.message_id)
RETURNING message_id"""

# It ended badly, and nobody filed a letter that could be read and sent again.
UNFILED: Final = """
INSERT INTO dead_letters (
    id, tenant, state, channel, recipient, reason, provider, cause, tags, attempts, redrives, created_at, updated_at
)
SELECT m.id, c.tenant, 'open', m.channel, c.recipient,
       coalesce(m.reason, CASE m.state WHEN 'failed' THEN 'internal' ELSE m.state END), m.provider,
       'No dead letter was found for it.', c.tags, m.attempts, m.redrives, now(), now()
FROM messages AS m JOIN contents AS c USING (id)
WHERE m.state IN ('failed', 'undelivered', 'expired')
  AND NOT EXISTS (SELECT FROM dead_letters AS d WHERE d.id = m.id)
ON CONFLICT (id) DO NOTHING
RETURNING id, reason"""

# Claims that nobody has ended though their time was over long ago: no supervisor is there to do it, or none can.
OVERDUE: Final = f"""
SELECT {TRACKED}, k.number, k.provider, k.supervisor, k.started_at,
       extract(epoch FROM k.reclaim_at - now())::double precision
FROM claims AS k JOIN messages AS m ON m.id = k.message_id JOIN contents AS c USING (id)
WHERE k.reclaim_at <= now() - %s * interval '1 second'
ORDER BY k.reclaim_at LIMIT %s"""  # noqa: S608 - all its parts are constants of ours

# By messages_waiting.
DUE: Final = """
SELECT m.id, m.channel, m.priority FROM messages AS m
WHERE m.state IN ('queued', 'scheduled') AND m.due_at <= now() - %s * interval '1 second' AND m.expires_at > now()
  AND NOT EXISTS (SELECT FROM claims AS k WHERE k.message_id = m.id)
  AND (%s::text[] IS NULL OR m.id = ANY(%s))"""

# What each commit counted, against the rows. One statement, so that both are of one moment.
MISCOUNTED: Final = """
WITH counted AS (
    SELECT channel, counted, sum(present) AS n FROM tallies
    WHERE counted IN (
        'queued', 'scheduled', 'sent', 'delivered', 'undelivered', 'failed', 'expired', 'cancelled', 'suppressed'
    ) OR starts_with(counted, %s)
    GROUP BY channel, counted
), found AS (
    SELECT channel, state AS counted, count(*) AS n FROM messages GROUP BY channel, state
    UNION ALL
    SELECT '', %s || reason, count(*) FROM dead_letters WHERE state = 'open' GROUP BY reason
)
SELECT channel, counted, (coalesce(f.n, 0) - coalesce(c.n, 0))::bigint
FROM counted AS c FULL JOIN found AS f USING (channel, counted)
WHERE coalesce(f.n, 0) <> coalesce(c.n, 0)"""


class Accounting:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def restore_lost(self) -> list[str]:
        """Messages whose row was gone: they have one again. Those that wait are found by `due`."""

        async def work(connection: Connection) -> list[str]:
            ids = [row[0] for row in await connection.rows(LOST, (MOST,))]
            if ids:
                await connection.rows(RESTORE, (ids, connection.writer))
            return ids

        return await self._pool.transact(work, limit_s=LIMIT_S)

    async def without_content(self) -> list[str]:
        return await self._ids(EMPTY, MOST)

    async def without_message(self) -> list[str]:
        return await self._ids(ORPHANS, MOST)

    async def drop_stray_claims(self) -> list[str]:
        """Rights to calls for messages that are nowhere."""
        return await self._ids(STRAY_CLAIMS)

    async def file_letters(self) -> list[str]:
        async def work(connection: Connection) -> list[str]:
            tally, filed = Tally(), await connection.rows(UNFILED)
            for _, reason in filed:
                tally.dead_letter(reason, 1)
            await tally.write(connection)
            return [row[0] for row in filed]

        return await self._pool.transact(work, limit_s=LIMIT_S)

    async def overdue(self, *, by_s: float) -> list[Overdue]:
        rows = await self._pool.rows(OVERDUE, (by_s, MOST), limit_s=LIMIT_S)
        return [Overdue(tracked_of(row), *row[TRACKED_WIDTH:]) for row in rows]

    async def due(self, *, for_s: float, among: Sequence[str] | None = None) -> dict[str, Lane]:
        """What waits, is claimed by nobody and should have been taken up so long ago."""
        ids = None if among is None else list(among)
        rows = await self._pool.rows(DUE, (for_s, ids, ids), limit_s=LIMIT_S)
        return {message_id: Lane(Channel(channel), Priority(priority)) for message_id, channel, priority in rows}

    async def recount(self) -> dict[tuple[str, str], int]:
        """By channel and what is counted, by how much the counters were wrong; they are right now."""

        async def work(connection: Connection) -> dict[tuple[str, str], int]:
            tally = Tally()
            wrong = {(c, what): n for c, what, n in await connection.rows(MISCOUNTED, (DEAD_LETTER, DEAD_LETTER))}
            for (channel, what), n in wrong.items():
                if what in frozenset(State):
                    tally.move(channel, None, what, n)
                else:
                    tally.dead_letter(Reason(what.removeprefix(DEAD_LETTER)), n)
            await tally.write(connection)
            return wrong

        return await self._pool.transact(work, limit_s=LIMIT_S)

    async def _ids(self, query: str, *params: object) -> list[str]:
        return [row[0] for row in await self._pool.rows(query, params, limit_s=LIMIT_S)]


@asynccontextmanager
async def open_accounting(url: str) -> AsyncIterator[Accounting]:
    """LedgerDown from whatever is asked where PostgreSQL gives no answer."""
    pool = Pool(url, size=1, application="heliograph check", writer="check/")
    try:
        yield Accounting(pool)
    finally:
        await pool.aclose()
