"""What commands do with the stores themselves: find them, wait for them, migrate, make keys."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
import redis
import tenacity
import trio

from heliograph.actors.ledger import migrate as migrations
from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.errors import LedgerDown, NotMigrated, QueueDown
from heliograph.actors.model.settings import Config
from heliograph.actors.ports.ledger import Ledger
from heliograph.gateway.auth import digest_of, make_key
from heliograph.gateway.cli import config as configuration
from heliograph.gateway.cli import output
from heliograph.gateway.cli.config import Need
from heliograph.gateway.cli.state import DEFAULT_FOLDER, Folder

ONE_TRY_S: Final = 3
KEY_NAME: Final = "heliograph up"


def url_for(file: Path | None) -> str:
    """PostgreSQL's URL by file and environment, else that of the system that `up` runs here. ConfigurationError."""
    running = None if file else Folder(DEFAULT_FOLDER).running()
    fallback = {"HELIOGRAPH_POSTGRES__URL": running.postgres_url} if running and running.postgres_url else {}
    loaded = configuration.load(file, {**fallback, **os.environ}, need=frozenset({Need.POSTGRES}))
    return loaded.config.postgres_url


async def migrate(url: str) -> list[str]:
    """The names of what was applied now. LedgerDown, MigrationRefused."""
    return await trio.to_thread.run_sync(migrations.migrate, url)


async def refuse_unless_migrated(url: str) -> None:
    """NotMigrated, which names the command."""
    await trio.to_thread.run_sync(_look_at_version, url, abandon_on_cancel=True)


def _look_at_version(url: str) -> None:
    if pending := migrations.pending(url):
        text = f"the database lacks {len(pending)} migrations (first {pending[0]}); run `heliograph migrate`"
        raise NotMigrated(text)


@asynccontextmanager
async def ledger_at(url: str) -> AsyncIterator[Ledger]:
    """The ledger for one command, on a database of this version. LedgerDown, NotMigrated."""
    await refuse_unless_migrated(url)
    async with open_ledger(url, supervisor="command") as ledger:
        yield ledger


async def ensure_key(url: str, secret: str | None) -> tuple[ApiKey, str]:
    """The development key and its secret: the one that is kept, where the database knows it and nobody revoked it; else
    a new one."""
    async with ledger_at(url) as ledger:
        if secret is not None:
            known = await ledger.keys.find(digest_of(secret))
            if known is not None and known.revoked_at is None:
                return known, secret
        key, secret = make_key(KEY_NAME, now=datetime.now(UTC))
        await ledger.keys.create(key)
        return key, secret


async def wait_for_stores(config: Config, *, patience_s: float) -> None:
    """Both at once, then that the database is of this version. Says on standard error what it waits for; LedgerDown or
    QueueDown when patience is over, NotMigrated at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wait_for, partial(ask_postgres, config.postgres_url), patience_s)
        nursery.start_soon(_wait_for, partial(ask_redis, config.redis_url), patience_s)
    await _wait_for(partial(_look_at_version, config.postgres_url), patience_s)


async def _wait_for(ask: Callable[[], None], patience_s: float) -> None:
    def complain(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1:
            output.tell(f"heliograph: {error}; waiting up to {patience_s:g} s")

    tries = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type((LedgerDown, QueueDown)),
        wait=tenacity.wait_exponential_jitter(initial=0.1, max=1.0, jitter=0.1),
        stop=tenacity.stop_after_delay(patience_s),
        before_sleep=complain,
        sleep=trio.sleep,
        reraise=True,
    )
    try:
        await tries(trio.to_thread.run_sync, ask, abandon_on_cancel=True)
    except (LedgerDown, QueueDown) as error:
        raise type(error)(f"{error}; gave up after {patience_s:g} s") from error


def ask_postgres(url: str) -> None:
    try:
        psycopg.connect(url, connect_timeout=ONE_TRY_S).close()
    except psycopg.Error as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LedgerDown(f"PostgreSQL gives no answer ({configuration.without_password(url)}): {reason}") from error


def ask_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_timeout=ONE_TRY_S, socket_connect_timeout=ONE_TRY_S) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise QueueDown(f"Redis gives no answer ({configuration.without_password(url)}): {reason}") from error
