"""The breaker machine: its table by example, its laws by a state machine of several supervisors on one record."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.provider import BreakerSettings, BreakerState
from heliograph.actors.policy.breaker import (
    IN_A_ROW,
    LONGEST_OPEN_S,
    NO_RECORD,
    RAMP_FROM,
    TRANSITIONS,
    Admission,
    Breaker,
    BreakerRecord,
    Change,
    Event,
    Evidence,
    Verdict,
    weigh,
)

SETTINGS = BreakerSettings(minimum_calls=10, failure_ratio=0.5, window_s=30.0, open_for_s=10.0, half_open_permits=3)
CALL_S = 4.0
STALL_S = 30.0


def a_breaker(now_s: float = 0.0, settings: BreakerSettings = SETTINGS) -> Breaker:
    return Breaker(settings, longest_call_s=CALL_S, now_s=now_s)


def a_record(state: BreakerState, *, epoch: int = 1, until_in_s: float = 10.0, **fields: object) -> BreakerRecord:
    return replace(BreakerRecord(epoch=epoch, state=state, since_s=0.0, until_in_s=until_in_s, openings=1), **fields)  # type: ignore[arg-type]


def opened(now_s: float = 0.0, draw: float = 0.5) -> Breaker:
    breaker = a_breaker(now_s)
    for _ in range(IN_A_ROW):
        breaker.observe(Evidence.BAD, epoch=0, now_s=now_s, draw=draw)
    return breaker


# ------------------------------------------------------------------------------------------------ evidence


def answer(outcome: Outcome, scope: Scope = Scope.PROVIDER) -> Answer:
    return Answer(outcome=outcome, scope=scope)


@pytest.mark.parametrize(
    ("outcome", "took_s", "evidence"),
    [
        (Outcome.ACCEPTED, 0.1, Evidence.GOOD),
        (Outcome.ACCEPTED, 5.0, Evidence.BAD),
        (Outcome.REJECTED, 0.1, Evidence.GOOD),
        (Outcome.DEFERRED, 0.1, Evidence.BAD),
        (Outcome.UNKNOWN, 0.1, Evidence.BAD),
        (Outcome.THROTTLED, 0.1, Evidence.NOTHING),
        (Outcome.MISCONFIGURED, 0.1, Evidence.REFUSED),
    ],
)
def test_each_outcome_says_what_the_contract_says(outcome: Outcome, took_s: float, evidence: Evidence) -> None:
    assert weigh([answer(outcome)], took_s, SETTINGS) is evidence


@pytest.mark.parametrize("outcome", [Outcome.DEFERRED, Outcome.THROTTLED, Outcome.MISCONFIGURED, Outcome.UNKNOWN])
def test_what_concerns_a_message_alone_is_no_evidence(outcome: Outcome) -> None:
    assert weigh([answer(outcome, Scope.MESSAGE)], 0.1, SETTINGS) is Evidence.NOTHING


def test_one_accepted_message_of_a_batch_shows_that_the_provider_works() -> None:
    assert weigh([answer(Outcome.DEFERRED), answer(Outcome.ACCEPTED)], 0.1, SETTINGS) is Evidence.GOOD


def test_one_misconfigured_message_of_a_batch_stops_the_provider() -> None:
    assert weigh([answer(Outcome.ACCEPTED), answer(Outcome.MISCONFIGURED)], 0.1, SETTINGS) is Evidence.REFUSED


def test_every_evidence_ends_a_permit() -> None:
    assert {evidence.verdict for evidence in Evidence} == set(Verdict)


# ------------------------------------------------------------------------------------------------- opening


def test_five_failures_in_a_row_open_it_with_little_traffic() -> None:
    breaker = a_breaker()
    for _ in range(IN_A_ROW - 1):
        assert breaker.observe(Evidence.BAD, epoch=0, now_s=1.0, draw=0.5) is None
    assert breaker.observe(Evidence.BAD, epoch=0, now_s=1.0, draw=0.5) is Event.TRIPPED
    assert breaker.admit(1.0) is Admission.NO


def test_the_ratio_opens_it_once_there_were_enough_calls() -> None:
    breaker = a_breaker()
    for i in range(8):
        breaker.observe(Evidence.GOOD if i % 2 else Evidence.BAD, epoch=0, now_s=1.0, draw=0.5)
    assert breaker.admit(1.0) is Admission.GO, "eight calls are not enough"
    breaker.observe(Evidence.GOOD, epoch=0, now_s=1.0, draw=0.5)
    breaker.observe(Evidence.BAD, epoch=0, now_s=1.0, draw=0.5)
    assert breaker.admit(1.0) is Admission.NO


def test_failures_below_the_ratio_never_open_it() -> None:
    breaker = a_breaker()
    for i in range(300):
        breaker.observe(Evidence.GOOD if i % 3 else Evidence.BAD, epoch=0, now_s=i * 0.1, draw=0.5)
    assert breaker.admit(30.0) is Admission.GO


def test_failures_older_than_the_window_do_not_count() -> None:
    breaker = a_breaker()
    for i in range(9):
        breaker.observe(Evidence.GOOD if i % 2 else Evidence.BAD, epoch=0, now_s=1.0, draw=0.5)
    breaker.observe(Evidence.BAD, epoch=0, now_s=40.0, draw=0.5)
    assert breaker.admit(40.0) is Admission.GO


def test_a_refused_account_opens_it_at_once() -> None:
    breaker = a_breaker()
    assert breaker.observe(Evidence.REFUSED, epoch=0, now_s=1.0, draw=0.5) is Event.TRIPPED


@pytest.mark.parametrize(("draw", "open_s"), [(0.0, 8.0), (0.5, 10.0), (0.999999, 12.0)])
def test_the_open_time_is_drawn_around_the_setting(draw: float, open_s: float) -> None:
    assert opened(draw=draw).until_s(0.0) == pytest.approx(open_s, abs=0.01)


def test_each_relapse_doubles_the_open_time_up_to_ten_minutes() -> None:
    breaker, now_s, times = opened(), 0.0, []
    for epoch in range(2, 60, 2):
        times.append(breaker.until_s(now_s) - now_s)
        now_s = breaker.until_s(now_s)
        breaker.learn(a_record(BreakerState.HALF_OPEN, epoch=epoch, openings=len(times)), now_s)
        assert breaker.observe(Evidence.BAD, epoch=epoch, now_s=now_s, draw=0.5) is Event.RELAPSED
    assert times[:4] == pytest.approx([10.0, 20.0, 40.0, 80.0])
    assert max(times) == LONGEST_OPEN_S


def test_openings_are_forgotten_after_a_quiet_window() -> None:
    soon, late = a_breaker(), a_breaker()
    closed = a_record(BreakerState.CLOSED, epoch=5, until_in_s=30.0, openings=3)
    for breaker, now_s in ((soon, 29.0), (late, 31.0)):
        breaker.learn(closed, 0.0)
        breaker.observe(Evidence.REFUSED, epoch=5, now_s=now_s, draw=0.5)
    assert soon.until_s(29.0) - 29.0 == pytest.approx(80.0)
    assert late.until_s(31.0) - 31.0 == pytest.approx(10.0)


def test_opening_asks_to_tell_the_cluster() -> None:
    change = opened().due(0.0, 0.5, demand=False)
    assert change is not None
    assert (change.expected_epoch, change.record.epoch, change.record.state) == (0, 1, BreakerState.OPEN)


# ------------------------------------------------------------------------------------- half-open and after


def test_it_is_probed_when_it_has_rested_and_there_is_demand() -> None:
    breaker = opened()
    breaker.learn(a_record(BreakerState.OPEN, epoch=1), 0.0)
    assert breaker.due(9.0, 0.5, demand=True) is None
    assert breaker.due(10.0, 0.5, demand=False) is None
    assert breaker.admit(10.0) is Admission.WAIT
    change = breaker.due(10.0, 0.5, demand=True)
    assert change is not None
    assert (change.event, change.record.state, change.record.epoch) == (Event.RESTED, BreakerState.HALF_OPEN, 2)
    assert breaker.admit(10.0) is Admission.WAIT, "half-open only once the cluster said so"


def test_all_permits_ending_well_close_it_with_a_ramp() -> None:
    breaker = a_breaker()
    breaker.learn(a_record(BreakerState.HALF_OPEN, epoch=2, successes=2), 0.0)
    assert breaker.due(1.0, 0.5, demand=True) is None
    breaker.learn(a_record(BreakerState.HALF_OPEN, epoch=2, successes=3), 1.0)
    change = breaker.due(1.0, 0.5, demand=True)
    assert change is not None
    assert change.event is Event.PROVED
    breaker.learn(change.record, 1.0)
    assert breaker.admit(1.0) is Admission.GO
    assert [round(breaker.ramp(now_s), 2) for now_s in (1.0, 6.0, 11.0)] == [RAMP_FROM, 0.5, 1.0]


def test_without_a_verdict_half_open_ends_as_open_with_openings_unchanged() -> None:
    breaker = a_breaker()
    breaker.learn(a_record(BreakerState.HALF_OPEN, epoch=2, until_in_s=STALL_S, openings=2, permits_out=1), 0.0)
    change = breaker.due(STALL_S, 0.5, demand=False)
    assert change is not None
    assert (change.event, change.record.openings) == (Event.STALLED, 2)
    assert change.record.until_in_s == pytest.approx(20.0)


def test_with_little_traffic_the_probes_that_there_were_are_proof_enough() -> None:
    breaker = a_breaker()
    breaker.learn(a_record(BreakerState.HALF_OPEN, epoch=2, until_in_s=STALL_S, successes=1), 0.0)
    change = breaker.due(STALL_S, 0.5, demand=False)
    assert change is not None
    assert change.event is Event.PROVED


@pytest.mark.parametrize("evidence", list(Evidence))
@pytest.mark.parametrize("state", list(BreakerState))
def test_results_of_older_epochs_change_nothing(state: BreakerState, evidence: Evidence) -> None:
    breaker = a_breaker()
    breaker.learn(a_record(state, epoch=7), 0.0)
    for _ in range(50):
        assert breaker.observe(evidence, epoch=6, now_s=0.0, draw=0.5) is None
    assert breaker.state(0.0) is state
    assert breaker.epoch == 7


# ---------------------------------------------------------------------------------------- loss and races


def test_a_lost_record_closes_nobodys_breaker() -> None:
    breaker = opened()
    breaker.learn(a_record(BreakerState.OPEN, epoch=1), 0.0)
    breaker.learn(None, 4.0)
    assert breaker.admit(4.0) is Admission.NO
    change = breaker.due(4.0, 0.5, demand=False)
    assert change is not None
    assert (change.event, change.expected_epoch) == (None, 0)
    assert change.record.state is BreakerState.OPEN
    assert change.record.until_in_s == pytest.approx(6.0)


def test_a_half_open_record_that_was_lost_starts_over_as_rested() -> None:
    breaker = a_breaker()
    breaker.learn(a_record(BreakerState.HALF_OPEN, epoch=4), 0.0)
    breaker.learn(NO_RECORD, 1.0)
    change = breaker.due(1.0, 0.5, demand=True)
    assert change is not None
    assert (change.record.state, change.record.epoch, change.record.until_in_s) == (BreakerState.OPEN, 5, 0.0)


def test_an_answer_that_was_overtaken_does_not_close_it_again() -> None:
    breaker = a_breaker()
    breaker.learn(a_record(BreakerState.OPEN, epoch=5), 0.0)
    breaker.learn(a_record(BreakerState.CLOSED, epoch=4), 0.1)
    assert breaker.admit(0.1) is Admission.NO


def test_new_records_after_a_loss_are_obeyed_where_they_are_stricter() -> None:
    breaker = a_breaker()
    breaker.learn(a_record(BreakerState.CLOSED, epoch=12), 0.0)
    breaker.learn(a_record(BreakerState.OPEN, epoch=1), 1.0)
    assert breaker.admit(1.0) is Admission.NO


# -------------------------------------------------------------------------------------------- operators


def test_forced_open_admits_nothing_and_runs_out() -> None:
    breaker = a_breaker()
    breaker.force(BreakerState.OPEN, now_s=0.0, until_s=60.0)
    assert (breaker.admit(59.0), breaker.state(59.0)) == (Admission.NO, BreakerState.OPEN)
    assert breaker.due(59.0, 0.5, demand=True) is None
    assert (breaker.admit(60.0), breaker.state(60.0)) == (Admission.GO, BreakerState.CLOSED)


def test_forced_closed_moves_the_record_and_opens_for_no_failure() -> None:
    breaker = opened()
    breaker.learn(a_record(BreakerState.OPEN, epoch=1), 0.0)
    breaker.force(BreakerState.CLOSED, now_s=0.0, until_s=60.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert breaker.admit(0.0) is Admission.WAIT, "no slots are given while the record is open"
    change = breaker.due(0.0, 0.5, demand=False)
    assert change is not None
    assert change.event is Event.ORDERED
    breaker.learn(change.record, 0.0)
    for _ in range(50):
        assert breaker.observe(Evidence.REFUSED, epoch=breaker.epoch, now_s=1.0, draw=0.5) is None
    assert breaker.admit(1.0) is Admission.GO


def test_the_table_has_a_row_for_each_state_and_only_known_targets() -> None:
    assert set(TRANSITIONS) == set(BreakerState)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


# ----------------------------------------------------------------------------------------------- the laws


class Cluster:
    """What Redis keeps: one record moved by compare-and-set, and its permits."""

    def __init__(self) -> None:
        self.record: BreakerRecord | None = None
        self.set_s = 0.0
        self.permits: dict[int, float] = {}
        self.drawn = 0

    def read(self, now_s: float) -> BreakerRecord | None:
        if self.record is None:
            return None
        past_s = now_s - self.set_s
        out = sum(1 for end_s in self.permits.values() if end_s > now_s)
        return replace(
            self.record,
            since_s=self.record.since_s + past_s,
            until_in_s=max(0.0, self.record.until_in_s - past_s),
            permits_out=out,
        )

    def change(self, change: Change, now_s: float) -> BreakerRecord:
        if change.expected_epoch == (self.record.epoch if self.record else 0):
            self.record, self.set_s, self.permits = change.record, now_s, {}
        return self.read(now_s) or NO_RECORD

    def permit(self, epoch: int, most: int, now_s: float) -> int | None:
        record = self.read(now_s)
        if record is None or record.epoch != epoch or record.state is not BreakerState.HALF_OPEN:
            return None
        if record.permits_out + record.successes >= most:
            return None
        self.drawn += 1
        self.permits[self.drawn] = now_s + CALL_S + 1.0
        return self.drawn

    def close(self, epoch: int, permit: int, verdict: Verdict, now_s: float) -> BreakerRecord | None:
        record = self.read(now_s)
        if record is None or record.epoch != epoch or self.record is None:
            return None
        if self.permits.pop(permit, 0.0) > now_s and verdict is Verdict.SUCCESS:
            self.record = replace(self.record, successes=self.record.successes + 1)
        return self.read(now_s)

    def loses_everything(self) -> None:
        self.record, self.permits = None, {}


class Breakers(RuleBasedStateMachine):
    """Three supervisors and one record. A call is (who, epoch, permit, since); all of them end in some order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.cluster = Cluster()
        self.breakers = [a_breaker(self.now_s) for _ in range(3)]
        self.calls: list[tuple[int, int, int | None, float]] = []

    who = st.integers(0, 2)
    draw = st.floats(0, 0.999)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 11.0, 31.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(who=who)
    def reads_the_record(self, who: int) -> None:
        self.breakers[who].learn(self.cluster.read(self.now_s), self.now_s)

    @rule(who=who, draw=draw, demand=st.booleans())
    def tells_the_cluster(self, who: int, draw: float, demand: bool) -> None:
        breaker = self.breakers[who]
        before = breaker.state(self.now_s)
        change = breaker.due(self.now_s, draw, demand=demand)
        if change is None:
            return
        if change.event is not None:
            known = before if change.event is not Event.ORDERED else BreakerState.OPEN
            assert change.record.state in TRANSITIONS[known].values()
        assert change.record.epoch > change.expected_epoch
        breaker.learn(self.cluster.change(change, self.now_s), self.now_s)

    @rule(who=who)
    def begins_a_call(self, who: int) -> None:
        """As the actor does: only with the cluster's word (no slot is given while the record is open)."""
        breaker = self.breakers[who]
        breaker.learn(self.cluster.read(self.now_s), self.now_s)
        match breaker.admit(self.now_s):
            case Admission.GO:
                self.calls.append((who, breaker.epoch, None, self.now_s))
            case Admission.PROBE:
                permit = self.cluster.permit(breaker.epoch, SETTINGS.half_open_permits, self.now_s)
                if permit is not None:
                    self.calls.append((who, breaker.epoch, permit, self.now_s))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), evidence=st.sampled_from(Evidence), draw=draw)
    def a_call_ends(self, data: st.DataObject, evidence: Evidence, draw: float) -> None:
        who, epoch, permit, _ = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        breaker = self.breakers[who]
        before = (breaker.epoch, breaker.state(self.now_s))
        event = breaker.observe(evidence, epoch=epoch, now_s=self.now_s, draw=draw)
        if epoch != before[0]:
            assert (event, breaker.epoch, breaker.state(self.now_s)) == (None, *before)
        if permit is not None:
            breaker.learn(self.cluster.close(epoch, permit, evidence.verdict, self.now_s) or NO_RECORD, self.now_s)

    @rule()
    def the_record_is_lost(self) -> None:
        before = [breaker.admit(self.now_s) for breaker in self.breakers]
        self.cluster.loses_everything()
        for breaker, was in zip(self.breakers, before, strict=True):
            breaker.learn(self.cluster.read(self.now_s), self.now_s)
            assert breaker.admit(self.now_s) is was

    @rule(who=who)
    def a_supervisor_is_replaced(self, who: int) -> None:
        self.breakers[who] = a_breaker(self.now_s)
        self.calls = [call for call in self.calls if call[0] != who]

    @rule(who=who, state=st.sampled_from([None, BreakerState.OPEN, BreakerState.CLOSED]))
    def an_operator_speaks(self, who: int, state: BreakerState | None) -> None:
        self.breakers[who].force(state, now_s=self.now_s, until_s=self.now_s + 20.0)

    @invariant()
    def nobody_who_knows_of_an_open_record_calls(self) -> None:
        record = self.cluster.read(self.now_s)
        for breaker in self.breakers:
            asked = copy.deepcopy(breaker)
            asked.learn(record, self.now_s)
            if record is not None and record.state is BreakerState.OPEN:
                assert asked.admit(self.now_s) in (Admission.NO, Admission.WAIT)
            if asked.admit(self.now_s) is Admission.NO:
                assert (asked.until_s(self.now_s) or 0.0) > self.now_s, "it says until when"

    @invariant()
    def permits_are_never_exceeded(self) -> None:
        record = self.cluster.read(self.now_s)
        if record is not None and record.state is BreakerState.HALF_OPEN:
            out = [c for c in self.calls if c[2] in self.cluster.permits and self.now_s < c[3] + CALL_S + 1.0]
            assert len(out) + record.successes <= SETTINGS.half_open_permits

    @invariant()
    def the_open_time_is_bounded(self) -> None:
        for breaker in self.breakers:
            if breaker.state(self.now_s) is BreakerState.OPEN:
                assert (breaker.until_s(self.now_s) or 0.0) - self.now_s <= LONGEST_OPEN_S

    @invariant()
    def closed_can_be_reached(self) -> None:
        """With patience and good answers any one of them brings the cluster back."""
        cluster, now_s = copy.deepcopy(self.cluster), self.now_s
        breaker = copy.deepcopy(self.breakers[0])
        for _ in range(40):
            breaker.learn(cluster.read(now_s), now_s)
            while (change := breaker.due(now_s, 0.5, demand=True)) is not None:
                breaker.learn(cluster.change(change, now_s), now_s)
            match breaker.admit(now_s):
                case Admission.GO:
                    return
                case Admission.PROBE:
                    epoch = breaker.epoch
                    if (permit := cluster.permit(epoch, SETTINGS.half_open_permits, now_s)) is not None:
                        breaker.observe(Evidence.GOOD, epoch=epoch, now_s=now_s, draw=0.5)
                        cluster.close(epoch, permit, Verdict.SUCCESS, now_s)
                    else:
                        now_s += CALL_S + 1.0
                case Admission.NO | Admission.WAIT:
                    now_s = max(now_s + 0.1, breaker.until_s(now_s) or 0.0)
        raise AssertionError(f"stuck as {breaker.state(now_s)} at epoch {breaker.epoch}")


TestBreakers = Breakers.TestCase
TestBreakers.settings = hypothesis_settings(max_examples=80, stateful_step_count=40, deadline=None)
