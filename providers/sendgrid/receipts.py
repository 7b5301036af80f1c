"""SendGrid's Event Webhook: a signed array of events, in any order, some of them again.

Verified over the bytes as they came: ECDSA on P-256 with SHA-256 over the timestamp's text and the raw body, its last
CR LF included. An event is tied to its attempt by the custom argument `hg_attempt`, which stands flat in it; else by
`sg_message_id`, which begins with the id that `mail/send` answered. Source: Event Webhook reference and its security
features; the vendor's own verifier agrees.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from heliograph.actors.model.duration import parse_duration
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, Refused, Reports
from heliograph.providers.http import parse, table, word
from heliograph.providers.kinds import chosen, fault, nearest
from heliograph.providers.verdicts import CODE_LENGTH, clip

SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"
KEYS: Final = ("public_key", "max_age")
_ARMOUR: Final = re.compile(r"-----[A-Z ]+-----|\s+")
_RECEIVED: Final = re.compile(r"\.(?:recvd|filter)")


@dataclass(frozen=True, slots=True)
class Row:
    effect: Effect | None = None
    suppress: SuppressionReason | None = None


EVENTS: Final[Mapping[str, Row]] = {
    "processed": Row(Effect.TAKEN),
    "deferred": Row(Effect.TAKEN),  # it goes on trying for 72 hours
    "delivered": Row(Effect.DELIVERED),
    "spamreport": Row(suppress=SuppressionReason.COMPLAINT),
    "unsubscribe": Row(suppress=SuppressionReason.UNSUBSCRIBE),
}
"""By `event`. What is in none of these tables (`open`, `click`, …) changes nothing."""

BOUNCES: Final[Mapping[str, Row]] = {
    "bounce": Row(Effect.UNDELIVERED, SuppressionReason.BOUNCE),
    "blocked": Row(Effect.UNDELIVERED),  # refused for now; SendGrid itself writes to it again
    "expired": Row(Effect.UNDELIVERED),  # given up after 72 hours
}
"""By `type`, for the event `bounce`; without a type it is one for good."""

DROPS: Final[Mapping[str, Row]] = {
    "bounced address": Row(Effect.UNDELIVERED, SuppressionReason.BOUNCE),
    "spam reporting address": Row(Effect.UNDELIVERED, SuppressionReason.COMPLAINT),
    "unsubscribed address": Row(Effect.UNDELIVERED, SuppressionReason.UNSUBSCRIBE),
    "invalid": Row(Effect.UNDELIVERED, SuppressionReason.INVALID),
}
"""By `reason`, for the event `dropped`: never sent, for it was on one of SendGrid's own lists."""

FAILED: Final = Row(Effect.UNDELIVERED)
LEFT_OUR_GROUP: Final = Row(suppress=SuppressionReason.UNSUBSCRIBE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGridReceipts:
    """A `ReceiptReader`. `most_age_s` None: however old, since SendGrid repeats a call for a day. `group` is the
    unsubscribe group that all our mails carry, if any."""

    key: EllipticCurvePublicKey
    most_age_s: float | None = None
    group: int | None = None

    def verify(
        self,
        call: ReceiptCall,
        certificates: Mapping[str, str],  # noqa: ARG002 - the key is configured
    ) -> Genuine | CertificateNeeded | Refused:
        signature, timestamp = call.headers.get(SIGNATURE), call.headers.get(TIMESTAMP)
        if not signature or not timestamp:
            return Refused(status=401, detail="unsigned: switch on the Signed Event Webhook in SendGrid's settings")
        try:
            signed = timestamp.encode("utf-8", "replace") + call.body
            self.key.verify(base64.b64decode(signature, validate=True), signed, ECDSA(SHA256()))
        except (InvalidSignature, binascii.Error, ValueError):
            return Refused(status=401, detail="the signature is not SendGrid's: compare receipts.public_key")
        if self.most_age_s is None:
            return Genuine()
        signed_at = _moment(timestamp)
        if signed_at is None or (call.received_at - signed_at).total_seconds() > self.most_age_s:
            return Refused(status=401, detail="signed too long ago")
        return Genuine()

    def read(self, call: ReceiptCall) -> Reports | Refused:
        events = parse(call.body)
        if not isinstance(events, list):
            return Refused(status=400, detail="not an array of events")
        receipts: list[Receipt] = []
        notices: list[str] = []
        known: set[str] = set()
        for event in map(table, events):
            serial = word(event.get("sg_event_id"))
            if serial is not None and serial in known:
                continue
            known.update([serial] if serial else [])
            if event.get("event") == "account_status_change":
                notices.append(clip(f"account_status_change {word(event.get('type')) or 'of no type'}"))
            elif (receipt := self._receipt(event)) is not None:
                receipts.append(receipt)
        return Reports(receipts=tuple(receipts), ignored=len(events) - len(receipts), notices=tuple(notices))

    def _receipt(self, event: Mapping[str, object]) -> Receipt | None:
        """None where it changes nothing, or concerns nobody."""
        row = self._row(event)
        recipient = word(event.get("email"))
        attempt_id, message_id = word(event.get("hg_attempt")), _message_id(event)
        if row is None or not (recipient or attempt_id or message_id):
            return None
        detail = word(event.get("reason")) or word(event.get("response"))
        return Receipt(
            attempt_id=attempt_id,
            provider_message_id=message_id,
            recipient=recipient,
            effect=row.effect,
            suppress=row.suppress,
            code=_code(event),
            detail=clip(detail) if detail else None,
            at=_moment(event.get("timestamp")),
        )

    def _row(self, event: Mapping[str, object]) -> Row | None:
        match _key(event, "event"):
            case "bounce":
                return BOUNCES.get(_key(event, "type") or "bounce", FAILED)
            case "dropped":
                return DROPS.get(_key(event, "reason"), FAILED)
            case "group_unsubscribe" if self.group is not None and word(event.get("asm_group_id")) == str(self.group):
                return LEFT_OUR_GROUP
            case name:
                return EVENTS.get(name)


def reader(settings: ProviderSettings) -> SendGridReceipts:
    """From `[providers.receipts]`: `public_key`, and `max_age` if any. ConfigurationError names the key at fault."""
    given = settings.receipts
    for name in given:
        if name not in KEYS:
            raise fault(settings, f"receipts.{name}", f"unknown key{nearest(name, KEYS)}")
    return SendGridReceipts(
        key=_public_key(settings), most_age_s=_most_age_s(settings), group=chosen(settings, "unsubscribe_group", int)
    )


def _public_key(settings: ProviderSettings) -> EllipticCurvePublicKey:
    """As SendGrid shows it: base64 of a DER SubjectPublicKeyInfo; lines and PEM's armour around it do no harm."""
    given = settings.receipts.get("public_key")
    if given is None:
        raise fault(settings, "receipts.public_key", "missing; SendGrid shows it beside the Signed Event Webhook")
    try:
        key = load_der_public_key(base64.b64decode(_ARMOUR.sub("", str(given)), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        raise fault(settings, "receipts.public_key", "no public key in base64") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise fault(settings, "receipts.public_key", "another kind of key; SendGrid signs with ECDSA on P-256")
    return key


def _most_age_s(settings: ProviderSettings) -> float | None:
    given = settings.receipts.get("max_age")
    if given is None:
        return None
    try:
        return parse_duration(str(given))
    except ValueError as error:
        raise fault(settings, "receipts.max_age", str(error)) from None


def _key(event: Mapping[str, object], name: str) -> str:
    return (word(event.get(name)) or "").lower()


def _message_id(event: Mapping[str, object]) -> str | None:
    """What `mail/send` answered: the part before the receiving host's own, or before the first dot."""
    whole = word(event.get("sg_message_id")) or ""
    at = _RECEIVED.search(whole)
    return (whole[: at.start()] if at else whole.partition(".")[0]) or None


def _code(event: Mapping[str, object]) -> str | None:
    """The enhanced status where there is one, else what happened in SendGrid's own word."""
    found = word(event.get("status")) or word(event.get("type")) or word(event.get("event"))
    return clip(found, CODE_LENGTH) if found else None


def _moment(seconds: object) -> datetime | None:
    text = word(seconds)
    if text is None or not re.fullmatch(r"[0-9]{1,11}", text):
        return None
    return datetime.fromtimestamp(int(text), UTC)
