"""Lengths of time as people write them, in files and in the API: `250ms`, `10s`, `1h30m`."""

from __future__ import annotations

import re
from typing import Final

UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
LONGEST_S: Final = 100 * 365 * 86_400.0
"""Anything longer is a slip, and would overflow a date."""

_WHOLE: Final = re.compile(PATTERN)
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds; parts are summed. ValueError says how one is written.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration("0s")
    (5400.0, 0.25, 0.0)
    """
    if len(text) > 100 or not _WHOLE.fullmatch(text):
        raise ValueError('a duration is numbers with units (ms, s, m, h, d), such as "10s" or "1h30m"')
    seconds = sum(float(number) * UNITS_S[unit] for number, unit in _PART.findall(text))
    if seconds > LONGEST_S:
        raise ValueError("a duration is at most 100 years (36500d)")
    return round(seconds, 6)


def format_duration(seconds: float) -> str:
    """The shortest way to write it, to the millisecond.

    >>> format_duration(5400), format_duration(0.25), format_duration(0), format_duration(86400)
    ('1h30m', '250ms', '0s', '1d')
    """
    left_ms = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left_ms = divmod(left_ms, round(UNITS_S[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
