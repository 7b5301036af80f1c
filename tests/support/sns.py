"""SNS, as far as a receiver sees it: envelopes, signed with a key of a test's own."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID

from heliograph.actors.ports.receipts import ReceiptCall
from tests.support.builders import NOW

TOPIC: Final = "arn:aws:sns:ap-south-1:123456789012:ses-events"
HOST: Final = "https://sns.ap-south-1.amazonaws.com"
CERTIFICATE: Final = f"{HOST}/SimpleNotificationService-0123456789abcdef.pem"
SUBSCRIBE: Final = f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37fb687f5d51e6e2425e90cd"
ORDER: Final = ("Message", "MessageId", "SubscribeURL", "Subject", "Timestamp", "Token", "TopicArn", "Type")
"""Of what is signed, where it is there. One list does for all types: no type has both SubscribeURL and Subject."""


@dataclass(frozen=True, slots=True)
class Sns:
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def envelope(
        self, message: object, kind: str = "Notification", version: str = "2", **fields: Any
    ) -> dict[str, Any]:
        """Signed as it stands in the end. A field of None is left out."""
        envelope: dict[str, Any] = {
            "Type": kind,
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": TOPIC,
            "Message": message if isinstance(message, str) else json.dumps(message),
            "Timestamp": f"{NOW:%Y-%m-%dT%H:%M:%S}.000Z",
            "SignatureVersion": version,
            "SigningCertURL": CERTIFICATE,
        }
        if kind == "Notification":
            envelope["UnsubscribeURL"] = f"{HOST}/?Action=Unsubscribe&SubscriptionArn={TOPIC}:c9135db0"
        else:
            envelope |= {"Token": "2336412f37fb687f5d51e6e2425e90cd", "SubscribeURL": SUBSCRIBE}
        envelope = {name: value for name, value in (envelope | fields).items() if value is not None}
        return envelope | {"Signature": self.signature(envelope)}

    def signature(self, envelope: dict[str, Any]) -> str:
        digest = hashes.SHA1() if envelope.get("SignatureVersion") == "1" else hashes.SHA256()
        return base64.b64encode(self.key.sign(canonical(envelope), PKCS1v15(), digest)).decode()

    def certificate(
        self, begins: datetime = NOW - timedelta(days=1), ends: datetime = NOW + timedelta(days=365)
    ) -> str:
        return certificate(self.key, begins, ends)


def canonical(envelope: dict[str, Any]) -> bytes:
    return "".join(f"{name}\n{envelope[name]}\n" for name in ORDER if name in envelope).encode()


def certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=365),
) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(begins).not_valid_after(ends)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def called(envelope: object, received_at: datetime = NOW) -> ReceiptCall:
    """As SNS posts it; bytes as they are."""
    body = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    headers = {"content-type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"}
    return ReceiptCall(headers=headers, body=body, received_at=received_at.astimezone(UTC))
