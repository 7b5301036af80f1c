"""How often a child may crash: restart intensity, with a pause that grows.

The pause before start n within the window is base * 2**(n - 1), at most the cap; more than `most` crashes within
`window_s` exceed it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    most: int = 10
    window_s: float = 60.0
    base_s: float = 0.05
    cap_s: float = 5.0


@dataclass(slots=True)
class Crashes:
    """The crashes of one child that still count."""

    intensity: Intensity
    _at: deque[float] = field(default_factory=deque)

    def add(self, now_s: float) -> float | None:
        """Count a crash; answer the pause before the next start, or None when there were too many."""
        self._at.append(now_s)
        while self._at and self._at[0] <= now_s - self.intensity.window_s:
            self._at.popleft()
        if len(self._at) > self.intensity.most:
            return None
        return min(self.intensity.cap_s, self.intensity.base_s * 2.0 ** (len(self._at) - 1))

    def forget(self) -> None:
        self._at.clear()
