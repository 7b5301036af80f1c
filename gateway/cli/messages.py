"""`heliograph messages`: what the API says of messages."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.client import Client, KeyOption, UrlOption, target
from heliograph.gateway.cli.moments import moment
from heliograph.gateway.cli.output import JsonFlag

LISTED = ("id", "state", "channel", "to", "priority", "provider", "reason", "created_at")

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most, newest first.")]


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="List messages, or show one with its attempts.")
    group.command("list")(list_)
    group.command()(show)
    app.add_typer(group, name="messages")


def list_(
    state: Annotated[str | None, typer.Option()] = None,
    channel: Annotated[str | None, typer.Option(help="sms | email")] = None,
    to: Annotated[str | None, typer.Option(help="The recipient.")] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    since: Annotated[str | None, typer.Option(help="A time with its offset, or how long ago: 2h.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since.")] = None,
    limit: Limit = 50,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """List messages, newest first."""
    query = {
        "state": state,
        "channel": channel,
        "to": to,
        "tag": tag,
        "since": moment("--since", since),
        "until": moment("--until", until),
    }
    found = list(Client(target(url, api_key)).pages("/v1/messages", query, most=limit))
    output.show({"data": found}, *table(LISTED, found))


def show(
    message: Annotated[str, typer.Argument(metavar="ID")],
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Show a message and every attempt."""
    found = Client(target(url, api_key)).get(f"/v1/messages/{message}")
    output.show(found, *with_attempts(found))


def table(names: tuple[str, ...], rows: list[dict[str, Any]]) -> list[str]:
    return output.columns(names, ([row.get(name) for name in names] for row in rows))


def with_attempts(value: dict[str, Any]) -> list[str]:
    """A message or a dead letter, and below it what was tried."""
    attempts = value.get("attempts")
    lines = output.fields({name: inner for name, inner in value.items() if name != "attempts"})
    if isinstance(attempts, list) and attempts:
        names = ("number", "provider", "started_at", "finished_at", "outcome", "code", "settled", "detail")
        lines += ["", *table(names, attempts)]
    return lines
