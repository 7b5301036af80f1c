"""Real services for whoever asks for them by name (see tests/support/services.py), and how hypothesis searches.

A commit draws the same examples each time, so that it fails for what was changed; `SEARCH=1 make test` draws others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from psycopg import sql

from heliograph.actors.ledger.migrate import migrate
from tests.support.services import PostgresServer, RedisServer, empty

TEMPLATE = "migrated"

settings.register_profile("commit", derandomize=True, deadline=None)
settings.load_profile("default" if "SEARCH" in os.environ else "commit")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer) -> str:
    """The name of a migrated database to make others from; nobody connects to it."""
    postgres.administer(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(TEMPLATE)))
    migrate(postgres.address(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    """The database that `postgres_url` empties for each test."""
    with postgres.fresh(migrated_template) as url:
        yield url


@pytest.fixture
def postgres_url(migrated_postgres_url: str) -> str:
    """A database that is migrated and empty."""
    empty(migrated_postgres_url)
    return migrated_postgres_url


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A database of the test's own with nothing in it."""
    with postgres.fresh() as url:
        yield url


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """A Redis without any key."""
    redis_server.flush()
    return redis_server.url
