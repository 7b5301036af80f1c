"""`heliograph up`, `down`, `run` and `migrate`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import trio
import typer

from heliograph.actors.model.duration import parse_duration
from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import CommandFailed, CommandMisused, JsonFlag
from heliograph.gateway.cli.processes import Identity, stop, wait_gone
from heliograph.gateway.cli.state import DEFAULT_FOLDER, Folder, Running

if TYPE_CHECKING:
    from heliograph.actors.model.settings import Config
    from heliograph.gateway.cli.apart import Apart
    from heliograph.gateway.cli.up import Wish

DOWN_WITHIN_S: Final = 60.0
TOLD_LINES: Final = 20

DataDir = Annotated[Path, typer.Option("--data-dir", help="Where data, logs and the lock are kept.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file; the environment is read over it.")]


def add(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(run)
    app.command()(migrate)


def up(
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Of the gateway; 8080 by default.")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
    supervisors: Annotated[int, typer.Option(min=1, max=64, help="The first has all roles, others delivery.")] = 1,
    config: ConfigFile = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready.")] = False,
    json: JsonFlag = False,  # noqa: ARG001
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Boot the whole system on embedded services, until Ctrl-C.

    Providers are a sandbox for each channel unless --config names others. Redis and PostgreSQL are embedded unless
    the configuration names their URLs.
    """
    from heliograph.gateway.cli.up import Wish

    wish = Wish(folder=data_dir, file=config, port=port, supervisors=supervisors)
    if detach:
        _detached(wish)
    else:
        _attached(wish, os.fdopen(ready_fd, "w") if ready_fd is not None else None)


def _attached(wish: Wish, listener: TextIO | None) -> None:
    from heliograph.gateway.cli.up import run as run_system

    def announce(running: Running, config: Config) -> None:
        if listener is None:
            _print(running, config)
            return
        with listener:
            _print(running, config, listener)

    trio.run(run_system, wish, announce)


def _print(running: Running, config: Config, to: TextIO | None = None) -> None:
    from heliograph.gateway.cli.up import example

    lines = [
        f"URL: {running.url}",
        f"API key: {running.api_key}",
        f"Console: {running.console_url}",
        example(running, config),
    ]
    if to is not None:
        json.dump({"running": running.public(), "lines": lines}, to)
        return
    output.show(running.public(), *lines)


def _detached(wish: Wish) -> None:
    """Start ourselves again, apart from the terminal, and pass on what that one says when it is ready."""
    folder = Folder(wish.folder)
    folder.make()
    log = folder.path / "logs" / "up.log"
    reading, writing = os.pipe()
    argv = [sys.executable, "-P", "-m", "heliograph.gateway.cli.main", "up", f"--ready-fd={writing}"]
    argv += [f"--data-dir={folder.path}", f"--supervisors={wish.supervisors}"]
    argv += [f"--port={wish.port}"] if wish.port is not None else []
    argv += [f"--config={wish.file}"] if wish.file is not None else []
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        begin = out.tell()
        child = subprocess.Popen(  # noqa: S603 - every argument is ours
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, pass_fds=[writing]
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as answer:
            said = answer.read()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    if not said:
        code = child.wait()
        with log.open("rb") as file:
            file.seek(begin)
            for line in file.read().decode(errors="replace").splitlines()[-TOLD_LINES:]:
                output.tell(line)
        raise typer.Exit(code or output.FAILED)
    child.returncode = 0  # it goes on without us; Popen would warn of that
    ready = json.loads(said)
    output.show(ready["running"], *ready["lines"])


def down(data_dir: DataDir = DEFAULT_FOLDER, json: JsonFlag = False) -> None:  # noqa: ARG001
    """Stop what `up` runs, and wait until it has drained."""
    folder = Folder(data_dir)
    running = folder.running()
    if running is not None:
        trio.run(_stop, running.owner)
    elif folder.path.exists():
        trio.run(_clean_up, folder)
    stopped = running is not None
    output.show({"stopped": stopped}, "stopped" if stopped else f"nothing runs from {folder.path}")


async def _stop(owner: Identity) -> None:
    owner.signal(signal.SIGTERM)
    with trio.move_on_after(DOWN_WITHIN_S):
        await wait_gone(owner)
        return
    output.tell(f"heliograph: still draining after {DOWN_WITHIN_S:g} s; stopping at once")
    if not await stop(owner, ((signal.SIGTERM, 20.0),)):
        raise CommandFailed(f"process {owner.pid} had to be killed; the next `up` puts things right")


async def _clean_up(folder: Folder) -> None:
    """A killed `up` may have left children that still drain."""
    from heliograph.gateway.cli.up import stop_what_was_left

    with folder.lock():
        await stop_what_was_left(folder)
        folder.forget()


def run(
    config: ConfigFile = None,
    role: Annotated[
        str | None, typer.Option(help="gateway, delivery, dead-letters: any of them, with commas. All by default.")
    ] = None,
    wait: Annotated[str, typer.Option(help="How long to wait for the stores at the start.")] = "30s",
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Run one supervisor against the configured Redis and PostgreSQL, until SIGTERM or SIGINT, which drain."""
    from heliograph.gateway.cli.apart import Apart

    roles = _roles(role)
    try:
        patience_s = parse_duration(wait)
    except ValueError as error:
        raise CommandMisused(f"--wait: {error}") from error
    raise typer.Exit(trio.run(_run, Apart(partial(_prepare, config, patience_s)), roles))


def _prepare(config: Path | None, patience_s: float) -> Config:
    """The configuration, once the stores answer."""
    from heliograph.gateway.cli import config as configuration
    from heliograph.gateway.cli import database

    loaded = configuration.load(config, os.environ).config
    trio.run(partial(database.wait_for_stores, loaded, patience_s=patience_s))
    return loaded


async def _run(prepared: Apart[Config], roles: frozenset[str]) -> int:
    code = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_on_signal, nursery.cancel_scope)
        from heliograph.gateway.cli import logs
        from heliograph.supervisor import run_supervisor  # takes as long as the other process does

        config = await prepared.result()
        logs.configure(config.log)
        code = await run_supervisor(config, roles=roles)
        nursery.cancel_scope.cancel()
    return code


async def _cancel_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Before the supervisor listens for itself, and after, there is nothing to drain: a signal means now."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


ROLES: Final = frozenset({"gateway", "delivery", "dead-letters"})


def _roles(text: str | None) -> frozenset[str]:
    roles = ROLES if text is None else frozenset(part.strip() for part in text.split(","))
    if not roles <= ROLES:
        raise CommandMisused(f"--role: there is no {_listed(roles - ROLES)}; roles are {_listed(ROLES)}")
    return roles


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def migrate(config: ConfigFile = None, json: JsonFlag = False) -> None:  # noqa: ARG001
    """Bring the database to this version. Safe to run from many processes at once."""
    from heliograph.gateway.cli import database

    url = database.url_for(config)
    applied = trio.run(database.migrate, url)
    output.show({"applied": applied}, *(f"applied {name}" for name in applied or ["nothing: it was up to date"]))
