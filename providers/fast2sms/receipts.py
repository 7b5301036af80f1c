"""Fast2SMS' webhook: one report a call, as JSON or as a form, in a body that the account's owner edits.

So names are read leniently: any case, with or without `_`, and those of the CleverTap format and of the delivery
report (`/dev/dlr`), whose inner lists are read too. Nothing is signed, so the URL holds a secret. The webhook is
repeated until it is answered well, and its reports come in any order. Source: Fast2SMS developer API, webhooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from heliograph.actors.model.identity import of_attempt
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, Refused, Reports
from heliograph.providers.http import parse, word
from heliograph.providers.kinds import fault, flag
from heliograph.providers.shared_secret import SharedSecret, shared_secret
from heliograph.providers.verdicts import ID_LENGTH, clip

EFFECTS: Final[Mapping[str, Effect]] = {
    "delivered": Effect.DELIVERED,
    "delivrd": Effect.DELIVERED,
    "success": Effect.DELIVERED,
    "failed": Effect.UNDELIVERED,
    "undelivered": Effect.UNDELIVERED,
    "undeliv": Effect.UNDELIVERED,
    "rejected": Effect.UNDELIVERED,
    "expired": Effect.UNDELIVERED,
    "blocked": Effect.UNDELIVERED,
    "sent": Effect.TAKEN,
    "submitted": Effect.TAKEN,
    "pending": Effect.TAKEN,
}
"""By `status`, in small letters; one that is not here changes nothing."""

_STATUS: Final = ("status", "deliverystatus")
_REQUEST: Final = ("requestid", "msgid")
_MOBILE: Final = ("mobile", "recipientid", "phone", "number")
_REASON: Final = ("failurereason", "statusdescription", "description")
_WHEN: Final = ("deliverytimestamp", "timestamp", "senttimestamp")
_LISTS: Final = ("statuses", "deliverystatus", "data")
_MOST_NESTED: Final = 4
_NOTHING: Final[Mapping[str, object]] = {}

_MINE: Final = re.compile(r"(?:\+?91|0)?([6-9][0-9]{9})")
_BLOCKED: Final = re.compile(r"\bdnd\b|do[ -]not[ -]disturb|\bblock(?:ed|list(?:ed)?)?\b", re.IGNORECASE)
_NOT_THE_NUMBER: Final = re.compile(
    r"template|header|sender|entity|content|text|url|link|keyword|\bdlt\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Fast2SmsReceipts:
    """A `ReceiptReader`. `carrier_blocks`: a number that a report calls blocked, or on the do-not-disturb list, is
    suppressed."""

    secret: SharedSecret
    carrier_blocks: bool = True

    def verify(
        self,
        call: ReceiptCall,
        certificates: Mapping[str, str],  # noqa: ARG002 - nothing is signed
    ) -> Genuine | CertificateNeeded | Refused:
        return self.secret.verify(call)

    def read(self, call: ReceiptCall) -> Reports | Refused:
        """Never a refusal: what is refused comes again, and would be no better then."""
        found = [self._receipt(report) for report in _reports(_body(call))]
        receipts = tuple(receipt for receipt in found if receipt is not None)
        return Reports(receipts=receipts, ignored=len(found) - len(receipts))

    def _receipt(self, report: Mapping[str, object]) -> Receipt | None:
        """None for a status that nobody knows, and for a report that names neither an attempt nor a request."""
        status = (_first(report, _STATUS) or "").lower()
        effect = EFFECTS.get(status)
        given = (word(report.get("udf1")) or "").upper()
        attempt_id = given if of_attempt(given) else None
        request_id = clip(_first(report, _REQUEST) or "", ID_LENGTH) or None
        if effect is None or (attempt_id is None and request_id is None):
            return None
        reason = clip(_first(report, _REASON) or "") or None
        return Receipt(
            attempt_id=attempt_id,
            provider_message_id=request_id,
            recipient=_recipient(report),
            effect=effect,
            suppress=self._suppression(effect, reason),
            code=status,
            detail=reason,
            at=_moment(report),
        )

    def _suppression(self, effect: Effect, reason: str | None) -> SuppressionReason | None:
        """A failure alone is none: the phone may have been off. That a template or a header is blocked is not the
        number's fault."""
        if not self.carrier_blocks or effect is not Effect.UNDELIVERED or reason is None:
            return None
        blocked = _BLOCKED.search(reason) and not _NOT_THE_NUMBER.search(reason)
        return SuppressionReason.CARRIER_BLOCK if blocked else None


def reader(settings: ProviderSettings) -> Fast2SmsReceipts:
    """From `[providers.receipts]`. ConfigurationError names the key that is wrong."""
    secret = shared_secret(settings, "carrier_blocks")
    try:
        return Fast2SmsReceipts(secret, flag(settings.receipts.get("carrier_blocks", True)))
    except ValueError as error:
        raise fault(settings, "receipts.carrier_blocks", str(error)) from None


def _body(call: ReceiptCall) -> object:
    """JSON whatever the content type says, else a form; without a body what the URL has beside the secret."""
    text = call.body.strip()
    if not text:
        return {name: value for name, value in call.query.items() if name != "secret"}
    body = parse(text)
    if body is not None:
        return body
    try:
        return dict(parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return None


def _reports(body: object, common: Mapping[str, object] = _NOTHING, depth: int = 0) -> Iterator[Mapping[str, object]]:
    """Each report with its names as `_plain` has them, and with what was said above the list it came in."""
    if depth > _MOST_NESTED or body in ({}, []):
        return
    if isinstance(body, list):
        for each in body:
            yield from _reports(each, common, depth + 1)
        return
    own = {_plain(name): value for name, value in body.items()} if isinstance(body, dict) else {}
    inner = [value for name in _LISTS if isinstance(value := own.get(name), list | dict)]
    above = {**common, **{name: value for name, value in own.items() if not isinstance(value, list | dict)}}
    if not inner:
        yield above if own else {}
    for each in inner:
        yield from _reports(each, above, depth + 1)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _first(report: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    return next((known for name in names if (known := word(report.get(name)))), None)


def _recipient(report: Mapping[str, object]) -> str | None:
    """An Indian mobile with or without its prefix, as a text or as a number, in E.164."""
    digits = re.sub(r"[\s()-]", "", _first(report, _MOBILE) or "")
    match = _MINE.fullmatch(digits)
    return f"+91{match[1]}" if match else None


def _moment(report: Mapping[str, object]) -> datetime | None:
    """Unix seconds, or milliseconds. Times in words name no zone."""
    text = _first(report, _WHEN) or ""
    if not re.fullmatch(r"[0-9]{9,13}", text):
        return None
    return datetime.fromtimestamp(int(text) / (1000 if len(text) > 10 else 1), UTC)
