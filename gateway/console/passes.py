"""Signed passes: the session that a browser keeps, and the code that logs in once.

A pass names an API key and a time, and is signed with that key's digest, which the ledger keeps and nobody is shown. So
every gateway process can check it, nothing has to be stored, and revoking the key ends all that hangs on it. The key
itself is in no pass. (Whoever can read digests out of the database could forge one; the messages lie beside them.)

    <purpose>.<key id>.<unix time of its end>.<chance>.<HMAC-SHA256 of all before, base64url>
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from heliograph.actors.model.access import ApiKey

SESSION_LIFE: Final = timedelta(hours=12)
CODE_LIFE: Final = timedelta(hours=12)
_SHAPE: Final = re.compile(
    r"(session|code)\.(key_[0-9A-Z]{26})\.([0-9]{1,11})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})", re.ASCII
)
_NOBODY: Final = bytes(32)


class Purpose(StrEnum):
    SESSION = "session"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass as it was presented: nothing of it is true until `good_for` says so."""

    purpose: Purpose
    key_id: str
    ends_at: datetime
    signed: str
    signature: str

    @classmethod
    def read(cls, text: str, purpose: Purpose) -> Pass | None:
        match = _SHAPE.fullmatch(text)
        if match is None or match[1] != purpose:
            return None
        ends_at = datetime.fromtimestamp(int(match[3]), UTC)
        return cls(purpose, match[2], ends_at, text.rpartition(".")[0], match[5])

    def good_for(self, key: ApiKey | None, now: datetime) -> bool:
        """Takes the same time for a key that does not exist."""
        right = hmac.compare_digest(_sign(key.digest if key else _NOBODY, self.signed), self.signature)
        return right and key is not None and key.id == self.key_id and key.revoked_at is None and now < self.ends_at


def issue(purpose: Purpose, key: ApiKey, ends_at: datetime) -> str:
    signed = f"{purpose}.{key.id}.{int(ends_at.timestamp())}.{secrets.token_urlsafe(16)}"
    return f"{signed}.{_sign(key.digest, signed)}"


def login_path(key: ApiKey, now: datetime) -> str:
    """Where a browser logs in once, without being asked for the key."""
    return f"/console/login?code={issue(Purpose.CODE, key, now + CODE_LIFE)}"


def _sign(digest: bytes, signed: str) -> str:
    # Derived, so that a digest signs nothing else by accident.
    key = hmac.digest(digest, b"heliograph console pass", hashlib.sha256)
    return base64.urlsafe_b64encode(hmac.digest(key, signed.encode(), hashlib.sha256)).decode().rstrip("=")
