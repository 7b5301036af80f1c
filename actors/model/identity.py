"""Identifiers: sortable by time, unguessable, of one alphabet.

Crockford's base 32 (no I, L, O, U), as in the ULID specification: 10 characters of milliseconds since 1970,
16 of chance. Text order is time order, so a cursor is an id and a partition is a range of ids.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in ALPHABET for b in ALPHABET)  # two digits at a time: half the work
_DIGITS: Final = {c: i for i, c in enumerate(ALPHABET)}


def _encode(value: int, pairs: int) -> str:
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


def new_id(prefix: str, at: datetime, chance: int | None = None) -> str:
    """An id such as `msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F`; `chance` (80 bits) makes a test or a simulation repeat."""
    drawn = int.from_bytes(os.urandom(10)) if chance is None else chance
    return f"{prefix}_{time_prefix(at)}{_encode(drawn, 8)}"


@lru_cache(maxsize=64)
def time_prefix(at: datetime) -> str:
    """The ten characters that every id made at `at` begins with, after its prefix."""
    return _encode(int(at.timestamp() * 1000), 5)


def made_at(identifier: str) -> datetime:
    """When an id was made. ValueError where it is none of ours."""
    body = identifier.partition("_")[2]
    if len(body) != 26 or any(c not in _DIGITS for c in body):
        raise ValueError(f"not an id: {identifier!r}")
    value = 0
    for c in body[:10]:
        value = value * 32 + _DIGITS[c]
    return datetime.fromtimestamp(value / 1000, UTC)


def attempt_id(message_id: str, number: int) -> str:
    """Twenty characters that name one attempt at a provider (BulkSMS keeps no more): a digest, so no look-up.

    80 bits of BLAKE2b over the message's id and the attempt's number, in hexadecimal.
    """
    return hashlib.blake2b(f"{message_id}/{number}".encode(), digest_size=10).hexdigest()
