"""An email taken apart for the HTTP providers, which build the mail themselves: all addresses in ASCII."""

from __future__ import annotations

from dataclasses import dataclass

from heliograph.actors.model.message import EmailContent, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.mail import Mailbox, parse_mailbox
from heliograph.providers.kinds import fault
from heliograph.providers.mime import Unsendable


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    content: EmailContent
    sender: Mailbox
    reply_to: Mailbox | None
    to: Mailbox
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]


def envelope(message: Message, sender: Mailbox | None) -> Envelope:
    """`sender` is the configured one, for messages that name nobody. Raises Unsendable."""
    content = message.content
    if not isinstance(content, EmailContent):
        raise Unsendable("an SMS is no mail")
    named = _mailbox("from", content.sender) if content.sender else sender
    if named is None:
        raise Unsendable("from: neither the message nor the provider's configuration names a sender")
    return Envelope(
        content=content,
        sender=named,
        reply_to=_mailbox("reply_to", content.reply_to) if content.reply_to else None,
        to=_mailbox("to", message.to),
        cc=tuple(_mailbox("cc", address) for address in content.cc),
        bcc=tuple(_mailbox("bcc", address) for address in content.bcc),
    )


def refusal(message: Message, sender: Mailbox | None) -> str | None:
    """A word on why `envelope` could never be made of this message; None where it can."""
    try:
        envelope(message, sender)
    except Unsendable as error:
        field = str(error).partition(":")[0]
        return "sender" if field == "from" else "address"
    return None


def configured_sender(settings: ProviderSettings) -> Mailbox | None:
    """ConfigurationError where `sender` is no mailbox that an HTTP provider takes."""
    if settings.sender is None:
        return None
    try:
        return _mailbox("sender", settings.sender)
    except Unsendable as error:
        raise fault(settings, "sender", str(error).partition(": ")[2]) from None


def _mailbox(field: str, text: str) -> Mailbox:
    try:
        mailbox = parse_mailbox(text)
    except ValueError as error:
        raise Unsendable(f"{field}: {error}") from None
    if not mailbox.address.isascii():
        raise Unsendable(f"{field}: the part before the @ must be ASCII for this provider")
    return mailbox
