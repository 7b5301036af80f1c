"""The dialogue with a mail server, without a line to it: what to say, what to make of the replies.

A dialogue is a generator. It yields a step (`Say`, `Secure`), whoever drives it does it on a real connection and sends
back what was `Heard`, and the generator returns what came of it. So everything that RFC 5321 and its extensions
ask for is here and can be tested by feeding it anything at all; it raises nothing, whatever the server says.

What a lost connection means depends on one thing only: whether the socket took the final dot. Before, the server must
not deliver (`deferred`); after, nobody knows (`unknown`). So the dot has a write of its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeVar, assert_never

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers.smtp.replies import Reply, Row, Stage, find
from heliograph.providers.verdicts import ID_LENGTH, clip

MOST_LINE: Final = 4096
MOST_LINES: Final = 200
_ANOTHER_TRANSACTION: Final = re.compile("too many recipients|per transaction", re.IGNORECASE)
_REPLY_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)

T = TypeVar("T")


# ------------------------------------------------------------------------------------------- steps and what is heard


@dataclass(frozen=True, slots=True)
class Say:
    """Write `data`, then wait for `replies` of them. `begins`: the first byte that can have an effect is in it. `last`:
    it is the final dot, whose answer may take longer."""

    data: bytes = field(repr=False)
    replies: int = 1
    begins: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Secure:
    """Throw away what was received and not read (it came in the clear, from anybody), and start TLS."""


class Loss(StrEnum):
    """How a step can fail."""

    DISCONNECTED = "disconnected"
    TIMEOUT = "timeout"
    GARBLED = "garbled"
    CERTIFICATE = "certificate"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Heard:
    """The replies to a step, fewer than asked for where the connection was lost over it. `written`: all of what was to
    be said may have left us."""

    replies: tuple[Reply, ...] = ()
    loss: Loss | None = None
    detail: str = ""
    written: bool = True


Step = Say | Secure
Dialogue = Generator[Step, Heard, T]


class Garbled(Exception):
    """What the server wrote is no reply."""


class ReplyReader:
    """Bytes in, replies out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code: int | None = None
        self._lines: list[str] = []

    @property
    def idle(self) -> bool:
        """Nothing is left over."""
        return not self._buffer and not self._lines

    def clear(self) -> None:
        self._buffer.clear()
        self._code, self._lines = None, []

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def next(self) -> Reply | None:
        """The next whole reply; None where more bytes are needed. Raises Garbled."""
        while (end := self._buffer.find(b"\n")) >= 0:
            if end > MOST_LINE:
                break
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            if (reply := self._take(line)) is not None:
                return reply
        if len(self._buffer) > MOST_LINE:
            raise Garbled("a line is too long")
        return None

    def _take(self, line: bytes) -> Reply | None:
        match = _REPLY_LINE.fullmatch(line)
        if match is None:
            raise Garbled("a line begins without a reply's code")
        code = int(match[1])
        if self._code is not None and code != self._code:
            raise Garbled("the lines of a reply have different codes")
        if len(self._lines) == MOST_LINES:
            raise Garbled("a reply has too many lines")
        self._lines.append((match[3] or b"").decode("utf-8", "replace"))
        if match[2] == b"-":
            self._code = code
            return None
        reply = Reply(code, tuple(self._lines))
        self._code, self._lines = None, []
        return reply


# ------------------------------------------------------------------------------------------------ opening a session


@dataclass(frozen=True, slots=True)
class Password:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """An OAuth 2 access token for a user's mailbox: XOAUTH2, or OAUTHBEARER (RFC 7628)."""

    username: str
    token: str = field(repr=False)


Login = Password | Bearer


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a server offers. `size` is the largest mail it takes, in bytes; None where it does not say."""

    starttls: bool = False
    pipelining: bool = False
    eight_bit: bool = False
    utf8: bool = False
    dsn: bool = False
    size: int | None = None
    mechanisms: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """For people."""
        known = {"PIPELINING": self.pipelining, "8BITMIME": self.eight_bit, "SMTPUTF8": self.utf8, "DSN": self.dsn}
        offers = ", ".join(name for name, offered in known.items() if offered) or "no extension that we use"
        return offers if self.size is None else f"{offers}; mails of up to {self.size / 1e6:.1f} MB"

    @classmethod
    def parse(cls, reply: Reply) -> Features:
        """From the reply to EHLO; its first line is the server's name."""
        offers: dict[str, list[str]] = {}
        for line in reply.lines[1:]:
            keyword, *parameters = line.upper().replace("AUTH=", "AUTH ").split() or [""]
            offers.setdefault(keyword, []).extend(parameters)
        size = offers.get("SIZE", [])
        return cls(
            starttls="STARTTLS" in offers,
            pipelining="PIPELINING" in offers,
            eight_bit="8BITMIME" in offers,
            utf8="SMTPUTF8" in offers,
            dsn="DSN" in offers,
            size=int(size[0]) if size and re.fullmatch(r"[1-9][0-9]{0,15}", size[0]) else None,
            mechanisms=frozenset(offers.get("AUTH", [])),
        )


def opening(
    *, ehlo_name: str, starttls: bool, login: Login | None, rows: tuple[Row, ...] = ()
) -> Dialogue[Features | Answer]:
    """From the greeting to a session that takes mail; the answer says why there is none."""
    greeted = yield Say(b"")
    if (fault := _refusal(greeted, Stage.GREETING, rows)) is not None:
        return fault
    features = yield from _hello(ehlo_name, rows)
    if isinstance(features, Answer):
        return features
    if starttls:
        if not features.starttls:
            return _misconfigured("no_starttls", "the server offers no STARTTLS, or somebody on the way hides it")
        if (fault := _refusal((yield Say(b"STARTTLS\r\n")), Stage.TLS, rows)) is not None:
            return fault
        secured = yield Secure()
        if secured.loss is not None:
            return lost(secured, Stage.TLS)
        features = yield from _hello(ehlo_name, rows)
        if isinstance(features, Answer):
            return features
    if login is not None and (fault := (yield from _authenticate(features, login, rows))) is not None:
        return fault
    return features


def _hello(ehlo_name: str, rows: tuple[Row, ...]) -> Dialogue[Features | Answer]:
    heard = yield Say(f"EHLO {ehlo_name}\r\n".encode())
    return _refusal(heard, Stage.HELLO, rows) or Features.parse(heard.replies[0])


def _authenticate(features: Features, login: Login, rows: tuple[Row, ...]) -> Dialogue[Answer | None]:
    """None where it is done. A server asks with 334 for the next line; an unwanted 334 (XOAUTH2's has JSON on what is
    wrong with the token) gets an empty one, upon which the server refuses."""
    match login:
        case Bearer() if "XOAUTH2" in features.mechanisms:
            lines = [f"user={login.username}\1auth=Bearer {login.token}\1\1"]
            command = b"AUTH XOAUTH2 " + _base64(lines.pop(0))
        case Bearer() if "OAUTHBEARER" in features.mechanisms:
            user = login.username.replace("=", "=3D").replace(",", "=2C")
            lines = [f"n,a={user},\1auth=Bearer {login.token}\1\1", "\1"]
            command = b"AUTH OAUTHBEARER " + _base64(lines.pop(0))
        case Password() if "PLAIN" in features.mechanisms:
            lines = [f"\0{login.username}\0{login.password}"]
            command = b"AUTH PLAIN " + _base64(lines.pop(0))
        case Password() if "LOGIN" in features.mechanisms:
            lines = [login.username, login.password]
            command = b"AUTH LOGIN"
        case Bearer() | Password():
            offered = ", ".join(sorted(features.mechanisms)) or "none"
            return _misconfigured("no_auth", clip(f"the server offers no login that fits these credentials: {offered}"))
        case _:
            assert_never(login)
    heard = yield Say(command + b"\r\n")
    for _ in range(3):
        if heard.loss is not None or heard.replies[0].code != 334:
            break
        heard = yield Say((_base64(lines.pop(0)) if lines else b"") + b"\r\n")
    return _refusal(heard, Stage.LOGIN, rows)


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def closing(*, replies: int = 1) -> Dialogue[None]:
    """`replies` 0: whoever says it hangs up at once."""
    yield Say(b"QUIT\r\n", replies)


# -------------------------------------------------------------------------------------------------- sending one mail


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


# --------------------------------------------------------------------------------------------------------- answers


def lost(heard: Heard, stage: Stage, outcome: Outcome = Outcome.DEFERRED) -> Answer:
    """The answer where there was none. A certificate that does not verify is for a person to mend."""
    certificate = heard.loss is Loss.CERTIFICATE
    return Answer(
        outcome=Outcome.MISCONFIGURED if certificate else outcome,
        code=str(heard.loss),
        detail=clip(f"{heard.detail or 'no answer'}, at {stage}"),
    )


def _refusal(heard: Heard, stage: Stage, rows: tuple[Row, ...]) -> Answer | None:
    if heard.loss is not None:
        return lost(heard, stage)
    reply = heard.replies[0]
    return None if reply.positive else find(reply, stage, rows).answer()


def _misconfigured(code: str, detail: str) -> Answer:
    return Answer(outcome=Outcome.MISCONFIGURED, code=code, detail=detail)
