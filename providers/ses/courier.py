"""The half of SES that does I/O: signatures, and the clock and the keys that they need."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall
from heliograph.actors.model.message import EmailContent, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.mail import parse_mailbox
from heliograph.actors.ports.courier import Allowance, Begin
from heliograph.providers.envelope import configured_sender
from heliograph.providers.http import HttpCourier, masker
from heliograph.providers.kinds import chosen, fault
from heliograph.providers.ses.answers import (
    SENDER,
    Complaint,
    account_state,
    allowance,
    complaint,
    judge,
    judge_entries,
    told_at_s,
)
from heliograph.providers.ses.credentials import Keys, RenewedKeys, StaticKeys, Unavailable, surroundings
from heliograph.providers.ses.requests import (
    SesAccount,
    ask_account,
    impediment,
    likeness,
    send_bulk_email,
    send_email,
)
from heliograph.providers.signing import AwsCredentials, sign
from heliograph.providers.verdicts import Finding
from heliograph.providers.wire import Base, Loss, Transport, WireAnswer, WireFailure, WireRequest

BASE_URL: Final = "https://email.{region}.amazonaws.com"
_REGION: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
NOTABLE_S: Final = 60.0
"""A clock that is less wrong than that is not what a signature was refused for."""


class SignedTransport:
    """Signs each request on its way. One whose signature was refused, for the clock or for keys that are over, is
    signed anew and sent once more: the refused one had no effect, and `begin` is asked again before its first byte.
    """

    def __init__(self, line: Transport, base: Base, region: str, keys: Keys, now_s: Callable[[], float]) -> None:
        self._line = line
        self._authority = base.authority
        self._region = region
        self._keys = keys
        self._now_s = now_s
        self._ahead_s = 0.0  # the provider's clock before ours
        self._shown: list[AwsCredentials] = []
        self.mask = masker(())

    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        try:
            answer, mended = await self._exchange(request, begin)
            return (await self._exchange(request, begin))[0] if mended else answer
        except Unavailable as error:
            return WireFailure(Loss.UNREADY, "credentials", f"no AWS credentials: {error}")

    async def aclose(self) -> None:
        await self._line.aclose()

    async def _exchange(self, request: WireRequest, begin: Begin) -> tuple[WireAnswer | WireFailure, bool]:
        """And whether the same request would be signed otherwise now."""
        credentials, ahead_s = await self._keys.get(), self._ahead_s
        self._remember(credentials)
        answer = await self._line.exchange(self._signed(request, credentials), begin)
        if isinstance(answer, WireFailure):
            return answer, False
        match complaint(answer):
            case Complaint.CLOCK:
                now_s = told_at_s(answer)
                self._ahead_s = 0.0 if now_s is None else now_s - self._now_s()
                return answer, abs(self._ahead_s - ahead_s) >= NOTABLE_S
            case Complaint.KEY:
                return answer, self._keys.refused(credentials)
            case None:
                return answer, False

    def _signed(self, request: WireRequest, credentials: AwsCredentials) -> WireRequest:
        headers = dict(request.headers)
        signed = sign(
            credentials,
            method=request.method,
            host=self._authority,
            path=request.target,
            body=request.body,
            content_type=headers.pop("content-type", None),
            region=self._region,
            service="ses",
            timestamp=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now_s() + self._ahead_s)),
        )
        return replace(request, headers=(*headers.items(), *signed))

    def _remember(self, credentials: AwsCredentials) -> None:
        """Answers repeat what was signed, the session token too; one may still be on its way with the keys before."""
        if credentials not in self._shown:
            self._shown = [*self._shown[-1:], credentials]
            self.mask = masker([s for c in self._shown for s in (c.secret_access_key, c.session_token) if s])


class SesCourier(HttpCourier):
    """`environment` is where AWS says who gives credentials, where the configuration has none. It is `Measured`."""

    def __init__(
        self,
        settings: ProviderSettings,
        transport: Transport | None = None,
        now_s: Callable[[], float] = time.time,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        region = settings.credentials["region"]
        if not _REGION.fullmatch(region):
            raise fault(settings, "credentials.region", "must be a region of AWS, such as ap-south-1")
        super().__init__(settings, BASE_URL.format(region=region), (), transport)
        keys = _keys(settings, environment, now_s)
        self._transport = self._signed = SignedTransport(self._transport, self.base, region, keys, now_s)
        self.account = SesAccount(
            prefix=self.base.prefix,
            sender=configured_sender(settings),
            configuration_set=chosen(settings, "configuration_set", str),
            tags=chosen(settings, "tags", bool) is not False,
        )
        # Without a configuration set no event has tags: receipts can only name SES' own id.
        self._traced = bool(settings.receipts) and self.account.configuration_set is None

    def takes(self, message: Message) -> str | None:
        return impediment(message, self.account)

    def likeness(self, message: Message) -> Hashable | None:
        return likeness(message)

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        return send_email(calls[0], self.account) if len(calls) == 1 else send_bulk_email(calls, self.account)

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        findings = judge_entries(answer, len(calls)) if len(calls) > 1 else None
        if findings is not None:
            return [self._answer(found, call) for found, call in zip(findings, calls, strict=True)]
        found = judge(answer)
        if len(calls) > 1 and found.verdict.outcome is Outcome.REJECTED:
            return self.put_back(calls, found, alone=True)
        return [self._answer(found, call) for call in calls]

    def probe(self) -> WireRequest:
        return ask_account(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return account_state(answer)

    async def allowance(self) -> Allowance | None:
        answer = await self._transport.exchange(self.probe(), lambda: None)
        return allowance(answer) if isinstance(answer, WireAnswer) else None

    def _answer(self, found: Finding, call: ProviderCall) -> Answer:
        answer = found.answer(_named(call.message, found))
        return replace(answer, traced=self._traced) if answer.outcome is Outcome.ACCEPTED else answer

    def _masked(self, answer: Answer) -> Answer:
        return answer if answer.detail is None else replace(answer, detail=self._signed.mask(answer.detail))


def _named(message: Message, found: Finding) -> frozenset[str]:
    """Whether a complaint about an address can be about the sender that the message named: not where a recipient is
    the address complained of, as in SES' sandbox."""
    content = message.content
    if not isinstance(content, EmailContent) or not content.sender or SENDER.isdisjoint(found.verdict.names):
        return frozenset()
    said = (found.detail or "").lower()
    sender, *recipients = (
        parse_mailbox(text).address.lower() for text in (content.sender, message.to, *content.cc, *content.bcc)
    )
    return frozenset() if any(r in said and r != sender for r in recipients) else SENDER


def _keys(settings: ProviderSettings, environment: Mapping[str, str], now_s: Callable[[], float]) -> Keys:
    given = settings.credentials
    if "access_key_id" not in given:
        return RenewedKeys(surroundings(environment), now_s)
    credentials = AwsCredentials(given["access_key_id"], given["secret_access_key"], given.get("session_token"))
    return StaticKeys(credentials)
