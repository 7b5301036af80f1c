"""API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from heliograph.actors.ledger.pool import Pool
from heliograph.actors.ledger.rows import refuse_nul
from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.actors.model.errors import NotFound

COLUMNS: Final = "id, name, tenant, scopes, live, digest, created_at, revoked_at, rate, daily"

CREATE: Final = f"""
INSERT INTO api_keys ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO NOTHING"""  # noqa: S608

# All of them: they are few.
LIST: Final = f"SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id"  # noqa: S608

# By the primary key.
REVOKE: Final = f"""
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s RETURNING {COLUMNS}"""  # noqa: S608

# By the unique index on the digest.
FIND: Final = f"SELECT {COLUMNS} FROM api_keys WHERE digest = %s"  # noqa: S608


class PostgresKeys:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, key: ApiKey) -> None:
        refuse_nul([key.name, key.tenant])
        scopes = sorted(str(scope) for scope in key.scopes)
        await self._pool.rows(
            CREATE,
            (
                key.id, key.name, key.tenant, scopes, key.live, key.digest, key.created_at, key.revoked_at, key.rate,
                key.daily,
            ),
        )  # fmt: skip

    async def revoke(self, key_id: str) -> ApiKey:
        rows = await self._pool.rows(REVOKE, (key_id,))
        if not rows:
            raise NotFound(f"there is no API key {key_id}")
        return _key(rows[0])

    async def find(self, digest: bytes) -> ApiKey | None:
        rows = await self._pool.rows(FIND, (digest,))
        return _key(rows[0]) if rows else None

    async def list(self) -> list[ApiKey]:
        return [_key(row) for row in await self._pool.rows(LIST)]


def _key(row: Sequence[Any]) -> ApiKey:
    id_, name, tenant, scopes, live, digest, created_at, revoked_at, rate, daily = row
    return ApiKey(
        id=id_,
        name=name,
        tenant=tenant,
        scopes=frozenset(ScopeName(scope) for scope in scopes),
        live=live,
        digest=digest,
        created_at=created_at,
        revoked_at=revoked_at,
        rate=rate,
        daily=daily,
    )
