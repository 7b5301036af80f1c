"""One mail over an open session: MAIL, RCPT, DATA, the final dot, and what a loss at each of them means.

It depends on one thing only: whether the socket took the final dot. Before, the server must not deliver (`deferred`);
after, nobody knows (`unknown`). So the dot has a write of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers.smtp.dialogue import Dialogue, Heard, Loss, Say, lost
from heliograph.providers.smtp.opening import Features
from heliograph.providers.smtp.replies import Reply, Row, Stage, find
from heliograph.providers.verdicts import ID_LENGTH, clip

_ANOTHER_TRANSACTION: Final = re.compile("too many recipients|per transaction", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One mail and its envelope, `recipients` beginning with the message's `to`. `data` is the whole mail, lines
    ending in CRLF; `named` what of the request came from the message itself (see `Verdict.names`). `envelope_id`
    (letters and digits) comes back in bounces, where the server can do that."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes = field(repr=False)
    utf8: bool = False
    named: frozenset[str] = frozenset()
    envelope_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """`reusable`: the session is ready for another mail. `stale`: the server had closed it, or did so upon MAIL: on a
    session that was idle for a while this says nothing of the server. `refused`: what was said of recipients who do not
    get what others got; `postponed`: those who were too many for this transaction."""

    answer: Answer
    reusable: bool
    stale: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    postponed: tuple[str, ...] = ()


def transaction(letter: Letter, features: Features, rows: tuple[Row, ...] = ()) -> Dialogue[Sent]:
    """One mail to all its recipients. The answer is that of `to`: where `to` is refused nobody gets the mail, so that a
    second attempt, here or elsewhere, sends no copy twice. Where the server took it for `to`, others that were refused
    are named in the detail.

    Recipients beyond what the server takes in one transaction (4.5.3) get theirs in the next ones (RFC 5321,
    4.5.3.1.10); whatever happens to those, `to` has its mail.
    """
    first = yield from _deliver(letter, features, rows)
    refused, postponed, reusable = dict(first.refused), first.postponed, first.reusable
    while postponed and reusable:
        more = yield from _deliver(replace(letter, recipients=postponed), features, rows, copies=True)
        reusable = more.reusable
        if more.answer.outcome is not Outcome.ACCEPTED:
            break
        refused |= more.refused
        postponed = more.postponed
    if postponed:
        refused |= dict.fromkeys(postponed, f"{more.answer.outcome}: {more.answer.detail or more.answer.code}")
    return replace(first, answer=_noted(first.answer, refused), reusable=reusable)


def _noted(answer: Answer, refused: Mapping[str, str]) -> Answer:
    if not refused:
        return answer
    return replace(answer, detail=clip("not taken for " + ", ".join(f"{who} ({why})" for who, why in refused.items())))


def _deliver(letter: Letter, features: Features, rows: tuple[Row, ...], *, copies: bool = False) -> Dialogue[Sent]:
    """One transaction. With `copies` no recipient is more than another, and the mail goes out if any is taken.

    DATA shares a write with what comes before it only where there is one recipient: once it has answered 354 a mail
    can be called off in no other way than by hanging up.
    """
    eager = features.pipelining and len(letter.recipients) == 1
    commands = [_mail(letter, features), *(f"RCPT TO:<{address}>\r\n".encode() for address in letter.recipients)]
    heard = yield from _together(
        [*commands, b"DATA\r\n"] if eager else commands, pipelined=features.pipelining, begins=not copies
    )
    fault = _fault_of(heard, letter, rows, copies=copies)
    if fault is not None and _hung_up(heard, fault):
        return Sent(fault, reusable=False, stale=True)
    if fault is None and not eager:
        asked, heard = heard, (yield Say(b"DATA\r\n"))
    else:
        asked = heard
    go_ahead = heard.loss is None and heard.replies[-1].code == 354
    if fault is not None:
        return Sent(fault, (yield from _call_off(heard, go_ahead=eager and go_ahead)))
    if not go_ahead:
        in_step = heard.loss is None and not heard.replies[-1].positive
        return Sent(_data_refusal(heard, letter, rows), in_step and (yield from _call_off(heard, go_ahead=False)))
    heard = yield Say(_stuffed(letter.data), replies=0)
    if heard.loss is not None:
        return Sent(_torn(heard, letter, rows), reusable=False)
    heard = yield Say(b".\r\n", last=True)
    return _ending(heard, letter, asked.replies[1 : 1 + len(letter.recipients)], rows)


def _mail(letter: Letter, features: Features) -> bytes:
    parameters = [f"MAIL FROM:<{letter.sender}>"]
    if features.size is not None:
        parameters.append(f"SIZE={len(letter.data)}")
    if features.eight_bit and not letter.data.isascii():
        parameters.append("BODY=8BITMIME")
    if letter.utf8:
        parameters.append("SMTPUTF8")
    if features.dsn and letter.envelope_id is not None:
        parameters.append(f"RET=HDRS ENVID={letter.envelope_id}")
    return " ".join(parameters).encode() + b"\r\n"


def _together(commands: Sequence[bytes], *, pipelined: bool, begins: bool) -> Dialogue[Heard]:
    """MAIL and RCPTs in one write where the server allows it, else one by one, up to the refusal that ends it all."""
    if pipelined:
        return (yield Say(b"".join(commands), len(commands), begins=begins))
    replies: tuple[Reply, ...] = ()
    for index, command in enumerate(commands):
        heard = yield Say(command, begins=begins and index == 0)
        replies += heard.replies
        vital = index == 0 or (index == 1 and begins)
        if heard.loss is not None or replies[-1].code == 421 or (vital and not replies[-1].positive):
            return Heard(replies, heard.loss, heard.detail)
    return Heard(replies)


def _fault_of(heard: Heard, letter: Letter, rows: tuple[Row, ...], *, copies: bool) -> Answer | None:
    """Why the mail cannot go: a refusal of MAIL, or of the first RCPT (with `copies`, of all), or the end of the
    connection."""
    if heard.replies and not heard.replies[0].positive:
        return find(heard.replies[0], Stage.SENDER, rows).answer(letter.named)
    recipients = heard.replies[1 : 1 + len(letter.recipients)]
    vital = recipients if copies else recipients[:1]
    if vital and not any(reply.positive for reply in vital):
        return find(vital[0], Stage.RECIPIENT, rows).answer(letter.named)
    for reply in recipients:
        if reply.code == 421:
            return find(reply, Stage.RECIPIENT, rows).answer(letter.named)
    return lost(heard, Stage.RECIPIENT if heard.replies else Stage.SENDER) if heard.loss is not None else None


def _hung_up(heard: Heard, fault: Answer) -> bool:
    """The answer to MAIL is no more than good-bye. 421 is also how Gmail says that this is too fast."""
    if not heard.replies:
        return heard.loss is Loss.DISCONNECTED
    return heard.replies[0].code == 421 and fault.outcome is Outcome.DEFERRED


def _data_refusal(heard: Heard, letter: Letter, rows: tuple[Row, ...]) -> Answer:
    if heard.loss is not None:
        return lost(heard, Stage.DATA)
    reply = heard.replies[-1]
    return lost(_nonsense(reply), Stage.DATA) if reply.positive else find(reply, Stage.DATA, rows).answer(letter.named)


def _torn(heard: Heard, letter: Letter, rows: tuple[Row, ...]) -> Answer:
    """The connection broke before the final dot was out. Some servers say why before they hang up."""
    refusals = [reply for reply in heard.replies if reply.code >= 400]
    return find(refusals[0], Stage.CONTENT, rows).answer(letter.named) if refusals else lost(heard, Stage.CONTENT)


def _nonsense(reply: Reply) -> Heard:
    return Heard(loss=Loss.GARBLED, detail=f"the server says {reply.full_code}")


def _call_off(heard: Heard, *, go_ahead: bool) -> Dialogue[bool]:
    """End a transaction without a mail; whether the session is ready for another. A server that said 354 though it took
    no recipient gets the dot alone: it has nobody to send anything to."""
    obeyed = heard.replies[:-1] if go_ahead else heard.replies
    if heard.loss is not None or any(reply.code == 421 or 300 <= reply.code < 400 for reply in obeyed):
        return False
    ended = yield Say(b".\r\n" if go_ahead else b"RSET\r\n")
    return ended.loss is None and ended.replies[0].code != 421 and (go_ahead or ended.replies[0].positive)


def _ending(heard: Heard, letter: Letter, recipients: Sequence[Reply], rows: tuple[Row, ...]) -> Sent:
    if not heard.written:
        return Sent(_torn(heard, letter, rows), reusable=False)
    if heard.loss is not None:
        return Sent(lost(heard, Stage.END, Outcome.UNKNOWN), reusable=False)
    reply = heard.replies[0]
    if reply.code < 400 and not reply.positive:
        return Sent(lost(_nonsense(reply), Stage.END, Outcome.UNKNOWN), reusable=False)
    if not reply.positive:
        answer = find(reply, Stage.END, rows).answer(letter.named)
        # Nobody knows which of several recipients it speaks of.
        answer = replace(answer, suppress=answer.suppress if len(letter.recipients) == 1 else None)
        return Sent(answer, reusable=reply.code != 421)
    others = [
        (address, said) for address, said in zip(letter.recipients, recipients, strict=False) if not said.positive
    ]
    return Sent(
        Answer(outcome=Outcome.ACCEPTED, code=reply.full_code, provider_message_id=clip(reply.text, ID_LENGTH) or None),
        reusable=True,
        refused={address: f"{said.full_code} {said.text}" for address, said in others if not _one_too_many(said)},
        postponed=tuple(address for address, said in others if _one_too_many(said)),
    )


def _one_too_many(reply: Reply) -> bool:
    """Without an enhanced code, or with one that means much else, it is said in words."""
    return reply.enhanced in ("4.5.3", "5.5.3") or (
        reply.code in (451, 452, 552) and _ANOTHER_TRANSACTION.search(reply.text) is not None
    )


def _stuffed(data: bytes) -> bytes:
    """A dot at the beginning of a line is doubled (RFC 5321, 4.5.2), and the last line is ended."""
    stuffed = data.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"
