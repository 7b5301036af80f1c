"""BulkSMS' messages and profile, as strict as its API description, deduplication included."""

from __future__ import annotations

import base64
import itertools
import re
from typing import Any, Final

from tests.support.emulators.server import Api, Request, Response, unknown_keys
from tests.support.emulators.texts import is_gsm, parts

TOKEN: Final = ("token-id", "token-secret")
FIELDS: Final = {
    "to", "from", "body", "encoding", "longMessageMaxParts", "routingGroup", "deliveryReports", "userSuppliedId",
    "messageClass", "protocolId",
}  # fmt: skip
QUERY: Final = {"deduplication-id", "auto-unicode", "schedule-date", "schedule-description"}
MOST_ENTRIES: Final = 30_000
TEMPLATE_FIELD: Final = re.compile(r"\{(?:F\d+|fn|sn)#*\}", re.IGNORECASE)


def problem(status: int, fragment: str, title: str, detail: str) -> Response:
    kind = f"https://developer.bulksms.com/json/v1/errors#{fragment}"
    return Response.of(status, {"type": kind, "title": title, "status": status, "detail": detail})


class Fault(Exception):
    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.response = problem(400, "bad-request", "Bad Request", detail)


class BulkSms(Api):
    """`rejects` come back as failed messages in a list, with the subtype in `failure`."""

    def __init__(self, balance: float = 1_000_000, remaining: int = 49_990) -> None:
        super().__init__()
        self.credits = balance
        self.remaining = remaining
        self.failure = "NOT_SENT"
        self._numbers = itertools.count()
        self.messages: list[dict[str, Any]] = []
        self.answered: dict[int, Response] = {}

    def handle(self, request: Request) -> Response:
        basic = base64.b64encode(":".join(TOKEN).encode()).decode()
        if request.headers.get("authorization") != f"Basic {basic}":
            return self.unauthorized()
        match request.method, request.path:
            case "POST", "/v1/messages":
                return self._send(request)
            case "GET", "/v1/messages":
                return self._look_up(request)
            case "GET", "/v1/profile":
                return Response.of(200, self._profile())
        return problem(404, "not-found", "Not Found", "no such path")

    def refuse(self, request: Request) -> Response:
        for entry in request.json() or []:
            self.seen.refused["+" + entry["to"][0]["address"]] += 1
        return Fault("the content is not allowed").response

    def unauthorized(self) -> Response:
        return problem(401, "authentication-failed", "Unauthorized", "Full authentication is required")

    def _profile(self) -> dict[str, Any]:
        return {
            "id": "1234",
            "username": "helio",
            "created": "2024-01-01T10:00:00Z",
            "credits": {"balance": self.credits, "limit": 0, "isTransferAllowed": False},
            "quota": {"size": 50_000, "remaining": self.remaining},
            "originAddresses": {"allowed": ["HELIOG"], "isFullControlAllowed": False},
        }

    def _send(self, request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":
            return Fault("the content type must be application/json").response
        if wrong := unknown_keys(request.query, QUERY):
            return Fault(f"unknown parameter {wrong[0]}").response
        number = request.query.get("deduplication-id")
        if number is not None and not (re.fullmatch(r"-?[0-9]+", number) and -(2**31) <= int(number) < 2**31):
            return Fault("deduplication-id must be an int32").response
        if number is not None and int(number) in self.answered:
            return self.answered[int(number)]
        body = request.json()
        entries = body if isinstance(body, list) else [body]
        if not 1 <= len(entries) <= MOST_ENTRIES:
            return Fault(f"from 1 to {MOST_ENTRIES} messages in a call").response
        try:
            for entry in entries:
                _check(entry, auto_unicode=request.query.get("auto-unicode") == "true")
        except Fault as fault:
            return fault.response
        if len(entries) > self.credits:
            return problem(403, "insufficient-credits", "Forbidden", "not enough credits")
        self.credits -= len(entries)
        created = [self._create(entry, auto_unicode=request.query.get("auto-unicode") == "true") for entry in entries]
        self.messages += created
        response = Response.of(201, created)
        if number is not None:
            self.answered[int(number)] = response
        return response

    def _create(self, entry: dict[str, Any], *, auto_unicode: bool) -> dict[str, Any]:
        address = entry["to"][0]["address"].removeprefix("+")
        unicode = entry.get("encoding") == "UNICODE" or (auto_unicode and not is_gsm(entry["body"]))
        body = TEMPLATE_FIELD.sub("", entry["body"])  # nobody of that number is in the phone book
        text = body if unicode else "".join(c if is_gsm(c) else "?" for c in body)
        refused = f"+{address}" in self.rejects
        if refused:
            self.seen.refused[f"+{address}"] += 1
        else:
            self.seen.take(f"+{address}", entry.get("userSuppliedId"), text)
        status = {"type": "FAILED", "subtype": self.failure} if refused else {"type": "ACCEPTED", "subtype": None}
        return {
            "id": str(4_000_000_000 + next(self._numbers)),
            "type": "SENT",
            "from": entry.get("from", {}).get("address", "27000000000"),
            "to": address,
            "body": text,
            "encoding": "UNICODE" if unicode else "TEXT",
            "protocolId": 0,
            "messageClass": 2,
            "numberOfParts": None,
            "creditCost": None,
            "submission": {"id": "1-00000000000522347562", "date": "2026-11-24T12:00:00Z"},
            "status": {"id": f"{status['type']}.{status['subtype'] or 'null'}", **status},
            "relatedSentMessageId": None,
            "userSuppliedId": entry.get("userSuppliedId"),
        }

    def _look_up(self, request: Request) -> Response:
        filters = dict(part.split("=", 1) for part in request.query.get("filter", "").split("&") if "=" in part)
        if wrong := unknown_keys(filters, {"type", "userSuppliedId"}):
            return Fault(f"cannot filter by {wrong[0]}").response
        return Response.of(
            200, [m for m in reversed(self.messages) if all(m[name] == value for name, value in filters.items())]
        )


def _check(entry: Any, *, auto_unicode: bool) -> None:
    if not isinstance(entry, dict) or unknown_keys(entry, FIELDS):
        raise Fault("the message has unknown properties")
    to = entry.get("to")
    if not isinstance(to, list) or len(to) != 1 or set(to[0]) != {"type", "address"}:
        raise Fault("to must be an array of one recipient")
    if to[0]["type"] != "INTERNATIONAL" or not re.fullmatch(r"\+?[0-9]{7,15}", to[0]["address"]):
        raise Fault("'to' has an invalid address")
    if not isinstance(entry.get("body"), str) or not entry["body"]:
        raise Fault("body is required")
    if len(entry.get("userSuppliedId", "")) > 20:
        raise Fault("userSuppliedId has at most 20 characters")
    if not re.fullmatch(r"[ -~]*", entry.get("userSuppliedId", "")):
        raise Fault("userSuppliedId has characters that it cannot have")
    if entry.get("encoding", "TEXT") not in ("TEXT", "UNICODE", "BINARY"):
        raise Fault("encoding is not known")
    most_parts = entry.get("longMessageMaxParts", 3)
    if not isinstance(most_parts, int) or isinstance(most_parts, bool) or most_parts < 1:
        raise Fault("longMessageMaxParts must be a number")
    if entry.get("routingGroup", "STANDARD") not in ("ECONOMY", "STANDARD", "PREMIUM"):
        raise Fault("routingGroup is not known")
    if entry.get("deliveryReports", "ALL") not in ("ALL", "ERRORS", "NONE"):
        raise Fault("deliveryReports is not known")
    if parts(entry["body"], unicode=auto_unicode and not is_gsm(entry["body"])) > most_parts:
        raise Fault("the body is too long for longMessageMaxParts")
    _check_origin(entry.get("from"))


def _check_origin(origin: Any) -> None:
    if origin is None:
        return
    patterns = {"INTERNATIONAL": r"[0-9]{7,15}", "ALPHANUMERIC": r"[A-Za-z0-9 ._-]{1,11}", "SHORTCODE": r"[0-9]{1,6}"}
    if set(origin) != {"type", "address"} or not re.fullmatch(patterns.get(origin["type"], "(?!)"), origin["address"]):
        raise Fault("'from' is not a valid sender")
