"""What Fast2SMS' answers mean. Pure, and total: whatever came becomes a Finding.

`return` decides, not the HTTP status: a refusal can come with 200. It is `{"return": false, "status_code", "message"}`,
a success `{"return": true, "request_id", "message"}`; `message` is a text or a list of texts in either. A call has one
answer for all its numbers. Source: Fast2SMS developer API, list of error codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.message import Message, SmsContent
from heliograph.providers.http import UNREADABLE, by_status, explainer, parse, retry_after_s, table, word
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import WireAnswer

LIST: Final = "Fast2SMS developer API, list of error codes"
FIELD: Final = "Fast2SMS, seen in the field"


def _bad(meaning: str, cure: str, *, source: str = LIST) -> Verdict:
    return Verdict(outcome=Outcome.REJECTED, meaning=meaning, cure=cure, source=source)


def _own(meaning: str, cure: str, *names: str) -> Verdict:
    return Verdict(outcome=Outcome.MISCONFIGURED, meaning=meaning, cure=cure, source=LIST, names=frozenset(names))


_KEY: Final = "take a valid key from the Dev API page into credentials.api_key"
_ROUTE: Final = "correct options.route, or have the account admitted to the route"
TAKEN: Final = Verdict(outcome=Outcome.ACCEPTED, meaning="Fast2SMS took the message", cure="nothing", source=LIST)
REFUSED: Final = _bad("Fast2SMS refuses it with a code that its list does not have", "read the text", source=FIELD)
EMPTY: Final = _own("the wallet is empty", "recharge the wallet")

CODES: Final[Mapping[int, Verdict]] = {
    401: _own("the sender id is missing", "set sender"),
    402: _bad("the text is missing", "give the message a text"),
    403: _own("the route is missing", _ROUTE),
    404: _own("the language is missing", "report it: the language is ours to set"),
    405: _bad("the number is missing", "give the message a recipient"),
    406: _own("the sender id is not valid", "set sender to a header of 3 to 6 letters that DLT knows", "sender"),
    407: _bad("the text holds forbidden words", "change the text"),
    408: _own("the route is not valid", _ROUTE),
    409: _own("the account may not use this route", _ROUTE),
    410: _own("the language is not valid", "report it: the language is ours to set"),
    411: _bad("the number is not valid", "correct the recipient"),
    412: _own("the API key is not valid", _KEY),
    413: _own("the API key is disabled", _KEY),
    414: _own("this address is not on the account's list", "allow this machine's address in the Dev API settings"),
    415: _own("the account is disabled", "ask Fast2SMS"),
    416: EMPTY,
    417: _bad("letters outside English without language unicode", "report it: the language is ours to set"),
    424: _own("the template's message id is not valid", "use the number from the DLT manager", "template"),
    425: _bad("the text does not match the template", "send the template's own words, to the letter"),
    426: _bad("a link in the variables is not allowed", "leave the link out, or register it with DLT"),
    427: _bad("the number is on Fast2SMS' do-not-disturb list", "use another route or provider", source=FIELD),
    500: _own("the template or the sender id is blocked at DLT", "clear it on the DLT platform", "sender", "template"),
    990: _own("the old API was called", "correct base_url"),
    995: Verdict(
        outcome=Outcome.DEFERRED,
        meaning="the same text went to this number a moment ago",
        cure="nothing: tried again in some minutes",
        source=LIST,
        scope=Scope.MESSAGE,
        wait_s=300,
    ),
    996: _own("the OTP route wants a verified account (KYC)", "complete KYC, or take another route"),
    997: _bad("the OTP route takes digits only", "send digits, or take another route"),
    998: _own("the OTP route takes one number a call", "set batch to 1"),
    999: _own("the account was never charged with 100 INR", "recharge the wallet"),
}

# The names inside `sms_details` have changed before; of what is there, numbers and prices are told.
_TOLD: Final = re.compile(r"(?=[a-z_]{3,40}$).*(?:count|rate|debit|cost|language|credit|price)", re.IGNORECASE)


def judge(answer: WireAnswer) -> Finding:
    """What an answer means for the call as a whole."""
    body = _body(answer)
    detail = _said(body.get("message"))
    said_yes = body.get("return") is True or (word(body.get("return")) or "").lower() == "true"
    if 200 <= answer.status < 300:
        if said_yes:
            (identifier,) = request_ids(answer, 1)
            return Finding(verdict=TAKEN, provider_message_id=identifier, detail=_details(body.get("sms_details")))
        if "return" not in body:
            return by_status(answer, detail)
    elif not 400 <= answer.status < 500 or answer.status in (408, 425, 429):
        return by_status(answer, detail)
    elif said_yes:
        return Finding(verdict=UNREADABLE, code=str(answer.status), detail=detail)
    code = word(body.get("status_code")) or ""
    if re.fullmatch(r"[0-9]{1,4}", code) and int(code) in CODES:
        return Finding(verdict=CODES[int(code)], code=code, detail=detail, retry_after_s=retry_after_s(answer))
    if answer.status in (200, 400) and "return" in body:
        return Finding(verdict=REFUSED, code=code[:20] or str(answer.status), detail=detail)
    return by_status(answer, detail)


def request_ids(answer: WireAnswer, entries: int) -> list[str | None]:
    """The request id of each entry of a call: one for all of them, or a list of as many. None where there is none."""
    given = _body(answer).get("request_id")
    each = given if isinstance(given, list) else [given]
    if len(each) == entries:
        return [word(identifier) for identifier in each]
    return [word(each[0]) if len(each) == 1 else None] * entries


def is_of_one(finding: Finding, messages: Sequence[Message]) -> bool:
    """Whether the refusal of a shared call may be for one message's sake: it is about a message at all (995 is, too),
    or about what one of them named."""
    verdict = finding.verdict
    if verdict.outcome is Outcome.REJECTED or verdict.scope is Scope.MESSAGE:
        return True
    return any(verdict.names & named(message) for message in messages)


def named(message: Message) -> frozenset[str]:
    """The parts of a request that come from the message itself."""
    content = message.content
    if not isinstance(content, SmsContent):
        return frozenset()
    given = {"sender": content.sender_id, "template": content.dlt_template_id}
    return frozenset(name for name, value in given.items() if value)


def wallet(answer: WireAnswer) -> Finding:
    """What the balance call says; a bad key shows here as on sending."""
    finding = judge(answer)
    if finding.verdict is not TAKEN:
        return finding
    body = _body(answer)
    rupees = _rupees(body.get("wallet"))
    if rupees is None:
        return Finding(verdict=UNREADABLE, code=str(answer.status), detail="the answer names no wallet")
    count = word(body.get("sms_count"))
    detail = f"wallet {rupees:.2f} INR" + (f", enough for {count} SMS" if count else "")
    if rupees <= 0:
        return Finding(verdict=EMPTY, code="416", detail=f"the wallet is empty: {detail}")
    return Finding(verdict=TAKEN, detail=detail)


explain = explainer(judge)


def _body(answer: WireAnswer) -> Mapping[str, object]:
    return table(parse(answer.body)) if answer.whole else {}


def _said(message: object) -> str | None:
    """A text on failure, a list of texts on success, and sometimes the other way round."""
    if isinstance(message, list):
        return "; ".join(part for entry in message[:20] if (part := word(entry))) or None
    return word(message)


def _details(given: object) -> str | None:
    """`sms_count 1, amount_debited 0.20`: parts and price of the whole call, for people."""
    entry = given[0] if isinstance(given, list) and given else given
    shown = [
        f"{name} {known}"
        for name, value in list(table(entry).items())[:20]
        if _TOLD.match(name) and (known := f"{value:g}" if isinstance(value, float) else word(value))
    ]
    return ", ".join(shown)[:300] or None


def _rupees(value: object) -> Decimal | None:
    text = str(value) if isinstance(value, float) else word(value)
    try:
        rupees = Decimal((text or "").replace(",", ""))
    except InvalidOperation:
        return None
    return rupees if rupees.is_finite() else None
