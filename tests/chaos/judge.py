"""What the promises say of a run: from what was answered 202, what reached the receiving server, and the log.

Pure. A call names its attempt by the id that it carries. Everything ran on one machine, so a time of the kernel and
one of PostgreSQL can be compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.sink import Call

FINAL: Final = frozenset({"sent", "delivered", "undelivered", "failed", "expired", "cancelled", "suppressed"})
NOT_TAKEN: Final = frozenset({"deferred", "throttled"})
ANSWERED: Final = frozenset({"accepted", "rejected", "throttled", "misconfigured"})
"""What a provider has to be called for. `deferred` may be a line that broke before the call."""
PERMITS: Final = 3
PERMIT_S: Final = 3.0
"""How many calls a half-open breaker allows, and after how long one that nobody ended is given out again: the longest
call, 2 s here, and the second within which it has to begin."""
UNDER_WAY_S: Final = 0.35
"""So long a slot that was given before the breaker opened can be used: given 0.2 s ahead, 0.1 s wide; and the way."""
UNCALLED: Final = frozenset({"refused_earlier", "unsendable"})
"""Answered without a call: by what was told of an earlier attempt, or since it could not be written."""
JITTER_S: Final = 0.010
"""What the slots allow for between a caller's last look and its first byte."""
CODE_S: Final = 0.001
"""More than that takes by itself; the rest is waiting for a processor."""
ROUNDING: Final = 0.001


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the log; times in seconds since 1970. `written_s`: when its last change was committed."""

    number: int
    provider: str
    outcome: str
    code: str | None
    started_s: float
    finished_s: float
    written_s: float
    settled: str | None = None

    @property
    def known_accepted_s(self) -> float | None:
        """Since when it is written that the provider took it."""
        return self.written_s if "accepted" in (self.outcome, self.settled) else None


@dataclass(frozen=True, slots=True)
class Logged:
    """A message as PostgreSQL has it at the end."""

    message_id: str
    recipient: str
    state: str
    reason: str | None
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Limit:
    rate: float
    burst: float


@dataclass(slots=True)
class Span:
    """A breaker was in this state, by Redis' word, from `first_s` to `last_s` at least, without a break."""

    provider: str
    epoch: int
    state: str
    first_s: float
    last_s: float


@dataclass(slots=True)
class Evidence:
    """`accepted`: message id to recipient, of every 202. `waited_s`: how long at most, at that time, one of the callers
    had waited for a processor."""

    accepted: Mapping[str, str]
    calls: Sequence[Call]
    log: Sequence[Logged]
    limits: Mapping[str, Limit]
    breakers: Sequence[Span] = ()
    waited_s: Callable[[float], float] = lambda _: 0.0


@dataclass(slots=True)
class Verdict:
    """`excess`: for each provider the most recipients in any window beyond rate x time; its burst is allowed.
    `duplicates`: messages taken again, by the code of the attempt before, which nobody had an answer to."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    excess: dict[str, float] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)
    spans: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not self.lost and not self.wrong


def judge(evidence: Evidence) -> Verdict:
    verdict = Verdict()
    log = {logged.message_id: logged for logged in evidence.log}
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in sorted(evidence.calls, key=lambda call: call.at_s):
        calls[call.recipient].append(call)
    verdict.lost += _lost(evidence, log, calls)
    verdict.wrong += _twins(evidence.log)
    by_recipient = {logged.recipient: logged for logged in evidence.log}
    for recipient, made in calls.items():
        logged = by_recipient.get(recipient)
        if logged is None:
            verdict.wrong.append(f"a call for {recipient}, and there is no such message")
        else:
            verdict.wrong += _calls_of(logged, made, verdict.duplicates)
    for name, limit in evidence.limits.items():
        moments = [call.at_s for call in evidence.calls if call.provider == name]
        verdict.excess[name] = round(worst_excess(moments, limit.rate), 3)
        proved = worst_excess(moments, limit.rate, late_s=lambda at_s: _late_s(evidence.waited_s(at_s)))
        if proved > limit.burst + ROUNDING:
            verdict.wrong.append(
                f"too fast: {name} got {proved:g} beyond {limit.rate:g}/s, allowed are {limit.burst:g}"
            )
    verdict.wrong += _breakers(evidence)
    verdict.spans.update(f"{span.provider} {span.state}" for span in evidence.breakers)
    verdict.states.update(
        logged.state if logged.state != "failed" else f"failed: {logged.reason}" for logged in evidence.log
    )
    return verdict


def _lost(evidence: Evidence, log: Mapping[str, Logged], calls: Mapping[str, Sequence[Call]]) -> Iterator[str]:
    for message_id in evidence.accepted:
        if message_id not in log:
            yield f"{message_id} was accepted, and the ledger has no such message"
    for logged in log.values():
        if logged.state not in FINAL:
            yield f"{logged.message_id} never settled: {logged.state}"
        elif logged.state == "sent" and not any(call.taken for call in calls.get(logged.recipient, ())):
            yield f"{logged.message_id} is sent, and nobody took it"


def _twins(log: Iterable[Logged]) -> Iterator[str]:
    """Each request has recipients of its own, so two messages for one are one request that was taken in twice."""
    for recipient, count in Counter(logged.recipient for logged in log).items():
        if count > 1:
            yield f"{count} messages were made of one request, for {recipient}"


def _calls_of(logged: Logged, calls: Sequence[Call], duplicates: Counter[str]) -> Iterator[str]:
    """In order of time."""
    paired = _pair(logged, calls)
    for call, attempt in paired:
        if attempt is None:
            yield f"not in the log: {_told(call)} of {logged.message_id}"
    made = {attempt.number for _, attempt in paired if attempt is not None}
    for attempt in logged.attempts:
        if attempt.number not in made and attempt.outcome in ANSWERED and attempt.code not in UNCALLED:
            yield f"attempt {attempt.number} is {attempt.outcome}, and there was no such call, of {logged.message_id}"
    known_s = min((s for a in logged.attempts if (s := a.known_accepted_s) is not None), default=None)
    for n, (call, attempt) in enumerate(paired):
        later = n + 1 < len(paired)
        if later and attempt is not None and not _may_be_followed(call, attempt):
            yield f"called again after {_told(call)}, logged as {attempt.outcome}, of {logged.message_id}"
        if n and known_s is not None and call.at_s > known_s and (attempt is None or attempt.started_s > known_s):
            yield f"called after it was known to be taken: {_told(call)} of {logged.message_id}"
        if later and call.taken and any(after.taken for after, _ in paired[n + 1 :]):
            duplicates[(attempt.code if attempt else None) or "no code"] += 1


def _breakers(evidence: Evidence) -> Iterator[str]:
    """Open: no call. Half-open: no more than the permits."""
    for span in evidence.breakers:
        # What a batch carries is one call.
        moments = {c.at_s for c in evidence.calls if c.provider == span.provider}
        inside = sum(span.first_s + UNDER_WAY_S <= at_s <= span.last_s for at_s in moments)
        allowed = 0
        if span.state == "half_open":
            allowed = PERMITS * (1 + int((span.last_s - span.first_s) / PERMIT_S))
        if span.state != "closed" and inside > allowed:
            yield (
                f"{inside} calls to {span.provider} while its breaker was {span.state}, epoch {span.epoch}, "
                f"from {span.first_s:.3f} to {span.last_s:.3f}; allowed are {allowed}"
            )


def _may_be_followed(call: Call, attempt: Attempt) -> bool:
    if attempt.outcome == "unknown":
        return True
    return call.answer in NOT_TAKEN and attempt.outcome in NOT_TAKEN


def _pair(logged: Logged, calls: Sequence[Call]) -> list[tuple[Call, Attempt | None]]:
    """Each call with its row of the log; a row answers for one call only."""
    left = {attempt.number: attempt for attempt in logged.attempts}
    paired: list[tuple[Call, Attempt | None]] = []
    for call in calls:
        found = left.get(_number(call.attempt))
        if found is not None and found.provider == call.provider:
            del left[found.number]
        else:
            found = None
        paired.append((call, found))
    return paired


def _number(attempt: str) -> int:
    """The last two of an attempt's twenty characters, in Crockford's base 32."""
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return digits.index(attempt[-2]) * 32 + digits.index(attempt[-1])


def _told(call: Call) -> str:
    return f"a call to {call.provider} at {call.at_s:.3f} ({'taken' if call.taken else 'not taken'}, {call.answer})"


def _late_s(waited_s: float) -> float:
    """By how much more than is allowed for a call may have been late, which waited so long in all."""
    return max(0.0, waited_s + CODE_S - JITTER_S)


def worst_excess(moments: Iterable[float], rate: float, *, late_s: Callable[[float], float] = lambda _: 0.0) -> float:
    """Over every window that begins and ends with a call: the most calls beyond rate x time. `late_s`: by how much a
    call came late; a window begins by so much sooner."""
    worst, lowest = 0.0, float("inf")
    ordered = sorted(moments)
    for count, at_s in enumerate(ordered):
        since_s = at_s - ordered[0]
        lowest = min(lowest, count - rate * (since_s - late_s(at_s)))
        worst = max(worst, count + 1 - rate * since_s - min(lowest, count - rate * since_s))
    return worst
