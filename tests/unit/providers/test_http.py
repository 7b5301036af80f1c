from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.providers.http import DAY_S, SHORTEST_PIECE, by_status, masker, parse, retry_after_s
from heliograph.providers.verdicts import DETAIL_LENGTH, Finding, Verdict, clip
from heliograph.providers.wire import WireAnswer

NOW_S = 1_795_521_600.0


def answer(status: int, **headers: str) -> WireAnswer:
    return WireAnswer(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, at_s=NOW_S)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *[(status, Outcome.REJECTED) for status in (400, 404, 405, 406, 413, 415, 422)],
        *[(status, Outcome.MISCONFIGURED) for status in (301, 302, 303, 307, 308, 401, 403)],
        *[(status, Outcome.DEFERRED) for status in (408, 425, 500, 501, 502, 503, 504, 507, 520, 529)],
        (429, Outcome.THROTTLED),
        *[(status, Outcome.UNKNOWN) for status in (100, 200, 202, 204, 600, 999)],
    ],
)
def test_a_status_means_what_http_says(status: int, outcome: Outcome) -> None:
    finding = by_status(answer(status))
    assert finding.verdict.outcome is outcome
    assert finding.code == str(status)
    assert finding.answer().detail


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("86401", DAY_S),
        ("9" * 5000, DAY_S),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_S),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("Tue, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_a_day(text: str, seconds: float | None) -> None:
    assert retry_after_s(answer(503, retry_after=text)) == seconds


@given(st.text())
def test_no_retry_after_is_an_error(text: str) -> None:
    wait_s = retry_after_s(answer(503, retry_after=text))
    assert wait_s is None or 0 <= wait_s <= DAY_S


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"NaN", b'{"a": Infinity}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_nothing(body: bytes) -> None:
    assert parse(body) is None


@given(st.text())
def test_a_detail_is_one_short_line(text: str) -> None:
    line = clip(text)
    assert len(line) <= DETAIL_LENGTH
    assert line.isprintable()


def test_a_sender_that_the_message_named_is_neither_its_fault_nor_the_providers() -> None:
    verdict = Verdict(
        outcome=Outcome.MISCONFIGURED, meaning="bad sender", cure="", source="", names=frozenset({"sender"})
    )
    assert Finding(verdict=verdict).answer().outcome is Outcome.MISCONFIGURED
    assert Finding(verdict=verdict).answer({"template"}).outcome is Outcome.MISCONFIGURED
    named = Finding(verdict=verdict).answer({"sender"})
    assert (named.outcome, named.scope) == (Outcome.MISCONFIGURED, Scope.MESSAGE)


def test_a_template_that_the_message_named_is_its_own_fault() -> None:
    verdict = Verdict(
        outcome=Outcome.MISCONFIGURED,
        meaning="blacklisted",
        cure="",
        source="",
        names=frozenset({"sender", "template"}),
    )
    assert Finding(verdict=verdict).answer({"template"}).outcome is Outcome.REJECTED
    assert Finding(verdict=verdict).answer({"sender", "template"}).outcome is Outcome.REJECTED
    assert Finding(verdict=verdict).answer({"sender"}).outcome is Outcome.MISCONFIGURED


def test_a_row_may_name_a_wait_and_the_provider_another() -> None:
    verdict = Verdict(outcome=Outcome.DEFERRED, meaning="", cure="", source="", scope=Scope.MESSAGE, wait_s=300)
    assert Finding(verdict=verdict).answer().retry_after_s == 300
    assert Finding(verdict=verdict, retry_after_s=0).answer().retry_after_s == 0
    assert Finding(verdict=verdict).answer().scope is Scope.MESSAGE


def test_secrets_are_blotted_out_the_longest_first() -> None:
    mask = masker(["abc", "abcdef", "x.y"])
    assert mask("abcdef abc x.y xzy") == "… … … xzy"
    assert masker([])("anything") == "anything"


@given(st.text("kKeY0123456789", min_size=8, max_size=20), st.text("xyz ", max_size=30), st.integers(1, 60))
def test_a_secret_that_a_text_was_cut_off_in_is_blotted_out_too(secret: str, before: str, most: int) -> None:
    shown = masker([secret])(clip(f"{before}{secret}", most))
    assert secret[:SHORTEST_PIECE] not in shown
