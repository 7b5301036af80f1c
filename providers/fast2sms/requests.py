"""What Fast2SMS is asked, and what it never could be. Pure.

Source: Fast2SMS developer API: `POST /dev/bulkV2` (one text, one or many numbers), `POST /dev/custom` (many texts, on
the DLT routes), `POST /dev/wallet`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, assert_never

import orjson

from heliograph.actors.model.attempt import ProviderCall
from heliograph.actors.model.message import Message, Priority, SmsContent
from heliograph.actors.policy.gsm import Encoding, segments
from heliograph.providers.fast2sms.templates import HEADER, MESSAGE_ID, VARIABLE, Template, is_value
from heliograph.providers.mime import Unsendable
from heliograph.providers.wire import WireRequest

SEND: Final = "/dev/bulkV2"
SEND_SEVERAL: Final = "/dev/custom"
WALLET: Final = "/dev/wallet"
LONGEST_VARIABLE: Final = 40

_MOBILE: Final = re.compile(r"\+91([6-9][0-9]{9})")
_CODE: Final = re.compile(r"[0-9]{1,10}")


class Route(StrEnum):
    AUTO = "auto"
    DLT = "dlt"
    DLT_MANUAL = "dlt_manual"
    QUICK = "q"
    OTP = "otp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast2SmsAccount:
    """`templates` by what messages may name them by, on either DLT route; it need not know them all."""

    api_key: str = field(repr=False)
    prefix: str = ""
    route: Route = Route.AUTO
    sender: str | None = None
    entity_id: str | None = None
    flash: bool = False
    templates: Mapping[str, Template] = field(default_factory=dict)
    longest_variable: int = LONGEST_VARIABLE


# ------------------------------------------------------------------------------------------ what can be asked


def route_of(content: SmsContent, account: Fast2SmsAccount) -> Route:
    if account.route is not Route.AUTO:
        return account.route
    return Route.DLT_MANUAL if content.dlt_template_id else Route.QUICK


def impediment(message: Message, account: Fast2SmsAccount) -> str | None:
    """A word on why the route could never carry it; None where it can."""
    content = message.content
    if not isinstance(content, SmsContent):
        return "channel"
    if national(message.to) is None:
        return "country"
    match route_of(content, account):
        case Route.OTP:
            return None if one_time_code(content) else "otp_digits"
        case Route.DLT:
            fault = _number_fault(content, account) or _variables_fault(content, account)
            return fault or _sender_fault(content, account)
        case Route.DLT_MANUAL:
            return _text_fault(content, account) or _sender_fault(content, account)
        case Route.QUICK | Route.AUTO:
            return None
        case _ as never:
            assert_never(never)


def is_tight(content: SmsContent, account: Fast2SmsAccount, longest: int) -> bool:
    """Whether what fits its template would not, were a variable to hold no more than `longest`."""
    match route_of(content, account):
        case Route.DLT:
            return not all(is_value(value, longest) for value in content.dlt_variables)
        case Route.DLT_MANUAL:
            template = template_of(content, account)
            return template is not None and not template.fits(content.text, longest)
        case Route.QUICK | Route.AUTO | Route.OTP:
            return False
        case _ as never:
            assert_never(never)


def likeness(message: Message, account: Fast2SmsAccount) -> Hashable | None:
    """What messages that share a call have in common: the text on `q`, the route on the DLT ones."""
    content = message.content
    if not isinstance(content, SmsContent) or message.priority is Priority.URGENT:
        return None
    match route := route_of(content, account):
        case Route.OTP:
            return None
        case Route.DLT | Route.DLT_MANUAL:
            return route
        case Route.QUICK | Route.AUTO:
            return route, content.text
        case _ as never:
            assert_never(never)


def national(number: str) -> str | None:
    """The ten digits of an Indian mobile in E.164; None for any other number."""
    match = _MOBILE.fullmatch(number)
    return match[1] if match else None


def one_time_code(content: SmsContent) -> str | None:
    """What the OTP route sends: the only variable, or a text of nothing but digits."""
    wanted = content.dlt_variables[0] if len(content.dlt_variables) == 1 else content.text.strip()
    return wanted if _CODE.fullmatch(wanted) else None


def template_of(content: SmsContent, account: Fast2SmsAccount) -> Template | None:
    return account.templates.get(content.dlt_template_id or "")


def _sender_fault(content: SmsContent, account: Fast2SmsAccount) -> str | None:
    return None if HEADER.fullmatch(_sender(content, account)) else "sender"


def _number_fault(content: SmsContent, account: Fast2SmsAccount) -> str | None:
    return None if MESSAGE_ID.fullmatch(_message_id(content, account)) else "dlt_template"


def _variables_fault(content: SmsContent, account: Fast2SmsAccount) -> str | None:
    values, template = content.dlt_variables, template_of(content, account)
    longest = account.longest_variable
    fit = all(is_value(value, longest) for value in values) if template is None else template.takes(values, longest)
    return None if fit else "dlt_variables"


def _text_fault(content: SmsContent, account: Fast2SmsAccount) -> str | None:
    """Variables are not sent on `dlt_manual`, but who gives too few has not filled in the text."""
    if VARIABLE.search(content.text):
        return "dlt_text"
    template = template_of(content, account)
    if template is None:
        return None
    if content.dlt_variables and not template.takes(content.dlt_variables, account.longest_variable):
        return "dlt_variables"
    return None if template.fits(content.text, account.longest_variable) else "dlt_text"


# ---------------------------------------------------------------------------------------------- what is asked


def request(calls: Sequence[ProviderCall], account: Fast2SmsAccount) -> WireRequest:
    """For calls that are alike (`likeness`) and to different numbers. Raises Unsendable."""
    shares = [(_content(call), _number(call)) for call in calls]
    route = route_of(shares[0][0], account)
    bodies = [_fields(route, content, account) for content, _ in shares]
    numbers = [number for _, number in shares]
    if any(body != bodies[0] for body in bodies):
        entries = [{**body, "numbers": number} for body, number in zip(bodies, numbers, strict=True)]
        return _several(route, entries, account)
    body = {"route": route.value, **bodies[0], "numbers": ",".join(numbers), "sms_details": "1"}
    if account.flash:
        body["flash"] = "1"
    if len(calls) == 1:
        body["udf1"] = calls[0].attempt_id  # comes back in receipts; a shared call has no place for several
    return _call(SEND, account, body)


def probe(account: Fast2SmsAccount) -> WireRequest:
    return _call(WALLET, account, {})


def _several(route: Route, entries: Sequence[Mapping[str, str]], account: Fast2SmsAccount) -> WireRequest:
    flash = int(account.flash)
    requests = [{**entry, "flash": flash} for entry in entries]
    return _call(SEND_SEVERAL, account, {"route": route.value, "requests": requests})


def _call(path: str, account: Fast2SmsAccount, body: object) -> WireRequest:
    headers = (
        ("authorization", account.api_key),
        ("accept", "application/json"),
        ("content-type", "application/json"),
    )
    return WireRequest(method="POST", target=account.prefix + path, headers=headers, body=orjson.dumps(body))


def _content(call: ProviderCall) -> SmsContent:
    content = call.message.content
    if not isinstance(content, SmsContent):
        raise Unsendable("a mail is no SMS")
    return content


def _number(call: ProviderCall) -> str:
    number = national(call.message.to)
    if number is None:
        raise Unsendable("to: no Indian mobile")
    return number


def _fields(route: Route, content: SmsContent, account: Fast2SmsAccount) -> dict[str, str]:
    match route:
        case Route.OTP:
            return {"variables_values": one_time_code(content) or ""}
        case Route.DLT:
            values = "".join(f"{value}|" for value in content.dlt_variables)
            number = _message_id(content, account)
            return {"sender_id": _sender(content, account), "message": number, "variables_values": values}
        case Route.DLT_MANUAL:
            ids = {"template_id": content.dlt_template_id, "entity_id": content.dlt_entity_id or account.entity_id}
            given = {name: value for name, value in ids.items() if value}
            return {"sender_id": _sender(content, account), "message": content.text, **given}
        case Route.QUICK | Route.AUTO:
            unicode = segments(content.text).encoding is Encoding.UCS2
            return {"message": content.text, "language": "unicode" if unicode else "english"}
        case _ as never:
            assert_never(never)


def _sender(content: SmsContent, account: Fast2SmsAccount) -> str:
    template = template_of(content, account)
    return content.sender_id or (template and template.sender) or account.sender or ""


def _message_id(content: SmsContent, account: Fast2SmsAccount) -> str:
    """The number in the DLT manager: of the known template, or as the message itself names it."""
    template = template_of(content, account)
    return (template and template.message_id) or content.dlt_template_id or ""
