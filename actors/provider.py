"""A provider's actor: the only place from which its provider is called.

It owns this process's half of the breaker, the send slots and permits in hand, the claimed messages that wait for
one, and the calls in the air. Dispatchers put claimed messages in; each ends in exactly one word to the journal:
finished, settled, or released. Until that word is taken the message counts on the provider's desk.

Four kinds of task, all in one nursery that `run` opens and closes:

- `_send_on`, up to `concurrency` long-lived ones: pick the most urgent message that an open slot can carry, call
- `_pace`: lets slots open at their time; gives up at once what can no longer be sent
- `_reserve`: asks the cluster for slots, and half-open for permits, when there is demand and hands to use them
- `_keep`: tells the cluster (breaker, permits, pauses), learns from it, and publishes on the desk

What decides lives in `policy`: breaker, bucket, pace, hand. Only `_reserve` and `_keep` talk to Redis; a call waits for
neither. Rate, breaker, deadline and expiry are looked at once more in `_begin`, in the same synchronous slice as the
call's first byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final, assert_never

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.bell import Bell
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.errors import QueueDown, RightLapsed
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import Priority, WaitingFor
from heliograph.actors.model.provider import BreakerState, Controls, ProviderReport, ProviderSettings, UnknownRule
from heliograph.actors.policy.availability import PREFETCH_S, URGENT_PART, window
from heliograph.actors.policy.breaker import Admission, Breaker, Evidence, Verdict, weigh
from heliograph.actors.policy.bucket import HORIZON_S, shape
from heliograph.actors.policy.hand import Hand, Held, Slot
from heliograph.actors.policy.pace import Pace, slots_to_ask, slowed
from heliograph.actors.policy.tally import Tally
from heliograph.actors.ports.board import Desk
from heliograph.actors.ports.coordination import BreakerRecord, Coordination
from heliograph.actors.ports.courier import Courier
from heliograph.actors.ports.handover import ControlsChanged, Deliver, ProviderMessage
from heliograph.actors.ports.journal import AttemptFinished, AttemptReleased, EarlierSettled, Ended, Journal

log = structlog.get_logger()
POLL_S: Final = 0.5
"""How often a half-open record is looked at: others' probes may close it."""
PROBE_WITHIN_S: Final = 1.0
"""A permit's call begins within this, and so ends before the permit runs out."""
FAR_S: Final = 1.0
"""A slot further away than this is not waited for with a claim in hand."""
DRY_S: Final = 0.005
REDIS_AWAY_S: Final = 0.5
PUBLISH_S: Final = 0.1
LAST_WORDS_S: Final = 2.0
MOST_MOVES: Final = 4
MOST_TOLD: Final = 1000
STATE_NUMBERS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
CUT_OFF: Final = Answer(
    outcome=Outcome.UNKNOWN, code="cut_off", detail="The supervisor was stopped before the provider answered."
)
HAD_REFUSED: Final = Answer(
    outcome=Outcome.REJECTED,
    code="refused_earlier",
    detail="Asked about the attempt before, the provider says that it had refused it.",
)


@dataclass(slots=True, eq=False)
class _Permit:
    name: str
    epoch: int
    begin_by_s: float


@dataclass(slots=True, eq=False)
class _Call:
    """One call on its way. `begun_s` is None until the courier was about to write its first byte; it stays so when,
    for one, no connection could be made."""

    actor: ProviderActor
    held: list[Held]
    slot: Slot
    permit: _Permit | None
    epoch: int
    picked_s: float
    cost: int
    begun_s: float | None = None

    def begin(self) -> None:
        self.actor._begin(self)


class ProviderActor:
    """`supervisors` tells how many share the rate. After a crash a new actor is built with the same courier, so the
    courier is closed only when the actor was told to finish, or is cut off."""

    def __init__(
        self,
        settings: ProviderSettings,
        courier: Courier,
        coordination: Coordination,
        journal: Journal,
        desk: Desk,
        *,
        supervisors: Callable[[], int],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        now_s = clock.boot_s()
        self._settings = settings
        self._courier = courier
        self._coordination = coordination
        self._journal = journal
        self._desk = desk
        self._supervisors = supervisors
        self._clock = clock
        self._name = settings.name
        self._shape = shape(settings.rate, settings.burst)
        self._breaker = Breaker(settings.breaker, longest_call_s=courier.longest_call_s, now_s=now_s)
        self._pace_share = Pace()
        self._hand = Hand(batch=settings.batch, largest=self._shape.burst)
        self._questions: deque[Held] = deque()
        self._told_before: dict[tuple[str, int], Settled | None] = {}
        self._permits: list[_Permit] = []
        self._verdicts: deque[tuple[_Permit, Verdict]] = deque()
        self._pause_to_tell_until_s = -inf
        self._paused_until_s = -inf  # by an operator
        self._rate_until_s = -inf  # by the provider's Retry-After, or a slot that is far away
        self._probes_until_s = -inf  # others have all permits
        self._redis_until_s = -inf
        self._redis_away = False
        self._forgets_pauses = False
        self._draining = False
        self._senders = 0
        self._busy = 0
        self._ordinary = 0
        self._in_air = 0
        self._most_ordinary = settings.concurrency - settings.concurrency // URGENT_PART
        self._completed = Tally(PREFETCH_S)
        self._handled = Tally(60.0)
        self._idle = trio.lowlevel.ParkingLot()
        self._all_sent = trio.Event()
        self._pacer, self._reserver, self._keeper = Bell(), Bell(), Bell()
        self._published_s = -inf
        self._shown = BreakerState.CLOSED
        self._nursery: trio.Nursery
        self._outcomes = {o: metrics.attempts.labels(self._name, o) for o in Outcome}
        self._durations = metrics.attempt_duration.labels(self._name)
        self._parts = metrics.message_parts.labels(self._name)
        self._state_gauge = metrics.breaker_state.labels(self._name)
        self._transitions = {s: metrics.breaker_transitions.labels(self._name, s) for s in BreakerState}
        self._slot_waits = metrics.limiter_wait.labels(self._name)
        self._rate_gauge = metrics.limiter_rate.labels(self._name)

    async def run(self, inbox: Inbox[ProviderMessage]) -> None:
        """A crash, too, gives up what it holds: only calls in the air are recorded as `unknown`."""
        try:
            await self._work(inbox)
        except Exception:
            await self._last_words(close=False)
            raise
        except BaseException:
            await self._last_words(close=True)
            raise
        await self._courier.aclose()

    def report(self) -> ProviderReport:
        now_s, now = self._clock.boot_s(), self._clock.now()
        until_s = self._breaker.until_s(now_s)
        return ProviderReport(
            name=self._name,
            breaker=self._breaker.state(now_s),
            breaker_since=now - timedelta(seconds=now_s - self._breaker.since_s(now_s)),
            breaker_until=None if until_s is None else now + timedelta(seconds=until_s - now_s),
            effective_rate=self._settings.rate * self._share(now_s),
            in_flight=self._in_air,
            handled=self._handled.total(now_s),
        )

    # ---------------------------------------------------------------------------------- the mailbox, the end

    async def _work(self, inbox: Inbox[ProviderMessage]) -> None:
        self._desk.reset()
        self._obey(self._desk.controls)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._pace)
            nursery.start_soon(self._reserve)
            nursery.start_soon(self._keep)
            async for message in inbox:
                match message:
                    case Deliver():
                        await self._arrive(message)
                    case ControlsChanged(controls):
                        self._obey(controls)
                    case _ as never:
                        assert_never(never)
            await self._drain()
            nursery.cancel_scope.cancel()

    async def _arrive(self, deliver: Deliver) -> None:
        message, standing = deliver.tracked.message, deliver.tracked.standing
        self._desk.arrive(message.priority)
        now_s = self._clock.boot_s()
        held = Held(
            tracked=deliver.tracked,
            number=deliver.number,
            started_at=deliver.started_at,
            deadline_s=deliver.deadline_s,
            expires_at_s=deliver.expires_at_s,
            arrived_s=now_s,
            cost=message.recipients,
        )
        if held.cost > self._shape.burst:
            await self._fail(held, "It has more recipients than the provider's burst allows in one call.", began=False)
            return
        if self._settings.batch > 1:
            held.batch_key = self._batch_key(held)
        if standing.unsettled is not None and standing.unsettled_provider == self._name and self._asks:
            self._ask_first(held, standing.unsettled)
        else:
            self._hold(held, now_s)

    def _hold(self, held: Held, now_s: float) -> None:
        if held.lapses_s < self._hand.next_lapse_s() or self._stopped(now_s):
            self._pacer.ring()
        self._hand.add(held)
        if self._hand.next_open_s(now_s) <= now_s:
            self._stir(1)
        self._reserver.ring()
        if self._breaker.admit(now_s) is Admission.WAIT:
            self._keeper.ring()

    def _obey(self, controls: Controls | None) -> None:
        """The operators' word; it runs out by itself."""
        now_s, now = self._clock.boot_s(), self._clock.now()
        was_paused = self._paused_until_s > now_s
        self._desk.controls = controls
        pause = controls.pause if controls else None
        forced = controls.forced if controls else None
        self._paused_until_s = now_s + (pause.until - now).total_seconds() if pause else -inf
        self._breaker.force(
            forced.state if forced else None,
            now_s=now_s,
            until_s=now_s + (forced.until - now).total_seconds() if forced else now_s,
        )
        if was_paused and self._paused_until_s <= now_s:
            self._forgets_pauses = True  # resumed: what Retry-After said before is forgotten with it
            self._rate_until_s = -inf
        self._look_again(now_s)

    async def _drain(self) -> None:
        self._draining = True
        await self._release(self._all_unsent())
        self._idle.unpark_all()
        if self._senders:
            await self._all_sent.wait()
        with trio.move_on_after(LAST_WORDS_S):
            await self._tell_verdicts()

    async def _last_words(self, *, close: bool) -> None:
        with trio.move_on_after(LAST_WORDS_S, shield=True):
            await self._release(self._all_unsent())
            if close:
                await self._courier.aclose()

    # --------------------------------------------------------------------------------------------- senders

    def _stir(self, calls: int) -> None:
        """Let up to so many senders look for work; start them where too few exist."""
        idle = len(self._idle)
        self._idle.unpark(count=min(calls, idle))
        for _ in range(min(calls - idle, self._settings.concurrency - self._senders)):
            self._senders += 1
            self._nursery.start_soon(self._send_on)

    async def _send_on(self) -> None:
        try:
            while not self._draining:
                now_s = self._clock.boot_s()
                if question := self._next_question(now_s):
                    await self._ask(*question)
                elif call := self._next_call(now_s):
                    await self._carry(call)
                else:
                    await self._idle.park()
        finally:
            self._senders -= 1
            if not self._senders:
                self._all_sent.set()

    def _next_call(self, now_s: float) -> _Call | None:
        admission = self._admission(now_s)
        if admission is Admission.NO or (admission is Admission.PROBE and not self._permits):
            return None
        picked = self._hand.pick(now_s, urgent_only=self._ordinary >= self._most_ordinary)
        if picked is None:
            return None
        held, slot = picked
        permit = self._permits.pop() if admission is Admission.PROBE else None
        return _Call(self, held, slot, permit, self._breaker.epoch, now_s, sum(each.cost for each in held))

    async def _carry(self, call: _Call) -> None:
        """Make one call. Its own failures end here; whatever happens the journal is told of each message once."""
        ordinary = call.held[0].priority is not Priority.URGENT
        self._busy += 1
        self._ordinary += ordinary
        try:
            answers = _matched(await self._courier.send([_share(held) for held in call.held], call.begin), call.held)
        except RightLapsed:
            self._return(call.permit)
            await self._not_sent(call)
        except trio.Cancelled:
            await self._cut_off(call)
            raise
        except Exception as bug:
            await self._failed(call, bug)
        else:
            await self._answered(call, answers)
        finally:
            self._busy -= 1
            self._ordinary -= ordinary
            if call.begun_s is not None:
                self._in_air -= len(call.held)
            if len(self._hand):
                self._reserver.ring()

    def _begin(self, call: _Call) -> None:
        """The last look, in the same slice as the first byte. A courier that had to begin anew looks again."""
        now_s = self._clock.boot_s()
        admission = self._admission(now_s)
        permit = call.permit
        if admission is Admission.PROBE:
            if permit is None or permit.epoch != self._breaker.epoch or now_s > permit.begin_by_s:
                raise RightLapsed(f"{self._name}: no permit for a call while half-open")
        elif admission is not Admission.GO:
            raise RightLapsed(f"{self._name} may not be called now")
        if any(held.lapses_s <= now_s for held in call.held):
            raise RightLapsed(f"{self._name}: the time to send has passed")
        if not call.slot.opens_s <= now_s <= call.slot.closes_s:
            slot = self._hand.take_slot(now_s, call.cost)
            if slot is None:
                raise RightLapsed(f"{self._name}: the send slot has passed")
            call.slot = slot
        if call.begun_s is None:
            self._in_air += len(call.held)
            self._handled.add(now_s, call.cost)
            for held in call.held:
                self._slot_waits.observe(now_s - held.arrived_s)
        call.begun_s, call.epoch = now_s, self._breaker.epoch

    # -------------------------------------------------------------------------------------- ends of a call

    async def _answered(self, call: _Call, answers: Sequence[Answer]) -> None:
        """An answer gets to the journal even where our own bookkeeping is at fault."""
        ended = [(held, self._finished(held, answer)) for held, answer in zip(call.held, answers, strict=True)]
        try:
            self._take_note(call, answers)
        finally:
            await self._report(ended)

    def _take_note(self, call: _Call, answers: Sequence[Answer]) -> None:
        now_s = self._clock.boot_s()
        began_s = call.picked_s if call.begun_s is None else call.begun_s
        took_s = now_s - began_s
        self._durations.observe(took_s)
        for held, answer in zip(call.held, answers, strict=True):
            self._outcomes[answer.outcome].inc()
            if answer.outcome is Outcome.ACCEPTED and (parts := held.tracked.message.parts):
                self._parts.inc(parts)
        self._completed.add(now_s, len(answers))
        self._judge(call, weigh(answers, took_s, self._settings.breaker), now_s, answers)
        self._heed(answers, began_s, now_s)
        if now_s - self._published_s >= PUBLISH_S:
            self._publish(now_s)

    def _judge(self, call: _Call, evidence: Evidence, now_s: float, answers: Sequence[Answer]) -> None:
        """Breaker and permit. An opening stops everything here at once; the cluster is told next."""
        if call.permit is not None:
            self._end_permit(call.permit, evidence.verdict)
        draw = self._clock.random.random()
        if self._breaker.observe(evidence, epoch=call.epoch, now_s=now_s, draw=draw) is None:
            return
        if evidence is Evidence.REFUSED:
            codes = sorted({a.code or "" for a in answers if a.outcome is Outcome.MISCONFIGURED})
            log.error("provider.misconfigured", provider=self._name, codes=codes, mend="look at its account and keys")
        self._look_again(now_s)

    def _heed(self, answers: Iterable[Answer], began_s: float, now_s: float) -> None:
        """Throttling slows us down; Retry-After stops everybody."""
        for answer in answers:
            if answer.scope is not Scope.PROVIDER:
                continue
            if answer.outcome is Outcome.THROTTLED:
                self._pace_share.slow(began_s, now_s)
            if answer.retry_after_s is None or answer.retry_after_s <= 0 or answer.outcome is Outcome.ACCEPTED:
                continue
            until_s = now_s + answer.retry_after_s
            if until_s > self._rate_until_s:
                self._rate_until_s = until_s
                self._pause_to_tell_until_s = until_s
                self._hand.drop_slots()
                self._look_again(now_s)

    async def _not_sent(self, call: _Call) -> None:
        """Nothing was written. What can still be sent waits for its next slot; the rest is given up."""
        now_s = self._clock.boot_s()
        gone: list[Held] = []
        for held in call.held:
            if self._draining or held.lapses_s <= now_s or self._stopped(now_s):
                gone.append(held)
            else:
                self._hold(held, now_s)
        await self._release(gone)

    async def _cut_off(self, call: _Call) -> None:
        """Cancelled in mid-call: nobody knows, and that is said at once instead of by the reaper."""
        if call.begun_s is None:
            await self._release(call.held)
            return
        self._outcomes[Outcome.UNKNOWN].inc(len(call.held))
        await self._report([(held, self._finished(held, CUT_OFF)) for held in call.held])

    async def _failed(self, call: _Call, bug: Exception) -> None:
        """The courier raised: our own fault. Where several messages shared the call, each goes alone next, so that
        the one which our code cannot stand harms no neighbour."""
        self._complain(bug)
        now_s = self._clock.boot_s()
        self._judge(call, Evidence.NOTHING if call.begun_s is None else Evidence.BAD, now_s, ())
        if len(call.held) == 1:
            why = f"Heliograph's own code failed on it ({type(bug).__name__})."
            await self._fail(call.held[0], why, began=call.begun_s is not None)
        elif call.begun_s is None:
            for held in call.held:
                held.batch_key = None
            await self._not_sent(call)
        else:
            self._outcomes[Outcome.UNKNOWN].inc(len(call.held))
            lost = Answer(outcome=Outcome.UNKNOWN, code="internal", detail="The answer to its batch was lost by us.")
            await self._report([(held, self._finished(held, lost)) for held in call.held])

    async def _fail(self, held: Held, why: str, *, began: bool) -> None:
        outcome = Outcome.UNKNOWN if began else Outcome.REJECTED
        self._outcomes[outcome].inc()
        answer = Answer(outcome=outcome, code="internal", detail=why)
        await self._report([(held, self._finished(held, answer, internal=True))])

    # ------------------------------------------------------------------------------------ earlier attempts

    @property
    def _asks(self) -> bool:
        return self._settings.unknown is UnknownRule.ASK and self._courier.can_ask

    def _ask_first(self, held: Held, number: int) -> None:
        """Look the attempt that never was answered up, before another call. What was told once is not asked again."""
        held.ask = number
        key = (held.tracked.message.id, number)
        if key in self._told_before:
            self._hear(held, self._told_before.pop(key))
            return
        self._questions.append(held)
        self._pacer.ring()
        self._keeper.ring()
        self._reserver.ring()
        self._stir(1)

    def _next_question(self, now_s: float) -> tuple[Held, int, _Permit | None] | None:
        if not self._questions:
            return None
        admission = self._admission(now_s)
        if admission not in (Admission.GO, Admission.PROBE) or (admission is Admission.PROBE and not self._permits):
            return None
        permit = self._permits.pop() if admission is Admission.PROBE else None
        held = self._questions.popleft()
        return None if held.ask is None else (held, held.ask, permit)

    async def _ask(self, held: Held, number: int, permit: _Permit | None) -> None:
        message = held.tracked.message
        settled: Settled | None = None
        self._busy += 1
        try:
            # Not beyond our right to the call: what comes later than that the reaper has ended.
            with trio.move_on_after(held.lapses_s - self._clock.boot_s()):
                settled = await self._courier.ask(
                    ProviderCall(message=message, number=number, attempt_id=attempt_id(message.id, number))
                )
        except trio.Cancelled:
            await self._release([held])
            raise
        except Exception as bug:
            self._complain(bug)
        finally:
            self._busy -= 1
            if permit is not None:
                self._permits.append(permit)  # for the call that follows; the reserver returns it where it is stale
                self._reserver.ring()
        await self._told(held, number, settled)

    async def _told(self, held: Held, number: int, settled: Settled | None) -> None:
        match settled:
            case Settled.ACCEPTED:
                word = EarlierSettled(
                    tracked=held.tracked,
                    number=held.number,
                    provider=self._name,
                    started_at=held.started_at,
                    settled_number=number,
                )
                await self._report([(held, word)])
            case Settled.REJECTED:
                held.settles = (number, settled)
                self._outcomes[Outcome.REJECTED].inc()
                await self._report([(held, self._finished(held, HAD_REFUSED))])
            case Settled.NOT_SENT | None:
                self._hear(held, settled)
            case _ as never:
                assert_never(never)

    def _hear(self, held: Held, settled: Settled | None) -> None:
        """It was not sent, or nobody can tell: call."""
        held.told = True
        if settled is not None and held.ask is not None:
            held.settles = (held.ask, settled)
        self._hold(held, self._clock.boot_s())

    def _remember(self, held: Held) -> None:
        """For the next claim of the same message: an answer that takes longer than a claim would else never help."""
        if not held.told or held.ask is None:
            return
        if len(self._told_before) >= MOST_TOLD:
            del self._told_before[next(iter(self._told_before))]
        self._told_before[held.tracked.message.id, held.ask] = held.settles[1] if held.settles else None

    # ------------------------------------------------------------------------------------- to the journal

    def _finished(self, held: Held, answer: Answer, *, internal: bool = False) -> AttemptFinished:
        return AttemptFinished(
            tracked=held.tracked,
            number=held.number,
            provider=self._name,
            started_at=held.started_at,
            finished_at=self._clock.now(),
            answer=answer,
            internal=internal,
            settles=held.settles,
        )

    async def _release(self, unsent: Sequence[Held]) -> None:
        """Give claims up: nothing was sent, nothing is counted."""
        ended: list[tuple[Held, Ended]] = []
        for held in unsent:
            self._remember(held)
            ended.append((held, AttemptReleased(tracked=held.tracked, number=held.number, provider=self._name)))
        if ended:
            await self._report(ended)

    async def _report(self, ended: Sequence[tuple[Held, Ended]]) -> None:
        """Tell the journal, waiting for room. Cancelled meanwhile it tells the rest all the same, within a limit."""
        waiting = deque(ended)
        try:
            await self._tell(waiting)
        except trio.Cancelled:
            with trio.move_on_after(LAST_WORDS_S, shield=True):
                await self._tell(waiting)
            raise

    async def _tell(self, waiting: deque[tuple[Held, Ended]]) -> None:
        while waiting:
            held, word = waiting[0]
            await self._journal.tell(word)
            waiting.popleft()
            self._desk.done(held.priority)

    # ------------------------------------------------------------------------------------------- may we?

    def _stopped(self, now_s: float) -> bool:
        """Nobody is to be called for a while: what is held is better given to others."""
        return (
            self._paused_until_s > now_s
            or self._rate_until_s > now_s
            or self._breaker.admit(now_s) is Admission.NO
        )  # fmt: skip

    def _admission(self, now_s: float) -> Admission:
        if self._draining or self._paused_until_s > now_s or self._rate_until_s > now_s:
            return Admission.NO
        return self._breaker.admit(now_s)

    def _share(self, now_s: float) -> float:
        return self._pace_share.share(now_s) * self._breaker.ramp(now_s)

    def _all_unsent(self) -> list[Held]:
        unsent = [*self._hand.clear(), *self._questions]
        self._questions.clear()
        return unsent

    def _look_again(self, now_s: float) -> None:
        """Something changed that may stop calls or let them go on."""
        state = self._breaker.state(now_s)
        if state is not self._shown:
            self._show(state, now_s)
        self._publish(now_s)
        self._pacer.ring()
        self._reserver.ring()
        self._keeper.ring()

    def _show(self, state: BreakerState, now_s: float) -> None:
        """The breaker has changed: slots and permits in hand belong to what was before."""
        until_s = self._breaker.until_s(now_s)
        log.warning(
            "breaker." + ("opened" if state is BreakerState.OPEN else state),
            provider=self._name,
            for_s=None if until_s is None else round(until_s - now_s, 1),
        )
        self._shown = state
        self._transitions[state].inc()
        self._state_gauge.set(STATE_NUMBERS[state])
        self._hand.drop_slots()
        self._probes_until_s = -inf
        while self._permits:
            self._return(self._permits.pop())

    # ---------------------------------------------------------------------------------------------- pacer

    async def _pace(self) -> None:
        while True:
            now_s = self._clock.boot_s()
            if self._stopped(now_s):
                await self._release(self._all_unsent())
            else:
                await self._release(self._lapsed(now_s))
            now_s = self._clock.boot_s()
            if calls := min(self._hand.open_slots(now_s), len(self._hand)) + len(self._questions):
                self._stir(calls)
            wake_s = min(self._hand.next_lapse_s(), *(held.lapses_s for held in self._questions), inf)
            if len(self._hand):
                wake_s = min(wake_s, self._hand.next_open_s(now_s, after=True))
            await self._pacer.wait(max(wake_s - now_s, 0.0005))

    def _lapsed(self, now_s: float) -> list[Held]:
        late = self._hand.lapsed(now_s)
        if any(held.lapses_s <= now_s for held in self._questions):
            late += [held for held in self._questions if held.lapses_s <= now_s]
            self._questions = deque(held for held in self._questions if held.lapses_s > now_s)
        return late

    # ------------------------------------------------------------------------------------------- reserver

    async def _reserve(self) -> None:
        while True:
            try:
                wait_s = await self._ask_for_slots()
            except QueueDown as error:
                self._redis_is_away(error)
                wait_s = 0.0
                await trio.sleep(REDIS_AWAY_S * (0.5 + self._clock.random.random()))
            if wait_s == inf:
                await self._reserver.wait(PROBE_WITHIN_S if self._permits else inf)
            elif wait_s > 0:
                await trio.sleep(max(wait_s, DRY_S))

    async def _ask_for_slots(self) -> float:
        """One turn; answers in how long the next is worth while: inf, when the bell tells."""
        now_s = self._clock.boot_s()
        self._drop_stale_permits(now_s)
        admission = self._admission(now_s)
        if admission is Admission.PROBE:
            await self._ask_for_permits()
            now_s = self._clock.boot_s()
            if self._questions and self._permits:
                self._stir(len(self._permits))
        elif admission is not Admission.GO:
            return inf
        capacity = self._settings.concurrency - self._busy
        capacity += int(self._completed.total(now_s) * HORIZON_S / PREFETCH_S)
        if admission is Admission.PROBE:
            capacity = min(capacity, len(self._permits))
        share = self._share(now_s)
        most = slots_to_ask(
            len(self._hand),
            rate=self._settings.rate * share,
            supervisors=self._supervisors(),
            capacity=capacity - self._hand.slots(now_s),
        )
        want, cost = self._hand.wanted(now_s, most=most)
        if want == 0:
            return inf
        got = await self._coordination.reserve(
            self._name, slowed(self._shape, share, cost), want=want, cost=cost, horizon_s=HORIZON_S
        )
        now_s = self._clock.boot_s()
        self._redis_is_back()
        self._learn(got.record, now_s)
        if got.paused_for_s > 0:
            self._wait_for_rate(now_s + got.paused_for_s, now_s)
            return inf
        if self._admission(now_s) not in (Admission.GO, Admission.PROBE):
            return inf
        if got.slots:
            self._hand.grant(got.slots, cost)
            self._pacer.ring()
        elif got.next_in_s > FAR_S:
            self._wait_for_rate(now_s + got.next_in_s, now_s)
            return inf
        return 0.0 if len(got.slots) == want else max(got.next_in_s, DRY_S)

    async def _ask_for_permits(self) -> None:
        """As many as there is to send. Where others have them all, what we hold goes back."""
        await self._tell_verdicts()  # what we still owe would count against us
        epoch, most = self._breaker.epoch, self._settings.breaker.half_open_permits
        ttl_s = self._courier.longest_call_s + PROBE_WITHIN_S
        while len(self._permits) < min(len(self._hand) + len(self._questions), most):
            asked_s = self._clock.boot_s()
            name = await self._coordination.permit(self._name, epoch=epoch, most=most, ttl_s=ttl_s)
            if name is None:
                break
            permit = _Permit(name, epoch, asked_s + PROBE_WITHIN_S)
            if epoch != self._breaker.epoch:
                self._return(permit)
                return
            self._permits.append(permit)
        if not self._permits and (len(self._hand) or self._questions):
            now_s = self._clock.boot_s()
            self._probes_until_s = now_s + POLL_S
            self._publish(now_s)
            self._keeper.ring()
            await self._release(self._all_unsent())

    def _wait_for_rate(self, until_s: float, now_s: float) -> None:
        if until_s > self._rate_until_s:
            self._rate_until_s = until_s
            self._look_again(now_s)

    # --------------------------------------------------------------------------------------------- permits

    def _drop_stale_permits(self, now_s: float) -> None:
        stale = [p for p in self._permits if p.epoch != self._breaker.epoch or p.begin_by_s <= now_s]
        for permit in stale:
            self._permits.remove(permit)
            self._return(permit)

    def _return(self, permit: _Permit | None) -> None:
        if permit is not None:
            self._end_permit(permit, Verdict.RETURNED)

    def _end_permit(self, permit: _Permit, verdict: Verdict) -> None:
        self._verdicts.append((permit, verdict))
        self._keeper.ring()

    async def _tell_verdicts(self) -> None:
        """A verdict that does not get through is given up: its permit runs out, and another is handed out."""
        while self._verdicts:
            permit, verdict = self._verdicts.popleft()
            record = await self._coordination.close_permit(
                self._name, epoch=permit.epoch, permit=permit.name, verdict=verdict
            )
            if record is not None:
                self._learn(record, self._clock.boot_s())

    # ---------------------------------------------------------------------------------------------- keeper

    async def _keep(self) -> None:
        retry_s = inf
        record_read = False
        while True:
            try:
                if not record_read or self._polls():
                    await self._read_record()
                    record_read = True
                await self._tell_pauses()
                await self._tell_verdicts()
                await self._move_breaker()
                retry_s = inf
            except QueueDown as error:
                self._redis_is_away(error)
                retry_s = REDIS_AWAY_S * (0.5 + self._clock.random.random())
            now_s = self._clock.boot_s()
            self._look_at_the_time(now_s)
            await self._keeper.wait(min(retry_s, self._next_turn_s(now_s) - now_s))

    def _polls(self) -> bool:
        return self._shown is BreakerState.HALF_OPEN

    async def _read_record(self) -> None:
        record, paused_for_s = await self._coordination.record(self._name)
        now_s = self._clock.boot_s()
        self._redis_is_back()
        self._learn(record, now_s)
        if paused_for_s > 0:
            self._wait_for_rate(now_s + paused_for_s, now_s)

    async def _tell_pauses(self) -> None:
        if self._forgets_pauses:
            await self._coordination.pause(self._name, for_s=0)
            self._forgets_pauses = False
        for_s = self._pause_to_tell_until_s - self._clock.boot_s()
        if for_s > 0:
            await self._coordination.pause(self._name, for_s=for_s)
        self._pause_to_tell_until_s = -inf

    async def _move_breaker(self) -> None:
        for _ in range(MOST_MOVES):
            draw = self._clock.random.random()
            demand = bool(len(self._hand) or self._questions)
            change = self._breaker.due(self._clock.boot_s(), draw, demand=demand)
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

    def _look_at_the_time(self, now_s: float) -> None:
        """What ran out meanwhile: an order, a pause, the rest of an open breaker."""
        state = self._breaker.state(now_s)
        if state is not self._shown:
            self._show(state, now_s)
        self._publish(now_s)
        if not self._stopped(now_s) and (len(self._hand) or self._questions):
            self._reserver.ring()
            self._pacer.ring()

    def _next_turn_s(self, now_s: float) -> float:
        times = [self._paused_until_s, self._rate_until_s, self._probes_until_s, self._redis_until_s]
        if (until_s := self._breaker.until_s(now_s)) is not None:
            times.append(until_s)
        if self._polls():
            times.append(now_s + POLL_S)
        if self._share(now_s) < 1.0:
            times.append(now_s + POLL_S)
        return min((t for t in times if t > now_s), default=inf)

    # -------------------------------------------------------------------------------------------- the desk

    def _publish(self, now_s: float) -> None:
        self._published_s = now_s
        rate = self._settings.rate * self._share(now_s)
        self._rate_gauge.set(rate)
        blocks = [
            (self._paused_until_s, WaitingFor.PAUSED),
            (self._probes_until_s, WaitingFor.BREAKER),
            (max(self._rate_until_s, self._redis_until_s), WaitingFor.RATE),
        ]
        admission = self._breaker.admit(now_s)
        if admission is Admission.NO:
            until_s = self._breaker.until_s(now_s)
            blocks.append((inf if until_s is None else until_s, WaitingFor.BREAKER))
        until_s, why = max(blocks, key=lambda block: block[0])
        self._desk.publish(
            window=self._window(now_s, rate) if admission is Admission.GO else self._settings.breaker.half_open_permits,
            blocked_until_s=until_s,
            blocked_for=why if until_s > now_s else None,
        )

    def _window(self, now_s: float, rate: float) -> int:
        return window(
            concurrency=self._settings.concurrency,
            batch=self._settings.batch,
            completed=self._completed.total(now_s),
            rate=rate / self._supervisors(),
        )

    def _redis_is_away(self, error: QueueDown) -> None:
        now_s = self._clock.boot_s()
        if not self._redis_away:
            log.warning("provider.waits", provider=self._name, on="redis", error=str(error))
        self._redis_away = True
        self._redis_until_s = now_s + 2 * REDIS_AWAY_S
        self._publish(now_s)

    def _redis_is_back(self) -> None:
        if not self._redis_away:
            return
        log.info("provider.goes_on", provider=self._name)
        self._redis_away = False
        self._redis_until_s = -inf
        self._publish(self._clock.boot_s())
        self._keeper.ring()

    def _batch_key(self, held: Held) -> Hashable | None:
        """None, too, where our code cannot stand the message: alone it harms nobody else."""
        message = held.tracked.message
        try:
            key = self._courier.batch_key(message)
        except Exception as bug:
            self._complain(bug)
            return None
        return None if key is None else (message.live, key)

    def _complain(self, bug: Exception) -> None:
        """Its type and place only: its text may quote a body or a secret."""
        where = bug.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = None if where is None else f"{where.tb_frame.f_globals.get('__name__')}:{where.tb_lineno}"
        log.error("provider.bug", provider=self._name, error=type(bug).__name__, place=place)


def _matched(answers: Sequence[Answer], held: Sequence[Held]) -> Sequence[Answer]:
    if len(answers) != len(held):
        raise ValueError(f"{len(answers)} answers to {len(held)} messages")
    return answers


def _share(held: Held) -> ProviderCall:
    message = held.tracked.message
    return ProviderCall(message=message, number=held.number, attempt_id=attempt_id(message.id, held.number))
