"""One tree of errors. Adapters turn a driver's errors into these at the border and keep the original as cause.

Three ways to be absent, three names: `…Down` (try later), `…Conflict` (someone was first), `NotFound`.
"""

from __future__ import annotations


class HeliographError(Exception):
    """Something of ours went wrong; the text is for the one who reads it and holds no secret."""


class ConfigurationError(HeliographError):
    """The configuration cannot be used; the text names the key and the mend."""


class NotAvailableYet(ConfigurationError):
    """The configuration names something that this version does not have: `… is not available yet`."""


class LedgerDown(HeliographError):
    """PostgreSQL gave no answer. Nothing is known; statements of the ledger may all be repeated.

    `asked` False: it was not even reached, so the statement has no effect."""

    def __init__(self, text: str, *, asked: bool = True) -> None:
        super().__init__(text)
        self.asked = asked


class NotMigrated(HeliographError):
    """The database is not at this version; `heliograph migrate` brings it there."""


class QueueDown(HeliographError):
    """Redis gave no answer. Nothing is known; only time is lost."""


class StaleGeneration(HeliographError):
    """The lists belong to another generation (Redis lost its data or was replaced): the relay renews it."""


class NotFound(HeliographError):
    """There is no such thing, or it is another tenant's."""


class Conflict(HeliographError):
    """Someone was first, or the thing is no longer in the state for this."""


class IdempotencyMismatch(HeliographError):
    """The same idempotency key came with another body."""


class RightLapsed(HeliographError):
    """The right to make this call has ended (deadline, breaker or slot): nothing was sent, nothing is counted."""


class MailboxFull(HeliographError):
    """An actor's mailbox is full: shed, and tell the caller when to come again."""
