"""Identifiers: sortable by time, unguessable, of one alphabet.

Crockford's base 32 (no I, L, O, U), as in the ULID specification: 10 characters of milliseconds since 1970,
16 of chance. Text order is time order, so a cursor is an id and a partition is a range of ids.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in ALPHABET for b in ALPHABET)  # two digits at a time: half the work
_DRAWN: Final = ALPHABET.encode() * 8  # any byte is one digit, and each digit is as likely
_DIGITS: Final = {c: i for i, c in enumerate(ALPHABET)}
MOST_NUMBERED: Final = 1023


def _encode(value: int, pairs: int) -> str:
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


def new_id(prefix: str, at: datetime, chance: int | None = None) -> str:
    """An id such as `msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F`; `chance` (80 bits) makes a test or a simulation repeat."""
    drawn = os.urandom(16).translate(_DRAWN).decode() if chance is None else _encode(chance, 8)
    return f"{prefix}_{time_prefix(at)}{drawn}"


def time_prefix(at: datetime) -> str:
    """The ten characters that every id made at `at` begins with, after its prefix."""
    return _time_prefix(int(at.timestamp() * 1000))


@lru_cache(maxsize=64)
def _time_prefix(millisecond: int) -> str:
    return _encode(millisecond, 5)


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
    """Twenty characters that name one attempt at a provider (BulkSMS keeps no more), and lead back to its message.

    Eighteen of the message's own: its time but for the first digit, which is 0 until the year 3084, and 45 of its 80
    bits of chance; then the attempt's number in two digits, from 1023 on the same for all.
    """
    body_at = message_id.index("_") + 1
    return message_id[body_at + 1 : body_at + 19] + _PAIRS[min(number, MOST_NUMBERED)]


def of_attempt(identifier: str) -> tuple[str, str, int] | None:
    """The message ids from which to which (inclusive) an attempt's id belongs to, and its number; None for no such id.

    Two ids of one millisecond share the range once in 2^45 times.

    >>> of_attempt(attempt_id("msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F", 3))
    ('msg_01JD3Q8ZK4A7XNVT0B20000000', 'msg_01JD3Q8ZK4A7XNVT0B2ZZZZZZZ', 3)
    """
    text = identifier.strip().upper()
    if len(text) != 20 or any(c not in _DIGITS for c in text):
        return None
    stem = f"msg_0{text[:18]}"
    return stem + 7 * ALPHABET[0], stem + 7 * ALPHABET[-1], _DIGITS[text[18]] * 32 + _DIGITS[text[19]]
