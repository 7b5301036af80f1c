"""SendGrid's mail/send and scopes, as strict as the API reference."""

from __future__ import annotations

import re
from typing import Any, Final

from tests.support.emulators.server import Api, Request, Response, unknown_keys

KEY: Final = "SG.test-key"
ADDRESS: Final = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
TOP: Final = {
    "personalizations", "from", "reply_to", "reply_to_list", "subject", "content", "attachments", "template_id",
    "headers", "categories", "custom_args", "send_at", "batch_id", "asm", "ip_pool_name", "mail_settings",
    "tracking_settings",
}  # fmt: skip
ATTACHMENT: Final = {"content", "filename", "type", "disposition", "content_id"}
PERSONAL: Final = {"to", "cc", "bcc", "from", "subject", "headers", "substitutions", "custom_args", "send_at"}
REFUSED_HEADERS: Final = {
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to", "from",
    "subject", "reply-to", "cc", "bcc",
}  # fmt: skip


class Fault(Exception):
    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.response = Response.of(400, {"errors": [{"message": message, "field": field, "help": None}]})


class SendGrid(Api):
    """`senders`: verified domains; None verifies everybody."""

    def __init__(self, senders: set[str] | None = None) -> None:
        super().__init__()
        self.senders = senders
        self.sent = 0

    def handle(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return self.unauthorized()
        match request.method, request.path:
            case "POST", "/v3/mail/send":
                return self._send(request)
            case "GET", "/v3/scopes":
                return Response.of(200, {"scopes": ["mail.send", "alerts.read"]})
        return Response.of(404, {"errors": [{"message": "not found", "field": None}]})

    def refuse(self, request: Request) -> Response:
        for entry in (request.json() or {}).get("personalizations", []):
            self.seen.refused[entry["to"][0]["email"]] += 1
        return Fault("The content is not allowed.", "content").response

    def unauthorized(self) -> Response:
        text = "The provided authorization grant is invalid, expired, or revoked"
        return Response.of(401, {"errors": [{"message": text, "field": None, "help": None}]})

    def _send(self, request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":
            return Response.of(415, {"errors": [{"message": "Unsupported media type"}]})
        body = request.json()
        try:
            _check(body)
            for number, entry in enumerate(body["personalizations"]):
                if entry["to"][0]["email"] in self.rejects:
                    self.seen.refused[entry["to"][0]["email"]] += 1
                    raise Fault("Does not contain a valid address.", f"personalizations.{number}.to.0.email")
        except Fault as fault:
            return fault.response
        domain = body["from"]["email"].rpartition("@")[2]
        if self.senders is not None and domain not in self.senders:
            text = "The from address does not match a verified Sender Identity."
            return Response.of(403, {"errors": [{"message": text, "field": "from", "help": None}]})
        if body.get("mail_settings", {}).get("sandbox_mode", {}).get("enable"):
            return Response(200)
        for entry in body["personalizations"]:
            self.seen.take(
                entry["to"][0]["email"], entry.get("custom_args", {}).get("hg_attempt"), body["content"][0]["value"]
            )
        self.sent += 1
        return Response(202, b"", (("x-message-id", f"sg-{self.sent}"),))


def _check(body: Any) -> None:
    if not isinstance(body, dict):
        raise Fault("Bad Request")
    if wrong := unknown_keys(body, TOP):
        raise Fault(f"Additional property {wrong[0]} is not allowed", wrong[0])
    entries = body.get("personalizations")
    if not isinstance(entries, list) or not 1 <= len(entries) <= 1000:
        raise Fault("The personalizations field is required, with at least one.", "personalizations")
    _mailbox(body.get("from"), "from")
    if "reply_to" in body:
        _mailbox(body["reply_to"], "reply_to")
    total = sum(_personalization(entry, f"personalizations.{number}") for number, entry in enumerate(entries))
    if total > 1000:
        raise Fault("The total number of recipients must be no more than 1000.", "personalizations")
    if not body.get("subject") and not all(entry.get("subject") for entry in entries):
        raise Fault("The subject is required.", "subject")
    _content(body.get("content"))
    for attachment in body.get("attachments", []):
        if unknown_keys(attachment, ATTACHMENT) or not attachment["content"]:
            raise Fault("The attachment is not valid.", "attachments")


def _personalization(entry: Any, where: str) -> int:
    if not isinstance(entry, dict) or unknown_keys(entry, PERSONAL):
        raise Fault("Additional property is not allowed", where)
    if not entry.get("to"):
        raise Fault("The to array is required for all personalization objects.", f"{where}.to")
    addresses = []
    for place in ("to", "cc", "bcc"):
        for number, mailbox in enumerate(entry.get(place, [])):
            _mailbox(mailbox, f"{where}.{place}.{number}")
            if re.search(r"[,;]", mailbox.get("name", "")):
                raise Fault("The name must not contain a comma or a semicolon.", f"{where}.{place}.{number}.name")
            addresses.append(mailbox["email"].lower())
        if place in entry and not entry[place]:
            raise Fault("The array must not be empty.", f"{where}.{place}")
    if len(set(addresses)) < len(addresses):
        raise Fault("Each email address in the personalization block should be unique.", where)
    arguments = entry.get("custom_args", {})
    if not all(isinstance(value, str) for value in arguments.values()):
        raise Fault("custom_args must be strings.", f"{where}.custom_args")
    if refused := REFUSED_HEADERS & {name.lower() for name in entry.get("headers", {})}:
        raise Fault(f"The header {refused.pop()} is not allowed.", f"{where}.headers")
    return len(addresses)


def _mailbox(mailbox: Any, where: str) -> None:
    if not isinstance(mailbox, dict) or unknown_keys(mailbox, {"email", "name"}):
        raise Fault("Bad Request", where)
    if not isinstance(mailbox.get("email"), str) or not ADDRESS.fullmatch(mailbox["email"]):
        raise Fault("Does not contain a valid address.", f"{where}.email")


def _content(content: Any) -> None:
    if not isinstance(content, list) or not content:
        raise Fault("Unless a valid template_id is provided, the content parameter is required.", "content")
    kinds = [part.get("type") for part in content]
    if kinds not in (["text/plain"], ["text/html"], ["text/plain", "text/html"]):
        raise Fault("If present, text/plain content must be first, followed by text/html content.", "content")
    if not all(part.get("value") for part in content):
        raise Fault("The content value must be a string at least one character in length.", "content.0.value")
