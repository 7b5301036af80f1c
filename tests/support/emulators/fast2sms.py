"""Fast2SMS' bulkV2 and wallet: its codes, and the habit of saying no by `return`."""

from __future__ import annotations

import re
from typing import Any, Final

from tests.support.emulators.server import Api, Request, Response, unknown_keys
from tests.support.emulators.texts import is_gsm

KEY: Final = "fast2sms-test-key"
FIELDS: Final = {
    "route", "sender_id", "message", "variables_values", "numbers", "template_id", "entity_id", "language", "flash",
    "schedule_time", "sms_details", "udf1", "udf2", "udf3",
}  # fmt: skip
MOBILE: Final = re.compile(r"[6-9][0-9]{9}")


class Refusal(Exception):
    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.response = Response.of(status, {"return": False, "status_code": code, "message": message})


class Fast2Sms(Api):
    """`templates`: the texts that DLT knows, as patterns; None takes any text."""

    def __init__(self, wallet: float = 1_000_000, templates: list[str] | None = None) -> None:
        super().__init__()
        self.wallet = wallet
        self.templates = templates

    def handle(self, request: Request) -> Response:
        if request.headers.get("authorization") != KEY:
            return self.unauthorized()
        match request.method, request.path:
            case "POST", "/dev/bulkV2":
                return self._send(request.json())
            case "POST", "/dev/wallet":
                return Response.of(200, {"return": True, "wallet": f"{self.wallet:.2f}", "sms_count": 1000})
            case _, "/dev/bulk":
                return Refusal(990, "You are using old api").response
        return Response(404, b"<html>Not Found</html>")

    def refuse(self, request: Request) -> Response:
        for number in (request.json() or {}).get("numbers", "").split(","):
            self.seen.refused[f"+91{number}"] += 1
        return Refusal(407, "Message contains forbidden words").response

    def unauthorized(self) -> Response:
        return Refusal(412, "Invalid Authentication, Check Authorization Key", 401).response

    def _send(self, body: Any) -> Response:
        try:
            numbers = self._check(body)
        except Refusal as refusal:
            return refusal.response
        self.wallet -= 0.2 * len(numbers)
        text = body.get("message") or body.get("variables_values", "")
        for number in numbers:
            self.seen.take(f"+91{number}", body.get("udf1"), text)
        answer: dict[str, object] = {
            "return": True,
            "request_id": f"lwdtp{self.seen.calls:010d}",
            "message": ["SMS sent successfully."],
        }
        if body.get("sms_details") == "1":
            answer["sms_details"] = {"character_count": len(text), "sms_count": 1, "amount_debited": "0.20"}
        return Response.of(200, answer)

    def _check(self, body: Any) -> list[str]:
        if not isinstance(body, dict) or unknown_keys(body, FIELDS):
            raise Refusal(400, "unknown fields")
        route = body.get("route")
        if not route:
            raise Refusal(403, "Route Id Is Missing")
        if route not in ("dlt", "dlt_manual", "q", "otp"):
            raise Refusal(408, "Invalid Route")
        self._check_route(route, body)
        if not body.get("numbers"):
            raise Refusal(405, "Numbers Field Is Missing")
        numbers = body["numbers"].split(",")
        if not all(MOBILE.fullmatch(number) for number in numbers):
            raise Refusal(411, "Invalid Numbers")
        if route == "otp" and len(numbers) > 1:
            raise Refusal(998, "OTP route is not for bulk")
        for number in numbers:
            if f"+91{number}" in self.rejects:
                self.seen.refused[f"+91{number}"] += 1
                raise Refusal(411, "Invalid Numbers")
        if self.wallet < 0.2 * len(numbers):
            raise Refusal(416, "You don't have sufficient wallet balance")
        return numbers

    def _check_route(self, route: str, body: dict[str, Any]) -> None:
        if route in ("dlt", "dlt_manual"):
            if not body.get("sender_id"):
                raise Refusal(401, "Sender ID Field Is Missing")
            if not re.fullmatch(r"[A-Za-z]{3,6}", body["sender_id"]):
                raise Refusal(406, "Invalid Sender ID")
        if route != "otp" and not body.get("message"):
            raise Refusal(402, "Message Field Is Missing")
        if route == "dlt" and not body["message"].isdecimal():
            raise Refusal(424, "Invalid Message ID")
        known = self.templates if route == "dlt_manual" else None
        if known is not None and not any(re.fullmatch(pattern, body["message"]) for pattern in known):
            raise Refusal(425, "Message does not match the template")
        if route == "q":
            if body.get("language") not in ("english", "unicode"):
                raise Refusal(410 if body.get("language") else 404, "language")
            if body["language"] == "english" and not is_gsm(body["message"]):
                raise Refusal(417, "Use language unicode")
        if route == "otp" and not body.get("variables_values", "").isdecimal():
            raise Refusal(997, "OTP route takes digits only")
