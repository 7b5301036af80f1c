"""The ledger on PostgreSQL keeps the contract. Time passes by setting all that is stored back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from heliograph.actors.ledger.postgres import open_ledger
from tests.contract.ledger_suite import LedgerSuite
from tests.contract.ledger_world import LedgerWorld

MOMENTS = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = 'public' AND data_type = 'timestamp with time zone' AND table_name NOT LIKE 'archive\\_%'"""


def set_back(url: str, seconds: float) -> None:
    with psycopg.connect(url) as connection:
        moments = connection.execute(MOMENTS).fetchall()
        for table in {table for table, _ in moments}:
            changes = [
                sql.SQL("{c} = {c} - %(by)s * interval '1 second'").format(c=sql.Identifier(column))
                for its, column in moments
                if its == table
            ]
            query = sql.SQL("UPDATE {} SET {}").format(sql.Identifier(table), sql.SQL(", ").join(changes))
            connection.execute(query, {"by": seconds})


class TestPostgresLedger(LedgerSuite):
    @pytest.fixture
    async def world(self, postgres_url: str) -> AsyncIterator[LedgerWorld]:
        async def advance(seconds: float) -> None:
            set_back(postgres_url, seconds)

        async with open_ledger(postgres_url, supervisor="sup_me") as ledger:
            yield LedgerWorld(ledger, advance)
