"""What a kind of provider is to the rest: what it carries, what it must be told, and what builds its courier."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Final, TypeVar

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Courier
from heliograph.actors.ports.receipts import ReceiptReader
from heliograph.providers.verdicts import Finding

T = TypeVar("T")
_PRINTABLE: Final = re.compile(r"[ -~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """`parse` takes what a file (typed) or the environment (text) gave; its ValueError says what is wanted."""

    parse: Callable[[object], object]
    about: str
    default: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`credentials` are alternatives: one of the sets must be given whole, and none in part. `batch` is the most
    messages of one call.

    `base_url` is None for kinds that are reached by host and port, or not at all. `explain` says what an answer
    (status, body) means, by the kind's own table; ValueError where there is no such status. `receipts` builds the
    reader of a provider whose settings have a `receipts` table; ConfigurationError names the key that is wrong.
    """

    channels: frozenset[Channel]
    courier: Callable[[ProviderSettings], Courier]
    explain: Callable[[str, bytes], Finding] | None = None
    credentials: tuple[tuple[str, ...], ...] = ((),)
    optional_credentials: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    receipts: Callable[[ProviderSettings], ReceiptReader] | None = None
    base_url: str | None = None
    rate: float | None = None
    batch: int = 1

    def prepare(self, settings: ProviderSettings) -> ProviderSettings:
        """The settings with their options parsed and defaults filled in. ConfigurationError names the key."""
        if settings.channel not in self.channels:
            raise fault(settings, "channel", f"{settings.kind} carries {' and '.join(sorted(self.channels))}")
        if 1 < self.batch < settings.batch:
            raise fault(settings, "batch", f"{settings.kind} takes at most {self.batch} messages in a call")
        self._check_credentials(settings)
        self._check_answers(settings)
        self.reader(settings)
        return replace(settings, options=self._parse_options(settings))

    def reader(self, settings: ProviderSettings) -> ReceiptReader | None:
        """What reads its receipts; None where it is told of none. ConfigurationError names the key."""
        if not settings.receipts:
            return None
        if self.receipts is None:
            raise fault(settings, "receipts", f"{settings.kind} has no receipts that are taken here")
        return self.receipts(settings)

    def _check_credentials(self, settings: ProviderSettings) -> None:
        given = settings.credentials
        known = {*(name for names in self.credentials for name in names), *self.optional_credentials}
        for name, value in given.items():
            if name not in known:
                raise fault(settings, f"credentials.{name}", f"unknown key{nearest(name, known)}")
            if not _PRINTABLE.fullmatch(value):
                raise fault(settings, f"credentials.{name}", "empty, or with characters that no credential has")
        whole = [names for names in self.credentials if all(name in given for name in names)]
        if whole and set(given) <= {*self.optional_credentials, *(name for names in whole for name in names)}:
            return
        best = max(self.credentials, key=lambda names: sum(name in given for name in names))
        missing = next(name for name in best if name not in given)
        wanted = ", or ".join(" and ".join(names) for names in self.credentials)
        raise fault(settings, f"credentials.{missing}", f"missing; {settings.kind} needs {wanted}")

    def _check_answers(self, settings: ProviderSettings) -> None:
        if settings.answers and self.explain is None:
            raise fault(settings, "answers", f"{settings.kind} has no table of answers to go before")
        for number, rule in enumerate(settings.answers):
            if self.base_url is None and rule.outcome is Outcome.ACCEPTED:
                # A row is asked of each refusal in a dialogue, and only the last reply can be about the mail itself.
                raise fault(settings, f"answers.{number}.outcome", "a mail server's refusal is never accepted")

    def _parse_options(self, settings: ProviderSettings) -> dict[str, object]:
        parsed = {name: option.default for name, option in self.options.items()}
        for name, value in settings.options.items():
            if name not in self.options:
                raise fault(settings, f"options.{name}", f"unknown key{nearest(name, self.options)}")
            try:
                parsed[name] = self.options[name].parse(value)
            except ValueError as error:
                raise fault(settings, f"options.{name}", str(error)) from None
        return parsed


def fault(settings: ProviderSettings, key: str, text: str) -> ConfigurationError:
    """Names the table and the key, never the value: it may be a secret."""
    return ConfigurationError(f'[[providers]] name = "{settings.name}", {key}: {text}')


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean …?`, or the known ones, or nothing where there are none."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def chosen(settings: ProviderSettings, name: str, kind: type[T]) -> T | None:
    """A prepared option; None where it has neither a value nor a default."""
    value = settings.options.get(name)
    return value if isinstance(value, kind) else None


def text(value: object) -> str:
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
        raise ValueError("must be a text that is not empty")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    """A parser for a closed set of words, any case."""
    known = {word.lower(): word for word in words}

    def parse(value: object) -> str:
        word = known.get(value.lower()) if isinstance(value, str) else None
        if word is None:
            raise ValueError(f"must be one of {', '.join(words)}")
        return word

    return parse


def flag(value: object) -> bool:
    match value:
        case bool():
            return value
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise ValueError("must be true or false")


def whole(least: int, most: int) -> Callable[[object], int]:
    """A parser for a whole number within bounds."""

    def parse(value: object) -> int:
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:10])
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return parse
