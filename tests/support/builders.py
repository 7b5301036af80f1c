"""Values for tests: each builder gives a whole, valid one, and takes what matters to the test by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from heliograph.actors.model.attempt import ProviderCall
from heliograph.actors.model.identity import attempt_id, new_id
from heliograph.actors.model.message import Category, Channel, EmailContent, Message, Priority, SmsContent
from heliograph.actors.model.provider import ProviderSettings

NOW: Final = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def a_message(to: str = "+919876543210", **fields: Any) -> Message:
    """Its channel follows from `to`."""
    email = "@" in to
    known: dict[str, Any] = {
        "id": new_id("msg", NOW),
        "tenant": "default",
        "key_id": "key_1",
        "live": True,
        "channel": Channel.EMAIL if email else Channel.SMS,
        "priority": Priority.NORMAL,
        "category": Category.TRANSACTIONAL,
        "to": to,
        "content": EmailContent(subject="Hello", text="Hello, Asha.") if email else SmsContent(text="Hello, Asha."),
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=1),
        "parts": None if email else 1,
    }
    return Message(**known | fields)


def an_email(to: str = "asha@shop.in", *, priority: Priority = Priority.NORMAL, **content: Any) -> Message:
    """An email with these fields of its content."""
    known: dict[str, Any] = {"subject": "Hello", "text": "Hello, Asha."}
    return a_message(to, priority=priority, content=EmailContent(**known | content))


def a_call(message: Message, number: int = 1) -> ProviderCall:
    return ProviderCall(message=message, number=number, attempt_id=attempt_id(message.id, number))


def a_provider(kind: str = "sandbox", channel: Channel = Channel.EMAIL, **fields: Any) -> ProviderSettings:
    known: dict[str, Any] = {"name": kind, "kind": kind, "channel": channel, "priority": 1, "rate": 1000, "burst": 1000}
    return ProviderSettings(**known | fields)
