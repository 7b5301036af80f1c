"""What follows an attempt: sent, the next provider at once, a wait, or the end.

| outcome | counts | then |
|---|---|---|
| accepted | yes | sent |
| rejected | yes | failed, `rejected` |
| deferred | yes | the next provider that was not tried in this pass; nobody left: backoff, a new pass |
| throttled | no, but see MOST_UNCOUNTED | as deferred; `Retry-After` bounds the wait from below |
| misconfigured | no, as throttled | as deferred |
| unknown | yes | by the provider's `unknown` rule: ask, retry (twice at most), hold |

A *pass* is one walk over the providers of a route, each asked at most once. Backoff starts only when no provider is
left that could be asked now, and never ends before the first of them can be asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Move, Priority, Reason, Standing, State, WaitingFor
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import DeliverySettings
from heliograph.actors.policy.availability import put_off
from heliograph.actors.policy.backoff import full_jitter
from heliograph.actors.policy.causes import cause_of

MOST_UNCOUNTED: Final = 50
"""Throttled and misconfigured attempts of one message: they cost no attempt, but not without end."""
MOST_UNKNOWN: Final = 2
MOST_RECLAIMS: Final = 3
ASK_AFTER_S: Final = 1.0
"""A provider needs a moment before it can say what it has: urgent messages do not wait for it."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A provider that cannot be asked for `for_s` seconds, and why; `spares_urgent`: by urgent messages it can."""

    for_s: float
    why: WaitingFor
    spares_urgent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision needs to know. `candidates` are the names of the message's route in walking order;
    `blocked` those of them that cannot be asked now; `reclaimed`: no answer because the owner died."""

    standing: Standing
    priority: Priority
    number: int
    provider: str
    answer: Answer
    candidates: Sequence[str]
    blocked: Mapping[str, Blocked]
    unknown: UnknownRule
    can_ask: bool
    expires_in_s: float
    draw: float
    internal: bool = False
    reclaimed: bool = False


def triage(s: Situation, delivery: DeliverySettings, auto_retry_s: Sequence[float]) -> Move:
    """Decide; pure. `auto_retry_s` is the dead letters' own schedule."""
    if s.internal:
        return _give_up(s, Reason.INTERNAL, auto_retry_s)
    match s.answer.outcome:
        case Outcome.ACCEPTED:
            return Move(state=State.SENT, counted=s.standing.counted + 1, unknowns=s.standing.unknowns)
        case Outcome.REJECTED:
            return _give_up(s, Reason.REJECTED, auto_retry_s)
        case Outcome.UNKNOWN:
            return _unknown(s, delivery, auto_retry_s)
        case Outcome.DEFERRED:
            if s.standing.counted + 1 >= delivery.max_attempts:
                return _give_up(s, Reason.ATTEMPTS_EXHAUSTED, auto_retry_s)
            return _go_on(s, delivery, counted=s.standing.counted + 1, uncounted=s.standing.throttled)
        case Outcome.THROTTLED | Outcome.MISCONFIGURED:
            if s.standing.throttled + 1 >= MOST_UNCOUNTED:
                return _give_up(s, Reason.ATTEMPTS_EXHAUSTED, auto_retry_s)
            return _go_on(s, delivery, counted=s.standing.counted, uncounted=s.standing.throttled + 1)
        case _ as never:
            assert_never(never)


def _go_on(s: Situation, delivery: DeliverySettings, *, counted: int, uncounted: int) -> Move:
    tried = (*s.standing.tried, s.provider)
    for name in s.candidates:
        if name not in tried and _blocked(s, name) is None:
            return _queued(s, 0.0, counted=counted, throttled=uncounted, tried=tried, passes=s.standing.passes)
    passes = s.standing.passes + 1
    wait_s = full_jitter(passes, base_s=delivery.backoff_base_s, cap_s=delivery.backoff_cap_s, draw=s.draw)
    soonest_s, blocker, why = _soonest(s)
    if soonest_s > wait_s:
        return _queued(
            s,
            max(wait_s, put_off(soonest_s, why)),
            counted=counted,
            throttled=uncounted,
            tried=(),
            passes=passes,
            waiting_for=why,
            waiting_provider=blocker,
        )
    return _queued(
        s, wait_s, counted=counted, throttled=uncounted, tried=(), passes=passes, waiting_for=WaitingFor.BACKOFF
    )


def _blocked(s: Situation, name: str) -> Blocked | None:
    blocked = s.blocked.get(name)
    return None if blocked is not None and blocked.spares_urgent and s.priority is Priority.URGENT else blocked


def _soonest(s: Situation) -> tuple[float, str | None, WaitingFor]:
    """When the first provider of the route can be asked again, who that is, and what it waits for."""
    best: tuple[float, str | None, WaitingFor] | None = None
    for name in s.candidates:
        blocked = _blocked(s, name)
        for_s, why = (blocked.for_s, blocked.why) if blocked else (0.0, WaitingFor.BACKOFF)
        if name == s.provider and s.answer.retry_after_s is not None and s.answer.retry_after_s > for_s:
            for_s, why = s.answer.retry_after_s, WaitingFor.PROVIDER
        if best is None or for_s < best[0]:
            best = (for_s, name, why)
    return best or (0.0, None, WaitingFor.BACKOFF)


def _unknown(s: Situation, delivery: DeliverySettings, auto_retry_s: Sequence[float]) -> Move:
    unknowns = s.standing.unknowns + 1
    reclaims = s.standing.reclaims + s.reclaimed
    counted = s.standing.counted + 1
    if reclaims >= MOST_RECLAIMS:
        return _give_up(s, Reason.POISON, auto_retry_s)
    asks = s.unknown is UnknownRule.ASK and s.can_ask
    if s.unknown is not UnknownRule.HOLD and (
        counted >= delivery.max_attempts or (not asks and unknowns >= MOST_UNKNOWN)
    ):
        return _give_up(s, Reason.UNKNOWN, auto_retry_s)
    wait_s = min(ASK_AFTER_S, delivery.unknown_wait_s) if asks else delivery.unknown_wait_s
    if s.unknown is not UnknownRule.HOLD and (s.priority is Priority.URGENT or s.reclaimed):
        wait_s = 0.0
    # Under this claim the one before was to be asked about; its owner died, and nobody knows whether it was.
    earlier = s.standing.unsettled if s.reclaimed and s.standing.unsettled_provider == s.provider else None
    return _queued(
        s, wait_s, counted=counted, throttled=s.standing.throttled, tried=s.standing.tried, passes=s.standing.passes,
        waiting_for=WaitingFor.RECEIPT, waiting_provider=s.provider, unknowns=unknowns, reclaims=reclaims,
        unsettled=s.number if earlier is None else earlier, unsettled_provider=s.provider,
    )  # fmt: skip


def _queued(
    s: Situation,
    due_in_s: float,
    *,
    counted: int,
    throttled: int,
    tried: tuple[str, ...],
    passes: int,
    waiting_for: WaitingFor | None = None,
    waiting_provider: str | None = None,
    unknowns: int | None = None,
    reclaims: int | None = None,
    unsettled: int | None = None,
    unsettled_provider: str | None = None,
) -> Move:
    """Back to the queue; never put off beyond its expiry, where it is looked at once more and ends."""
    return Move(
        state=State.QUEUED,
        due_in_s=max(0.0, min(due_in_s, s.expires_in_s)),
        waiting_for=waiting_for,
        waiting_provider=waiting_provider,
        counted=counted,
        unknowns=s.standing.unknowns if unknowns is None else unknowns,
        throttled=throttled,
        reclaims=s.standing.reclaims if reclaims is None else reclaims,
        passes=passes,
        tried=tried,
        unsettled=unsettled,
        unsettled_provider=unsettled_provider,
    )


def _give_up(s: Situation, reason: Reason, auto_retry_s: Sequence[float]) -> Move:
    return Move(
        state=State.FAILED,
        reason=reason,
        counted=s.standing.counted + 1,
        unknowns=s.standing.unknowns,
        throttled=s.standing.throttled,
        reclaims=s.standing.reclaims,
        passes=s.standing.passes,
        cause=cause_of(s.answer.detail, code=s.answer.code, reason=reason),
        code=s.answer.code,
        detail=s.answer.detail,
        auto_retry_in_s=next_auto_retry(reason, s.standing.redrives, auto_retry_s),
    )


def next_auto_retry(reason: Reason, redrives: int, schedule_s: Sequence[float]) -> float | None:
    """Seconds until the dead-letter service tries this one again by itself; None when it will not."""
    if reason not in (Reason.ATTEMPTS_EXHAUSTED, Reason.NO_ROUTE) or redrives >= len(schedule_s):
        return None
    return schedule_s[redrives]
