"""API keys: how they are made, found again, and what they may do.

A key is `hg_live_` or `hg_test_` and 256 random bits; stored is its SHA-256, so looking one up needs no slow hash. A
process remembers what the ledger said of a key for CACHE_S at most: that long a revoked one may still be taken.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import trio

from heliograph.actors.model.access import DEFAULT_TENANT, ApiKey, ScopeName
from heliograph.actors.model.identity import new_id
from heliograph.actors.ports.ledger import KeyLedger
from heliograph.gateway.problems import Code, Refused

CACHE_S: Final = 2.0
MOST_CACHED: Final = 10_000
_SHAPE: Final = re.compile(r"hg_(?:live|test)_[A-Za-z0-9_-]{43}")


class RequestHeaders(Protocol):
    """What is asked of a request's headers; names are the same in any case."""

    def get(self, key: str, /) -> str | None:
        """The first of that name."""

    def getlist(self, key: str, /) -> list[str]: ...


def make_key(
    name: str,
    *,
    now: datetime,
    scopes: Collection[ScopeName] = (ScopeName.ADMIN,),
    tenant: str = DEFAULT_TENANT,
    live: bool = True,
    rate: int | None = None,
    daily: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is nowhere else: whoever loses it makes another."""
    secret = f"hg_{'live' if live else 'test'}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=new_id("key", now),
        name=name,
        tenant=tenant,
        scopes=frozenset(scopes),
        live=live,
        digest=digest_of(secret),
        created_at=now,
        rate=rate,
        daily=daily,
    )
    return key, secret


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True)
class _Remembered:
    key: ApiKey | None
    until_s: float


class Authenticator:
    def __init__(self, keys: KeyLedger) -> None:
        self._keys = keys
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._asking: dict[bytes, trio.Event] = {}

    async def key_of(self, headers: RequestHeaders) -> ApiKey:
        """Whose request it is. Refused with 400 or 401; LedgerDown where nobody can tell."""
        return await self.key_for(presented(headers))

    async def key_for(self, secret: str | None) -> ApiKey:
        if secret is None:
            raise _unauthorized("this needs an API key")
        if not _SHAPE.fullmatch(secret):
            raise _unauthorized("this is no API key")
        digest = digest_of(secret)
        key = await self._find(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise _unauthorized("this API key is not known")
        if key.revoked_at is not None:
            raise _unauthorized("this API key was revoked")
        return key

    async def _find(self, digest: bytes) -> ApiKey | None:
        while True:
            remembered = self._remembered.get(digest)
            if remembered is not None and trio.current_time() < remembered.until_s:
                return remembered.key
            asking = self._asking.get(digest)
            if asking is None:
                return await self._ask(digest)
            await asking.wait()  # somebody asks already; if that fails we ask ourselves

    async def _ask(self, digest: bytes) -> ApiKey | None:
        self._asking[digest] = trio.Event()
        # The answer is as old as the question: a revocation in between must not wait for the answer's own age.
        until_s = trio.current_time() + CACHE_S
        try:
            key = await self._keys.find(digest)
            self._remembered[digest] = _Remembered(key, until_s)
            self._remembered.move_to_end(digest)
            while len(self._remembered) > MOST_CACHED:
                self._remembered.popitem(last=False)
            return key
        finally:
            self._asking.pop(digest).set()


def presented(headers: RequestHeaders) -> str | None:
    """The secret that a request brings along."""
    authorizations = headers.getlist("Authorization")
    given = headers.getlist("X-API-Key")
    if not authorizations and len(given) == 1:
        return given[0].strip()
    secrets_given = {value.strip() for value in given}
    for value in authorizations:
        scheme, _, credentials = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("the header Authorization must be `Bearer KEY`")
        secrets_given.add(credentials.strip())
    if len(secrets_given) > 1:
        raise Refused(Code.CONFLICTING_CREDENTIALS, "the request brings two different API keys")
    return next(iter(secrets_given), None)


def require(key: ApiKey, *scopes: ScopeName) -> None:
    """One of them is enough."""
    for scope in scopes:
        if key.allows(scope):
            return
    wanted = " or ".join(scopes)
    raise Refused(Code.MISSING_SCOPE, f"this needs the scope {wanted}, which the API key {key.id} does not have")


def is_operator(key: ApiKey) -> bool:
    """What is of all tenants together is for the tenant that runs the service."""
    return key.tenant == DEFAULT_TENANT


def require_operator(key: ApiKey) -> None:
    if not is_operator(key):
        raise Refused(Code.MISSING_SCOPE, f"this concerns all tenants: it is for keys of the tenant {DEFAULT_TENANT}")


def seen_tenant(key: ApiKey) -> str | None:
    """Whose things the key sees; None: everybody's."""
    return None if key.sees_all else key.tenant


def _unauthorized(detail: str) -> Refused:
    return Refused(Code.UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="heliograph"'})
