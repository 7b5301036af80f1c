"""A dead letter: the file of a message that failed, was undelivered or expired; and operations on many of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from heliograph.actors.model.message import Channel, Reason
from heliograph.actors.model.word import Word

REASONS: Final = tuple(reason for reason in Reason if reason is not Reason.NO_RECEIPT)
"""Why there is one. A message of which no receipt came is sent for good, and has none."""


class DeadLetterState(Word):
    OPEN = "open"
    REDRIVEN = "redriven"
    ARCHIVED = "archived"
    DISCARDED = "discarded"
    SETTLED = "settled"  # the provider had taken it after all


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """`id` is the message's. `cause` is the text that failures of one kind share (policy.causes)."""

    id: str
    tenant: str
    state: DeadLetterState
    channel: Channel
    to: str
    reason: Reason
    code: str | None
    provider: str | None
    cause: str
    detail: str | None
    tags: tuple[str, ...]
    attempts: int
    redrives: int
    created_at: datetime
    updated_at: datetime
    next_auto_retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """All given conditions hold together. `text` is looked for in cause, detail and recipient, any case."""

    state: DeadLetterState | None = DeadLetterState.OPEN
    channel: Channel | None = None
    provider: str | None = None
    reason: Reason | None = None
    code: str | None = None
    cause: str | None = None
    tag: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterGroup:
    cause: str
    reason: Reason
    code: str | None
    provider: str | None
    channel: Channel
    count: int
    first_at: datetime
    last_at: datetime
    sample_id: str


class OperationKind(Word):
    REDRIVE = "redrive"
    ARCHIVE = "archive"
    DISCARD = "discard"


class OperationState(Word):
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Work on many dead letters. `done` counts successes; finished when done + failed + skipped = total."""

    id: str
    kind: OperationKind
    state: OperationState
    tenant: str
    total: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    rate: float | None = None
    reason: str | None = None
    actor: str | None = None
    created_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What an operation would do: `skipped` counts by the reason (`not_found`, `already_redriven`, …)."""

    matched: int
    eligible: int
    skipped: dict[str, int] = field(default_factory=dict)
