"""Dead letters: reading them, and their automatic retries. A letter whose message was moved to the archive is read
from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

from heliograph.actors.ledger.conditions import Conditions
from heliograph.actors.ledger.edges import Edges
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.suppressions import suppressed
from heliograph.actors.ledger.tallies import DEAD_LETTER
from heliograph.actors.model.deadletter import DeadLetter, DeadLetterFilter, DeadLetterGroup, DeadLetterState
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.message import Channel, Reason
from heliograph.actors.policy.lifecycle import DEAD
from heliograph.actors.ports.ledger import WaitingHint

COLUMNS: Final[LiteralString] = (
    "id, tenant, state, channel, recipient, reason, code, provider, cause, detail, tags, attempts, redrives, "
    "created_at, updated_at, next_auto_retry_at"
)
HOT: Final[LiteralString] = f"SELECT {COLUMNS} FROM dead_letters AS d WHERE "  # noqa: S608
ARCHIVED: Final[LiteralString] = f"""SELECT {COLUMNS} FROM (
    SELECT id, tenant, letter_state AS state, channel, recipient, letter_reason AS reason, letter_code AS code,
           letter_provider AS provider, letter_cause AS cause, letter_detail AS detail, tags,
           letter_attempts AS attempts, letter_redrives AS redrives, letter_created_at AS created_at,
           letter_updated_at AS updated_at, NULL::timestamptz AS next_auto_retry_at
    FROM archive WHERE letter_state IS NOT NULL
) AS d WHERE """  # noqa: S608

# By the primary keys, of both at once so that one which is being moved is not missed.
GET: Final = f"{HOT} d.id = %s UNION ALL {ARCHIVED} d.id = %s"

# By dead_letters_by_state, dead_letters_by_tenant or dead_letters_by_age, and archive_letters.
NEWEST: Final = " ORDER BY created_at DESC, id DESC LIMIT %s"

# The newest is found as the largest of "moment and id".
GROUPS: Final = """
SELECT cause, reason, code, provider, channel, count(*), min(created_at), max(created_at),
       substr(max((to_char(created_at, 'YYYYMMDDHH24MISSUS') || id) COLLATE "C"), 21)
FROM ({letters}) AS d
GROUP BY cause, reason, code, provider, channel
ORDER BY count(*) DESC, cause
LIMIT %s"""
GROUPS_LIMIT_S: Final = 20.0

# Kept by each commit.
COUNTS: Final = """
SELECT counted, sum(present)::bigint FROM tallies
WHERE channel = '' AND counted LIKE 'dead_letter/%%' GROUP BY counted"""

# By dead_letters_to_retry.
TO_RETRY: Final = """
SELECT id FROM dead_letters WHERE next_auto_retry_at <= now() ORDER BY next_auto_retry_at LIMIT %s"""
STILL_TO_RETRY: Final = f"""
SELECT d.id, {suppressed("d")} FROM dead_letters AS d
WHERE d.id = ANY(%s) AND d.state = 'open' AND d.next_auto_retry_at <= now()"""  # noqa: S608
LEAVE: Final = "UPDATE dead_letters SET next_auto_retry_at = NULL, updated_at = now() WHERE id = ANY(%s)"


class PostgresDeadLetters:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, message_id: str, *, tenant: str | None) -> DeadLetter:
        rows = await self._pool.rows(GET, (message_id, message_id))
        if not rows or tenant not in (None, rows[0][1]):
            raise NotFound(f"there is no dead letter {message_id}")
        return _letter(rows[0])

    async def groups(self, wanted: DeadLetterFilter, *, tenant: str | None, limit: int) -> list[DeadLetterGroup]:
        letters, params = select_letters(wanted, tenant)

        async def work(connection: Connection) -> list[DeadLetterGroup]:
            query = GROUPS.replace("{letters}", letters)
            return [_group(*row) for row in await connection.rows(query, (*params, limit), prepare=False)]

        return await self._pool.transact(work, limit_s=GROUPS_LIMIT_S)

    async def counts(self) -> Mapping[Reason, int]:
        rows = await self._pool.rows(COUNTS)
        return {Reason(counted.removeprefix(DEAD_LETTER)): n for counted, n in rows if n}

    async def auto_retry(self, *, limit: int, supervisor: str, expires_after_s: float) -> list[WaitingHint]:
        async def work(connection: Connection) -> list[WaitingHint]:
            found = await connection.rows(TO_RETRY, (limit,))
            if not found:
                return []
            edges = await Edges.lock(connection, (row[0] for row in found), skip_locked=True)
            due: dict[str, bool] = dict(await connection.rows(STILL_TO_RETRY, (list(edges.held),)))
            if forbidden := [message_id for message_id, is_suppressed in due.items() if is_suppressed]:
                await connection.rows(LEAVE, (forbidden,))
            dead = [h for i, h in edges.held.items() if due.get(i) is False and h.state in DEAD]
            for held in dead:
                edges.redrive(held, expires_after_s=expires_after_s, supervisor=supervisor)
            await edges.write(connection)
            return [held.hint() for held in dead]

        return await self._pool.transact(work)

    async def list(
        self, wanted: DeadLetterFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[DeadLetter]:
        cursor: Sequence[Any] | None = None
        if before is not None:
            rows = await self._pool.rows(GET, (before, before))
            if not rows or tenant not in (None, rows[0][1]):
                return []
            cursor = rows[0]
        older = None if cursor is None else (cursor[13], cursor[0])
        query, params = select_letters(wanted, tenant, older=older, limit=limit)
        query = f"SELECT * FROM ({query}) AS d{NEWEST}"  # noqa: S608
        rows = await self._pool.rows(query, (*params, limit), prepare=False)
        return [_letter(row) for row in rows]


def select_letters(
    wanted: DeadLetterFilter,
    tenant: str | None,
    *,
    older: tuple[object, str] | None = None,
    limit: int | None = None,
) -> tuple[LiteralString, list[object]]:
    """COLUMNS of all that match; with `limit` only the newest so many of the hot ones and of the archived ones."""
    where, params = _conditions(wanted, tenant, older)
    newest: LiteralString = ""
    if limit is not None:
        newest, params = NEWEST, [*params, limit]
    if wanted.state is DeadLetterState.OPEN:  # these are never in the archive
        return f"({HOT}{where}{newest})", params
    return f"({HOT}{where}{newest}) UNION ALL ({ARCHIVED}{where}{newest})", [*params, *params]


def _conditions(
    wanted: DeadLetterFilter, tenant: str | None, older: tuple[object, str] | None
) -> tuple[LiteralString, list[object]]:
    found = Conditions()
    if tenant is not None:
        found.also("d.tenant = %s", tenant)
    if older is not None:
        found.also("(d.created_at, d.id) < (%s, %s)", *older)
    if wanted.state is not None:
        found.also("d.state = %s", wanted.state)
    if wanted.channel is not None:
        found.also("d.channel = %s", wanted.channel)
    if wanted.provider is not None:
        found.also("d.provider = %s", wanted.provider)
    if wanted.reason is not None:
        found.also("d.reason = %s", wanted.reason)
    if wanted.code is not None:
        found.also("d.code = %s", wanted.code)
    if wanted.cause is not None:
        found.also("d.cause = %s", wanted.cause)
    if wanted.tag is not None:
        found.also("d.tags @> ARRAY[%s]", wanted.tag)
    if wanted.text is not None:
        pattern = f"%{_unspecial(wanted.text)}%"
        found.also("(d.cause ILIKE %s OR d.detail ILIKE %s OR d.recipient ILIKE %s)", pattern, pattern, pattern)
    if wanted.since is not None:
        found.also("d.created_at >= %s", wanted.since)
    if wanted.until is not None:
        found.also("d.created_at < %s", wanted.until)
    return f"true{found.sql}", found.params


def _unspecial(text: str) -> str:
    r"""As itself in a pattern of LIKE.

    >>> _unspecial("100%")
    '100\\%'
    """
    return text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")


def _letter(row: Sequence[Any]) -> DeadLetter:
    (
        id_, tenant, state, channel, to, reason, code, provider, cause, detail, tags, attempts, redrives, created_at,
        updated_at, next_auto_retry_at,
    ) = row  # fmt: skip
    return DeadLetter(
        id=id_,
        tenant=tenant,
        state=DeadLetterState(state),
        channel=Channel(channel),
        to=to,
        reason=Reason(reason),
        code=code,
        provider=provider,
        cause=cause,
        detail=detail,
        tags=tuple(tags),
        attempts=attempts,
        redrives=redrives,
        created_at=created_at,
        updated_at=updated_at,
        next_auto_retry_at=next_auto_retry_at,
    )


def _group(
    cause: str,
    reason: str,
    code: str | None,
    provider: str | None,
    channel: str,
    count: int,
    first_at: Any,
    last_at: Any,
    sample_id: str,
) -> DeadLetterGroup:
    return DeadLetterGroup(
        cause=cause,
        reason=Reason(reason),
        code=code,
        provider=provider,
        channel=Channel(channel),
        count=count,
        first_at=first_at,
        last_at=last_at,
        sample_id=sample_id,
    )
