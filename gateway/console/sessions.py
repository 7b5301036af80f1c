"""Who looks at the console: logging in by key or by a one-time code, and the cookie that is kept.

A session is a signed pass (passes.py), so any gateway process knows it and none stores it. That a code was used is
written where idempotency keys are: it is good once in the whole cluster, and stays used after a restart.
"""

from __future__ import annotations

import hashlib
from typing import Final

import trio

from heliograph.actors.model.access import ApiKey
from heliograph.actors.ports.ledger import Acceptance, Accepted, IdempotencyRecord
from heliograph.gateway.auth import CACHE_S, Authenticator
from heliograph.gateway.console.passes import SESSION_LIFE, Pass, Purpose, issue
from heliograph.gateway.problems import Code, Refused
from heliograph.gateway.services import Services

COOKIE: Final = "heliograph_console"
LOGIN: Final = "GET /console/login"


class Sessions:
    def __init__(self, services: Services, authenticator: Authenticator) -> None:
        self._services = services
        self._authenticator = authenticator
        self._keys: dict[str, ApiKey] = {}
        self._read_at_s = float("-inf")

    async def key_of(self, cookie: str | None) -> ApiKey | None:
        """Whose session it is; None where there is none in force. LedgerDown where nobody can tell."""
        return await self._holder(cookie, Purpose.SESSION)

    async def by_key(self, secret: str) -> ApiKey | None:
        try:
            return await self._authenticator.key_for(secret.strip())
        except Refused as error:
            if error.refusal.code is Code.UNAUTHORIZED:
                return None
            raise

    async def by_code(self, text: str) -> ApiKey | None:
        """Whom a code logs in; None where it is none, too old, or was used. LedgerDown, MailboxFull: it is not used."""
        key = await self._holder(text, Purpose.CODE)
        if key is None:
            return None
        used = IdempotencyRecord(
            key_id=key.id,
            route=LOGIN,
            key=text.rpartition(".")[0],
            fingerprint=hashlib.sha256(text.encode()).digest(),
            status=200,
            body=b"",
        )
        first = await self._services.accept(Acceptance(messages=(), states=(), idempotency=(used,)))
        return key if isinstance(first, Accepted) else None

    def begin(self, key: ApiKey) -> str:
        """The cookie of a new session."""
        return issue(Purpose.SESSION, key, self._services.clock.now() + SESSION_LIFE)

    async def _holder(self, text: str | None, purpose: Purpose) -> ApiKey | None:
        shown = Pass.read(text, purpose) if text else None
        if shown is None:
            return None
        key = await self._find(shown.key_id)
        return key if shown.good_for(key, self._services.clock.now()) else None

    async def _find(self, key_id: str) -> ApiKey | None:
        """What the ledger says of a key is believed for CACHE_S, so a revoked one ends its sessions after that. One
        that is not known may be new."""
        if key_id not in self._keys or trio.current_time() - self._read_at_s >= CACHE_S:
            read_at_s = trio.current_time()
            self._keys = {key.id: key for key in await self._services.ledger.keys.list()}
            self._read_at_s = read_at_s
        return self._keys.get(key_id)
