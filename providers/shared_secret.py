"""Callbacks of providers that sign nothing: a secret in the URL that they were given, or their basic authentication.

`[providers.receipts] secret = "…"`, and the provider calls `…/v1/receipts/NAME?secret=…`, or is told to authenticate
with any user name (with `username`, where the table has one) and the secret as its password.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.receipts import Genuine, ReceiptCall, Refused
from heliograph.providers.kinds import fault, nearest

LEAST: Final = 16
"""Shorter ones are taken, and `heliograph check` warns of them."""
KEYS: Final = ("secret", "username")
_PRINTABLE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSecret:
    secret: str = field(repr=False)
    username: str | None = None

    def verify(self, call: ReceiptCall) -> Genuine | Refused:
        given = call.query.get("secret")
        if given is not None and _same(given, self.secret):
            return Genuine()
        user, password = _basic(call.headers.get("authorization", ""))
        if _same(password, self.secret) and (self.username is None or _same(user, self.username)):
            return Genuine()
        return Refused(status=401, detail="the secret is missing or wrong: it belongs in the URL, as ?secret=…")


def shared_secret(settings: ProviderSettings, *own: str) -> SharedSecret:
    """From `[providers.receipts]`; `own` are a kind's further keys there. ConfigurationError names the wrong one."""
    given = settings.receipts
    known = (*KEYS, *own)
    for name in given:
        if name not in known:
            raise fault(settings, f"receipts.{name}", f"unknown key{nearest(name, known)}")
    secret, username = given.get("secret"), given.get("username")
    if secret is None:
        raise fault(settings, "receipts.secret", "missing; it is part of the URL that the provider calls")
    if not isinstance(secret, str) or not _PRINTABLE.fullmatch(secret):
        raise fault(settings, "receipts.secret", "must be ASCII without spaces, and not empty")
    if username is not None and (not isinstance(username, str) or not _PRINTABLE.fullmatch(username)):
        raise fault(settings, "receipts.username", "must be ASCII without spaces")
    return SharedSecret(secret=secret, username=username)


def _basic(header: str) -> tuple[str, str]:
    """User and password (RFC 7617); empty ones where there are none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password


def _same(given: str, wanted: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
