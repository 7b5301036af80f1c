"""What an API key may send: messages per second, and messages per day.

The rate is a leaky bucket that holds one second's messages. A request that is larger than the bucket is taken when the
bucket is empty, and those after it wait until it has leaked away: so that a key with a small rate can use batches at
all, and the rate holds over time. Any window of T seconds has at most rate x T + max(rate, the largest request)
messages. A day is a calendar day in UTC. A request is taken whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.word import Word

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US


class Limit(Word):
    RATE = "rate"
    DAILY = "daily"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """At least one of them is set."""

    key_id: str
    rate: int | None
    daily: int | None

    @classmethod
    def of(cls, key: ApiKey) -> KeyLimits | None:
        return None if key.rate is None and key.daily is None else cls(key.id, key.rate, key.daily)


@dataclass(frozen=True, slots=True)
class Usage:
    """`level_us`: when the bucket will have leaked empty; `day`: days since 1970-01-01, of which `used` are counted."""

    level_us: int = 0
    day: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class Exceeded:
    """`spent`: not even one more message would be taken before `retry_after_s` is over."""

    limit: Limit
    most: int
    retry_after_s: float
    spent: bool


def charge(limits: KeyLimits, usage: Usage, messages: int, now_us: int) -> Usage | Exceeded:
    """`now_us` since 1970-01-01 UTC.

    >>> shop = KeyLimits("key", rate=2, daily=100)
    >>> charge(shop, Usage(), 2, 5_000_000)
    Usage(level_us=6000000, day=0, used=2)
    >>> charge(shop, Usage(level_us=6_000_000), 1, 5_000_000)
    Exceeded(limit=<Limit.RATE: 'rate'>, most=2, retry_after_s=0.5, spent=True)
    """
    day = now_us // DAY_US
    used = usage.used if usage.day == day else 0
    if limits.daily is not None and used + messages > limits.daily:
        left_s = ((day + 1) * DAY_US - now_us) / SECOND_US
        return Exceeded(Limit.DAILY, limits.daily, left_s, spent=used >= limits.daily)
    level = usage.level_us
    if limits.rate is not None:
        each_us = SECOND_US / limits.rate
        # A level further ahead than any charge can set it is of a clock that was set back.
        empty_us = max(level, now_us) if level <= now_us + DAY_US else now_us
        level = round(empty_us + messages * each_us)
        over_us = min(level - now_us - SECOND_US, empty_us - now_us)
        if over_us > 0:
            return Exceeded(Limit.RATE, limits.rate, over_us / SECOND_US, spent=empty_us + each_us > now_us + SECOND_US)
    return Usage(level, day, used + messages)
