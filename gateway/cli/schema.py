"""What a configuration file may hold: one model a table, each key with its bounds, default and a line for people.

Pydantic stays at this border. `config.load` fills the models and turns them into the plain settings of
`actors.model`; the commented file, the JSON Schema and the nearest-key hints are read off the same models.
"""

from __future__ import annotations

import difflib
import math
import re
import urllib.parse
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.duration import PATTERN, parse_duration
from heliograph.actors.model.message import Category, Channel
from heliograph.actors.model.provider import QUOTA_PATTERN, UnknownRule, parse_quota
from heliograph.providers import KINDS

SANDBOX_RATE: Final = 10_000.0
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class IsDuration:
    """Marks a field whose value is seconds inside and text such as `1h30m` outside."""


class IsSecret:
    """Marks a field, or a table of fields, that is never shown."""


class IsUrl:
    """Marks a URL, whose password is never shown."""


def _duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError('should be a duration with its unit, such as "10s" or "1h30m"')


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")  # noqa: TRY004 - pydantic turns a ValueError into a fault of the key
    return value


def _listed(value: object) -> object:
    """`IN, US` from the environment is a list, as `["IN", "US"]` in a file."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def split_bind(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080`, `[::1]:8080`, or `:8080` for every address."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError('should be an address and a port, such as "127.0.0.1:8080"')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError('an IPv6 address goes into brackets: "[::1]:8080"')
    return host or "0.0.0.0", int(port)  # noqa: S104 - the one who leaves the address out asks for all


def _bind(value: str) -> str:
    split_bind(value)
    return value


def _url(*schemes: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            parts = urllib.parse.urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in schemes:
            raise ValueError(f"should be a URL beginning with {' or '.join(f'{s}://' for s in schemes)}")
        if not parts.hostname and parts.scheme in ("http", "https"):
            raise ValueError("names no host")
        return value

    return check


def _country(value: str) -> str:
    if not re.fullmatch(r"[A-Z]{2}", value):
        raise ValueError('should be a country\'s two capital letters, such as "IN"')
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error.msg}") from None
    return value


def _provider_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("should be letters, digits, dots, hyphens or underscores, at most 64, a letter or digit first")
    return value


def _quota(value: str) -> str:
    parse_quota(value)
    return value


T = TypeVar("T")
Duration = Annotated[
    float, BeforeValidator(_duration), IsDuration(), WithJsonSchema({"type": "string", "pattern": PATTERN})
]
Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
QuotaText = Annotated[str, AfterValidator(_quota), WithJsonSchema({"type": "string", "pattern": QUOTA_PATTERN})]
Listed = Annotated[list[T], BeforeValidator(_listed)]
Bind = Annotated[str, AfterValidator(_bind)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class Gateway(Table):
    """The API, its documents and the console."""

    bind: Bind = Field("127.0.0.1:8080", description="address and port")
    http_server: Literal["fast", "hypercorn"] = Field("fast", description="fast, or hypercorn (plain) for all")
    max_sms_parts: Whole = Field(10, ge=1, le=255, description="a longer SMS is refused")
    connections: Whole = Field(1000, ge=1, le=100_000, description="most that are open at a time")
    connections_per_address: Whole = Field(
        500, ge=1, le=100_000, description="most of one address; a proxy in front is one"
    )


class Monitor(Table):
    """Every supervisor: /metrics /livez /readyz."""

    bind: Bind = Field("127.0.0.1:9464", description="address and port; port 0 picks a free one and logs it")


class Redis(Table):
    """The queue: who is next. It may lose everything; only time is lost."""

    url: Annotated[str, AfterValidator(_url("redis", "rediss", "unix")), IsUrl()] = Field(
        "", description="such as redis://127.0.0.1:6379/0; of a Redis Cluster, any node"
    )


class Postgres(Table):
    """The ledger: the truth about every message."""

    url: Annotated[str, AfterValidator(_url("postgresql", "postgres")), IsUrl()] = Field(
        "", description="such as postgresql://heliograph@127.0.0.1:5432/heliograph"
    )


class Log(Table):
    """To standard error, one event a line."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug | info | warning | error")
    format: Literal["json", "text", "auto"] = Field("auto", description="json | text | auto (by terminal)")


class Routes(Table):
    """Takes only messages that match; an empty list asks nothing."""

    countries: Listed[Annotated[str, AfterValidator(_country)]] = Field([], description="of an SMS number, ISO 3166")
    tags: Listed[str] = Field([], description="any of them")
    categories: Listed[Category] = Field([], description="otp | transactional | service | promotional")


class Breaker(Table):
    """When to stop asking a provider that fails, and how to begin again."""

    failure_ratio: Real = Field(0.5, gt=0, le=1, description="of the calls in the window, failed or slow, that open it")
    minimum_calls: Whole = Field(
        20, ge=1, le=100_000, description="in the window, before the ratio counts; 5 bad ones in a row open it too"
    )
    window: Duration = Field(30.0, gt=0, le=3600, description="how far back calls are counted")
    slow_call: Duration = Field(5.0, gt=0, le=600, description="a longer call counts as slow")
    open_for: Duration = Field(10.0, gt=0, le=600, description="the first pause; it doubles as the provider stays ill")
    half_open_permits: Whole = Field(3, ge=1, le=1000, description="trial calls that must all succeed")


class AnswerRow(Table):
    """What such an answer means; the first row that holds decides."""

    status: Whole | None = Field(None, ge=100, le=999, description="the HTTP status, or SMTP's reply code")
    code: str | None = Field(None, min_length=1, description="the provider's code as attempts show it; SMTP's is 5.7.1")
    text: Annotated[str, AfterValidator(_pattern)] | None = Field(
        None, min_length=1, description="a regular expression, any case, to be found in the answer"
    )
    outcome: Outcome = Field(description="accepted | rejected | deferred | throttled | misconfigured | unknown")
    meaning: str | None = Field(None, min_length=1, description="for people: goes before what the provider said")
    cure: str | None = Field(None, min_length=1, description="for people: what to do about it")
    retry_after: Duration | None = Field(None, ge=0, le=86_400, description="how long to leave the provider alone")
    scope: Scope = Field(Scope.PROVIDER, description="message: it says nothing of the provider")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.status is None and self.code is None and self.text is None:
            raise ValueError("needs a status, a code or a text")
        return self


class Provider(Table):
    """One account at a provider."""

    name: Annotated[str, AfterValidator(_provider_name)] = Field(description="unique")
    kind: str = Field(description="fast2sms | bulksms | smtp | gmail | ses | sendgrid | sandbox")
    channel: Channel = Field(description="sms | email")
    priority: Whole = Field(10, ge=0, le=10_000, description="lower is tried first; equals share by weight")
    weight: Whole = Field(1, ge=0, le=10_000, description="share among providers of one priority")
    base_url: Annotated[str, AfterValidator(_url("https", "http")), IsUrl()] | None = Field(
        None, description="HTTP providers; the real one by default"
    )
    host: str | None = Field(None, min_length=1, description="smtp, gmail: the server")
    port: Whole | None = Field(None, ge=1, le=65_535, description="smtp, gmail")
    tls: Literal["starttls", "implicit", "none"] = Field(
        "starttls", description="smtp, gmail: starttls | implicit | none"
    )
    rate: Real | None = Field(
        None,
        gt=0,
        le=1_000_000,
        validate_default=True,
        description="recipients per second over the whole cluster; required, but for sandbox",
    )
    burst: Real | None = Field(None, ge=1, le=10_000_000, description="max(1, ceil(rate)) by default")
    quota: QuotaText | None = Field(
        None, description='recipients in a rolling window, such as "50000/day"; the last 5 % are for urgent messages'
    )
    sender: str | None = Field(None, min_length=1, description="who it is from when the message names nobody")
    routes: Routes = Field(default_factory=Routes, description="takes only messages that match")
    unknown: UnknownRule = Field(UnknownRule.ASK, description="after an attempt without an answer: ask | retry | hold")
    concurrency: Whole = Field(32, ge=1, le=10_000, description="calls in flight, per supervisor")
    batch: Whole = Field(1, ge=1, le=1000, description="most messages in one call, where there is a bulk call")
    timeout: Duration = Field(10.0, ge=0.01, le=300, description="for the whole call")
    credentials: Annotated[dict[str, str], IsSecret()] = Field({}, description="by kind: api_key, …")
    options: dict[str, Any] = Field({}, description="by kind: route, entity_id, configuration_set, …")
    receipts: Annotated[dict[str, Any], IsSecret()] = Field(
        {}, description="by kind: secret | public_key | topic_arns; taken at /v1/receipts/NAME"
    )
    breaker: Breaker = Field(default_factory=Breaker, description="when to stop asking")
    answers: list[AnswerRow] = Field([], description="what its answers mean, before Heliograph's own table")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in KINDS:
            nearest = difflib.get_close_matches(value, KINDS, n=1, cutoff=0.0)[0]
            raise ValueError(f"there is no such kind; the nearest is {nearest} (of {', '.join(KINDS)})")
        return value

    @field_validator("channel")
    @classmethod
    def _carried_channel(cls, value: Channel, info: ValidationInfo) -> Channel:
        kind = info.data.get("kind")
        if kind in KINDS and value not in KINDS[kind].channels:
            raise ValueError(f"{kind} carries {' and '.join(KINDS[kind].channels)} only")
        return value

    @field_validator("rate")
    @classmethod
    def _agreed_rate(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("kind") not in (None, "sandbox"):
            raise ValueError("is required: recipients per second over the whole cluster, as agreed with the provider")
        return value

    @property
    def usual_rate(self) -> float:
        return SANDBOX_RATE if self.rate is None else self.rate

    @property
    def usual_burst(self) -> float:
        return float(max(1, math.ceil(self.usual_rate))) if self.burst is None else self.burst


class Delivery(Table):
    """Attempts, waits and their limits."""

    max_attempts: Whole = Field(5, ge=1, le=1000, description="calls that could have had an effect, per message")
    backoff_base: Duration = Field(1.0, gt=0, le=3600, description="full jitter up to this after the first walk")
    backoff_cap: Duration = Field(300.0, gt=0, le=86_400, description="and never more than this")
    expires_after: Duration = Field(86_400.0, ge=1, description="when a message names no expires_at")
    receipt_timeout: Duration = Field(259_200.0, ge=1, description="how long a receipt may take")
    unknown_wait: Duration = Field(
        30.0, ge=0, le=86_400, description="for a receipt, after an attempt without an answer"
    )
    drain_grace: Duration = Field(30.0, ge=0, le=3600, description="from SIGTERM to the end")
    bulk_share: Real = Field(0.05, ge=0, le=1, description="of the takes that begin at the lowest lane")
    http_client: Literal["fast", "httpx"] = Field("fast", description="fast, or httpx (plain)")


class DeadLetters(Table):
    """What failed for good, and what becomes of it."""

    auto_retry: Listed[Duration] = Field(
        [60.0, 600.0, 3600.0], max_length=20, description="for attempts_exhausted and no_route; [] is off"
    )
    archive_after: Duration = Field(30 * 86_400.0, ge=1, description="out of the hot tables")
    delete_after: Duration = Field(365 * 86_400.0, ge=1, description="for good")
    max_redrives: Whole = Field(10, ge=0, le=1000, description="of one message")

    @model_validator(mode="after")
    def _archived_before_deleted(self) -> Self:
        if self.archive_after > self.delete_after:
            raise ValueError("archive_after must not be longer than delete_after: what is deleted was archived before")
        return self


class Retention(Table):
    """How long final messages are kept."""

    content: Duration = Field(30 * 86_400.0, ge=1, description="bodies")
    metadata: Duration = Field(90 * 86_400.0, ge=1, description="rows in the hot tables")
    archive: Literal["partition"] = Field("partition", description="where old rows go: partition")


class File(Table):
    """A whole configuration. Every key is also an environment variable HELIOGRAPH_<SECTION>__<KEY>."""

    gateway: Gateway = Field(default_factory=Gateway)
    monitor: Monitor = Field(default_factory=Monitor)
    redis: Redis = Field(default_factory=Redis)
    postgres: Postgres = Field(default_factory=Postgres)
    log: Log = Field(default_factory=Log)
    providers: list[Provider] = Field([])
    delivery: Delivery = Field(default_factory=Delivery)
    dead_letters: DeadLetters = Field(default_factory=DeadLetters)
    retention: Retention = Field(default_factory=Retention)
