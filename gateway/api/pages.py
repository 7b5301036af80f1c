"""Pages of a list: the newest first, and a cursor that names the last one shown.

To a client the cursor is a word without meaning. It holds the list's name, the id and a checksum, so that one that was
cut, mistyped or taken from another list is refused and not read as something else. It grants nothing, so it is not
signed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TypeVar

from heliograph.actors.model.identity import made_at
from heliograph.gateway.api.reading import refused
from heliograph.gateway.problems import Fault

T = TypeVar("T")


def split(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Of `limit` + 1 that were asked for: those of the page, and whether there are more."""
    return found[:limit], len(found) > limit


def cursor_after(list_name: str, last_id: str) -> str:
    raw = f"{list_name}:{last_id}".encode()
    return base64.urlsafe_b64encode(raw + _checksum(raw)).decode().rstrip("=")


def id_before(list_name: str, cursor: str | None) -> str | None:
    """The id that a cursor stands for. Refused with 422."""
    if cursor is None:
        return None
    last_id = _id_in(list_name, cursor)
    if last_id is None:
        raise refused([Fault("?cursor", "is no cursor of this list: take it from `next_cursor`")])
    return last_id


def _id_in(list_name: str, cursor: str) -> str | None:
    try:
        whole = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name, _, last_id = whole[:-6].decode("ascii").partition(":")
        made_at(last_id)
    except ValueError:  # binascii.Error and UnicodeDecodeError are such
        return None
    return last_id if name == list_name and cursor_after(name, last_id) == cursor else None


def _checksum(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()[:6]
