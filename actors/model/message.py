"""A message: what the client asked us to deliver, and where it stands.

`Message` is what was posted and never changes. `Standing` is the narrow row that does: one per message, moved
only by guarded updates in the ledger. Nobody edits either in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from heliograph.actors.model.value import value
from heliograph.actors.model.word import Word


class Channel(Word):
    SMS = "sms"
    EMAIL = "email"


class Priority(Word):
    """In the order in which they are served."""

    URGENT = "urgent"
    NORMAL = "normal"
    BULK = "bulk"


class Category(Word):
    OTP = "otp"
    TRANSACTIONAL = "transactional"
    SERVICE = "service"
    PROMOTIONAL = "promotional"


class State(Word):
    """Where a message is. `SENDING` is never stored in the message's row: it is read from its open claim."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"


class Reason(Word):
    """Why a message ended as it did (`Standing.reason`), and the reason of its dead letter."""

    REJECTED = "rejected"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    UNKNOWN = "unknown"
    POISON = "poison"
    INTERNAL = "internal"
    NO_ROUTE = "no_route"
    UNDELIVERED = "undelivered"
    EXPIRED = "expired"
    NO_RECEIPT = "no_receipt"


class WaitingFor(Word):
    RATE = "rate"
    BREAKER = "breaker"
    BACKOFF = "backoff"
    WINDOW = "window"
    QUOTA = "quota"
    PAUSED = "paused"
    SEND_AT = "send_at"
    RECEIPT = "receipt"
    PROVIDER = "provider"


@value(frozen=True, slots=True)
class Lane:
    """One queue: a channel and a priority. Written `sms:urgent`, in Redis, in metrics and in the API."""

    channel: Channel
    priority: Priority

    def __str__(self) -> str:
        return f"{self.channel}:{self.priority}"

    @classmethod
    def parse(cls, text: str) -> Lane:
        channel, _, priority = text.partition(":")
        return cls(Channel(channel), Priority(priority))


LANES: Final[tuple[Lane, ...]] = tuple(Lane(c, p) for c in Channel for p in Priority)
_LANES: Final = {(lane.channel, lane.priority): lane for lane in LANES}


@value(frozen=True, slots=True)
class SmsContent:
    """The `sms` fields keep their names from the API. `text` is never logged."""

    text: str
    sender_id: str | None = None
    dlt_template_id: str | None = None
    dlt_entity_id: str | None = None
    dlt_variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """`content_base64` is standard base64 without line breaks; `content_id` makes it an inline image."""

    filename: str
    content_type: str
    content_base64: str
    content_id: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class EmailContent:
    """At least one of `text` and `html` is present. `sender` is the API's `from` (`Name <a@b>` or `a@b`)."""

    subject: str
    text: str | None = None
    html: str | None = None
    sender: str | None = None
    reply_to: str | None = None
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()


Content = SmsContent | EmailContent


@value(frozen=True, slots=True)
class Message:
    """What was accepted. `to` is E.164 with `+` for SMS, an address for email. `parts` is the SMS segment count."""

    id: str
    tenant: str
    key_id: str
    live: bool
    channel: Channel
    priority: Priority
    category: Category
    to: str
    content: Content
    created_at: datetime
    expires_at: datetime
    send_at: datetime | None = None
    providers: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    parts: int | None = None
    webhook_url: str | None = None
    traceparent: str | None = None

    @property
    def lane(self) -> Lane:
        return _LANES[self.channel, self.priority]

    @property
    def recipients(self) -> int:
        """How much of a provider's rate and quota the message takes: `to`, `cc` and `bcc`."""
        content = self.content
        return 1 + len(content.cc) + len(content.bcc) if isinstance(content, EmailContent) else 1


@value(frozen=True, slots=True)
class Standing:
    """Where a message is. The counters up to `throttled` start anew with a redrive; `attempts` never does.

    `attempts` is the number of the last attempt begun; `counted` those that count towards `max_attempts`;
    `unknowns` and `throttled` what their names say; `reclaims` how often an owner died holding it;
    `passes` the walks over the whole route that ended without success; `tried` the providers asked in the
    present pass; `due_at` the earliest moment of the next claim; `unsettled` the number of the first of the last
    attempts that ended without an answer, so that their provider (`unsettled_provider`) is asked first.
    """

    state: State
    due_at: datetime
    updated_at: datetime
    expires_at: datetime
    attempts: int = 0
    counted: int = 0
    unknowns: int = 0
    throttled: int = 0
    reclaims: int = 0
    passes: int = 0
    tried: tuple[str, ...] = ()
    provider: str | None = None
    reason: Reason | None = None
    waiting_for: WaitingFor | None = None
    waiting_provider: str | None = None
    redrives: int = 0
    unsettled: int | None = None
    unsettled_provider: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class Move:
    """Where a message goes when its attempt ends: the new standing, counters in full (the claim kept others away).

    `state` is SENT, QUEUED (due in `due_in_s`), FAILED or EXPIRED; the last two file a dead letter under `cause`,
    `code` and `detail`. `auto_retry_in_s` is when the dead-letter actor may try it again by itself.
    """

    state: State
    due_in_s: float = 0.0
    waiting_for: WaitingFor | None = None
    waiting_provider: str | None = None
    reason: Reason | None = None
    counted: int = 0
    unknowns: int = 0
    throttled: int = 0
    reclaims: int = 0
    passes: int = 0
    tried: tuple[str, ...] = ()
    unsettled: int | None = None
    unsettled_provider: str | None = None
    cause: str | None = None
    code: str | None = None
    detail: str | None = None
    auto_retry_in_s: float | None = None


@value(frozen=True, slots=True)
class Tracked:
    """A message together with its standing, as the ledger loads it."""

    message: Message
    standing: Standing
