from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers.smtp.dialogue import (
    MOST_LINE,
    MOST_LINES,
    Dialogue,
    Garbled,
    Heard,
    Loss,
    ReplyReader,
    Say,
    Secure,
    Step,
)
from heliograph.providers.smtp.opening import Bearer, Features, Password, opening
from heliograph.providers.smtp.replies import Reply
from heliograph.providers.smtp.transaction import Letter, Sent, transaction

T = TypeVar("T")

PIPELINING = Features(pipelining=True)
ONE = Letter(sender="hi@shop.in", recipients=("asha@example.net",), data=b"Subject: Hi\r\n\r\nHello\r\n")
THREE = Letter(sender="hi@shop.in", recipients=("a@x.in", "b@x.in", "c@x.in"), data=b"Subject: Hi\r\n\r\nHello\r\n")


def reply(text: str) -> Reply:
    code, _, rest = text.partition(" ")
    return Reply(int(code), tuple(rest.split("|")))


def heard(*texts: str, loss: Loss | None = None) -> Heard:
    return Heard(tuple(map(reply, texts)), loss)


def drive(dialogue: Dialogue[T], answers: Sequence[Heard]) -> tuple[T, list[Step]]:
    """The result, and all that was said; the last answer is given again for what is asked beyond them."""
    said: list[Step] = []
    waiting = list(answers)
    try:
        step = next(dialogue)
        while True:
            said.append(step)
            step = dialogue.send(waiting.pop(0))
    except StopIteration as end:
        assert not waiting, f"not asked for: {waiting}"
        result: T = end.value
        return result, said


def lines(said: Sequence[Step]) -> list[bytes]:
    return [step.data if isinstance(step, Say) else b"<TLS>" for step in said]


# --------------------------------------------------------------------------------------------------- the reader


def test_a_reply_comes_whole_however_it_is_cut() -> None:
    wire = b"250-mail.test hello\r\n250-SIZE 1000\r\n250 PIPELINING\r\n220 next\r\n"
    for size in range(1, len(wire)):
        reader, replies = ReplyReader(), []
        for start in range(0, len(wire), size):
            reader.feed(wire[start : start + size])
            while (found := reader.next()) is not None:
                replies.append(found)
        assert replies == [Reply(250, ("mail.test hello", "SIZE 1000", "PIPELINING")), Reply(220, ("next",))]
        assert reader.idle


def test_a_bare_code_is_a_reply() -> None:
    reader = ReplyReader()
    reader.feed(b"250\r\n354 \n")
    assert [reader.next(), reader.next()] == [Reply(250, ("",)), Reply(354, ("",))]


@pytest.mark.parametrize(
    "wire",
    [
        b"hello\r\n",
        b"25\r\n",
        b"2500 x\r\n",
        b"150 x\r\n",
        b"\xff\xfe\r\n",
        b"250-a\r\n251 b\r\n",
        b"2" * (MOST_LINE + 1),
        b"250 " + b"x" * MOST_LINE + b"\r\n",
        b"250-x\r\n" * (MOST_LINES + 1),
    ],
)
def test_what_is_no_reply_is_told(wire: bytes) -> None:
    reader = ReplyReader()
    reader.feed(wire)
    with pytest.raises(Garbled):
        reader.next()


@given(st.lists(st.binary(max_size=50)))
def test_the_reader_gives_replies_or_says_that_there_are_none(chunks: list[bytes]) -> None:
    reader = ReplyReader()
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (found := reader.next()) is not None:
                assert 200 <= found.code < 600
        except Garbled:
            return


# ----------------------------------------------------------------------------------------------------- opening

EHLO = "250 mail.test|PIPELINING|SIZE 35882577|8BITMIME|SMTPUTF8|AUTH PLAIN LOGIN XOAUTH2|STARTTLS"


def test_the_offers_are_read() -> None:
    assert Features.parse(reply(EHLO)) == Features(
        starttls=True,
        pipelining=True,
        eight_bit=True,
        utf8=True,
        size=35882577,
        mechanisms=frozenset({"PLAIN", "LOGIN", "XOAUTH2"}),
    )
    assert Features.parse(reply("250 mail.test|auth=plain|size 0|Size|")) == Features(mechanisms=frozenset({"PLAIN"}))


def test_after_starttls_all_begins_anew() -> None:
    result, said = drive(
        opening(ehlo_name="[127.0.0.1]", starttls=True, login=Password("u", "p")),
        [
            heard("220 hi"),
            heard("250 m|STARTTLS"),
            heard("220 go"),
            Heard(),
            heard("250 m|AUTH PLAIN"),
            heard("235 ok"),
        ],
    )
    plain = base64.b64encode(b"\0u\0p")
    hello = b"EHLO [127.0.0.1]\r\n"
    assert lines(said) == [b"", hello, b"STARTTLS\r\n", b"<TLS>", hello, b"AUTH PLAIN " + plain + b"\r\n"]
    assert isinstance(result, Features)
    assert not result.starttls


def test_a_hidden_starttls_ends_it_before_a_password_is_said() -> None:
    result, said = drive(
        opening(ehlo_name="me", starttls=True, login=Password("u", "p")), [heard("220 hi"), heard("250 m|AUTH PLAIN")]
    )
    assert isinstance(result, Answer)
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "no_starttls")
    assert len(said) == 2


def test_login_is_said_line_by_line_where_plain_is_not_offered() -> None:
    result, said = drive(
        opening(ehlo_name="me", starttls=False, login=Password("u", "p")),
        [
            heard("220 hi"),
            heard("250 m|AUTH LOGIN"),
            heard("334 VXNlcm5hbWU6"),
            heard("334 UGFzc3dvcmQ6"),
            heard("235 ok"),
        ],
    )
    assert lines(said)[2:] == [b"AUTH LOGIN\r\n", b"dQ==\r\n", b"cA==\r\n"]
    assert isinstance(result, Features)


def test_a_token_that_is_not_liked_gets_an_empty_line() -> None:
    result, said = drive(
        opening(ehlo_name="me", starttls=False, login=Bearer("a@b", "tok")),
        [heard("220 hi"), heard("250 m|AUTH XOAUTH2"), heard("334 eyJ9"), heard("535 5.7.8 no")],
    )
    assert base64.b64decode(lines(said)[2].split()[2]) == b"user=a@b\x01auth=Bearer tok\x01\x01"
    assert lines(said)[3] == b"\r\n"
    assert isinstance(result, Answer)
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "535 5.7.8")


def test_a_token_goes_by_the_standards_way_where_that_alone_is_offered() -> None:
    result, said = drive(
        opening(ehlo_name="me", starttls=False, login=Bearer("a,b@c", "tok")),
        [heard("220 hi"), heard("250 m|AUTH OAUTHBEARER"), heard("334 eyJ9"), heard("535 5.7.8 no")],
    )
    assert base64.b64decode(lines(said)[2].split()[2]) == b"n,a=a=2Cb@c,\x01auth=Bearer tok\x01\x01"
    assert lines(said)[3] == b"AQ==\r\n"
    assert isinstance(result, Answer)
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "535 5.7.8")


@pytest.mark.parametrize(("mechanism", "asked_on"), [("PLAIN", 0), ("LOGIN", 2), ("XOAUTH2", 1), ("OAUTHBEARER", 1)])
def test_a_server_that_says_credentials_back_is_not_quoted(mechanism: str, asked_on: int) -> None:
    secret = "a secret,=4711"
    login = Bearer("me=x@x.in", secret) if "OA" in mechanism else Password("me=x@x.in", secret)

    def refused(words: str) -> tuple[Features | Answer, list[Step]]:
        answers = [
            heard("220 hi"),
            heard(f"250 m|AUTH {mechanism}"),
            *[heard("334 ")] * asked_on,
            heard(f"535 {words}"),
        ]
        return drive(opening(ehlo_name="me", starttls=False, login=login), answers)

    _, said = refused("no")
    told = [word.decode() for line in lines(said)[2:] for word in line.split() if len(word) > 12]
    result, _ = refused(f"not with {secret} or {' '.join(told)}")
    assert isinstance(result, Answer)
    assert result.detail is not None
    assert result.detail.startswith("not with … or ")
    assert [word for word in told if word.rstrip("=") in result.detail and secret in str(base64.b64decode(word))] == []


def test_credentials_that_no_offer_fits_are_not_said() -> None:
    result, said = drive(
        opening(ehlo_name="me", starttls=False, login=Password("u", "p")),
        [heard("220 hi"), heard("250 m|AUTH CRAM-MD5")],
    )
    assert isinstance(result, Answer)
    assert (result.outcome, result.code, len(said)) == (Outcome.MISCONFIGURED, "no_auth", 2)


@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize("at", range(6))
def test_a_session_that_is_lost_while_it_opens_is_deferred(at: int, loss: Loss) -> None:
    script = [
        heard("220 hi"),
        heard("250 m|STARTTLS"),
        heard("220 go"),
        Heard(),
        heard("250 m|AUTH PLAIN"),
        heard("235 ok"),
    ]
    result, _ = drive(
        opening(ehlo_name="me", starttls=True, login=Password("u", "p")), [*script[:at], Heard((), loss, "broke")]
    )
    assert isinstance(result, Answer)
    assert result.outcome is (Outcome.MISCONFIGURED if loss is Loss.CERTIFICATE else Outcome.DEFERRED)
    assert result.code == loss


# ------------------------------------------------------------------------------------------------- a transaction


def test_one_recipient_takes_one_round_trip_where_the_server_pipelines() -> None:
    sent, said = drive(
        transaction(ONE, PIPELINING),
        [heard("250 ok", "250 ok", "354 go"), Heard(), heard("250 2.0.0 OK queued as 17")],
    )
    assert lines(said) == [
        b"MAIL FROM:<hi@shop.in>\r\nRCPT TO:<asha@example.net>\r\nDATA\r\n", ONE.data, b".\r\n",
    ]  # fmt: skip
    assert sent == Sent(
        Answer(outcome=Outcome.ACCEPTED, code="250 2.0.0", provider_message_id="OK queued as 17"), reusable=True
    )


def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    sent, said = drive(
        transaction(ONE, Features()), [heard("250 a"), heard("250 b"), heard("354 c"), Heard(), heard("250 d")]
    )
    assert lines(said) == [
        b"MAIL FROM:<hi@shop.in>\r\n", b"RCPT TO:<asha@example.net>\r\n", b"DATA\r\n", ONE.data, b".\r\n",
    ]  # fmt: skip
    assert [step.begins for step in said if isinstance(step, Say)] == [True, False, False, False, False]
    assert [step.last for step in said if isinstance(step, Say)] == [False, False, False, False, True]
    assert sent.answer.outcome is Outcome.ACCEPTED


def test_the_server_is_told_what_it_wants_to_know() -> None:
    letter = Letter(sender="hi@shop.in", recipients=("आशा@x.in",), data="ü\r\n".encode(), utf8=True)
    offers = Features(pipelining=True, size=1000, eight_bit=True, utf8=True)
    _, said = drive(transaction(letter, offers), [heard("250 a", "250 b", "354 c"), Heard(), heard("250 d")])
    assert lines(said)[0].startswith(
        "MAIL FROM:<hi@shop.in> SIZE=4 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<आशा@x.in>".encode()
    )


def test_dots_are_doubled_and_the_last_line_is_ended() -> None:
    letter = Letter(sender="a@x.in", recipients=("b@x.in",), data=b".one\r\n..two\r\nthree.\r\n.")
    _, said = drive(transaction(letter, PIPELINING), [heard("250 a", "250 b", "354 c"), Heard(), heard("250 d")])
    assert lines(said)[1:] == [b"..one\r\n...two\r\nthree.\r\n..\r\n", b".\r\n"]


def test_copies_that_are_refused_are_named_and_the_rest_gets_it() -> None:
    sent, said = drive(
        transaction(THREE, PIPELINING),
        [heard("250 a", "250 b", "550 5.1.1 no such user", "250 c"), heard("354 d"), Heard(), heard("250 e")],
    )
    assert b"DATA" not in lines(said)[0]
    assert sent.answer.outcome is Outcome.ACCEPTED
    assert sent.answer.detail == "not taken for b@x.in (550 5.1.1 no such user)"


def test_nobody_gets_it_where_its_recipient_is_refused() -> None:
    sent, said = drive(
        transaction(THREE, PIPELINING), [heard("250 a", "550 5.1.1 no", "250 b", "250 c"), heard("250 reset")]
    )
    assert lines(said)[1:] == [b"RSET\r\n"]
    assert (sent.answer.outcome, sent.reusable) == (Outcome.REJECTED, True)


def test_a_go_ahead_with_nobody_to_go_to_gets_the_dot_alone() -> None:
    sent, said = drive(
        transaction(ONE, PIPELINING), [heard("250 a", "550 5.1.1 no", "354 go"), heard("554 no valid recipients")]
    )
    assert lines(said)[1:] == [b".\r\n"]
    assert (sent.answer.code, sent.reusable) == ("550 5.1.1", True)


@pytest.mark.parametrize("loss", [Loss.DISCONNECTED, Loss.TIMEOUT, Loss.GARBLED])
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_connection_that_breaks_before_the_dot_is_handed_over_defers(loss: Loss, pipelining: bool) -> None:
    whole = [heard("250 a"), heard("250 b"), heard("354 c"), Heard()]
    if pipelining:
        whole = [heard("250 a", "250 b", "354 c"), Heard()]
    for cut in range(len(whole)):
        sent, _ = drive(transaction(ONE, Features(pipelining=pipelining)), [*whole[:cut], Heard((), loss)])
        assert (sent.answer.outcome, sent.answer.code, sent.reusable) == (Outcome.DEFERRED, loss, False)


@pytest.mark.parametrize("loss", [Loss.DISCONNECTED, Loss.TIMEOUT, Loss.GARBLED])
def test_a_connection_that_breaks_after_the_dot_leaves_it_unknown(loss: Loss) -> None:
    sent, _ = drive(transaction(ONE, PIPELINING), [heard("250 a", "250 b", "354 c"), Heard(), Heard((), loss)])
    assert (sent.answer.outcome, sent.answer.code, sent.reusable) == (Outcome.UNKNOWN, loss, False)


def test_a_dot_that_the_socket_did_not_take_was_never_said() -> None:
    unsaid = Heard((), Loss.DISCONNECTED, "the connection broke", written=False)
    sent, _ = drive(transaction(ONE, PIPELINING), [heard("250 a", "250 b", "354 c"), Heard(), unsaid])
    assert (sent.answer.outcome, sent.answer.code, sent.reusable) == (Outcome.DEFERRED, Loss.DISCONNECTED, False)


def test_a_go_ahead_after_the_dot_is_no_answer() -> None:
    sent, _ = drive(transaction(ONE, PIPELINING), [heard("250 a", "250 b", "354 c"), Heard(), heard("354 what?")])
    assert (sent.answer.outcome, sent.reusable) == (Outcome.UNKNOWN, False)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("bye", [heard("421 4.4.2 idle"), Heard((), Loss.DISCONNECTED)])
def test_a_session_that_was_closed_meanwhile_is_told_apart(bye: Heard, pipelining: bool) -> None:
    if bye.replies and pipelining:
        bye = heard("421 4.4.2 idle", loss=Loss.DISCONNECTED)
    sent, _ = drive(transaction(ONE, Features(pipelining=pipelining)), [bye])
    assert (sent.answer.outcome, sent.stale, sent.reusable) == (Outcome.DEFERRED, True, False)


def test_too_fast_is_told_even_if_the_session_was_idle() -> None:
    sent, _ = drive(transaction(ONE, Features()), [heard("421 4.7.28 unusual rate")])
    assert (sent.answer.outcome, sent.stale) == (Outcome.THROTTLED, False)


def test_copies_that_are_too_many_get_a_transaction_of_their_own_without_a_new_beginning() -> None:
    sent, said = drive(
        transaction(THREE, PIPELINING),
        [
            heard("250 a", "250 b", "452 4.5.3 too many", "452 4.5.3 too many"),
            heard("354 d"), Heard(), heard("250 2.0.0 first"),
            heard("250 a", "550 5.1.1 no such user", "250 c"),
            heard("354 d"), Heard(), heard("250 2.0.0 second"),
        ],
    )  # fmt: skip
    assert lines(said)[4] == b"MAIL FROM:<hi@shop.in>\r\nRCPT TO:<b@x.in>\r\nRCPT TO:<c@x.in>\r\n"
    assert [step.begins for step in said if isinstance(step, Say)] == [True] + [False] * 7
    assert (sent.answer.outcome, sent.answer.provider_message_id) == (Outcome.ACCEPTED, "first")
    assert (sent.answer.detail, sent.reusable) == ("not taken for b@x.in (550 5.1.1 no such user)", True)


def test_a_copy_that_is_always_one_too_many_is_given_up() -> None:
    sent, said = drive(
        transaction(THREE, PIPELINING),
        [
            heard("250 a", "250 b", "452 4.5.3 x", "250 c"), heard("354 d"), Heard(), heard("250 e"),
            heard("250 a", "452 4.5.3 x", "354 d"), heard("554 5.5.1 nobody"),
        ],
    )  # fmt: skip
    assert sent.answer.outcome is Outcome.ACCEPTED
    assert sent.answer.detail == "not taken for b@x.in (deferred: x)"
    assert lines(said)[-1] == b".\r\n"


def test_a_later_transaction_that_is_lost_takes_the_session_and_nothing_else() -> None:
    sent, _ = drive(
        transaction(THREE, PIPELINING),
        [
            heard("250 a", "250 b", "452 4.5.3 x", "250 c"), heard("354 d"), Heard(), heard("250 e"),
            heard("250 a", "250 b", "354 d"), Heard(), Heard((), Loss.TIMEOUT, "no answer in time"),
        ],
    )  # fmt: skip
    assert (sent.answer.outcome, sent.reusable) == (Outcome.ACCEPTED, False)
    assert sent.answer.detail == "not taken for b@x.in (unknown: no answer in time, at the final dot)"


def test_why_a_server_breaks_off_within_the_content_is_told_where_it_says_so() -> None:
    broken = Heard((reply("552 5.3.4 too big"),), Loss.DISCONNECTED, "the connection broke")
    sent, _ = drive(transaction(ONE, PIPELINING), [heard("250 a", "250 b", "354 c"), broken])
    assert (sent.answer.outcome, sent.answer.code, sent.reusable) == (Outcome.REJECTED, "552 5.3.4", False)


@pytest.mark.parametrize("said", ["250 2.0.0 taken?", "354 go on"])
def test_what_is_no_refusal_within_the_content_takes_nothing(said: str) -> None:
    broken = Heard((reply(said),), Loss.DISCONNECTED, "the connection broke")
    sent, _ = drive(transaction(ONE, PIPELINING), [heard("250 a", "250 b", "354 c"), broken])
    assert (sent.answer.outcome, sent.reusable) == (Outcome.DEFERRED, False)


def test_421_to_a_copy_ends_it_all() -> None:
    sent, _ = drive(transaction(THREE, Features()), [heard("250 a"), heard("250 b"), heard("421 too many")])
    assert (sent.answer.outcome, sent.reusable) == (Outcome.DEFERRED, False)


codes = st.sampled_from([200, 220, 235, 250, 251, 334, 354, 421, 450, 452, 454, 500, 503, 535, 550, 552, 554])
texts = st.sampled_from(
    ["", "ok", "5.1.1 no", "4.7.0 rate", "4.5.3 too many", "STARTTLS", "AUTH PLAIN LOGIN", "SIZE 10"]
) | st.text(max_size=9)
replies = st.builds(Reply, codes, st.lists(texts, min_size=1, max_size=4).map(tuple))


@st.composite
def whims(draw: st.DrawFn) -> Callable[[Step], Heard]:
    """A server that answers anything that a server can, and breaks off at will."""

    def answer(step: Step) -> Heard:
        loss = draw(st.none() | st.none() | st.sampled_from(Loss))
        wanted = step.replies if isinstance(step, Say) else 0
        given = wanted if loss is None else draw(st.integers(0, max(wanted - 1, 0)))
        return Heard(tuple(draw(replies) for _ in range(given)), loss, "broke" if loss else "")

    return answer


def listen(dialogue: Dialogue[T], answer: Callable[[Step], Heard]) -> tuple[T, list[tuple[Step, Heard]]]:
    log: list[tuple[Step, Heard]] = []
    step: Step | None = None
    try:
        step = next(dialogue)
        for _ in range(30):
            log.append((step, answer(step)))
            step = dialogue.send(log[-1][1])
    except StopIteration as end:
        result: T = end.value
        return result, log
    raise AssertionError("the dialogue does not end")


@given(whims(), st.booleans(), st.sampled_from([None, Password("u", "p"), Bearer("u", "t")]))
def test_opening_ends_in_a_session_or_in_a_reason(
    answer: Callable[[Step], Heard], starttls: bool, login: Password | Bearer | None
) -> None:
    result, log = listen(opening(ehlo_name="me", starttls=starttls, login=login), answer)
    if isinstance(result, Answer):
        assert result.outcome in (Outcome.DEFERRED, Outcome.THROTTLED, Outcome.MISCONFIGURED)
        return
    said = lines([step for step, _ in log])
    secured = said.index(b"<TLS>") if starttls else -1
    assert not any(line.startswith(b"AUTH") for line in said[: secured + 1])
    assert login is None or any(line.startswith(b"AUTH") for line in said)


@given(whims(), st.sampled_from([ONE, THREE]), st.booleans())
def test_a_transaction_ends_as_it_must_whatever_is_answered(
    answer: Callable[[Step], Heard], letter: Letter, pipelining: bool
) -> None:
    sent, log = listen(transaction(letter, Features(pipelining=pipelining)), answer)
    ends = [heard for step, heard in log if isinstance(step, Say) and step.last]
    outcome = sent.answer.outcome
    if outcome is Outcome.ACCEPTED:
        assert ends[0].replies[0].positive
    if outcome is Outcome.UNKNOWN:
        assert ends
        assert not ends[0].replies or ends[0].replies[0].code < 400
    if ends and (ends[0].loss is not None):
        assert outcome is Outcome.UNKNOWN
    if letter.data in lines([step for step, _ in log]):
        commands = [
            reply
            for step, heard in log
            if isinstance(step, Say) and step.data[:4] != letter.data[:4]
            for reply in heard.replies
        ]
        assert commands[0].positive
        assert commands[1].positive
        assert commands[len(letter.recipients) + 1].code == 354
    if any(heard.loss is not None for _, heard in log) or any(r.code == 421 for _, heard in log for r in heard.replies):
        assert not sent.reusable
    assert sum(step.begins for step, _ in log if isinstance(step, Say)) == 1
    assert isinstance(log[0][0], Say)
    assert log[0][0].begins
    assert not any(isinstance(step, Secure) for step, _ in log)
