"""Between rows and values: which columns make a Message or a Standing, in which order, and how a message is sent in.

Rows come as plain tuples; each `SELECT` that names one of the column lists here is decoded by the function below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, LiteralString, cast

import orjson

from heliograph.actors.model.attempt import Attempt, Outcome, Settled
from heliograph.actors.model.message import (
    Attachment,
    Category,
    Channel,
    Content,
    EmailContent,
    Message,
    Priority,
    Reason,
    SmsContent,
    Standing,
    State,
    Tracked,
    WaitingFor,
)

Row = Sequence[Any]

MESSAGE: Final[LiteralString] = (
    "c.id, c.tenant, c.key_id, c.live, m.channel, m.priority, c.category, c.recipient, c.content, c.created_at, "
    "c.expires_at, c.send_at, c.providers, c.tags, c.metadata, c.parts, c.webhook_url, c.traceparent"
)
STANDING: Final[LiteralString] = (
    "m.state, m.due_at, m.updated_at, m.expires_at, m.attempts, m.counted, m.unknowns, m.throttled, m.reclaims, "
    "m.passes, m.tried, m.provider, m.reason, m.waiting_for, m.waiting_provider, m.redrives, m.unsettled, "
    "m.unsettled_provider"
)
TRACKED: Final[LiteralString] = f"{MESSAGE}, {STANDING}"
"""For `messages m JOIN contents c USING (id)`. What follows in a row begins at TRACKED_WIDTH."""
MESSAGE_WIDTH: Final = 18
TRACKED_WIDTH: Final = 36

# A look-up in a dict is a third of the price of calling an enum.
_CHANNELS: Final = {str(c): c for c in Channel}
_PRIORITIES: Final = {str(p): p for p in Priority}
_CATEGORIES: Final = {str(c): c for c in Category}
_STATES: Final = {str(s): s for s in State}
_REASONS: Final[Mapping[str | None, Reason | None]] = {None: None, **{str(r): r for r in Reason}}
_WAITING_FOR: Final[Mapping[str | None, WaitingFor | None]] = {None: None, **{str(w): w for w in WaitingFor}}
_OUTCOMES: Final = {str(o): o for o in Outcome}
_SETTLED: Final[Mapping[str | None, Settled | None]] = {None: None, **{str(s): s for s in Settled}}


# Values are made by the places of their fields: by their names it costs three times as much.


def message_of(row: Row) -> Message:
    (
        id_, tenant, key_id, live, channel, priority, category, to, content, created_at,
        expires_at, send_at, providers, tags, metadata, parts, webhook_url, traceparent,
    ) = row[:MESSAGE_WIDTH]  # fmt: skip
    return Message(
        id_,
        tenant,
        key_id,
        live,
        _CHANNELS[channel],
        _PRIORITIES[priority],
        _CATEGORIES[category],
        to,
        _content_of(channel, content),
        created_at,
        expires_at,
        send_at,
        None if providers is None else tuple(providers),
        tuple(tags),
        metadata or {},
        parts,
        webhook_url,
        traceparent,
    )


def standing_of(row: Row) -> Standing:
    """`row` begins with the columns of STANDING."""
    (
        state, due_at, updated_at, expires_at, attempts, counted, unknowns, throttled, reclaims, passes, tried,
        provider, reason, waiting_for, waiting_provider, redrives, unsettled, unsettled_provider,
    ) = row[: TRACKED_WIDTH - MESSAGE_WIDTH]  # fmt: skip
    return Standing(
        _STATES[state],
        due_at,
        updated_at,
        expires_at,
        attempts,
        counted,
        unknowns,
        throttled,
        reclaims,
        passes,
        tuple(tried) if tried else (),
        provider,
        _REASONS[reason],
        _WAITING_FOR[waiting_for],
        waiting_provider,
        redrives,
        unsettled,
        unsettled_provider,
    )


def tracked_of(row: Row) -> Tracked:
    return Tracked(message_of(row), standing_of(row[MESSAGE_WIDTH:]))


def attempt_of_document(row: Mapping[str, Any]) -> Attempt:
    """A row of `attempts` as `to_json` writes it, today or when it was archived."""
    return Attempt(
        message_id=row["message_id"],
        number=row["number"],
        provider=row["provider"],
        started_at=datetime.fromisoformat(row["started_at"]),
        finished_at=datetime.fromisoformat(row["finished_at"]),
        outcome=_OUTCOMES[row["outcome"]],
        code=row["code"],
        detail=row["detail"],
        provider_message_id=row["provider_message_id"],
        settled=_SETTLED[row["settled"]],
        settled_at=datetime.fromisoformat(row["settled_at"]) if row["settled_at"] else None,
    )


def _content_of(channel: str, content: dict[str, Any] | None) -> Content:
    """`content` is None once the body was taken out."""
    if channel == Channel.SMS:
        if content is None:
            return SmsContent(text="")
        content["dlt_variables"] = tuple(content["dlt_variables"])
        return SmsContent(**content)
    if content is None:
        return EmailContent(subject="", text="")
    content["cc"], content["bcc"] = tuple(content["cc"]), tuple(content["bcc"])
    content["headers"] = tuple((name, value) for name, value in content["headers"])
    content["attachments"] = tuple(Attachment(**each) for each in content["attachments"])
    return EmailContent(**content)


# -------------------------------------------------------------------------------------------------- sending in

SHARED: Final = ("tenant", "key_id", "live", "channel", "priority", "category", "created_at", "expires_at")
"""What messages that are sent in together mostly have in common."""
SELDOM: Final = ("send_at", "providers", "tags", "metadata", "webhook_url", "traceparent")
_shared_of: Final = attrgetter(*SHARED)
_seldom_of: Final = attrgetter(*SELDOM)
_NOTHING: Final[tuple[object, ...]] = (None, None, (), {}, None, None)


def documents_of(given: Sequence[tuple[Message, State]]) -> tuple[tuple[Any, ...], str]:
    """What is usual among new messages (as SHARED), and a JSON array for `json_to_recordset`: of each message what it
    has, and of SHARED what is not as usual. A state is `queued` where none is said."""
    usual = _shared_of(given[0][0])
    documents: list[dict[str, object]] = []
    for message, state in given:
        document = {"id": message.id, "to": message.to, "content": _document_of(message.content)}
        if message.parts is not None:
            document["parts"] = message.parts
        if state is not State.QUEUED:
            document["state"] = state
        if (shared := _shared_of(message)) != usual:
            document |= {name: v for name, v, u in zip(SHARED, shared, usual, strict=True) if v != u}
        if (seldom := _seldom_of(message)) != _NOTHING:
            document |= {name: v for name, v in zip(SELDOM, seldom, strict=True) if v is not None}
        documents.append(document)
    return usual, json_of(documents)


def _document_of(content: Content) -> object:
    """As `_content_of` reads it."""
    if isinstance(content, EmailContent):
        return content
    document: dict[str, object] = {"text": content.text, "dlt_variables": content.dlt_variables}
    if content.sender_id is not None:
        document["sender_id"] = content.sender_id
    if content.dlt_template_id is not None:
        document["dlt_template_id"] = content.dlt_template_id
    if content.dlt_entity_id is not None:
        document["dlt_entity_id"] = content.dlt_entity_id
    return document


_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def json_of(values: Iterable[object]) -> str:
    """One JSON array for `json_to_recordset`: dataclasses and dicts by their field names, enums and times as text.

    ValueError where a text holds U+0000: PostgreSQL has no such character.
    """
    document = orjson.dumps(list(values), default=_plain)
    if b"\\u0000" in document and _NUL.search(document):
        raise ValueError("a text holds U+0000, which PostgreSQL cannot store")
    return document.decode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a document")


def array_of(texts: Sequence[str]) -> str:
    """An array literal, for `%s::text[]`: the driver's own dumper looks at each element by itself.

    >>> print(array_of(["one", 'say "two"']))
    {"one","say \\"two\\""}
    """
    if not texts:
        return "{}"
    joined = '","'.join(texts)
    if "\\" in joined or joined.count('"') > 2 * (len(texts) - 1):
        joined = '","'.join([text.replace("\\", "\\\\").replace('"', '\\"') for text in texts])
    refuse_nul([joined])
    return f'{{"{joined}"}}'


def nullable_array_of(texts: Sequence[str | None]) -> str:
    """The same, where some are None."""
    if None not in texts:
        return array_of(cast(Sequence[str], texts))
    return "{" + ",".join(["NULL" if text is None else array_of([text])[1:-1] for text in texts]) + "}"


def number_array_of(numbers: Iterable[float]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def refuse_nul(texts: Sequence[str]) -> None:
    if any("\0" in text for text in texts):
        raise ValueError("a text holds U+0000, which PostgreSQL cannot store")
