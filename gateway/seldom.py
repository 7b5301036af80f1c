"""Lines of the log that strangers can cause: each kind at most every so often, with how many were kept back."""

from __future__ import annotations

from typing import Final

import trio

EVERY_S: Final = 10.0


class Seldom:
    """For a bounded number of kinds, as by provider."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._told_s: dict[str, float] = {}
        self._kept_back: dict[str, int] = {}

    def count(self, kind: str) -> int | None:
        """How many such things it is time to tell of, this one included; None where one was told of just now."""
        now_s = trio.current_time()
        count = self._kept_back.get(kind, 0) + 1
        told_s = self._told_s.get(kind)
        if told_s is not None and now_s < told_s + self._every_s:
            self._kept_back[kind] = count
            return None
        self._told_s[kind], self._kept_back[kind] = now_s, 0
        return count
