"""A courier that does what a test says, and writes down what it was asked to do and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

import trio

from heliograph.actors.kernel.clock import Clock
from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import Message
from heliograph.actors.ports.courier import Allowance, Begin

ACCEPTED = Answer(outcome=Outcome.ACCEPTED, provider_message_id="p-1")
DEFERRED = Answer(outcome=Outcome.DEFERRED, code="503")
REJECTED = Answer(outcome=Outcome.REJECTED, code="400")
UNKNOWN = Answer(outcome=Outcome.UNKNOWN, code="timeout")
MISCONFIGURED = Answer(outcome=Outcome.MISCONFIGURED, code="401")
THROTTLED = Answer(outcome=Outcome.THROTTLED, code="429")


def throttled(retry_after_s: float | None = None, scope: Scope = Scope.PROVIDER) -> Answer:
    return Answer(outcome=Outcome.THROTTLED, code="429", retry_after_s=retry_after_s, scope=scope)


@dataclass(frozen=True, slots=True)
class Handed:
    """One call, at its first byte."""

    at_s: float
    calls: tuple[ProviderCall, ...]

    @property
    def recipients(self) -> int:
        return sum(call.message.recipients for call in self.calls)


class ScriptedCourier:
    """`answer` judges each message when its call ends; `connect_s` passes before the first byte, `latency_s` after it;
    both may be functions of the time. Whatever `answer` raises comes out of `send`."""

    longest_call_s = 10.0

    def __init__(
        self,
        clock: Clock,
        answer: Callable[[ProviderCall], Answer] = lambda _: ACCEPTED,
        *,
        latency_s: float | Callable[[float], float] = 0.05,
        connect_s: float | Callable[[float], float] = 0.0,
        can_ask: bool = True,
        ask: Callable[[ProviderCall], Awaitable[Settled | None]] | None = None,
        batch_key: Callable[[Message], Hashable | None] = lambda message: message.channel,
    ) -> None:
        self.clock = clock
        self.answer = answer
        self.latency_s = latency_s
        self.connect_s = connect_s
        self.can_ask = can_ask
        self._ask = ask
        self._key = batch_key
        self.handed: list[Handed] = []
        self.asked: list[ProviderCall] = []
        self.in_air = 0
        self.most_in_air = 0
        self.closed = 0
        self.told: Allowance | None = None

    @property
    def messages(self) -> list[str]:
        return [call.message.id for handed in self.handed for call in handed.calls]

    def takes(self, message: Message) -> str | None:
        return None

    def batch_key(self, message: Message) -> Hashable | None:
        return self._key(message)

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        if self.connect_s:
            await trio.sleep(_at(self.connect_s, self.clock.boot_s()))
        begin()
        now_s = self.clock.boot_s()
        self.handed.append(Handed(now_s, tuple(calls)))
        self.in_air += 1
        self.most_in_air = max(self.most_in_air, self.in_air)
        try:
            await trio.sleep(_at(self.latency_s, now_s))
        finally:
            self.in_air -= 1
        return [self.answer(call) for call in calls]

    async def allowance(self) -> Allowance | None:
        await trio.sleep(0.1)
        return self.told

    async def ask(self, call: ProviderCall) -> Settled | None:
        self.asked.append(call)
        return None if self._ask is None else await self._ask(call)

    async def check(self) -> Answer:
        return ACCEPTED

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed += 1


def _at(duration_s: float | Callable[[float], float], now_s: float) -> float:
    return duration_s(now_s) if callable(duration_s) else duration_s
