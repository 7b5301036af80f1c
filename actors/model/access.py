"""Who may do what: API keys, their scopes and tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from heliograph.actors.model.word import Word

DEFAULT_TENANT: Final = "default"
MOST_LIMIT: Final = 1_000_000_000
TENANT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ScopeName(Word):
    MESSAGES_WRITE = "messages:write"
    MESSAGES_READ = "messages:read"
    DEAD_LETTERS_WRITE = "dead_letters:write"
    DEAD_LETTERS_READ = "dead_letters:read"
    PROVIDERS_WRITE = "providers:write"
    PROVIDERS_READ = "providers:read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """`digest` is the SHA-256 of the secret (32 bytes): 256 random bits need no slow hash. `rate` is messages per
    second, `daily` messages per day in UTC; None: no limit."""

    id: str
    name: str
    tenant: str
    scopes: frozenset[ScopeName]
    live: bool
    digest: bytes
    created_at: datetime
    revoked_at: datetime | None = None
    rate: int | None = None
    daily: int | None = None

    def allows(self, scope: ScopeName) -> bool:
        return scope in self.scopes or ScopeName.ADMIN in self.scopes

    @property
    def sees_all(self) -> bool:
        """An `admin` key of the tenant `default` sees every tenant's; any other only its own."""
        return ScopeName.ADMIN in self.scopes and self.tenant == DEFAULT_TENANT
