"""From a posted message to one that can be accepted, or to everything that is wrong with it.

Runs once for each message of a batch and awaits nothing: this is the hot path of the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import (
    Attachment,
    Category,
    Channel,
    Content,
    EmailContent,
    Message,
    Priority,
    SmsContent,
    State,
)
from heliograph.actors.model.settings import Config
from heliograph.actors.policy.gsm import segments
from heliograph.actors.policy.route import Router
from heliograph.gateway.addresses import sms_fault
from heliograph.gateway.api.reading import deep_faults, faults_of
from heliograph.gateway.api.schemas import (
    MOST_COPIES,
    MOST_TEXT,
    EmailBody,
    EmailItem,
    MessageCommon,
    SmsBody,
    SmsItem,
    SmsOptions,
    parse_instant,
)
from heliograph.gateway.problems import Code, Fault, Refusal, invalid

PRIORITIES: Final = {str(p): p for p in Priority}
CATEGORIES: Final = {str(c): c for c in Category}
NO_OPTIONS: Final = SmsOptions()
LATEST: Final = timedelta(days=3660)
_PLAIN_FIELDS: Final = frozenset({"channel", "to", "text", "priority", "category"})
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Draft:
    message: Message
    state: State

    def suppressed(self, message_ids: Collection[str]) -> Draft:
        """The same, born suppressed where it is one of these."""
        return replace(self, state=State.SUPPRESSED) if self.message.id in message_ids else self


@dataclass(frozen=True, slots=True)
class Poster:
    """What all messages of one request share."""

    key: ApiKey
    now: datetime
    traceparent: str | None

    @classmethod
    def of(cls, key: ApiKey, now: datetime, traceparent: str | None) -> Poster:
        """A `traceparent` (W3C Trace Context) that is malformed is as good as none."""
        known = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
        return cls(key, now, traceparent if known else None)


class PlainSms(NamedTuple):
    """An SMS that asks for nothing special, as its model would read it."""

    to: str
    text: str
    priority: str
    category: str
    metadata: Mapping[str, Any]
    sms: None = None
    send_at: None = None
    expires_at: None = None
    tags: tuple[str, ...] = ()
    providers: None = None

    @classmethod
    def of(cls, posted: dict[str, Any]) -> PlainSms | None:
        """The way around the model for what is posted most: takes nothing that the model would not take as the same,
        and says no word of what is wrong."""
        if not posted.keys() <= _PLAIN_FIELDS:
            return None
        to, text = posted.get("to"), posted.get("text")
        priority, category = posted.get("priority", "normal"), posted.get("category", "transactional")
        if not type(to) is type(text) is type(priority) is type(category) is str:
            return None
        if priority not in PRIORITIES or category not in CATEGORIES or not 0 < len(text) <= MOST_TEXT:
            return None
        return cls(to, text, priority, category, {}) if text.strip() and sms_fault(to) is None else None


class Drafter:
    def __init__(self, config: Config, router: Router) -> None:
        self._router = router
        self._most_parts = config.gateway.max_sms_parts
        self._expires_after = timedelta(seconds=config.delivery.expires_after_s)

    def draft(self, posted: object, poster: Poster, *, clean: bool, item: bool = False) -> Draft | Refusal:
        """`clean`: nothing but its nesting is left to be looked for in the JSON; `item`: it belongs to a batch."""
        if not isinstance(posted, dict):
            return invalid([Fault("#", "must be an object")])
        if not clean or posted.get("metadata"):
            odd = list(deep_faults(posted))
            if odd:
                return invalid(odd)
        match posted.get("channel"):
            case "sms":
                return self._sms(posted, poster, SmsItem if item else SmsBody)
            case "email":
                return self._email(posted, poster, EmailItem if item else EmailBody)
            case _:
                return invalid(_common_faults(posted))

    def _sms(self, posted: dict[str, Any], poster: Poster, model: type[SmsBody]) -> Draft | Refusal:
        try:
            body = PlainSms.of(posted) or model.model_validate(posted)
        except ValidationError as error:
            faults = _without_templated(faults_of(error, model), posted)
            text = posted.get("text")
            if isinstance(text, str) and 0 < len(text) <= MOST_TEXT:
                faults += self._part_faults(segments(text).parts)
            return invalid(faults + _time_faults(posted, poster.now))
        parts = segments(body.text).parts
        options = body.sms or NO_OPTIONS
        content = SmsContent(
            text=body.text,
            sender_id=options.sender_id,
            dlt_template_id=options.dlt_template_id,
            dlt_entity_id=options.dlt_entity_id,
            dlt_variables=tuple(options.dlt_variables),
        )
        return self._message(body, Channel.SMS, content, poster, self._part_faults(parts), parts)

    def _part_faults(self, parts: int) -> list[Fault]:
        if parts <= self._most_parts:
            return []
        return [Fault("#/text", f"makes an SMS of {parts} parts; at most {self._most_parts} are sent")]

    def _email(self, posted: dict[str, Any], poster: Poster, model: type[EmailBody]) -> Draft | Refusal:
        faults = _email_faults(posted)
        try:
            body = model.model_validate(posted)
        except ValidationError as error:
            faults = _without_templated(faults_of(error, model) + faults, posted)
            return invalid(faults + _time_faults(posted, poster.now))
        content = EmailContent(
            subject=body.subject,
            text=body.text,
            html=body.html,
            sender=body.sender,
            reply_to=body.reply_to,
            cc=tuple(body.cc),
            bcc=tuple(body.bcc),
            headers=tuple(body.headers.items()),
            attachments=tuple(
                Attachment(
                    filename=a.filename, content_type=a.content_type, content_base64=a.content, content_id=a.content_id
                )
                for a in body.attachments
            ),
        )
        return self._message(body, Channel.EMAIL, content, poster, faults, None)

    def _message(
        self,
        body: PlainSms | SmsBody | EmailBody,
        channel: Channel,
        content: Content,
        poster: Poster,
        faults: list[Fault],
        parts: int | None,
    ) -> Draft | Refusal:
        now, send_at = poster.now, body.send_at
        later = send_at is not None and send_at > now
        if body.expires_at is not None or later:
            faults += _order_faults(send_at, body.expires_at, now)
        if faults:
            return invalid(faults)
        key = poster.key
        message = Message(
            id=new_id("msg", now),
            tenant=key.tenant,
            key_id=key.id,
            live=key.live,
            channel=channel,
            priority=PRIORITIES[body.priority],
            category=CATEGORIES[body.category],
            to=body.to,
            content=content,
            created_at=now,
            expires_at=body.expires_at or (send_at if later and send_at else now) + self._expires_after,
            send_at=send_at,
            providers=tuple(body.providers) if body.providers else None,
            tags=tuple(body.tags),
            metadata=body.metadata,
            parts=parts,
            traceparent=poster.traceparent,
        )
        candidates = self._router.candidates(message)
        if not candidates.groups:
            return _no_route(message, candidates.refused)
        return Draft(message, State.SCHEDULED if later else State.QUEUED)


def _common_faults(posted: dict[str, Any]) -> list[Fault]:
    """What can be said without knowing whether it is an SMS or an email."""
    try:
        MessageCommon.model_validate(posted)
    except ValidationError as error:
        faults = faults_of(error, MessageCommon)
        return [f for f in faults if f.pointer.removeprefix("#/") not in _OF_SOME_CHANNEL]
    raise AssertionError("a message without a channel cannot be valid")


_OF_SOME_CHANNEL: Final = frozenset(
    field.alias or name for model in (SmsItem, EmailItem) for name, field in model.model_fields.items()
) - frozenset(MessageCommon.model_fields)


def _without_templated(faults: list[Fault], posted: dict[str, Any]) -> list[Fault]:
    """A template stands in for the content: who posts one has not forgotten the text."""
    if "template" not in posted:
        return faults
    return [f for f in faults if f.pointer not in ("#/text", "#/subject") or not f.detail.startswith("is required")]


def _email_faults(posted: dict[str, Any]) -> list[Fault]:
    faults = []
    if posted.get("text") is None and posted.get("html") is None:
        faults.append(Fault("#/text", "is required, unless there is `html`"))
    cc, bcc = posted.get("cc"), posted.get("bcc")
    if isinstance(cc, list) and isinstance(bcc, list) and len(cc) + len(bcc) > MOST_COPIES >= max(len(cc), len(bcc)):
        faults.append(Fault("#/bcc", f"makes {len(cc) + len(bcc)} recipients with `cc`; at most {MOST_COPIES} in both"))
    return faults


def _time_faults(posted: dict[str, Any], now: datetime) -> list[Fault]:
    """The order of the two times, where something else is wrong already. What is no time was reported."""
    try:
        send_at, expires_at = (
            None if posted.get(name) is None else parse_instant(posted[name]) for name in ("send_at", "expires_at")
        )
    except PydanticCustomError:
        return []
    return _order_faults(send_at, expires_at, now)


def _order_faults(send_at: datetime | None, expires_at: datetime | None, now: datetime) -> list[Fault]:
    faults = []
    if send_at is not None and send_at > now + LATEST:
        faults.append(Fault("#/send_at", f"is more than {LATEST.days} days away"))
    if expires_at is not None and expires_at <= now:
        faults.append(Fault("#/expires_at", "is over already"))
    elif expires_at is not None and send_at is not None and expires_at <= send_at:
        faults.append(Fault("#/expires_at", "must be later than `send_at`"))
    return faults


def _no_route(message: Message, refused: Mapping[str, str]) -> Refusal:
    if "too_many_recipients" in refused.values():
        detail = f"no provider takes a message to {message.recipients} recipients at once"
        return Refusal(Code.TOO_MANY_RECIPIENTS, detail, [Fault("#/cc", detail)])
    if not refused:
        return Refusal(Code.NO_ROUTE, f"no provider is configured for {message.channel}")
    whole = "; ".join(f"{name}: {why}" for name, why in sorted(refused.items()))
    detail = f"no provider could ever take this message ({whole})"
    return Refusal(Code.NO_ROUTE, detail, [Fault(_at_fault(message, refused.values()), detail)])


_FIELDS: Final[Mapping[str, str]] = {
    "sender": "#/from",
    "header": "#/headers",
    "content_id": "#/attachments",
    "size": "#/attachments",
    "parts": "#/text",
    "template_field": "#/text",
    "otp_digits": "#/text",
    "dlt_text": "#/text",
    "dlt_template": "#/sms/dlt_template_id",
    "dlt_variables": "#/sms/dlt_variables",
}
"""The field that a word of `Courier.takes` or of the router blames. The first whose change would help is told."""
_LEFT_OUT: Final = frozenset({"not_named", "test_only"})


def _at_fault(message: Message, words: Collection[str]) -> str:
    """Whom it is for, where no other field is to blame. That `providers` leaves others out counts where there is no
    other reason: those it names have theirs."""
    if "not_named" in words and set(words) <= _LEFT_OUT:
        return "#/providers"
    word = next((word for word in _FIELDS if word in words), None)
    if word == "sender" and message.channel is Channel.SMS:
        return "#/sms/sender_id"
    return "#/to" if word is None else _FIELDS[word]
