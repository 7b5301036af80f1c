"""A provider's actor: the only place from which its provider is called.

It owns the claimed messages that wait for a send slot, the calls in the air, and this supervisor's part in what all of
them agree on (`sending.accord`: breaker, slots, permits). Dispatchers put claimed messages in; each ends in exactly one
word to the journal: finished, settled, or released. Until that word is taken the message counts on the provider's desk.

Its tasks live in one nursery that `run` opens and closes: up to `concurrency` senders, each picking the most urgent
message that an open slot can carry, and calling; a pacer, which lets slots open at their time and gives up at once
what can no longer be sent; and the two of the accord. What decides is in `policy`. Rate, breaker, deadline and expiry
are looked at once more in `_begin`, in the same synchronous slice as the call's first byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.bell import Bell
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.metrics.provider import ProviderMeters
from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Settled
from heliograph.actors.model.errors import RightLapsed
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import Priority
from heliograph.actors.model.provider import ProviderReport, ProviderSettings, UnknownRule
from heliograph.actors.policy.availability import URGENT_PART
from heliograph.actors.policy.breaker import Admission, Evidence, Verdict
from heliograph.actors.policy.bucket import shape
from heliograph.actors.policy.hand import Hand, Held, Slot
from heliograph.actors.policy.permits import Permit
from heliograph.actors.policy.questions import Questions, hear
from heliograph.actors.ports.board import Desk
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.ports.courier import Courier, Measured
from heliograph.actors.ports.handover import ControlsChanged, Deliver, ProviderMessage
from heliograph.actors.ports.journal import AttemptFinished, AttemptReleased, EarlierSettled, Ended, Journal
from heliograph.actors.sending.accord import Accord, Spent

log = structlog.get_logger()
SHORTEST_SLEEP_S: Final = 0.0005
YIELD_EVERY: Final = 8
LAST_WORDS_S: Final = 2.0
MOST_AT_ONCE: Final = 64
CUT_OFF: Final = Answer(
    outcome=Outcome.UNKNOWN, code="cut_off", detail="The supervisor was stopped before the provider answered."
)
HAD_REFUSED: Final = Answer(
    outcome=Outcome.REJECTED, code="refused_earlier", detail="Asked about the earlier attempt: it had been refused."
)
BATCH_LOST: Final = Answer(
    outcome=Outcome.UNKNOWN, code="internal", detail="Heliograph's own code lost the answer to its batch."
)


@dataclass(slots=True, eq=False)
class _Call:
    """One call on its way. `begun_s` is None until the courier was about to write its first byte; it stays so when,
    for one, no connection could be made."""

    actor: ProviderActor
    held: list[Held]
    slot: Slot
    permit: Permit | None
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
        spent: Spent,
        supervisors: Callable[[], int],
        clock: Clock,
        metrics: Metrics,
        bulk_share: float = 0.05,
    ) -> None:
        self._settings = settings
        self._name = settings.name
        self._courier = courier
        self._journal = journal
        self._desk = desk
        self._clock = clock
        self._meters = ProviderMeters(metrics, settings.name, has_quota=settings.quota is not None)
        self._largest = shape(settings.rate, settings.burst).burst
        self._hand = Hand(
            batch=settings.batch,
            largest=self._largest,
            low_share=bulk_share,
            unused=lambda counted, recipients: self._accord.unused(counted, recipients),
        )
        self._questions = Questions()
        self._too_large: list[Held] = []
        self._pacer = Bell()
        self._accord = Accord(
            settings,
            coordination,
            desk,
            self._hand,
            self._questions,
            self._meters,
            longest_call_s=courier.longest_call_s,
            spent=spent,
            allowance=courier.allowance if isinstance(courier, Measured) else None,
            changed=self._pacer.ring,
            free_calls=lambda: settings.concurrency - self._busy,
            supervisors=supervisors,
            clock=clock,
        )
        self._nursery: trio.Nursery
        self._idle = trio.lowlevel.ParkingLot()
        self._senders = self._busy = self._ordinary = self._in_air = 0
        self._most_ordinary = settings.concurrency - settings.concurrency // URGENT_PART
        self._draining = False
        self._all_sent = trio.Event()

    async def run(self, inbox: Inbox[ProviderMessage]) -> None:
        """A crash, too, gives up what it holds: only calls in the air are recorded as `unknown`."""
        try:
            await self._work(inbox)
        except Exception:
            self._desk.vacate()
            await self._last_words(inbox, close=False)
            raise
        except BaseException:
            await self._last_words(inbox, close=True)
            raise
        await self._courier.aclose()

    def report(self) -> ProviderReport:
        return self._accord.report(in_flight=self._in_air)

    # ---------------------------------------------------------------------------------- the mailbox, the end

    async def _work(self, inbox: Inbox[ProviderMessage]) -> None:
        self._desk.reset()
        self._accord.obey(self._desk.controls)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._pace)
            nursery.start_soon(self._accord.reserve)
            nursery.start_soon(self._accord.keep)
            nursery.start_soon(self._accord.count)
            nursery.start_soon(self._accord.heed)
            async for first in inbox:
                for message in (first, *inbox.pile(MOST_AT_ONCE)):  # no checkpoint: nothing taken out gets lost
                    match message:
                        case Deliver():
                            self._arrive(message)
                        case ControlsChanged(controls):
                            self._accord.obey(controls)
                        case _ as never:
                            assert_never(never)
            await self._drain()
            nursery.cancel_scope.cancel()

    def _arrive(self, deliver: Deliver) -> None:
        standing = deliver.tracked.standing
        held = self._take(deliver)
        if held.cost > self._largest:
            self._too_large.append(held)
            self._pacer.ring()
            return
        if self._settings.batch > 1:
            held.batch_key = self._batch_key(held)
        if standing.unsettled is not None and standing.unsettled_provider == self._name and self._asks:
            held.ask = standing.unsettled
            if self._questions.add(held):
                self._pacer.ring()
                self._accord.demanded(held.arrived_s)
                return
        self._hold(held)

    def _take(self, deliver: Deliver) -> Held:
        message, standing = deliver.tracked.message, deliver.tracked.standing
        self._desk.arrive(message.priority)
        return Held(
            tracked=deliver.tracked,
            number=deliver.number,
            started_at=deliver.started_at,
            deadline_s=deliver.deadline_s,
            expires_at_s=deliver.expires_at_s,
            arrived_s=self._clock.boot_s(),
            cost=message.recipients,
            retry=standing.passes > 0 or self._name in standing.tried or standing.unsettled_provider == self._name,
        )

    def _hold(self, held: Held) -> None:
        now_s = self._clock.boot_s()
        accord = self._accord
        if held.lapses_s < self._hand.next_lapse_s() or accord.stopped(now_s) or accord.crowded(now_s):
            self._pacer.ring()
        self._hand.add(held)
        if self._hand.next_open_s(now_s) <= now_s:
            self._stir(1)
        self._accord.demanded(now_s)

    async def _drain(self) -> None:
        self._draining = True
        self._accord.finish()
        await self._release(self._all_unsent())
        self._idle.unpark_all()
        if self._senders:
            await self._all_sent.wait()
        await self._release(self._all_unsent())  # what senders put back meanwhile
        with trio.move_on_after(LAST_WORDS_S):
            await self._accord.settle_up()

    async def _last_words(self, inbox: Inbox[ProviderMessage], *, close: bool) -> None:
        """Give up, too, what waits in the mailbox: its right would be over before the next actor begins."""
        unsent = self._all_unsent()
        for message in inbox.pile(inbox.depth):
            match message:
                case Deliver():
                    unsent.append(self._take(message))
                case ControlsChanged(controls):
                    self._desk.controls = controls
                case _ as never:
                    assert_never(never)
        with trio.move_on_after(LAST_WORDS_S, shield=True):
            await self._release(unsent)
            if close:
                await self._courier.aclose()

    def _all_unsent(self) -> list[Held]:
        too_large, self._too_large = self._too_large, []
        return [*self._hand.clear(), *self._questions.clear(), *too_large]

    # ---------------------------------------------------------------------------------------------- pacer

    async def _pace(self) -> None:
        while True:
            now_s = self._clock.boot_s()
            while self._too_large:
                why = "It has more recipients than the provider's burst allows in one call."
                await self._fail(self._too_large.pop(), why, began=False)
            if self._accord.stopped(now_s):
                await self._release(self._all_unsent())
            else:
                await self._release([*self._hand.lapsed(now_s), *self._questions.lapsed(now_s)])
            if self._accord.crowded(now_s):
                await self._release(self._accord.surplus(now_s))
            now_s = self._clock.boot_s()
            if calls := min(self._hand.open_slots(now_s), len(self._hand)) + len(self._questions):
                self._stir(calls)
            wake_s = min(self._hand.next_lapse_s(), self._questions.next_lapse_s())
            if len(self._hand):
                wake_s = min(wake_s, self._hand.next_open_s(now_s, after=True))
            await self._pacer.wait(max(wake_s - now_s, SHORTEST_SLEEP_S))

    # --------------------------------------------------------------------------------------------- senders

    def _stir(self, calls: int) -> None:
        """Let up to so many senders look for work; start them where too few exist."""
        idle = len(self._idle)
        self._idle.unpark(count=min(calls, idle))
        for _ in range(min(calls - idle, self._settings.concurrency - self._senders)):
            self._senders += 1
            self._nursery.start_soon(self._send_on)

    async def _send_on(self) -> None:
        calls = 0
        try:
            while not self._draining:
                now_s = self._clock.boot_s()
                calls += 1
                if calls % YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()  # a courier that never waits is not to keep all others waiting
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
        admission, permits = self._accord.admission(now_s), self._accord.permits
        if not admission.calls or (admission is Admission.PROBE and not permits):
            return None
        probe = admission is Admission.PROBE
        picked = self._hand.pick(
            now_s,
            urgent_only=self._ordinary >= self._most_ordinary,
            fresh_only=probe and self._accord.prefers_fresh(now_s),
        )
        if picked is None:
            return None
        held, slot = picked
        permit = permits.take() if probe else None
        return _Call(self, held, slot, permit, self._accord.epoch, now_s, sum(each.cost for each in held))

    async def _carry(self, call: _Call) -> None:
        """Make one call. Its own failures end here; whatever happens the journal is told of each message once."""
        ordinary = call.held[0].priority is not Priority.URGENT
        self._busy += 1
        self._ordinary += ordinary
        try:
            answers = await self._courier.send([_as_call(held) for held in call.held], call.begin)
            _check(answers, call.held)
        except RightLapsed:
            await self._not_sent(call)
        except Exception as bug:
            await self._failed(call, bug)
        except BaseException:
            await self._cut_off(call)
            raise
        else:
            await self._answered(call, answers)
        finally:
            self._busy -= 1
            self._ordinary -= ordinary
            if call.begun_s is None:
                self._accord.unused(call.slot.counted, call.cost)
            else:
                self._in_air -= len(call.held)
            if len(self._hand):
                self._accord.demanded(self._clock.boot_s())

    def _begin(self, call: _Call) -> None:
        """The last look, in the same slice as the first byte. A courier that had to begin anew looks again."""
        now_s = self._clock.boot_s()
        admission, permit = self._accord.admission(now_s), call.permit
        if admission is Admission.PROBE:
            if permit is None or not permit.serves(self._accord.epoch, now_s):
                raise RightLapsed(f"{self._name}: no permit for a call while half-open")
        elif admission is not Admission.GO:
            raise RightLapsed(f"{self._name} may not be called now")
        if any(held.lapses_s <= now_s for held in call.held):
            raise RightLapsed(f"{self._name}: the time to send has passed")
        if not call.slot.opens_s <= now_s <= call.slot.closes_s:
            slot = self._hand.take_slot(now_s, call.cost)
            if slot is None:
                raise RightLapsed(f"{self._name}: the send slot has passed")
            if call.begun_s is None:
                self._accord.unused(call.slot.counted, call.cost)
            call.slot = slot
        if call.begun_s is None:
            self._in_air += len(call.held)
            self._accord.handed_over(call.cost, now_s)
            for held in call.held:
                self._meters.slot_wait.observe(now_s - held.arrived_s)
        call.begun_s, call.epoch = now_s, self._accord.epoch

    # -------------------------------------------------------------------------------------- ends of a call

    async def _answered(self, call: _Call, answers: Sequence[Answer]) -> None:
        """An answer gets to the journal even where our own bookkeeping is at fault."""
        ended = [(held, self._finished(held, answer)) for held, answer in zip(call.held, answers, strict=True)]
        now_s = self._clock.boot_s()
        began_s = call.picked_s if call.begun_s is None else call.begun_s
        try:
            self._meters.duration.observe(now_s - began_s)
            self._accord.answered(answers, permit=call.permit, epoch=call.epoch, began_s=began_s, now_s=now_s)
        finally:
            await self._report(ended)

    async def _not_sent(self, call: _Call) -> None:
        """Nothing was written. What can still be sent waits for its next slot; the rest is given up."""
        now_s = self._clock.boot_s()
        if call.permit is not None:
            self._accord.end(call.permit, Verdict.RETURNED)
        gone: list[Held] = []
        for held in call.held:
            if self._draining or held.lapses_s <= now_s or self._accord.stopped(now_s):
                gone.append(held)
            else:
                self._hold(held)
        await self._release(gone)

    async def _cut_off(self, call: _Call) -> None:
        """Cancelled in mid-call: nobody knows, and that is said at once instead of by the reaper."""
        if call.begun_s is None:
            await self._release(call.held)
        else:
            await self._report([(held, self._finished(held, CUT_OFF)) for held in call.held])

    async def _failed(self, call: _Call, bug: Exception) -> None:
        """The courier raised: our own fault. Where several messages shared the call, each goes alone next, so that
        the one which our code cannot stand harms no neighbour."""
        self._complain(bug)
        began = call.begun_s is not None
        if len(call.held) > 1 and not began:
            for held in call.held:
                held.batch_key = None
            await self._not_sent(call)
            return
        evidence = Evidence.BAD if began else Evidence.NOTHING
        self._accord.judged(evidence, permit=call.permit, epoch=call.epoch, now_s=self._clock.boot_s())
        if len(call.held) == 1:
            await self._fail(call.held[0], f"Heliograph's own code failed on it ({type(bug).__name__}).", began=began)
        else:
            await self._report([(held, self._finished(held, BATCH_LOST)) for held in call.held])

    async def _fail(self, held: Held, why: str, *, began: bool) -> None:
        answer = Answer(outcome=Outcome.UNKNOWN if began else Outcome.REJECTED, code="internal", detail=why)
        await self._report([(held, self._finished(held, answer, internal=True))])

    # ------------------------------------------------------------------------------------ earlier attempts

    @property
    def _asks(self) -> bool:
        return self._settings.unknown is UnknownRule.ASK and self._courier.can_ask

    def _next_question(self, now_s: float) -> tuple[Held, Permit | None] | None:
        if not self._questions:
            return None
        permits = self._accord.permits
        match self._accord.admission(now_s):
            case Admission.GO:
                return self._questions.take(), None
            case Admission.PROBE if permits:
                return self._questions.take(), permits.take()
            case _:
                return None

    async def _ask(self, held: Held, permit: Permit | None) -> None:
        """Look the attempts that never were answered up at the provider, before another call."""
        message, number = held.tracked.message, 0
        settled: Settled | None = None
        self._busy += 1
        try:
            # Not beyond our right to the call: what comes later than that the reaper has ended.
            with trio.move_on_after(held.lapses_s - self._clock.boot_s()):
                for number in range(held.ask or 0, held.number):
                    call = ProviderCall(message=message, number=number, attempt_id=attempt_id(message.id, number))
                    settled = None
                    settled = await self._courier.ask(call)
                    if settled in (Settled.ACCEPTED, Settled.REJECTED):
                        break
        except Exception as bug:
            self._complain(bug)
        except BaseException:
            await self._release([held])
            raise
        finally:
            self._busy -= 1
            if permit is not None:
                self._accord.permits.add(permit)  # for the call that follows; the accord returns it where it is stale
                self._accord.demanded(self._clock.boot_s())
        await self._told(held, number, settled)

    async def _told(self, held: Held, number: int, settled: Settled | None) -> None:
        match settled:
            case Settled.ACCEPTED:
                self._meters.taken(held.tracked.message)
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
                await self._report([(held, self._finished(held, HAD_REFUSED))])
            case Settled.NOT_SENT | None:
                hear(held, None if settled is None else (number, settled))
                self._hold(held)
            case _ as never:
                assert_never(never)

    # ------------------------------------------------------------------------------------- to the journal

    def _finished(self, held: Held, answer: Answer, *, internal: bool = False) -> Ended:
        self._meters.attempt(held.tracked.message, answer.outcome)
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
            self._questions.remember(held)
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
            if not self._journal.offer(word):
                await self._journal.tell(word)
            waiting.popleft()
            self._desk.done(held.priority)

    # -------------------------------------------------------------------------------------------- troubles

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


def _as_call(held: Held) -> ProviderCall:
    message = held.tracked.message
    return ProviderCall(message=message, number=held.number, attempt_id=attempt_id(message.id, held.number))


def _check(answers: Sequence[Answer], held: Sequence[Held]) -> None:
    if len(answers) != len(held):
        raise ValueError(f"{len(answers)} answers to {len(held)} messages")
