"""From messages to SendGrid's requests. Pure.

Sources: v3 API reference, mail/send with its limitations, and the reference of its errors.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from heliograph.actors.model.attempt import ProviderCall
from heliograph.actors.model.message import Attachment, EmailContent, Message, Priority
from heliograph.actors.policy.mail import Mailbox
from heliograph.providers.envelope import Envelope, envelope, refusal
from heliograph.providers.mime import Unsendable
from heliograph.providers.wire import WireRequest

SEND: Final = "/v3/mail/send"
SCOPES: Final = "/v3/scopes"
CREDITS: Final = "/v3/user/credits"

MOST_RECIPIENTS: Final = 1000
"""Of one call: personalizations, and addresses in all of them together."""
MOST_BYTES: Final = 30_000_000
MOST_CATEGORIES: Final = 10
CATEGORY_LENGTH: Final = 255
SHARED_BASE64: Final = 64 * 1024
SHARED_HEADERS: Final = 4 * 1024
"""Mails with more than that go alone: a call of a thousand stays far below the bound, and is quickly compared."""

OWN_HEADERS: Final = frozenset({"x-sg-id", "x-sg-eid", "received", "dkim-signature"})
"""Refused by SendGrid, beside those that have fields of their own and that no message may set anyway."""
_NO_SEPARATORS: Final = str.maketrans({",": " ", ";": " "})
_UNTRACKED: Final = {"click_tracking": {"enable": False}, "open_tracking": {"enable": False}}
"""Said each time: the account's own default may rewrite links and add pictures that report who reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGridAccount:
    """What requests are made from. `sender` is used where the message names nobody; `dry` is sandbox mode."""

    api_key: str = field(repr=False)
    prefix: str = ""
    sender: Mailbox | None = None
    ip_pool: str | None = None
    unsubscribe_group: int | None = None
    categories: bool = True
    dry: bool = False


# ------------------------------------------------------------------------------------ what can be sent, together


def impediment(message: Message, account: SendGridAccount) -> str | None:
    """A word on why SendGrid could never carry it; None where it can."""
    if message.recipients > MOST_RECIPIENTS:
        return "too_many_recipients"
    why = refusal(message, account.sender)
    content = message.content
    if why is not None or not isinstance(content, EmailContent):
        return why
    names = [name.lower() for name, _ in content.headers]
    if len(set(names)) < len(names) or not OWN_HEADERS.isdisjoint(names):
        return "header"
    if any(not {",", ";"}.isdisjoint(attachment.content_id or "") for attachment in content.attachments):
        return "content_id"
    return "size" if _bytes_at_least(content) >= MOST_BYTES else None


def likeness(message: Message, account: SendGridAccount, batch: int) -> Hashable | None:
    """What mails must have in common to share a call of at most `batch`; None: this one goes alone.

    Recipients, subject and headers are each mail's own. An urgent mail never depends on its neighbours.
    """
    content = message.content
    if not isinstance(content, EmailContent) or message.priority is Priority.URGENT:
        return None
    if message.recipients * batch > MOST_RECIPIENTS:
        return None
    if sum(len(attachment.content_base64) for attachment in content.attachments) > SHARED_BASE64:
        return None
    if sum(len(name) + len(value) for name, value in content.headers) > SHARED_HEADERS:
        return None
    shared = (content.sender, content.reply_to, content.text, content.html, content.attachments)
    return (*shared, *_categories(message, account))


def _bytes_at_least(content: EmailContent) -> int:
    """A mail has attachments as base64, which is what is counted here; characters are counted as one byte each."""
    return len(content.text or "") + len(content.html or "") + sum(len(a.content_base64) for a in content.attachments)


# ----------------------------------------------------------------------------------------------------- requests


def mail_send(calls: Sequence[ProviderCall], account: SendGridAccount) -> WireRequest:
    """All calls are alike (`likeness`), so the first one's content stands for all. Raises Unsendable."""
    mails = [envelope(call.message, account.sender) for call in calls]
    mail, content = mails[0], mails[0].content
    body: dict[str, object] = {
        "personalizations": [_personalization(m, c.attempt_id) for m, c in zip(mails, calls, strict=True)],
        "from": _mailbox(mail.sender),
        "subject": content.subject,
        "content": _content(content),
        "tracking_settings": _UNTRACKED,
    }
    if mail.reply_to is not None:
        body["reply_to"] = _mailbox(mail.reply_to)
    if content.attachments:
        body["attachments"] = [_attachment(attachment) for attachment in content.attachments]
    if categories := _categories(calls[0].message, account):
        body["categories"] = categories
    body |= _settings(account)
    written = orjson.dumps(body)
    if len(written) >= MOST_BYTES:
        raise Unsendable(f"the mail has {len(written)} bytes, and SendGrid takes less than {MOST_BYTES}")
    headers = (*_headers(account), ("content-type", "application/json"))
    return WireRequest(method="POST", target=account.prefix + SEND, headers=headers, body=written)


def ask_scopes(account: SendGridAccount) -> WireRequest:
    """Harmless, and proves both the key and that it may send."""
    return WireRequest(method="GET", target=account.prefix + SCOPES, headers=_headers(account))


def ask_credits(account: SendGridAccount) -> WireRequest:
    """Needs a scope of its own, which a key that only sends does not have."""
    return WireRequest(method="GET", target=account.prefix + CREDITS, headers=_headers(account))


def _headers(account: SendGridAccount) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {account.api_key}"), ("accept", "application/json"))


def _settings(account: SendGridAccount) -> Mapping[str, object]:
    given: dict[str, object] = {}
    if account.ip_pool is not None:
        given["ip_pool_name"] = account.ip_pool
    if account.unsubscribe_group is not None:
        given["asm"] = {"group_id": account.unsubscribe_group}
    if account.dry:
        given["mail_settings"] = {"sandbox_mode": {"enable": True}}
    return given


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
    name = _unseparated(mailbox.name) if recipient else mailbox.name
    return {"email": mailbox.address, "name": name} if name else {"email": mailbox.address}


def _unseparated(text: str) -> str:
    return " ".join(text.translate(_NO_SEPARATORS).split())


def _content(content: EmailContent) -> list[dict[str, str]]:
    """Plain before HTML, neither of them empty."""
    parts = (("text/plain", content.text), ("text/html", content.html))
    return [{"type": kind, "value": part} for kind, part in parts if part] or [{"type": "text/plain", "value": " "}]


def _categories(message: Message, account: SendGridAccount) -> list[str]:
    """SendGrid takes no category outside ASCII; such a tag is left out rather than the mail refused."""
    if not account.categories:
        return []
    fit = (tag for tag in message.tags if tag and tag.isascii() and len(tag) <= CATEGORY_LENGTH)
    return list(dict.fromkeys(fit))[:MOST_CATEGORIES]


def _attachment(attachment: Attachment) -> dict[str, str]:
    """A file's name, too, may hold neither comma nor semicolon."""
    written = {
        "content": attachment.content_base64,
        "filename": _unseparated(attachment.filename) or "attachment",
        "type": attachment.content_type,
        "disposition": "inline" if attachment.content_id else "attachment",
    }
    if attachment.content_id:
        written["content_id"] = attachment.content_id
    return written
