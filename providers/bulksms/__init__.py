"""BulkSMS, JSON REST API v1: one call for one SMS, or for an array of them, each with text and sender of its own.

Every entry carries the attempt's id as `userSuppliedId`; the answer's elements are told apart by it, and so is what
became of an attempt whose answer was lost. A repeat of the very same call within some twelve hours sends nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import orjson
import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import Channel, Message, Priority, SmsContent
from heliograph.actors.model.provider import ProviderSettings
from heliograph.providers.http import HttpCourier, by_status, explainer, parse, retry_after_s, table, word
from heliograph.providers.kinds import Kind, Option, chosen, fault, one_of, whole
from heliograph.providers.mime import Unsendable
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import MIB, Transport, WireAnswer, WireFailure, WireRequest

BASE_URL: Final = "https://api.bulksms.com"
STANDARD: Final = "STANDARD"
MAX_PARTS: Final = 10
MESSAGES: Final = "/v1/messages"
PROFILE: Final = "/v1/profile"
SECOND_LOOK_S: Final = 2.0
DOCS: Final = "BulkSMS JSON REST API v1"


def _row(outcome: Outcome, meaning: str, cure: str, *names: str, scope: Scope = Scope.PROVIDER) -> Verdict:
    return Verdict(outcome=outcome, meaning=meaning, cure=cure, source=DOCS, scope=scope, names=frozenset(names))


TAKEN: Final = _row(Outcome.ACCEPTED, "BulkSMS took the message", "nothing")
NOT_ROUTED: Final = _row(
    Outcome.REJECTED, "BulkSMS will not send to this number", "read the code: no route, or the recipient said STOP"
)
SWALLOWED: Final = _row(
    Outcome.DEFERRED,
    "an earlier call had the same deduplication id, so this one was not sent",
    "nothing: tried again under another id",
    scope=Scope.MESSAGE,
)
SENDER: Final = _row(
    Outcome.MISCONFIGURED,
    "the account may not send from this sender",
    "have the sender admitted, or change it",
    "sender",
)
MISSING: Final = _row(
    Outcome.UNKNOWN, "the answer leaves this message out", "look it up at BulkSMS by its userSuppliedId"
)
ERRORS: Final[Mapping[tuple[int, str], Verdict]] = {
    (400, ""): _row(Outcome.REJECTED, "BulkSMS cannot take the message as it is", "read the text, correct the message"),
    (401, ""): _row(Outcome.MISCONFIGURED, "the token or password is not known", "correct the credentials"),
    (403, "insufficient-credits"): _row(Outcome.MISCONFIGURED, "no credits are left", "buy credits"),
    (403, ""): _row(
        Outcome.MISCONFIGURED,
        "the account may not do this: sender, daily quota or a block",
        "read the text; look at the account",
    ),
    (404, ""): _row(Outcome.MISCONFIGURED, "there is no such path", "correct base_url"),
}
"""By HTTP status and the fragment of `type`; an empty fragment stands for every other."""

_OF_SENDER: Final = re.compile(r"['\"`]from\b|\bsender\b|\borigin(?:ator|ating|\b)", re.IGNORECASE)
# BulkSMS fills these in from its own phone book: `{fn}`, `{sn##}`, `{F1###}`.
_TEMPLATE_FIELD: Final = re.compile(r"\{(?:F\d+|fn|sn)#*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSmsAccount:
    authorization: str = field(repr=False)
    prefix: str = ""
    sender: str | None = None
    routing_group: str = STANDARD
    max_parts: int = MAX_PARTS


# -------------------------------------------------------------------------------------------------- writing


def request(calls: Sequence[ProviderCall], account: BulkSmsAccount) -> WireRequest:
    """Raises Unsendable where a message is no SMS."""
    entries = [_entry(call, account) for call in calls]
    # Without auto-unicode a letter outside the GSM alphabet would arrive as a question mark.
    target = f"{account.prefix}{MESSAGES}?deduplication-id={deduplication_id(calls)}&auto-unicode=true"
    headers = (*_headers(account), ("content-type", "application/json"))
    return WireRequest(method="POST", target=target, headers=headers, body=orjson.dumps(entries))


def lookup(attempt_id: str, account: BulkSmsAccount) -> WireRequest:
    wanted = quote(f"type=SENT&userSuppliedId={attempt_id}", safe="")
    return WireRequest(
        method="GET", target=f"{account.prefix}{MESSAGES}?limit=10&filter={wanted}", headers=_headers(account)
    )


def probe(account: BulkSmsAccount) -> WireRequest:
    return WireRequest(method="GET", target=account.prefix + PROFILE, headers=_headers(account))


def deduplication_id(calls: Sequence[ProviderCall]) -> int:
    """31 bits (int32) out of the attempts' ids, so that one call has one id in any process.

    Two calls may meet in it: about n²/2³² for n calls in twelve hours. The second then sends nothing and is answered
    with the first one's messages, which their `userSuppliedId`s betray (SWALLOWED).
    """
    digest = hashlib.sha256(" ".join(call.attempt_id for call in calls).encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def _headers(account: BulkSmsAccount) -> tuple[tuple[str, str], ...]:
    return (("authorization", account.authorization), ("accept", "application/json"))


def _entry(call: ProviderCall, account: BulkSmsAccount) -> dict[str, object]:
    content = call.message.content
    if not isinstance(content, SmsContent):
        raise Unsendable("a mail is no SMS")
    entry: dict[str, object] = {
        "to": [{"type": "INTERNATIONAL", "address": call.message.to.removeprefix("+")}],
        "body": content.text,
        "longMessageMaxParts": account.max_parts,
        "routingGroup": account.routing_group,
        "deliveryReports": "ALL",
        "userSuppliedId": call.attempt_id,
    }
    sender = content.sender_id or account.sender
    if sender is not None:
        entry["from"] = origin(sender)
    return entry


def origin(sender: str) -> dict[str, str]:
    """A number, a short code or a name, as BulkSMS tells them apart."""
    digits = sender.removeprefix("+")
    if not re.fullmatch(r"[0-9]+", digits):
        return {"type": "ALPHANUMERIC", "address": sender}
    if len(digits) < 7 and digits == sender:
        return {"type": "SHORTCODE", "address": digits}
    return {"type": "INTERNATIONAL", "address": digits}


# -------------------------------------------------------------------------------------------------- reading


def judge(answer: WireAnswer) -> Finding:
    """What an answer means for the call as a whole; a list of messages, by its first."""
    elements = _elements(answer)
    if elements:
        return _of_element(elements[0])
    body = table(parse(answer.body))
    detail = word(body.get("detail")) or word(body.get("title"))
    fragment = (word(body.get("type")) or "").rpartition("#")[2]
    verdict = ERRORS.get((answer.status, fragment)) or ERRORS.get((answer.status, ""))
    if verdict is None:
        return by_status(answer, detail)
    if answer.status in (400, 403) and _OF_SENDER.search(detail or ""):
        verdict = SENDER
    known = fragment if re.fullmatch(r"[a-z-]{1,60}", fragment) else str(answer.status)
    return Finding(verdict=verdict, code=known, detail=detail, retry_after_s=retry_after_s(answer))


def classify(calls: Sequence[ProviderCall], answer: WireAnswer) -> list[Answer]:
    """Each message by its own element of a list, or all by the refusal of the call."""
    elements = _elements(answer)
    if elements is None:
        finding = judge(answer)
        return [finding.answer(_named(call.message)) for call in calls]
    by_id = {key: element for element in elements if (key := word(element.get("userSuppliedId")))}
    if not by_id and len(elements) == len(calls):
        return [_of_element(element).answer() for element in elements]
    if by_id and not any(call.attempt_id in by_id for call in calls):
        return [Finding(verdict=SWALLOWED, code="deduplicated").answer()] * len(calls)
    return [
        _of_element(by_id[call.attempt_id]).answer()
        if call.attempt_id in by_id
        else Finding(verdict=MISSING, code="missing").answer()
        for call in calls
    ]


def found(answer: WireAnswer, attempt_id: str) -> Settled | None:
    """What a look-up tells: NOT_SENT where BulkSMS knows of no such message, None where it does not tell."""
    elements = _elements(answer)
    if elements is None:
        return None
    ours = [element for element in elements if word(element.get("userSuppliedId")) == attempt_id]
    if not ours:
        return None if elements else Settled.NOT_SENT
    failed = all(_of_element(element).verdict is NOT_ROUTED for element in ours)
    return Settled.REJECTED if failed else Settled.ACCEPTED


def profile(answer: WireAnswer) -> Finding:
    """Credits and quota, for people."""
    if not 200 <= answer.status < 300:
        return judge(answer)
    body = table(parse(answer.body))
    if not answer.whole or "credits" not in body:
        return by_status(answer)
    credits_left = table(body["credits"]).get("balance")
    quota_left = table(body.get("quota")).get("remaining")
    return Finding(verdict=TAKEN, detail=f"credits {credits_left}, messages left today {quota_left}")


explain = explainer(judge)


def _elements(answer: WireAnswer) -> list[Mapping[str, object]] | None:
    """The messages that a success lists; None for anything else. One message may come without its brackets."""
    if not 200 <= answer.status < 300 or not answer.whole:
        return None
    body = parse(answer.body)
    if isinstance(body, dict) and "id" in body and "status" in body:
        return [body]
    return [table(element) for element in body] if isinstance(body, list) else None


def _named(message: Message) -> frozenset[str]:
    content = message.content
    return frozenset({"sender"}) if isinstance(content, SmsContent) and content.sender_id else frozenset()


def _of_element(element: Mapping[str, object]) -> Finding:
    status = table(element.get("status"))
    if (word(status.get("type")) or "").upper() == "FAILED":
        subtype = word(status.get("subtype"))
        return Finding(verdict=NOT_ROUTED, code=f"FAILED.{subtype}"[:60] if subtype else "FAILED")
    identifier = word(element.get("id"))
    if identifier is None:
        return Finding(verdict=MISSING, code="missing")
    return Finding(verdict=TAKEN, provider_message_id=identifier)


# -------------------------------------------------------------------------------------------------- courier


class BulkSmsCourier(HttpCourier):
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
        if settings.sender is not None and len(origin(settings.sender)["address"]) > _longest(settings.sender):
            raise fault(settings, "sender", "a name has at most 11 characters, a number at most 15 digits")
        self.account = BulkSmsAccount(
            authorization=f"Basic {basic}",
            prefix=self.base.prefix,
            sender=settings.sender,
            routing_group=chosen(settings, "routing_group", str) or STANDARD,
            max_parts=chosen(settings, "max_parts", int) or MAX_PARTS,
        )
        self._second_look_s = second_look_s

    def takes(self, message: Message) -> str | None:
        content = message.content
        if not isinstance(content, SmsContent):
            return "channel"
        if _TEMPLATE_FIELD.search(content.text):
            return "template_field"
        if message.parts is not None and message.parts > self.account.max_parts:
            return "parts"
        return None

    def likeness(self, message: Message) -> Hashable | None:
        return None if message.priority is Priority.URGENT else "any"

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        return request(calls, self.account)

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        if len(calls) > 1 and answer.status in (400, 413):
            return self.put_back(calls, judge(answer), alone=True)
        return classify(calls, answer)

    def probe(self) -> WireRequest:
        return probe(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return profile(answer)

    async def ask(self, call: ProviderCall) -> Settled | None:
        """An empty look-up counts when it is empty twice: the call whose answer was lost may still be at work."""
        first = await self._look(call.attempt_id)
        if first is not Settled.NOT_SENT:
            return first
        await trio.sleep(self._second_look_s)
        return await self._look(call.attempt_id)

    async def _look(self, attempt_id: str) -> Settled | None:
        result = await self._transport.exchange(lookup(attempt_id, self.account), lambda: None)
        return None if isinstance(result, WireFailure) else found(result, attempt_id)


def _longest(sender: str) -> int:
    return 11 if origin(sender)["type"] == "ALPHANUMERIC" else 15


KIND: Final = Kind(
    channels=frozenset({Channel.SMS}),
    courier=BulkSmsCourier,
    explain=explain,
    credentials=(("token_id", "token_secret"), ("username", "password")),
    options={
        "routing_group": Option(
            parse=one_of("ECONOMY", STANDARD, "PREMIUM"), about="price against quality", default=STANDARD
        ),
        "max_parts": Option(parse=whole(1, 255), about="longer messages are not routed here", default=MAX_PARTS),
    },
    base_url=BASE_URL,
    rate=10,
    batch=30_000,
)
