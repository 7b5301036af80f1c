"""What a provider says later of what it took: receipts, and the addresses that must not be written to again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from heliograph.actors.model.message import Channel
from heliograph.actors.model.word import Word


class Effect(Word):
    """What a receipt does to its attempt. `TAKEN` proves no more than that the provider has it."""

    TAKEN = "taken"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"


class SuppressionReason(Word):
    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    INVALID = "invalid"
    CARRIER_BLOCK = "carrier_block"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One event of a provider about one recipient.

    The attempt is named by `attempt_id` (as `ProviderCall` gave it), or by `provider_message_id` and, where one such
    id stands for several messages, `recipient` (E.164 with `+`, or an address). `effect` None: the state stays, and
    only `suppress` speaks. `at` is the provider's own time, for people.
    """

    attempt_id: str | None = None
    provider_message_id: str | None = None
    recipient: str | None = None
    effect: Effect | None = None
    suppress: SuppressionReason | None = None
    code: str | None = None
    detail: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """An address that a tenant does not write to: messages to it become `suppressed`."""

    id: str
    tenant: str
    channel: Channel
    recipient: str
    reason: SuppressionReason
    detail: str | None
    provider: str | None
    message_id: str | None
    created_at: datetime
