"""An attempt: one call to one provider for one message, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from heliograph.actors.model.message import Message
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.model.value import value
from heliograph.actors.model.word import Word


class Outcome(Word):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DEFERRED = "deferred"
    THROTTLED = "throttled"
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"


class Settled(Word):
    """What was learnt later of an attempt whose outcome was `unknown`."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"


class Scope(Word):
    """Whom an answer says something about.

    `PROVIDER`: breaker and limiter take it as evidence. `MESSAGE`: only this message (a full mailbox, a
    recipient that gets mail too fast): the provider is well, whatever the outcome.
    """

    PROVIDER = "provider"
    MESSAGE = "message"


@value(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a provider said of one message in one call, classified.

    `code` is the provider's own, short and stable ("550 5.1.1", "411", "TooManyRequestsException"); `detail`
    is its text, without secrets and at most 500 characters; `retry_after_s` is what it asked us to wait.
    `traced`: receipts may name this attempt by `provider_message_id` alone, so the ledger keeps it findable by that.
    `suppress`: the provider says that the message's own recipient does not exist, so nobody writes there again.
    """

    outcome: Outcome
    code: str | None = None
    detail: str | None = None
    provider_message_id: str | None = None
    retry_after_s: float | None = None
    scope: Scope = Scope.PROVIDER
    traced: bool = False
    suppress: SuppressionReason | None = None


@value(frozen=True, slots=True)
class ProviderCall:
    """One message's share of a call. `attempt_id` is unique per attempt (at most 20 characters of [0-9A-Za-z]),
    travels to the provider where it has a place for it, and ties receipts to attempts."""

    message: Message
    number: int
    attempt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A line of the log, as the API shows it. Open while `outcome` is None."""

    message_id: str
    number: int
    provider: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    code: str | None = None
    detail: str | None = None
    provider_message_id: str | None = None
    settled: Settled | None = None
    settled_at: datetime | None = None
