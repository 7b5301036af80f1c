"""A provider that behaves as the scenario says, behind the port that every real one is behind."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Settled
from heliograph.actors.model.message import Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Begin, Courier
from heliograph.actors.simulation.record import Record
from heliograph.actors.simulation.scenario import Timeline

TAKEN_UNKNOWN: Final = 0.5
"""The chance that a provider has taken what it gave no answer to."""
MOST_REMEMBERED: Final = 100_000
ASKING_S: Final = 0.05


@dataclass(slots=True, eq=False)
class Account:
    """One provider, as all supervisors see it. `model` is the real courier, which knows what its kind can carry."""

    settings: ProviderSettings
    model: Courier
    timeline: Timeline
    draw: random.Random
    took: dict[str, bool] = field(default_factory=dict)
    """By attempt: whether a call without an answer had been taken; the last ones."""

    def judge(self, now_s: float) -> tuple[Answer, float]:
        """What the next message comes to, and after how many seconds; beyond its time-out no answer is seen."""
        conduct = self.timeline.at(now_s)
        draw = self.draw.random()
        outcome = next(outcome for upto, outcome in conduct.outcomes if draw < upto or upto == 1.0)
        latency_s = math.exp(conduct.mu + conduct.sigma * self.draw.gauss(0.0, 1.0))
        retry_after_s = conduct.retry_after_s if outcome in (Outcome.THROTTLED, Outcome.DEFERRED) else None
        return Answer(outcome=outcome, code=f"simulated {outcome}", retry_after_s=retry_after_s), latency_s

    def remember(self, attempt_id: str, taken: bool) -> None:
        self.took[attempt_id] = taken
        while len(self.took) > MOST_REMEMBERED:
            self.took.pop(next(iter(self.took)))


NO_ANSWER: Final = Answer(outcome=Outcome.UNKNOWN, code="timeout", detail="No answer within the provider's timeout.")


class SimulatedCourier:
    """One supervisor's way to a provider. `awake` holds up whoever is paused."""

    def __init__(self, account: Account, record: Record, awake: Callable[[], Awaitable[None]] | None) -> None:
        self._account = account
        self._name = account.settings.name
        self._record = record
        self._awake = awake
        self.longest_call_s = account.model.longest_call_s
        self.can_ask = account.model.can_ask

    def takes(self, message: Message) -> str | None:
        """Contents are made up here, so of what the kind says only the country counts."""
        why = self._account.model.takes(message)
        return why if why == "country" else None

    def batch_key(self, message: Message) -> Hashable | None:
        return self._account.model.batch_key(message)

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        if self._awake is not None:
            await self._awake()
        begin()
        now_s = trio.current_time()
        account, record = self._account, self._record
        record.providers[self._name].begin(now_s, sum(call.message.recipients for call in calls))
        judged = [account.judge(now_s) for _ in calls]
        most_s = max(latency_s for _, latency_s in judged)
        timeout_s = account.settings.timeout_s
        in_time = most_s < timeout_s
        takes_s = most_s if in_time else timeout_s
        answers: list[Answer] = []
        taken: list[Message] = []
        for call, (answer, _) in zip(calls, judged, strict=True):
            record.handed(self._name, answer.outcome if in_time else Outcome.UNKNOWN, now_s)
            if answer.outcome is Outcome.ACCEPTED or (
                answer.outcome is Outcome.UNKNOWN and account.draw.random() < TAKEN_UNKNOWN
            ):
                taken.append(call.message)
            answers.append(answer if in_time and answer.outcome is not Outcome.UNKNOWN else NO_ANSWER)
            if answers[-1] is NO_ANSWER:
                account.remember(call.attempt_id, bool(taken) and taken[-1] is call.message)
        if any(answer is NO_ANSWER for answer in answers):
            takes_s = timeout_s
        try:
            await trio.sleep(takes_s)
        finally:
            # A provider goes on with what it was given, whatever becomes of the one who asked.
            for message in taken:
                record.taken(self._name, message, now_s + min(most_s, takes_s))
        if self._awake is not None:
            await self._awake()
        return answers

    async def ask(self, call: ProviderCall) -> Settled | None:
        await trio.sleep(ASKING_S)
        taken = self._account.took.get(call.attempt_id)
        if taken is None:
            return None
        return Settled.ACCEPTED if taken else Settled.NOT_SENT

    async def check(self) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(outcome=Outcome.ACCEPTED)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
