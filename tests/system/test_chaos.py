"""A short run of the chaos suite, the determinism of its plans, and the teeth of its judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.chaos.judge import Attempt, Evidence, Limit, Logged, Span, Verdict, judge, worst_excess
from tests.chaos.plan import Kind, draw
from tests.chaos.run import run
from tests.chaos.sink import Call

SEED = 31
FAULTS_S = 10.0
LIMITS = {"first": Limit(rate=10, burst=2), "second": Limit(rate=10, burst=2)}


def test_a_cluster_under_faults_loses_nothing_and_keeps_its_promises() -> None:
    report = run(draw(SEED, FAULTS_S), lambda _: None)
    assert report.accepted > 0
    assert report.calls >= report.accepted
    assert [*report.verdict.lost, *report.verdict.wrong, *report.wrong] == []


def test_a_seed_is_always_the_same_plan_and_seeds_have_all_faults_among_them() -> None:
    assert draw(7, 20) == draw(7, 20)
    assert draw(7, 20) != draw(8, 20)
    plans = [draw(seed, 20) for seed in range(100)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(Kind)
    assert {plan.supervisors for plan in plans} == {2, 3, 4}
    assert max(fault.for_s for plan in plans for fault in plan.faults if fault.kind is Kind.STOP) > 10


# ------------------------------------------------------------------------------------------------ the judge's teeth


def _call(number: int = 1, at_s: float = 100.0, *, taken: bool = True, answer: str = "accepted") -> Call:
    return Call("first", "+917000000000", f"1JD3Q8ZK4A7XNVT0B20{number}", at_s, taken, answer)


def _attempt(number: int = 1, outcome: str = "accepted", *, began_s: float = 99.9) -> Attempt:
    return Attempt(number, "first", outcome, None, began_s, began_s + 0.2, written_s=began_s + 0.21)


def _verdict(calls: Sequence[Call], attempts: Sequence[Attempt], state: str = "sent") -> Verdict:
    logged = Logged("msg_1", "+917000000000", state, None, attempts)
    return judge(Evidence({"msg_1": "+917000000000"}, calls, [logged], LIMITS))


def test_it_lets_pass_what_is_well() -> None:
    verdict = _verdict([_call()], [_attempt()])
    assert (verdict.good, verdict.duplicates.total(), dict(verdict.states)) == (True, 0, {"sent": 1})


def test_it_lets_pass_a_second_call_after_an_attempt_without_an_answer_and_counts_it() -> None:
    calls = [_call(answer="none"), _call(2, 101.0)]
    verdict = _verdict(calls, [replace(_attempt(outcome="unknown"), code="timeout"), _attempt(2, began_s=100.9)])
    assert (verdict.good, dict(verdict.duplicates)) == (True, {"timeout": 1})


def test_it_lets_pass_a_second_call_after_one_that_took_nothing() -> None:
    calls = [_call(taken=False, answer="deferred"), _call(2, 101.0)]
    verdict = _verdict(calls, [_attempt(outcome="deferred"), _attempt(2, began_s=100.9)])
    assert (verdict.good, verdict.duplicates.total()) == (True, 0)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (Evidence({"msg_1": "+917000000000"}, [], [], LIMITS), "the ledger has no such message"),
        (Evidence({}, [], [Logged("msg_1", "+91", "queued", None, [])], LIMITS), "never settled"),
        (Evidence({}, [], [Logged("msg_1", "+91", "sent", None, [_attempt()])], LIMITS), "nobody took it"),
    ],
    ids=["gone", "waiting for ever", "sent to nobody"],
)
def test_it_sees_a_message_that_is_lost(evidence: Evidence, said: str) -> None:
    [lost] = judge(evidence).lost
    assert said in lost


def test_it_sees_a_call_that_is_not_in_the_log() -> None:
    unlogged = _verdict([_call(), _call(2, 101.0)], [_attempt(outcome="unknown")])
    assert any("not in the log" in wrong for wrong in unlogged.wrong)
    elsewhere = _verdict([_call()], [replace(_attempt(), provider="second")])
    assert any("not in the log" in wrong for wrong in elsewhere.wrong)
    unheard_of = judge(Evidence({}, [_call()], [], LIMITS))
    assert any("no such message" in wrong for wrong in unheard_of.wrong)


def test_it_sees_an_attempt_that_was_counted_without_a_call() -> None:
    """Such as one that an open breaker took from a message."""
    refused = _verdict([_call(2, 101.0)], [_attempt(outcome="throttled"), _attempt(2, began_s=100.9)])
    [wrong] = refused.wrong
    assert "attempt 1 is throttled, and there was no such call" in wrong
    assert _verdict([_call(2, 101.0)], [_attempt(outcome="unknown"), _attempt(2, began_s=100.9)]).good
    asked = [replace(_attempt(outcome="unknown")), replace(_attempt(2, outcome="rejected"), code="refused_earlier")]
    assert _verdict([_call(taken=False)], asked, "failed").good


@pytest.mark.parametrize(("state", "allowed"), [("open", 0), ("half_open", 3)])
def test_it_sees_calls_that_a_breaker_should_have_kept_back(state: str, allowed: int) -> None:
    def wrong(count: int, state: str = state, *, first_s: float = 100.0) -> list[str]:
        made = [replace(_call(), recipient=f"+91700000000{n}", at_s=100.5 + n / 10) for n in range(count)]
        log = [Logged(f"msg_{n}", call.recipient, "sent", None, [_attempt()]) for n, call in enumerate(made)]
        return judge(Evidence({}, made, log, LIMITS, [Span("first", 7, state, first_s, 102.0)])).wrong

    assert wrong(allowed) == []
    [said] = wrong(allowed + 1)
    assert f"{allowed + 1} calls to first while its breaker was {state}" in said
    assert wrong(allowed + 1, "closed") == []
    assert wrong(1, first_s=100.2) == [], "by a slot given before"


@pytest.mark.parametrize("first", ["accepted", "deferred", "rejected"])
def test_it_sees_a_call_that_was_doubled(first: str) -> None:
    verdict = _verdict([_call(), _call(2, 101.0)], [_attempt(outcome=first), _attempt(2, began_s=100.9)])
    assert any("called again after" in wrong for wrong in verdict.wrong)
    assert verdict.duplicates.total() == 1


def test_it_sees_a_call_for_what_was_known_to_be_taken() -> None:
    settled = replace(_attempt(outcome="unknown"), settled="accepted", written_s=100.5)
    late = _verdict([_call(), _call(2, 101.0)], [settled, _attempt(2, began_s=100.9)])
    assert any("known to be taken" in wrong for wrong in late.wrong)
    racing = _verdict([_call(), _call(2, 101.0)], [settled, _attempt(2, began_s=100.4)])
    assert racing.good, "its second attempt had begun by then"


def test_it_sees_a_message_that_was_taken_in_twice() -> None:
    logged = [Logged(name, "+91", "cancelled", None, []) for name in ("msg_1", "msg_2")]
    [wrong] = judge(Evidence({"msg_1": "+91"}, [], logged, LIMITS)).wrong
    assert "2 messages were made of one request" in wrong


def test_it_sees_an_excess_of_rate_in_any_window() -> None:
    steady = [1.8e9 + n / 10 for n in range(100)]
    assert worst_excess(steady, 10) == pytest.approx(1, abs=1e-3)
    assert worst_excess([*steady, steady[50]], 10) == pytest.approx(2, abs=1e-3)
    slightly_fast = [n / 11 for n in range(100)]
    assert worst_excess(slightly_fast, 10) == pytest.approx(10, abs=0.1), "no short window shows it"
    three_at_once = [replace(_call(), recipient=f"+9170000000{n:02}") for n in range(3)]
    logged = [Logged(f"msg_{n}", call.recipient, "sent", None, [_attempt()]) for n, call in enumerate(three_at_once)]
    [wrong] = judge(Evidence({}, three_at_once, logged, LIMITS)).wrong
    assert "too fast: first" in wrong


def test_what_a_caller_waited_for_a_processor_is_not_held_against_the_rate() -> None:
    """A slot's lateness and 10 ms of way are the slots' own; beyond that only what the kernel says it waited."""
    spaced = [0.0, 0.115, 0.2, 0.3]  # the second was 15 ms late

    def calls(late_s: float, waited_s: float) -> list[str]:
        made = [replace(_call(), recipient=f"+9170000000{n:02}", at_s=100 + n / 10) for n in range(4)]
        made[1].at_s += late_s
        logged = [Logged(f"msg_{n}", call.recipient, "sent", None, [_attempt()]) for n, call in enumerate(made)]
        limits = {"first": Limit(rate=10, burst=1)}
        waited = {made[1].at_s: waited_s}
        return judge(Evidence({}, made, logged, limits, waited_s=lambda at_s: waited.get(at_s, 0.0))).wrong

    assert worst_excess(spaced, 10) == pytest.approx(1.15)
    assert calls(0.015, 0.0) != []
    assert calls(0.015, 0.025) == []
    assert calls(0.015, 0.015) != [], "of these, 10 ms were allowed for"
