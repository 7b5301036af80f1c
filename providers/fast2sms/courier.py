"""The half of Fast2SMS that does I/O: which messages share a call, and whom its one answer is for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from heliograph.actors.model.attempt import Answer, ProviderCall
from heliograph.actors.model.message import Message, SmsContent
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Begin
from heliograph.providers.fast2sms.answers import TAKEN, is_of_one, judge, named, request_ids, wallet
from heliograph.providers.fast2sms.requests import (
    LONGEST_VARIABLE,
    Fast2SmsAccount,
    Route,
    impediment,
    is_tight,
    likeness,
    probe,
    request,
)
from heliograph.providers.fast2sms.templates import CLASSIC_LONGEST, HEADER, Template
from heliograph.providers.http import PUT_BACK, HttpCourier
from heliograph.providers.kinds import chosen, fault
from heliograph.providers.verdicts import Finding
from heliograph.providers.wire import Transport, WireAnswer, WireRequest

BASE_URL: Final = "https://www.fast2sms.com"
SAME: Final = "the call held a text for this number already"
MOST_WARNED: Final = 1000
log = structlog.get_logger()


class Fast2SmsCourier(HttpCourier):
    def __init__(self, settings: ProviderSettings, transport: Transport | None = None) -> None:
        api_key = settings.credentials["api_key"]
        super().__init__(settings, BASE_URL, [api_key], transport)
        route = Route(chosen(settings, "route", str) or Route.AUTO)
        if route in (Route.DLT, Route.DLT_MANUAL) and settings.sender and not HEADER.fullmatch(settings.sender):
            raise fault(settings, "sender", "on a DLT route it is a header of 3 to 6 letters")
        self.account = Fast2SmsAccount(
            api_key=api_key,
            prefix=self.base.prefix,
            route=route,
            sender=settings.sender,
            entity_id=chosen(settings, "entity_id", str),
            flash=chosen(settings, "flash", bool) or False,
            templates=_templates(settings),
            longest_variable=chosen(settings, "variable_length", int) or LONGEST_VARIABLE,
        )
        self._name = settings.name
        self._traced = bool(settings.receipts)
        self._warned: set[str] = set()

    def takes(self, message: Message) -> str | None:
        return impediment(message, self.account)

    def likeness(self, message: Message) -> Hashable | None:
        return likeness(message, self.account)

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        """A number is in a call once: of two texts it might get one, and its receipts would not say which."""
        firsts: dict[str, ProviderCall] = {}
        for call in calls:
            firsts.setdefault(call.message.to, call)
        if len(firsts) == len(calls):
            return await super().send(calls, begin)
        answers = dict(zip(firsts, await super().send(list(firsts.values()), begin), strict=True))
        twins = [call for call in calls if firsts[call.message.to] is not call]
        (later, *_) = self.put_back(twins, Finding(verdict=PUT_BACK, code="same_number", detail=SAME), alone=True)
        return [answers[call.message.to] if firsts[call.message.to] is call else later for call in calls]

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        self._warn(calls)
        return request(calls, self.account)

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        finding, shared = judge(answer), len(calls) > 1
        if shared and is_of_one(finding, [call.message for call in calls]):
            # What was said of one message is not its neighbours' to read.
            return self.put_back(calls, replace(finding, detail=None), alone=True)
        if shared and finding.verdict is TAKEN and finding.detail:
            finding = replace(finding, detail=f"{finding.detail}, for {len(calls)} messages")
        ids = request_ids(answer, len(calls))
        return [self._answer(finding, call.message, each) for call, each in zip(calls, ids, strict=True)]

    def probe(self) -> WireRequest:
        return probe(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return wallet(answer)

    def _answer(self, finding: Finding, message: Message, identifier: str | None) -> Answer:
        """Receipts of a shared call, and those in CleverTap's format, name an attempt by the request's id."""
        if finding.verdict is not TAKEN:
            return finding.answer(named(message))
        answer = replace(finding, provider_message_id=identifier).answer()
        return replace(answer, traced=self._traced and identifier is not None)

    def _warn(self, calls: Iterable[ProviderCall]) -> None:
        """Once for each template, since not every operator's platform takes more than the classic length."""
        for call in calls:
            content = call.message.content
            template = content.dlt_template_id if isinstance(content, SmsContent) else None
            if template is None or template in self._warned or len(self._warned) >= MOST_WARNED:
                continue
            if isinstance(content, SmsContent) and is_tight(content, self.account, CLASSIC_LONGEST):
                self._warned.add(template)
                log.warning(
                    "provider.long_variable",
                    provider=self._name,
                    template=template,
                    message=call.message.id,
                    longer_than=CLASSIC_LONGEST,
                )


def _templates(settings: ProviderSettings) -> dict[str, Template]:
    """By their ids with the operators, and by their numbers at Fast2SMS."""
    known: dict[str, Template] = chosen(settings, "templates", dict) or {}
    return {template.message_id: template for template in known.values() if template.message_id} | known
