"""Fast2SMS' bulkV2, custom, wallet and delivery report: its codes, and the habit of saying no by `return`.

A call is looked through field by field: each route has its own, and what does not belong there is refused with a code
that the real list does not have, 1, so that no test takes it for a documented answer.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from tests.support.emulators.server import Api, Request, Response, unknown_keys
from tests.support.emulators.texts import is_gsm, parts

KEY: Final = "fast2sms-test-key"
PRICE: Final = 0.2
MOST_IN_A_CALL: Final = 1000
MOBILE: Final = re.compile(r"[6-9][0-9]{9}")
HEADER: Final = re.compile(r"[A-Za-z]{3,6}")
DLT_ID: Final = re.compile(r"[0-9]{19}")

OF_EVERY_CALL: Final = {"route", "sms_details", "schedule_time", "udf1", "udf2", "udf3"}
OF_ROUTE: Final[dict[str, set[str]]] = {
    "dlt": {"sender_id", "message", "variables_values", "numbers", "flash"},
    "dlt_manual": {"sender_id", "message", "template_id", "entity_id", "numbers", "flash"},
    "q": {"message", "language", "numbers", "flash"},
    "otp": {"variables_values", "numbers", "flash"},
}
UDF: Final = {"udf1", "udf2", "udf3"}

MESSAGES: Final[dict[int, str]] = {
    401: "Sender ID Field Is Missing",
    402: "Message Field Is Missing",
    403: "Route Id Is Missing",
    404: "Language Field Is Missing",
    405: "Numbers Field Is Missing",
    406: "Invalid Sender Id",
    407: "Message contains forbidden words",
    408: "Invalid Route",
    409: "You are not authorized to use this route",
    410: "Invalid Language",
    411: "Invalid Numbers",
    412: "Invalid Authentication, Check Authorization Key",
    413: "Authorization Key Disabled",
    414: "IP is blacklisted from Dev API section",
    415: "Account Disabled",
    416: "You don't have sufficient wallet balance",
    417: "Use language unicode, your message contains letters that are not English",
    424: "Invalid Message ID",
    425: "Message does not match the template",
    426: "Link is not allowed in variables",
    427: "Number is in DND list",
    500: "Template or Sender ID is blacklisted at DLT",
    990: "You are using old api, use new api",
    995: "Spamming detected, same SMS to same number",
    996: "Before using OTP Message API, complete KYC",
    997: "OTP route accepts only digits",
    998: "OTP route is not for bulk",
    999: "Recharge with 100 INR before using API",
}


class Refusal(Exception):
    def __init__(self, code: int, message: str | None = None) -> None:
        said = message or MESSAGES[code]
        super().__init__(said)
        self.response = Response.of(
            401 if code in (412, 413) else 400, {"return": False, "status_code": code, "message": said}
        )


def odd(message: str) -> Refusal:
    return Refusal(1, message)


@dataclass(frozen=True, slots=True)
class Taken:
    """One message, and what a report on it would say beside its status."""

    request_id: str
    mobile: str
    text: str
    sender_id: str
    udf1: str | None

    def standard(self, status: str, **fields: Any) -> dict[str, Any]:
        """The webhook's standard body."""
        known = {
            "request_id": self.request_id,
            "mobile": self.mobile,
            "status": status,
            "status_description": "",
            "failure_reason": "",
            "sent_timestamp": 1795521660,
            "delivery_time": "2026-11-24 17:31:02",
            "delivery_timestamp": 1795521662,
            "sms_count": 1,
            "amount_debited": "0.20",
            "channel": "sms",
            "sender_id": self.sender_id,
            "udf1": self.udf1 or "",
            "post_attempt": 1,
        }
        return known | fields


class Fast2Sms(Api):
    """`templates`: the texts that DLT knows, as patterns; None takes any text. `dnd`: numbers that route `q` refuses.
    `says`: what the next calls to send are answered with, whatever they hold."""

    def __init__(self, wallet: float = 1_000_000, templates: list[str] | None = None) -> None:
        super().__init__()
        self.wallet = wallet
        self.templates = templates
        self.dnd: set[str] = set()
        self.says: deque[Response] = deque()
        self.sent: deque[Taken] = deque(maxlen=10_000)

    def say(self, code: int) -> None:
        self.says.append(Refusal(code).response)

    def handle(self, request: Request) -> Response:
        if request.headers.get("authorization") != KEY:
            return self.unauthorized()
        match request.method, request.path.split("/")[1:]:
            case "POST", ["dev", "bulkV2"]:
                return self._send(request, self._bulk)
            case "POST", ["dev", "custom"]:
                return self._send(request, self._custom)
            case "POST", ["dev", "wallet"]:
                return Response.of(200, {"return": True, "wallet": f"{self.wallet:.2f}", "sms_count": 1000})
            case "GET", ["dev", "dlr", request_id]:
                return self._report(request_id)
            case _, ["dev", "bulk"]:
                return Refusal(990).response
        return Response(404, b"<html>Not Found</html>")

    def refuse(self, request: Request) -> Response:
        body = request.json() or {}
        for entry in body.get("requests", [body]):
            for number in entry.get("numbers", "").split(","):
                self.seen.refused[f"+91{number}"] += 1
        return Refusal(407).response

    def unauthorized(self) -> Response:
        return Refusal(412).response

    def _send(self, request: Request, check: Any) -> Response:
        if self.says:
            return self.says.popleft()
        body = request.json()
        try:
            if request.headers.get("content-type") != "application/json" or not isinstance(body, dict):
                raise odd("not a JSON object")
            entries = check(body)
            self._afford(sum(len(numbers) for _, numbers in entries))
        except Refusal as refusal:
            return refusal.response
        return self._take(body, entries)

    def _bulk(self, body: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
        route = _route(body)
        if "schedule_time" in body:
            raise odd("schedule_time: nobody here asked for that")
        if body.get("sms_details", "1") not in ("0", "1"):
            raise odd("sms_details")
        return [(body, self._entry(route, body, OF_ROUTE[route] | OF_EVERY_CALL))]

    def _custom(self, body: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
        route, entries = _route(body), body.get("requests")
        if route not in ("dlt", "dlt_manual"):
            raise Refusal(408)
        if unknown_keys(body, {"route", "requests"} | UDF):
            raise odd(f"custom has no {unknown_keys(body, {'route', 'requests'} | UDF)}")
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise odd("requests: not a list of objects")
        return [(entry, self._entry(route, entry, OF_ROUTE[route])) for entry in entries]

    def _entry(self, route: str, entry: dict[str, Any], known: set[str]) -> list[str]:
        if unknown_keys(entry, known):
            raise odd(f"route {route} has no {unknown_keys(entry, known)}")
        if str(entry.get("flash", 0)) not in ("0", "1"):
            raise odd("flash")
        if not all(isinstance(value, str) for name, value in entry.items() if name != "flash"):
            raise odd("a value that is no text")
        for name in UDF & entry.keys():
            if not entry[name]:
                raise odd(f"{name} is empty")
        match route:
            case "dlt" | "dlt_manual":
                self._check_dlt(route, entry)
            case "q":
                _check_quick(entry)
            case _:
                if not re.fullmatch("[0-9]+", entry.get("variables_values", "")):
                    raise Refusal(997)
        return self._numbers(route, entry)

    def _check_dlt(self, route: str, entry: dict[str, Any]) -> None:
        if not entry.get("sender_id"):
            raise Refusal(401)
        if not HEADER.fullmatch(entry["sender_id"]):
            raise Refusal(406)
        if not entry.get("message"):
            raise Refusal(402)
        if route == "dlt":
            if not re.fullmatch(r"[0-9]{1,18}", entry["message"]):
                raise Refusal(424)
            values = entry.get("variables_values")
            if values is None or (values and not values.endswith("|")):
                raise odd("variables_values: every value is followed by |")
            if "http://" in values or "https://" in values:
                raise Refusal(426)
            return
        for name in ("template_id", "entity_id"):
            if name in entry and not DLT_ID.fullmatch(entry[name]):
                raise odd(f"{name}: 19 digits")
        known = self.templates
        if known is not None and not any(re.fullmatch(pattern, entry["message"]) for pattern in known):
            raise Refusal(425)

    def _numbers(self, route: str, entry: dict[str, Any]) -> list[str]:
        if not entry.get("numbers"):
            raise Refusal(405)
        numbers: list[str] = entry["numbers"].split(",")
        if not all(MOBILE.fullmatch(number) for number in numbers):
            raise Refusal(411)
        if route == "otp" and len(numbers) > 1:
            raise Refusal(998)
        if len(numbers) > MOST_IN_A_CALL or len(set(numbers)) < len(numbers):
            raise odd("numbers: too many, or one of them twice")
        for number in numbers:
            if f"+91{number}" in self.rejects:
                self.seen.refused[f"+91{number}"] += 1
                raise Refusal(411)
            if route == "q" and f"+91{number}" in self.dnd:
                raise Refusal(427)
        return numbers

    def _afford(self, messages: int) -> None:
        if self.wallet < PRICE * messages:
            raise Refusal(416)
        self.wallet -= PRICE * messages

    def _take(self, body: dict[str, Any], entries: list[tuple[dict[str, Any], list[str]]]) -> Response:
        request_id = f"lwdtp{self.seen.calls:010d}"
        for entry, numbers in entries:
            text = entry.get("message") or entry.get("variables_values", "")
            for number in numbers:
                self.seen.take(f"+91{number}", body.get("udf1"), text)
                self.sent.append(Taken(request_id, number, text, entry.get("sender_id", ""), body.get("udf1")))
        answer: dict[str, object] = {"return": True, "request_id": request_id, "message": ["SMS sent successfully."]}
        if body.get("sms_details") == "1":
            unicode = not is_gsm(text)
            answer["sms_details"] = {
                "character_count": len(text),
                "sms_count": parts(text, unicode=unicode) * len(numbers),
                "sms_language": "unicode" if unicode else "english",
                "per_sms_rate": f"{PRICE:.2f}",
                "amount_debited": f"{PRICE * len(numbers):.2f}",
            }
        return Response.of(200, answer)

    def _report(self, request_id: str) -> Response:
        lines = [
            {"mobile": int(taken.mobile), "sender_id": taken.sender_id, "status": "Delivered",
             "status_description": "Delivered successfully", "delivery_timestamp": 1795521662}
            for taken in self.sent
            if taken.request_id == request_id
        ]  # fmt: skip
        report = {"request_id": request_id, "delivery_status": lines}
        return Response.of(200, {"success": bool(lines), "message": "", "data": [report] if lines else []})


def _route(body: dict[str, Any]) -> str:
    route = body.get("route")
    if not route:
        raise Refusal(403)
    if route not in OF_ROUTE:
        raise Refusal(408)
    return str(route)


def _check_quick(entry: dict[str, Any]) -> None:
    if not entry.get("message"):
        raise Refusal(402)
    if not entry.get("language"):
        raise Refusal(404)
    if entry["language"] not in ("english", "unicode"):
        raise Refusal(410)
    if entry["language"] == "english" and not is_gsm(entry["message"]):
        raise Refusal(417)
