"""An email as bytes: RFC 5322 header lines over the standard library's tree of MIME parts.

The lines at the top are written here: EmailMessage folds a long List-Unsubscribe into an encoded word that no mailer
can read, loses the quotes of a display name that it folds, and up to CPython 3.11.9 writes out a line break that an
encoded word decodes to. What was written is parsed again and compared before anybody gets it, so a header that
nobody asked for cannot leave.

The same message gives the same bytes each time: Date, Message-ID and boundaries are made from the message, so a
second copy, sent after an attempt without an answer, can be told as one by whoever receives both.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.utils import format_datetime
from typing import Final

from heliograph.actors.model.errors import HeliographError
from heliograph.actors.model.message import Attachment, EmailContent, Message
from heliograph.actors.policy.mail import (
    MAX_LINE,
    MAX_NAME,
    PIECES,
    Mailbox,
    body_fault,
    content_id_fault,
    content_type_fault,
    header_fault,
    longest_piece,
    parse_mailbox,
    text_fault,
)

WANTED_LINE: Final = 78
_WORD_BYTES: Final = 45  # of UTF-8 in one encoded word: 60 characters of base64, 72 with its frame; RFC 2047 allows 75
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
_FOLD: Final = re.compile(r"\r\n(?=[ \t])")
_PARSER: Final = BytesHeaderParser(policy=policy.compat32)


class Unsendable(HeliographError):
    """The message cannot be written as a mail; the text names the field."""


def build_mime(
    message: Message, *, sender: Mailbox, message_id_domain: str, eight_bit: bool = False, utf8: bool = False
) -> bytes:
    """The whole mail; its lines end in CRLF and none is longer than 998 bytes. Bcc is not in it.

    Seven-bit unless `eight_bit` (the server offers 8BITMIME). `utf8` (SMTPUTF8) leaves the text of headers as it is:
    an address whose local part is outside ASCII can be written in no other way.

    Raises Unsendable.
    """
    content = message.content
    if not isinstance(content, EmailContent):
        raise Unsendable("an SMS is no mail")
    head = list(_head(message, content, sender, message_id_domain, utf8=utf8))
    written = b"".join(_line(name, value) for name, value in head)
    _compare(written, head)
    return written + _body(message, content, eight_bit=eight_bit or utf8)


def envelope(message: Message) -> tuple[str, ...]:
    """The bare addresses that a server is told, `to` first, each once: `to`, `cc` and `bcc`. Raises Unsendable."""
    content = message.content
    if not isinstance(content, EmailContent):
        raise Unsendable("an SMS is no mail")
    named = [("to", message.to), *(("cc", text) for text in content.cc), *(("bcc", text) for text in content.bcc)]
    return tuple(dict.fromkeys(_mailbox(field, text).address for field, text in named))


def needs_utf8(message: Message, sender: Mailbox) -> bool:
    """Whether an address of it has a local part outside ASCII, so that only an SMTPUTF8 server takes it."""
    content = message.content
    addresses = [sender.address, *envelope(message)]
    if isinstance(content, EmailContent) and content.reply_to is not None:
        addresses.append(_mailbox("reply_to", content.reply_to).address)
    return not all(map(str.isascii, addresses))


# ------------------------------------------------------------------------------------------------- the header


def _head(
    message: Message, content: EmailContent, sender: Mailbox, domain: str, *, utf8: bool
) -> Iterator[tuple[str, str]]:
    """Names and values as they stand on the wire, but for folding."""
    yield "Date", format_datetime((message.send_at or message.created_at).astimezone(UTC))
    yield "Message-ID", f"<{message.id}@{domain}>"
    _checked("from: the name", text_fault(sender.name), sender.name)
    yield "From", _mailboxes([sender], utf8=utf8)
    yield "To", _mailboxes([_mailbox("to", message.to)], utf8=utf8)
    if content.cc:
        yield "Cc", _mailboxes([_mailbox("cc", text) for text in content.cc], utf8=utf8)
    if content.reply_to is not None:
        yield "Reply-To", _mailboxes([_mailbox("reply_to", content.reply_to)], utf8=utf8)
    yield "Subject", _text("Subject", _checked("subject", text_fault(content.subject), content.subject), utf8=utf8)
    for name, value in content.headers:
        yield name, _text(name, _checked(f"headers.{name!r}", header_fault(name, value), value), utf8=utf8)


def _checked(field: str, fault: str | None, value: str) -> str:
    if fault is not None:
        raise Unsendable(f"{field}: {fault}")
    return value


def _mailbox(field: str, text: str) -> Mailbox:
    try:
        return parse_mailbox(text)
    except ValueError as fault:
        raise Unsendable(f"{field}: {fault}") from None


def _mailboxes(mailboxes: Sequence[Mailbox], *, utf8: bool) -> str:
    return ", ".join(f"{_phrase(m.name, utf8=utf8)} <{m.address}>" if m.name else m.address for m in mailboxes)


def _phrase(name: str, *, utf8: bool) -> str:
    if not name.isascii() and not (utf8 and len(name.encode()) <= MAX_NAME):
        return _encoded_words(name)
    return name if _ATOMS.fullmatch(name) else '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def _text(name: str, value: str, *, utf8: bool) -> str:
    value = value.strip(" \t")
    if (utf8 or value.isascii()) and longest_piece(value) + len(name) + 2 <= MAX_LINE:
        return value
    return _encoded_words(value)


def _encoded_words(text: str) -> str:
    """RFC 2047. A word holds whole characters; blanks between words vanish when they are decoded."""
    words, word = [], b""
    for character in text:
        more = character.encode()
        if len(word) + len(more) > _WORD_BYTES:
            words.append(word)
            word = b""
        word += more
    return " ".join(f"=?utf-8?b?{base64.b64encode(w).decode()}?=" for w in (*words, word))


def _line(name: str, value: str) -> bytes:
    """Folded in front of blanks that are there anyway, so that unfolding gives the value back to the letter."""
    first, *pieces = PIECES.findall(value) or [""]
    lines = [f"{name}: {first}"]
    for piece in pieces:
        if len(lines[-1].encode()) + len(piece.encode()) > WANTED_LINE:
            lines.append(piece)
        else:
            lines[-1] += piece
    return "\r\n".join(lines).encode() + b"\r\n"


def _compare(written: bytes, head: Sequence[tuple[str, str]]) -> None:
    raw = _PARSER.parsebytes(written).raw_items()
    found = [(name, _FOLD.sub("", value.encode("ascii", "surrogateescape").decode())) for name, value in raw]
    if found != list(head):
        raise Unsendable("headers: what would be written is not what was asked for")


# --------------------------------------------------------------------------------------------------- the body


def _body(message: Message, content: EmailContent, *, eight_bit: bool) -> bytes:
    """`Content-…` lines, MIME-Version, the blank line and all parts."""
    for name, text in (("text", content.text), ("html", content.html)):
        if text is not None:
            _checked(name, body_fault(text), text)
    root = EmailMessage(policy=policy.SMTP.clone(cte_type="8bit" if eight_bit else "7bit"))
    if content.html is None:
        root.set_content(content.text or "")
    elif content.text is None:
        root.set_content(content.html, subtype="html")
    else:
        root.set_content(content.text)
        root.add_alternative(content.html, subtype="html")
    inline = [a for a in content.attachments if a.content_id is not None and content.html is not None]
    if inline:
        page = _html_part(root)
        for attachment in inline:
            _put(page.add_related, attachment, "inline")
    for attachment in content.attachments:
        if attachment not in inline:
            _put(root.add_attachment, attachment, "attachment")
    for number, part in enumerate(root.walk()):
        if part.is_multipart():
            # `_` is in no base64, `=_` in no quoted-printable, and nobody can foresee an id: nothing looks like it.
            part.set_boundary(f"=_{message.id}_{number}")
    return root.as_bytes()


def _html_part(root: EmailMessage) -> EmailMessage:
    return next(part for part in root.walk() if part.get_content_type() == "text/html")


def _put(into: Callable[..., None], attachment: Attachment, disposition: str) -> None:
    name, kind, cid = attachment.filename, attachment.content_type, attachment.content_id
    field = f"attachments.{name!r}"
    main, _, sub = _checked(field, content_type_fault(kind), kind).partition("/")
    if cid is not None:
        cid = f"<{_checked(field, content_id_fault(cid), cid)}>"
    try:
        data = base64.b64decode(attachment.content_base64, validate=True)
    except binascii.Error:
        raise Unsendable(f"{field}: the content is not base64") from None
    into(data, main, sub, disposition=disposition, filename=_checked(field, text_fault(name), name), cid=cid)
