"""The dialogue with a mail server, without a line to it: what is said, what is heard.

A dialogue is a generator. It yields a step (`Say`, `Secure`), whoever drives it does it on a real connection and sends
back what was `Heard`, and the generator returns what came of it. So everything that RFC 5321 and its extensions
ask for (`opening`, `transaction`) can be tested by feeding it anything at all; it raises nothing, whatever the server
says.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers.smtp.replies import Reply, Stage
from heliograph.providers.verdicts import clip

MOST_LINE: Final = 4096
MOST_LINES: Final = 200
_REPLY_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Say:
    """Write `data`, then wait for `replies` of them. `begins`: the first byte that can have an effect is in it. `last`:
    it is the final dot, whose answer may take longer."""

    data: bytes = field(repr=False)
    replies: int = 1
    begins: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Secure:
    """Throw away what was received and not read (it came in the clear, from anybody), and start TLS."""


class Loss(StrEnum):
    """How a step can fail."""

    DISCONNECTED = "disconnected"
    TIMEOUT = "timeout"
    GARBLED = "garbled"
    CERTIFICATE = "certificate"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Heard:
    """The replies to a step, fewer than asked for where the connection was lost over it. `written`: all of what was to
    be said may have left us."""

    replies: tuple[Reply, ...] = ()
    loss: Loss | None = None
    detail: str = ""
    written: bool = True


Step = Say | Secure
Dialogue = Generator[Step, Heard, T]


class Garbled(Exception):
    """What the server wrote is no reply."""


class ReplyReader:
    """Bytes in, replies out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code: int | None = None
        self._lines: list[str] = []

    @property
    def idle(self) -> bool:
        """Nothing is left over."""
        return not self._buffer and not self._lines

    def clear(self) -> None:
        self._buffer.clear()
        self._code, self._lines = None, []

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def next(self) -> Reply | None:
        """The next whole reply; None where more bytes are needed. Raises Garbled."""
        while (end := self._buffer.find(b"\n")) >= 0:
            if end > MOST_LINE:
                break
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            if (reply := self._take(line)) is not None:
                return reply
        if len(self._buffer) > MOST_LINE:
            raise Garbled("a line is too long")
        return None

    def _take(self, line: bytes) -> Reply | None:
        match = _REPLY_LINE.fullmatch(line)
        if match is None:
            raise Garbled("a line begins without a reply's code")
        code = int(match[1])
        if self._code is not None and code != self._code:
            raise Garbled("the lines of a reply have different codes")
        if len(self._lines) == MOST_LINES:
            raise Garbled("a reply has too many lines")
        self._lines.append((match[3] or b"").decode("utf-8", "replace"))
        if match[2] == b"-":
            self._code = code
            return None
        reply = Reply(code, tuple(self._lines))
        self._code, self._lines = None, []
        return reply


def lost(heard: Heard, stage: Stage, outcome: Outcome = Outcome.DEFERRED) -> Answer:
    """The answer where there was none. A certificate that does not verify is for a person to mend."""
    certificate = heard.loss is Loss.CERTIFICATE
    return Answer(
        outcome=Outcome.MISCONFIGURED if certificate else outcome,
        code=str(heard.loss),
        detail=clip(f"{heard.detail or 'no answer'}, at {stage}"),
    )
