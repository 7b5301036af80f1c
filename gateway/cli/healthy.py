"""`heliograph healthy`: ask the supervisor of this machine how it is. What containers and watchdogs call."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import CommandFailed, CommandMisused, JsonFlag
from heliograph.gateway.cli.system import ConfigFile

ASK_LIMIT_S: Final = 3.0


def add(app: typer.Typer) -> None:
    app.command()(healthy)


def healthy(
    config: ConfigFile = None,
    ready: Annotated[bool, typer.Option("--ready", help="Whether it can do its work, stores and all.")] = False,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Ask the supervisor at monitor.bind whether it lives. Exit 1 where it does not, or does not answer."""
    import httpx

    from heliograph.gateway.cli import config as configuration

    monitor = configuration.load(config, os.environ, need=frozenset()).config.monitor
    if not monitor.port:
        raise CommandMisused("monitor.bind has the port 0, which a supervisor picks for itself; name one")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(monitor.host, monitor.host)  # noqa: S104
    url = httpx.URL(scheme="http", host=host, port=monitor.port, path="/readyz" if ready else "/livez")
    try:
        answer = httpx.get(url, timeout=ASK_LIMIT_S, trust_env=False)
    except httpx.HTTPError as error:
        raise CommandFailed(f"nothing answers at {url} ({type(error).__name__})") from error
    good = answer.is_success
    told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    failing = [f"{name}: {check['detail']}" for name, check in told.get("checks", {}).items() if not check["ok"]]
    output.show({"ok": good, **told}, "ok" if good else f"not ok ({answer.status_code})", *failing)
    raise typer.Exit(0 if good else output.FAILED)
