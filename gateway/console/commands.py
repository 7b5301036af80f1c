"""What an action is for programs: its call of the API as `curl`, and its command. The key stays in the environment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

_FLAGS: Final = {"dry_run": "--dry-run", "reason": "--why", "rate": "--rate"}


@dataclass(frozen=True, slots=True)
class Equivalent:
    """`name` tells it from others on the same page. Not every call has a command."""

    name: str
    curl: str
    command: str | None


def equivalent(
    name: str, origin: str, path: str, command: Sequence[str] | None, body: Mapping[str, Any] | None = None, *,
    method: str = "POST",
) -> Equivalent:  # fmt: skip
    words = ["curl", "-sS", *(["-X", method] if method != "GET" else []), f"{origin}{path}"]
    curl = f'{shlex.join(words)} -H "Authorization: Bearer $HELIOGRAPH_API_KEY"'
    if body is not None:
        text = json.dumps(body, ensure_ascii=False)
        curl += f" -H 'Content-Type: application/json' -d {shlex.quote(text)}"
    return Equivalent(name, curl, shlex.join(["heliograph", *command]) if command else None)


def listing_equivalent(origin: str, what: str, path: str, exact: Mapping[str, str]) -> Equivalent:
    """What a page of dead letters shows: `exact` is its filter, as the API takes it."""
    query = f"?{urlencode(exact)}" if exact else ""
    return equivalent(what, origin, f"{path}{query}", ["dead-letters", what, *_flags(exact)], method="GET")


def operation_equivalent(origin: str, kind: str, body: Mapping[str, Any]) -> Equivalent:
    """Redrive, archive or discard: `body` is the API's."""
    command = ["dead-letters", kind, *body.get("ids", [])]
    if "filter" in body:
        command += _flags(body["filter"]) or ["--all"]
    for field, flag in _FLAGS.items():
        match body.get(field):
            case None | False:
                pass
            case True:
                command.append(flag)
            case value:
                command += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return equivalent(kind, origin, f"/v1/dead-letters/{kind}", command, body)


def _flags(criteria: Mapping[str, str]) -> list[str]:
    return [word for field, value in criteria.items() for word in (f"--{field}", value)]
