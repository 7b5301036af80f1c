"""A configured provider, and what is published of its actor."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.duration import parse_duration
from heliograph.actors.model.message import Channel
from heliograph.actors.model.word import Word


class BreakerState(Word):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class UnknownRule(Word):
    """What to do after an attempt without an answer."""

    ASK = "ask"
    RETRY = "retry"
    HOLD = "hold"


class HttpClient(Word):
    """Who makes the calls to providers over HTTP."""

    FAST = "fast"  # our own lines
    HTTPX = "httpx"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """Takes only messages that match: any of `countries` (ISO 3166, SMS only), and any of `tags`, and any of
    `categories`; an empty set asks nothing."""

    countries: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """`failure_ratio` is reached by failures, or by calls slower than `slow_call_s`, of at least `minimum_calls`
    within `window_s`; `window_s` and `minimum_calls` are each supervisor's own, the state is the cluster's."""

    failure_ratio: float = 0.5
    minimum_calls: int = 20
    window_s: float = 30.0
    slow_call_s: float = 5.0
    open_for_s: float = 10.0
    half_open_permits: int = 3


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` recipients in any `window_s` seconds, over the whole cluster."""

    limit: int
    window_s: float


WINDOWS_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
LONGEST_WINDOW_S: Final = 31 * 86_400.0
QUOTA_PATTERN: Final = r"^[1-9][0-9]{0,11}/(second|minute|hour|day|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$"


def parse_quota(text: str) -> Quota:
    """ValueError says how one is written.

    >>> parse_quota("50000/day"), parse_quota("200/10m")
    (Quota(limit=50000, window_s=86400.0), Quota(limit=200, window_s=600.0))
    """
    if not re.fullmatch(QUOTA_PATTERN, text):
        raise ValueError('should be recipients and a length of time, such as "50000/day", "100/minute" or "200/10m"')
    limit, _, window = text.partition("/")
    window_s = WINDOWS_S[window] if window in WINDOWS_S else parse_duration(window)
    if not 1.0 <= window_s <= LONGEST_WINDOW_S:
        raise ValueError("should be over a length of time from 1s to 31d")
    return Quota(int(limit), window_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule:
    """An operator's own row on what a provider answers. It asks for `status`, `code` and `text` (None: whatever it is)
    and says what such an answer comes to. `retry_after_s` None: as the provider itself says."""

    outcome: Outcome
    status: int | None = None
    code: str | None = None
    text: re.Pattern[str] | None = None
    meaning: str | None = None
    cure: str | None = None
    retry_after_s: float | None = None
    scope: Scope = Scope.PROVIDER


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One `[[providers]]` table, parsed. `rate` and `burst` are recipients over the whole cluster."""

    name: str
    kind: str
    channel: Channel
    priority: int
    rate: float
    burst: float
    weight: int = 1
    base_url: str | None = None
    host: str | None = None
    port: int | None = None
    tls: str = "starttls"
    sender: str | None = None
    routes: RouteRule = RouteRule()
    unknown: UnknownRule = UnknownRule.ASK
    concurrency: int = 32
    batch: int = 1
    timeout_s: float = 10.0
    breaker: BreakerSettings = BreakerSettings()
    test_only: bool = False  # takes what test keys send, and nothing else
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    receipts: Mapping[str, Any] = field(default_factory=dict, repr=False)  # empty: none are taken
    answers: tuple[AnswerRule, ...] = ()  # before the kind's own table
    quota: Quota | None = None
    http_client: HttpClient = HttpClient.FAST


def account_mark(settings: ProviderSettings) -> str:
    """Four hexadecimal digits that differ, but for once in 65,536 times, where the account is given otherwise. So few
    that nothing of a secret can be read from them."""
    known = (
        *(settings.base_url, settings.host, settings.port, settings.tls, settings.sender),
        *(sorted(settings.credentials.items()), sorted((k, repr(v)) for k, v in settings.options.items())),
    )
    return hashlib.sha256(repr(known).encode("utf-8", "surrogatepass")).hexdigest()[:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    until: datetime
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedBreaker:
    state: BreakerState  # OPEN or CLOSED
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What operators have said of one provider; kept in PostgreSQL, runs out by itself."""

    provider: str
    pause: Pause | None = None
    forced: ForcedBreaker | None = None
    resumed_at: datetime | None = None  # told for a few seconds, for each supervisor to hear of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReport:
    """One supervisor's word on one of its providers, written with each heartbeat."""

    name: str
    breaker: BreakerState
    breaker_since: datetime
    breaker_until: datetime | None
    effective_rate: float
    in_flight: int
    handled: int  # recipients handed over in the last 60 s
    quota_remaining: int | None = None  # None: it has no quota, or nobody has counted yet
    quota_until: datetime | None = None  # until when the quota keeps ordinary messages away
    answered: int = 0  # messages answered for in the last 60 s
    refuted: int = 0  # those of them that it rejected, though another provider had lately accepted their recipient
