"""SES API v2: SendEmail checked against the service's own model, GetAccount, and signatures by botocore.

moto's SES knows no GetAccount and checks no signature; this one knows nothing else.
"""

from __future__ import annotations

import base64
import email
import re
from datetime import UTC, datetime
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
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<scope>\S+), SignedHeaders=(?P<signed>\S+), Signature=(?P<signature>[0-9a-f]+)"
)


@cache
def model() -> ServiceModel:
    return get_session().get_service_model("sesv2")


def error(status: int, name: str, text: str) -> Response:
    return Response.of(status, {"message": text}, ("x-amzn-errortype", f"{name}:http://internal.amazon.com/"))


class Ses(Api):
    """`identities`: verified domains; None verifies everybody. `skew_s` moves SES' clock."""

    def __init__(self, identities: set[str] | None = None, skew_s: float = 0.0) -> None:
        super().__init__()
        self.identities = identities
        self.skew_s = skew_s
        self.mails: list[dict[str, Any]] = []

    def handle(self, request: Request) -> Response:
        if (refusal := self._check_signature(request)) is not None:
            return refusal
        match request.method, request.path:
            case "POST", "/v2/email/outbound-emails":
                return self._send(request.json())
            case "GET", "/v2/email/account":
                quota = {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 1234.0}
                return Response.of(
                    200,
                    {
                        "EnforcementStatus": "HEALTHY",
                        "ProductionAccessEnabled": True,
                        "SendingEnabled": True,
                        "SendQuota": quota,
                    },
                )
        return error(404, "NotFoundException", "no such call")

    def refuse(self, request: Request) -> Response:
        for address in (request.json() or {}).get("Destination", {}).get("ToAddresses", []):
            self.seen.refused[address] += 1
        return error(400, "MessageRejected", "The content is not allowed")

    def unauthorized(self) -> Response:
        return error(403, "UnrecognizedClientException", "The security token included in the request is invalid.")

    def _check_signature(self, request: Request) -> Response | None:
        match = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            return error(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        key, day, region, service, _ = match["scope"].split("/")
        if key != ACCESS_KEY:
            return self.unauthorized()
        now = datetime.now(UTC).timestamp() + self.skew_s
        timestamp = request.headers["x-amz-date"]
        signed_at = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        date = datetime.fromtimestamp(now, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        if abs(now - signed_at) > 300:
            refusal = error(403, "InvalidSignatureException", f"Signature expired: {timestamp} is now earlier than …")
            return Response(refusal.status, refusal.body, (*refusal.headers, ("date", date)))
        expected = _signature(request, match["signed"].split(";"), region, service, timestamp)
        if expected != match["signature"] or (region, service, day) != (REGION, "ses", timestamp[:8]):
            return error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
        return None

    def _send(self, body: Any) -> Response:
        report = ParamValidator().validate(_decoded(body), model().operation_model("SendEmail").input_shape)
        if report.has_errors():
            return error(400, "BadRequestException", report.generate_report())
        unknown = set(body) - set(model().operation_model("SendEmail").input_shape.members)
        if unknown:
            return error(400, "BadRequestException", f"unknown members {sorted(unknown)}")
        destination = body["Destination"]
        recipients = [address for addresses in destination.values() for address in addresses]
        if len(recipients) > 50:
            return error(400, "MessageRejected", "Too many recipients.")
        sender = email.utils.parseaddr(body["FromEmailAddress"])[1]
        if self.identities is not None and sender.rpartition("@")[2] not in self.identities:
            text = f"Email address is not verified. These identities failed the check in region {REGION}: {sender}"
            return error(400, "MessageRejected", text)
        if not body["FromEmailAddress"].isascii() or not all(address.isascii() for address in recipients):
            return error(400, "BadRequestException", "Local address contains control or whitespace")
        if any(address in self.rejects for address in recipients):
            for address in recipients:
                self.seen.refused[address] += 1
            return error(400, "MessageRejected", "Address blacklisted.")
        tags = {tag["Name"]: tag["Value"] for tag in body.get("EmailTags", [])}
        if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,256}", part) for pair in tags.items() for part in pair):
            return error(400, "BadRequestException", "Invalid tag")
        self.mails.append(body)
        for address in destination["ToAddresses"]:
            self.seen.take(address, tags.get("hg-attempt"), _text(body["Content"]))
        return Response.of(200, {"MessageId": f"0109019361a2b3c4-{len(self.mails):08d}-000000"})


def _decoded(body: Any) -> Any:
    """The model's blobs are bytes; on the wire they are base64."""
    match body:
        case {"Content": {"Raw": {"Data": str(data)}}}:
            return {**body, "Content": {"Raw": {"Data": base64.b64decode(data, validate=True)}}}
    return body


def _text(content: dict[str, Any]) -> str:
    if "Raw" in content:
        return base64.b64decode(content["Raw"]["Data"]).decode("latin-1")
    return next(iter(content["Simple"]["Body"].values()))["Data"]


def _signature(request: Request, signed: list[str], region: str, service: str, timestamp: str) -> str:
    """By botocore; of the headers only those that were signed take part."""
    url = f"http://{request.headers['host']}{request.target}"
    headers = {name: request.headers[name] for name in signed}
    aws = AWSRequest(method=request.method, url=url, data=request.body, headers=headers)
    aws.context["timestamp"] = timestamp
    auth = SigV4Auth(Credentials(ACCESS_KEY, SECRET), service, region)
    auth.add_auth = None  # the three steps below, without its own clock
    canonical = auth.canonical_request(aws)
    return auth.signature(auth.string_to_sign(aws, canonical), aws)
