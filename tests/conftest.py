"""Real services for whoever asks for them by name (see tests/support/services.py), how hypothesis searches, and how the
suite is spread over workers (`make test`; a file run by itself needs none).

A commit draws the same examples each time, so that it fails for what was changed; `SEARCH=1 make test` draws others.
Each worker has services of its own. A file is run by one worker, so that its fixtures are made once; tests/system is
run by one as a whole, since two clusters at once would wait for each other on a small machine.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import settings
from psycopg import sql
from xdist.scheduler import LoadScopeScheduling

from heliograph.actors.ledger.migrate import migrate
from tests.support.services import PostgresServer, RedisServer, empty

TEMPLATE = "migrated"
LONGEST_FIRST: Final = ("tests/system/", "tests/simulation/", "tests/contract/", "tests/gateway/", "tests/conformance/")
"""So that all workers end at about the same time."""

settings.register_profile("commit", derandomize=True, deadline=None)
settings.load_profile("default" if "SEARCH" in os.environ else "commit")


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/system" if file.startswith("tests/system/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, folder in enumerate(LONGEST_FIRST) if item.nodeid.startswith(folder)), len(LONGEST_FIRST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay until the end: the garbage collector need not walk through them each time."""
    gc.collect()
    gc.freeze()


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
