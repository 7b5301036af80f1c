"""Counts. What is counted by state is kept by each commit (tallies.py); what is due is counted up to a limit."""

from __future__ import annotations

from typing import Final

from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.tallies import ACCEPTED, DEAD_LETTER, DROPPED
from heliograph.actors.model.message import LANES, Channel, Reason, State
from heliograph.actors.ports.ledger import Census

# All of it: some rows for each connection of the last hour. An open claim reads as `sending`; there are as many as
# calls in the air. By messages_waiting, `count_to` rows of each lane. One statement, so that it is of one moment.
CENSUS: Final = """
SELECT 'tally', channel, counted, sum(present)::bigint, sum(entered)::bigint, NULL::double precision
FROM tallies GROUP BY channel, counted
UNION ALL
SELECT 'claim', channel, 'sending', count(*), 0, NULL FROM claims GROUP BY channel
UNION ALL
SELECT 'due', l.channel, l.priority, count(d.due_at), 0, date_part('epoch', now() - min(d.due_at))
FROM unnest(%s::text[], %s::text[]) AS l (channel, priority)
LEFT JOIN LATERAL (
    SELECT m.due_at FROM messages AS m
    WHERE m.state IN ('queued', 'scheduled') AND m.channel = l.channel AND m.priority = l.priority
      AND m.due_at <= now() AND NOT EXISTS (SELECT FROM claims AS k WHERE k.message_id = m.id)
    ORDER BY m.due_at, m.id
    LIMIT %s
) AS d ON true
GROUP BY l.channel, l.priority"""

# Through the primary key of messages.
DRIFT: Final = """
SELECT coalesce(sum(entered) FILTER (WHERE counted = %s), 0)::bigint
     - coalesce(sum(present) FILTER (WHERE counted = %s OR counted LIKE 'archive/%%'), 0)::bigint
     - (SELECT count(*) FROM messages)
FROM tallies"""
DRIFT_LIMIT_S: Final = 60.0


class PostgresStats:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def census(self, *, count_to: int = 10_000) -> Census:
        channels, priorities = [lane.channel for lane in LANES], [lane.priority for lane in LANES]
        rows = await self._pool.rows(CENSUS, (channels, priorities, count_to))
        present: dict[tuple[str, str], int] = {}
        entered: dict[tuple[str, str], int] = {}
        due: dict[tuple[str, str], tuple[int, float | None]] = {}
        for what, channel, counted, n, into, age_s in rows:
            if what == "due":
                due[channel, counted] = n, age_s
                continue
            if what == "claim":
                present[channel, State.QUEUED] = present.get((channel, State.QUEUED), 0) - n
            present[channel, counted] = present.get((channel, counted), 0) + n
            entered[channel, counted] = entered.get((channel, counted), 0) + into
        return Census(
            accepted={channel: entered.get((channel, ACCEPTED), 0) for channel in Channel},
            messages={(c, s): present.get((c, s), 0) for c in Channel for s in State},
            entered={(c, s): entered.get((c, s), 0) for c in Channel for s in State},
            dead_letters={reason: present.get(("", DEAD_LETTER + reason), 0) for reason in Reason},
            due={lane: due[lane.channel, lane.priority][0] for lane in LANES},
            oldest_due_age_s={lane: due[lane.channel, lane.priority][1] for lane in LANES},
        )

    async def drift(self) -> int:
        async def work(connection: Connection) -> int:
            [[drift]] = await connection.rows(DRIFT, (ACCEPTED, DROPPED))
            return int(drift)

        return await self._pool.transact(work, limit_s=DRIFT_LIMIT_S)
