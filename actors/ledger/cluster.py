"""Who works, on which lists, and what operators have said of the providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.model.provider import BreakerState, Controls, ForcedBreaker, Pause, ProviderReport
from heliograph.actors.ports.ledger import RESUMED_S, Generation, Peer

JOIN: Final = """
INSERT INTO supervisors (id, roles, metrics_url) VALUES (%s, %s, %s)
ON CONFLICT (id) DO NOTHING"""

# By the primary key. One that was taken for dead and was only slow is back with its next beat.
BEAT: Final = """
INSERT INTO supervisors AS s (id, roles, beats, reports) VALUES (%s, '{}', 1, %s::json)
ON CONFLICT (id) DO UPDATE SET beats = s.beats + 1, ended_at = NULL, reports = excluded.reports"""

LEAVE: Final = "UPDATE supervisors SET ended_at = now() WHERE id = %s AND ended_at IS NULL"

# All of them: they are few, and those that ended are removed after a day.
PEERS: Final = """
SELECT id, beats, roles, metrics_url, reports FROM supervisors WHERE ended_at IS NULL ORDER BY joined_at, id"""

GENERATION: Final = "SELECT name, run_id, filled FROM queue_generation"
FIRST_GENERATION: Final = "INSERT INTO queue_generation (name, run_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"
NEXT_GENERATION: Final = """
UPDATE queue_generation SET name = %s, run_id = %s, filled = false WHERE name = %s AND run_id = %s"""
FILLED: Final = "UPDATE queue_generation SET filled = true WHERE name = %s AND run_id = %s"

CONTROLS: Final = """
SELECT provider,
       CASE WHEN pause_until > now() THEN pause_until END, pause_reason,
       CASE WHEN forced_until > now() THEN forced_until END, forced_state,
       CASE WHEN resumed_at > now() - make_interval(secs => %s) THEN resumed_at END
FROM provider_controls
WHERE pause_until > now() OR forced_until > now() OR resumed_at > now() - make_interval(secs => %s)
ORDER BY provider"""
PAUSE: Final = """
INSERT INTO provider_controls (provider, pause_until, pause_reason) VALUES (%s, %s, %s)
ON CONFLICT (provider) DO UPDATE SET pause_until = excluded.pause_until, pause_reason = excluded.pause_reason"""
RESUME: Final = """
INSERT INTO provider_controls (provider, resumed_at) VALUES (%s, now())
ON CONFLICT (provider) DO UPDATE SET pause_until = NULL, pause_reason = NULL, resumed_at = excluded.resumed_at"""
FORCE: Final = """
INSERT INTO provider_controls (provider, forced_until, forced_state) VALUES (%s, %s, %s)
ON CONFLICT (provider) DO UPDATE SET forced_until = excluded.forced_until, forced_state = excluded.forced_state"""


class PostgresCluster:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def join(self, supervisor: str, *, roles: Sequence[str], metrics_url: str | None) -> None:
        await self._pool.rows(JOIN, (supervisor, list(roles), metrics_url))

    async def beat(self, supervisor: str, reports: Sequence[ProviderReport]) -> list[Peer]:
        document = orjson.dumps(list(reports)).decode()

        async def work(connection: Connection) -> list[Peer]:
            await connection.rows(BEAT, (supervisor, document))
            return [_peer(row) for row in await connection.rows(PEERS)]

        return await self._pool.transact(work)

    async def leave(self, supervisor: str) -> None:
        await self._pool.rows(LEAVE, (supervisor,))

    async def peers(self) -> list[Peer]:
        return [_peer(row) for row in await self._pool.rows(PEERS)]

    async def generation(self) -> Generation | None:
        rows = await self._pool.rows(GENERATION)
        return Generation(*rows[0]) if rows else None

    async def renew_generation(self, old: Generation | None, new: Generation) -> Generation:
        async def work(connection: Connection) -> Generation:
            await connection.rows(FIRST_GENERATION, (new.name, new.run_id))
            if old is not None:
                await connection.rows(NEXT_GENERATION, (new.name, new.run_id, old.name, old.run_id))
            [row] = await connection.rows(GENERATION)
            return Generation(*row)

        return await self._pool.transact(work)

    async def mark_filled(self, generation: Generation) -> None:
        await self._pool.rows(FILLED, (generation.name, generation.run_id))

    async def controls(self) -> list[Controls]:
        return [_controls(*row) for row in await self._pool.rows(CONTROLS, (RESUMED_S, RESUMED_S))]

    async def pause(self, provider: str, pause: Pause) -> None:
        await self._pool.rows(PAUSE, (provider, pause.until, pause.reason))

    async def resume(self, provider: str) -> None:
        await self._pool.rows(RESUME, (provider,))

    async def force_breaker(self, provider: str, forced: ForcedBreaker | None) -> None:
        params = (forced.until, forced.state) if forced else (None, None)
        await self._pool.rows(FORCE, (provider, *params))


def _peer(row: Sequence[Any]) -> Peer:
    supervisor, beats, roles, metrics_url, reports = row
    return Peer(supervisor, beats, False, tuple(roles), metrics_url, tuple(_report(report) for report in reports))


def _report(document: Mapping[str, Any]) -> ProviderReport:
    until, quota_until = document["breaker_until"], document.get("quota_until")
    return ProviderReport(
        name=document["name"],
        breaker=BreakerState(document["breaker"]),
        breaker_since=datetime.fromisoformat(document["breaker_since"]),
        breaker_until=datetime.fromisoformat(until) if until else None,
        effective_rate=document["effective_rate"],
        in_flight=document["in_flight"],
        handled=document["handled"],
        quota_remaining=document.get("quota_remaining"),
        quota_until=datetime.fromisoformat(quota_until) if quota_until else None,
        answered=document.get("answered", 0),
        refuted=document.get("refuted", 0),
    )


def _controls(
    provider: str,
    pause_until: datetime | None,
    pause_reason: str | None,
    forced_until: datetime | None,
    forced_state: str | None,
    resumed_at: datetime | None,
) -> Controls:
    return Controls(
        provider=provider,
        pause=Pause(until=pause_until, reason=pause_reason) if pause_until else None,
        forced=ForcedBreaker(state=BreakerState(forced_state), until=forced_until)
        if forced_until and forced_state
        else None,
        resumed_at=resumed_at,
    )
