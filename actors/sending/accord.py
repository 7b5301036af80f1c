"""One supervisor's part in what all of them agree on for one provider: breaker, send slots, permits, pauses.

A provider's actor owns it, asks it before each call (`admission`), tells it what its calls came to, and runs its
tasks. All but the last talk to Redis, and nobody else does:

- `reserve` asks for slots, and half-open for permits, when there is demand and hands to use them
- `keep` tells the cluster (breaker, verdicts, pauses), learns from it, and publishes on the provider's desk
- `count`, where the provider has a quota, looks at what is left of it, and has it counted anew where that is lost
- `heed`, where the provider can tell what the account may send, asks it every few minutes

Everything else here is synchronous: a call waits for no task. Without Redis there are no slots, so no calls, and all
of them go on by themselves when it is back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from math import inf
from typing import Final, Protocol

import structlog
import trio

from heliograph.actors.kernel.bell import Bell
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.provider import ProviderMeters, StopReason
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.errors import LedgerDown, QueueDown
from heliograph.actors.model.message import WaitingFor
from heliograph.actors.model.provider import BreakerState, Controls, ProviderReport, ProviderSettings, account_mark
from heliograph.actors.policy.availability import PREFETCH_S, Stop, Stops, ahead, window
from heliograph.actors.policy.breaker import Admission, Breaker, Evidence, Verdict, weigh
from heliograph.actors.policy.bucket import HORIZON_S, shape
from heliograph.actors.policy.hand import Counted, Hand, Held
from heliograph.actors.policy.pace import Pace, demands, slots_to_ask, slowed
from heliograph.actors.policy.permits import Permit, Permits
from heliograph.actors.policy.questions import Questions
from heliograph.actors.policy.quota import AHEAD_S, KEPT, part_us
from heliograph.actors.policy.tally import Tally
from heliograph.actors.ports.board import Desk
from heliograph.actors.ports.coordination import BreakerRecord, Coordination, Lost, QuotaWord
from heliograph.actors.ports.courier import Allowance
from heliograph.actors.sending.budget import Budget

log = structlog.get_logger()
POLL_S: Final = 0.5
"""How often a half-open record is looked at: others' probes may close it."""
IDLE_POLL_S: Final = 5.0
"""The same for an open one that has rested, where nobody here has anything to send."""
PROBE_WITHIN_S: Final = 1.0
FRESH_PROBES_S: Final = 1.0
"""For so long a half-open breaker is probed by messages that the provider was not asked for before."""
PROBES_TO_CHOOSE_FROM: Final = 3
FAR_S: Final = 1.0
"""A slot further away than this is not waited for with a claim in hand."""
ORDINARY_S: Final = HORIZON_S / 2
"""How far ahead slots are asked for what is not urgent, by every supervisor: so there is room behind them for what is
urgent, whoever has it."""
DRY_S: Final = 0.005
LINGER_S: Final = 0.005
"""Before slots are asked for where messages share calls: a group that is handed over one by one goes out as one."""
BREATH_S: Final = 0.002
BUSY_RATE: Final = 1000.0
"""With more messages a second than this, slots are asked for in groups, a breath apart."""
REDIS_AWAY_S: Final = 0.5
PUBLISH_S: Final = 0.1
MOST_MOVES: Final = 4
ALLOWANCE_S: Final = 180.0
"""How often, about, a provider is asked what the account may send."""
LEAST_ALLOWED: Final = 1e-3
COUNT_S: Final = 5.0
"""How often, about, what is left of a quota is looked at: others use it too."""
OVERRUN_S: Final = 1.0
"""A call that took so much longer than a call can take was held up by us: this process stood still meanwhile."""


class Spent(Protocol):
    async def __call__(self, provider: str, *, part_s: float, parts: int) -> Sequence[int]:
        """`DeliveryLedger.spent`."""


class Accord:
    """`changed` is called where what is in hand may go now, or may go no longer; `free_calls` tells how many more
    calls could be made at once; `supervisors` how many share the rate."""

    def __init__(
        self,
        settings: ProviderSettings,
        coordination: Coordination,
        desk: Desk,
        hand: Hand,
        questions: Questions,
        meters: ProviderMeters,
        *,
        longest_call_s: float,
        spent: Spent,
        allowance: Callable[[], Awaitable[Allowance | None]] | None,
        changed: Callable[[], None],
        free_calls: Callable[[], int],
        supervisors: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._name = settings.name
        self._coordination = coordination
        self._desk = desk
        self._hand = hand
        self._questions = questions
        self._meters = meters
        self._longest_call_s = longest_call_s
        self._spent = spent
        self._allowance = allowance
        self._allowed_share = 1.0
        self._none_left_until_s = -inf
        self._changed = changed
        self._free_calls = free_calls
        self._supervisors = supervisors
        self._clock = clock
        self._shape = shape(settings.rate, settings.burst)
        self._breaker = Breaker(
            settings.breaker,
            longest_call_s=longest_call_s,
            now_s=clock.boot_s(),
            configuration=account_mark(settings),
        )
        self._budget = Budget(settings.quota) if settings.quota else None
        self._recount = Bell()
        self._quota_told_until_s = -inf
        self._shown = BreakerState.CLOSED
        self._throttle = Pace()
        self._stops = Stops()
        self.permits = Permits()
        self._verdicts: deque[tuple[Permit, Verdict]] = deque()
        self._pause_to_tell_s: float | None = None  # until when; 0.0 lifts it
        self._told_to_wait_until_s = -inf  # the provider's own word, by `Retry-After` or its like
        self._completed, self._handled, self._answered = Tally(PREFETCH_S), Tally(60.0), Tally(60.0)
        self._reserver, self._keeper = Bell(), Bell()
        self._redis_away = False
        self._finishing = False
        self._published_s = -inf

    # ------------------------------------------------------------------------------------------- questions

    @property
    def epoch(self) -> int:
        return self._breaker.epoch

    def admission(self, now_s: float) -> Admission:
        """May a call begin now? With PROBE, only with one of `permits`."""
        if self._finishing or self._stops.no_calls_until_s > now_s:
            return Admission.NO
        return self._breaker.admit(now_s)

    def stopped(self, now_s: float) -> bool:
        """Nobody is called for a while, or only others are: what is held is better given to other providers."""
        if self._stops.no_calls_until_s > now_s or self._breaker.admit(now_s) is Admission.NO:
            return True
        return self._stops.until_s(Stop.PERMITS) > now_s and not self.permits

    def report(self, in_flight: int) -> ProviderReport:
        now_s, now = self._clock.boot_s(), self._clock.now()
        until_s = self._breaker.until_s(now_s)
        reserved_until_s = self._stops.until_s(Stop.RESERVED)
        return ProviderReport(
            name=self._name,
            breaker=self._breaker.state(now_s),
            breaker_since=now - timedelta(seconds=now_s - self._breaker.since_s(now_s)),
            breaker_until=None if until_s is None else now + timedelta(seconds=until_s - now_s),
            effective_rate=0.0
            if self._told_to_wait_until_s > now_s
            else round(self._settings.rate * self._share(now_s), 6),
            in_flight=in_flight,
            handled=self._handled.total(now_s),
            quota_remaining=self._budget.remaining if self._budget else None,
            quota_until=now + timedelta(seconds=reserved_until_s - now_s) if reserved_until_s > now_s else None,
            answered=self._answered.total(now_s),
        )

    def prefers_fresh(self, now_s: float) -> bool:
        """Half-open for a moment only: what it did not take before proves less than what it was never asked."""
        return now_s - self._breaker.since_s(now_s) < FRESH_PROBES_S

    def crowded(self, now_s: float) -> bool:
        """The quota is used up, but for the slots in hand: nothing else of what it keeps away can be sent."""
        return self._stops.until_s(Stop.RESERVED) > now_s

    def surplus(self, now_s: float) -> list[Held]:
        """Take out what the quota keeps away."""
        return self._hand.surplus(now_s, urgent=self._stops.until_s(Stop.QUOTA) > now_s)

    # ----------------------------------------------------------------------------------------------- facts

    def unused(self, counted: Counted, recipients: int) -> None:
        """Of a slot that the quota counted there so much is surely not handed over."""
        if self._budget is None or recipients <= 0:
            return
        self._budget.unused(counted, recipients)
        now_s = self._clock.boot_s()
        if self.crowded(now_s) and self._none_left_until_s <= now_s:
            self._reopen(now_s)

    def demanded(self, now_s: float) -> None:
        """There is more to send, or a hand is free again."""
        self._reserver.ring()
        if self._breaker.admit(now_s) is Admission.WAIT:
            self._keeper.ring()

    def handed_over(self, recipients: int, now_s: float) -> None:
        self._handled.add(now_s, recipients)

    def answered(
        self, answers: Sequence[Answer], *, permit: Permit | None, epoch: int, began_s: float, now_s: float
    ) -> None:
        self._completed.add(now_s, len(answers))
        self._answered.add(now_s, len(answers))
        took_s = now_s - began_s
        evidence = weigh(answers, took_s, self._settings.breaker)
        if evidence is Evidence.BAD and took_s > self._longest_call_s + OVERRUN_S:
            evidence = Evidence.NOTHING
        if evidence is Evidence.REFUSED:
            codes = sorted({answer.code or "" for answer in answers if answer.outcome is Outcome.MISCONFIGURED})
            self._meters.stopped(StopReason.MISCONFIGURED)
            log.error("provider.misconfigured", provider=self._name, codes=codes, mend="look at its account and keys")
        self.judged(evidence, permit=permit, epoch=epoch, now_s=now_s)
        slow, stay_away_s = demands(answers)
        if slow:
            self._throttle.slow(began_s, now_s)
        if stay_away_s > 0 and self._wait_for_rate(now_s + stay_away_s, now_s):
            self._told_to_wait_until_s = now_s + stay_away_s
            log.warning("provider.told_to_wait", provider=self._name, seconds=round(stay_away_s, 3))
            self._hand.drop_slots()
            self._pause_to_tell_s = now_s + stay_away_s
        if now_s - self._published_s >= PUBLISH_S:
            self._publish(now_s)

    def judged(self, evidence: Evidence, *, permit: Permit | None, epoch: int, now_s: float) -> None:
        """Breaker and permit. An opening stops everything here at once; the cluster is told next."""
        if permit is not None:
            self.end(permit, evidence.verdict)
        draw = self._clock.random.random()
        if self._breaker.observe(evidence, epoch=epoch, now_s=now_s, draw=draw) is not None:
            self._look_again(now_s)

    def end(self, permit: Permit, verdict: Verdict) -> None:
        self._verdicts.append((permit, verdict))
        self._keeper.ring()

    def obey(self, controls: Controls | None) -> None:
        """The operators' word; it runs out by itself. The desk keeps it for the actor that follows a crash."""
        now_s, now = self._clock.boot_s(), self._clock.now()
        pause, forced, resumed_at = (controls.pause, controls.forced, controls.resumed_at) if controls else (None,) * 3
        before, self._desk.controls = self._desk.controls, controls
        self._stops.put(Stop.PAUSED, now_s + (pause.until - now).total_seconds() if pause else -inf)
        if forced:
            self._breaker.force(forced.state, now_s=now_s, until_s=now_s + (forced.until - now).total_seconds())
        else:
            self._breaker.force(None, now_s=now_s, until_s=now_s)
        if resumed_at and resumed_at != (before and before.resumed_at):
            self._stops.lift(Stop.RATE)
            self._told_to_wait_until_s = -inf
            self._pause_to_tell_s = 0.0
        self._look_again(now_s)

    def finish(self) -> None:
        """No call begins any more."""
        self._finishing = True

    async def settle_up(self) -> None:
        """After the last call: give back what is in hand, tell what is still owed."""
        for permit in self.permits.stale(epoch=-1, now_s=inf):
            self.end(permit, Verdict.RETURNED)
        try:
            await self._tell_verdicts()
        except QueueDown:
            self._verdicts.clear()  # they run out by themselves

    # ------------------------------------------------------------------------------------------ the slots

    async def reserve(self) -> None:
        while True:
            if 0 < len(self._hand) < self._settings.batch:
                await trio.sleep(LINGER_S)
            elif self._completed.total(self._clock.boot_s()) > BUSY_RATE * PREFETCH_S:
                await trio.sleep(BREATH_S)
            try:
                wait_s = await self._ask_for_slots()
            except QueueDown as error:
                await trio.sleep(self._redis_is_away(error))
                continue
            if wait_s == inf:
                await self._reserver.wait(PROBE_WITHIN_S if self.permits else inf)
            elif wait_s > 0:
                await trio.sleep(max(wait_s, DRY_S))

    async def _ask_for_slots(self) -> float:
        """One turn; answers in how long the next is worth while: inf, when the bell tells."""
        now_s = self._clock.boot_s()
        for permit in self.permits.stale(self._breaker.epoch, now_s):
            self.end(permit, Verdict.RETURNED)
        match self.admission(now_s):
            case Admission.GO:
                calls = self._free_calls() + int(self._completed.total(now_s) * HORIZON_S / PREFETCH_S)
            case Admission.PROBE:
                await self._ask_for_permits()
                now_s = self._clock.boot_s()
                calls = len(self.permits)
            case _:
                return inf
        share = self._share(now_s)
        granted = self._hand.slots(now_s)
        urgent = max(0, self._hand.urgent - granted)
        most = slots_to_ask(
            urgent or len(self._hand),
            rate=self._settings.rate * share,
            supervisors=self._supervisors(),
            capacity=calls - granted,
        )
        want, cost = self._hand.wanted(now_s, most=most)
        if want == 0 or self._kept_away(now_s, urgent=urgent > 0):
            return inf
        got = await self._coordination.reserve(
            self._name,
            slowed(self._shape, share, cost),
            want=want,
            cost=cost,
            horizon_s=HORIZON_S if urgent else ORDINARY_S,
            quota=None if self._budget is None else self._budget.ask(urgent=urgent > 0),
        )
        now_s = self._clock.boot_s()
        self._redis_is_back()
        self._learn(got.record, now_s)
        if self._budget is not None and got.quota is not None:
            counted = (0, 0) if isinstance(got.quota, Lost) else (got.quota.made, got.quota.part)
            slots = tuple(replace(slot, counted=counted) for slot in got.slots)
            if self._mind_quota(self._budget, got.quota, urgent=urgent > 0, slots=len(slots), cost=cost):
                return inf
            got = replace(got, slots=slots)
        if got.paused_for_s > 0:
            self._told_to_wait_until_s = now_s + got.paused_for_s
            self._wait_for_rate(now_s + got.paused_for_s, now_s)
        if not self.admission(now_s).calls:
            for slot in got.slots:
                self.unused(slot.counted, cost)
            return inf
        if got.slots:
            self._hand.grant(got.slots, cost)
            self._changed()
        elif got.next_in_s > FAR_S:
            self._wait_for_rate(now_s + got.next_in_s, now_s)
            return inf
        return 0.0 if len(got.slots) == want else max(got.next_in_s, DRY_S)

    # ------------------------------------------------------------------------------------------ the quota

    def _kept_away(self, now_s: float, *, urgent: bool) -> bool:
        return self._stops.until_s(Stop.QUOTA if urgent else Stop.RESERVED) > now_s

    def _mind_quota(self, budget: Budget, word: QuotaWord | Lost, *, urgent: bool, slots: int, cost: int) -> bool:
        """True where there is no use in asking again for now."""
        now_s = self._clock.boot_s()
        shut = budget.hear(word, urgent=urgent, slots=slots, cost=cost, now_s=now_s)
        self._show_quota(budget)
        if budget.lost:
            self._recount.ring()
            return True
        if shut:
            until_s = budget.reserved_until_s
            if now_s >= self._quota_told_until_s:
                self._quota_told_until_s = until_s
                log.warning(
                    "provider.quota_used_up",
                    provider=self._name,
                    limit=budget.quota.limit,
                    remaining=budget.remaining,
                    for_s=round(until_s - now_s, 1),
                )
                self._meters.stopped(StopReason.QUOTA)
            self._stops.put(Stop.RESERVED, until_s)
            if urgent:
                self._stops.put(Stop.QUOTA, budget.closed_until_s)
            self._look_again(now_s)
        return shut

    async def count(self) -> None:
        """Know what is left of the quota; where the count is lost, take it from the ledger."""
        budget = self._budget
        if budget is None:
            return
        while True:
            wait_s = COUNT_S * (0.5 + self._clock.random.random())
            try:
                budget.know(await self._coordination.used(self._name, budget.ask(urgent=True)))
                if budget.lost:
                    # A slot of before the loss may still be used: its call is to be in the ledger when we look.
                    await trio.sleep(AHEAD_S / 2)
                    ages = await self._spent(self._name, part_s=part_us(budget.quota) / 1e6, parts=KEPT)
                    await self._coordination.seed(self._name, budget.quota, ages)
                    budget.know(await self._coordination.used(self._name, budget.ask(urgent=True)))
                    log.info("provider.quota_counted", provider=self._name, used=sum(ages))
            except (QueueDown, LedgerDown) as error:
                log.warning("provider.quota_unknown", provider=self._name, error=str(error))
                wait_s = REDIS_AWAY_S * (0.5 + self._clock.random.random())
            self._show_quota(budget)
            now_s = self._clock.boot_s()
            if budget.reopened() and self.crowded(now_s) and self._none_left_until_s <= now_s:
                self._reopen(now_s)
            if self._demand():
                self._reserver.ring()
            await self._recount.wait(wait_s)

    def _reopen(self, now_s: float) -> None:
        self._stops.lift(Stop.RESERVED)
        self._stops.lift(Stop.QUOTA)
        self._look_again(now_s)

    async def heed(self) -> None:
        """Use no more than the provider says that the account may. Every supervisor asks for itself; where that cannot
        be told, what was told last still holds."""
        if self._allowance is None:
            return
        await trio.sleep(self._clock.random.random())
        while True:
            try:
                told = await self._allowance()
            except Exception as bug:
                log.exception("provider.bug", provider=self._name, error=type(bug).__name__, exc_info=False)
                told = None
            if told is not None:
                self._keep_within(told)
            await trio.sleep(ALLOWANCE_S * (0.75 + self._clock.random.random() / 2))

    def _keep_within(self, told: Allowance) -> None:
        now_s, before = self._clock.boot_s(), self._allowed_share
        rate = self._settings.rate if told.rate is None else max(told.rate, LEAST_ALLOWED)
        self._allowed_share = min(1.0, rate / self._settings.rate)
        if told.remaining is not None and told.remaining <= 0:
            if now_s >= self._none_left_until_s:
                log.warning("provider.quota_used_up", provider=self._name, told_by="the provider", remaining=0)
                self._meters.stopped(StopReason.QUOTA)
            self._none_left_until_s = now_s + 2 * ALLOWANCE_S
            self._stops.put(Stop.QUOTA, self._none_left_until_s)
            self._stops.put(Stop.RESERVED, self._none_left_until_s)
        elif self._none_left_until_s > now_s:
            self._none_left_until_s = now_s
            self._reopen(now_s)
        if self._allowed_share != before:
            log.info("provider.allowance", provider=self._name, rate=told.rate, configured=self._settings.rate)
            self._hand.drop_slots()
        self._look_again(now_s)

    def _show_quota(self, budget: Budget) -> None:
        if budget.remaining is not None:
            self._meters.remains(budget.remaining)

    async def _ask_for_permits(self) -> None:
        """As many as there is to send. Where others have them all, what we hold is given up."""
        await self._tell_verdicts()  # what we still owe would count against us
        epoch, most = self._breaker.epoch, self._settings.breaker.half_open_permits
        while len(self.permits) < min(self._demand(), most):
            asked_s = self._clock.boot_s()
            name = await self._coordination.permit(
                self._name, epoch=epoch, most=most, ttl_s=self._longest_call_s + PROBE_WITHIN_S
            )
            if name is None:
                break
            self.permits.add(Permit(name, epoch, asked_s + PROBE_WITHIN_S))
            if epoch != self._breaker.epoch:
                return
        if self.permits:
            self._changed()
        elif self._demand():
            now_s = self._clock.boot_s()
            self._stops.put(Stop.PERMITS, now_s + POLL_S)
            self._look_again(now_s)

    # --------------------------------------------------------------------------------------- the cluster

    async def keep(self) -> None:
        known = False
        while True:
            retry_s = inf
            try:
                if not known:
                    await self._find_bucket()
                if not known or self._poll_s(self._clock.boot_s()) < inf:
                    await self._read_record()
                    known = True
                await self._tell_pause()
                await self._tell_verdicts()
                await self._move_breaker()
            except QueueDown as error:
                retry_s = self._redis_is_away(error)
            now_s = self._clock.boot_s()
            self._look_at_breaker(now_s)
            self._publish(now_s)
            if self._demand():
                self._reserver.ring()
                self._changed()
            await self._keeper.wait(min(retry_s, self._next_turn_s(now_s) - now_s))

    async def _find_bucket(self) -> None:
        """One that is not there counts as just spent from now on, and not only from when a first call is wanted: of a
        provider that stands by for another, that would be the moment when it is needed at once."""
        await self._coordination.reserve(self._name, self._shape, want=0, cost=1, horizon_s=ORDINARY_S)

    async def _read_record(self) -> None:
        record, paused_for_s = await self._coordination.record(self._name)
        now_s = self._clock.boot_s()
        self._redis_is_back()
        self._learn(record, now_s)
        if paused_for_s > 0:
            self._told_to_wait_until_s = now_s + paused_for_s
            self._wait_for_rate(now_s + paused_for_s, now_s)

    async def _tell_pause(self) -> None:
        if (until_s := self._pause_to_tell_s) is not None:
            await self._coordination.pause(self._name, for_s=max(0.0, until_s - self._clock.boot_s()))
            if until_s == self._pause_to_tell_s:
                self._pause_to_tell_s = None

    async def _tell_verdicts(self) -> None:
        """A verdict that does not get through is given up: its permit runs out, and another is handed out."""
        while self._verdicts:
            permit, verdict = self._verdicts.popleft()
            record = await self._coordination.close_permit(
                self._name, epoch=permit.epoch, permit=permit.name, verdict=verdict
            )
            if record is not None:
                self._learn(record, self._clock.boot_s())

    async def _move_breaker(self) -> None:
        for _ in range(MOST_MOVES):
            draw = self._clock.random.random()
            change = self._breaker.due(self._clock.boot_s(), draw, demand=self._demand() > 0)
            if change is None:
                return
            record = await self._coordination.change(
                self._name, expected_epoch=change.expected_epoch, record=change.record
            )
            self._redis_is_back()
            self._learn(record, self._clock.boot_s())

    def _learn(self, record: BreakerRecord | None, now_s: float) -> None:
        epoch = self._breaker.epoch
        self._breaker.learn(record, now_s)
        if epoch != self._breaker.epoch:
            self._look_again(now_s)

    def _next_turn_s(self, now_s: float) -> float:
        """When something runs out by itself, or is worth another look."""
        turn_s = self._stops.next_end_s(now_s)
        until_s = self._breaker.until_s(now_s)
        if until_s is not None and until_s > now_s:
            turn_s = min(turn_s, until_s)
        if self._recovered(now_s) < 1.0:
            turn_s = min(turn_s, now_s + POLL_S)
        return min(turn_s, now_s + self._poll_s(now_s))

    def _poll_s(self, now_s: float) -> float:
        match self._breaker.admit(now_s):
            case Admission.PROBE:
                return POLL_S
            case Admission.WAIT:
                return IDLE_POLL_S
            case _:
                return inf

    # ----------------------------------------------------------------------------------------- workings

    def _demand(self) -> int:
        return len(self._hand) + len(self._questions)

    def _share(self, now_s: float) -> float:
        """How much of the rate is used."""
        return self._recovered(now_s) * self._allowed_share

    def _recovered(self, now_s: float) -> float:
        """How much of it throttling and the breaker leave; that comes back by itself."""
        return self._throttle.share(now_s) * self._breaker.ramp(now_s)

    def _wait_for_rate(self, until_s: float, now_s: float) -> bool:
        """False where it waits as long already."""
        if until_s <= self._stops.until_s(Stop.RATE):
            return False
        self._stops.put(Stop.RATE, until_s)
        self._look_again(now_s)
        return True

    def _look_again(self, now_s: float) -> None:
        """Something changed that may stop calls or let them go on."""
        self._look_at_breaker(now_s)
        self._publish(now_s)
        self._changed()
        self._reserver.ring()
        self._keeper.ring()

    def _look_at_breaker(self, now_s: float) -> None:
        """Where it has changed, the slots in hand belong to what was before."""
        state = self._breaker.state(now_s)
        if state is self._shown:
            return
        self._shown = state
        until_s = self._breaker.until_s(now_s)
        for_s = None if until_s is None else round(until_s - now_s, 1)
        log.warning("breaker.changed", provider=self._name, state=state, for_s=for_s)
        self._meters.turned(state)
        self._hand.drop_slots()
        self._stops.lift(Stop.PERMITS)

    def _publish(self, now_s: float) -> None:
        self._published_s = now_s
        rate = self._settings.rate * self._share(now_s)
        self._meters.rate.set(rate)
        admission = self._breaker.admit(now_s)
        until_s, why = self._stops.last(now_s, urgent=True) or (-inf, None)
        breaker_until_s = self._breaker.until_s(now_s)
        if admission is Admission.NO and breaker_until_s is not None and breaker_until_s > until_s:
            until_s, why = breaker_until_s, WaitingFor.BREAKER
        self._desk.publish(
            window=self._window(now_s, rate) if admission is Admission.GO else self._probe_window,
            ahead=ahead(rate / self._supervisors()) if admission is Admission.GO else None,
            blocked_until_s=until_s,
            blocked_for=why,
            spared=self._stops.last(now_s),
        )

    @property
    def _probe_window(self) -> int:
        """More than there are permits: so that there is something to choose from."""
        return PROBES_TO_CHOOSE_FROM * self._settings.breaker.half_open_permits

    def _window(self, now_s: float, rate: float) -> int:
        return window(
            concurrency=self._settings.concurrency,
            batch=self._settings.batch,
            completed=self._completed.total(now_s),
            rate=rate / self._supervisors(),
        )

    def _redis_is_away(self, error: QueueDown) -> float:
        """Answers after how many seconds to try again."""
        if not self._redis_away:
            log.warning("provider.waits", provider=self._name, on="redis", error=str(error))
        self._redis_away = True
        now_s = self._clock.boot_s()
        self._stops.put(Stop.REDIS, now_s + 2 * REDIS_AWAY_S)
        self._publish(now_s)
        return REDIS_AWAY_S * (0.5 + self._clock.random.random())

    def _redis_is_back(self) -> None:
        if self._redis_away:
            log.info("provider.goes_on", provider=self._name)
            self._redis_away = False
            self._stops.lift(Stop.REDIS)
            self._publish(self._clock.boot_s())
            self._keeper.ring()
