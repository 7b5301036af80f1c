"""The filter of dead letters, which is the page's address: what a reader sees can be kept, sent on, and gone back to.

Parameters are the API's. In the search box the same filter is written as `provider:post code:"550 5.1.1" some words`.
A time may also say how long ago: `since:2h`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from heliograph.actors.model.deadletter import DeadLetterFilter, DeadLetterGroup
from heliograph.actors.model.duration import parse_duration
from heliograph.gateway.api.dead_letters import filter_of
from heliograph.gateway.api.reading import query_of
from heliograph.gateway.api.schemas import DeadLetterCriteria

FIELDS: Final = ("state", "channel", "provider", "reason", "code", "cause", "tag", "since", "until", "text")
MOMENTS: Final = ("since", "until")
_WORD: Final = re.compile(r'(?:([a-z]+):)?("[^"]*"|\S+)')


@dataclass(frozen=True, slots=True)
class Filter:
    """`given` is what was asked for, as it was written; `exact` the same with moments for ages, as the API takes it."""

    given: Mapping[str, str]
    exact: Mapping[str, str]
    wanted: DeadLetterFilter

    @classmethod
    def of(cls, pairs: Mapping[str, str], now: datetime) -> Filter:
        """Reads those of `pairs` that are a filter's. Refused with 422."""
        given = {name: pairs[name].strip() for name in FIELDS if pairs.get(name, "").strip()}
        exact = {name: moment_of(value, now) if name in MOMENTS else value for name, value in given.items()}
        return cls(given, exact, filter_of(query_of(DeadLetterCriteria, urlencode(exact).encode())))

    @property
    def query(self) -> str:
        return urlencode(self.given)

    def without(self, name: str) -> str:
        return urlencode({n: v for n, v in self.given.items() if n != name})

    def of_group(self, group: DeadLetterGroup) -> str:
        """The query of this group's own letters."""
        own = {
            "channel": group.channel.value,
            "provider": group.provider,
            "reason": group.reason.value,
            "code": group.code,
            "cause": group.cause,
        }
        return urlencode({**self.given, **{name: value for name, value in own.items() if value}})

    @property
    def words(self) -> str:
        """As the search box shows it; `parse_words` reads it again."""
        marked = (f"{name}:{_quoted(value)}" for name, value in self.given.items() if name != "text")
        return " ".join([*marked, *([self.given["text"]] if "text" in self.given else [])])


def parse_words(words: str) -> dict[str, str]:
    """
    >>> parse_words('provider:post code:"550 5.1.1" mailbox is full')
    {'provider': 'post', 'code': '550 5.1.1', 'text': 'mailbox is full'}
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    for match in _WORD.finditer(words):
        name, value = match[1], match[2].strip('"')
        if name in FIELDS and value:
            found[name] = value
        else:
            rest.append(match[0])
    if rest:
        found["text"] = " ".join([*([found["text"]] if "text" in found else []), *rest])
    return found


def moment_of(text: str, now: datetime) -> str:
    """RFC 3339 of a length of time before `now`; anything else as it is, for the API's own check."""
    try:
        at = now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        return text
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def first_of_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A form or query by name; of a name that comes twice the first that says something."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if not found.get(name):
            found[name] = value
    return found


def _quoted(value: str) -> str:
    value = value.replace('"', "")
    return f'"{value}"' if not value or re.search(r"\s", value) else value
