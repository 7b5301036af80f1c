"""Brings a database to this version of the code: numbered plain SQL, each file in a transaction of its own.

Called by `heliograph migrate`, by `up`, and by tests; blocking, with a connection of its own. Many processes may do it
at once: an advisory lock lets one work and the others find nothing left to do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import psycopg

from heliograph.actors.model.errors import HeliographError, LedgerDown, NotMigrated

LOCK: Final = 0x48656C696F
"""Of all users of advisory locks in this database, us."""
TABLE: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""
TABLE_EXISTS: Final = "SELECT to_regclass('migrations') IS NOT NULL"
APPLIED: Final = "SELECT number, name, checksum FROM migrations ORDER BY number"
RECORD: Final = "INSERT INTO migrations (number, name, checksum) VALUES (%s, %s, %s)"

Applied = tuple[int, str, bytes]


class MigrationRefused(HeliographError):
    """The database was migrated by other code than this; the text says how they differ. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str
    checksum: bytes


@cache
def known() -> tuple[Migration, ...]:
    """The files of this version, in order; their numbers are 1, 2, 3 …"""
    folder = files("heliograph.actors.ledger") / "migrations"
    found = sorted((f for f in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", f.name)), key=lambda f: f.name)
    return tuple(
        Migration(int(f.name[:4]), f.name, f.read_text("utf-8"), hashlib.sha256(f.read_bytes()).digest()) for f in found
    )


def missing(applied: Sequence[Applied], migrations: Sequence[Migration]) -> list[Migration]:
    """What has not been applied yet. MigrationRefused where the database was migrated by other code."""
    ours: Mapping[int, Migration] = {m.number: m for m in migrations}
    for number, name, checksum in applied:
        migration = ours.get(number)
        if migration is None:
            raise MigrationRefused(
                f"the database is newer than this version: it has had {name}, which this version does not know; "
                "install the version that migrated it, or a later one"
            )
        if migration.checksum != bytes(checksum):
            raise MigrationRefused(
                f"{name} was changed after this database had it: a migration, once released, stays as it is; "
                "restore the file and write a new one"
            )
    done = {number for number, _, _ in applied}
    return [m for m in migrations if m.number not in done]


def refuse_unless_migrated(applied: Sequence[Applied]) -> None:
    """NotMigrated or MigrationRefused unless the database is exactly at this version."""
    left = missing(applied, known())
    if left:
        raise NotMigrated(
            f"the database lacks {len(left)} of {len(known())} migrations (first {left[0].name}); "
            "run `heliograph migrate`"
        )


def pending(url: str) -> list[str]:
    """Names of the files still to be applied. Changes nothing. LedgerDown, MigrationRefused."""
    with _connection(url) as connection:
        return [m.name for m in missing(_applied(connection), known())]


def migrate(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing; answers the names of the files applied now. LedgerDown, MigrationRefused.

    A file that fails leaves nothing of itself; those before it stay.
    """
    with _connection(url) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))  # ends with the connection at the latest
        connection.execute("SET lock_timeout = '5s'")  # rather fail than make everybody queue behind us
        connection.execute(TABLE)
        done = []
        for migration in missing(_applied(connection), known() if migrations is None else migrations):
            with connection.transaction():
                connection.execute(migration.sql)
                connection.execute(RECORD, (migration.number, migration.name, migration.checksum))
            done.append(migration.name)
        return done


def _applied(connection: psycopg.Connection) -> list[Applied]:
    exists = connection.execute(TABLE_EXISTS).fetchone()
    return connection.execute(APPLIED).fetchall() if exists and exists[0] else []


@contextmanager
def _connection(url: str) -> Iterator[psycopg.Connection]:
    try:
        with psycopg.connect(
            url, autocommit=True, connect_timeout=10, application_name="heliograph migrate"
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise LedgerDown(f"PostgreSQL gave no answer to the migration: {str(error).strip()}") from error
