"""A closed set of words."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """A StrEnum that hashes as the text it is: an Enum's own hash is a call into Python, and words are the keys of most
    tables on the way of a message."""

    __hash__ = str.__hash__
