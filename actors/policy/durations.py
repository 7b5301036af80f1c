"""Lengths of time as people write them, in files and in the API alike: `250ms`, `10s`, `1h30m`."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TERM: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(rf"(?:{_TERM.pattern})+", re.ASCII)


def seconds(text: str) -> float:
    """
    >>> seconds("1h30m")
    5400.0

    ValueError where it is no sum of numbers with units.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no duration: write numbers with units (ms s m h d), such as 90s or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _TERM.findall(text))
