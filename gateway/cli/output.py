"""What the command says: results on standard output, everything else on standard error; text or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer

from heliograph.actors.model.errors import HeliographError

FAILED: Final = 1
MISUSED: Final = 2


class CommandFailed(HeliographError):
    """The command could not do what was asked; exit 1."""


class CommandMisused(HeliographError):
    """The command was asked for what cannot be; exit 2."""


class _Wish:
    json = False


def _wish_json(value: bool) -> bool:
    _Wish.json = _Wish.json or value
    return value


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.", callback=_wish_json)]
"""Every command has it; `heliograph --json COMMAND` is the same."""


def as_json() -> bool:
    return _Wish.json


def forget_wishes() -> None:
    """Each run of `main` begins with none: tests call it many times in one process."""
    _Wish.json = False


def say(line: str) -> None:
    """A result. Flushed, since the next one may take a while and a program may read along."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_json(value: object) -> None:
    say(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def tell(line: str) -> None:
    """A word to the person at the terminal, never a result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def show(value: Any, *lines: str) -> None:
    """The same thing both ways."""
    if as_json():
        say_json(value)
        return
    for line in lines:
        say(line)


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Aligned by spaces, nothing cut off: for eyes and for `awk` alike."""
    table = [[name.upper() for name in head], *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def fields(value: dict[str, Any]) -> list[str]:
    """One `name  value` a line."""
    width = max(map(len, value), default=0)
    return [f"{name.ljust(width)}  {_cell(inner)}" for name, inner in value.items()]


def _cell(value: object) -> str:
    match value:
        case None | "" | []:
            return "-"
        case dict() if not value:  # the pattern {} would take every one
            return "-"
        case float():
            return f"{value:g}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return " ".join(str(value).split())
