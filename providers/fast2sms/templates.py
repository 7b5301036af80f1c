"""Templates registered with the operators (DLT), and whether what a message brings fits them. Pure.

A text must be its template's to the letter, but for the variables: `{#var#}`, or a typed `{#numeric#}`, `{#url#}`, each
of which stands for a limited number of characters, none of them a line break. Adjacent variables take a longer value.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CLASSIC_LONGEST: Final = 30
"""What every operator's platform lets a variable hold; today's take 40."""
VARIABLE: Final = re.compile(r"\{#[A-Za-z_ ]*#\}")
HEADER: Final = re.compile(r"[A-Za-z]{3,6}")
MESSAGE_ID: Final = re.compile(r"(?![0-9]{19}$)[0-9]{1,20}")
"""A template's number in Fast2SMS' DLT manager. Nineteen digits are its id with the operators, another thing."""
_KEYS: Final = frozenset({"text", "message_id", "sender"})


@dataclass(frozen=True, slots=True)
class Template:
    """`pieces` is what stands around the variables; `message_id` its number in Fast2SMS' DLT manager; `sender` the
    header of messages that name none."""

    pieces: tuple[str, ...]
    message_id: str | None = None
    sender: str | None = None

    @classmethod
    def of(cls, text: str, message_id: str | None = None, sender: str | None = None) -> Template:
        return cls(tuple(VARIABLE.split(text)), message_id, sender)

    def fits(self, text: str, longest: int) -> bool:
        """The answer of a regular expression with `.{0,longest}` for each variable, but in a time that no text can
        drive up: `reached` are the places up to which the text can be explained by the pieces so far.

        >>> Template.of("Dear {#var#}, your code is {#var#}.").fits("Dear Asha, your code is 5566.", 30)
        True
        """
        first, *rest = self.pieces
        reached = [len(first)] if text.startswith(first) else []
        for piece in rest:
            reached = _reached(text, piece, reached, longest)
        return len(text) in reached

    def takes(self, values: Sequence[str], longest: int) -> bool:
        return len(values) == len(self.pieces) - 1 and all(is_value(value, longest) for value in values)


def is_value(value: str, longest: int) -> bool:
    """Whether it can be joined with others by `|`, and is short enough for one variable."""
    return len(value) <= longest and "|" not in value and "\n" not in value


def parse_templates(value: object) -> Mapping[str, Template]:
    """An option: DLT template id -> text, or a table of `text`, `message_id`, `sender`."""
    match value:
        case dict():
            return {str(name): _parse(str(name), given) for name, given in value.items()}
    raise ValueError("must be a table of DLT template ids")


def _parse(name: str, given: object) -> Template:
    fields = {"text": given} if isinstance(given, str) else given
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str) or not fields["text"].strip():
        raise ValueError(f"{name} must be the template's text, or a table that has it as text")
    if odd := sorted(fields.keys() - _KEYS):
        raise ValueError(f"{name} has an unknown key {odd[0]}; known are {', '.join(sorted(_KEYS))}")
    message_id, sender = fields.get("message_id"), fields.get("sender")
    if isinstance(message_id, int):
        message_id = str(message_id)
    if message_id is not None and not (isinstance(message_id, str) and MESSAGE_ID.fullmatch(message_id)):
        raise ValueError(f"{name}: message_id is the template's number in the DLT manager of Fast2SMS")
    if sender is not None and not (isinstance(sender, str) and HEADER.fullmatch(sender)):
        raise ValueError(f"{name}: sender is a header of 3 to 6 letters")
    return Template.of(fields["text"], message_id, sender)


def _reached(text: str, piece: str, reached: Sequence[int], longest: int) -> list[int]:
    """Where `piece` can end, in ascending order, if its variable begins at one of `reached`. Of these the last one
    before it makes the shortest value, which will do if any does."""
    ends = []
    at = text.find(piece, reached[0]) if reached else -1
    while at != -1:
        begun = reached[bisect_right(reached, at) - 1]
        if at - begun <= longest and "\n" not in text[begun:at]:
            ends.append(at + len(piece))
        at = text.find(piece, at + 1)
    return ends
