"""Idempotency keys: a repeat is answered as the first was, and never done twice.

The record lives in the ledger, committed with the messages. Within this process a second request under a key whose
first is still in flight is refused; across processes the ledger's commit decides.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import orjson

from heliograph.actors.ports.ledger import IdempotencyRecord
from heliograph.gateway.auth import RequestHeaders
from heliograph.gateway.limits import MOST_KEY_CHARACTERS
from heliograph.gateway.problems import Code, Fault, Refused

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replayed": "true"}
# A string of RFC 8941, 3.3.3; most clients send it bare.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE: Final = re.compile(r"[!#-~](?:[ -~]*[!-~])?")


@dataclass(frozen=True, slots=True)
class Known:
    """What a key is known by."""

    key_id: str
    route: str
    key: str

    def record(self, fingerprint: bytes, status: int, body: bytes) -> IdempotencyRecord:
        return IdempotencyRecord(
            key_id=self.key_id, route=self.route, key=self.key, fingerprint=fingerprint, status=status, body=body
        )


def key_in(headers: RequestHeaders) -> str | None:
    """The request's key; quoted and bare are the same. Refused with 422 where it is none."""
    given = {_unquoted(value.strip()) for value in headers.getlist(HEADER)}
    if not given:
        return None
    key = given.pop()
    if given or key is None or not 0 < len(key) <= MOST_KEY_CHARACTERS:
        detail = f"must be one string of 1 to {MOST_KEY_CHARACTERS} printable ASCII characters"
        raise Refused(Code.INVALID, f"the header {HEADER} {detail}", [Fault(HEADER, detail)])
    return key


def _unquoted(value: str) -> str | None:
    if match := _QUOTED.fullmatch(value):
        return re.sub(r"\\(.)", r"\1", match[1])
    return value if _BARE.fullmatch(value) else None


def item_key_fault(key: str) -> str | None:
    """For the key that an item of a batch brings along as a field."""
    if len(key) <= MOST_KEY_CHARACTERS and _BARE.fullmatch(key):
        return None
    return f"must be 1 to {MOST_KEY_CHARACTERS} printable ASCII characters"


def fingerprint_of(value: object, *, clean: bool) -> bytes:
    """Equal for equal JSON, however it was written. `clean` as `loads` says."""
    if clean:
        return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


class InFlight:
    def __init__(self) -> None:
        self._keys: set[Known] = set()

    @contextmanager
    def held(self, known: Known) -> Iterator[None]:
        """Refused with 409 while another request of this process holds the key."""
        if known in self._keys:
            raise Refused(
                Code.IDEMPOTENCY_IN_FLIGHT,
                "the first request under this idempotency key is still in flight",
                headers={"Retry-After": "1"},
            )
        self._keys.add(known)
        try:
            yield
        finally:
            self._keys.discard(known)


def mismatch() -> Refused:
    return Refused(
        Code.IDEMPOTENCY_MISMATCH,
        "this idempotency key was used with another body within the last 24 hours",
        [Fault(HEADER, "was used with another body")],
    )
