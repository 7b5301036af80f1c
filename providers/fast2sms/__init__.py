"""Fast2SMS, India: `POST /dev/bulkV2` by one of its routes.

`dlt_manual` sends the final text of a template registered with the operators, `dlt` a template's number at Fast2SMS and
its variables, `q` any text over international lines, `otp` a fixed text around digits. `auto` takes dlt_manual for
messages that name a template, else q. Messages of one text may share a call: it has one yes or no, and one request id.

`return` decides, not the HTTP status: a refusal can come with 200. There is no idempotency and no look-up.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.message import Channel, Message, Priority, SmsContent
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.gsm import Encoding, segments
from heliograph.providers.http import (
    PUT_BACK,
    UNREADABLE,
    HttpCourier,
    by_status,
    explainer,
    parse,
    retry_after_s,
    table,
    word,
)
from heliograph.providers.kinds import Kind, Option, chosen, fault, one_of, text
from heliograph.providers.mime import Unsendable
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import Transport, WireAnswer, WireRequest

BASE_URL: Final = "https://www.fast2sms.com"
SEND: Final = "/dev/bulkV2"
WALLET: Final = "/dev/wallet"
LIST: Final = "Fast2SMS developer API, list of error codes"
FIELD: Final = "Fast2SMS, seen in the field"
SAME: Final = "the call held this text for this number already"


class Route(StrEnum):
    AUTO = "auto"
    DLT = "dlt"
    DLT_MANUAL = "dlt_manual"
    QUICK = "q"
    OTP = "otp"


def _bad(meaning: str, cure: str, *, source: str = LIST) -> Verdict:
    return Verdict(outcome=Outcome.REJECTED, meaning=meaning, cure=cure, source=source)


def _own(meaning: str, cure: str, *names: str) -> Verdict:
    return Verdict(outcome=Outcome.MISCONFIGURED, meaning=meaning, cure=cure, source=LIST, names=frozenset(names))


_KEY: Final = "take a valid key from the Dev API page into credentials.api_key"
_ROUTE: Final = "correct options.route, or have the account admitted to the route"
TAKEN: Final = Verdict(outcome=Outcome.ACCEPTED, meaning="Fast2SMS took the message", cure="nothing", source=LIST)
REFUSED: Final = _bad("Fast2SMS refuses it with a code that its list does not have", "read the text", source=FIELD)

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
    416: _own("the wallet is empty", "recharge the wallet"),
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
OF_ONE_MESSAGE: Final = frozenset({"407", "411", "417", "424", "425", "426", "427", "500"})
"""Refusals of a shared call that may be one message's alone."""

_MOBILE: Final = re.compile(r"\+91([6-9][0-9]{9})")
_HEADER: Final = re.compile(r"[A-Za-z]{3,6}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast2SmsAccount:
    api_key: str = field(repr=False)
    prefix: str = ""
    route: Route = Route.AUTO
    sender: str | None = None
    entity_id: str | None = None


# -------------------------------------------------------------------------------------------------- writing


def route_of(content: SmsContent, account: Fast2SmsAccount) -> Route:
    if account.route is not Route.AUTO:
        return account.route
    return Route.DLT_MANUAL if content.dlt_template_id else Route.QUICK


def refusal(message: Message, account: Fast2SmsAccount) -> str | None:
    """A word on why the route could never carry it."""
    content = message.content
    if not isinstance(content, SmsContent):
        return "channel"
    if national(message.to) is None:
        return "country"
    match route_of(content, account):
        case Route.OTP:
            return None if one_time_code(content) else "otp_digits"
        case Route.DLT if not content.dlt_template_id:
            return "dlt_template"
        case Route.DLT if any("|" in value for value in content.dlt_variables):
            return "dlt_variables"
        case Route.DLT | Route.DLT_MANUAL if not (content.sender_id or account.sender):
            return "sender"
        case _:
            return None


def request(calls: Sequence[ProviderCall], account: Fast2SmsAccount) -> WireRequest:
    """All calls are alike (`likeness`) and for different numbers. Raises Unsendable."""
    content = calls[0].message.content
    if not isinstance(content, SmsContent):
        raise Unsendable("a mail is no SMS")
    numbers = [national(call.message.to) for call in calls]
    if None in numbers:
        raise Unsendable("to: no Indian mobile")
    route = route_of(content, account)
    body = {
        "route": route.value,
        **_fields(route, content, account),
        "numbers": ",".join(number for number in numbers if number),
        "sms_details": "1",
    }
    if len(calls) == 1:
        body["udf1"] = calls[0].attempt_id  # comes back in reports; a shared call has no place for several
    return _call(SEND, account, orjson.dumps(body))


def probe(account: Fast2SmsAccount) -> WireRequest:
    return _call(WALLET, account, b"{}")


def national(number: str) -> str | None:
    """The ten digits of an Indian mobile in E.164; None for any other number."""
    match = _MOBILE.fullmatch(number)
    return match[1] if match else None


def one_time_code(content: SmsContent) -> str | None:
    """What the OTP route sends: the only variable, or a text of nothing but digits."""
    wanted = content.dlt_variables[0] if len(content.dlt_variables) == 1 else content.text.strip()
    return wanted if _DIGITS.fullmatch(wanted) else None


def _call(path: str, account: Fast2SmsAccount, body: bytes) -> WireRequest:
    headers = (
        ("authorization", account.api_key),
        ("accept", "application/json"),
        ("content-type", "application/json"),
    )
    return WireRequest(method="POST", target=account.prefix + path, headers=headers, body=body)


def _fields(route: Route, content: SmsContent, account: Fast2SmsAccount) -> dict[str, str]:
    sender = content.sender_id or account.sender or ""
    match route:
        case Route.OTP:
            return {"variables_values": one_time_code(content) or ""}
        case Route.DLT:
            values = "".join(f"{value}|" for value in content.dlt_variables)
            return {"sender_id": sender, "message": content.dlt_template_id or "", "variables_values": values}
        case Route.DLT_MANUAL:
            ids = {"template_id": content.dlt_template_id, "entity_id": content.dlt_entity_id or account.entity_id}
            given = {name: value for name, value in ids.items() if value}
            return {"sender_id": sender, "message": content.text, **given}
        case _:
            unicode = segments(content.text).encoding is Encoding.UCS2
            return {"message": content.text, "language": "unicode" if unicode else "english"}


# -------------------------------------------------------------------------------------------------- reading


def judge(answer: WireAnswer) -> Finding:
    """What an answer means for the call as a whole."""
    body = table(parse(answer.body)) if answer.whole else {}
    detail = _said(body.get("message"))
    said_yes = body.get("return") is True or (word(body.get("return")) or "").lower() == "true"
    if 200 <= answer.status < 300:
        if said_yes:
            return Finding(verdict=TAKEN, provider_message_id=word(body.get("request_id")))
        if "return" not in body:
            return by_status(answer, detail)
    elif not 400 <= answer.status < 500 or answer.status in (408, 425, 429):
        return by_status(answer, detail)
    elif said_yes:
        return Finding(verdict=UNREADABLE, code=str(answer.status), detail=detail)
    code = word(body.get("status_code")) or ""
    if code.isdecimal() and len(code) <= 4 and int(code) in CODES:
        return Finding(verdict=CODES[int(code)], code=code, detail=detail, retry_after_s=retry_after_s(answer))
    if answer.status in (200, 400) and "return" in body:
        return Finding(verdict=REFUSED, code=code[:20] or str(answer.status), detail=detail)
    return by_status(answer, detail)


def wallet(answer: WireAnswer) -> Finding:
    """What the balance call says; a bad key shows here as on sending."""
    finding = judge(answer)
    if finding.verdict is not TAKEN:
        return finding
    balance = word(table(parse(answer.body)).get("wallet"))
    return Finding(verdict=TAKEN, detail=f"wallet {balance} INR")


explain = explainer(judge)


def _said(message: object) -> str | None:
    """A text on failure, a list of texts on success, and sometimes the other way round."""
    if isinstance(message, list):
        return "; ".join(part for entry in message[:20] if (part := word(entry))) or None
    return word(message)


def _named(message: Message) -> frozenset[str]:
    content = message.content
    if not isinstance(content, SmsContent):
        return frozenset()
    given = {"sender": content.sender_id, "template": content.dlt_template_id}
    return frozenset(name for name, value in given.items() if value)


# -------------------------------------------------------------------------------------------------- courier


class Fast2SmsCourier(HttpCourier):
    def __init__(self, settings: ProviderSettings, transport: Transport | None = None) -> None:
        api_key = settings.credentials["api_key"]
        super().__init__(settings, BASE_URL, [api_key], transport)
        route = Route(chosen(settings, "route", str) or Route.AUTO)
        if route in (Route.DLT, Route.DLT_MANUAL) and settings.sender and not _HEADER.fullmatch(settings.sender):
            raise fault(settings, "sender", "on a DLT route it is a header of 3 to 6 letters")
        self.account = Fast2SmsAccount(
            api_key=api_key,
            prefix=self.base.prefix,
            route=route,
            sender=settings.sender,
            entity_id=chosen(settings, "entity_id", str),
        )

    def takes(self, message: Message) -> str | None:
        return refusal(message, self.account)

    def likeness(self, message: Message) -> Hashable | None:
        content = message.content
        if not isinstance(content, SmsContent) or message.priority is Priority.URGENT:
            return None
        route = route_of(content, self.account)
        return None if route is Route.OTP else (route, content)

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        return request(list(_firsts(calls).values()), self.account)

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        finding = judge(answer)
        firsts = _firsts(calls)
        if len(firsts) > 1 and finding.code in OF_ONE_MESSAGE:
            return self.put_back(calls, finding, alone=True)
        twins = [call for call in calls if firsts[call.message.to] is not call]
        again = iter(self.put_back(twins, Finding(verdict=PUT_BACK, code="same_number", detail=SAME), alone=True))
        return [
            finding.answer(_named(call.message)) if firsts[call.message.to] is call else next(again) for call in calls
        ]

    def probe(self) -> WireRequest:
        return probe(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return wallet(answer)


def _firsts(calls: Sequence[ProviderCall]) -> dict[str, ProviderCall]:
    """The first call for each number: twice in one list, a number might get the text once."""
    firsts: dict[str, ProviderCall] = {}
    for call in calls:
        firsts.setdefault(call.message.to, call)
    return firsts


KIND: Final = Kind(
    channels=frozenset({Channel.SMS}),
    courier=Fast2SmsCourier,
    explain=explain,
    credentials=(("api_key",),),
    options={
        "route": Option(
            parse=one_of(*Route),
            about="auto | dlt | dlt_manual | q | otp; auto: dlt_manual for messages with a template, else q",
            default="auto",
        ),
        "entity_id": Option(parse=text, about="the DLT principal entity, for messages that name none"),
    },
    base_url=BASE_URL,
    rate=10,
    batch=1000,  # nothing is published; a hundred is wise, since the call is taken or refused as a whole
)
