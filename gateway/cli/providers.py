"""`heliograph providers`: the cluster's view of each, and what an operator can tell one."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.client import Client, KeyOption, UrlOption, target
from heliograph.gateway.cli.output import CommandMisused, JsonFlag

HEAD: Final = (
    *("name", "kind", "channel", "priority", "weight", "breaker", "until"),
    *("rate", "effective", "quota left", "in flight", "share", "paused"),
)

STATES: Final = ("open", "closed", "auto")

Name = Annotated[str, typer.Argument(metavar="NAME")]
For = Annotated[str, typer.Option("--duration", help="After that it runs out by itself: 30m, 1h.")]


def add(app: typer.Typer) -> None:
    group = typer.Typer(
        invoke_without_command=True,
        help="Each provider's breaker, limiter, load and share; pause or resume one.",
    )
    group.callback()(providers)
    group.command()(pause)
    group.command()(resume)
    group.command()(breaker)
    app.add_typer(group, name="providers")


def providers(
    context: typer.Context,
    supervisors: Annotated[bool, typer.Option("--supervisors", help="Each supervisor's own view.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    if context.invoked_subcommand is not None:
        return
    found = Client(target(url, api_key)).get("/v1/providers", {"view": "supervisors" if supervisors else None})
    if output.as_json() or supervisors:
        output.show(found, *(line for row in found["data"] for line in (*output.fields(row), "")))
        return
    output.show(found, *output.columns(HEAD, map(_row, found["data"])))


def _row(found: dict[str, Any]) -> list[object]:
    state, limiter, paused = found["breaker"], found["limiter"], found["paused"]
    return [
        *(found[name] for name in ("name", "kind", "channel", "priority", "weight")),
        state["state"] + (" (forced)" if state["forced"] else ""),
        state["until"],
        limiter["rate"],
        limiter["effective_rate"],
        found["quota"] and found["quota"]["remaining"],
        found["in_flight"],
        found["share"],
        f"until {paused['until']}" if paused else None,
    ]


def pause(
    name: Name,
    duration: For = "1h",
    reason: Annotated[str | None, typer.Option(help="Kept with it.")] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Hand it nothing for so long; messages wait or go elsewhere."""
    _tell(url, api_key, f"{name}/pause", {"duration": duration, "reason": reason})


def resume(name: Name, url: UrlOption = None, api_key: KeyOption = None, json: JsonFlag = False) -> None:  # noqa: ARG001
    """End a pause."""
    _tell(url, api_key, f"{name}/resume", {})


def breaker(
    name: Name,
    state: Annotated[str, typer.Argument(metavar="STATE", help="open | closed | auto")],
    duration: For = "1h",
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Hold its breaker open or closed for so long, or leave it to itself again."""
    if state not in STATES:
        raise CommandMisused(f"STATE is {', '.join(STATES[:-1])} or {STATES[-1]}, not {state!r}")
    _tell(url, api_key, f"{name}/breaker", {"state": state, "duration": None if state == "auto" else duration})


def _tell(url: str | None, api_key: str | None, path: str, body: dict[str, object]) -> None:
    found = Client(target(url, api_key)).post(f"/v1/providers/{path}", body)
    output.show(found, *output.fields(found))
