"""SES API v2: SendEmail, SendBulkEmail and GetAccount, held to the service's own model and to the rules it has beside
that; signatures by botocore.

moto's SES has no SendBulkEmail and no GetAccount, and checks no signature; this one has nothing else.
"""

from __future__ import annotations

import base64
import binascii
import email
import email.policy
import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parseaddr
from functools import cache
from typing import Any, Final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.model import ServiceModel
from botocore.session import get_session
from botocore.validate import ParamValidator

from tests.support.emulators.server import Api, Request, Response

ACCESS_KEY: Final = "AKIDEXAMPLE"
SECRET: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION: Final = "ap-south-1"
OWN_HEADERS: Final = frozenset(
    {"from", "to", "cc", "bcc", "subject", "date", "message-id", "reply-to", "return-path", "sender", "received"}
    | {"mime-version", "content-type", "content-transfer-encoding", "dkim-signature"}
)
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<scope>\S+), SignedHeaders=(?P<signed>\S+), Signature=(?P<signature>[0-9a-f]+)"
)
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_VARIABLE: Final = re.compile(r"\{\{\{?(.*?)\}\}\}?", re.DOTALL)


@cache
def model() -> ServiceModel:
    return get_session().get_service_model("sesv2")


def error(status: int, name: str, text: str) -> Response:
    return Response.of(status, {"message": text}, ("x-amzn-errortype", f"{name}:http://internal.amazon.com/"))


class Bad(Exception):
    """A request that SES would refuse, and how."""

    def __init__(self, text: str, name: str = "BadRequestException", status: int = 400) -> None:
        super().__init__(text)
        self.response = error(status, name, text)


class Ses(Api):
    """`identities`: verified domains, None verifies everybody; `sets`: configuration sets, None has them all; `keys`:
    secret and session token by access key; `over`: access keys whose time is over. `skew_s` moves SES' clock.
    `entries`: status and error of a shared call's entry, by address. `mails`: the bodies that were taken; `dropped`:
    addresses whose mail is not made after all, since a template lacks a value."""

    def __init__(
        self,
        identities: set[str] | None = None,
        skew_s: float = 0.0,
        keys: Mapping[str, tuple[str, str | None]] | None = None,
    ) -> None:
        super().__init__()
        self.identities = identities
        self.skew_s = skew_s
        self.keys = dict(keys or {ACCESS_KEY: (SECRET, None)})
        self.over: set[str] = set()
        self.sets: set[str] | None = None
        self.entries: dict[str, tuple[str, str]] = {}
        self.mails: list[dict[str, Any]] = []
        self.dropped: list[str] = []
        self._ids = 0
        self.account: dict[str, Any] = {
            "EnforcementStatus": "HEALTHY",
            "ProductionAccessEnabled": True,
            "SendingEnabled": True,
            "SendQuota": {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 1234.0},
        }

    def handle(self, request: Request) -> Response:
        try:
            self._check_signature(request)
            match request.method, request.path:
                case "POST", "/v2/email/outbound-emails":
                    response = self._send(_checked(request, "SendEmail"))
                case "POST", "/v2/email/outbound-bulk-emails":
                    response = self._send_bulk(_checked(request, "SendBulkEmail"))
                case "GET", "/v2/email/account" if not request.body:
                    response = Response.of(200, self.account)
                case _:
                    response = error(404, "UnknownOperationException", "no such call")
        except Bad as bad:
            response = bad.response
        now = format_datetime(datetime.fromtimestamp(self._now_s(), UTC), usegmt=True)
        return Response(response.status, response.body, (*response.headers, ("date", now)))

    def refuse(self, request: Request) -> Response:
        body = request.json() or {}
        for destination in (body.get("Destination", {}), *(e["Destination"] for e in body.get("BulkEmailEntries", []))):
            for address in destination.get("ToAddresses", []):
                self.seen.refused[address] += 1
        return error(400, "MessageRejected", "The content is not allowed")

    def unauthorized(self) -> Response:
        return error(403, "UnrecognizedClientException", "The security token included in the request is invalid.")

    def _now_s(self) -> float:
        return datetime.now(UTC).timestamp() + self.skew_s

    # ------------------------------------------------------------------------------------------- signatures

    def _check_signature(self, request: Request) -> None:
        match = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            raise Bad("Missing Authentication Token", "MissingAuthenticationTokenException", 403)
        key, day, region, service, _ = match["scope"].split("/")
        secret, token = self.keys.get(key, ("", None))
        if not secret or request.headers.get("x-amz-security-token") != token:
            raise Bad("The security token included in the request is invalid.", "UnrecognizedClientException", 403)
        if key in self.over:
            raise Bad("The security token included in the request is expired", "ExpiredTokenException", 403)
        timestamp = request.headers["x-amz-date"]
        signed_at = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(self._now_s() - signed_at) > 300:
            raise Bad(f"Signature expired: {timestamp} is now earlier than …", "InvalidSignatureException", 403)
        signed = match["signed"].split(";")
        wanted = ["host", "x-amz-date", *(["content-type"] if request.method == "POST" else [])]
        if signed != sorted([*wanted, *(["x-amz-security-token"] if token else [])]):
            raise Bad(f"'{signed}' are not the headers that must be signed", "IncompleteSignature", 403)
        expected = _signature(request, signed, (key, secret, token), region, service, timestamp)
        if expected != match["signature"] or (region, service, day) != (REGION, "ses", timestamp[:8]):
            text = f"The request signature we calculated does not match. It was for '{request.headers}'"
            raise Bad(text, "SignatureDoesNotMatch", 403)

    # ---------------------------------------------------------------------------------------------- sending

    def _send(self, body: dict[str, Any]) -> Response:
        recipients = self._checked_envelope(body, body["Destination"])
        if len(recipients) > 50:
            raise Bad("Too many recipients.", "MessageRejected")
        tags = _tags(body.get("EmailTags", []))
        text = _content(body["Content"], recipients)
        if not self.rejects.isdisjoint(recipients):
            self.seen.refused.update(recipients)
            raise Bad("Address blacklisted.", "MessageRejected")
        self.mails.append(body)
        for address in body["Destination"]["ToAddresses"]:
            self.seen.take(parseaddr(address)[1], tags.get("hg-attempt"), text)
        return Response.of(200, {"MessageId": self._next_id()})

    def _send_bulk(self, body: dict[str, Any]) -> Response:
        entries = body["BulkEmailEntries"]
        if not 1 <= len(entries) <= 50:
            raise Bad("1 to 50 entries are taken")
        template = body["DefaultContent"]["Template"]
        content = template.get("TemplateContent", {})
        if not content.get("Subject") or not (content.get("Text") or content.get("Html")):
            raise Bad("Template content needs a subject, and a text or HTML part")
        _checked_headers(template.get("Headers", []))
        results = [self._send_entry(body, entry, template, content) for entry in entries]
        self.mails.append(body)
        return Response.of(200, {"BulkEmailEntryResults": results})

    def _send_entry(
        self, body: dict[str, Any], entry: dict[str, Any], template: dict[str, Any], content: dict[str, str]
    ) -> dict[str, Any]:
        (address,) = self._checked_envelope(body, entry["Destination"])
        tags = _tags([*body.get("DefaultEmailTags", []), *entry.get("ReplacementTags", [])])
        _checked_headers(entry.get("ReplacementHeaders", []))
        replacement = entry.get("ReplacementEmailContent", {}).get("ReplacementTemplate", {})
        data = _object(template["TemplateData"]) | _object(replacement.get("ReplacementTemplateData", "{}"))
        status, text = self.entries.get(address, ("SUCCESS", ""))
        if address in self.rejects:
            status, text = "MESSAGE_REJECTED", "Address blacklisted."
        if status != "SUCCESS":
            self.seen.refused[address] += 1
            return {"Status": status, "Error": text}
        if any(name.strip() not in data for part in content.values() for name in _VARIABLE.findall(part)):
            self.dropped.append(address)
        else:
            self.seen.take(address, tags.get("hg-attempt"), content.get("Text") or content["Html"])
        return {"Status": "SUCCESS", "MessageId": self._next_id()}

    def _checked_envelope(self, body: dict[str, Any], destination: dict[str, list[str]]) -> list[str]:
        """The bare addresses of the destination."""
        recipients = [address for addresses in destination.values() for address in addresses]
        if not recipients or not all(destination.values()):
            raise Bad("Missing destination")
        sender = body["FromEmailAddress"]
        for written in (sender, *recipients, *body.get("ReplyToAddresses", [])):
            if not written.isascii() or len(written) > 320 or not _ADDRESS.fullmatch(parseaddr(written)[1]):
                raise Bad(f"Local address contains control or whitespace: {written!a}")
            if any(len(word) > 75 for word in re.findall(r"=\?\S*\?=", written)):
                raise Bad(f"an encoded word is too long: {written}")
        address = parseaddr(sender)[1]
        if self.identities is not None and address.rpartition("@")[2] not in self.identities:
            text = (
                f"Email address is not verified. The following identities failed the check in region {REGION.upper()}"
            )
            raise Bad(f"{text}: {address}", "MessageRejected")
        name = body.get("ConfigurationSetName")
        if name is not None and self.sets is not None and name not in self.sets:
            raise Bad(f"Configuration set <{name}> does not exist.", "NotFoundException", 404)
        return [parseaddr(written)[1] for written in recipients]

    def _next_id(self) -> str:
        self._ids += 1
        return f"0109019361a2b3c4-{self._ids:08d}-000000"


# ------------------------------------------------------------------------------------------------------- shapes


def faults(body: Any, operation: str) -> str:
    """What the service's model has against a body as it is on the wire; '' where nothing."""
    report = ParamValidator().validate(_decoded(body), model().operation_model(operation).input_shape)
    return str(report.generate_report())


def _checked(request: Request, operation: str) -> dict[str, Any]:
    body = request.json()
    if request.headers.get("content-type") != "application/json" or not isinstance(body, dict):
        raise Bad("not a JSON object", "SerializationException")
    if found := faults(body, operation):
        raise Bad(found)
    return body


def _decoded(body: Any) -> Any:
    """The model's blobs are bytes; on the wire they are base64."""
    match body:
        case {"Content": {"Raw": {"Data": str(data)}}}:
            return {**body, "Content": {"Raw": {"Data": base64.b64decode(data, validate=True)}}}
    return body


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or len(text) > 262_144:
        raise Bad("Template data must be a JSON object in a text")
    return value


def _tags(tags: list[dict[str, str]]) -> dict[str, str]:
    names = [tag["Name"] for tag in tags]
    if len(names) > 50 or len(set(names)) < len(names):
        raise Bad("Too many tags, or one twice")
    if not all(_TAG.fullmatch(part) for tag in tags for part in tag.values()):
        raise Bad("Invalid tag")
    return {tag["Name"]: tag["Value"] for tag in tags}


def _checked_headers(headers: list[dict[str, str]]) -> None:
    names = [header["Name"].lower() for header in headers]
    if len(names) > 15 or len(set(names)) < len(names) or not OWN_HEADERS.isdisjoint(names):
        raise Bad("Too many headers, or one that cannot be set")
    for header in headers:
        name, value = header["Name"], header["Value"]
        if not re.fullmatch(r"[!-9;-~]{1,126}", name) or not re.fullmatch(r"[ -~]{1,995}", value):
            raise Bad("Invalid header")
        if len(name) + len(value) > 996 or name.lower().startswith("x-ses-"):
            raise Bad("Invalid header")


def _content(content: dict[str, Any], recipients: Collection[str]) -> str:
    match content:
        case {"Simple": simple, **rest} if not rest:
            return _simple(simple)
        case {"Raw": {"Data": data}, **rest} if not rest:
            return _raw(data, recipients)
    raise Bad("Content is one of Simple and Raw")


def _simple(simple: dict[str, Any]) -> str:
    parts = simple["Body"]
    if not parts or not all(part.get("Charset") == "UTF-8" for part in (simple["Subject"], *parts.values())):
        raise Bad("a part is missing, or has no charset")
    if not all(part["Data"] for part in (simple["Subject"], *parts.values())):
        raise Bad("a part is empty")
    _checked_headers(simple.get("Headers", []))
    return str((parts.get("Text") or parts["Html"])["Data"])


def _raw(data: str, recipients: Collection[str]) -> str:
    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise Bad("Data is not base64") from None
    lines = raw.split(b"\r\n")
    if any(len(line) > 998 or b"\n" in line or b"\r" in line for line in lines) or not raw.isascii():
        raise Bad("a line is too long, or ends in no CRLF")
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    if mail["Bcc"] is not None or mail["From"] is None or mail["To"] is None or mail.defects:
        raise Bad("no whole mail")
    if any(name.lower().startswith("x-ses-") for name in mail):
        raise Bad("SES would obey this header")
    shown = [address.addr_spec for name in ("To", "Cc") if mail[name] for address in mail[name].addresses]
    if not set(shown) <= set(recipients):
        raise Bad("a recipient in the headers is none in the envelope")
    return raw.decode("ascii")


def _signature(
    request: Request,
    signed: list[str],
    keys: tuple[str, str, str | None],
    region: str,
    service: str,
    timestamp: str,
) -> str:
    """By botocore; of the headers only those that were signed take part."""
    url = f"http://{request.headers['host']}{request.target}"
    headers = {name: request.headers[name] for name in signed}
    aws = AWSRequest(method=request.method, url=url, data=request.body, headers=headers)
    aws.context["timestamp"] = timestamp
    auth = SigV4Auth(Credentials(*keys), service, region)
    auth.add_auth = None  # the three steps below, without its own clock
    canonical = auth.canonical_request(aws)
    return str(auth.signature(auth.string_to_sign(aws, canonical), aws))
