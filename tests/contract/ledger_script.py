"""Random scripts for a ledger: drawn by hypothesis, played on any, and told in words that hold for all.

`play` answers what was observed, without ids or moments, so that two ledgers that play the same script can be
compared. Scripts let time pass in whole seconds only; a real ledger's own time stays far below one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, assert_never

from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, Settled
from heliograph.actors.model.deadletter import OperationKind
from heliograph.actors.model.errors import Conflict, NotFound
from heliograph.actors.model.identity import attempt_id, new_id
from heliograph.actors.model.message import LANES, Channel, Lane, Message, Move, Reason, State, WaitingFor
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    Claimed,
    Entry,
    MessageView,
    Park,
    Reported,
    SuppressionFilter,
    Taken,
)
from tests.contract.ledger_world import (
    ACCEPTED,
    AGAIN,
    DAY_S,
    DEAD,
    DEFERRED,
    HOLD_S,
    ME,
    OTHER,
    REJECTED,
    SENT,
    UNKNOWN,
    LedgerWorld,
)

EXHAUSTED: Final = replace(DEAD, reason=Reason.ATTEMPTS_EXHAUSTED, cause="Greylisted", auto_retry_in_s=50.0)
ENDS: Final[dict[str, tuple[Answer | None, Move]]] = {
    "accepted": (ACCEPTED, SENT),
    "traced": (replace(ACCEPTED, traced=True), SENT),
    "rejected": (REJECTED, DEAD),
    "exhausted": (DEFERRED, EXHAUSTED),
    "deferred": (DEFERRED, replace(AGAIN, due_in_s=5.0)),
    "failover": (DEFERRED, AGAIN),
    "unknown": (UNKNOWN, AGAIN),
    "asked": (None, SENT),
    "gone": (replace(REJECTED, suppress=SuppressionReason.INVALID), DEAD),
}
ARCHIVE_AFTER_S: Final = 500.0
FEW: Final = 3
"""Messages in a script: enough for them to be mistaken for each other, and each gets a long life."""


@dataclass(frozen=True, slots=True)
class Accept:
    """`send_in_s` 0: at once. `twice`: a commit in doubt is repeated."""

    to: str
    send_in_s: float
    lives_s: float
    twice: bool


@dataclass(frozen=True, slots=True)
class Claim:
    message: int
    provider: str
    supervisor: str


@dataclass(frozen=True, slots=True)
class Release:
    claim: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The owner's word on one of the last claims, however late, or a second time."""

    claim: int
    end: str


@dataclass(frozen=True, slots=True)
class Reap:
    end: str


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the provider of one of the last claims says of it, by our id or (`traced`) by its own, however late, or
    before that claim has ended."""

    claim: int
    effect: Effect | None
    traced: bool


@dataclass(frozen=True, slots=True)
class On:
    """One of the calls that name a message and nothing else."""

    call: str
    message: int


@dataclass(frozen=True, slots=True)
class Tend:
    """One of the calls that name nothing."""

    call: str


Step = Accept | Claim | Release | Finish | Reap | Wait | Report | On | Tend

_indexes = st.integers(0, 2)
_claims = st.builds(Claim, _indexes, st.sampled_from(["p1", "p2"]), st.sampled_from([ME, OTHER]))
_finishes = st.builds(Finish, _indexes, st.sampled_from(sorted(ENDS)))
_steps = st.one_of(
    st.builds(
        Accept,
        st.sampled_from(["+919876543210", "asha@shop.in"]),
        st.sampled_from([0.0, 0.0, 8.0]),
        st.sampled_from([40.0, 5000.0, 5000.0]),
        st.booleans(),
    ),
    _claims,
    _finishes,
    st.builds(Report, _indexes, st.sampled_from([*Effect, None]), st.booleans()),
    st.builds(Release, _indexes),
    st.builds(Reap, st.sampled_from(["unknown", "unknown", "rejected"])),
    st.builds(Wait, st.sampled_from([3.0, HOLD_S + 1, HOLD_S + 1, 70.0, 600.0])),
    st.builds(On, st.sampled_from(["wake", "park", "give_up", "cancel", "redrive", "archive", "discard"]), _indexes),
    st.builds(Tend, st.sampled_from(["expire", "auto_retry", "retire", "suppress", "allow"])),
)
_FIRST: Final = Accept("+919876543210", 0.0, 5000.0, twice=False)
scripts: Final = st.lists(_steps, min_size=20, max_size=60).map(lambda steps: [_FIRST, *steps])


@dataclass(slots=True)
class Player:
    world: LedgerWorld
    messages: list[Message] = field(default_factory=list)
    claims: list[tuple[Claimed, str, str]] = field(default_factory=list)  # with provider and supervisor
    operations: int = 0

    def name(self, message_id: str) -> int:
        return next(n for n, m in enumerate(self.messages) if m.id == message_id)

    def message(self, index: int) -> Message:
        return self.messages[-1 - index % len(self.messages)]

    async def play(self, step: Step) -> object:
        """What the step was answered, in words that hold for every ledger."""
        match step:
            case Accept():
                await self._accept(step)
            case Claim(index, provider, supervisor):
                won = await self.world.try_claim(self.message(index).id, provider=provider, supervisor=supervisor)
                self.claims += [(claimed, provider, supervisor) for claimed in won]
                return [claimed.number for claimed in won]
            case Release(index):
                if self.claims:
                    claimed, _, owner = self.claims[-1 - index % len(self.claims)]
                    await self.world.ledger.delivery.release([(claimed.message_id, claimed.number)], supervisor=owner)
            case Finish():
                return await self._finish(step)
            case Reap(end):
                return await self._reap(end)
            case Wait(seconds):
                await self.world.advance(seconds)
            case Report():
                return await self._report(step)
            case On(call, index):
                return await self._on(call, self.message(index))
            case Tend(call):
                return await self._tend(call)
            case _ as never:
                assert_never(never)
        return None

    async def _accept(self, step: Accept) -> None:
        if len(self.messages) == FEW:
            return
        now = self.world.now()
        send_at = now + timedelta(seconds=step.send_in_s) if step.send_in_s else None
        message = self.world.message(step.to, expires_at=now + timedelta(seconds=step.lives_s), send_at=send_at)
        self.messages.append(message)
        state = State.SCHEDULED if send_at else State.QUEUED
        for _ in range(1 + step.twice):
            if not await self._admitted(message, state):
                state = State.SUPPRESSED
                assert await self._admitted(message, state)

    async def _admitted(self, message: Message, state: State) -> bool:
        acceptance = Acceptance(messages=(message,), states=(state,))
        [answer] = await self.world.ledger.intake.accept([acceptance], supervisor=ME)
        return answer == Accepted()

    async def _finish(self, step: Finish) -> object:
        if not self.claims:
            return None
        claimed, provider, owner = self.claims[-1 - step.claim % len(self.claims)]
        answer, move = ENDS[step.end]
        settles = None
        if answer is None:  # only an attempt without an answer is ever asked about
            view = await self.world.ledger.messages.get(claimed.message_id, tenant=None)
            open_ones = [a.number for a in view.attempts if a.outcome is Outcome.UNKNOWN and a.settled is None]
            earlier = [number for number in open_ones if number < claimed.number]
            if not earlier:
                return None
            settles = (earlier[-1], Settled.ACCEPTED)
        finished = await self.world.finish(claimed, answer, move, provider=provider, supervisor=owner, settles=settles)
        return finished.state, finished.applied

    async def _reap(self, end: str) -> object:
        _, move = ENDS[end]
        reaped = []
        for overdue in await self.world.ledger.delivery.overdue(100):
            claimed = Claimed(overdue.tracked.message.id, overdue.number, overdue.started_at)
            finished = await self.world.finish(
                claimed, UNKNOWN, move, provider=overdue.provider, supervisor=OTHER, overdue_only=True
            )
            reaped.append((self.name(claimed.message_id), claimed.number, finished.state, finished.applied))
        return sorted(reaped)

    async def _report(self, step: Report) -> object:
        if not self.claims:
            return None
        claimed, provider, _ = self.claims[-1 - step.claim % len(self.claims)]
        receipt = Receipt(
            attempt_id=None if step.traced else attempt_id(claimed.message_id, claimed.number),
            provider_message_id=ACCEPTED.provider_message_id,
            recipient=next(m.to for m in self.messages if m.id == claimed.message_id),
            effect=step.effect,
            suppress=SuppressionReason.COMPLAINT if step.effect is None else None,
        )
        return list(map(self._told, await self.world.ledger.receipts.take([Reported(provider, receipt)], keep_s=300.0)))

    def _told(self, taken: Taken) -> object:
        named = None if taken.message_id is None else self.name(taken.message_id)
        return named, taken.provider, taken.entered, taken.settled, taken.kept

    async def _on(self, call: str, message: Message) -> object:
        delivery = self.world.ledger.delivery
        match call:
            case "wake":
                await delivery.wake([message.id])
            case "park":
                await self.world.park(Park(message.id, 20, WaitingFor.BREAKER, "p1"))
            case "give_up":
                await delivery.give_up([message.id], reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=50.0)
            case "cancel":
                try:
                    view = await self.world.ledger.messages.cancel(message.id, tenant=None, supervisor=ME)
                except Conflict:
                    return "conflict"
                return view.standing.state
            case _:
                return await self._operate(OperationKind(call), message)
        return None

    async def _operate(self, kind: OperationKind, message: Message) -> object:
        operations = self.world.ledger.operations
        operation_id = new_id("op", self.world.now(), self.operations)
        self.operations += 1
        await operations.create(
            operation_id, kind, ids=[message.id], wanted=None, tenant=None, rate=None, reason=None, actor=None
        )
        hints, again_s = await operations.step(limit=9, max_redrives=3, expires_after_s=DAY_S, supervisor=ME)
        operation = await operations.get(operation_id, tenant=None)
        failures = [reason for _, reason in operation.failures]
        return [self.name(h.message_id) for h in hints], again_s, operation.state, operation.done, failures

    async def _suppress(self) -> object:
        entry = Entry(
            tenant="default", channel=Channel.EMAIL, recipient="Asha@Shop.in", reason=SuppressionReason.MANUAL
        )
        entered = await self.world.ledger.suppressions.enter(entry)
        return entered.new, entered.moved

    async def _allow(self) -> object:
        suppressions = self.world.ledger.suppressions
        known = await suppressions.list(SuppressionFilter(), tenant=None, before=None, limit=9)
        for each in known:
            await suppressions.remove(each.id, tenant=None)
        return sorted((each.recipient, each.reason, each.provider) for each in known)

    async def _tend(self, call: str) -> object:
        if call == "suppress":
            return await self._suppress()
        if call == "allow":
            return await self._allow()
        ledger = self.world.ledger
        match call:
            case "expire":
                return sorted(self.name(t.message.id) for t in await ledger.delivery.expire(100))
            case "auto_retry":
                hints = await ledger.dead_letters.auto_retry(limit=100, supervisor=ME, expires_after_s=DAY_S)
                return sorted(self.name(h.message_id) for h in hints)
            case "look_again":
                taken, next_s = await ledger.receipts.look_again(limit=100)
                return sorted(map(str, map(self._told, taken))), next_s is None
            case "close":
                return await ledger.receipts.close(["p1"], after_s=ARCHIVE_AFTER_S / 5, limit=100)
        return await ledger.retention.archive(
            dead_letters_after_s=ARCHIVE_AFTER_S, messages_after_s=ARCHIVE_AFTER_S, limit=100
        )

    async def look(self) -> object:
        """Everything that can be read, without ids and moments."""
        ledger = self.world.ledger
        census = await ledger.stats.census()
        loaded = await ledger.delivery.load([m.id for m in self.messages])
        return (
            [told(await self.world.get(m)) for m in self.messages],
            [await self._letter(m) for m in self.messages],
            sorted((self.name(x.tracked.message.id), x.due_in_s <= 0, x.expires_in_s <= 0) for x in loaded),
            [sorted(map(self.name, await self._waiting(lane))) for lane in LANES],
            [sorted(map(self.name, await self._touched_by(supervisor))) for supervisor in (ME, OTHER)],
            [census.accepted[c] for c in Channel],
            [census.messages[c, s] for c in Channel for s in State],
            [census.entered[c, s] for c in Channel for s in State if s is not State.SENDING],
            [census.due[lane] for lane in LANES],
            [census.dead_letters.get(reason, 0) for reason in Reason],
            await ledger.stats.drift(),
        )  # fmt: skip

    async def _waiting(self, lane: Lane) -> list[str]:
        return [hint.message_id for hint in await self.world.ledger.delivery.waiting(lane, after=None, limit=100)]

    async def _touched_by(self, supervisor: str) -> list[str]:
        hints = await self.world.ledger.delivery.touched_by(supervisor, limit=100)
        return [hint.message_id for hint in hints]

    async def _letter(self, message: Message) -> object:
        try:
            letter = await self.world.ledger.dead_letters.get(message.id, tenant=None)
        except NotFound:
            return None
        return letter.state, letter.reason, letter.cause, letter.code, letter.attempts, letter.redrives


def told(view: MessageView) -> object:
    s = view.standing
    return (
        view.archived, s.state, s.reason, s.waiting_for, s.waiting_provider, s.redrives, s.attempts,
        (s.counted, s.unknowns, s.throttled, s.reclaims, s.passes, s.tried, s.unsettled, s.unsettled_provider),
        [(a.number, a.provider, a.outcome, a.code, a.settled) for a in view.attempts],
    )  # fmt: skip


Check = Callable[[Player, Step], Awaitable[None]]


async def play(world: LedgerWorld, script: list[Step], check: Check | None = None) -> list[object]:
    """Play a script; answers what was observed at each step and at the end. `check` is called after each step."""
    player = Player(world)
    observed: list[object] = []
    for step in script:
        observed.append((step, await player.play(step)))
        if check is not None:
            await check(player, step)
    observed.append(await player.look())
    return observed
