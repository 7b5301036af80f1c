"""The ledger on PostgreSQL: all parts of the port over two pools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from heliograph.actors.ledger.cluster import PostgresCluster
from heliograph.actors.ledger.dead_letters import PostgresDeadLetters
from heliograph.actors.ledger.delivery import PostgresDelivery
from heliograph.actors.ledger.intake import PostgresIntake
from heliograph.actors.ledger.keys import PostgresKeys
from heliograph.actors.ledger.messages import PostgresMessages
from heliograph.actors.ledger.migrate import APPLIED, TABLE_EXISTS, refuse_unless_migrated
from heliograph.actors.ledger.operations import PostgresOperations
from heliograph.actors.ledger.pool import Pool
from heliograph.actors.ledger.receipts import PostgresReceipts
from heliograph.actors.ledger.retention import PostgresRetention
from heliograph.actors.ledger.stats import PostgresStats
from heliograph.actors.ledger.suppressions import PostgresSuppressions
from heliograph.actors.ports.ledger import Ledger

WAY_SIZE: Final = 8
"""Connections for messages on their way: two writers of the intake, the journal, some dispatchers, the schedulers."""
REST_SIZE: Final = 6
"""Connections for all others, so that no list that somebody reads holds a message up."""


@asynccontextmanager
async def open_ledger(url: str, *, supervisor: str) -> AsyncIterator[Ledger]:
    """LedgerDown where PostgreSQL gives no answer now; NotMigrated or MigrationRefused where its database is not at
    this version. `supervisor` names the counters that its connections keep."""
    way = Pool(url, size=WAY_SIZE, application=f"heliograph {supervisor}", writer=f"{supervisor}/way/")
    rest = Pool(url, size=REST_SIZE, application=f"heliograph {supervisor}", writer=f"{supervisor}/rest/")
    try:
        await _check_version(rest)
        yield Ledger(
            intake=PostgresIntake(way),
            delivery=PostgresDelivery(way),
            messages=PostgresMessages(rest),
            receipts=PostgresReceipts(rest),
            dead_letters=PostgresDeadLetters(rest),
            operations=PostgresOperations(rest),
            suppressions=PostgresSuppressions(rest),
            keys=PostgresKeys(rest),
            cluster=PostgresCluster(rest),
            stats=PostgresStats(rest),
            retention=PostgresRetention(rest),
        )
    finally:
        await way.aclose()
        await rest.aclose()


async def _check_version(pool: Pool) -> None:
    [[exists]] = await pool.rows(TABLE_EXISTS)
    refuse_unless_migrated([(n, name, checksum) for n, name, checksum in await pool.rows(APPLIED)] if exists else [])
