from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.provider import AnswerRule
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.providers.smtp.replies import GMAIL_ROWS, ROWS, Reply, Stage, configured, explainer, find
from tests.support.builders import a_provider

A, R, D, T, M = Outcome.ACCEPTED, Outcome.REJECTED, Outcome.DEFERRED, Outcome.THROTTLED, Outcome.MISCONFIGURED
MAIL, RCPT, END, AUTH = Stage.SENDER, Stage.RECIPIENT, Stage.END, Stage.LOGIN


def reply(text: str) -> Reply:
    code, _, rest = text.partition(" ")
    return Reply(int(code), (rest,))


@pytest.mark.parametrize(
    ("stage", "text", "outcome"),
    [
        (END, "250 2.0.0 OK 1795521600 d2e1a72fcca58 - gsmtp", A),
        (RCPT, "251 will forward", A),
        (RCPT, "252 cannot verify", A),
        (END, "421 4.3.0 temporary system problem", D),
        (MAIL, "421 service closing", D),
        (MAIL, "421 4.7.28 unusual rate of unsolicited mail", T),
        (RCPT, "450 4.2.1 the user receives mail at a rate that…", D),
        (RCPT, "450 4.2.1 relay limit exceeded", T),
        (RCPT, "450 mailbox busy", D),
        (RCPT, "451 4.4.2 timeout", D),
        (END, "451 local error", D),
        (RCPT, "452 4.2.2 mailbox full", D),
        (END, "452 4.3.1 insufficient storage", D),
        (RCPT, "452 4.5.3 too many recipients", D),
        (AUTH, "454 4.7.0 temporary authentication failure", D),
        (AUTH, "454 4.7.0 too many login attempts", T),
        (RCPT, "451 4.7.1 greylisted, come again", D),
        (RCPT, "451 4.7.1 you are generating separate mails", D),
        (RCPT, "451 4.7.1 sending rate exceeded", T),
        (RCPT, "450 4.7.1 too many connections", T),
        (RCPT, "501 5.1.3 bad recipient address syntax", R),
        (MAIL, "501 5.5.4 syntax error", M),
        (Stage.HELLO, "502 5.5.1 unrecognized command", M),
        (RCPT, "521 5.3.2 host takes no mail", R),
        (RCPT, "556 5.1.10 null MX", R),
        (MAIL, "530 5.7.0 must issue STARTTLS first", M),
        (MAIL, "530 5.5.1 authentication required", M),
        (AUTH, "534 5.7.9 application-specific password required", M),
        (AUTH, "534 5.7.14 log in by the browser", M),
        (AUTH, "535 5.7.8 not accepted", M),
        (AUTH, "535 5.7.1 not accepted", M),
        (AUTH, "535 not accepted", M),
        (AUTH, "538 5.7.11 encryption required", M),
        (AUTH, "504 5.7.4 unrecognized mechanism", M),
        (RCPT, "550 5.1.1 no such user", R),
        (RCPT, "550 5.1.2 no such domain", R),
        (RCPT, "550 5.1.6 moved", R),
        (RCPT, "550 5.2.1 disabled", R),
        (RCPT, "550 no such user", R),
        (MAIL, "550 5.1.8 bad sender", M),
        (MAIL, "550 5.7.1 sender denied", M),
        (MAIL, "553 not yours", M),
        (RCPT, "553 5.7.1 <a@b>: Sender address rejected: not owned by user c", M),
        (END, "550 5.4.5 Daily user sending limit exceeded", T),
        (RCPT, "550 5.4.6 routing loop", R),
        (RCPT, "550 5.7.1 relaying denied", M),
        (RCPT, "554 relay access denied", M),
        (RCPT, "554 5.7.1 policy", R),
        (END, "554 5.7.1 spam", R),
        (END, "550 5.7.26 unauthenticated sender", M),
        (END, "550 5.7.0 mail is not authenticated", M),
        (END, "550 5.7.25 no PTR", M),
        (END, "550 5.7.28 unusual rate", T),
        (RCPT, "552 5.2.2 over quota", R),
        (END, "552 5.3.4 too big", R),
        (END, "552 5.7.0 forbidden attachment", R),
        (RCPT, "553 5.1.2 bad domain", R),
        (END, "554 5.6.0 malformed", R),
        (MAIL, "555 5.5.2 syntax", R),
        (END, "499 whatever", D),
        (END, "599 whatever", R),
        (Stage.GREETING, "554 go away", D),
        (Stage.GREETING, "421 busy", D),
        (Stage.TLS, "454 TLS not available", D),
    ],
)
def test_a_reply_means(stage: Stage, text: str, outcome: Outcome) -> None:
    assert find(reply(text), stage).verdict.outcome is outcome


def test_what_concerns_one_recipient_says_nothing_of_the_server() -> None:
    scopes = {
        text: find(reply(text), RCPT).verdict.scope
        for text in ("450 4.2.1 busy", "452 4.2.2 full", "451 4.7.1 greylisted", "450 busy", "451 4.3.0 trouble")
    }
    assert [*scopes.values()] == [Scope.MESSAGE] * 4 + [Scope.PROVIDER]


def test_a_refused_sender_says_nothing_of_the_account_where_the_message_named_it() -> None:
    finding = find(reply("550 5.1.8 bad sender"), MAIL)
    ours, its = finding.answer(), finding.answer({"sender"})
    assert (ours.outcome, ours.scope) == (M, Scope.PROVIDER)
    assert (its.outcome, its.scope) == (M, Scope.MESSAGE)


def test_a_day_used_up_waits_for_hours_and_a_login_for_a_minute() -> None:
    assert find(reply("550 5.4.5 daily limit"), END).answer().retry_after_s == 4 * 3600
    assert find(reply("454 4.7.0 later"), AUTH).answer().retry_after_s == 60


def test_gmail_slows_us_down_by_421() -> None:
    text = "421 4.7.0 try again later, closing connection"
    assert find(reply(text), MAIL).verdict.outcome is D
    assert find(reply(text), MAIL, GMAIL_ROWS).verdict.outcome is T
    assert explainer(GMAIL_ROWS)("421", b"4.7.0 try again later").verdict.outcome is T


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("stage", list(Stage))
def test_no_row_of_an_operator_makes_a_success_of_what_was_refused_before_the_dot(
    outcome: Outcome, stage: Stage
) -> None:
    settings = a_provider("smtp", answers=(AnswerRule(outcome=outcome, status=550, code="5.7.1"),))
    found = find(reply("550 5.7.1 no"), stage, configured(settings)).verdict.outcome
    if stage is END or outcome in (R, D, T, M):
        assert found is outcome
    else:
        assert found in (R, D, M)


def test_only_a_proof_that_the_address_does_not_exist_suppresses_it() -> None:
    texts = ["550 5.1.1 x", "550 5.1.2 x", "556 5.1.10 x", "550 5.1.3 x", "550 5.2.1 x", "550 no such user", "556 x"]
    suppressed = [find(reply(text), RCPT).answer().suppress for text in texts]
    assert suppressed == [SuppressionReason.BOUNCE] * 3 + [None] * 4
    assert find(reply("550 5.1.1 x"), MAIL).answer().suppress is None


def test_an_answer_has_both_codes_and_the_servers_text() -> None:
    answer = find(Reply(550, ("5.1.1 The account does not exist.", "5.1.1 Learn more")), RCPT).answer()
    assert (answer.code, answer.detail) == ("550 5.1.1", "The account does not exist. Learn more")


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [("550 4.1.1 x", None), ("550 5.1.1", "5.1.1"), ("550 5.1.1000 x", None), ("550 x 5.1.1", None)],
)
def test_an_enhanced_code_counts_where_it_fits_the_reply(text: str, enhanced: str | None) -> None:
    assert reply(text).enhanced == enhanced


def test_explain_reads_a_code_and_a_text() -> None:
    verdict = explainer()("550", b"5.1.1 no such user").verdict
    assert (verdict.outcome, bool(verdict.meaning and verdict.cure and verdict.source)) == (R, True)
    with pytest.raises(ValueError, match="three digits"):
        explainer()("5.1.1", b"")


@given(st.integers(200, 599), st.text(max_size=60), st.sampled_from(Stage))
def test_every_reply_means_something(code: int, text: str, stage: Stage) -> None:
    finding = find(Reply(code, (text,)), stage)
    assert (finding.verdict.outcome is A) == (200 <= code < 300)
    assert finding.verdict.outcome is not Outcome.UNKNOWN
    if 400 <= code < 500:
        assert finding.verdict.outcome in (D, T)


def test_every_row_can_be_met() -> None:
    """No row hides behind an earlier one: for each there is a reply that finds it."""
    codes = [
        200,
        250,
        421,
        432,
        450,
        451,
        452,
        454,
        500,
        501,
        521,
        530,
        534,
        535,
        538,
        550,
        551,
        552,
        553,
        554,
        555,
        556,
    ]
    words = ["", "relay limit", "too many", "rate", "relay", "not owned by user", "too many unauthenticated"]
    met = set()
    for code in codes:
        enhanced = {e + "1" * e.endswith(".") for row in ROWS for e in row.enhanced if e[0] == str(code)[0]}
        for text in ("", *enhanced):
            for word in words:
                for stage in Stage:
                    found = Reply(code, (f"{text} {word}".strip(),))
                    met.add(next((i for i, row in enumerate(ROWS) if row.fits(found, stage)), None))
    assert met >= set(range(len(ROWS)))
