"""Which providers could carry a message, and in which order to ask them.

Order: lower `priority` first; equals share by weight, as DNS SRV records do (RFC 2782): a draw in [0, 1) picks among
those of one priority, in proportion to their weights. What a provider can never carry (`Courier.takes`), what the
message or the configuration rules out, is no candidate; what is merely down, paused or full is one, and waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from heliograph.actors.model.message import Channel, Message, Priority
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.value import value
from heliograph.actors.policy.bucket import shape
from heliograph.actors.policy.quota import ordinary


@value(frozen=True, slots=True)
class Candidates:
    """Names by priority (groups of equals), and why each of the others never could."""

    groups: tuple[tuple[str, ...], ...]
    refused: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)


def order(groups: Sequence[Sequence[str]], weights: Mapping[str, int], draw: float) -> list[str]:
    """One walk over all candidates: groups in turn, each group's members drawn by weight without replacement."""
    walk: list[str] = []
    for group in groups:
        left = list(group)
        while left:
            total = sum(weights[name] for name in left)
            if total == 0:
                walk += left
                break
            point = draw * total
            for name in left:
                point -= weights[name]
                if point < 0:
                    break
            left.remove(name)
            walk.append(name)
    return walk


class Router:
    """`takes[name]` is the courier's own word on a message; `country_of` tells the country of a number (ISO 3166)."""

    def __init__(
        self,
        providers: Sequence[ProviderSettings],
        takes: Mapping[str, Callable[[Message], str | None]],
        country_of: Callable[[str], str | None],
    ) -> None:
        self.settings = {p.name: p for p in providers}
        self.weights = {p.name: p.weight for p in providers}
        self._takes = takes
        self._country_of = country_of
        self._usable = {p.name: shape(p.rate, p.burst).burst for p in providers}
        self._by_channel: dict[Channel, list[ProviderSettings]] = {channel: [] for channel in Channel}
        for provider in sorted(providers, key=lambda p: p.priority):
            self._by_channel[provider.channel].append(provider)
        self._all = {channel: Candidates(_grouped(those), {}) for channel, those in self._by_channel.items()}

    def candidates(self, message: Message) -> Candidates:
        """Everything that could ever carry this message, and a word for each of the others on its channel."""
        refused: dict[str, str] = {}
        for provider in self._by_channel[message.channel]:
            why = self._refusal(provider, message)
            if why is not None:
                refused[provider.name] = why
        if not refused:
            return self._all[message.channel]
        left = [provider for provider in self._by_channel[message.channel] if provider.name not in refused]
        return Candidates(_grouped(left), refused)

    def _refusal(self, provider: ProviderSettings, message: Message) -> str | None:
        if message.live and provider.test_only:
            return "test_only"
        if not message.live and provider.kind != "sandbox":
            return "test_key"
        if message.providers is not None and provider.name not in message.providers and not provider.test_only:
            return "not_named"
        rule = provider.routes
        if rule.tags and rule.tags.isdisjoint(message.tags):
            return "tags"
        if rule.categories and message.category not in rule.categories:
            return "category"
        if rule.countries and message.channel is Channel.SMS and self._country_of(message.to) not in rule.countries:
            return "country"
        if message.recipients > self._most(provider, message.priority):
            return "too_many_recipients"
        return self._takes[provider.name](message)

    def _most(self, provider: ProviderSettings, priority: Priority) -> float:
        """The most recipients that one message of this priority can have there."""
        usable = self._usable[provider.name]
        if provider.quota is None:
            return usable
        return min(usable, provider.quota.limit if priority is Priority.URGENT else ordinary(provider.quota))


def _grouped(providers: Sequence[ProviderSettings]) -> tuple[tuple[str, ...], ...]:
    """Names of those given in the order of their priority."""
    return tuple(tuple(p.name for p in group) for _, group in groupby(providers, key=lambda p: p.priority))
