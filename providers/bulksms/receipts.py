"""BulkSMS' webhook: an array of messages, the newest word on each, in any order and some of them again.

Nothing is signed, so the URL holds a secret. On creation the URL is called with `[]`. A message has the shape that a
submission is answered with; an older form nests `to`, `body` and `status`, and both are read. Source: BulkSMS JSON
REST API v1, webhooks, and the vendor's guide to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from heliograph.actors.model.identity import of_attempt
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, Refused, Reports
from heliograph.providers.http import parse, table, word
from heliograph.providers.shared_secret import SharedSecret, shared_secret

EFFECTS: Final[Mapping[str, Effect]] = {
    "ACCEPTED": Effect.TAKEN,
    "SCHEDULED": Effect.TAKEN,
    "SENT": Effect.TAKEN,
    "UNKNOWN": Effect.TAKEN,  # what became of it; that BulkSMS had it is sure
    "DELIVERED": Effect.DELIVERED,
    "FAILED": Effect.UNDELIVERED,
}
"""By `status.type`; a status that is not here changes nothing."""

SUPPRESSED: Final[Mapping[str, SuppressionReason]] = {"FAILED.BLOCKED": SuppressionReason.UNSUBSCRIBE}
"""By `status.id`."""

MEANINGS: Final[Mapping[str, str]] = {
    "FAILED.EXPIRED": "its validity ran out",
    "FAILED.HANDSET_ERROR": "the phone could not take it, its memory may be full",
    "FAILED.NOT_SENT": "never tried: there is no way to this number",
    "FAILED.BLOCKED": "the recipient said STOP, or an administrator blocked the number",
}


@dataclass(frozen=True, slots=True)
class BulkSmsReceipts:
    """A `ReceiptReader`."""

    secret: SharedSecret

    def verify(
        self,
        call: ReceiptCall,
        certificates: Mapping[str, str],  # noqa: ARG002 - nothing is signed
    ) -> Genuine | CertificateNeeded | Refused:
        return self.secret.verify(call)

    def read(self, call: ReceiptCall) -> Reports | Refused:
        body = parse(call.body)
        if isinstance(body, dict):
            body = [body]
        if not isinstance(body, list):
            return Refused(status=400, detail="not an array of messages")
        if call.headers.get("x-bulksms-event", "").strip().lower() == "incoming-message":
            return Reports(ignored=len(body))
        receipts = [receipt for element in body if (receipt := _receipt(table(element))) is not None]
        return Reports(receipts=tuple(receipts), ignored=len(body) - len(receipts))


def reader(settings: ProviderSettings) -> BulkSmsReceipts:
    """From `[providers.receipts]`. ConfigurationError names the key that is wrong."""
    return BulkSmsReceipts(shared_secret(settings))


def _receipt(element: Mapping[str, object]) -> Receipt | None:
    """None for what is no receipt: a reply, a status that nobody knows, a message that somebody else submitted."""
    kind, code = _status(table(element.get("status")))
    effect = EFFECTS.get(kind)
    supplied, identifier = word(element.get("userSuppliedId")), word(element.get("id"))
    if effect is None or (word(element.get("type")) or "SENT").upper() != "SENT":
        return None
    if supplied is not None and of_attempt(supplied) is None:
        return None
    if supplied is None and identifier is None:
        return None
    return Receipt(
        attempt_id=supplied,
        provider_message_id=identifier,
        recipient=_recipient(element.get("to")),
        effect=effect,
        suppress=SUPPRESSED.get(code),
        code=code,
        detail=MEANINGS.get(code),
        at=_moment(table(element.get("status")).get("date")),
    )


def _status(status: Mapping[str, object]) -> tuple[str, str]:
    """(type, id) in capitals: `FAILED`, `FAILED.BLOCKED`. The older form says `condition` and `cause`."""
    kind = word(status.get("type")) or word(status.get("condition"))
    cause = word(status.get("subtype")) or word(status.get("cause"))
    whole = (word(status.get("id")) or "").upper()
    named = (kind or whole.partition(".")[0]).upper()
    code = f"{named}.{cause.upper()}" if cause else whole if whole.startswith(f"{named}.") else f"{named}.NULL"
    known = code if re.fullmatch(r"[A-Z_]{1,40}\.[A-Z_]{1,40}", code) else named[:40]
    return named, known.removesuffix(".NULL")


def _recipient(to: object) -> str | None:
    address = word(to) or word(table(to).get("address"))
    digits = (address or "").removeprefix("+")
    return f"+{digits}" if re.fullmatch(r"[0-9]{7,15}", digits) else None


def _moment(value: object) -> datetime | None:
    """A time that names no zone tells nothing."""
    try:
        moment = datetime.fromisoformat(word(value) or "")
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment
