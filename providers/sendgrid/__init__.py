"""SendGrid, Web API v3: one `mail/send` for one mail, or for many whose content is the same.

A shared call has one personalization for each message; subject, headers and the attempt's id (`hg_attempt`, flat in
every event) are its own. It is taken or refused as a whole; a refusal mostly names the personalization at fault.
There is no idempotency key, and the look-up is a paid add-on that we leave alone.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall
from heliograph.actors.model.message import Attachment, Channel, EmailContent, Message, Priority
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.mail import Mailbox
from heliograph.providers.envelope import Envelope, configured_sender, envelope, refusal
from heliograph.providers.http import (
    HttpCourier,
    by_status,
    clamp_s,
    explainer,
    parse,
    retry_after_s,
    table,
    word,
)
from heliograph.providers.kinds import Kind, Option, chosen, flag, text, whole
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import Transport, WireAnswer, WireRequest

BASE_URL: Final = "https://api.sendgrid.com"
SEND: Final = "/v3/mail/send"
SCOPES: Final = "/v3/scopes"
MOST_RECIPIENTS: Final = 1000
DOCS: Final = "SendGrid v3 API reference, mail/send and errors"

_OWN_HEADERS: Final = frozenset({"x-sg-id", "x-sg-eid", "received", "dkim-signature"})
"""Refused by SendGrid, beside those that have fields of their own and that no message may set anyway."""


def _row(outcome: Outcome, meaning: str, cure: str, *, names: frozenset[str] = frozenset()) -> Verdict:
    return Verdict(outcome=outcome, meaning=meaning, cure=cure, source=DOCS, names=names)


TAKEN: Final = _row(Outcome.ACCEPTED, "SendGrid took the mail", "nothing")
SENDER: Final = _row(
    Outcome.MISCONFIGURED,
    "the from address is no verified sender",
    "verify the sender or its domain in SendGrid",
    names=frozenset({"sender"}),
)
CREDITS: Final = _row(
    Outcome.MISCONFIGURED, "the plan's credits are used up", "buy a larger plan, or wait for the next period"
)
ACCOUNT: Final = _row(
    Outcome.MISCONFIGURED, "the account or its plan does not allow this", "read the text; look at the account's state"
)
STATUS: Final[Mapping[int, Verdict]] = {
    400: _row(Outcome.REJECTED, "SendGrid cannot take the mail as it is", "read the text, correct the message"),
    401: _row(
        Outcome.MISCONFIGURED, "the API key is not valid, or may not send", "make a key with the scope mail.send"
    ),
    403: ACCOUNT,
    404: _row(Outcome.MISCONFIGURED, "there is no such path", "correct base_url"),
    405: _row(Outcome.MISCONFIGURED, "there is no such call", "correct base_url"),
    406: _row(Outcome.MISCONFIGURED, "SendGrid refuses how we ask", "correct base_url; a proxy may change headers"),
    413: _row(Outcome.REJECTED, "the mail is larger than 30 MB", "send fewer or smaller attachments"),
    415: _row(Outcome.MISCONFIGURED, "SendGrid refuses how we ask", "correct base_url; a proxy may change headers"),
}

_CULPRIT: Final = re.compile(r"personalizations[.\[]([0-9]{1,4})\b")
_OF_ACCOUNT: Final = re.compile(r"\b(?:account|plan|credits|subscription)\b", re.IGNORECASE)
_NO_NAME: Final = str.maketrans({",": " ", ";": " "})


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGridAccount:
    api_key: str = field(repr=False)
    prefix: str = ""
    sender: Mailbox | None = None
    ip_pool: str | None = None
    unsubscribe_group: int | None = None
    dry: bool = False


# -------------------------------------------------------------------------------------------------- writing


def request(calls: Sequence[ProviderCall], account: SendGridAccount) -> WireRequest:
    """All calls are alike (`likeness`), so the first one's content stands for all. Raises Unsendable."""
    mails = [envelope(call.message, account.sender) for call in calls]
    mail = mails[0]
    body: dict[str, object] = {
        "personalizations": [_personalization(m, c.attempt_id) for m, c in zip(mails, calls, strict=True)],
        "from": _mailbox(mail.sender),
        "subject": mail.content.subject,
        "content": _content(mail.content),
        # The account's own default may rewrite links and add pictures that report who reads.
        "tracking_settings": {"click_tracking": {"enable": False}, "open_tracking": {"enable": False}},
    }
    if mail.reply_to is not None:
        body["reply_to"] = _mailbox(mail.reply_to)
    if mail.content.attachments:
        body["attachments"] = [_attachment(attachment) for attachment in mail.content.attachments]
    if account.ip_pool is not None:
        body["ip_pool_name"] = account.ip_pool
    if account.unsubscribe_group is not None:
        body["asm"] = {"group_id": account.unsubscribe_group}
    if account.dry:
        body["mail_settings"] = {"sandbox_mode": {"enable": True}}
    headers = (*_headers(account), ("content-type", "application/json"))
    return WireRequest(method="POST", target=account.prefix + SEND, headers=headers, body=orjson.dumps(body))


def probe(account: SendGridAccount) -> WireRequest:
    return WireRequest(method="GET", target=account.prefix + SCOPES, headers=_headers(account))


def _headers(account: SendGridAccount) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {account.api_key}"), ("accept", "application/json"))


def _personalization(mail: Envelope, attempt_id: str) -> dict[str, object]:
    """An address may stand only once in it, whatever the case: the first place wins, and no copy is lost by it."""
    placed: set[str] = set()
    written: dict[str, object] = {}
    for place, mailboxes in (("to", (mail.to,)), ("cc", mail.cc), ("bcc", mail.bcc)):
        fresh = {m.address.lower(): m for m in reversed(mailboxes) if m.address.lower() not in placed}
        if fresh:
            written[place] = [_mailbox(m, recipient=True) for m in reversed(fresh.values())]
        placed.update(fresh)
    if mail.content.headers:
        written["headers"] = dict(mail.content.headers)
    written["subject"] = mail.content.subject
    written["custom_args"] = {"hg_attempt": attempt_id}
    return written


def _mailbox(mailbox: Mailbox, *, recipient: bool = False) -> dict[str, str]:
    """A recipient's name may hold neither comma nor semicolon."""
    name = mailbox.name.translate(_NO_NAME) if recipient else mailbox.name
    return {"email": mailbox.address, "name": name} if name else {"email": mailbox.address}


def _content(content: EmailContent) -> list[dict[str, str]]:
    """Plain before HTML, neither of them empty."""
    parts = (("text/plain", content.text), ("text/html", content.html))
    return [{"type": kind, "value": part} for kind, part in parts if part] or [{"type": "text/plain", "value": " "}]


def _attachment(attachment: Attachment) -> dict[str, str]:
    written = {
        "content": attachment.content_base64,
        "filename": attachment.filename,
        "type": attachment.content_type,
        "disposition": "inline" if attachment.content_id else "attachment",
    }
    if attachment.content_id:
        written["content_id"] = attachment.content_id
    return written


# -------------------------------------------------------------------------------------------------- reading


def judge(answer: WireAnswer) -> Finding:
    """What the answer to one mail/send means, for the call as a whole."""
    if answer.status in (200, 202) and answer.whole:
        return Finding(
            verdict=TAKEN,
            provider_message_id=word(answer.headers.get("x-message-id", "")),
            retry_after_s=_reset_in_s(answer) if answer.headers.get("x-ratelimit-remaining") == "0" else None,
        )
    errors = _errors(answer)
    detail = "; ".join(said for _, said in errors) or None
    found = by_status(answer, detail)
    if answer.status == 429:
        return replace(found, retry_after_s=retry_after_s(answer) or _reset_in_s(answer))
    verdict = STATUS.get(answer.status, found.verdict)
    if answer.status == 401 and detail is not None and "credits" in detail.lower():
        return replace(found, verdict=CREDITS, code="credits")
    if answer.status in (400, 403):
        verdict = _whose(verdict, errors)
    return replace(found, verdict=verdict)


def _whose(verdict: Verdict, errors: Sequence[tuple[str, str]]) -> Verdict:
    """Whether a refusal is the message's, the sender's or the account's."""
    if any(field.startswith("from") or "from address" in said.lower() for field, said in errors):
        return SENDER
    if any(not field and _OF_ACCOUNT.search(said) for field, said in errors):
        return ACCOUNT
    return verdict


def culprits(answer: WireAnswer) -> frozenset[int]:
    """The places in the call that a refusal names (`personalizations.17.to.0.email`)."""
    found = (_CULPRIT.match(field) for field, _ in _errors(answer))
    return frozenset(int(match[1]) for match in found if match)


def scopes(answer: WireAnswer) -> Finding:
    """What the list of the key's scopes says."""
    if answer.status != 200:
        return judge(answer)
    listed = table(parse(answer.body)).get("scopes")
    if not answer.whole or not isinstance(listed, list):
        return by_status(answer)
    if "mail.send" not in listed:
        return Finding(verdict=STATUS[401], code="scopes", detail="the key lacks the scope mail.send")
    return Finding(verdict=TAKEN, detail="the key may send")


explain = explainer(judge)


def _errors(answer: WireAnswer) -> list[tuple[str, str]]:
    """(field or "", text) of each error that the body lists."""
    listed = table(parse(answer.body)).get("errors")
    entries = [table(entry) for entry in listed[:100]] if isinstance(listed, list) else []
    return [(word(e.get("field")) or "", word(e.get("message")) or "") for e in entries]


def _reset_in_s(answer: WireAnswer) -> float | None:
    """`X-RateLimit-Reset` is a moment, in Unix seconds."""
    moment = answer.headers.get("x-ratelimit-reset", "").strip()
    return clamp_s(int(moment) - answer.at_s) if re.fullmatch(r"[0-9]{1,12}", moment) else None


# -------------------------------------------------------------------------------------------------- courier


class SendGridCourier(HttpCourier):
    def __init__(self, settings: ProviderSettings, transport: Transport | None = None) -> None:
        api_key = settings.credentials["api_key"]
        super().__init__(settings, BASE_URL, [api_key], transport)
        self.account = SendGridAccount(
            api_key=api_key,
            prefix=self.base.prefix,
            sender=configured_sender(settings),
            ip_pool=chosen(settings, "ip_pool", str),
            unsubscribe_group=chosen(settings, "unsubscribe_group", int),
            dry=chosen(settings, "sandbox_mode", bool) or False,
        )

    def takes(self, message: Message) -> str | None:
        if message.recipients > MOST_RECIPIENTS:
            return "too_many_recipients"
        why = refusal(message, self.account.sender)
        if why is None and isinstance(message.content, EmailContent):
            names = {name.lower() for name, _ in message.content.headers}
            return "header" if not names.isdisjoint(_OWN_HEADERS) else None
        return why

    def likeness(self, message: Message) -> Hashable | None:
        """Copies would make the sum of recipients unforeseeable; attachments are too large to compare."""
        content = message.content
        if not isinstance(content, EmailContent) or message.priority is Priority.URGENT:
            return None
        if content.cc or content.bcc or content.attachments:
            return None
        return (content.sender, content.reply_to, content.text, content.html)

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        return request(calls, self.account)

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        finding = judge(answer)
        if len(calls) > 1 and finding.verdict.outcome is Outcome.REJECTED:
            return self._parted(calls, finding, culprits(answer))
        return [finding.answer(_named(call.message)) for call in calls]

    def _parted(self, calls: Sequence[ProviderCall], finding: Finding, guilty: frozenset[int]) -> Sequence[Answer]:
        """Those named are refused; the others were not sent for their neighbours' sake."""
        others = [call for place, call in enumerate(calls) if place not in guilty]
        again = iter(self.put_back(others, finding, alone=len(others) == len(calls)))
        return [finding.answer() if place in guilty else next(again) for place in range(len(calls))]

    def probe(self) -> WireRequest:
        return probe(self.account)

    def proved(self, answer: WireAnswer) -> Finding:
        return scopes(answer)


def _named(message: Message) -> frozenset[str]:
    content = message.content
    return frozenset({"sender"}) if isinstance(content, EmailContent) and content.sender else frozenset()


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=SendGridCourier,
    explain=explain,
    credentials=(("api_key",),),
    options={
        "ip_pool": Option(parse=text, about="the pool of addresses to send from"),
        "unsubscribe_group": Option(parse=whole(1, 2**31 - 1), about="the id of a group that recipients may leave"),
        "sandbox_mode": Option(parse=flag, about="SendGrid checks every mail and sends none", default=False),
    },
    base_url=BASE_URL,
    rate=100,
    batch=MOST_RECIPIENTS,
)
