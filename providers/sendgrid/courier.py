"""The half of SendGrid that does I/O, and what it makes of a call that was shared."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall
from heliograph.actors.model.message import EmailContent, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.providers.envelope import configured_sender
from heliograph.providers.http import HttpCourier
from heliograph.providers.kinds import chosen
from heliograph.providers.sendgrid.answers import credits_left, culprits, judge, scopes
from heliograph.providers.sendgrid.requests import (
    SendGridAccount,
    ask_credits,
    ask_scopes,
    impediment,
    likeness,
    mail_send,
)
from heliograph.providers.verdicts import Finding
from heliograph.providers.wire import Transport, WireAnswer, WireRequest

BASE_URL: Final = "https://api.sendgrid.com"


class SendGridCourier(HttpCourier):
    def __init__(self, settings: ProviderSettings, transport: Transport | None = None) -> None:
        api_key = settings.credentials["api_key"]
        super().__init__(settings, BASE_URL, [api_key], transport)
        self._batch = settings.batch
        self._traced = bool(settings.receipts)
        self.account = SendGridAccount(
            api_key=api_key,
            prefix=self.base.prefix,
            sender=configured_sender(settings),
            ip_pool=chosen(settings, "ip_pool", str),
            unsubscribe_group=chosen(settings, "unsubscribe_group", int),
            categories=chosen(settings, "categories", bool) is not False,
            dry=chosen(settings, "sandbox_mode", bool) or False,
        )

    def takes(self, message: Message) -> str | None:
        return impediment(message, self.account)

    def likeness(self, message: Message) -> Hashable | None:
        return likeness(message, self.account, self._batch)

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        return mail_send(calls, self.account)

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        finding = judge(answer)
        if len(calls) > 1 and finding.verdict.outcome is Outcome.REJECTED:
            return self._parted(calls, finding, culprits(answer))
        # An event of a mail whose custom arguments were lost on the way is known by the id of its call.
        traced = self._traced and finding.provider_message_id is not None
        return [replace(finding.answer(_named(call.message)), traced=traced) for call in calls]

    def _parted(self, calls: Sequence[ProviderCall], finding: Finding, said: Mapping[int, str]) -> Sequence[Answer]:
        """Those named are refused; the others were not sent for their neighbours' sake.

        One that was tried before goes alone next: a list with many bad addresses, of which each refusal names one,
        is not to use up its attempts. Nothing of what was said of one gets to another.
        """
        others = [call for place, call in enumerate(calls) if place not in said]
        if len(others) == len(calls):
            return self.put_back(calls, finding, alone=True)
        quiet = replace(finding, detail=None)
        again: dict[str, Answer] = {}
        for tired in (False, True):
            group = [call for call in others if (call.number > 1) is tired]
            answers = self.put_back(group, quiet, alone=tired)
            again |= {call.attempt_id: answer for call, answer in zip(group, answers, strict=True)}
        return [
            replace(finding, detail=said[place]).answer() if place in said else again[call.attempt_id]
            for place, call in enumerate(calls)
        ]

    def probe(self) -> WireRequest:
        return ask_scopes(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return scopes(answer)

    async def check(self) -> Answer:
        """With the balance, where the key may see it."""
        answer = await super().check()
        if answer.outcome is not Outcome.ACCEPTED:
            return answer
        told = await self._transport.exchange(ask_credits(self.account), lambda: None)
        left = credits_left(told) if isinstance(told, WireAnswer) else None
        return answer if left is None else replace(answer, detail=f"{answer.detail}; {left}")


def _named(message: Message) -> frozenset[str]:
    content = message.content
    return frozenset({"sender"}) if isinstance(content, EmailContent) and content.sender else frozenset()
