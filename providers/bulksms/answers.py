"""What BulkSMS' answers mean. Pure, and total: whatever came becomes a Finding.

A submission that is taken is a list of messages, 201; a refusal is `{"type": "…#fragment", "title", "status",
"detail"}` and refuses the whole call. Source: BulkSMS JSON REST API v1, errors and the message's `status`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import Message, SmsContent
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.courier import Allowance
from heliograph.providers.http import by_status, explainer, parse, retry_after_s, table, word
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import WireAnswer

DOCS: Final = "BulkSMS JSON REST API v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Holds for an answer of this status, of this fragment of `type`, whose text the pattern is found in (None: any).
    The first row that holds decides."""

    status: int
    verdict: Verdict
    fragment: str | None = None
    text: re.Pattern[str] | None = None

    def holds(self, status: int, fragment: str, detail: str) -> bool:
        if status != self.status or self.fragment not in (None, fragment):
            return False
        return self.text is None or self.text.search(detail) is not None


def _verdict(
    outcome: Outcome,
    meaning: str,
    cure: str,
    *names: str,
    scope: Scope = Scope.PROVIDER,
    suppress: SuppressionReason | None = None,
) -> Verdict:
    return Verdict(
        outcome=outcome,
        meaning=meaning,
        cure=cure,
        source=DOCS,
        scope=scope,
        names=frozenset(names),
        suppress=suppress,
    )


def _like(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


TAKEN: Final = _verdict(Outcome.ACCEPTED, "BulkSMS took the message", "nothing")
FAULTY: Final = _verdict(
    Outcome.REJECTED, "BulkSMS cannot take the message as it is", "read the text, correct the message"
)
LOGIN: Final = _verdict(Outcome.MISCONFIGURED, "the token or password is not known", "correct the credentials")
CREDITS: Final = _verdict(Outcome.MISCONFIGURED, "no credits are left", "buy credits")
QUOTA: Final = _verdict(
    Outcome.MISCONFIGURED,
    "the account's quota of messages for today is used up",
    "wait for tomorrow, or have BulkSMS raise it",
)
SENDER: Final = _verdict(
    Outcome.MISCONFIGURED,
    "the account may not send from this sender",
    "have the sender admitted, or change it",
    "sender",
)
FORBIDDEN: Final = _verdict(
    Outcome.MISCONFIGURED, "the account may not do this, or is blocked", "read the text; look at the account"
)
PLACE: Final = _verdict(Outcome.MISCONFIGURED, "there is no such path", "correct base_url")

_OF_SENDER: Final = _like(r"['\"`]from\b|\bsender\b|\borigin(?:ator|ating|\b)")
ROWS: Final[tuple[Row, ...]] = (
    Row(status=400, text=_OF_SENDER, verdict=SENDER),
    Row(status=400, verdict=FAULTY),
    Row(status=401, verdict=LOGIN),
    Row(status=403, fragment="insufficient-credits", verdict=CREDITS),
    Row(status=403, text=_OF_SENDER, verdict=SENDER),
    Row(status=403, text=_like(r"\bquota\b"), verdict=QUOTA),
    Row(status=403, text=_like(r"\bcredits?\b"), verdict=CREDITS),
    Row(status=403, verdict=FORBIDDEN),
    Row(status=404, verdict=PLACE),
)
"""What is not here (429, 5xx, all else) means what its status means for every provider."""

FAILED: Final[Mapping[str, Verdict]] = {
    "BLOCKED": _verdict(
        Outcome.REJECTED,
        "the account may not send to this number: its owner said STOP, or an administrator blocked it",
        "write to this number no more",
        suppress=SuppressionReason.UNSUBSCRIBE,
    ),
    "NOT_SENT": _verdict(
        Outcome.REJECTED, "BulkSMS has no way to this number", "check the number, or use another provider for it"
    ),
    "EXPIRED": _verdict(Outcome.REJECTED, "the message's time ran out at BulkSMS", "send it anew"),
    "HANDSET_ERROR": _verdict(Outcome.REJECTED, "the phone could not take it, its memory may be full", "send it anew"),
}
"""By `status.subtype` of a message in a list whose `status.type` is FAILED: the list has it, and it will not go."""
FAILED_SOMEHOW: Final = _verdict(Outcome.REJECTED, "BulkSMS will not send this message", "look it up at BulkSMS")
SWALLOWED: Final = _verdict(
    Outcome.DEFERRED,
    "an earlier call had the same deduplication id, so this one was not sent",
    "nothing: tried again under another id",
    scope=Scope.MESSAGE,
)
MISSING: Final = _verdict(
    Outcome.UNKNOWN, "the answer leaves this message out", "look it up at BulkSMS by its userSuppliedId"
)


def judge(answer: WireAnswer) -> Finding:
    """What an answer means for the call as a whole; a list of messages, by its first."""
    elements = _elements(answer)
    if elements:
        return _of_element(elements[0])
    body = table(parse(answer.body))
    detail = word(body.get("detail")) or word(body.get("title"))
    fragment = (word(body.get("type")) or "").rpartition("#")[2].lower()
    row = next((row for row in ROWS if row.holds(answer.status, fragment, detail or "")), None)
    if row is None:
        return by_status(answer, detail)
    known = fragment if re.fullmatch(r"[a-z-]{1,60}", fragment) else str(answer.status)
    return Finding(verdict=row.verdict, code=known, detail=detail, retry_after_s=retry_after_s(answer))


def classify(calls: Sequence[ProviderCall], answer: WireAnswer) -> list[Answer]:
    """Each message by its own element of a list, or all by the refusal of the call."""
    elements = _elements(answer)
    if elements is None:
        finding = judge(answer)
        return [finding.answer(named(call.message)) for call in calls]
    ours = _matched(calls, elements)
    if not ours and any(word(element.get("userSuppliedId")) for element in elements):
        return [Finding(verdict=SWALLOWED, code="deduplicated").answer()] * len(calls)
    return [
        _of_element(ours[call.attempt_id]).answer()
        if call.attempt_id in ours
        else Finding(verdict=MISSING, code="missing").answer()
        for call in calls
    ]


def named(message: Message) -> frozenset[str]:
    """The parts of a request that come from the message itself."""
    content = message.content
    return frozenset({"sender"}) if isinstance(content, SmsContent) and content.sender_id else frozenset()


def found(answer: WireAnswer, attempt_id: str) -> Settled | None:
    """What a look-up tells: NOT_SENT where BulkSMS knows of no such message, None where it does not tell."""
    elements = _elements(answer)
    if elements is None:
        return None
    ours = [element for element in elements if word(element.get("userSuppliedId")) == attempt_id]
    if not ours:
        return None if elements else Settled.NOT_SENT
    return Settled.REJECTED if all(map(_has_failed, ours)) else Settled.ACCEPTED


def profile(answer: WireAnswer) -> Finding:
    """Credits and quota, for people."""
    body = table(parse(answer.body))
    if answer.status != 200:
        return judge(answer)
    if not answer.whole or "credits" not in body:
        return by_status(answer)
    credit, quota = table(body["credits"]), table(body.get("quota"))
    balance, remaining = credit.get("balance"), quota.get("remaining")
    detail = f"credits {_shown(balance)}, messages left today {_shown(remaining)}"
    if size := word(quota.get("size")):
        detail += f" of {size}"
    # A limit other than 0 may let the balance go below it; what it means exactly is not published.
    if _is_zero(balance) and not credit.get("limit"):
        return Finding(verdict=CREDITS, code="insufficient-credits", detail=f"no credits are left: {detail}")
    if _is_zero(remaining):
        return Finding(verdict=QUOTA, code="quota", detail=f"today's quota is used up: {detail}")
    return Finding(verdict=TAKEN, detail=detail)


def allowance(answer: WireAnswer) -> Allowance | None:
    """How many messages the account may still send today; None where the profile does not tell."""
    if answer.status != 200 or not answer.whole:
        return None
    remaining = table(table(parse(answer.body)).get("quota")).get("remaining")
    if not isinstance(remaining, int) or isinstance(remaining, bool):
        return None
    return Allowance(remaining=max(0, remaining))


explain = explainer(judge)


def _elements(answer: WireAnswer) -> list[Mapping[str, object]] | None:
    """The messages that a success lists; None for anything else. One message may come without its brackets."""
    if not 200 <= answer.status < 300 or not answer.whole:
        return None
    body = parse(answer.body)
    if isinstance(body, dict) and "id" in body and "status" in body:
        return [body]
    return [table(element) for element in body] if isinstance(body, list) else None


def _matched(
    calls: Sequence[ProviderCall], elements: Sequence[Mapping[str, object]]
) -> dict[str, Mapping[str, object]]:
    """The element of each attempt: by its own id or that of an earlier attempt for the same message, which a repeat
    is answered with. Where no element has an id: the only one, or by its number, if that is no other message's."""
    calls_by_stem = {_stem(call.attempt_id): call for call in calls}
    by_id = {
        calls_by_stem[stem].attempt_id: element
        for element in elements
        if (stem := _stem(word(element.get("userSuppliedId")) or "")) in calls_by_stem
    }
    if by_id or any(word(element.get("userSuppliedId")) for element in elements):
        return by_id
    if len(calls) == len(elements) == 1:
        return {calls[0].attempt_id: elements[0]}
    numbers = Counter(call.message.to for call in calls)
    by_number = {_number(element): element for element in elements}
    return {
        call.attempt_id: by_number[call.message.to]
        for call in calls
        if numbers[call.message.to] == 1 and call.message.to in by_number
    }


def _stem(attempt_id: str) -> str:
    """What the ids of all attempts for one message begin with; their last two characters count them."""
    return attempt_id[:-2]


def _number(element: Mapping[str, object]) -> str:
    to = element.get("to")
    address = word(to) or word(table(to).get("address")) or ""
    return "+" + address.removeprefix("+")


def _has_failed(element: Mapping[str, object]) -> bool:
    return (word(table(element.get("status")).get("type")) or "").upper() == "FAILED"


def _of_element(element: Mapping[str, object]) -> Finding:
    identifier = word(element.get("id"))
    if _has_failed(element):
        subtype = (word(table(element.get("status")).get("subtype")) or "").upper()
        return Finding(
            verdict=FAILED.get(subtype, FAILED_SOMEHOW),
            code=f"FAILED.{subtype}" if re.fullmatch(r"[A-Z_]{1,60}", subtype) else "FAILED",
            provider_message_id=identifier,
        )
    if identifier is None:
        return Finding(verdict=MISSING, code="missing")
    return Finding(verdict=TAKEN, provider_message_id=identifier)


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 0


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else word(value) or "unknown"
