"""SES' events, which come through SNS: a signed envelope around one event.

What is signed are some of the envelope's values in a fixed order. Two versions differ in the digest: 1 is SHA-1, 2 is
SHA-256. The certificate's address is in the envelope, too, so it must be one of AWS' own, in the topic's region; the
topic must be a configured one, since anybody can have a topic of his own. Sources: "Verifying the signatures of Amazon
SNS messages", and "Contents of event data that Amazon SES publishes to Amazon SNS"; AWS' own validator agrees.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from heliograph.actors.model.duration import parse_duration
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.policy.mail import parse_mailbox
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, Refused, Reports
from heliograph.providers.http import parse, table, word
from heliograph.providers.kinds import fault, nearest
from heliograph.providers.verdicts import CODE_LENGTH, clip

KEYS: Final = ("topic_arns", "signature_versions", "max_age")
MOST_AGE_S: Final = 3600.0

_ASKING: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
SIGNED: Final[Mapping[str, tuple[str, ...]]] = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": _ASKING,
    "UnsubscribeConfirmation": _ASKING,
}
"""By the envelope's `Type`, in their order; `Subject` only where there is one."""

DIGESTS: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {"1": hashes.SHA1, "2": hashes.SHA256}

_TOPIC: Final = re.compile(r"arn:aws[a-z-]*:sns:(?P<region>[a-z0-9-]{3,}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
_HOST: Final = re.compile(r"sns\.(?P<region>[a-zA-Z0-9-]{3,})\.amazonaws\.com(\.cn)?")


@dataclass(frozen=True, slots=True)
class Row:
    effect: Effect | None = None
    suppress: SuppressionReason | None = None


TAKEN: Final = Row(Effect.TAKEN)
DELIVERED: Final = Row(Effect.DELIVERED)
FAILED: Final = Row(Effect.UNDELIVERED)
HARD: Final = Row(Effect.UNDELIVERED, SuppressionReason.BOUNCE)

BOUNCES: Final[Mapping[tuple[str, str], Row]] = {
    ("Permanent", "General"): HARD,
    ("Permanent", "NoEmail"): HARD,
    ("Permanent", "Suppressed"): HARD,
    ("Permanent", "OnAccountSuppressionList"): HARD,
    ("Permanent", "UnsubscribedRecipient"): Row(Effect.UNDELIVERED, SuppressionReason.UNSUBSCRIBE),
    ("Transient", "General"): FAILED,
    ("Transient", "MailboxFull"): FAILED,
    ("Transient", "MessageTooLarge"): FAILED,
    ("Transient", "ContentRejected"): FAILED,
    ("Transient", "AttachmentRejected"): FAILED,
    ("Transient", "CustomTimeoutExceeded"): FAILED,
    ("Undetermined", "Undetermined"): FAILED,
}
"""By `bounceType` and `bounceSubType`. What is not here goes by its type: Permanent is HARD, all else FAILED."""

COMPLAINTS: Final[Mapping[str | None, Row]] = {
    None: Row(suppress=SuppressionReason.COMPLAINT),
    "OnAccountSuppressionList": Row(Effect.UNDELIVERED, SuppressionReason.COMPLAINT),  # never left SES
}
"""By `complaintSubType`; another one is as none."""

NO_SPAM: Final = "not-spam"
"""A `complaintFeedbackType` that takes a complaint back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SesReceipts:
    """A `ReceiptReader`. `topics` are ARNs, `versions` those of the signature that are taken."""

    topics: frozenset[str]
    versions: frozenset[str] = frozenset(DIGESTS)
    most_age_s: float = MOST_AGE_S

    def verify(self, call: ReceiptCall, certificates: Mapping[str, str]) -> Genuine | CertificateNeeded | Refused:
        envelope = table(parse(call.body))
        if not envelope:
            return Refused(status=400, detail="not a JSON object")
        # To the letter: the text that is signed has no quotes, and only its last two values have a fixed end.
        match envelope:
            case {"Type": str(kind), "TopicArn": str(topic), "SignatureVersion": str(version)} if kind in SIGNED:
                pass
            case _:
                detail = "no SNS envelope: switch raw message delivery off for this subscription"
                return Refused(status=401, detail=detail)
        if topic not in self.topics:
            return Refused(status=401, detail="this topic is not among receipts.topic_arns")
        if version not in self.versions:
            detail = "this signature version is not taken: set the topic's SignatureVersion to 2"
            return Refused(status=401, detail=detail)
        if self._stale(envelope, call.received_at):
            return Refused(status=401, detail="published too long ago, or at no time that can be read")
        url = envelope.get("SigningCertURL")
        if not isinstance(url, str) or not _is_amazons(url, topic) or not urlsplit(url).path.endswith(".pem"):
            return Refused(status=401, detail="the certificate's address is not one of SNS in the topic's region")
        if (pem := certificates.get(url)) is None:
            return CertificateNeeded(url)
        if not _is_signed(envelope, kind, DIGESTS[version](), pem, call.received_at):
            return Refused(status=401, detail="the signature is not by this certificate, or that is not valid now")
        return Genuine()

    def read(self, call: ReceiptCall) -> Reports | Refused:
        envelope = table(parse(call.body))
        topic = word(envelope.get("TopicArn")) or ""
        match envelope.get("Type"):
            case "SubscriptionConfirmation":
                url = envelope.get("SubscribeURL")
                if not isinstance(url, str) or not _is_amazons(url, topic):
                    return Refused(status=400, detail="SubscribeURL is no address of SNS in the topic's region")
                return Reports(confirm=url)
            case "UnsubscribeConfirmation":
                return Reports(ignored=1, notices=(clip(f"unsubscribed from {topic}: no more receipts come of it"),))
            case "Notification":
                receipts = tuple(_receipts(envelope))
                return Reports(receipts=receipts, ignored=0 if receipts else 1)
        return Refused(status=400, detail="no SNS envelope")

    def _stale(self, envelope: Mapping[str, object], received_at: datetime) -> bool:
        published_at = _moment(envelope.get("Timestamp"))
        return published_at is None or (received_at - published_at).total_seconds() > self.most_age_s


def reader(settings: ProviderSettings) -> SesReceipts:
    """From `[providers.receipts]`. ConfigurationError names the key that is wrong."""
    given = settings.receipts
    for name in given:
        if name not in KEYS:
            raise fault(settings, f"receipts.{name}", f"unknown key{nearest(name, KEYS)}")
    topics = _listed(given.get("topic_arns"))
    if not topics:
        raise fault(settings, "receipts.topic_arns", "missing; the ARNs of the SNS topics that SES publishes to")
    if not all(map(_TOPIC.fullmatch, topics)):
        raise fault(settings, "receipts.topic_arns", "must be ARNs such as arn:aws:sns:ap-south-1:123456789012:ses")
    versions = _listed(given.get("signature_versions", list(DIGESTS)))
    if not versions or not set(versions) <= set(DIGESTS):
        raise fault(settings, "receipts.signature_versions", 'must be of "1" and "2"')
    try:
        most_age_s = parse_duration(str(given["max_age"])) if "max_age" in given else MOST_AGE_S
    except ValueError as error:
        raise fault(settings, "receipts.max_age", str(error)) from None
    return SesReceipts(topics=frozenset(topics), versions=frozenset(versions), most_age_s=most_age_s)


def _listed(value: object) -> Sequence[str]:
    """A list in a file; words with commas between them in the environment."""
    if isinstance(value, str):
        return [each.strip() for each in value.split(",") if each.strip()]
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else []


# -------------------------------------------------------------------------------------------- the envelope


def _is_amazons(url: str, topic: str) -> bool:
    """Whether it is an address of SNS itself, in the region of the topic: nobody else is asked for anything."""
    try:
        parts = urlsplit(url)
        named = _TOPIC.fullmatch(topic)
        host = _HOST.fullmatch(parts.netloc)  # without a port, a user and a password
    except ValueError:
        return False
    if named is None or host is None or parts.scheme != "https" or not url.isascii() or not url.isprintable():
        return False
    return " " not in url and not parts.fragment and host["region"].lower() == named["region"]


def _is_signed(
    envelope: Mapping[str, object], kind: str, digest: hashes.HashAlgorithm, pem: str, now: datetime
) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            return False
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return False
        signature = base64.b64decode(str(envelope.get("Signature")), validate=True)
        key.verify(signature, _signed_text(envelope, kind), PKCS1v15(), digest)
    except (InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, binascii.Error, ValueError):
        return False
    return True


def _signed_text(envelope: Mapping[str, object], kind: str) -> bytes:
    """ValueError where a value that belongs to it is no text."""
    lines: list[str] = []
    for name in SIGNED[kind]:
        value = envelope.get(name)
        if value is None and name == "Subject":
            continue
        if not isinstance(value, str):
            raise ValueError(name)  # noqa: TRY004 - a fault of what came
        lines += (name, value)
    return "".join(f"{line}\n" for line in lines).encode()


# ----------------------------------------------------------------------------------------------- the event


def _receipts(envelope: Mapping[str, object]) -> Iterator[Receipt]:
    """None of a message that is no event: SES says in plain words that it may publish to a topic."""
    event = table(parse(str(envelope.get("Message")).encode("utf-8", "replace")))
    mail = table(event.get("mail"))
    attempt_id, message_id = _attempt_id(table(mail.get("tags"))), word(mail.get("messageId"))
    if attempt_id is None and message_id is None:
        return
    for said in _said(event):
        yield Receipt(
            attempt_id=attempt_id,
            provider_message_id=message_id,
            recipient=said.recipient,
            effect=said.row.effect,
            suppress=said.row.suppress,
            code=clip(said.code, CODE_LENGTH) if said.code else None,
            detail=clip(said.detail) if said.detail else None,
            at=_moment(said.at) or _moment(mail.get("timestamp")),
        )


@dataclass(frozen=True, slots=True)
class _Said:
    """`recipient` None is the mail as a whole."""

    row: Row
    recipient: str | None = None
    code: str | None = None
    detail: str | None = None
    at: object = None


def _said(event: Mapping[str, object]) -> Iterator[_Said]:
    """`eventType` of a configuration set's events, `notificationType` of an identity's notifications."""
    match event.get("eventType") or event.get("notificationType"):
        case "Send":
            yield _Said(TAKEN, code="Send")
        case "Delivery":
            yield from _deliveries(table(event.get("delivery")))
        case "DeliveryDelay":
            yield from _delays(table(event.get("deliveryDelay")))
        case "Bounce":
            yield from _bounces(table(event.get("bounce")))
        case "Complaint":
            yield from _complaints(table(event.get("complaint")))
        case "Reject":
            yield _Said(FAILED, code="Reject", detail=word(table(event.get("reject")).get("reason")))
        case "Rendering Failure":
            error = word(table(event.get("failure")).get("errorMessage"))
            yield _Said(FAILED, code="Rendering Failure", detail=error)
        case "Subscription":
            yield from _departures(table(event.get("subscription")), table(event.get("mail")))
        case _:  # Open, Click, and what is not documented yet
            return


def _deliveries(delivery: Mapping[str, object]) -> Iterator[_Said]:
    detail, at = word(delivery.get("smtpResponse")), delivery.get("timestamp")
    for recipient in _list(delivery.get("recipients")):
        yield _Said(DELIVERED, _bare(recipient), detail=detail, at=at)


def _delays(delay: Mapping[str, object]) -> Iterator[_Said]:
    """SES goes on trying."""
    kind, at = word(delay.get("delayType")), delay.get("timestamp")
    for recipient in map(table, _list(delay.get("delayedRecipients"))):
        code = word(recipient.get("status")) or kind
        yield _Said(TAKEN, _bare(recipient.get("emailAddress")), code, _why(kind, recipient), at)


def _bounces(bounce: Mapping[str, object]) -> Iterator[_Said]:
    kind, sub = word(bounce.get("bounceType")) or "", word(bounce.get("bounceSubType")) or ""
    row = BOUNCES.get((kind, sub), HARD if kind == "Permanent" else FAILED)
    name, at = "/".join(filter(None, (kind, sub))), bounce.get("timestamp")
    for recipient in map(table, _list(bounce.get("bouncedRecipients"))):
        code = word(recipient.get("status")) or name
        yield _Said(row, _bare(recipient.get("emailAddress")), code, _why(name, recipient), at)


def _complaints(complaint: Mapping[str, object]) -> Iterator[_Said]:
    kind, sub = word(complaint.get("complaintFeedbackType")), word(complaint.get("complaintSubType"))
    if kind == NO_SPAM:
        return
    row, code, at = COMPLAINTS.get(sub, COMPLAINTS[None]), sub or kind or "complaint", complaint.get("timestamp")
    for recipient in map(table, _list(complaint.get("complainedRecipients"))):
        yield _Said(row, _bare(recipient.get("emailAddress")), code, at=at)


def _departures(subscription: Mapping[str, object], mail: Mapping[str, object]) -> Iterator[_Said]:
    """Who leaves a single topic of a contact list goes on getting what belongs to no topic, as our mails do."""
    destination = _list(mail.get("destination"))
    if table(subscription.get("newTopicPreferences")).get("unsubscribeAll") is True and len(destination) == 1:
        row = Row(suppress=SuppressionReason.UNSUBSCRIBE)
        yield _Said(row, _bare(destination[0]), "unsubscribeAll", at=subscription.get("timestamp"))


def _attempt_id(tags: Mapping[str, object]) -> str | None:
    """Values of tags are arrays."""
    value = tags.get("hg-attempt")
    return word(value[0]) if isinstance(value, list) and value else word(value)


def _bare(recipient: object) -> str | None:
    """Without the name that a mail's header has beside the address."""
    text = word(recipient)
    try:
        return parse_mailbox(text).address if text else None
    except ValueError:
        return text


def _why(name: str | None, recipient: Mapping[str, object]) -> str | None:
    return ": ".join(filter(None, (name, word(recipient.get("diagnosticCode"))))) or None


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _moment(text: object) -> datetime | None:
    """Its own clock, with an offset."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
