"""The children of one provider's metrics, looked up once."""

from __future__ import annotations

from typing import Final

from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Message
from heliograph.actors.model.provider import BreakerState
from heliograph.actors.model.word import Word

STATE_NUMBERS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class StopReason(Word):
    """Why a provider was stopped for more than a passing fault."""

    MISCONFIGURED = "misconfigured"
    QUOTA = "quota"
    REJECTIONS = "rejections"


class ProviderMeters:
    def __init__(self, metrics: Metrics, provider: str, *, has_quota: bool = False) -> None:
        self._quota_remaining = metrics.provider_quota_remaining.labels(provider) if has_quota else None
        self._outcomes = {outcome: metrics.attempts.labels(provider, outcome) for outcome in Outcome}
        self._parts = metrics.message_parts.labels(provider)
        self._state = metrics.breaker_state.labels(provider)
        self._transitions = {state: metrics.breaker_transitions.labels(provider, state) for state in BreakerState}
        self.duration = metrics.attempt_duration.labels(provider)
        self.slot_wait = metrics.limiter_wait.labels(provider)
        self._stops = {reason: metrics.provider_stops.labels(provider, reason) for reason in StopReason}
        self.rate = metrics.limiter_rate.labels(provider)
        self._state.set(STATE_NUMBERS[BreakerState.CLOSED])
        self._new_outcomes = dict.fromkeys(Outcome, 0)
        self._new_parts = 0

    def attempt(self, message: Message, outcome: Outcome) -> None:
        """Counted now, and seen with the next `show`: what others may see takes a lock for each step."""
        self._new_outcomes[outcome] += 1
        if outcome is Outcome.ACCEPTED:
            self.taken(message)

    def taken(self, message: Message) -> None:
        """By an attempt that said so, or that is now known to have been. Seen with the next `show`."""
        self._new_parts += message.parts or 0

    def show(self) -> None:
        for outcome, count in self._new_outcomes.items():
            if count:
                self._outcomes[outcome].inc(count)
                self._new_outcomes[outcome] = 0
        self._parts.inc(self._new_parts)
        self._new_parts = 0

    def stopped(self, reason: StopReason) -> None:
        self._stops[reason].inc()

    def remains(self, quota_remaining: int) -> None:
        if self._quota_remaining is not None:
            self._quota_remaining.set(quota_remaining)

    def turned(self, state: BreakerState) -> None:
        self._transitions[state].inc()
        self._state.set(STATE_NUMBERS[state])
