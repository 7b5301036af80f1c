"""The judge of a simulated run: what providers saw, and what the promises say of it.

It shares no code with the product. At a call's first byte it looks into the ledger by itself; what it finds wrong it
writes down, and `verdict` adds what can only be told at the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from heliograph.actors.ledger.memory_store import Store
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Message, Priority, State
from heliograph.actors.model.provider import BreakerState, ProviderSettings

FINAL_ANSWERS = (Outcome.ACCEPTED, Outcome.REJECTED)
GRACE_S = 0.25
"""A slot that another was granted just before a breaker opened may still be used: it lies at most so far ahead."""


@dataclass(slots=True, eq=False)
class Call:
    """One message in one call. `answer` is None until the caller had it (never, where the caller died before);
    `taken`: the provider has it."""

    provider: str
    supervisor: str
    message: Message
    number: int
    began_s: float
    taken: bool
    batch: int
    ended_s: float | None = None
    answer: Answer | None = None

    def __str__(self) -> str:
        outcome = self.answer.outcome if self.answer else "no answer"
        return (
            f"{self.message.id}/{self.number} at {self.provider} by {self.supervisor}, {self.began_s:.3f} s: {outcome}"
        )


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """`by` is the supervisor that made it, and so knows of it whatever is lost."""

    by: str
    at_s: float
    epoch: int
    state: BreakerState


@dataclass(slots=True)
class Judge:
    """`troubled`: when a supervisor was dead or cut off (name, from, to): what it did then need have reached nobody."""

    store: Store
    providers: Mapping[str, ProviderSettings]
    epoch_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    breakers: dict[str, list[BreakerChange]] = field(default_factory=lambda: defaultdict(list))
    accepted: dict[str, tuple[Message, float]] = field(default_factory=dict)
    cancelled: dict[str, float] = field(default_factory=dict)
    troubled: list[tuple[str, float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------- as it happens

    def begin(self, call: Call, now_s: float, *, record_lost: bool) -> None:
        """The first byte. The caller must hold the claim, on a message that is neither expired nor cancelled.
        `record_lost`: Redis has no record of the breaker any more; then others than its maker may never have known."""
        claim = self.store.claims.get(call.message.id)
        held = claim is not None and (claim.number, claim.provider, claim.supervisor) == (
            call.number, call.provider, call.supervisor,
        )  # fmt: skip
        if not held:
            self.wrong.append(f"called without a claim: {call}")
        row = self.store.rows.get(call.message.id)
        if row is not None and row.standing.expires_at < self.store.now():
            self.wrong.append(f"called after it had expired: {call}")
        if call.message.id in self.cancelled:
            self.wrong.append(f"called after it was cancelled: {call}")
        self._look_at_breaker(call, now_s, record_lost=record_lost)
        self.calls.append(call)

    def _look_at_breaker(self, call: Call, now_s: float, *, record_lost: bool) -> None:
        changes = self.breakers[call.provider]
        if not changes or changes[-1].state is not BreakerState.OPEN or now_s <= changes[-1].at_s + GRACE_S:
            return
        if not record_lost or changes[-1].by == call.supervisor:
            self.wrong.append(f"called while the breaker was open: {call}")

    # ------------------------------------------------------------------------------------------------- at the end

    def verdict(self) -> list[str]:
        return [
            *self.wrong,
            *self._lost(),
            *self._seconds(),
            *self._rates(),
            *self._quotas(),
            *self._probes(),
            *self._attempts(),
        ]

    def _lost(self) -> Iterator[str]:
        for message_id in self.accepted:
            row = self.store.rows.get(message_id)
            if row is None:
                yield f"lost: {message_id} was accepted, and the ledger has no such message"
        waiting = Counter(
            str(self.store.state_of(row))
            for row in self.store.rows.values()
            if self.store.state_of(row) in (State.SCHEDULED, State.QUEUED, State.SENDING)
        )
        if waiting:
            yield f"never settled: {dict(waiting)}"
        taken = {call.message.id for call in self.calls if call.taken}
        for message_id, row in self.store.rows.items():
            if row.standing.state is State.SENT and message_id not in taken:
                yield f"said to be sent, but no provider has it: {message_id}"

    def _seconds(self) -> Iterator[str]:
        """A second call for a message only where the first ended without an effect or without an answer."""
        for calls in self.by_message().values():
            for first, second in pairwise(calls):
                if self._is_troubled(first):
                    continue
                if first.ended_s is None or second.began_s < first.ended_s:
                    yield f"two calls at a time: {first}; then {second}"
                elif first.answer is not None and first.answer.outcome in FINAL_ANSWERS:
                    yield f"called again after a final answer: {first}; then {second}"

    def _is_troubled(self, call: Call) -> bool:
        """Whether its supervisor may have been unable to tell what came of it: dead or cut off at any time after."""
        return any(name == call.supervisor and until_s > call.began_s for name, _, until_s in self.troubled)

    def _quotas(self) -> Iterator[str]:
        for name, settings in self.providers.items():
            if settings.quota is None:
                continue
            handed = deque[Call]()
            total = 0
            for call in self.of(name):
                handed.append(call)
                total += call.message.recipients
                while handed[0].began_s < call.began_s - settings.quota.window_s:
                    total -= handed.popleft().message.recipients
                if total > settings.quota.limit:
                    yield f"over its quota: {name} got {total} in {settings.quota.window_s:g} s at {call.began_s:.3f}"

    def _rates(self) -> Iterator[str]:
        for name, settings in self.providers.items():
            excess = worst_excess(((c.began_s, c.message.recipients) for c in self.of(name)), settings.rate)
            if excess > settings.burst + 1e-6:
                yield f"too fast: {name} got {excess:.3f} beyond its rate at worst, and its burst is {settings.burst}"

    def _probes(self) -> Iterator[str]:
        """At most its permits in each half-open time; one whose call told nothing goes to another call. Slots from when
        it was closed are used up in the first moment, which only a lost record makes one of a half-open time."""
        for name, changes in self.breakers.items():
            most = self.providers[name].breaker.half_open_permits
            closed_until_s = 0.0
            for change, after in pairwise(changes):
                if change.state is BreakerState.CLOSED:
                    closed_until_s = after.at_s
                if change.state is not BreakerState.HALF_OPEN:
                    continue
                from_s = max(change.at_s, closed_until_s + GRACE_S)
                made = (c for c in self.of(name) if from_s <= c.began_s < after.at_s)
                probes = {c.batch for c in made if c.answer is None or c.answer.outcome is not Outcome.THROTTLED}
                if len(probes) > most:
                    yield f"{name}: {len(probes)} calls while half-open from {change.at_s:.3f} s, permitted were {most}"

    def _attempts(self) -> Iterator[str]:
        """Every call is in the log under its number, with the answer that its caller had."""
        for call in self.calls:
            row = self.store.rows.get(call.message.id)
            logged = {a.number: a for a in row.attempts} if row else {}
            attempt = logged.get(call.number)
            if attempt is None:
                yield f"not in the log: {call}"
            elif call.answer is not None and not self._is_troubled(call) and attempt.outcome != call.answer.outcome:
                yield f"logged as {attempt.outcome}: {call}"

    # ------------------------------------------------------------------------------------------------- figures

    def of(self, provider: str) -> list[Call]:
        return [call for call in self.calls if call.provider == provider]

    def by_message(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            found[call.message.id].append(call)
        return found

    @property
    def duplicates(self) -> int:
        """How often a provider took a message that one had already."""
        taken = Counter(call.message.id for call in self.calls if call.taken)
        return sum(n - 1 for n in taken.values())

    def waits(self, priority: Priority) -> list[float]:
        """From accepted to the first call, of those that were ever called."""
        first: dict[str, float] = {}
        for call in self.calls:
            first.setdefault(call.message.id, call.began_s)
        return sorted(
            first[i] - at_s for i, (m, at_s) in self.accepted.items() if i in first and m.priority is priority
        )


def worst_excess(calls: Iterable[tuple[float, int]], rate: float) -> float:
    """Over all windows that begin and end with a call: the most recipients beyond rate x time."""
    worst, lowest, total = 0.0, float("inf"), 0
    for at_s, recipients in calls:  # the maximum over i <= j of (recipients of i..j) - rate * (t_j - t_i)
        lowest = min(lowest, total - rate * at_s)
        total += recipients
        worst = max(worst, total - rate * at_s - lowest)
    return worst
