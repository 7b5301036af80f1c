"""The `heliograph` command: what it is called with, and what becomes of errors.

Exit codes: 0 ok, 1 failed, 2 bad usage or configuration. No command shows a traceback; an error of ours says what
happened and what to do, any other one names its type and the line of code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from heliograph.actors.model.errors import ConfigurationError, HeliographError
from heliograph.gateway.cli import output, without_rich  # noqa: F401 - see there
from heliograph.gateway.cli.output import CommandMisused, JsonFlag

COMMANDS: Final = (
    "system",
    "settings",
    "check",
    "healthy",
    "keys",
    "send",
    "messages",
    "dead_letters",
    "operations",
    "providers",
    "classify",
    "simulate",
)
"""Modules of this package, each with an `add(app)`, in the order of `--help`. What is heavy they import when called."""


def _version(wanted: bool) -> None:
    if wanted:
        version = importlib.metadata.version("heliograph")
        output.show({"version": version}, f"heliograph {version}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
    json: JsonFlag = False,
) -> None:
    """Heliograph delivers SMS and email, loses nothing, and keeps to every provider's rate."""


def application() -> typer.Typer:
    app = typer.Typer(
        name="heliograph",
        callback=_root,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in COMMANDS:
        importlib.import_module(f"heliograph.gateway.cli.{name}").add(app)
    return app


def main() -> None:
    """The entry point of the console script."""
    output.forget_wishes()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    try:
        application()(args=arguments, prog_name="heliograph")
    except BaseException as error:
        return _exit_code(error)
    return 0


def _exit_code(error: BaseException) -> int:
    match error:
        case BaseExceptionGroup():
            # Several tasks may fail of one cause: it is told once.
            leaves = {(type(leaf), str(leaf)): leaf for leaf in _leaves(error)}
            return max(map(_exit_code, leaves.values()))
        case SystemExit():  # typer has told what there was to tell
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        case KeyboardInterrupt():
            output.tell("heliograph: interrupted")
            return output.FAILED
        case ConfigurationError() | CommandMisused():
            _tell(error)
            return output.MISUSED
        case HeliographError():
            _tell(error)
            return output.FAILED
        case _:
            output.tell(f"heliograph: internal error: {type(error).__name__} at {_line_of(error)}")
            return output.FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _tell(error: Exception) -> None:
    for line in (str(error) or type(error).__doc__ or type(error).__name__).splitlines():
        output.tell(f"heliograph: {line}")


def _line_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "an unknown line"


if __name__ == "__main__":
    main()
