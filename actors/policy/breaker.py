"""The circuit breaker of one provider: stop calling what does not answer well, find out carefully when it does again.

Two layers. The *record* is the cluster's word (epoch, state, until when), kept in Redis and moved by compare-and-set;
every supervisor obeys it. The *evidence* is one supervisor's own: the calls it made under the record's epoch. A
provider actor owns one `Breaker`, tells it what it learns of the record (`learn`) and what its calls came to
(`observe`), asks it before each call (`admit`), and carries out the change of record that `due` asks for.

What surprises people:

- State is a function of record and time. There is no timer that a second event could cancel or lose.
- A result belongs to the epoch under which its call began. Under another epoch it changes nothing: an old success
  closes nothing, an old failure opens nothing.
- Opening takes effect here before the cluster has agreed, since a call not made does no harm. Everything that lets
  more calls through waits for the answer to the compare-and-set.
- A lost record closes nobody's breaker: who knows better states it again.
- Half-open, every call needs one of the cluster's permits. A permit ends as success, failure or returned, or runs out
  by itself, so no outcome can leave the breaker half-open for good.
- An open breaker is probed when there is demand, not before.
- One that opened because the account was refused is probed at once by whoever has another configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, assert_never

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.provider import BreakerSettings, BreakerState
from heliograph.actors.policy.tally import Tally


class Event(StrEnum):
    TRIPPED = "tripped"  # too many bad calls in the window, five in a row, or the account is refused
    RESTED = "rested"  # open long enough, and somebody wants to call
    PROVED = "proved"  # every permit came back well
    RELAPSED = "relapsed"  # one did not
    STALLED = "stalled"  # permits went out and no verdict came
    ORDERED = "ordered"  # an operator said so


TRANSITIONS: Final[Mapping[BreakerState, Mapping[Event, BreakerState]]] = {
    BreakerState.CLOSED: {Event.TRIPPED: BreakerState.OPEN},
    BreakerState.OPEN: {Event.RESTED: BreakerState.HALF_OPEN, Event.ORDERED: BreakerState.CLOSED},
    BreakerState.HALF_OPEN: {
        Event.PROVED: BreakerState.CLOSED,
        Event.RELAPSED: BreakerState.OPEN,
        Event.STALLED: BreakerState.OPEN,
        Event.ORDERED: BreakerState.CLOSED,
    },
}

IN_A_ROW: Final = 5
"""Bad calls in a row that open it whatever the window says: with little traffic `minimum_calls` is never reached."""
LONGEST_OPEN_S: Final = 600.0
SHORTEST_STALL_S: Final = 30.0
RAMP_S: Final = 10.0
RAMP_FROM: Final = 0.1
_STRICTNESS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRecord:
    """The cluster's word. All times are lengths, as of the answer that brought the record, or of the call that sets it.

    `epoch` rises with each change. `since_s`: how long ago it came into this state. `until_in_s`: how long yet
    until an open one may be probed, until a half-open one's verdict is overdue, or until a closed one's `openings`
    (those in a row) are forgotten; 0 or less when that is past. `permits_out` (handed out, neither ended nor run out)
    and `successes` (permits that ended well, and stay used) belong to a half-open epoch; a new one begins with none.
    `refused` marks the configuration whose account was refused, where that is why it opened.
    """

    epoch: int
    state: BreakerState
    since_s: float
    until_in_s: float
    openings: int
    permits_out: int = 0
    successes: int = 0
    refused: str = ""


NO_RECORD: Final = BreakerRecord(epoch=0, state=BreakerState.CLOSED, since_s=0.0, until_in_s=0.0, openings=0)


class Verdict(StrEnum):
    """How a permit ends. `RETURNED`: the call told nothing, or was not made; another may have it."""

    SUCCESS = "success"
    FAILURE = "failure"
    RETURNED = "returned"


class Evidence(StrEnum):
    """What one call says of its provider."""

    GOOD = "good"
    BAD = "bad"
    REFUSED = "refused"  # the account itself: no use in asking again soon
    NOTHING = "nothing"

    @property
    def verdict(self) -> Verdict:
        match self:
            case Evidence.GOOD:
                return Verdict.SUCCESS
            case Evidence.BAD | Evidence.REFUSED:
                return Verdict.FAILURE
            case Evidence.NOTHING:
                return Verdict.RETURNED
            case _ as never:
                assert_never(never)


def weigh(answers: Iterable[Answer], took_s: float, settings: BreakerSettings) -> Evidence:
    """Judge one call by its answers (more than one in a batch). One accepted or rejected message shows that the
    provider works, unless it took too long; what concerns a message alone says nothing, nor does throttling,
    which is the limiter's."""
    works = refused = bad = False
    for answer in answers:
        match answer.outcome:
            case Outcome.ACCEPTED | Outcome.REJECTED:
                works = True
            case Outcome.MISCONFIGURED:
                refused = refused or answer.scope is Scope.PROVIDER
            case Outcome.DEFERRED | Outcome.UNKNOWN:
                bad = bad or answer.scope is Scope.PROVIDER
            case Outcome.THROTTLED:
                pass
            case _ as never:
                assert_never(never)
    if refused:
        return Evidence.REFUSED
    if works:
        return Evidence.BAD if took_s >= settings.slow_call_s else Evidence.GOOD
    return Evidence.BAD if bad else Evidence.NOTHING


class Admission(StrEnum):
    GO = "go"
    PROBE = "probe"  # with a permit of this epoch
    WAIT = "wait"  # rested: the cluster is about to be asked for half-open
    NO = "no"

    @property
    def calls(self) -> bool:
        return self is Admission.GO or self is Admission.PROBE


@dataclass(frozen=True, slots=True)
class Change:
    """Set this record if the cluster's epoch is still `expected_epoch`; then `learn` what is in force."""

    event: Event | None  # None: stated again after a loss
    expected_epoch: int
    record: BreakerRecord


class Breaker:
    """One supervisor's machine for one provider. `now_s` is any monotonic clock, the same in every call; `draw` is
    in [0, 1). `configuration` is a mark of all that the provider's account is known by."""

    def __init__(
        self, settings: BreakerSettings, *, longest_call_s: float, now_s: float, configuration: str = ""
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._stall_s = max(2 * longest_call_s, SHORTEST_STALL_S)
        self._record = NO_RECORD
        self._learned_s = now_s
        self._cluster_epoch = 0
        self._calls = Tally(settings.window_s)
        self._bad = Tally(settings.window_s)
        self._bad_in_a_row = 0
        self._forced: BreakerState | None = None
        self._forced_since_s = self._forced_until_s = now_s

    # ------------------------------------------------------------------------------------------ questions

    @property
    def epoch(self) -> int:
        """The epoch under which a call begins now."""
        return self._record.epoch

    def state(self, now_s: float) -> BreakerState:
        """The state in force here, an operator's word first."""
        return self._order(now_s) or self._record.state

    def since_s(self, now_s: float) -> float:
        """When it came into this state."""
        return self._forced_since_s if self._order(now_s) else self._learned_s - self._record.since_s

    def until_s(self, now_s: float) -> float | None:
        """Until when this state holds at least, where that is known."""
        if self._order(now_s):
            return self._forced_until_s
        return None if self._record.state is BreakerState.CLOSED else self._until_s

    def admit(self, now_s: float) -> Admission:
        """May a call begin now?"""
        match self._order(now_s) or self._record.state:
            case BreakerState.CLOSED:
                # An order to close is obeyed once the cluster's record says so too: no slots are given before.
                return Admission.GO if self._record.state is BreakerState.CLOSED else Admission.WAIT
            case BreakerState.HALF_OPEN:
                return Admission.PROBE
            case BreakerState.OPEN:
                if self._order(now_s):
                    return Admission.NO
                return Admission.WAIT if now_s >= self._until_s else Admission.NO
            case _ as never:
                assert_never(never)

    def ramp(self, now_s: float) -> float:
        """The share of the rate to use: less for a while after it closed."""
        if self._order(now_s) or self._record.state is not BreakerState.CLOSED or not self._record.openings:
            return 1.0
        closed_for_s = now_s - self._learned_s + self._record.since_s
        return min(1.0, max(RAMP_FROM, closed_for_s / RAMP_S))

    # --------------------------------------------------------------------------------------------- events

    def learn(self, record: BreakerRecord | None, now_s: float) -> None:
        """The cluster's record as it was just answered; None where there is none.

        A higher epoch always holds. A lower one is either an answer overtaken by another, or new records after a
        loss: it holds only where it is stricter, so that neither lets calls through that should wait.
        """
        if record is None:
            self._cluster_epoch = 0
            return
        self._cluster_epoch = record.epoch
        if record.epoch >= self._record.epoch or _STRICTNESS[record.state] > _STRICTNESS[self._record.state]:
            self._adopt(record, now_s)

    def observe(self, evidence: Evidence, *, epoch: int, now_s: float, draw: float) -> Event | None:
        """What a call that began under `epoch` came to. Answers the event by which it opened, here and at once;
        `due` then asks to tell the cluster."""
        if epoch != self._record.epoch or evidence is Evidence.NOTHING or self._order(now_s):
            return None
        match self._record.state:
            case BreakerState.CLOSED:
                self._count(evidence, now_s)
                if evidence is not Evidence.REFUSED and not self._reached(now_s):
                    return None
                return self._open(Event.TRIPPED, now_s, draw, evidence)
            case BreakerState.HALF_OPEN:
                if evidence.verdict is Verdict.SUCCESS:
                    return None  # counted by the cluster, with its permit
                return self._open(Event.RELAPSED, now_s, draw, evidence)
            case BreakerState.OPEN:
                return None
            case _ as never:
                assert_never(never)

    def force(self, state: BreakerState | None, *, now_s: float, until_s: float) -> None:
        """An operator's word: open or closed until `until_s`; None: as the evidence says."""
        if state is not self._forced:
            self._forced_since_s = now_s
        self._forced, self._forced_until_s = state, until_s
        self._forget()

    def due(self, now_s: float, draw: float, *, demand: bool) -> Change | None:
        """The change of the cluster's record that is due now; `demand`: somebody wants to call."""
        record = self._record
        if record.state is not BreakerState.CLOSED and record.epoch > self._cluster_epoch:
            return Change(None, self._cluster_epoch, self._restated(now_s))
        order = self._order(now_s)
        if order is BreakerState.CLOSED and record.state is not BreakerState.CLOSED:
            return self._change(Event.ORDERED, until_in_s=0.0, openings=0)
        if order is not None:
            return None
        rested = now_s >= self._until_s
        if record.state is BreakerState.OPEN and rested and demand:
            return self._change(Event.RESTED, until_in_s=self._stall_s, openings=record.openings)
        if record.state is BreakerState.HALF_OPEN:
            # With little traffic not all permits find a call. Those that did all went well: that is proof too.
            quietly = rested and record.successes > 0 and record.permits_out == 0
            if record.successes >= self._settings.half_open_permits or quietly:
                return self._change(Event.PROVED, until_in_s=self._settings.window_s, openings=record.openings)
            if rested:
                open_s = self._open_for_s(record.openings, draw)
                return self._change(Event.STALLED, until_in_s=open_s, openings=record.openings)
        return None

    # -------------------------------------------------------------------------------------------- workings

    @property
    def _until_s(self) -> float:
        return self._learned_s + self._record.until_in_s

    def _order(self, now_s: float) -> BreakerState | None:
        return self._forced if now_s < self._forced_until_s else None

    def _adopt(self, record: BreakerRecord, now_s: float) -> None:
        if record.refused not in ("", self._configuration) and record.state is BreakerState.OPEN:
            record = replace(record, until_in_s=0.0)
        if (record.epoch, record.state) != (self._record.epoch, self._record.state):
            self._forget()
        self._record, self._learned_s = record, now_s

    def _forget(self) -> None:
        self._calls.clear()
        self._bad.clear()
        self._bad_in_a_row = 0

    def _count(self, evidence: Evidence, now_s: float) -> None:
        self._calls.add(now_s)
        if evidence is Evidence.GOOD:
            self._bad_in_a_row = 0
            return
        self._bad.add(now_s)
        self._bad_in_a_row += 1

    def _reached(self, now_s: float) -> bool:
        if self._bad_in_a_row == 0:
            return False  # a good call opens nothing, whatever came before it
        if self._bad_in_a_row >= IN_A_ROW:
            return True
        calls = self._calls.total(now_s)
        return calls >= self._settings.minimum_calls and self._bad.total(now_s) >= self._settings.failure_ratio * calls

    def _open(self, event: Event, now_s: float, draw: float, evidence: Evidence) -> Event:
        quiet = self._record.state is BreakerState.CLOSED and now_s >= self._until_s
        openings = 1 if quiet else self._record.openings + 1
        change = self._change(event, until_in_s=self._open_for_s(openings, draw), openings=openings)
        refused = self._configuration if evidence is Evidence.REFUSED else ""
        self._adopt(replace(change.record, refused=refused), now_s)
        return event

    def _open_for_s(self, openings: int, draw: float) -> float:
        doubled = self._settings.open_for_s * 2.0 ** min(max(openings, 1) - 1, 32)
        return min(doubled * (0.8 + 0.4 * draw), LONGEST_OPEN_S)

    def _change(self, event: Event, *, until_in_s: float, openings: int) -> Change:
        record = BreakerRecord(
            epoch=max(self._record.epoch, self._cluster_epoch) + 1,
            state=TRANSITIONS[self._record.state][event],
            since_s=0.0,
            until_in_s=until_in_s,
            openings=openings,
        )
        return Change(event, self._cluster_epoch, record)

    def _restated(self, now_s: float) -> BreakerRecord:
        """Ours, as of now. Half-open permits were lost with the record, so it starts over as open and rested."""
        past_s = now_s - self._learned_s
        record = self._record
        if record.state is BreakerState.HALF_OPEN:
            return BreakerRecord(
                epoch=record.epoch + 1, state=BreakerState.OPEN, since_s=0.0, until_in_s=0.0, openings=record.openings
            )
        return replace(record, since_s=record.since_s + past_s, until_in_s=record.until_in_s - past_s)
