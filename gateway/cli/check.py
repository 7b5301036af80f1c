"""`heliograph check`: is everything such that a supervisor will run, and run well? One line each, with the mend."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, assert_never

import trio
import typer

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.duration import format_duration
from heliograph.actors.model.errors import HeliographError
from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import JsonFlag
from heliograph.gateway.cli.state import DEFAULT_FOLDER, Folder
from heliograph.gateway.cli.system import ConfigFile
from heliograph.providers.shared_secret import LEAST

if TYPE_CHECKING:
    from heliograph.actors.model.provider import ProviderSettings, Quota
    from heliograph.actors.model.settings import Config
    from heliograph.gateway.cli.accounts import Account

LATENESS_S: Final = 0.02
"""How much of a bucket the send slots give up so that the rate holds: at a smaller burst the rate is not reached."""
OLDEST_POSTGRES: Final = 14
OLDEST_REDIS: Final = (6, 2)
LIVE_S: Final = 30.0
LISTED: Final = 20
DEEP: Final = "Look for messages unaccounted for, and mend what can be; reads every row."
NOT_REACHED: Final = frozenset({"unreachable", "timeout", "tls", "disconnected"})
UNREACHED: Final = "is its address right, and can it be reached from here?"
UNTRUSTED: Final = "check its address, the clock, and the trusted authorities of this machine (SSL_CERT_FILE)"
DURABILITY: Final = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit') ORDER BY name"


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    status: Status
    detail: str
    mend: str | None = None
    ids: Sequence[str] = ()
    """Of messages that are unaccounted for."""


def add(app: typer.Typer) -> None:
    app.command()(check)


def check(
    config: ConfigFile = None,
    live: Annotated[bool, typer.Option("--live", help="Ask each provider; print what is left there.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help=DEEP)] = False,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Check configuration, versions, stores and providers. Exit 1 where something is wrong."""
    from heliograph.gateway.cli import config as configuration

    running = None if config else Folder(DEFAULT_FOLDER).running()
    stores = running and {
        "HELIOGRAPH_POSTGRES__URL": running.postgres_url,
        "HELIOGRAPH_REDIS__URL": running.redis_url,
    }
    # What `up` runs here is checked where nothing else is named; its providers are a sandbox's.
    need = configuration.EVERYTHING - ({configuration.Need.PROVIDERS} if stores else set())
    loaded = configuration.load(config, {**(stores or {}), **os.environ}, need=need)
    lines = trio.run(_all, loaded.config, live, deep)
    good = all(line.status is not Status.FAILED for line in lines)
    output.show({"ok": good, "checks": [asdict(line) for line in lines]}, *map(_written, lines))
    raise typer.Exit(0 if good else output.FAILED)


def _written(line: Line) -> str:
    written = f"{line.status:7}  {line.name}: {line.detail}" + (f"; {line.mend}" if line.mend else "")
    listed = list(line.ids[:LISTED])
    if len(line.ids) > LISTED:
        listed.append(f"and {len(line.ids) - LISTED} more; --json names them")
    return "\n         ".join([written, *listed])


async def _all(config: Config, live: bool, deep: bool) -> list[Line]:
    versions = f"heliograph {importlib.metadata.version('heliograph')}, Python {platform.python_version()}"
    lines = [
        Line("configuration", Status.OK, f"{len(config.providers)} providers"),
        Line("versions", Status.OK, versions),
    ]
    lines += await _blocking("postgres", lambda: list(_postgres(config.postgres_url)))
    lines += await _blocking("redis", lambda: list(_redis(config.redis_url)))
    kept = config.retention
    kept_s = min(kept.metadata_s, kept.content_s, config.dead_letters.archive_after_s)
    answers = await _live([p for p in config.providers if not p.test_only]) if live else {}
    for provider in config.providers:
        lines += _provider(provider, kept_s)
        if provider.name in answers:
            lines.append(answers[provider.name])
    if deep:
        lines += await _deep(config)
    return lines


async def _blocking(name: str, look: Callable[[], list[Line]]) -> list[Line]:
    try:
        return await trio.to_thread.run_sync(look)
    except HeliographError as error:
        return [Line(name, Status.FAILED, str(error), "start it, or correct its url")]


def _postgres(url: str) -> Iterator[Line]:
    import psycopg

    from heliograph.actors.ledger import migrate
    from heliograph.gateway.cli.database import ask_postgres

    ask_postgres(url)
    with psycopg.connect(url, connect_timeout=5) as connection:
        version = connection.info.server_version // 10_000
        settings = {
            name: (connection.execute(f"SHOW {name}").fetchone() or ("",))[0]
            for name in ("fsync", "synchronous_commit")
        }
    if version < OLDEST_POSTGRES:
        yield Line("postgres", Status.FAILED, f"version {version}", f"PostgreSQL {OLDEST_POSTGRES} or newer is needed")
    else:
        yield Line("postgres", Status.OK, f"version {version}")
    for name, value in settings.items():
        if value == "off":
            yield Line(f"postgres {name}", Status.FAILED, "off: a crash may lose accepted messages", f"set {name} = on")
        else:
            yield Line(f"postgres {name}", Status.OK, value)
    pending = migrate.pending(url)
    if pending:
        yield Line("migrations", Status.FAILED, f"{len(pending)} are missing", "run `heliograph migrate`")
    else:
        yield Line("migrations", Status.OK, "the database is at this version")


def _redis(url: str) -> Iterator[Line]:
    import redis

    from heliograph.gateway.cli.database import ask_redis

    ask_redis(url)
    with redis.Redis.from_url(url, socket_timeout=5, decode_responses=True) as client:
        version = str(client.info("server")["redis_version"])
        try:
            settings = {name: client.config_get(name)[name] for name in ("maxmemory-policy", "maxmemory", "appendonly")}
        except (redis.ResponseError, KeyError):
            settings = None  # managed services often forbid CONFIG
    if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
        yield Line("redis", Status.FAILED, f"version {version}", "Redis 6.2 or newer is needed")
    else:
        yield Line("redis", Status.OK, f"version {version}")
    if settings is None:
        detail = "CONFIG is forbidden here, so eviction and persistence cannot be read"
        yield Line("redis settings", Status.WARNING, detail, "see that maxmemory-policy is noeviction")
        return
    yield from _redis_settings(settings)


def _redis_settings(settings: dict[str, Any]) -> Iterator[Line]:
    policy = settings["maxmemory-policy"]
    if policy == "noeviction":
        yield Line("redis eviction", Status.OK, policy)
    else:
        status = Status.WARNING if settings["maxmemory"] == "0" else Status.FAILED
        detail = f"{policy}: hints and rate limits may be thrown away"
        yield Line("redis eviction", status, detail, "CONFIG SET maxmemory-policy noeviction")
    if settings["appendonly"] == "yes":
        yield Line("redis persistence", Status.OK, "append-only file")
    else:
        detail = "no append-only file: after a restart everything is queued again from PostgreSQL"
        yield Line("redis persistence", Status.WARNING, detail, "CONFIG SET appendonly yes")


def _provider(provider: ProviderSettings, kept_s: float) -> Iterator[Line]:
    name = f"provider {provider.name}"
    kept_for = " (for test keys only)" if provider.test_only else ""
    yield Line(name, Status.OK, f"{provider.kind}, {provider.channel}, credentials complete{kept_for}")
    least = 1 + provider.rate * LATENESS_S
    if provider.burst < least:
        detail = f"with a burst of {provider.burst:g} its rate of {provider.rate:g} is not reached"
        yield Line(name, Status.WARNING, detail, f"set burst to {least:g} or more, if the provider allows it")
    secret = provider.receipts.get("secret")
    if isinstance(secret, str) and len(secret) < LEAST:
        detail = f"receipts.secret is short: fewer than {LEAST} characters can be guessed"
        yield Line(name, Status.WARNING, detail, "make one with `openssl rand -hex 16`")
    if provider.quota is not None:
        yield from _quota(provider, provider.quota, kept_s)


def _quota(provider: ProviderSettings, quota: Quota, kept_s: float) -> Iterator[Line]:
    name = f"provider {provider.name} quota"
    per_window = f"{quota.limit} in {format_duration(quota.window_s)}"
    most = provider.rate * quota.window_s + provider.burst
    if quota.limit < provider.burst:
        detail = f"{per_window} is less than its burst of {provider.burst:g}: one burst uses it up"
        yield Line(name, Status.WARNING, detail, "set burst to a small part of the quota")
    elif quota.limit >= most:
        detail = f"{per_window} is more than its rate ever hands over ({most:g})"
        yield Line(name, Status.WARNING, detail, "is the rate right? leave the quota out if it is")
    else:
        yield Line(name, Status.OK, per_window)
    if quota.window_s > kept_s:
        detail = f"its window is longer than messages are kept ({format_duration(kept_s)})"
        mend = "set retention.metadata, retention.content and dead_letters.archive_after to the window or more"
        yield Line(name, Status.WARNING, f"{detail}: were Redis lost, it would be counted too low", mend)


async def _live(providers: Sequence[ProviderSettings]) -> dict[str, Line]:
    """By name; all at once, for a provider that gives no answer takes its time."""
    lines: dict[str, Line] = {}

    async def ask(provider: ProviderSettings) -> None:
        lines[provider.name] = await _ask(provider)

    async with trio.open_nursery() as nursery:
        for provider in providers:
            nursery.start_soon(ask, provider)
    return lines


async def _ask(provider: ProviderSettings) -> Line:
    from heliograph.providers import build

    name = f"provider {provider.name} live"
    courier = build(provider)
    try:
        with trio.fail_after(LIVE_S):
            answer = await courier.check()
    except trio.TooSlowError:
        return Line(name, Status.FAILED, f"no answer within {LIVE_S:g} s", UNREACHED)
    finally:
        with trio.move_on_after(LIVE_S, shield=True):
            await courier.aclose()
    detail = answer.detail or answer.code or str(answer.outcome)
    match answer.outcome:
        case Outcome.ACCEPTED:
            return Line(name, Status.OK, detail)
        case Outcome.MISCONFIGURED | Outcome.REJECTED:
            untrusted = answer.code == "certificate"
            mend = UNTRUSTED if untrusted else f"correct credentials, options or account of {provider.name}"
            return Line(name, Status.FAILED, detail, mend)
        case Outcome.THROTTLED:
            return Line(name, Status.FAILED, detail, "ask again later, or lower its rate")
        case Outcome.DEFERRED | Outcome.UNKNOWN:
            mend = UNREACHED if answer.code in NOT_REACHED else "ask again later; look at the provider's status page"
            return Line(name, Status.FAILED, detail, mend)
        case _ as never:
            assert_never(never)


async def _deep(config: Config) -> list[Line]:
    from heliograph.gateway.cli import accounts

    try:
        account = await accounts.settle(config)
    except HeliographError as error:
        return [Line("accounting", Status.FAILED, str(error))]
    lines = [_accounted(account)]
    for found in account.found:
        detail = f"{len(found.ids)} {found.what}"
        lines.append(Line("accounting", Status.FAILED, detail, found.mended or accounts.BACKUP, found.ids))
    if account.unseen is not None:
        detail = f"what is due in PostgreSQL could not be looked for in Redis: {account.unseen}"
        lines.append(Line("accounting hints", Status.WARNING, detail, "check again when a supervisor runs"))
    return lines


def _accounted(account: Account) -> Line:
    from heliograph.gateway.cli import accounts

    if not account.drift and not account.drift_left:
        return Line("accounting", Status.OK, "every accepted message is accounted for")
    detail = f"{account.drift} messages are unaccounted for"
    if not account.drift_left:
        return Line("accounting", Status.FAILED, detail, "all were found and put back")
    return Line("accounting", Status.FAILED, detail, f"{account.drift_left} are nowhere: {accounts.BACKUP}")
