"""What SendGrid's answers mean. Pure, and total: whatever came becomes a Finding.

A refusal has `{"errors": [{"message", "field", "help"}]}`; field and help may be null or missing, and something in
front of SendGrid answers in words of its own. Source: v3 API reference, mail/send and its errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final

from heliograph.actors.model.attempt import Outcome
from heliograph.providers.http import by_status, clamp_s, explainer, parse, table, word
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import WireAnswer

DOCS: Final = "SendGrid v3 API reference, mail/send and errors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Holds for an answer of this status in which one of the errors has such a field and such a text (both searched
    without regard to case; None: whatever it is, also where no error is named). The first row that holds decides."""

    status: int
    verdict: Verdict
    field: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None
    code: str | None = None  # the status by default

    def holds(self, status: int, errors: Sequence[tuple[str, str]]) -> bool:
        if status != self.status:
            return False
        if self.field is None and self.text is None:
            return True
        return any(_found(self.field, field) and _found(self.text, said) for field, said in errors)


def _found(pattern: re.Pattern[str] | None, text: str) -> bool:
    return pattern is None or pattern.search(text) is not None


def _verdict(outcome: Outcome, meaning: str, cure: str, *, names: frozenset[str] = frozenset()) -> Verdict:
    return Verdict(outcome=outcome, meaning=meaning, cure=cure, source=DOCS, names=names)


def _like(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


TAKEN: Final = _verdict(Outcome.ACCEPTED, "SendGrid took the mail", "nothing")
FAULTY: Final = _verdict(
    Outcome.REJECTED, "SendGrid cannot take the mail as it is", "read the text, correct the message"
)
TOO_LARGE: Final = _verdict(Outcome.REJECTED, "the mail is larger than 30 MB", "send fewer or smaller attachments")
KEY: Final = _verdict(
    Outcome.MISCONFIGURED,
    "the API key is not valid: mistyped, expired or revoked",
    "make a key with the scope mail.send, put it into credentials.api_key",
)
SCOPE: Final = _verdict(
    Outcome.MISCONFIGURED, "the API key may not send", "give the key the scope mail.send, or make another"
)
CREDITS: Final = _verdict(
    Outcome.MISCONFIGURED, "the plan's credits are used up", "buy a larger plan, or wait for the next period"
)
SENDER: Final = _verdict(
    Outcome.MISCONFIGURED,
    "the from address is no verified sender",
    "verify the sender or its domain in SendGrid",
    names=frozenset({"sender"}),
)
OPTIONS: Final = _verdict(
    Outcome.MISCONFIGURED,
    "the account has no such pool or unsubscribe group",
    "correct options.ip_pool or options.unsubscribe_group",
)
ACCOUNT: Final = _verdict(
    Outcome.MISCONFIGURED, "the account or its plan does not allow this", "read the text; look at the account's state"
)
SUSPENDED: Final = _verdict(
    Outcome.MISCONFIGURED, "the account is under review or suspended", "read SendGrid's mail to you, answer it"
)
PLACE: Final = _verdict(Outcome.MISCONFIGURED, "there is no such call at this address", "correct base_url")
MANNER: Final = _verdict(
    Outcome.MISCONFIGURED, "SendGrid refuses how we ask", "correct base_url; a proxy may change headers"
)

ROWS: Final[tuple[Row, ...]] = (
    Row(status=400, field=_like(r"^personalizations"), verdict=FAULTY),
    Row(status=400, field=_like(r"^from"), verdict=SENDER),
    Row(status=400, text=_like(r"\bfrom address\b"), verdict=SENDER),
    Row(status=400, field=_like(r"^(asm|ip_pool_name)"), verdict=OPTIONS),
    Row(status=400, field=_like(r"^$"), text=_like(r"\b(account|plan|credits|subscription)\b"), verdict=ACCOUNT),
    Row(status=400, verdict=FAULTY),
    Row(status=401, text=_like(r"\bcredits\b"), verdict=CREDITS, code="credits"),
    Row(status=401, text=_like(r"\bnot authori[sz]ed\b"), verdict=SCOPE),
    Row(status=401, verdict=KEY),
    Row(status=403, field=_like(r"^from"), verdict=SENDER),
    Row(status=403, text=_like(r"\bfrom address\b|\bsender identity\b"), verdict=SENDER),
    Row(status=403, text=_like(r"\b(under review|suspended|banned|disabled|deactivated)\b"), verdict=SUSPENDED),
    Row(status=403, verdict=ACCOUNT),
    Row(status=404, verdict=PLACE),
    Row(status=405, verdict=PLACE),
    Row(status=406, verdict=MANNER),
    Row(status=413, verdict=TOO_LARGE),
    Row(status=415, verdict=MANNER),
)
"""What is not here (429, 5xx, all else) means what its status means for every provider."""

_CULPRIT: Final = re.compile(r"personalizations[.\[]([0-9]{1,4})\b")


def judge(answer: WireAnswer) -> Finding:
    """What the answer to one mail/send means, for the call as a whole."""
    if answer.status in (200, 202):
        return replace(_taken(answer), retry_after_s=_exhausted_for_s(answer))
    errors = _errors(answer)
    found = by_status(answer, _joined(said for _, said in errors))
    row = next((row for row in ROWS if row.holds(answer.status, errors)), None)
    if row is not None:
        found = replace(found, verdict=row.verdict, code=row.code or found.code)
    if found.retry_after_s is None:
        wait_s = _reset_in_s(answer) if answer.status == 429 else _exhausted_for_s(answer)
        return replace(found, retry_after_s=wait_s)
    return found


def culprits(answer: WireAnswer) -> Mapping[int, str]:
    """The places in the call that a refusal names (`personalizations.17.to.0.email`), and what it says of each."""
    said: dict[int, list[str]] = {}
    for field, text in _errors(answer):
        if (match := _CULPRIT.match(field)) is not None:
            said.setdefault(int(match[1]), []).append(text)
    return {place: _joined(texts) or FAULTY.meaning for place, texts in said.items()}


def scopes(answer: WireAnswer) -> Finding:
    """What the list of the key's scopes says."""
    if answer.status != 200:
        return judge(answer)
    listed = table(parse(answer.body)).get("scopes")
    if not answer.whole or not isinstance(listed, list):
        return by_status(answer)
    if "mail.send" not in listed:
        return Finding(verdict=SCOPE, code="scopes", detail="the key lacks the scope mail.send")
    return Finding(verdict=TAKEN, detail="the key may send")


def credits_left(answer: WireAnswer) -> str | None:
    """The account's balance in words; None where the key may not see it, or it is told in words that we do not know."""
    body = table(parse(answer.body)) if answer.status == 200 and answer.whole else {}
    remain, total = word(body.get("remain")), word(body.get("total"))
    if remain is None:
        return None
    left = f"{remain} credits left" if total is None else f"{remain} of {total} credits left"
    until = word(body.get("next_reset"))
    return f"{left} until {until}" if until else left


explain = explainer(judge)


def _taken(answer: WireAnswer) -> Finding:
    """202, or 200 in sandbox mode: no body, and 202 has the mail's id. A page from something in between is neither."""
    taken = word(answer.headers.get("x-message-id", ""))
    plain = not answer.body.strip() or parse(answer.body) is not None
    if answer.whole and (plain or taken is not None):
        return Finding(verdict=TAKEN, provider_message_id=taken)
    return by_status(answer)


def _errors(answer: WireAnswer) -> list[tuple[str, str]]:
    """(field or "", text) of each error that the body lists."""
    listed = table(parse(answer.body)).get("errors")
    entries = [table(entry) for entry in listed[:1000]] if isinstance(listed, list) else []
    return [(word(e.get("field")) or "", word(e.get("message")) or "") for e in entries]


def _joined(texts: Iterable[str]) -> str | None:
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None


def _exhausted_for_s(answer: WireAnswer) -> float | None:
    """How long the last of this period's calls asks us to stay away."""
    return _reset_in_s(answer) if answer.headers.get("x-ratelimit-remaining", "").strip() == "0" else None


def _reset_in_s(answer: WireAnswer) -> float | None:
    """`X-RateLimit-Reset` is a moment in Unix seconds, by SendGrid's own clock, which `Date` tells."""
    moment = answer.headers.get("x-ratelimit-reset", "").strip()
    if not re.fullmatch(r"[0-9]{1,12}", moment):
        return None
    try:
        now_s = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError, IndexError):
        now_s = answer.at_s
    return clamp_s(int(moment) - now_s)
