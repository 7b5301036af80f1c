"""What a mail server's replies mean: the table, first row that fits.

A row fits by the enhanced code (RFC 3463) where the reply has one, else by the three digits (RFC 5321). The stage
matters: 550 to MAIL is about the sender, to RCPT about the recipient, after the final dot about the content. So does
who named the sender: one that the message named says nothing of the account, and another provider may know it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.providers import rules
from heliograph.providers.verdicts import Finding, Verdict

HOUR_S: Final = 3600.0
_ENHANCED: Final = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?!\S)\s*")


class Stage(StrEnum):
    """What the server was answering."""

    GREETING = "greeting"
    HELLO = "EHLO"
    TLS = "STARTTLS"
    LOGIN = "AUTH"
    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    DATA = "DATA"
    CONTENT = "the content"
    END = "the final dot"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, however many lines it had. `lines` are without codes, and not trusted."""

    code: int
    lines: tuple[str, ...]

    @property
    def enhanced(self) -> str | None:
        """The enhanced code, where it is of the same class as the reply: `5.1.1`."""
        match = _ENHANCED.match(self.lines[0]) if self.lines else None
        return match[1] if match is not None and match[1][0] == str(self.code)[0] else None

    @property
    def text(self) -> str:
        """All lines in one, without their enhanced codes."""
        return " ".join(_ENHANCED.sub("", line, count=1).strip() for line in self.lines)

    @property
    def full_code(self) -> str:
        """As it is stored: `550 5.1.1`, or `550`."""
        enhanced = self.enhanced
        return str(self.code) if enhanced is None else f"{self.code} {enhanced}"

    @property
    def positive(self) -> bool:
        return 200 <= self.code < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Empty `codes` and `stages` ask nothing; `words` must be found in the text. A row without `enhanced` is for
    replies that have no enhanced code, or one that no earlier row knows; `5.6.` stands for all of 5.6.x."""

    verdict: Verdict
    codes: frozenset[int] = frozenset()
    enhanced: tuple[str, ...] = ()
    stages: frozenset[Stage] = frozenset()
    words: re.Pattern[str] | None = None

    def fits(self, reply: Reply, stage: Stage) -> bool:
        if self.codes and reply.code not in self.codes:
            return False
        if self.stages and stage not in self.stages:
            return False
        if self.enhanced and not any(_same(reply.enhanced, wanted) for wanted in self.enhanced):
            return False
        return self.words is None or self.words.search(reply.text) is not None


def _same(enhanced: str | None, wanted: str) -> bool:
    return enhanced is not None and (enhanced == wanted or (wanted.endswith(".") and enhanced.startswith(wanted)))


def find(reply: Reply, stage: Stage, rows: tuple[Row, ...] = ()) -> Finding:
    """What a reply means; `rows` come before the table. Every reply means something."""
    verdict = next((row.verdict for row in (*rows, *ROWS) if row.fits(reply, stage)), NONSENSE)
    return Finding(verdict=verdict, code=reply.full_code, detail=reply.text)


def configured(settings: ProviderSettings) -> tuple[Row, ...]:
    """The rows of `[[providers.answers]]`. Refused before the final dot, a mail was not taken, whatever they say."""
    taken = (Outcome.ACCEPTED, Outcome.UNKNOWN)
    return tuple(
        Row(
            verdict=rules.verdict(rule, "the configuration"),
            codes=frozenset() if rule.status is None else frozenset({rule.status}),
            enhanced=() if rule.code is None else (rule.code,),
            stages=frozenset({Stage.END}) if rule.outcome in taken else frozenset(),
            words=rule.text,
        )
        for rule in settings.answers
    )


def explainer(rows: tuple[Row, ...] = ()) -> Callable[[str, bytes], Finding]:
    """`Kind.explain` for this table: a reply to RCPT or to the final dot, given as its code and its text."""

    def explain(status: str, body: bytes) -> Finding:
        if not re.fullmatch(r"[2-5]\d\d", status):
            raise ValueError("the status is a reply's code of three digits, such as 550")
        reply = Reply(int(status), tuple(body.decode("utf-8", "replace").splitlines()))
        return find(reply, Stage.END, rows)

    return explain


# -------------------------------------------------------------------------------------------------- verdicts

_SMTP: Final = "RFC 5321, 4.2"
_ENHANCED_CODES: Final = "RFC 3463"
_AUTH: Final = "RFC 4954, 6"
_GMAIL: Final = "Gmail SMTP errors and codes"
_EXCHANGE: Final = "Exchange Online, non-delivery codes"

TAKEN: Final = Verdict(
    outcome=Outcome.ACCEPTED, meaning="the server took the mail", cure="nothing", source=_SMTP
)  # fmt: skip
NONSENSE: Final = Verdict(
    outcome=Outcome.DEFERRED,
    meaning="the server's reply has no meaning at this point",
    cure="look at what answers at this host and port",
    source=_SMTP,
)
CLOSING: Final = Verdict(
    outcome=Outcome.DEFERRED,
    meaning="the server closes the session or refuses to talk",
    cure="nothing: tried again; if it lasts, ask who runs the server",
    source=_SMTP,
)
PASSING: Final = Verdict(
    outcome=Outcome.DEFERRED, meaning="the server has a passing trouble", cure="nothing: tried again", source=_SMTP
)
PASSING_FOR_ONE: Final = Verdict(
    outcome=Outcome.DEFERRED,
    meaning="this recipient cannot be served now: busy, full, too much mail, or greylisted",
    cure="nothing: tried again",
    source=_ENHANCED_CODES,
    scope=Scope.MESSAGE,
)
SLOWER: Final = Verdict(
    outcome=Outcome.THROTTLED, meaning="too much, too fast", cure="lower the provider's rate", source=_ENHANCED_CODES
)
BLOCKED: Final = Verdict(
    outcome=Outcome.THROTTLED,
    meaning="an unusual rate of mail from this account or address",
    cure="lower the provider's rate, look at what is sent",
    source=_GMAIL,
    wait_s=HOUR_S,
)
DAILY: Final = Verdict(
    outcome=Outcome.THROTTLED,
    meaning="the quota of 24 hours is used up",
    cure="wait, or let other providers carry more",
    source=_GMAIL,
    wait_s=4 * HOUR_S,
)
LOGINS: Final = Verdict(
    outcome=Outcome.THROTTLED,
    meaning="too many logins",
    cure="lower the provider's concurrency",
    source=_GMAIL,
    wait_s=60.0,
)
TOO_MANY_AT_ONCE: Final = Verdict(
    outcome=Outcome.DEFERRED,
    meaning="the server takes fewer recipients in one transaction",
    cure="nothing: copies go in further transactions",
    source=_ENHANCED_CODES,
    scope=Scope.MESSAGE,
)
LOGIN_LATER: Final = Verdict(
    outcome=Outcome.DEFERRED,
    meaning="the server cannot check credentials now",
    cure="nothing: tried again in a minute",
    source=_AUTH,
    wait_s=60.0,
)
LOGIN_REFUSED: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the server does not accept these credentials, or wants others",
    cure="check credentials; Gmail wants an app password",
    source=_AUTH,
)
LOGIN_WANTED: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the server wants TLS or a login first",
    cure="set tls and credentials of the provider",
    source=_AUTH,
)
SENDER_REFUSED: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the sender's address is refused",
    cure="use a sender that the account may send from",
    source=_ENHANCED_CODES,
    names=frozenset({"sender"}),
)
UNPROVEN: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the sender's domain does not prove that this mail is its own (SPF, DKIM, DMARC, reverse DNS)",
    cure="mend the domain's DNS records, or use a sender whose domain allows this server",
    source=_GMAIL,
    names=frozenset({"sender"}),
)
NO_POINTER: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="our address has no name in the DNS that leads back to it",
    cure="set the PTR record of the address that mail leaves from, or use a relay",
    source=_GMAIL,
)
NO_RELAY: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the server does not relay for us",
    cure="log in, or ask who runs the server to allow it",
    source=_SMTP,
)
MISUNDERSTOOD: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the server does not take the command",
    cure="check host, port, tls and ehlo_name of the provider",
    source=_SMTP,
)
NO_SUCH_RECIPIENT: Final = Verdict(
    outcome=Outcome.REJECTED,
    meaning="there is no such mailbox or domain, or it takes no mail",
    cure="correct the address, or remove it; nothing is sent to it again until its suppression is lifted",
    source=_ENHANCED_CODES,
    suppress=SuppressionReason.BOUNCE,
)
RECIPIENT_REFUSED: Final = Verdict(
    outcome=Outcome.REJECTED,
    meaning="the recipient's address is refused: malformed, moved, disabled, or taking no mail",
    cure="correct the address, or remove it",
    source=_ENHANCED_CODES,
)
MAILBOX_FULL: Final = Verdict(
    outcome=Outcome.REJECTED, meaning="the mailbox is full", cure="ask the recipient", source=_ENHANCED_CODES
)
TOO_LARGE: Final = Verdict(
    outcome=Outcome.REJECTED,
    meaning="the mail is too large",
    cure="send fewer or smaller attachments",
    source=_ENHANCED_CODES,
)
CONTENT_REFUSED: Final = Verdict(
    outcome=Outcome.REJECTED,
    meaning="the content is refused: malformed, forbidden, or taken for spam",
    cure="read the server's text, change the mail",
    source=_ENHANCED_CODES,
)
REFUSED: Final = Verdict(
    outcome=Outcome.REJECTED,
    meaning="the server refuses this mail for good",
    cure="read the server's text, correct the message",
    source=_SMTP,
)


# ----------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class _When:
    """Writes rows: `_When("550", "5.4.5").then(DAILY)`. Codes are parted by blanks; words are a regular expression that
    begins at a word's beginning, in any case."""

    codes: str = ""
    enhanced: str = ""
    stages: frozenset[Stage] = field(default=frozenset())
    words: str = ""

    def then(self, verdict: Verdict, source: str | None = None) -> Row:
        return Row(
            verdict=verdict if source is None else replace(verdict, source=source),
            codes=frozenset(code for word in self.codes.split() for code in _codes(word)),
            enhanced=tuple(self.enhanced.split()),
            stages=self.stages,
            words=re.compile(rf"\b(?:{self.words})", re.IGNORECASE) if self.words else None,
        )


def _codes(word: str) -> range:
    """`550`, or `5xx` for a whole class."""
    return (
        range(int(word[0]) * 100, int(word[0]) * 100 + 100) if word.endswith("xx") else range(int(word), int(word) + 1)
    )


_SETTING_UP: Final = frozenset({Stage.GREETING, Stage.HELLO, Stage.TLS})
_LOGIN: Final = frozenset({Stage.LOGIN})
_SENDER: Final = frozenset({Stage.SENDER})
_RECIPIENT: Final = frozenset({Stage.RECIPIENT})
_LETTER: Final = frozenset({Stage.RECIPIENT, Stage.CONTENT, Stage.END})
_TOO_FAST: Final = "rate|too many|limit"

ROWS: Final[tuple[Row, ...]] = (
    _When("2xx").then(TAKEN),
    # Limits, wherever they are met.
    _When("450", "4.2.1", words="relay limit").then(SLOWER),
    _When("4xx", "4.7.", stages=_LOGIN, words=_TOO_FAST).then(LOGINS),
    _When("421", "4.7.28").then(SLOWER),
    _When("5xx", "5.4.5").then(DAILY),
    _When("5xx", "5.1.90").then(DAILY, _EXCHANGE),
    _When("5xx", "5.7.28").then(BLOCKED),
    _When("4xx", "4.7.", words=_TOO_FAST).then(SLOWER),
    _When("432", "4.3.2").then(SLOWER, _EXCHANGE),
    # A server that will not even talk is in trouble, whatever number it says.
    _When("4xx 5xx", stages=frozenset({Stage.GREETING})).then(CLOSING),
    _When("4xx", stages=_SETTING_UP).then(PASSING),
    _When("5xx", stages=_SETTING_UP).then(MISUNDERSTOOD),
    _When("454", "4.7.0").then(LOGIN_LATER),
    _When("4xx", stages=_LOGIN).then(LOGIN_LATER),
    _When("421").then(CLOSING),
    _When("5xx", "5.7.4 5.7.8 5.7.9 5.7.14").then(LOGIN_REFUSED),
    _When("534 535").then(LOGIN_REFUSED),
    _When("5xx", stages=_LOGIN).then(LOGIN_REFUSED),
    _When("530 538").then(LOGIN_WANTED),
    _When("5xx", "5.7.57").then(LOGIN_WANTED, _EXCHANGE),
    # Passing troubles.
    _When("4xx", "4.1.7 4.1.8").then(PASSING),
    _When("452", "4.5.3").then(TOO_MANY_AT_ONCE),
    _When("4xx", "4.1. 4.2.").then(PASSING_FOR_ONE),
    _When("4xx", "4.7.", stages=_RECIPIENT).then(PASSING_FOR_ONE),
    _When("4xx", "4.").then(PASSING),
    _When("450", stages=_RECIPIENT).then(PASSING_FOR_ONE),
    _When("4xx").then(PASSING),
    # The sender.
    _When("5xx", "5.1.8").then(SENDER_REFUSED),
    _When("5xx", "5.7.60 5.2.252").then(SENDER_REFUSED, _EXCHANGE),
    _When("5xx", "5.7.1 5.1.", stages=_SENDER).then(SENDER_REFUSED),
    _When("5xx", words="sender address rejected|not owned by user").then(SENDER_REFUSED),
    _When("5xx", "5.7.1 5.7.0", words="relay").then(NO_RELAY),
    _When("5xx", "5.7.64").then(NO_RELAY, _EXCHANGE),
    _When("5xx", "5.7.26 5.7.27 5.7.30").then(UNPROVEN),
    _When("5xx", "5.7.25").then(NO_POINTER),
    _When("550", "5.7.0").then(UNPROVEN),
    # The recipient.
    _When("5xx", "5.1.1 5.1.2 5.1.10", stages=_LETTER).then(NO_SUCH_RECIPIENT),
    _When("521 556", stages=_LETTER).then(RECIPIENT_REFUSED),
    _When("521 556").then(MISUNDERSTOOD),
    _When("5xx", "5.1. 5.2.1").then(RECIPIENT_REFUSED),
    _When("5xx", "5.2.2").then(MAILBOX_FULL),
    # The content.
    _When("5xx", "5.2.3 5.3.4").then(TOO_LARGE),
    _When("552", "5.7.0").then(CONTENT_REFUSED),
    _When("5xx", "5.6.").then(CONTENT_REFUSED),
    _When("554", "5.7.0", words="too many unauthenticated").then(LOGIN_WANTED, _GMAIL),
    _When("5xx", "5.7.1", stages=_LETTER).then(CONTENT_REFUSED),
    _When("5xx", "5.4.6").then(REFUSED),
    # By the three digits.
    _When("555").then(REFUSED),
    _When("500 501 502 503 504", stages=_LETTER).then(REFUSED),
    _When("500 501 502 503 504").then(MISUNDERSTOOD),
    _When("5xx", "5.5.", stages=_LETTER).then(REFUSED),
    _When("5xx", "5.5.").then(MISUNDERSTOOD),
    _When("550 553", stages=_SENDER).then(SENDER_REFUSED),
    _When("550 551 554", words="relay").then(NO_RELAY),
    _When("550 551 553", stages=_RECIPIENT).then(RECIPIENT_REFUSED),
    _When("552", stages=_RECIPIENT).then(MAILBOX_FULL),
    _When("552", stages=_LETTER).then(TOO_LARGE),
    _When("5xx").then(REFUSED),
)

# Gmail says 421 4.7.0 to a rate that it finds unusual, whatever the text, and 5.7.1 to many things.
GMAIL_ROWS: Final[tuple[Row, ...]] = (
    _When("421", "4.7.0", stages=_LOGIN).then(LOGINS),
    _When("421", "4.7.0").then(SLOWER, _GMAIL),
    _When("550", "5.7.1", words="email quota exceeded|daily .* limit exceeded").then(DAILY),
)
