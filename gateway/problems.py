"""Every error that the API answers: RFC 9457 problem details, from one table.

A handler raises `Refused`; errors of the ports become one by `refusal_of`. Whatever else escapes is `internal`, of
which the client learns the request's id and nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NotRequired

from typing_extensions import TypedDict

from heliograph.actors.model.errors import (
    Conflict,
    HeliographError,
    IdempotencyMismatch,
    LedgerDown,
    MailboxFull,
    NotFound,
)


class Code(StrEnum):
    """What went wrong, for programs; the page at `/docs` explains each."""

    MALFORMED_JSON = "malformed_json"
    MALFORMED_REQUEST = "malformed_request"
    CONFLICTING_CREDENTIALS = "conflicting_credentials"
    UNAUTHORIZED = "unauthorized"
    NOT_GENUINE = "not_genuine"
    MISSING_SCOPE = "missing_scope"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    CONFLICT = "conflict"
    IDEMPOTENCY_IN_FLIGHT = "idempotency_in_flight"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    HEAD_TOO_LARGE = "head_too_large"
    INVALID = "invalid"
    NOT_AVAILABLE = "not_available"
    NO_ROUTE = "no_route"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    RATE_LIMITED = "rate_limited"
    DAILY_LIMIT = "daily_limit"
    FLOODED = "flooded"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Meaning:
    status: int
    title: str
    cure: str


MEANINGS: Final[Mapping[Code, Meaning]] = {
    Code.MALFORMED_JSON: Meaning(400, "The body is not JSON", "Send one JSON value in UTF-8."),
    Code.MALFORMED_REQUEST: Meaning(400, "The request cannot be read", "Send it as HTTP asks for it."),
    Code.CONFLICTING_CREDENTIALS: Meaning(
        400, "Two different API keys", "Send the key in Authorization or in X-API-Key, not another one in each."
    ),
    Code.UNAUTHORIZED: Meaning(401, "No valid API key", "Send `Authorization: Bearer KEY` with a key in force."),
    Code.NOT_GENUINE: Meaning(
        401, "It is not known to be from the provider", "Compare [providers.receipts] with what the provider has."
    ),
    Code.MISSING_SCOPE: Meaning(403, "The API key may not do this", "Use a key with the scope that is named."),
    Code.NOT_FOUND: Meaning(404, "There is no such thing", "Look at the address and at the id."),
    Code.METHOD_NOT_ALLOWED: Meaning(405, "Another method is needed", "Use one of those in the header Allow."),
    Code.REQUEST_TIMEOUT: Meaning(408, "The body came too slowly", "Send it again, in one go."),
    Code.CONFLICT: Meaning(409, "It is no longer in the state for this", "Read it again."),
    Code.IDEMPOTENCY_IN_FLIGHT: Meaning(
        409, "The first request under this key is still in flight", "Wait a second and repeat it."
    ),
    Code.TOO_LARGE: Meaning(413, "The body is too large", "Send less at once."),
    Code.UNSUPPORTED_MEDIA_TYPE: Meaning(415, "The body is not announced as JSON", "Send `application/json`."),
    Code.HEAD_TOO_LARGE: Meaning(431, "The headers are too large", "Send fewer and shorter headers."),
    Code.INVALID: Meaning(422, "The request is well-formed but wrong", "Mend what `errors` names."),
    Code.NOT_AVAILABLE: Meaning(422, "This version does not have it", "Leave the fields out that `errors` names."),
    Code.NO_ROUTE: Meaning(
        422, "No provider could ever take this message", "Change the message, or configure a provider that takes it."
    ),
    Code.TOO_MANY_RECIPIENTS: Meaning(
        422, "More recipients than any provider takes at once", "Write to fewer in `cc` and `bcc`."
    ),
    Code.IDEMPOTENCY_MISMATCH: Meaning(
        422, "The idempotency key was used with another body", "Use a new key for a new request."
    ),
    Code.RATE_LIMITED: Meaning(
        429, "More messages a second than the API key may send", "Repeat it after the time in Retry-After."
    ),
    Code.DAILY_LIMIT: Meaning(
        429, "More messages a day than the API key may send", "Repeat it after the time in Retry-After."
    ),
    Code.FLOODED: Meaning(
        429, "The API key has more under way than its share", "Send fewer requests at once, and repeat this one."
    ),
    Code.INTERNAL: Meaning(500, "Something went wrong here", "Report the request's id."),
    Code.UNAVAILABLE: Meaning(503, "It cannot be done just now", "Repeat it after the time in Retry-After."),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with what came in. `pointer` is a JSON pointer (`#/to`) or a parameter (`?limit`)."""

    pointer: str
    detail: str
    code: Code = Code.INVALID


class FaultAnswer(TypedDict):
    pointer: str
    detail: str


class Problem(TypedDict):
    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: NotRequired[list[FaultAnswer]]


@dataclass(frozen=True, slots=True)
class Refusal:
    code: Code
    detail: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return MEANINGS[self.code].status

    def problem(self, request_id: str) -> Problem:
        meaning = MEANINGS[self.code]
        problem = Problem(
            type=f"/docs#{self.code}",
            title=meaning.title,
            status=meaning.status,
            detail=self.detail,
            code=self.code,
            request_id=request_id,
        )
        if self.faults:
            problem["errors"] = [{"pointer": f.pointer, "detail": f.detail} for f in self.faults[:MOST_FAULTS]]
        return problem


MOST_FAULTS: Final = 100
LEDGER_RETRY_S: Final = 5
SHED_RETRY_S: Final = 1


class Refused(HeliographError):
    """A request is answered with this problem."""

    def __init__(
        self, code: Code, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code, detail, tuple(faults), headers or {})

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        return cls(refusal.code, refusal.detail, refusal.faults, refusal.headers)


def new_request_id() -> str:
    return f"req_{os.urandom(12).hex()}"


def invalid(faults: Sequence[Fault]) -> Refusal:
    """One refusal for everything that is wrong. What this version lacks is the stronger word: who mends the rest
    would still be refused."""
    lacking = [fault for fault in faults if fault.code is Code.NOT_AVAILABLE]
    code = Code.NOT_AVAILABLE if lacking else Code.INVALID
    first = (lacking or faults)[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Refusal(code, f"{first.pointer} {first.detail}{more}", tuple(faults))


def refusal_of(error: BaseException) -> Refusal:
    match error:
        case Refused():
            return error.refusal
        case LedgerDown():
            return unavailable(
                "the store of messages does not answer; nothing is known of this request", LEDGER_RETRY_S
            )
        case MailboxFull():
            return unavailable("more comes in than can be committed; nothing was accepted", SHED_RETRY_S)
        case NotFound():
            return Refusal(Code.NOT_FOUND, str(error) or "there is no such thing")
        case Conflict():
            return Refusal(Code.CONFLICT, str(error) or "it is no longer in the state for this")
        case IdempotencyMismatch():
            return Refusal(Code.IDEMPOTENCY_MISMATCH, str(error) or "the idempotency key was used with another body")
        case _:
            return Refusal(Code.INTERNAL, "this request failed; the log knows it by its id")


def unavailable(detail: str, retry_after_s: int) -> Refusal:
    return Refusal(Code.UNAVAILABLE, detail, headers={"Retry-After": str(retry_after_s)})


def refusal_of_status(status: int, headers: Mapping[str, str]) -> Refusal:
    """For what the web framework refuses by itself."""
    match status:
        case 404:
            return Refusal(Code.NOT_FOUND, "there is nothing at this address")
        case 405:
            allow = headers.get("Allow", "")
            return Refusal(
                Code.METHOD_NOT_ALLOWED, f"this address takes {allow or 'no method'}", headers={"Allow": allow}
            )
        case 408:
            return Refusal(Code.REQUEST_TIMEOUT, "the body did not come in time")
        case 413:
            return Refusal(Code.TOO_LARGE, "the body is too large")
        case _ if 400 <= status < 500:
            return Refusal(Code.MALFORMED_REQUEST, "the request cannot be read")
        case _:
            return Refusal(Code.INTERNAL, "this request failed; the log knows it by its id")
