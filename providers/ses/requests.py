"""From messages to SES' requests. Pure; signing them is the courier's last step.

A mail goes as `Simple`, and SES builds it, where it has nothing that SES could take otherwise than we mean; any other
goes as `Raw`, built by `providers.mime`. Mails of one content share a SendBulkEmail, which knows templates only: theirs
is given in the call and has no variable in it.

Source: the service model of 2019-09-27.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from email.header import Header
from email.utils import formataddr
from typing import Final

import orjson

from heliograph.actors.model.attempt import ProviderCall
from heliograph.actors.model.message import EmailContent, Message, Priority
from heliograph.actors.policy.mail import Mailbox
from heliograph.providers.envelope import Envelope, envelope, refusal
from heliograph.providers.mime import build_mime
from heliograph.providers.wire import WireRequest

SEND: Final = "/v2/email/outbound-emails"
SEND_BULK: Final = "/v2/email/outbound-bulk-emails"
ACCOUNT: Final = "/v2/email/account"

MOST_RECIPIENTS: Final = 50
"""Of one call: addresses of a mail, or mails that share it."""
MOST_HEADERS: Final = 15
MOST_TAGS: Final = 50
ADDRESS_LENGTH: Final = 320
"""Of an address together with its name as it is written."""
SHARED_LENGTH: Final = 100_000
"""A content of more characters goes alone: a template may have 500 KB, and nobody says what is counted."""

_HEADER_NAME: Final = re.compile(r"[!-9;-~]{1,126}")
_HEADER_VALUE: Final = re.compile(r"[ -~]{1,995}")
_HEADER_LENGTH: Final = 996
_SIMPLE: Final = re.compile(r"x-.+")
_SHARED: Final = re.compile(r"x-.+|list-unsubscribe(-post)?")
"""One-click unsubscribe by headers of an entry is documented. Alone it goes as Raw, where we know each byte of it."""
_NO_TAG: Final = re.compile(r"[^A-Za-z0-9_-]")
_TAG_LENGTH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SesAccount:
    """What requests are made from. `sender` is used where the message names nobody; `tags`: whether a message's tags
    become SES'."""

    prefix: str = ""
    sender: Mailbox | None = None
    configuration_set: str | None = None
    tags: bool = True


# ------------------------------------------------------------------------------------ what can be sent, together


def impediment(message: Message, account: SesAccount) -> str | None:
    """A word on why SES could never carry it; None where it can."""
    if message.recipients > MOST_RECIPIENTS:
        return "too_many_recipients"
    content = message.content
    if isinstance(content, EmailContent) and any(name.lower().startswith("x-ses-") for name, _ in content.headers):
        return "header"  # SES would obey it: another configuration set, other tags, another identity
    return refusal(message, account.sender)


def likeness(message: Message) -> Hashable | None:
    """What mails must have in common to share a call; None: this one goes alone.

    Recipient, tags and headers are each mail's own. An urgent mail never depends on its neighbours.
    """
    content = message.content
    if not isinstance(content, EmailContent) or message.priority is Priority.URGENT or message.recipients > 1:
        return None
    if content.attachments or not _fit(content.headers, _SHARED):
        return None
    texts = _texts(content)
    if any(not text or "{{" in text for text in texts) or sum(map(len, texts)) > SHARED_LENGTH:
        return None
    return (content.sender, content.reply_to, content.subject, content.text, content.html)


def _texts(content: EmailContent) -> list[str]:
    return [content.subject, *(part for part in (content.text, content.html) if part is not None)]


# ----------------------------------------------------------------------------------------------------- requests


def send_email(call: ProviderCall, account: SesAccount) -> WireRequest:
    """Raises Unsendable where no mail can be made of the message."""
    mail = envelope(call.message, account.sender)
    simple = not mail.content.attachments and all(_texts(mail.content)) and _fit(mail.content.headers, _SIMPLE)
    body: dict[str, object] = {
        "FromEmailAddress": written(mail.sender),
        "Destination": _destination(mail, named=simple),
        "Content": {"Simple": _simple(mail.content)} if simple else {"Raw": _raw(call.message, mail.sender)},
        "EmailTags": _tags(call, account),
    }
    return _post(SEND, body, mail, account)


def send_bulk_email(calls: Sequence[ProviderCall], account: SesAccount) -> WireRequest:
    """All calls are alike (`likeness`), so the first one's content stands for all. Raises Unsendable."""
    mails = [envelope(call.message, account.sender) for call in calls]
    mail, content = mails[0], mails[0].content
    parts = {"Subject": content.subject, "Text": content.text, "Html": content.html}
    template = {name: part for name, part in parts.items() if part is not None}
    body: dict[str, object] = {
        "FromEmailAddress": written(mail.sender),
        "DefaultContent": {"Template": {"TemplateContent": template, "TemplateData": "{}"}},
        "BulkEmailEntries": [_entry(m, call, account) for m, call in zip(mails, calls, strict=True)],
    }
    return _post(SEND_BULK, body, mail, account)


def ask_account(account: SesAccount) -> WireRequest:
    return WireRequest(method="GET", target=account.prefix + ACCOUNT)


def written(mailbox: Mailbox) -> str:
    """A name outside ASCII becomes encoded words (RFC 2047); one that is too long for SES is left out."""
    name = mailbox.name
    if name.isascii():
        text = formataddr((name, mailbox.address))
    else:
        text = f"{Header(name, 'utf-8', maxlinelen=75).encode(linesep='')} <{mailbox.address}>"
    return text if len(text) <= ADDRESS_LENGTH else mailbox.address


def _post(path: str, body: dict[str, object], mail: Envelope, account: SesAccount) -> WireRequest:
    if mail.reply_to is not None:
        body["ReplyToAddresses"] = [written(mail.reply_to)]
    if account.configuration_set is not None:
        body["ConfigurationSetName"] = account.configuration_set
    headers = (("content-type", "application/json"),)
    return WireRequest(method="POST", target=account.prefix + path, headers=headers, body=orjson.dumps(body))


def _destination(mail: Envelope, *, named: bool) -> Mapping[str, object]:
    """`named`: SES writes To and Cc from it; else it is the envelope alone."""
    write = written if named else _bare
    places = {
        "ToAddresses": [write(mail.to)],
        "CcAddresses": [write(mailbox) for mailbox in mail.cc],
        "BccAddresses": [_bare(mailbox) for mailbox in mail.bcc],
    }
    return {place: addresses for place, addresses in places.items() if addresses}


def _bare(mailbox: Mailbox) -> str:
    return mailbox.address


def _simple(content: EmailContent) -> Mapping[str, object]:
    parts = {"Text": content.text, "Html": content.html}
    simple: dict[str, object] = {
        "Subject": _data(content.subject),
        "Body": {name: _data(part) for name, part in parts.items() if part is not None},
    }
    if content.headers:
        simple["Headers"] = _headers(content)
    return simple


def _data(text: str) -> Mapping[str, str]:
    return {"Data": text, "Charset": "UTF-8"}


def _raw(message: Message, sender: Mailbox) -> Mapping[str, str]:
    """SES puts its own Message-ID and Date over ours."""
    mail = build_mime(message, sender=sender, message_id_domain=sender.domain)
    return {"Data": base64.b64encode(mail).decode()}


def _entry(mail: Envelope, call: ProviderCall, account: SesAccount) -> Mapping[str, object]:
    entry: dict[str, object] = {
        "Destination": {"ToAddresses": [written(mail.to)]},
        "ReplacementTags": _tags(call, account),
    }
    if mail.content.headers:
        entry["ReplacementHeaders"] = _headers(mail.content)
    return entry


# ----------------------------------------------------------------------------------------------- headers, tags


def _headers(content: EmailContent) -> list[Mapping[str, str]]:
    return [{"Name": name, "Value": value} for name, value in content.headers]


def _fit(headers: Sequence[tuple[str, str]], taken: re.Pattern[str]) -> bool:
    """Whether SES would write these as they are given, each once. `taken` matches the names (lower case) that it has
    no idea of its own about."""
    names = [name.lower() for name, _ in headers]
    return (
        len(headers) <= MOST_HEADERS
        and len(set(names)) == len(names)
        and all(map(taken.fullmatch, names))
        and all(
            _HEADER_NAME.fullmatch(name)
            and _HEADER_VALUE.fullmatch(value)
            and len(name) + len(value) <= _HEADER_LENGTH
            and value == value.strip()
            for name, value in headers
        )
    )


def _tags(call: ProviderCall, account: SesAccount) -> list[Mapping[str, str]]:
    """The attempt's id, which comes back in every event, and the message's own tags: `campaign:summer` is the tag
    `campaign` of the value `summer`, and `otp` the tag `otp` of the value `1`."""
    tags = {"hg-attempt": call.attempt_id}
    for tag in call.message.tags if account.tags else ():
        name, _, value = tag.partition(":")
        tags.setdefault(_tag(name), _tag(value) or "1")
    tags.pop("", None)
    return [{"Name": name, "Value": value} for name, value in list(tags.items())[:MOST_TAGS]]


def _tag(text: str) -> str:
    """What SES takes of it; '' where that says nothing."""
    fit = _NO_TAG.sub("_", text.strip())[:_TAG_LENGTH]
    return fit if fit.strip("_-") else ""
