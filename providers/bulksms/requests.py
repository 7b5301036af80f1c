"""What BulkSMS is asked. Pure. Source: BulkSMS JSON REST API v1, `POST /messages`, `GET /messages`, `GET /profile`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import orjson

from heliograph.actors.model.attempt import ProviderCall
from heliograph.actors.model.message import Message, SmsContent
from heliograph.providers.mime import Unsendable
from heliograph.providers.wire import WireRequest

STANDARD: Final = "STANDARD"
MAX_PARTS: Final = 10
MESSAGES: Final = "/v1/messages"
PROFILE: Final = "/v1/profile"

# BulkSMS fills these in from its own phone book: `{fn}`, `{sn##}`, `{F1###}`.
_TEMPLATE_FIELD: Final = re.compile(r"\{(?:F\d+|fn|sn)#*\}", re.IGNORECASE)
_LONGEST: Final = {"ALPHANUMERIC": 11, "INTERNATIONAL": 15, "SHORTCODE": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSmsAccount:
    authorization: str = field(repr=False)
    prefix: str = ""
    sender: str | None = None
    routing_group: str = STANDARD
    max_parts: int = MAX_PARTS


def submission(calls: Sequence[ProviderCall], account: BulkSmsAccount, deduplication: int) -> WireRequest:
    """Raises Unsendable where a message is no SMS."""
    entries = [_entry(call, account) for call in calls]
    # Without auto-unicode a letter outside the GSM alphabet would arrive as a question mark.
    target = f"{account.prefix}{MESSAGES}?deduplication-id={deduplication}&auto-unicode=true"
    headers = (*_headers(account), ("content-type", "application/json"))
    return WireRequest(method="POST", target=target, headers=headers, body=orjson.dumps(entries))


def lookup(attempt_id: str, account: BulkSmsAccount) -> WireRequest:
    wanted = quote(f"type=SENT&userSuppliedId={attempt_id}", safe="")
    return WireRequest(
        method="GET", target=f"{account.prefix}{MESSAGES}?limit=10&filter={wanted}", headers=_headers(account)
    )


def probe(account: BulkSmsAccount) -> WireRequest:
    return WireRequest(method="GET", target=account.prefix + PROFILE, headers=_headers(account))


def deduplication_id(attempt_ids: Sequence[str]) -> int:
    """31 bits (int32) out of the attempts' ids, so that one call has one id in any process.

    Two calls may meet in it: about n²/2³² for n calls in twelve hours. The second then sends nothing and is answered
    with the first one's messages, which their `userSuppliedId`s betray.
    """
    digest = hashlib.sha256(" ".join(attempt_ids).encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def impediment(message: Message, account: BulkSmsAccount) -> str | None:
    """A word on why BulkSMS could never carry this message; None where it can."""
    content = message.content
    if not isinstance(content, SmsContent):
        return "channel"
    if _TEMPLATE_FIELD.search(content.text):
        return "template_field"
    if message.parts is not None and message.parts > account.max_parts:
        return "parts"
    if content.sender_id is not None and not is_origin(content.sender_id):
        return "sender"
    return None


def origin(sender: str) -> dict[str, str]:
    """A number, a short code or a name, as BulkSMS tells them apart."""
    digits = sender.removeprefix("+")
    if not re.fullmatch(r"[0-9]+", digits):
        return {"type": "ALPHANUMERIC", "address": sender}
    if len(digits) < 7 and digits == sender:
        return {"type": "SHORTCODE", "address": digits}
    return {"type": "INTERNATIONAL", "address": digits}


def is_origin(sender: str) -> bool:
    """Whether it is short enough for what it is."""
    known = origin(sender)
    return len(known["address"]) <= _LONGEST[known["type"]]


def _headers(account: BulkSmsAccount) -> tuple[tuple[str, str], ...]:
    return (("authorization", account.authorization), ("accept", "application/json"))


def _entry(call: ProviderCall, account: BulkSmsAccount) -> dict[str, object]:
    content = call.message.content
    if not isinstance(content, SmsContent):
        raise Unsendable("a mail is no SMS")
    entry: dict[str, object] = {
        "to": [{"type": "INTERNATIONAL", "address": call.message.to.removeprefix("+")}],
        "body": content.text,
        "longMessageMaxParts": account.max_parts,
        "routingGroup": account.routing_group,
        "deliveryReports": "ALL",
        "userSuppliedId": call.attempt_id,
    }
    sender = content.sender_id or account.sender
    if sender is not None:
        entry["from"] = origin(sender)
    return entry
