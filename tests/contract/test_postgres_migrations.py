"""A database is brought to this version once, whoever tries, and other versions' databases are left alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from heliograph.actors.ledger.migrate import Migration, MigrationRefused, known, migrate, pending
from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.errors import LedgerDown, NotMigrated
from tests.support.postgres import ask

ALL = [migration.name for migration in known()]


def test_the_files_are_numbered_without_a_gap() -> None:
    assert [migration.number for migration in known()] == list(range(1, len(ALL) + 1))


def test_an_empty_database_gets_all_files_in_order_and_then_none(empty_postgres_url: str) -> None:
    assert pending(empty_postgres_url) == ALL
    assert migrate(empty_postgres_url) == ALL
    assert pending(empty_postgres_url) == []
    assert migrate(empty_postgres_url) == []


def test_many_at_once_apply_each_file_once(empty_postgres_url: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(migrate, [empty_postgres_url] * 6))
    assert sorted(done, key=len) == [[]] * 5 + [ALL]
    assert ask(empty_postgres_url, "SELECT name FROM migrations ORDER BY number") == [(name,) for name in ALL]


def test_a_file_that_fails_leaves_nothing_of_itself_and_keeps_those_before(empty_postgres_url: str) -> None:
    good = Migration(1, "0001_good.sql", "CREATE TABLE good ()", b"1")
    bad = Migration(2, "0002_bad.sql", "CREATE TABLE half (); CREATE TABLE no_such_type (a nonsense)", b"2")
    with pytest.raises(psycopg.errors.UndefinedObject):
        migrate(empty_postgres_url, [good, bad])
    assert ask(empty_postgres_url, "SELECT to_regclass('good')::text, to_regclass('half')::text") == [("good", None)]
    assert ask(empty_postgres_url, "SELECT number FROM migrations") == [(1,)]


def test_a_file_that_was_changed_afterwards_is_named(postgres_url: str) -> None:
    [[checksum]] = ask(postgres_url, "SELECT checksum FROM migrations WHERE number = 2")
    ask(postgres_url, "UPDATE migrations SET checksum = 'another' WHERE number = 2")
    try:
        for look in (migrate, pending):
            with pytest.raises(MigrationRefused, match=f"{ALL[1]} was changed"):
                look(postgres_url)
    finally:
        ask(postgres_url, "UPDATE migrations SET checksum = %s WHERE number = 2", checksum)


async def test_a_newer_database_is_left_alone(empty_postgres_url: str) -> None:
    migrate(empty_postgres_url)
    ask(empty_postgres_url, "INSERT INTO migrations (number, name, checksum) VALUES (9000, '9000_future.sql', 'x')")
    with pytest.raises(MigrationRefused, match=r"newer than this version: it has had 9000_future\.sql"):
        migrate(empty_postgres_url)
    with pytest.raises(MigrationRefused, match="newer"):
        async with open_ledger(empty_postgres_url, supervisor="sup_me"):
            pass


async def test_a_ledger_is_not_opened_on_a_database_that_is_not_migrated(empty_postgres_url: str) -> None:
    with pytest.raises(NotMigrated, match="heliograph migrate"):
        async with open_ledger(empty_postgres_url, supervisor="sup_me"):
            pass
    migrate(empty_postgres_url, known()[:-1])
    with pytest.raises(NotMigrated, match=f"lacks 1 of {len(ALL)} migrations .first {ALL[-1]}.; run `heliograph"):
        async with open_ledger(empty_postgres_url, supervisor="sup_me"):
            pass


def test_where_nobody_listens_it_is_ledger_down() -> None:
    with pytest.raises(LedgerDown, match="refused") as raised:
        migrate("postgresql://heliograph:s3cret@127.0.0.1:1/heliograph")
    assert "s3cret" not in str(raised.value)
