"""A provider's actor: the only place from which its provider is called.

It owns the claimed messages that wait for a send slot, the calls in the air, and this supervisor's part in what all of
them agree on (`sending.accord`: breaker, slots, permits). Dispatchers put claimed messages in; each ends in exactly one
word to the journal: finished, settled, or released. Until that word is taken the message counts on the provider's desk.

Its tasks live in one nursery that `run` opens and closes: up to `concurrency` senders, each picking the most urgent
message that an open slot can carry, and calling; a pacer, which lets slots open at their time and gives up at once
what can no longer be sent; and those of the accord. What decides is in `policy`. Rate, breaker, deadline and expiry
are looked at once more in `_begin`, in the same synchronous slice as the call's first byte. Words are said without
waiting, and carried to the journal by a teller, all that were said meanwhile at once.
"""

from __future__ import annotations

from collections import Counter
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
YIELD_EVERY: Final = 32
LAST_WORDS_S: Final = 2.0
MOST_AT_ONCE: Final = 256
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
            unused=(lambda counted, recipients: self._accord.unused(counted, recipients)) if settings.quota else None,
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
        self._senders = self._looking = self._busy = self._ordinary = 0
        self._most_ordinary = settings.concurrency - settings.concurrency // URGENT_PART
        self._draining = False
        self._all_sent = trio.Event()
        self._words: list[Ended] = []
        """Said, and not taken by the journal yet."""
        self._held_up = False
        """The journal has no room: no call begins."""
        self._teller = trio.lowlevel.ParkingLot()
        self._silent = False

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
        return self._accord.report(in_flight=self._desk.in_air)

    # ---------------------------------------------------------------------------------- the mailbox, the end

    async def _work(self, inbox: Inbox[ProviderMessage]) -> None:
        self._desk.reset()
        self._accord.obey(self._desk.controls)
        async with trio.open_nursery() as tellers:
            tellers.start_soon(self._tell_on)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._pace)
                nursery.start_soon(self._accord.reserve)
                nursery.start_soon(self._accord.keep)
                nursery.start_soon(self._accord.count)
                nursery.start_soon(self._accord.heed)
                async for first in inbox:
                    self._hear([first, *inbox.pile(MOST_AT_ONCE)])  # no checkpoint: nothing taken out gets lost
                await self._drain()
                nursery.cancel_scope.cancel()
            self._silent = True
            self._teller.unpark()

    def _hear(self, messages: Sequence[ProviderMessage]) -> None:
        now_s = self._clock.boot_s()
        ready: list[Held] = []
        for message in messages:
            match message:
                case Deliver():
                    held = self._take(message, now_s)
                    if self._may_go(held):
                        ready.append(held)
                case ControlsChanged(controls):
                    self._accord.obey(controls)
                case _ as never:
                    assert_never(never)
        self._hold(ready, now_s)

    def _take(self, deliver: Deliver, now_s: float) -> Held:
        message, standing = deliver.tracked.message, deliver.tracked.standing
        self._desk.arrive(message.priority)
        return Held(
            deliver.tracked,
            deliver.number,
            deliver.started_at,
            deliver.deadline_s,
            min(deliver.deadline_s, deliver.expires_at_s),
            now_s,
            message.recipients,
            standing.passes > 0 or self._name in standing.tried or standing.unsettled_provider == self._name,
        )

    def _may_go(self, held: Held) -> bool:
        """False where it is too large, or there is a question to be asked first."""
        if held.cost > self._largest:
            self._too_large.append(held)
            self._pacer.ring()
            return False
        if self._settings.batch > 1:
            held.batch_key = self._batch_key(held)
        standing = held.tracked.standing
        if standing.unsettled is not None and standing.unsettled_provider == self._name and self._asks:
            held.ask = standing.unsettled
            if self._questions.add(held):
                self._pacer.ring()
                self._accord.demanded(held.arrived_s)
                return False
        return True

    def _hold(self, ready: Sequence[Held], now_s: float) -> None:
        if not ready:
            return
        accord, hand = self._accord, self._hand
        lapse_s = hand.next_lapse_s()
        for held in ready:
            hand.add(held)
        if hand.next_lapse_s() < lapse_s or accord.stopped(now_s) or accord.crowded(now_s):
            self._pacer.ring()
        self._stir(now_s)
        accord.demanded(now_s)

    async def _drain(self) -> None:
        self._draining = True
        self._accord.finish()
        self._release(self._all_unsent())
        self._idle.unpark_all()
        if self._senders:
            await self._all_sent.wait()
        self._release(self._all_unsent())  # what senders put back meanwhile
        with trio.move_on_after(LAST_WORDS_S):
            await self._accord.settle_up()

    async def _last_words(self, inbox: Inbox[ProviderMessage], *, close: bool) -> None:
        """Give up, too, what waits in the mailbox: its right would be over before the next actor begins."""
        unsent = self._all_unsent()
        for message in inbox.pile(inbox.depth):
            match message:
                case Deliver():
                    unsent.append(self._take(message, self._clock.boot_s()))
                case ControlsChanged(controls):
                    self._desk.controls = controls
                case _ as never:
                    assert_never(never)
        self._release(unsent)
        with trio.move_on_after(LAST_WORDS_S, shield=True):
            await self._tell()
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
                self._fail(self._too_large.pop(), why, began=False)
            if self._accord.stopped(now_s):
                self._release(self._all_unsent())
            else:
                self._release([*self._hand.lapsed(now_s), *self._questions.lapsed(now_s)])
            if self._accord.crowded(now_s):
                self._release(self._accord.surplus(now_s))
            self._stir(now_s)
            wake_s = min(self._hand.next_lapse_s(), self._questions.next_lapse_s())
            if len(self._hand):
                wake_s = min(wake_s, self._hand.next_open_s(now_s, after=True))
            await self._pacer.wait(max(wake_s - now_s, SHORTEST_SLEEP_S))

    # --------------------------------------------------------------------------------------------- senders

    def _stir(self, now_s: float) -> None:
        """Have senders look for work where there is any, and nobody looks already; start them where too few exist.

        Each that finds some stirs the others before it calls, as many as are calling by then: where calls take their
        time, all are soon at work; where a courier answers at once, few senders do everything.
        """
        if self._looking:
            return
        most = 1 + self._busy
        wanted = min(most, self._hand.ready(now_s, most) + len(self._questions))
        if not wanted:
            return
        woken = self._idle.unpark(count=wanted)
        started = min(wanted - len(woken), self._settings.concurrency - self._senders)
        for _ in range(started):
            self._senders += 1
            self._nursery.start_soon(self._send_on)
        self._looking += len(woken) + started

    async def _send_on(self) -> None:
        """`_looking` counts those that run or are about to, and are not calling; whoever wakes one counts it."""
        calls, back = 0, False
        try:
            while not self._draining:
                now_s = self._clock.boot_s()
                if back and len(self._hand):
                    self._accord.demanded(now_s)
                back = False
                question = self._next_question(now_s)
                call = self._next_call(now_s) if question is None else None
                self._looking -= 1
                if question is not None:
                    self._stir(now_s)
                    await self._ask(*question)
                elif call is not None:
                    self._stir(now_s)
                    await self._carry(call)
                else:
                    await self._idle.park()
                    continue
                self._looking += 1
                calls, back = calls + 1, True
                if calls % YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()  # a courier that never waits is not to keep all others waiting
        finally:
            self._senders -= 1
            if not self._senders:
                self._all_sent.set()

    def _next_call(self, now_s: float) -> _Call | None:
        admission, permits = self._accord.admission(now_s), self._accord.permits
        if self._held_up or not admission.calls or (admission is Admission.PROBE and not permits):
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
        cost = held[0].cost if len(held) == 1 else sum([each.cost for each in held])
        return _Call(self, held, slot, permit, self._accord.epoch, now_s, cost)

    async def _carry(self, call: _Call) -> None:
        """Make one call. Its own failures end here; whatever happens the journal is told of each message once."""
        ordinary = call.held[0].priority is not Priority.URGENT
        self._busy += 1
        self._ordinary += ordinary
        try:
            answers = await self._courier.send([_as_call(held) for held in call.held], call.begin)
            _check(answers, call.held)
        except RightLapsed:
            self._not_sent(call)
        except Exception as bug:
            self._failed(call, bug)
        except BaseException:
            self._cut_off(call)
            raise
        else:
            self._answered(call, answers)
        finally:
            self._busy -= 1
            self._ordinary -= ordinary
            if call.begun_s is None:
                self._accord.unused(call.slot.counted, call.cost)
            else:
                for held in call.held:
                    self._desk.lands(held.priority)

    def _begin(self, call: _Call) -> None:
        """The last look, in the same slice as the first byte. A courier that had to begin anew looks again."""
        now_s = self._clock.boot_s()
        admission, permit = self._accord.admission(now_s), call.permit
        if admission is Admission.PROBE:
            if permit is None or not permit.serves(self._accord.epoch, now_s):
                raise RightLapsed(f"{self._name}: no permit for a call while half-open")
        elif admission is not Admission.GO:
            raise RightLapsed(f"{self._name} may not be called now")
        for held in call.held:
            if held.lapses_s <= now_s:
                raise RightLapsed(f"{self._name}: the time to send has passed")
        if not call.slot.opens_s <= now_s <= call.slot.closes_s:
            slot = self._hand.take_slot(now_s, call.cost)
            if slot is None:
                raise RightLapsed(f"{self._name}: the send slot has passed")
            if call.begun_s is None:
                self._accord.unused(call.slot.counted, call.cost)
            call.slot = slot
        if call.begun_s is None:
            self._accord.handed_over(call.cost, now_s)
            for held in call.held:
                self._desk.take_off(held.priority)
                self._meters.slot_wait.observe(now_s - held.arrived_s)
        call.begun_s, call.epoch = now_s, self._accord.epoch

    # -------------------------------------------------------------------------------------- ends of a call

    def _answered(self, call: _Call, answers: Sequence[Answer]) -> None:
        """An answer gets to the journal even where our own bookkeeping is at fault."""
        for held, answer in zip(call.held, answers, strict=True):
            self._finish(held, answer)
        now_s = self._clock.boot_s()
        began_s = call.picked_s if call.begun_s is None else call.begun_s
        self._meters.duration.observe(now_s - began_s)
        self._accord.answered(answers, permit=call.permit, epoch=call.epoch, began_s=began_s, now_s=now_s)

    def _not_sent(self, call: _Call) -> None:
        """Nothing was written. What can still be sent waits for its next slot; the rest is given up."""
        now_s = self._clock.boot_s()
        if call.permit is not None:
            self._accord.end(call.permit, Verdict.RETURNED)
        stopped = self._draining or self._accord.stopped(now_s)
        gone = [held for held in call.held if stopped or held.lapses_s <= now_s]
        self._hold([held for held in call.held if not stopped and held.lapses_s > now_s], now_s)
        self._release(gone)

    def _cut_off(self, call: _Call) -> None:
        """Cancelled in mid-call: nobody knows, and that is said at once instead of by the reaper."""
        if call.begun_s is None:
            self._release(call.held)
        else:
            for held in call.held:
                self._finish(held, CUT_OFF)

    def _failed(self, call: _Call, bug: Exception) -> None:
        """The courier raised: our own fault. Where several messages shared the call, each goes alone next, so that
        the one which our code cannot stand harms no neighbour."""
        self._complain(bug)
        began = call.begun_s is not None
        if len(call.held) > 1 and not began:
            for held in call.held:
                held.batch_key = None
            self._not_sent(call)
            return
        evidence = Evidence.BAD if began else Evidence.NOTHING
        self._accord.judged(evidence, permit=call.permit, epoch=call.epoch, now_s=self._clock.boot_s())
        if len(call.held) == 1:
            self._fail(call.held[0], f"Heliograph's own code failed on it ({type(bug).__name__}).", began=began)
        else:
            for held in call.held:
                self._finish(held, BATCH_LOST)

    def _fail(self, held: Held, why: str, *, began: bool) -> None:
        answer = Answer(outcome=Outcome.UNKNOWN if began else Outcome.REJECTED, code="internal", detail=why)
        self._finish(held, answer, internal=True)

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
            self._release([held])
            raise
        finally:
            self._busy -= 1
            if permit is not None:
                self._accord.permits.add(permit)  # for the call that follows; the accord returns it where it is stale
                self._accord.demanded(self._clock.boot_s())
        self._told(held, number, settled)

    def _told(self, held: Held, number: int, settled: Settled | None) -> None:
        match settled:
            case Settled.ACCEPTED:
                self._meters.taken(held.tracked.message)
                self._say(
                    EarlierSettled(
                        tracked=held.tracked,
                        number=held.number,
                        provider=self._name,
                        started_at=held.started_at,
                        settled_number=number,
                    )
                )
            case Settled.REJECTED:
                held.settles = (number, settled)
                self._finish(held, HAD_REFUSED)
            case Settled.NOT_SENT | None:
                hear(held, None if settled is None else (number, settled))
                self._hold([held], self._clock.boot_s())
            case _ as never:
                assert_never(never)

    # ------------------------------------------------------------------------------------- to the journal

    def _finish(self, held: Held, answer: Answer, *, internal: bool = False) -> None:
        self._meters.attempt(held.tracked.message, answer.outcome)
        self._say(
            AttemptFinished(
                held.tracked,
                held.number,
                self._name,
                held.started_at,
                self._clock.now(),
                answer,
                internal,
                held.settles,
            )
        )

    def _release(self, unsent: Sequence[Held]) -> None:
        """Give claims up: nothing was sent, nothing is counted."""
        for held in unsent:
            self._questions.remember(held)
            self._say(AttemptReleased(tracked=held.tracked, number=held.number, provider=self._name))

    def _say(self, word: Ended) -> None:
        self._words.append(word)
        if self._teller:
            self._teller.unpark()

    async def _tell_on(self) -> None:
        while True:
            await self._tell()
            if self._silent:
                return
            await self._teller.park()

    async def _tell(self) -> None:
        """Carry what was said to the journal, waiting for room. Cancelled meanwhile, what it did not take is still
        here."""
        while self._words:
            self._meters.show()
            told = self._journal.offer_all(self._words)
            if not told:
                self._held_up = True
                await self._journal.tell(self._words[0])
                self._held_up, told = False, 1
                self._stir(self._clock.boot_s())
            for priority, count in Counter([word.tracked.message.priority for word in self._words[:told]]).items():
                self._desk.done(priority, count)
            del self._words[:told]

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
    return ProviderCall(message, held.number, attempt_id(message.id, held.number))


def _check(answers: Sequence[Answer], held: Sequence[Held]) -> None:
    if len(answers) != len(held):
        raise ValueError(f"{len(answers)} answers to {len(held)} messages")
