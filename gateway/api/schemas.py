"""What comes in and what goes out, as the OpenAPI page shows it.

Bodies and queries are pydantic models, strict (a number is no string) and closed (an unknown field is a fault); what
they cannot say by type, their validators say in words that end in the answer's `errors`. Answers are typed dicts: plain
dicts at run time, checked by the type checker where they are made.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from heliograph.actors.model import duration
from heliograph.actors.model.access import MOST_LIMIT, TENANT_PATTERN
from heliograph.actors.policy import mail
from heliograph.gateway.addresses import address_fault, mailbox_fault, number_fault, sms_fault
from heliograph.gateway.api.idempotency import item_key_fault
from heliograph.gateway.problems import Problem

MOST_COPIES: Final = 50
MOST_TEXT: Final = 50_000
MOST_METADATA_BYTES: Final = 16_384
MOST_BATCH: Final = 1000
MOST_IDS: Final = 10_000

# ------------------------------------------------------------------------------------------------ small types


def checked(fault_of: Callable[[str], str | None]) -> AfterValidator:
    """A validator out of a function that names the fault, or answers None."""

    def check(value: str) -> str:
        if (fault := fault_of(value)) is not None:
            raise PydanticCustomError("fault", "{fault}", {"fault": fault})
        return value

    return AfterValidator(check)


def fault(detail: str) -> PydanticCustomError:
    return PydanticCustomError("fault", "{fault}", {"fault": detail})


_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339, 5.6
LAST_YEAR: Final = 9000


def parse_instant(value: object) -> datetime:
    """A time of RFC 3339 with its offset, in UTC."""
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise fault("must be a time of RFC 3339 with its offset, such as 2026-11-24T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise fault("is no time that exists") from None
    if not 1970 <= moment.year <= LAST_YEAR:
        raise fault(f"must lie between the years 1970 and {LAST_YEAR}")
    return moment


def _parse_seconds(value: object) -> float:
    if not isinstance(value, str):
        raise fault('must be a duration, such as "90s" or "1h30m"')
    try:
        seconds = duration.parse_duration(value)
    except ValueError as error:
        raise fault(str(error)) from None
    if seconds <= 0:
        raise fault("must be longer than nothing")
    return seconds


def _base64_fault(value: str) -> str | None:
    try:
        binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        return "must be standard base64, padded, without line breaks"
    return None


def _blank_fault(value: str) -> str | None:
    return None if value.strip() else "is empty: there is nothing but blanks in it"


def _file_name_fault(value: str) -> str | None:
    if "/" in value or "\\" in value:
        return "must be a file's name without folders"
    return mail.text_fault(value)


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(orjson.dumps(value))
    except TypeError:  # what JSON can hold and we cannot: a lone surrogate, which is reported by itself
        return value
    if size > MOST_METADATA_BYTES:
        raise fault(f"is {size} bytes of JSON; at most {MOST_METADATA_BYTES} are kept")
    return value


def _headers(value: dict[str, str]) -> dict[str, str]:
    faults = [f"{name[:80]!r}: {found}" for name, text in value.items() if (found := mail.header_fault(name, text))]
    if faults:
        raise fault("; ".join(faults))
    return value


Instant = Annotated[datetime, BeforeValidator(parse_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Seconds = Annotated[
    float,
    BeforeValidator(_parse_seconds),
    WithJsonSchema({"type": "string", "pattern": duration.PATTERN, "examples": ["1h30m"]}),
]
MobileNumber = Annotated[
    str,
    checked(sms_fault),
    WithJsonSchema({"type": "string", "pattern": r"^\+[1-9][0-9]{4,14}$", "examples": ["+919876540000"]}),
]
Address = Annotated[
    str,
    checked(address_fault),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": 254, "examples": ["asha@example.com"]}),
]
Mailbox = Annotated[str, checked(mailbox_fault), Field(examples=["Shop <hi@example.com>"])]
Copies = Annotated[list[Address], Field(max_length=MOST_COPIES)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]
ShortText = Annotated[str, Field(min_length=1, max_length=500)]
Id = Annotated[str, Field(min_length=1, max_length=64)]
ProviderName = Annotated[str, Field(min_length=1, max_length=64)]

ChannelName = Literal["sms", "email"]
PriorityName = Literal["urgent", "normal", "bulk"]
CategoryName = Literal["otp", "transactional", "service", "promotional"]
StateName = Literal[
    "scheduled", "queued", "sending", "sent", "delivered", "undelivered", "failed", "expired", "cancelled", "suppressed"
]
ReasonName = Literal[
    "rejected", "attempts_exhausted", "unknown", "poison", "internal", "no_route", "undelivered", "expired",
    "no_receipt",
]  # fmt: skip
WaitingForName = Literal["rate", "breaker", "backoff", "window", "quota", "paused", "send_at", "receipt", "provider"]
SuppressionReasonName = Literal["bounce", "complaint", "unsubscribe", "invalid", "carrier_block", "manual"]
DeadLetterStateName = Literal["open", "redriven", "archived", "discarded", "settled"]
BreakerStateName = Literal["closed", "open", "half_open"]
Scope = Literal[
    "messages:write", "messages:read", "dead_letters:write", "dead_letters:read", "providers:write",
    "providers:read", "admin",
]  # fmt: skip


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    not_available: ClassVar[frozenset[str]] = frozenset()
    """Fields that the service will know, and this version does not."""


# ----------------------------------------------------------------------------------------------- messages, in


class SmsOptions(Body):
    sender_id: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[ -~]+$")] | None = None
    dlt_template_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")] | None = None
    dlt_entity_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")] | None = None
    dlt_variables: Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=100)] = Field(
        default_factory=list  # a default that is a list itself would be copied deeply for each message
    )


class AttachmentBody(Body):
    filename: Annotated[str, Field(min_length=1, max_length=255), checked(_file_name_fault)]
    content_type: Annotated[str, checked(mail.content_type_fault)] = "application/octet-stream"
    content: Annotated[str, checked(_base64_fault), WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
    content_id: Annotated[str, checked(mail.content_id_fault)] | None = None


class MessageCommon(Body):
    not_available = frozenset({"template", "variables", "fallback", "webhook_url"})

    channel: ChannelName
    priority: PriorityName = "normal"
    category: CategoryName = "transactional"
    send_at: Instant | None = None
    expires_at: Instant | None = None
    tags: Annotated[list[Tag], Field(max_length=20)] = Field(default_factory=list)
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] = Field(default_factory=dict)
    providers: Annotated[list[ProviderName], Field(min_length=1, max_length=50)] | None = None


class SmsBody(MessageCommon):
    """An SMS, as posted."""

    channel: Literal["sms"]
    to: MobileNumber
    text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT), checked(_blank_fault)]
    sms: SmsOptions | None = None


class EmailBody(MessageCommon):
    """An email, as posted: with `text`, `html`, or both."""

    channel: Literal["email"]
    to: Address
    subject: Annotated[str, Field(min_length=1, max_length=998), checked(mail.text_fault)]
    text: Annotated[str, Field(min_length=1)] | None = None
    html: Annotated[str, Field(min_length=1)] | None = None
    sender: Mailbox | None = Field(None, alias="from")
    reply_to: Mailbox | None = None
    cc: Copies = Field(default_factory=list)
    bcc: Copies = Field(default_factory=list)
    headers: Annotated[dict[str, str], Field(max_length=50), AfterValidator(_headers)] = Field(default_factory=dict)
    attachments: Annotated[list[AttachmentBody], Field(max_length=100)] = Field(default_factory=list)


ItemKey = Annotated[str, checked(item_key_fault)]


class SmsItem(SmsBody):
    """An SMS in a batch."""

    idempotency_key: ItemKey | None = None


class EmailItem(EmailBody):
    """An email in a batch."""

    idempotency_key: ItemKey | None = None


class BatchBody(Body):
    messages: Annotated[list[SmsItem | EmailItem], Field(min_length=1, max_length=MOST_BATCH)]


# ---------------------------------------------------------------------------------------------- messages, out


WaitingAnswer = TypedDict(  # in this form, because `for` is a keyword
    "WaitingAnswer", {"for": WaitingForName, "provider": str | None, "until": datetime | None}
)


class AttemptAnswer(TypedDict):
    number: int
    provider: str
    started_at: datetime
    finished_at: datetime | None
    outcome: Literal["accepted", "rejected", "deferred", "throttled", "misconfigured", "unknown"] | None
    code: str | None
    detail: str | None
    provider_message_id: str | None
    settled: Literal["accepted", "rejected", "not_sent"] | None
    settled_at: datetime | None


class MessageAnswer(TypedDict):
    """A message, as answered."""

    id: str
    state: StateName
    channel: ChannelName
    to: str
    priority: PriorityName
    category: CategoryName
    provider: str | None
    parts: int | None
    waiting: WaitingAnswer | None
    attempts: list[AttemptAnswer]
    created_at: datetime
    updated_at: datetime
    send_at: datetime | None
    expires_at: datetime
    tags: list[str]
    metadata: dict[str, Any]
    reason: ReasonName | None


class MessagePage(TypedDict):
    data: list[MessageAnswer]
    has_more: bool
    next_cursor: str | None


class ProblemItem(TypedDict):
    error: Problem


class BatchAnswer(TypedDict):
    """In the order of the request: each a message, or the problem of that one alone."""

    data: list[MessageAnswer | ProblemItem]


# -------------------------------------------------------------------------------------------- lists and queries


def _digits(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        return int(value)
    raise fault("must be a whole number")


def _query_instant(value: object) -> datetime:
    """A `+` that was not escaped has become a blank on the way: what stands before the offset can be nothing else."""
    if isinstance(value, str) and len(value) > 6 and value[-6] == " ":
        value = f"{value[:-6]}+{value[-5:]}"
    return parse_instant(value)


def _query_recipient(value: object) -> object:
    """A number whose `+` was not escaped."""
    return f"+{value[1:]}" if isinstance(value, str) and re.fullmatch(r" [0-9]+", value) else value


Limit = Annotated[int, Field(ge=1, le=200), BeforeValidator(_digits)]
Cursor = Annotated[str, Field(min_length=1, max_length=200)]
QueryInstant = Annotated[
    datetime, BeforeValidator(_query_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]
SearchText = Annotated[str, Field(min_length=1, max_length=320)]


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PageQuery(Query):
    cursor: Cursor | None = None
    limit: Limit = 50


class MessageQuery(PageQuery):
    state: StateName | None = None
    channel: ChannelName | None = None
    to: Annotated[SearchText, BeforeValidator(_query_recipient)] | None = None
    tag: SearchText | None = None
    since: QueryInstant | None = None
    until: QueryInstant | None = None


class DeadLetterCriteria(Query):
    """All given conditions hold together."""

    state: DeadLetterStateName = "open"
    channel: ChannelName | None = None
    provider: SearchText | None = None
    reason: ReasonName | None = None
    code: SearchText | None = None
    cause: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    tag: SearchText | None = None
    since: QueryInstant | None = None
    until: QueryInstant | None = None
    text: SearchText | None = None


class DeadLetterQuery(DeadLetterCriteria, PageQuery):
    pass


class GroupQuery(DeadLetterCriteria):
    limit: Limit = 50


class ProviderQuery(Query):
    view: Literal["cluster", "supervisors"] = "cluster"


# --------------------------------------------------------------------------------------------- dead letters


class DeadLetterFilterBody(DeadLetterCriteria):
    """The same words as in the query of the list."""


class OperationBody(Body):
    """On these ids, or on all that match the filter."""

    ids: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=MOST_IDS)]
        | None
    ) = None
    filter: DeadLetterFilterBody | None = None
    dry_run: bool = False
    rate: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    reason: ShortText | None = None


class DeadLetterAnswer(TypedDict):
    id: str
    state: DeadLetterStateName
    channel: ChannelName
    to: str
    reason: ReasonName
    code: str | None
    provider: str | None
    cause: str
    detail: str | None
    tags: list[str]
    attempt_count: int
    redrives: int
    created_at: datetime
    updated_at: datetime
    next_auto_retry_at: datetime | None


class DeadLetterDetail(DeadLetterAnswer):
    """`message` is the message with its attempts; null once it was deleted by age."""

    message: MessageAnswer | None


class DeadLetterPage(TypedDict):
    data: list[DeadLetterAnswer]
    has_more: bool
    next_cursor: str | None


class GroupAnswer(TypedDict):
    cause: str
    reason: ReasonName
    code: str | None
    provider: str | None
    channel: ChannelName
    count: int
    first_at: datetime
    last_at: datetime
    sample_id: str


class GroupPage(TypedDict):
    """The largest groups first; there is no next page."""

    data: list[GroupAnswer]
    has_more: bool
    next_cursor: None


class DryRunAnswer(TypedDict):
    matched: int
    eligible: int
    skipped: dict[str, int]


class FailureAnswer(TypedDict):
    id: str
    reason: str


class OperationAnswer(TypedDict):
    id: str
    kind: Literal["redrive", "archive", "discard"]
    state: Literal["running", "done", "cancelled"]
    total: int
    done: int
    failed: int
    skipped: int
    failures: list[FailureAnswer]
    created_at: datetime
    finished_at: datetime | None


# ---------------------------------------------------------------------------------------------- suppressions


class SuppressionBody(Body):
    """`to` is a number or an address, as a message's."""

    channel: ChannelName
    to: Annotated[str, Field(min_length=1, max_length=320)]
    reason: SuppressionReasonName = "manual"
    detail: ShortText | None = None

    @field_validator("to")
    @classmethod
    def _fits_its_channel(cls, to: str, info: ValidationInfo) -> str:
        match info.data.get("channel"):
            case "sms":
                found = number_fault(to)
            case "email":
                found = address_fault(to)
            case _:
                return to
        if found is not None:
            raise fault(found)
        return to


class SuppressionQuery(PageQuery):
    channel: ChannelName | None = None
    to: Annotated[SearchText, BeforeValidator(_query_recipient)] | None = None
    reason: SuppressionReasonName | None = None


class SuppressionAnswer(TypedDict):
    """`provider` and `message_id` say whose word on which message it was, where it was a provider's."""

    id: str
    tenant: str
    channel: ChannelName
    to: str
    reason: SuppressionReasonName
    detail: str | None
    provider: str | None
    message_id: str | None
    created_at: datetime


class SuppressionPage(TypedDict):
    data: list[SuppressionAnswer]
    has_more: bool
    next_cursor: str | None


# ------------------------------------------------------------------------------------------------- providers


class PauseBody(Body):
    duration: Seconds
    reason: ShortText | None = None


class BreakerBody(Body):
    """`duration` is needed for `open` and `closed`, which run out after it."""

    state: Literal["open", "closed", "auto"]
    duration: Seconds | None = None


class PausedAnswer(TypedDict):
    until: datetime
    reason: str | None


class BreakerAnswer(TypedDict):
    state: BreakerStateName
    since: datetime | None
    until: datetime | None
    forced: bool


class LimiterAnswer(TypedDict):
    rate: float
    burst: float
    effective_rate: float


class QuotaAnswer(TypedDict):
    limit: int
    remaining: int


class ProviderAnswer(TypedDict):
    """`share` is its part of what its channel's providers took over in the last minute, from 0 to 1."""

    name: str
    kind: str
    channel: ChannelName
    priority: int
    weight: int
    paused: PausedAnswer | None
    breaker: BreakerAnswer
    limiter: LimiterAnswer
    quota: QuotaAnswer | None
    in_flight: int
    share: float


class ProviderPage(TypedDict):
    data: list[ProviderAnswer]


class ReportAnswer(TypedDict):
    """One supervisor's word on one of its providers; `handled` is recipients in the last minute."""

    name: str
    breaker: BreakerAnswer
    effective_rate: float
    in_flight: int
    handled: int


class SupervisorAnswer(TypedDict):
    supervisor: str
    roles: list[str]
    metrics_url: str | None
    providers: list[ReportAnswer]


class SupervisorPage(TypedDict):
    data: list[SupervisorAnswer]


# ----------------------------------------------------------------------------------------------- keys, stats


class KeyBody(Body):
    """Without `scopes` it is an `admin` key. What a key with `live` false sends goes to the sandbox. `rate` is messages
    per second, `daily` messages per day in UTC; null: as many as there are."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)] = ["admin"]
    tenant: Annotated[str, Field(pattern=TENANT_PATTERN)] | None = None
    live: bool = True
    rate: Annotated[int, Field(ge=1, le=MOST_LIMIT)] | None = None
    daily: Annotated[int, Field(ge=1, le=MOST_LIMIT)] | None = None


class KeyAnswer(TypedDict):
    id: str
    name: str
    tenant: str
    scopes: list[Scope]
    live: bool
    rate: int | None
    daily: int | None
    created_at: datetime
    revoked_at: datetime | None


class NewKeyAnswer(KeyAnswer):
    """`key` is the secret, shown this once."""

    key: str


class KeyPage(TypedDict):
    data: list[KeyAnswer]
    has_more: bool
    next_cursor: str | None


class QueueAnswer(TypedDict):
    queue: str
    depth: int
    oldest_age_seconds: float


class RatesAnswer(TypedDict):
    accepted: float
    sent: float
    failed: float


class StatsAnswer(TypedDict):
    messages: dict[str, dict[str, int]]
    queues: list[QueueAnswer]
    dead_letters: dict[str, int]
    rates: RatesAnswer


class CheckAnswer(TypedDict):
    ok: bool
    detail: str
    required: bool


class ReadyAnswer(TypedDict):
    checks: dict[str, CheckAnswer]


class LiveAnswer(TypedDict):
    status: Literal["live"]
