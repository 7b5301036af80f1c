"""`heliograph keys`: made, listed and revoked in the database, with no gateway needed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import trio
import typer

from heliograph.actors.model.access import DEFAULT_TENANT, MOST_LIMIT, TENANT_PATTERN, ScopeName
from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import CommandMisused, JsonFlag
from heliograph.gateway.cli.system import ConfigFile

if TYPE_CHECKING:
    from heliograph.actors.model.access import ApiKey


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Make, list or revoke API keys.")
    group.command()(create)
    group.command("list")(list_)
    group.command()(revoke)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Option(help="Whose it is, for people.")],
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times; admin by default.")] = None,
    tenant: Annotated[str, typer.Option(help="It sees what belongs to this one.")] = DEFAULT_TENANT,
    test: Annotated[bool, typer.Option("--test", help="What it sends goes to the sandbox and nowhere else.")] = False,
    rate: Annotated[int | None, typer.Option(min=1, max=MOST_LIMIT, help="Messages per second.")] = None,
    daily: Annotated[int | None, typer.Option(min=1, max=MOST_LIMIT, help="Messages per day (UTC).")] = None,
    config: ConfigFile = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Make a key. Its secret is shown now and never again."""
    from heliograph.gateway.auth import make_key
    from heliograph.gateway.cli import database

    if not name.strip() or len(name) > 200:
        raise CommandMisused("--name should be 1 to 200 characters")
    if not re.search(TENANT_PATTERN, tenant):
        raise CommandMisused("--tenant should be 1 to 64 letters, digits, dots, dashes and underscores")
    key, secret = make_key(
        name,
        now=datetime.now(UTC),
        scopes=_scopes(scope),
        tenant=tenant,
        live=not test,
        rate=rate,
        daily=daily,
    )

    async def store(url: str) -> None:
        async with database.ledger_at(url) as ledger:
            await ledger.keys.create(key)

    trio.run(store, database.url_for(config))
    scopes = sorted(key.scopes)
    output.show(
        {"id": key.id, "name": key.name, "key": secret, "scopes": scopes},
        f"id      {key.id}",
        f"key     {secret}",
        f"scopes  {', '.join(scopes)}",
    )


def _scopes(given: list[str] | None) -> frozenset[ScopeName]:
    names = [part.strip() for text in given or [ScopeName.ADMIN] for part in text.split(",")]
    unknown = sorted(set(names) - set(ScopeName))
    if unknown:
        raise CommandMisused(f"--scope: there is no {', '.join(unknown)}; scopes are {', '.join(ScopeName)}")
    return frozenset(map(ScopeName, names))


def list_(config: ConfigFile = None, json: JsonFlag = False) -> None:  # noqa: ARG001
    """List all keys; secrets are nowhere kept."""
    from heliograph.gateway.cli import database

    async def read(url: str) -> list[ApiKey]:
        async with database.ledger_at(url) as ledger:
            return await ledger.keys.list()

    found = [_shown(key) for key in trio.run(read, database.url_for(config))]
    head = ("id", "name", "tenant", "live", "scopes", "rate", "daily", "created_at", "revoked_at")
    output.show({"data": found}, *output.columns(head, ([row[name] for name in head] for row in found)))


def revoke(
    key: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigFile = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Revoke a key: within seconds every gateway refuses it."""
    from heliograph.actors.model.errors import NotFound
    from heliograph.gateway.cli import database

    async def end(url: str) -> ApiKey:
        async with database.ledger_at(url) as ledger:
            try:
                return await ledger.keys.revoke(key)
            except NotFound as error:
                raise NotFound(f"there is no key {key}; `heliograph keys list` shows them") from error

    found = _shown(trio.run(end, database.url_for(config)))
    output.show(found, f"revoked {found['id']} ({found['name']})")


def _shown(key: ApiKey) -> dict[str, Any]:
    def written(at: datetime | None) -> str | None:
        return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None

    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "live": key.live,
        "scopes": sorted(key.scopes),
        "rate": key.rate,
        "daily": key.daily,
        "created_at": written(key.created_at),
        "revoked_at": written(key.revoked_at),
    }
