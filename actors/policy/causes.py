"""Failures that are the same failure: a text that they share, with what differs between messages taken out."""

from __future__ import annotations

import re
from typing import Final

_CUTS: Final = (
    (re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+"), "<address>"),
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{12,}\b"), "<id>"),
    (re.compile(r"\+?\d{5,}"), "<number>"),
    (re.compile(r"\s+"), " "),
)
_LONGEST: Final = 160


def cause_of(detail: str | None, *, code: str | None, reason: str) -> str:
    """The cause of a dead letter: the provider's words without ids, addresses and numbers, else its code, else ours.

    >>> cause_of("550 5.1.1 <asha@example.net>: user unknown (q 4c7d11aa0912f3)", code="550 5.1.1", reason="rejected")
    '550 5.1.1 <<address>>: user unknown (q <id>)'
    >>> cause_of(None, code=None, reason="no_route")
    'no_route'
    """
    text = detail or code or reason
    for pattern, stand_in in _CUTS:
        text = pattern.sub(stand_in, text)
    return text.strip()[:_LONGEST] or reason
