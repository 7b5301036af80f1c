"""What Redis had of each breaker, moment by moment: looked at every twentieth of a second, beside a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import redis

from tests.chaos.judge import Span

EVERY_S: Final = 0.05
BREAK_S: Final = 0.25
"""Between two looks so far apart anything may have been."""


class Watch:
    """`url`: where Redis is now. A record that was lost, or not seen for a moment, ends its span."""

    def __init__(self, url: Callable[[], str], providers: Sequence[str]) -> None:
        self._url = url
        self._providers = providers
        self._open: dict[str, Span] = {}
        self._closed: list[Span] = []

    def spans(self) -> list[Span]:
        return [*self._closed, *self._open.values()]

    def look_on(self, end: threading.Event) -> None:
        while not end.is_set():
            url = self._url()
            with redis.Redis.from_url(url, decode_responses=True, socket_timeout=BREAK_S) as client:
                try:
                    while not end.wait(EVERY_S) and self._url() == url:
                        for provider in self._providers:
                            self._look(client, provider)
                except redis.RedisError:
                    end.wait(EVERY_S)

    def _look(self, client: redis.Redis, provider: str) -> None:
        asked_s = time.time()
        epoch, state = (
            str(word or "") for word in client.hmget(f"heliograph:breaker:{{{provider}}}", "epoch", "state")
        )
        answered_s = time.time()
        span = self._open.pop(provider, None)
        if span is not None and (str(span.epoch), span.state) == (epoch, state) and asked_s - span.last_s < BREAK_S:
            span.last_s = asked_s
        else:
            if span is not None:
                self._closed.append(span)
            if not epoch:
                return
            span = Span(provider, int(epoch), state, answered_s, answered_s)
        self._open[provider] = span
