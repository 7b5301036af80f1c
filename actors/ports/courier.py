"""A courier carries messages to one kind of provider and brings answers back. Implemented by `providers/`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from heliograph.actors.model.attempt import Answer, ProviderCall, Settled
from heliograph.actors.model.message import Message
from heliograph.actors.model.receipt import Receipt

Begin = Callable[[], None]
"""Called by the courier in the same synchronous slice as the first byte that can have an effect. Raises RightLapsed
when the right to the call is over: then nothing may be written, and the courier lets the error through."""


class Courier(Protocol):
    longest_call_s: float
    """The longest that `send` can take from its first byte to its answer; the reaper waits for it."""
    can_ask: bool

    def takes(self, message: Message) -> str | None:
        """None where this provider could carry the message; else why it never could (`country`, `recipients`, …)."""

    def batch_key(self, message: Message) -> Hashable | None:
        """Messages of equal keys may share one call; None: always alone."""

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        """One call for all of `calls` (one, unless they share a batch key); answers in their order.

        Total: whatever the provider does becomes an Answer. Only RightLapsed (from `begin`) and cancellation
        come out; after cancellation nothing is known of the call.
        """

    async def ask(self, call: ProviderCall) -> Settled | None:
        """What became of an earlier attempt without an answer; None where that cannot be told now."""

    async def check(self) -> Answer:
        """Ask the provider's harmless endpoint: credentials and balance, nothing sent."""

    async def aclose(self) -> None:
        """Close connections politely. Called once, after the last send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What an account may send by its provider's own word, beside the configured rate and quota.

    `rate` is recipients per second; `remaining` how many more the provider takes today. None: not limited, or not told.
    """

    rate: float | None = None
    remaining: int | None = None


@runtime_checkable
class Measured(Protocol):
    """A courier whose provider can be asked for its own limits: `isinstance(courier, Measured)`."""

    async def allowance(self) -> Allowance | None:
        """None where it cannot be told now: what was told last still holds. Total, like `send`; harmless, takes at
        most `longest_call_s`, and is worth asking every few minutes and not more often than once a second."""


Promise = Callable[[Sequence[Receipt], float], None]
"""Takes receipts to come, and in how many seconds they do."""


@runtime_checkable
class Reporting(Protocol):
    """A courier that makes its receipts itself, since nobody calls us with them: `isinstance(courier, Reporting)`."""

    def reports_to(self, promise: Promise) -> None:
        """From now on, have receipts of what is accepted come by this. It never waits."""
