"""What follows an attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.message import Priority, Reason, Standing, State, WaitingFor
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import DeliverySettings
from heliograph.actors.policy.availability import SOON_S
from heliograph.actors.policy.backoff import full_jitter
from heliograph.actors.policy.triage import MOST_UNCOUNTED, Blocked, Situation, next_auto_retry, triage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DELIVERY = DeliverySettings()
RETRIES = (60.0, 600.0)
STANDING = Standing(state=State.QUEUED, due_at=NOW, updated_at=NOW, expires_at=NOW + timedelta(days=1))


def situation(outcome: Outcome = Outcome.DEFERRED, **more: object) -> Situation:
    base = Situation(
        standing=STANDING,
        priority=Priority.NORMAL,
        number=1,
        provider="a",
        answer=Answer(outcome=outcome),
        candidates=("a", "b"),
        blocked={},
        unknown=UnknownRule.ASK,
        can_ask=False,
        expires_in_s=86_400.0,
        draw=0.5,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def test_a_transient_failure_goes_to_the_next_provider_at_once() -> None:
    move = triage(situation(), DELIVERY, RETRIES)
    assert (move.state, move.due_in_s, move.tried, move.counted) == (State.QUEUED, 0.0, ("a",), 1)


def test_backoff_starts_only_when_no_provider_is_left_to_try() -> None:
    move = triage(situation(provider="b", standing=replace(STANDING, tried=("a",))), DELIVERY, RETRIES)
    assert (move.due_in_s, move.passes, move.tried, move.waiting_for) == (0.5, 1, (), WaitingFor.BACKOFF)


def test_a_blocked_provider_is_no_provider_left_to_try() -> None:
    move = triage(situation(blocked={"b": Blocked(40.0, WaitingFor.BREAKER)}), DELIVERY, RETRIES)
    assert (move.passes, move.waiting_for) == (1, WaitingFor.BACKOFF)


def test_nobody_is_asked_before_somebody_can_be() -> None:
    blocked = {"a": Blocked(90.0, WaitingFor.RATE), "b": Blocked(40.0, WaitingFor.RATE)}
    move = triage(situation(blocked=blocked), DELIVERY, RETRIES)
    assert (move.due_in_s, move.waiting_for, move.waiting_provider) == (40.0, WaitingFor.RATE, "b")


def test_what_operators_may_lift_is_looked_at_again_soon() -> None:
    blocked = {"a": Blocked(90.0, WaitingFor.PAUSED), "b": Blocked(40.0, WaitingFor.BREAKER)}
    move = triage(situation(blocked=blocked), DELIVERY, RETRIES)
    assert (move.due_in_s, move.waiting_for, move.waiting_provider) == (SOON_S, WaitingFor.BREAKER, "b")


def test_retry_after_bounds_the_wait_from_below() -> None:
    answer = Answer(outcome=Outcome.THROTTLED, retry_after_s=7.0)
    move = triage(situation(answer=answer, candidates=("a",)), DELIVERY, RETRIES)
    assert move.due_in_s == 7.0


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.MISCONFIGURED])
def test_some_outcomes_cost_no_attempt_but_not_without_end(outcome: Outcome) -> None:
    at_the_last = replace(STANDING, counted=4)
    assert triage(situation(outcome, standing=at_the_last), DELIVERY, RETRIES).counted == 4
    worn_out = replace(STANDING, throttled=MOST_UNCOUNTED - 1)
    assert triage(situation(outcome, standing=worn_out), DELIVERY, RETRIES).reason is Reason.ATTEMPTS_EXHAUSTED


def test_a_sender_that_no_provider_of_the_route_knows_is_tried_at_each_and_then_backed_off() -> None:
    unknown_sender = Answer(outcome=Outcome.MISCONFIGURED, scope=Scope.MESSAGE)
    first = triage(situation(answer=unknown_sender), DELIVERY, RETRIES)
    assert (first.state, first.due_in_s, first.tried, first.counted) == (State.QUEUED, 0.0, ("a",), 0)
    waits: list[float] = []
    standing = replace(STANDING, tried=("a",), throttled=1)
    for _ in range(3):
        last = triage(situation(standing=standing, provider="b", answer=unknown_sender), DELIVERY, RETRIES)
        assert (last.state, last.waiting_for, last.tried, last.counted) == (State.QUEUED, WaitingFor.BACKOFF, (), 0)
        waits.append(last.due_in_s)
        standing = replace(STANDING, tried=("a",), throttled=last.throttled + 1, passes=last.passes)
    assert waits == [full_jitter(n, base_s=1.0, cap_s=300.0, draw=0.5) for n in (1, 2, 3)]


def test_the_last_attempt_exhausts_them() -> None:
    move = triage(situation(standing=replace(STANDING, counted=4)), DELIVERY, RETRIES)
    assert (move.state, move.reason, move.auto_retry_in_s) == (State.FAILED, Reason.ATTEMPTS_EXHAUSTED, 60.0)


def test_a_rejection_is_for_good_and_never_retried_by_itself() -> None:
    move = triage(situation(Outcome.REJECTED), DELIVERY, RETRIES)
    assert (move.state, move.reason, move.auto_retry_in_s) == (State.FAILED, Reason.REJECTED, None)


def test_an_error_of_our_own_fails_the_message_as_internal() -> None:
    assert triage(situation(Outcome.UNKNOWN, internal=True), DELIVERY, RETRIES).reason is Reason.INTERNAL


def test_without_an_answer_the_same_provider_comes_first_after_a_wait_for_a_receipt() -> None:
    move = triage(situation(Outcome.UNKNOWN, unknown=UnknownRule.RETRY), DELIVERY, RETRIES)
    assert (move.due_in_s, move.waiting_for, move.unsettled, move.unsettled_provider) == (
        30.0,
        WaitingFor.RECEIPT,
        1,
        "a",
    )
    assert move.tried == ()


def test_an_urgent_message_does_not_wait_for_a_receipt() -> None:
    move = triage(situation(Outcome.UNKNOWN, unknown=UnknownRule.RETRY, priority=Priority.URGENT), DELIVERY, RETRIES)
    assert move.due_in_s == 0.0


def test_two_attempts_without_an_answer_end_as_unknown() -> None:
    standing = replace(STANDING, unknowns=1)
    move = triage(situation(Outcome.UNKNOWN, unknown=UnknownRule.RETRY, standing=standing), DELIVERY, RETRIES)
    assert (move.state, move.reason) == (State.FAILED, Reason.UNKNOWN)


def test_a_provider_that_can_be_asked_is_asked_soon_however_often() -> None:
    standing = replace(STANDING, unknowns=2)
    move = triage(situation(Outcome.UNKNOWN, can_ask=True, standing=standing), DELIVERY, RETRIES)
    assert (move.state, move.due_in_s) == (State.QUEUED, 1.0)


def test_hold_waits_for_a_receipt_even_when_attempts_are_used_up() -> None:
    standing = replace(STANDING, counted=4)
    move = triage(situation(Outcome.UNKNOWN, unknown=UnknownRule.HOLD, standing=standing), DELIVERY, RETRIES)
    assert (move.state, move.due_in_s) == (State.QUEUED, 30.0)


def test_three_dead_owners_make_a_message_poison() -> None:
    standing = replace(STANDING, reclaims=2)
    move = triage(situation(Outcome.UNKNOWN, reclaimed=True, standing=standing), DELIVERY, RETRIES)
    assert move.reason is Reason.POISON


def test_what_a_dead_owner_left_has_waited_enough() -> None:
    move = triage(situation(Outcome.UNKNOWN, unknown=UnknownRule.RETRY, reclaimed=True), DELIVERY, RETRIES)
    assert (move.due_in_s, move.reclaims) == (0.0, 1)


def test_an_owner_that_died_before_it_could_ask_leaves_two_to_be_asked_about() -> None:
    standing = replace(STANDING, unsettled=1, unsettled_provider="a", attempts=1)
    more = {"can_ask": True, "standing": standing, "number": 2}
    assert triage(situation(Outcome.UNKNOWN, reclaimed=True, **more), DELIVERY, RETRIES).unsettled == 1
    assert triage(situation(Outcome.UNKNOWN, **more), DELIVERY, RETRIES).unsettled == 2
    elsewhere = triage(situation(Outcome.UNKNOWN, reclaimed=True, provider="b", **more), DELIVERY, RETRIES)
    assert (elsewhere.unsettled, elsewhere.unsettled_provider) == (2, "b")


def test_automatic_retries_give_up_at_the_end_of_their_schedule() -> None:
    waits = [next_auto_retry(Reason.NO_ROUTE, n, RETRIES) for n in range(3)]
    assert waits == [60.0, 600.0, None]


@given(
    outcome=st.sampled_from(Outcome),
    counted=st.integers(0, 10),
    unknowns=st.integers(0, 5),
    throttled=st.integers(0, 60),
    passes=st.integers(0, 40),
    tried=st.sets(st.sampled_from(["a", "b", "c"])),
    blocked=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(0.01, 1e4)),
    retry_after_s=st.none() | st.floats(0, 1e5),
    rule=st.sampled_from(UnknownRule),
    can_ask=st.booleans(),
    expires_in_s=st.floats(-10, 1e6),
    draw=st.floats(0, 1, exclude_max=True),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_every_situation_has_a_lawful_end(
    outcome: Outcome, counted: int, unknowns: int, throttled: int, passes: int, tried: set[str],
    blocked: dict[str, float], retry_after_s: float | None, rule: UnknownRule, can_ask: bool, expires_in_s: float,
    draw: float, flags: tuple[bool, bool],
) -> None:  # fmt: skip
    standing = replace(
        STANDING, counted=counted, unknowns=unknowns, throttled=throttled, passes=passes, tried=tuple(tried)
    )
    s = situation(
        answer=Answer(outcome=outcome, retry_after_s=retry_after_s),
        standing=standing,
        candidates=("a", "b", "c"),
        blocked={n: Blocked(for_s, WaitingFor.BREAKER) for n, for_s in blocked.items()},
        unknown=rule,
        can_ask=can_ask,
        expires_in_s=expires_in_s,
        draw=draw,
        internal=flags[0],
        reclaimed=flags[1],
    )
    move = triage(s, DELIVERY, RETRIES)
    assert move.state in (State.SENT, State.QUEUED, State.FAILED)
    assert (move.state is State.FAILED) == (move.reason is not None)
    assert 0 <= move.due_in_s <= max(0.0, expires_in_s)
    if outcome is Outcome.ACCEPTED and not flags[0]:
        assert move.state is State.SENT
    if move.state is State.QUEUED and outcome not in (Outcome.THROTTLED, Outcome.MISCONFIGURED):
        assert move.counted == counted + 1
    if move.state is State.QUEUED and move.waiting_for is WaitingFor.BACKOFF:
        somebody = [n for n in ("a", "b", "c") if n not in blocked and n not in tried and n != "a"]
        assert not somebody, "backoff while a provider could be asked"


@given(passes=st.integers(1, 200), draw=st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_its_bound(passes: int, draw: float) -> None:
    assert 0 <= full_jitter(passes, base_s=1, cap_s=300, draw=draw) <= min(300, 2 ** (passes - 1))
