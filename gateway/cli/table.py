"""A CSV file of messages: its header names the fields of `POST /v1/messages`, a line is a message.

Nested fields have a dot (`sms.sender_id`). An empty cell leaves its field out. Lists are separated by semicolons;
`metadata`, `headers` and the like are JSON. Without a column `channel` it is told by the recipient.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from heliograph.gateway.cli.output import CommandFailed, CommandMisused

LISTS: Final = frozenset({"cc", "bcc", "tags", "providers", "sms.dlt_variables"})
JSONS: Final = frozenset({"metadata", "headers", "attachments", "variables", "fallback"})
TEXTS: Final = frozenset(
    {
        *("channel", "to", "text", "subject", "html", "from", "reply_to", "template", "priority", "category"),
        *("send_at", "expires_at", "webhook_url", "idempotency_key"),
        *("sms.sender_id", "sms.dlt_template_id", "sms.dlt_entity_id"),
    }
)
COLUMNS: Final = LISTS | JSONS | TEXTS


@dataclass(frozen=True, slots=True)
class Line:
    """`number` is the line of the file at which the record begins, as an editor counts."""

    number: int
    message: Mapping[str, Any]


def read(file: Path, run: str) -> list[Line]:
    """Every message of the file, each with its idempotency key. CommandMisused names the line and the mend."""
    raw = _bytes(file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandMisused(f"{file} is not UTF-8 (byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    digest = hashlib.sha256(raw + b"\0" + run.encode()).hexdigest()[:32]
    try:
        header = _header(file, next(reader, []))
        lines = []
        began = reader.line_num + 1
        for cells in reader:
            if cells:
                lines.append(Line(began, _message(file, began, header, cells, f"csv-{digest}-{began}")))
            began = reader.line_num + 1
    except csv.Error as error:
        raise CommandMisused(f"{file}, line {reader.line_num}: {error}") from error
    return lines


def _bytes(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from error


def _header(file: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if name not in COLUMNS:
            nearest = difflib.get_close_matches(name, sorted(COLUMNS), n=1, cutoff=0.0)
            raise CommandMisused(f"{file}: unknown column {name!r}; the nearest known one is {nearest[0]}")
    if len(set(names)) < len(names):
        raise CommandMisused(f"{file}: a column is named twice")
    if "to" not in names:
        raise CommandMisused(f"{file}: the header names no column `to`")
    return names


def _message(file: Path, number: int, header: list[str], cells: list[str], key: str) -> dict[str, Any]:
    if len(cells) > len(header):
        raise CommandMisused(f"{file}, line {number}: {len(cells)} cells, but the header names {len(header)}")
    message: dict[str, Any] = {"idempotency_key": key}
    for name, cell in zip(header, cells, strict=False):
        if not cell:
            continue
        outer, dot, inner = name.partition(".")
        table = message.setdefault(outer, {}) if dot else message
        try:
            table[inner if dot else name] = _reader(name)(cell)
        except ValueError as error:
            raise CommandMisused(f"{file}, line {number}: {name} should be JSON") from error
    message.setdefault("channel", "email" if "@" in message.get("to", "") else "sms")
    return message


def _reader(name: str) -> Callable[[str], object]:
    if name in JSONS:
        return json.loads
    return _listed if name in LISTS else str


def _listed(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(";") if part.strip()]
