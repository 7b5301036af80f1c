"""SendGrid's mail/send, scopes and credits, as strict as the API reference and its list of errors."""

from __future__ import annotations

import base64
import json
import re
from collections import deque
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


CREDITS: Final = {
    "remain": 40,
    "total": 100,
    "overage": 0,
    "used": 60,
    "last_reset": "2026-11-01",
    "next_reset": "2026-12-01",
    "reset_frequency": "monthly",
}


class Fault(Exception):
    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.response = Response.of(400, {"errors": [{"message": message, "field": field, "help": None}]})


class SendGrid(Api):
    """`senders`: verified domains; None verifies everybody. `pools`, `groups`: what the account has. `scopes`: what the
    key may. `calls_left` and `reset_s`: what the rate headers say of mail/send, if anything; without calls left it
    answers 429. `play`: whole answers for the next calls to mail/send, which then take nothing."""

    def __init__(self, senders: set[str] | None = None) -> None:
        super().__init__()
        self.senders = senders
        self.pools = {"transactional", "marketing"}
        self.groups = {7, 10}
        self.scopes = ["mail.send", "alerts.read"]
        self.calls_left: int | None = None
        self.reset_s = 0
        self.play: deque[Response] = deque()
        self.sent = 0

    def handle(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return self.unauthorized()
        match request.method, request.path:
            case "POST", "/v3/mail/send":
                return self._send(request)
            case "GET", "/v3/scopes":
                return Response.of(200, {"scopes": self.scopes})
            case "GET", "/v3/user/credits" if "user.credits.read" in self.scopes:
                return Response.of(200, CREDITS)
            case "GET", "/v3/user/credits":
                return Response.of(403, {"errors": [{"message": "access forbidden", "field": None}]})
        return Response.of(404, {"errors": [{"message": "not found", "field": None}]})

    def refuse(self, request: Request) -> Response:
        for entry in (request.json() or {}).get("personalizations", []):
            self.seen.refused[entry["to"][0]["email"]] += 1
        return Fault("The content is not allowed.", "content").response

    def unauthorized(self) -> Response:
        text = "The provided authorization grant is invalid, expired, or revoked"
        return Response.of(401, {"errors": [{"message": text, "field": None, "help": None}]})

    def _send(self, request: Request) -> Response:
        if self.calls_left is None:
            return self._judge(request)
        if self.calls_left == 0:
            return Response.of(429, {"errors": [{"field": None, "message": "too many requests"}]}, *self._rate())
        self.calls_left -= 1
        response = self._judge(request)
        return Response(response.status, response.body, (*response.headers, *self._rate()))

    def _rate(self) -> tuple[tuple[str, str], ...]:
        told = {"limit": 600, "remaining": self.calls_left, "reset": self.reset_s}
        return tuple((f"x-ratelimit-{name}", str(value)) for name, value in told.items())

    def _judge(self, request: Request) -> Response:
        if self.play:
            return self.play.popleft()
        if request.headers.get("content-type") != "application/json":
            return Response.of(415, {"errors": [{"message": "Unsupported media type"}]})
        if len(request.body) >= 30_000_000:
            return Response.of(413, {"errors": [{"message": "Payload Too Large", "field": None}]})
        body = request.json()
        try:
            _check(body)
            self._check_account(body)
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

    def _check_account(self, body: Any) -> None:
        pool, group = body.get("ip_pool_name"), body.get("asm", {}).get("group_id")
        if pool is not None and pool not in self.pools:
            raise Fault("The IP Pool name must be a valid pool name for your account.", "ip_pool_name")
        if group is not None and group not in self.groups:
            raise Fault("The ASM group ID must be a valid Group ID on your account.", "asm.group_id")


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
    for number, attachment in enumerate(body.get("attachments", [])):
        _attachment(attachment, f"attachments.{number}")
    _categories(body.get("categories", []))
    if "asm" in body and (unknown_keys(body["asm"], {"group_id"}) or type(body["asm"]["group_id"]) is not int):
        raise Fault("The ASM group ID must be an integer.", "asm.group_id")
    if not 2 <= len(body.get("ip_pool_name", "ok")) <= 64:
        raise Fault("The name of your IP pool must be a string of 2 to 64 characters.", "ip_pool_name")
    for name, setting in body.get("tracking_settings", {}).items():
        if name not in ("click_tracking", "open_tracking") or type(setting.get("enable")) is not bool:
            raise Fault("The tracking setting is not valid.", f"tracking_settings.{name}")


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
    if entry.get("subject", "…") == "":
        raise Fault("The subject of your email must be a string at least one character in length.", f"{where}.subject")
    _arguments(entry, where)
    _own_headers(entry.get("headers", {}), f"{where}.headers")
    return len(addresses)


def _arguments(entry: Any, where: str) -> None:
    arguments = entry.get("custom_args", {"none": "given"})
    if not arguments:
        raise Fault("custom_args cannot be empty.", f"{where}.custom_args")
    if not all(isinstance(value, str) for value in arguments.values()):
        raise Fault("All values of custom arguments object must be strings", f"{where}.custom_args")
    if len(json.dumps(arguments)) > 10_000:
        raise Fault("Custom arguments may not exceed 10,000 bytes per personalization.", f"{where}.custom_args")


def _own_headers(headers: Any, where: str) -> None:
    names = [name.lower() for name in headers]
    if not all(isinstance(value, str) for value in headers.values()):
        raise Fault("All values of the headers object must be strings.", where)
    if len(set(names)) < len(names):
        raise Fault("The headers cannot contain duplicate keys.", where)
    if not all(re.fullmatch(r"[!-9;-~]+", name) for name in names):
        raise Fault("Header keys cannot contain non-ASCII characters or empty spaces.", where)
    if not REFUSED_HEADERS.isdisjoint(names):
        raise Fault("Header cannot be one of the reserved keys.", where)


def _attachment(attachment: Any, where: str) -> None:
    if unknown_keys(attachment, ATTACHMENT):
        raise Fault("Additional property is not allowed", where)
    try:
        if not base64.b64decode(attachment["content"], validate=True):
            raise Fault("The attachment content must be a string at least one character in length.", f"{where}.content")
    except ValueError:
        raise Fault("The attachment content must be base64 encoded.", f"{where}.content") from None
    for name in ("filename", "type", "content_id"):
        if re.search(r"[;,\r\n]", attachment.get(name, "")):
            raise Fault(f"The {name} of your attachment cannot contain ';', ',' or CRLF characters.", f"{where}.{name}")
    if not attachment.get("filename"):
        raise Fault("filename is required.", f"{where}.filename")
    if attachment.get("disposition", "attachment") not in ("attachment", "inline"):
        raise Fault('The disposition can be either "inline" or "attachment".', f"{where}.disposition")


def _categories(categories: Any) -> None:
    if not isinstance(categories, list) or not all(isinstance(category, str) for category in categories):
        raise Fault("Categories must be an array of strings.", "categories")
    if len(categories) > 10:
        raise Fault("There is a limit of 10 categories for each email that is sent.", "categories")
    if len(set(categories)) < len(categories):
        raise Fault("The categories must be a unique list.", "categories")
    if any(len(category) > 255 for category in categories):
        raise Fault("Each category must not be longer than 255 characters.", "categories")
    if not all(category.isascii() for category in categories):
        raise Fault("Categories can not contain non-ASCII characters.", "categories")


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
