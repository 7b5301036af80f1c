"""The configuration's own rows on what a provider answers: which row holds, and what it makes of an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import AnswerRule
from heliograph.actors.ports.courier import Begin
from heliograph.providers import KINDS, build, explain
from heliograph.providers.rules import first
from heliograph.providers.wire import WireAnswer, WireFailure, WireRequest
from tests.conformance.rigs import CHANNELS, http_settings
from tests.support.builders import a_call, a_message, a_provider


class Canned:
    """A `Transport` that gives one answer to everything."""

    def __init__(self, answer: WireAnswer) -> None:
        self.answer = answer

    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        begin()
        return self.answer

    async def aclose(self) -> None:
        """Nothing is open."""


def rule(outcome: Outcome = Outcome.DEFERRED, *, text: str | None = None, **fields: Any) -> AnswerRule:
    return AnswerRule(outcome=outcome, text=None if text is None else re.compile(text, re.IGNORECASE), **fields)


async def given_answer(kind: str, came: WireAnswer, rules: Sequence[AnswerRule], calls: int) -> Sequence[Answer]:
    settings = KINDS[kind].prepare(http_settings(kind, "http://a.b", answers=tuple(rules), batch=10))
    courier = KINDS[kind].courier(settings)
    courier._transport = Canned(came)  # type: ignore[attr-defined]
    sms = CHANNELS[kind] is Channel.SMS
    people = [f"+9198765432{n}" if sms else f"a{n}@example.net" for n in range(10, 10 + calls)]
    answers = await courier.send([a_call(a_message(to)) for to in people], lambda: None)
    assert len(answers) == calls
    return answers


async def answered(
    kind: str, status: int, body: object, *rules: AnswerRule, calls: int = 1, whole: bool = True
) -> Sequence[Answer]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await given_answer(kind, WireAnswer(status=status, body=raw, whole=whole), rules, calls)


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        (rule(status=403), True),
        (rule(status=400), False),
        (rule(code="FORBIDDEN"), True),
        (rule(code="other"), False),
        (rule(text=r"daily \w+"), True),
        (rule(text="weekly"), False),
        (rule(status=403, code="forbidden", text="DAILY"), True),
        (rule(status=403, code="forbidden", text="weekly"), False),
    ],
)
def test_a_row_holds_where_all_that_it_asks_is_so(asked: AnswerRule, holds: bool) -> None:
    found = first([asked], status=403, code="forbidden", text="the daily quota is used up")
    assert (found is asked) is holds


def test_the_first_row_that_holds_decides() -> None:
    rows = [rule(status=400), rule(status=403, code="a"), rule(status=403), rule(text=".")]
    assert first(rows, status=403, code="b", text="x") is rows[2]


def test_smtps_code_is_named_without_its_three_digits() -> None:
    row = rule(code="5.7.1")
    assert first([row], status=550, code="550 5.7.1", text="") is row
    assert first([row], status=550, code="550 5.7.10", text="") is None
    assert first([row], status=550, code="550", text="") is None


@pytest.mark.parametrize("kind", sorted(CHANNELS))
async def test_a_row_goes_before_the_table_of_every_http_kind(kind: str) -> None:
    row = rule(Outcome.THROTTLED, status=400, text="come back", meaning="their lunch", retry_after_s=60)
    (answer,) = await answered(kind, 400, {"message": "Come back at two"}, row)
    assert (answer.outcome, answer.retry_after_s, answer.scope) == (Outcome.THROTTLED, 60, Scope.PROVIDER)
    assert (answer.detail or "").startswith("their lunch: ")
    (other,) = await answered(kind, 400, {"message": "No"}, row)
    assert other.outcome is not Outcome.THROTTLED


async def test_what_was_taken_stays_taken_and_what_broke_off_stays_unknown() -> None:
    row = rule(Outcome.REJECTED, text=".")
    taken = [{"id": "1", "status": {"type": "ACCEPTED"}}]
    assert [a.outcome for a in await answered("bulksms", 201, taken, row)] == [Outcome.ACCEPTED]
    assert [a.outcome for a in await answered("bulksms", 201, taken, row, whole=False)] == [Outcome.UNKNOWN]


async def test_a_success_in_words_that_nobody_knows_can_be_told_what_it_is() -> None:
    (answer,) = await answered("bulksms", 200, {"queued": True}, rule(Outcome.ACCEPTED, status=200, text='"queued"'))
    assert answer.outcome is Outcome.ACCEPTED


async def test_a_row_tells_the_messages_of_a_shared_call_apart_by_their_codes() -> None:
    row = rule(Outcome.DEFERRED, code="FAILED.NOT_SENT", scope=Scope.MESSAGE)
    body = [
        {"id": "1", "to": "919876543210", "status": {"type": "FAILED", "subtype": "NOT_SENT"}},
        {"id": "2", "to": "919876543211", "status": {"type": "FAILED", "subtype": "BLOCKED"}},
        {"id": "3", "to": "919876543212", "status": {"type": "ACCEPTED"}},
    ]
    answers = await answered("bulksms", 201, body, row, calls=3)
    assert [a.outcome for a in answers] == [Outcome.DEFERRED, Outcome.REJECTED, Outcome.ACCEPTED]
    assert answers[0].scope is Scope.MESSAGE


async def test_a_row_that_refuses_no_longer_suppresses_no_longer() -> None:
    body = [{"id": "1", "status": {"type": "FAILED", "subtype": "BLOCKED"}}]
    (built_in,) = await answered("bulksms", 201, body)
    assert built_in.suppress is not None
    (ours,) = await answered("bulksms", 201, body, rule(Outcome.DEFERRED, code="FAILED.BLOCKED"))
    assert (ours.outcome, ours.suppress) == (Outcome.DEFERRED, None)


async def test_a_row_that_refuses_a_shared_call_sends_each_of_its_messages_alone() -> None:
    """What was said of one of them is not what becomes of all."""
    row = rule(Outcome.REJECTED, status=403, text="spam")
    answers = await answered("bulksms", 403, {"detail": "one of these is spam"}, row, calls=3)
    assert {(a.outcome, a.scope) for a in answers} == {(Outcome.DEFERRED, Scope.MESSAGE)}
    (alone,) = await answered("bulksms", 403, {"detail": "this is spam"}, row)
    assert alone.outcome is Outcome.REJECTED


async def test_a_row_on_the_account_counts_for_all_of_a_shared_call() -> None:
    row = rule(Outcome.MISCONFIGURED, status=400, text="plan")
    answers = await answered("bulksms", 400, {"detail": "not in your plan"}, row, calls=3)
    assert {(a.outcome, a.scope) for a in answers} == {(Outcome.MISCONFIGURED, Scope.PROVIDER)}


@given(
    kind=st.sampled_from(sorted(kind for kind in KINDS if KINDS[kind].explain)),
    outcome=st.sampled_from([o for o in Outcome if o is not Outcome.ACCEPTED]),
    status=st.integers(200, 599),
    body=st.binary(max_size=60),
)
def test_a_row_that_asks_nothing_but_the_status_explains_all_but_a_success(
    kind: str, outcome: Outcome, status: int, body: bytes
) -> None:
    asked = a_provider(kind, name="mine", answers=(rule(outcome, status=status, meaning="m", cure="c"),))
    verdict, own = explain(kind, str(status), body, [asked]), explain(kind, str(status), body)
    if own.outcome is Outcome.ACCEPTED:
        assert verdict == own
    else:
        assert (verdict.outcome, verdict.meaning, verdict.cure) == (outcome, "m", "c")
        assert verdict.source == "the configuration: [[providers.answers]] of mine, row 1"


@pytest.mark.parametrize("kind", ["smtp", "gmail"])
def test_a_mail_servers_refusal_cannot_be_called_a_success(kind: str) -> None:
    settings = a_provider(
        kind,
        host="localhost",
        credentials={"username": "a@b.c", "password": "x" * 16},
        answers=(rule(status=550), rule(Outcome.ACCEPTED, status=551)),
    )
    with pytest.raises(ConfigurationError, match=r"answers\.1\.outcome"):
        build(settings)


def test_the_sandbox_has_no_table_to_go_before() -> None:
    with pytest.raises(ConfigurationError, match="answers"):
        build(a_provider("sandbox", answers=(rule(status=400),)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
BODIES = st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "date", "x-ratelimit-reset", "x-amzn-errortype"]) | st.text(max_size=12),
    st.text(max_size=20),
    max_size=4,
)
ANSWERS = st.builds(
    WireAnswer, status=st.integers(100, 999), headers=HEADERS, body=BODIES, whole=st.booleans(), at_s=st.just(1.8e9)
)
RULES = st.lists(
    st.builds(
        AnswerRule,
        outcome=st.sampled_from(Outcome),
        status=st.none() | st.sampled_from([200, 201, 202, 400, 403, 500]),
        code=st.none() | st.sampled_from(["400", "bad-request", ""]),
        text=st.none() | st.just(re.compile("a|1")),
        meaning=st.none() | st.just("as we know"),
        retry_after_s=st.none() | st.just(7.0),
    ),
    max_size=3,
)


@given(kind=st.sampled_from(sorted(CHANNELS)), came=ANSWERS, rules=RULES, calls=st.integers(1, 3))
def test_whatever_is_answered_and_configured_comes_to_an_answer_for_each_message(
    kind: str, came: WireAnswer, rules: list[AnswerRule], calls: int
) -> None:
    for answer in trio.run(lambda: given_answer(kind, came, rules, calls)):
        assert answer.detail is None or len(answer.detail) <= 500
        assert answer.retry_after_s is None or 0 <= answer.retry_after_s <= 86_400
