"""The sandbox: a provider that sends nothing. The recipient names what happens.

An email's local part (any case), or the last four digits of a number; every other recipient is accepted. It is
what test keys are served by, what `heliograph up` starts with, and the cheapest courier there is: a call costs
microseconds, does no I/O, and passes no checkpoint unless the recipient is `slow`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import Channel, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.ports.courier import Begin, Promise

SLOW_S: Final = 5.0
AFTER_S: Final = 1.0
RETRY_AFTER_S: Final = 1.0

NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "0000": "accepted",
        "0001": "rejected",
        "0002": "deferred",
        "0003": "throttled",
        "0004": "misconfigured",
        "0005": "unknown",
        "0006": "slow",
        "0007": "delivered",
        "0008": "undelivered",
    }
)
"""Last four digits of a number, and the local part that means the same."""

_REFUSALS: Final[Mapping[str, Answer]] = MappingProxyType(
    {
        "rejected": Answer(
            outcome=Outcome.REJECTED, code="sandbox.rejected", detail="the recipient asks to be refused"
        ),
        "deferred": Answer(
            outcome=Outcome.DEFERRED, code="sandbox.deferred", detail="the recipient asks to be put off"
        ),
        "throttled": Answer(
            outcome=Outcome.THROTTLED,
            code="sandbox.throttled",
            detail="the recipient asks for a limit of rate",
            retry_after_s=RETRY_AFTER_S,
        ),
        "misconfigured": Answer(
            outcome=Outcome.MISCONFIGURED,
            code="sandbox.misconfigured",
            detail="the recipient asks for a fault of the account",
            scope=Scope.MESSAGE,
        ),
        "unknown": Answer(outcome=Outcome.UNKNOWN, code="sandbox.unknown", detail="the recipient asks for no answer"),
    }
)
"""`misconfigured` is about the one message: a fault of the account would stop everybody's sandbox."""

_TOO_SLOW: Final = Answer(outcome=Outcome.UNKNOWN, code="timeout", detail="no answer within the time-out")

_TRUTH: Final[Mapping[str, Settled]] = MappingProxyType(
    {
        "rejected": Settled.REJECTED,
        "deferred": Settled.NOT_SENT,
        "throttled": Settled.NOT_SENT,
        "misconfigured": Settled.NOT_SENT,
    }
)


_EFFECTS: Final[Mapping[str, Effect]] = MappingProxyType(
    {"delivered": Effect.DELIVERED, "undelivered": Effect.UNDELIVERED}
)


class SandboxCourier:
    """A `Courier` for both channels. `delivered` and `undelivered` are accepted: their receipts come AFTER_S later."""

    can_ask = True

    def __init__(self, settings: ProviderSettings) -> None:
        self._timeout_s = settings.timeout_s
        self._promise: Promise | None = None
        self.longest_call_s = min(settings.timeout_s, SLOW_S)

    def takes(self, message: Message) -> str | None:  # noqa: ARG002 - it carries anything
        return None

    def batch_key(self, message: Message) -> Hashable | None:
        """All share a call, but for `slow`: neighbours would be slow with it."""
        return None if behaviour(message) == "slow" else message.channel

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        begin()
        wishes = [behaviour(call.message) for call in calls]
        if "slow" in wishes:
            await trio.sleep(self.longest_call_s)
            if self._timeout_s < SLOW_S:
                return [_TOO_SLOW] * len(calls)
        refusal = _REFUSALS.get
        if self._promise is not None and not _EFFECTS.keys().isdisjoint(wishes):
            self._promise([_receipt(*each) for each in zip(calls, wishes, strict=True) if each[1] in _EFFECTS], AFTER_S)
        return [
            refusal(wish) or Answer(outcome=Outcome.ACCEPTED, provider_message_id="sandbox-" + call.attempt_id)
            for wish, call in zip(wishes, calls, strict=True)
        ]

    def reports_to(self, promise: Promise) -> None:
        self._promise = promise

    async def ask(self, call: ProviderCall) -> Settled | None:
        """The sandbox remembers nothing: the recipient's wish is the truth of every attempt for it."""
        return _TRUTH.get(behaviour(call.message), Settled.ACCEPTED)

    async def check(self) -> Answer:
        return Answer(outcome=Outcome.ACCEPTED, detail="the sandbox sends nothing")

    async def aclose(self) -> None:
        """There is nothing to close."""


def _receipt(call: ProviderCall, wish: str) -> Receipt:
    return Receipt(
        attempt_id=call.attempt_id,
        recipient=call.message.to,
        effect=_EFFECTS[wish],
        code=f"sandbox.{wish}",
        detail="the recipient asks for no delivery" if wish == "undelivered" else None,
    )


def behaviour(message: Message) -> str:
    """What the recipient asks for; a word without meaning here is accepted as any other recipient's."""
    if message.channel is Channel.SMS:
        return NAMES.get(message.to[-4:], "accepted")
    return message.to.partition("@")[0].lower()
