"""`heliograph operations`: work on many dead letters, and how far it is."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any, Final

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.client import Client, KeyOption, UrlOption, target
from heliograph.gateway.cli.output import JsonFlag

ASK_EVERY_S: Final = 0.5

Id = Annotated[str, typer.Argument(metavar="ID")]


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Show or cancel an operation.")
    group.command()(show)
    group.command()(cancel)
    app.add_typer(group, name="operations")


def show(
    operation: Id,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Show how far it is, and what failed."""
    client = Client(target(url, api_key))
    show_or_follow(client, client.get(f"/v1/operations/{operation}"), follow=wait)


def cancel(operation: Id, url: UrlOption = None, api_key: KeyOption = None, json: JsonFlag = False) -> None:  # noqa: ARG001
    """Stop it; what is done stays done."""
    found = Client(target(url, api_key)).post(f"/v1/operations/{operation}/cancel")
    output.show(found, *output.fields(found))


def show_or_follow(client: Client, operation: dict[str, Any], *, follow: bool) -> None:
    """Print the operation, at its end where it is followed; exit 1 where something in it failed."""
    if follow:
        operation = _followed(client, operation)
    output.show(operation, *output.fields(operation))
    if follow and operation["failed"]:
        raise typer.Exit(output.FAILED)


def _followed(client: Client, operation: dict[str, Any]) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task(operation["kind"], total=operation["total"])
        while operation["state"] == "running":
            time.sleep(ASK_EVERY_S)
            operation = client.get(f"/v1/operations/{operation['id']}")
            progress.update(bar, completed=sum(operation[name] for name in ("done", "failed", "skipped")))
    return operation
