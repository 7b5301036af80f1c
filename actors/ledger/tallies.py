"""Counters kept by each commit, so that a count of messages by state costs the same at any size.

What is counted stands in migrations/0001_messages.sql. The hot statements count for themselves; all others gather
their changes in a `Tally` and write it before they commit.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from heliograph.actors.ledger.pool import Connection

ACCEPTED: Final = "accepted"
DROPPED: Final = "dropped"
DEAD_LETTER: Final = "dead_letter/"

# The primary key finds the rows; they belong to this connection, so nobody waits for them. In order, for the locks of
# connections that take over a name.
ADD: Final = """
INSERT INTO tallies AS t (writer, channel, counted, present, entered)
SELECT %s, d.channel, d.counted, d.present, d.entered
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) AS d (channel, counted, present, entered)
ORDER BY d.channel, d.counted
ON CONFLICT (writer, channel, counted) DO UPDATE
SET present = t.present + excluded.present, entered = t.entered + excluded.entered, updated_at = now()"""


class Tally:
    """Changes of one transaction."""

    def __init__(self) -> None:
        self._present: Counter[tuple[str, str]] = Counter()
        self._entered: Counter[tuple[str, str]] = Counter()

    def move(self, channel: str, before: str | None, after: str | None, n: int = 1) -> None:
        """None: it was not there before (or is not there after): archived, or brought back."""
        if before is not None:
            self._present[channel, before] -= n
        if after is not None:
            self._present[channel, after] += n

    def enter(self, channel: str, state: str, n: int = 1) -> None:
        self._entered[channel, state] += n

    def dead_letter(self, reason: str, change: int) -> None:
        self._present["", DEAD_LETTER + reason] += change

    def plain(self, counted: str, change: int) -> None:
        self._present["", counted] += change

    async def write(self, connection: Connection) -> None:
        keys = sorted({k for counter in (self._present, self._entered) for k, n in counter.items() if n})
        if not keys:
            return
        await connection.rows(
            ADD,
            (
                connection.writer,
                [channel for channel, _ in keys],
                [counted for _, counted in keys],
                [self._present[k] for k in keys],
                [self._entered[k] for k in keys],
            ),
        )
