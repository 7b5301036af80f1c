"""When rejections are a verdict on the provider and not on the recipients.

A rejection is *refuted* where another provider has lately accepted a message for the same recipient. A provider that
refuses many of those, and little else comes of its calls, is what is broken: an account that lost its route, a filter
gone mad. A pure machine; the counts of all supervisors are put together by whoever asks it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from heliograph.actors.model.message import Message

WINDOW_S: Final = 60.0
LATELY_S: Final = 86_400.0
LEAST: Final = 20
MOST_KEPT: Final = 200


class Ruling(StrEnum):
    NONE = "none"
    WARN = "warn"  # it is to blame, and there is nobody else to send by
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of the whole cluster, in the last `WINDOW_S`: how many messages the provider answered for, and how many of the
    answers were refuted rejections."""

    answered: int
    refuted: int

    @property
    def damning(self) -> bool:
        """
        >>> Evidence(40, 20).damning, Evidence(41, 20).damning, Evidence(19, 19).damning
        (True, False, False)
        """
        return self.refuted >= LEAST and 2 * self.refuted >= self.answered


def rule(evidence: Evidence, *, others: bool) -> Ruling:
    """`others`: the messages it refused could go by another provider."""
    if not evidence.damning:
        return Ruling.NONE
    return Ruling.PAUSE if others else Ruling.WARN


class Refutations:
    """One supervisor's refuted rejections of one provider within the window; of the latest, the messages."""

    __slots__ = ("_at_s", "_messages")

    def __init__(self) -> None:
        self._at_s: deque[float] = deque()
        self._messages: deque[Message] = deque(maxlen=MOST_KEPT)

    def add(self, message: Message, now_s: float) -> None:
        self._at_s.append(now_s)
        self._messages.append(message)

    def count(self, now_s: float) -> int:
        while self._at_s and self._at_s[0] <= now_s - WINDOW_S:
            self._at_s.popleft()
        if not self._at_s:
            self._messages.clear()
        return len(self._at_s)

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self._messages)

    def clear(self) -> None:
        self._at_s.clear()
        self._messages.clear()
