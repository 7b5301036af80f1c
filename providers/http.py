"""What all HTTP providers share: the table of statuses, reading of answers, and the courier around a wire.

A kind gives pure functions (what to write, what an answer means); this module makes the call. Its own table of codes
comes first; what it does not know falls to `by_status`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final

import orjson

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Begin
from heliograph.providers.kinds import fault
from heliograph.providers.mime import Unsendable
from heliograph.providers.rules import MOST_TEXT, first, refuses_all, ruled
from heliograph.providers.transports import connected
from heliograph.providers.verdicts import Finding, Verdict, clip
from heliograph.providers.wire import MIB, Base, Loss, Transport, WireAnswer, WireFailure, WireRequest

DAY_S: Final = 86_400.0
MOST_ALONE: Final = 10_000
SHORTEST_PIECE: Final = 6
"""Of a secret, in characters, that is blotted out where a text was cut off in it."""
HTTP: Final = "RFC 9110, HTTP semantics"

STATUS: Final[Mapping[int, Verdict]] = {
    401: Verdict(
        outcome=Outcome.MISCONFIGURED,
        meaning="the provider does not know these credentials",
        cure="check credentials of the provider",
        source=HTTP,
    ),
    403: Verdict(
        outcome=Outcome.MISCONFIGURED,
        meaning="these credentials may not do this",
        cure="check what the account and its key are allowed",
        source=HTTP,
    ),
    408: Verdict(
        outcome=Outcome.DEFERRED, meaning="the request came too slowly", cure="nothing: tried again", source=HTTP
    ),
    413: Verdict(
        outcome=Outcome.REJECTED,
        meaning="the message is too large",
        cure="send less: fewer or smaller attachments",
        source=HTTP,
    ),
    425: Verdict(outcome=Outcome.DEFERRED, meaning="too early", cure="nothing: tried again", source="RFC 8470"),
    429: Verdict(
        outcome=Outcome.THROTTLED,
        meaning="too many requests",
        cure="lower the provider's rate if this goes on",
        source="RFC 6585",
    ),
}
REDIRECTED: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="the provider redirects; a call with credentials is never sent on",
    cure="correct base_url",
    source=HTTP,
)
REFUSED: Final = Verdict(
    outcome=Outcome.REJECTED,
    meaning="the provider refuses the message",
    cure="read the provider's text, correct the message, send it anew",
    source=HTTP,
)
FAILED: Final = Verdict(
    outcome=Outcome.DEFERRED, meaning="the provider failed", cure="nothing: tried again elsewhere", source=HTTP
)
UNREADABLE: Final = Verdict(
    outcome=Outcome.UNKNOWN,
    meaning="the provider answered, but not in words that are documented",
    cure="look at the provider's own log whether it was sent",
    source=HTTP,
)
PUT_BACK: Final = Verdict(
    outcome=Outcome.DEFERRED,
    meaning="a call of several messages was refused for one of them, and none was sent",
    cure="nothing: tried again",
    source="a refused call says nothing of its single messages",
    scope=Scope.MESSAGE,
)
LOST: Final[Mapping[Loss, Verdict]] = {
    Loss.NOT_SENT: Verdict(
        outcome=Outcome.DEFERRED,
        meaning="the provider was not reached; nothing was sent",
        cure="check base_url and the network if this goes on",
        source=HTTP,
    ),
    Loss.UNTRUSTED: Verdict(
        outcome=Outcome.MISCONFIGURED,
        meaning="the provider's certificate does not verify; nothing was sent",
        cure="check base_url, the clock and the trusted authorities of this machine",
        source="RFC 9110, 4.3.4",
    ),
    Loss.UNREADY: Verdict(
        outcome=Outcome.MISCONFIGURED,
        meaning="there are no credentials to call with; nothing was sent",
        cure="configure credentials, or let this machine have them",
        source="each provider's own rules of authentication",
    ),
    Loss.UNANSWERED: Verdict(
        outcome=Outcome.UNKNOWN,
        meaning="no answer came; it may have been sent",
        cure="look at the provider's own log, or raise timeout",
        source=HTTP,
    ),
}


def by_status(answer: WireAnswer, detail: str | None = None) -> Finding:
    """What a status means where the kind's own table says nothing. A success that came here was not understood."""
    status = answer.status
    if status in STATUS:
        verdict = STATUS[status]
    elif 300 <= status < 400:
        verdict = REDIRECTED
    elif 400 <= status < 500:
        verdict = REFUSED
    elif 500 <= status < 600:
        verdict = FAILED
    else:
        verdict = UNREADABLE
    return Finding(verdict=verdict, code=str(status), detail=detail, retry_after_s=retry_after_s(answer))


def retry_after_s(answer: WireAnswer) -> float | None:
    """`Retry-After` as seconds or as a date, held between 0 and a day; None where there is none that can be read."""
    text = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text[:9]) if len(text) < 10 else DAY_S, DAY_S)
    try:
        return clamp_s(parsedate_to_datetime(text).timestamp() - answer.at_s)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def clamp_s(seconds: float) -> float:
    return min(max(seconds, 0.0), DAY_S)


def parse(body: bytes) -> object:
    """JSON, or None for what is none. Never raises: orjson refuses NaN, bad UTF-8 and endless nesting by itself."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def table(value: object) -> Mapping[str, object]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def word(value: object) -> str | None:
    """A text or a whole number as a text that is not empty, else None."""
    if isinstance(value, str):
        return value.strip()[:1000] or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def masker(secrets: Collection[str]) -> Callable[[str], str]:
    """Blots the secrets out of a text, also one that was cut off at the text's end; a function, so that no repr shows
    them."""
    whole = re.compile("|".join(map(re.escape, sorted(secrets, key=len, reverse=True))) or "(?!)")

    def mask(text: str) -> str:
        text = whole.sub("…", text)
        said = text.removesuffix("…")
        last = said[-SHORTEST_PIECE:]
        for secret in secrets:
            if last not in secret:
                continue
            for length in range(len(secret) - 1, SHORTEST_PIECE - 1, -1):
                if said.endswith(secret[:length]):
                    return f"{said[:-length]}…"
        return text

    return mask


def explainer(judge: Callable[[WireAnswer], Finding]) -> Callable[[str, bytes], Finding]:
    """`Kind.explain` out of the function that judges a kind's answers."""

    def explain(status: str, body: bytes) -> Finding:
        if not re.fullmatch(r"[1-9][0-9]{2}", status):
            raise ValueError("STATUS is an HTTP status: three digits")
        return judge(WireAnswer(status=int(status), body=body))

    return explain


class HttpCourier(ABC):
    """The half of a courier that is the same for every HTTP provider. The rest is pure, and its kind's."""

    can_ask = False
    most_bytes = MIB

    def __init__(
        self, settings: ProviderSettings, base_url: str, secrets: Collection[str], transport: Transport | None = None
    ) -> None:
        try:
            self.base = Base.parse(settings.base_url or base_url)
        except ValueError as error:
            raise fault(settings, "base_url", str(error)) from None
        self.longest_call_s = settings.timeout_s
        self._coalesces = settings.batch > 1
        self._mask = masker(secrets)
        self._transport = transport or connected(
            settings.http_client, self.base, timeout_s=settings.timeout_s, most_bytes=self.most_bytes
        )
        self._alone: dict[str, None] = {}
        self._rules = settings.answers

    @abstractmethod
    def takes(self, message: Message) -> str | None: ...

    @abstractmethod
    def likeness(self, message: Message) -> Hashable | None:
        """What messages must have in common to share a call; None: this one shares none."""

    @abstractmethod
    def request(self, calls: Sequence[ProviderCall]) -> WireRequest: ...

    @abstractmethod
    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        """Total: one Answer for each call, whatever came."""

    @abstractmethod
    def probe(self) -> WireRequest:
        """The harmless call."""

    @abstractmethod
    def proved(self, answer: WireAnswer) -> Finding:
        """What the harmless call's answer says of the account."""

    def batch_key(self, message: Message) -> Hashable | None:
        return self.likeness(message) if self._coalesces and message.id not in self._alone else None

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        try:
            request = self.request(calls)
        except Unsendable as error:
            begin()
            return [Answer(outcome=Outcome.REJECTED, code="unsendable", detail=clip(str(error)))] * len(calls)
        result = await self._transport.exchange(request, begin)
        if isinstance(result, WireFailure):
            return [_lost(result)] * len(calls)
        return [self._masked(answer) for answer in self._ruled(calls, result, self.classify(calls, result))]

    async def ask(self, call: ProviderCall) -> Settled | None:  # noqa: ARG002 - few providers can tell
        return None

    async def check(self) -> Answer:
        result = await self._transport.exchange(self.probe(), lambda: None)
        if isinstance(result, WireFailure):
            return _lost(result)
        answer = self._masked(self.proved(result).answer())
        # There is no message here that could be at fault.
        return replace(answer, outcome=Outcome.MISCONFIGURED) if answer.outcome is Outcome.REJECTED else answer

    async def aclose(self) -> None:
        await self._transport.aclose()

    def put_back(self, calls: Sequence[ProviderCall], finding: Finding, *, alone: bool) -> list[Answer]:
        """A shared call was refused for one of its messages, and these were not sent for their neighbour's sake.

        A second call here would need a right of its own, so they go back to be tried again. `alone`: any of them may
        be the one, so none shares a call with others after this. That is remembered in this process only; elsewhere
        they may share one more.
        """
        if alone:
            self._alone.update((call.message.id, None) for call in calls)
            while len(self._alone) > MOST_ALONE:
                self._alone.pop(next(iter(self._alone)))
        return [Finding(verdict=PUT_BACK, code=finding.code, detail=finding.detail).answer()] * len(calls)

    def _ruled(self, calls: Sequence[ProviderCall], came: WireAnswer, answers: Sequence[Answer]) -> Sequence[Answer]:
        """What the configuration's own rows make of it. What was taken stays taken, and a success that broke off
        stays what it is."""
        taken = 200 <= came.status < 300
        if not self._rules or (taken and not came.whole):
            return answers
        shared = len(calls) > 1
        body = came.body[:MOST_TEXT].decode("utf-8", "replace")
        # A shared call that was taken says something else of each of its messages, as far as `detail` has it.
        texts = [answer.detail or "" if shared and taken else body for answer in answers]
        rules = [
            first(self._rules, status=came.status, code=answer.code, text=text)
            for answer, text in zip(answers, texts, strict=True)
        ]
        if shared and not taken and any(rule is not None and refuses_all(rule) for rule in rules):
            return self.put_back(calls, Finding(verdict=PUT_BACK, code=answers[0].code), alone=True)
        return [
            answer if rule is None or answer.outcome is Outcome.ACCEPTED else ruled(answer, rule)
            for answer, rule in zip(answers, rules, strict=True)
        ]

    def _masked(self, answer: Answer) -> Answer:
        """Providers like to repeat what they were told."""
        if answer.detail is None or (masked := self._mask(answer.detail)) == answer.detail:
            return answer
        return replace(answer, detail=masked)


def _lost(failure: WireFailure) -> Answer:
    return Finding(verdict=LOST[failure.loss], code=failure.code, detail=failure.detail).answer()
