"""The half of BulkSMS that does I/O, and what it remembers of calls that may be repeated."""

from __future__ import annotations

import base64
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Final

import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Settled
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import Message, Priority
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Allowance
from heliograph.providers.bulksms.answers import SENDER, allowance, classify, found, judge, named, profile
from heliograph.providers.bulksms.requests import (
    MAX_PARTS,
    STANDARD,
    BulkSmsAccount,
    deduplication_id,
    impediment,
    is_origin,
    lookup,
    probe,
    submission,
)
from heliograph.providers.http import HttpCourier
from heliograph.providers.kinds import chosen, fault
from heliograph.providers.verdicts import Finding
from heliograph.providers.wire import MIB, Transport, WireAnswer, WireFailure, WireRequest

BASE_URL: Final = "https://api.bulksms.com"
SECOND_LOOK_S: Final = 0.5  # a question has to be answered within the send window
MOST_REPEATS: Final = 10_000
REPEATED_FOR_S: Final = 600.0


class BulkSmsCourier(HttpCourier):
    """A message that went alone and had no answer, or a 5xx, goes again under the deduplication id of that call.

    `_repeats` has, by message, the number of that attempt and until when it counts. It is this process's own, but
    `ask` comes before a second call wherever that is made. It counts for minutes only: a message that a receipt
    brought back, and a person sent anew, is not to be taken for a repeat. (BulkSMS itself forgets an id after some
    twelve hours; from then on the same id is as good as a new one.)
    """

    can_ask = True
    most_bytes = 4 * MIB  # some 500 bytes for each message of a call

    def __init__(
        self,
        settings: ProviderSettings,
        transport: Transport | None = None,
        *,
        second_look_s: float = SECOND_LOOK_S,
    ) -> None:
        given = settings.credentials
        user, secret = (
            (given["token_id"], given["token_secret"])
            if "token_id" in given
            else (given["username"], given["password"])
        )
        basic = base64.b64encode(f"{user}:{secret}".encode()).decode()
        super().__init__(settings, BASE_URL, [secret, basic], transport)
        if settings.sender is not None and not is_origin(settings.sender):
            raise fault(settings, "sender", "a name has at most 11 characters, a number at most 15 digits")
        self.account = BulkSmsAccount(
            authorization=f"Basic {basic}",
            prefix=self.base.prefix,
            sender=settings.sender,
            routing_group=chosen(settings, "routing_group", str) or STANDARD,
            max_parts=chosen(settings, "max_parts", int) or MAX_PARTS,
        )
        self._second_look_s = second_look_s
        self._repeats: dict[str, tuple[int, float]] = {}

    def takes(self, message: Message) -> str | None:
        return impediment(message, self.account)

    def likeness(self, message: Message) -> Hashable | None:
        alone = message.priority is Priority.URGENT or self._repeated(message) is not None
        return None if alone else "any"

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        return submission(calls, self.account, self._deduplication_id(calls))

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        if len(calls) == 1:
            answers = classify(calls, answer)
            if answer.status < 500 and answers[0].outcome is not Outcome.UNKNOWN:
                self._repeats.pop(calls[0].message.id, None)
            return answers
        finding = judge(answer)
        # One entry is at fault, or its sender; what was said of it is not its neighbours' to read.
        own = finding.verdict is SENDER and any(named(call.message) for call in calls)
        if answer.status in (400, 413) or own:
            return self.put_back(calls, replace(finding, detail=None), alone=True)
        return classify(calls, answer)

    def probe(self) -> WireRequest:
        return probe(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return profile(answer)

    async def allowance(self) -> Allowance | None:
        result = await self._transport.exchange(self.probe(), lambda: None)
        return None if isinstance(result, WireFailure) else allowance(result)

    async def ask(self, call: ProviderCall) -> Settled | None:
        """An empty look-up counts when it is empty twice: the call whose answer was lost may still be at work.

        Should it be at work even then, the next call is a repeat of it if it went alone, and sends nothing.
        """
        self._remember(call)
        settled = await self._look(call.attempt_id)
        if settled is Settled.NOT_SENT:
            await trio.sleep(self._second_look_s)
            settled = await self._look(call.attempt_id)
        if settled in (Settled.ACCEPTED, Settled.REJECTED):
            self._repeats.pop(call.message.id, None)
        return settled

    async def _look(self, identifier: str) -> Settled | None:
        result = await self._transport.exchange(lookup(identifier, self.account), lambda: None)
        return None if isinstance(result, WireFailure) else found(result, identifier)

    def _deduplication_id(self, calls: Sequence[ProviderCall]) -> int:
        if len(calls) > 1:
            return deduplication_id([call.attempt_id for call in calls])
        call = calls[0]
        number = self._remember(call)
        return deduplication_id([call.attempt_id if number == call.number else attempt_id(call.message.id, number)])

    def _repeated(self, message: Message) -> int | None:
        number, until_s = self._repeats.get(message.id, (0, 0.0))
        return number if number and time.monotonic() < until_s else None

    def _remember(self, call: ProviderCall) -> int:
        """Until it is answered, this attempt, or the one that it repeats, is what the next one repeats: its number."""
        number = self._repeated(call.message) or call.number
        self._repeats.pop(call.message.id, None)
        self._repeats[call.message.id] = (number, time.monotonic() + REPEATED_FOR_S)
        while len(self._repeats) > MOST_REPEATS:
            self._repeats.pop(next(iter(self._repeats)))
        return number
