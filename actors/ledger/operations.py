"""Operations on many dead letters: what they work on is fixed when they are made, and worked on in steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from heliograph.actors.ledger.archive import bring_back
from heliograph.actors.ledger.dead_letters import select_letters
from heliograph.actors.ledger.edges import Edges
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.suppressions import suppressed
from heliograph.actors.model.access import DEFAULT_TENANT
from heliograph.actors.model.deadletter import (
    DeadLetterFilter,
    DeadLetterState,
    DryRun,
    Operation,
    OperationKind,
    OperationState,
)
from heliograph.actors.model.errors import Conflict, NotFound
from heliograph.actors.ports.ledger import WaitingHint

OPEN_TO: Final[Mapping[OperationKind, frozenset[DeadLetterState]]] = {
    OperationKind.REDRIVE: frozenset({DeadLetterState.OPEN, DeadLetterState.ARCHIVED}),
    OperationKind.ARCHIVE: frozenset({DeadLetterState.OPEN}),
    OperationKind.DISCARD: frozenset({DeadLetterState.OPEN, DeadLetterState.ARCHIVED}),
}
SHOWN_FAILURES: Final = 1000
LONG_S: Final = 60.0
"""Listing what matches a filter takes time, where that is a million."""

# By operation_items_failed.
COLUMNS: Final[LiteralString] = f"""
o.id, o.kind, o.state, o.tenant, o.total, o.done, o.failed, o.skipped, o.rate, o.reason, o.actor, o.created_at,
o.finished_at, (
    SELECT json_agg(json_build_array(f.message_id, f.result) ORDER BY f.position) FROM (
        SELECT position, message_id, result FROM operation_items AS i
        WHERE i.operation_id = o.id AND i.result <> 'done' ORDER BY position LIMIT {SHOWN_FAILURES}
    ) AS f
)"""  # noqa: S608

# By the primary key.
GET: Final = f"SELECT {COLUMNS} FROM operations AS o WHERE o.id = %s"  # noqa: S608
LOCK: Final = "SELECT tenant, state FROM operations WHERE id = %s FOR NO KEY UPDATE"

# By the primary key, from its end. There are few.
LIST: Final = f"""
SELECT {COLUMNS} FROM operations AS o
WHERE (%s::text IS NULL OR o.tenant = %s) AND (%s::text IS NULL OR o.id < %s)
ORDER BY o.id DESC LIMIT %s"""  # noqa: S608

CREATE: Final = """
INSERT INTO operations (id, kind, state, tenant, scope, total, rate, reason, actor, finished_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s = 0 THEN now() END)"""
ITEMS_BY_ID: Final = """
WITH made AS (
    INSERT INTO operation_items (operation_id, position, message_id)
    SELECT %s, i.position, i.id FROM unnest(%s::text[]) WITH ORDINALITY AS i (id, position)
    RETURNING 1
)
SELECT count(*) FROM made"""
ITEMS_BY_FILTER: Final = """
WITH made AS (
    INSERT INTO operation_items (operation_id, position, message_id)
    SELECT %s, row_number() OVER (ORDER BY d.created_at, d.id), d.id FROM ({letters}) AS d
    RETURNING 1
)
SELECT count(*) FROM made"""

# By the primary keys.
JUDGE_IDS: Final = """
SELECT d.state, d.redrives, {suppressed}, count(*)
FROM unnest(%s::text[]) AS i (id) LEFT JOIN ({letters}) AS d USING (id)
GROUP BY 1, 2, 3""".replace("{suppressed}", suppressed("d"))
JUDGE_FILTER: Final = """
SELECT d.state, d.redrives, {suppressed}, count(*) FROM ({letters}) AS d GROUP BY 1, 2, 3""".replace(
    "{suppressed}", suppressed("d")
)

# By operation_items_left.
CANCEL_ITEMS: Final = """
WITH left_over AS (
    UPDATE operation_items SET result = 'cancelled' WHERE operation_id = %s AND result IS NULL RETURNING 1
)
SELECT count(*) FROM left_over"""
CANCEL: Final = """
UPDATE operations SET state = 'cancelled', skipped = skipped + %s, finished_at = now() WHERE id = %s"""

# By operations_running.
NEXT: Final = """
SELECT id, kind, scope, rate FROM operations WHERE state = 'running' AND due_at <= now()
ORDER BY due_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"""
NEXT_DUE: Final = "SELECT date_part('epoch', min(due_at) - now()) FROM operations WHERE state = 'running'"

# By operation_items_left; by the primary keys.
ITEMS: Final = """
SELECT position, message_id FROM operation_items WHERE operation_id = %s AND result IS NULL
ORDER BY position LIMIT %s"""
LETTERS: Final = f"""
SELECT d.id, d.tenant, d.state, d.redrives, {suppressed("d")} FROM dead_letters AS d WHERE d.id = ANY(%s)"""  # noqa: S608
ARCHIVED_LETTERS: Final = f"""
SELECT a.id, a.tenant, a.letter_state, a.letter_redrives, {suppressed("a")} FROM archive AS a
WHERE a.id = ANY(%s) AND a.letter_state IS NOT NULL FOR UPDATE"""  # noqa: S608
DISCARD_ARCHIVED: Final = """
UPDATE archive SET letter_state = 'discarded', letter_updated_at = now() WHERE id = ANY(%s)"""
RESULTS: Final = """
UPDATE operation_items AS i SET result = r.result FROM unnest(%s::integer[], %s::text[]) AS r (position, result)
WHERE i.operation_id = %s AND i.position = r.position"""
PROGRESS: Final = """
UPDATE operations AS o SET
    done = o.done + %(done)s, skipped = o.skipped + %(skipped)s, due_at = now() + %(pause_s)s * interval '1 second',
    state = CASE WHEN w.left_over THEN 'running' ELSE 'done' END,
    finished_at = CASE WHEN NOT w.left_over THEN now() END
FROM (
    SELECT EXISTS (SELECT FROM operation_items WHERE operation_id = %(id)s AND result IS NULL) AS left_over
) AS w
WHERE o.id = %(id)s"""


@dataclass(frozen=True, slots=True)
class Letter:
    tenant: str
    state: DeadLetterState
    redrives: int
    suppressed: bool


class PostgresOperations:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def dry_run(
        self,
        kind: OperationKind,
        *,
        ids: Sequence[str] | None,
        wanted: DeadLetterFilter | None,
        tenant: str | None,
        max_redrives: int,
    ) -> DryRun:
        by_filter = wanted or DeadLetterFilter()
        letters, params = select_letters(DeadLetterFilter(state=None) if ids is not None else by_filter, tenant)

        async def work(connection: Connection) -> DryRun:
            if ids is None:
                rows = await connection.rows(JUDGE_FILTER.replace("{letters}", letters), params, prepare=False)
            else:
                query = JUDGE_IDS.replace("{letters}", letters)
                rows = await connection.rows(query, (list(dict.fromkeys(ids)), *params), prepare=False)
            matched = eligible = 0
            skipped: dict[str, int] = {}
            for state, redrives, is_suppressed, n in rows:
                matched += n
                letter = None if state is None else Letter("", DeadLetterState(state), redrives, is_suppressed)
                why = "not_found" if letter is None else _refusal(kind, letter, max_redrives)
                if why is None:
                    eligible += n
                else:
                    skipped[why] = skipped.get(why, 0) + n
            return DryRun(matched=matched, eligible=eligible, skipped=skipped)

        return await self._pool.transact(work, limit_s=LONG_S)

    async def create(
        self,
        operation_id: str,
        kind: OperationKind,
        *,
        ids: Sequence[str] | None,
        wanted: DeadLetterFilter | None,
        tenant: str | None,
        rate: float | None,
        reason: str | None,
        actor: str | None,
    ) -> Operation:
        async def work(connection: Connection) -> Operation:
            if await connection.rows(LOCK, (operation_id,)):  # a commit in doubt is repeated
                return await _get(connection, operation_id, None)
            if ids is not None:
                [[total]] = await connection.rows(ITEMS_BY_ID, (operation_id, list(dict.fromkeys(ids))))
            else:
                letters, params = select_letters(wanted or DeadLetterFilter(), tenant)
                query = ITEMS_BY_FILTER.replace("{letters}", letters)
                [[total]] = await connection.rows(query, (operation_id, *params), prepare=False)
            state = OperationState.RUNNING if total else OperationState.DONE
            await connection.rows(
                CREATE,
                (
                    operation_id, kind, state, tenant or DEFAULT_TENANT, tenant, total, rate, reason, actor, total,
                ),
            )  # fmt: skip
            return await _get(connection, operation_id, None)

        return await self._pool.transact(work, limit_s=LONG_S)

    async def get(self, operation_id: str, *, tenant: str | None) -> Operation:
        async def work(connection: Connection) -> Operation:
            return await _get(connection, operation_id, tenant)

        return await self._pool.once(work)

    async def cancel(self, operation_id: str, *, tenant: str | None) -> Operation:
        async def work(connection: Connection) -> Operation:
            rows = await connection.rows(LOCK, (operation_id,))
            if not rows or tenant not in (None, rows[0][0]):
                raise NotFound(f"there is no operation {operation_id}")
            [[_, state]] = rows
            if state != OperationState.RUNNING:
                raise Conflict(f"operation {operation_id} is {state}")
            [[left_over]] = await connection.rows(CANCEL_ITEMS, (operation_id,))
            await connection.rows(CANCEL, (left_over, operation_id))
            return await _get(connection, operation_id, None)

        return await self._pool.transact(work, limit_s=LONG_S)

    async def step(
        self, *, limit: int, max_redrives: int, expires_after_s: float, supervisor: str
    ) -> tuple[list[WaitingHint], float | None]:
        async def work(connection: Connection) -> tuple[list[WaitingHint], float | None]:
            hints: list[WaitingHint] = []
            found = await connection.rows(NEXT)
            if found:
                [[operation_id, kind, scope, rate]] = found
                step = _Step(connection, OperationKind(kind), scope, max_redrives, expires_after_s, supervisor)
                # At most a second's worth of the rate at once, and then a pause that pays for it.
                count = limit if rate is None else max(1, min(limit, int(rate)))
                hints = await step.work(operation_id, count, rate)
            [[due_in_s]] = await connection.rows(NEXT_DUE)
            return hints, None if due_in_s is None else max(0.0, due_in_s)

        return await self._pool.transact(work)

    async def list(self, *, tenant: str | None, before: str | None, limit: int) -> list[Operation]:
        rows = await self._pool.rows(LIST, (tenant, tenant, before, before, limit))
        return [_operation(row) for row in rows]


@dataclass(frozen=True, slots=True)
class _Step:
    """Some items of one operation, inside one transaction."""

    connection: Connection
    kind: OperationKind
    scope: str | None
    max_redrives: int
    expires_after_s: float
    supervisor: str

    async def work(self, operation_id: str, count: int, rate: float | None) -> list[WaitingHint]:
        items: dict[str, int] = {
            message_id: position for position, message_id in await self.connection.rows(ITEMS, (operation_id, count))
        }
        edges = await Edges.lock(self.connection, items)
        hot = await self._letters(LETTERS, edges.held)
        archived = await self._letters(ARCHIVED_LETTERS, items.keys() - edges.held.keys())
        results = {message_id: self._judge((hot | archived).get(message_id)) for message_id in items}
        done = [message_id for message_id, why in results.items() if why is None]
        hints = await self._do(edges, done, [i for i in done if i in archived])
        await self.connection.rows(RESULTS, (list(items.values()), [results[i] or "done" for i in items], operation_id))
        await self.connection.rows(
            PROGRESS,
            {
                "id": operation_id,
                "done": len(done),
                "skipped": len(items) - len(done),
                "pause_s": 0.0 if rate is None else len(items) / rate,
            },
        )
        return hints

    async def _letters(self, query: LiteralString, ids: Any) -> dict[str, Letter]:
        rows = await self.connection.rows(query, (list(ids),)) if ids else []
        return {row[0]: Letter(row[1], DeadLetterState(row[2]), *row[3:]) for row in rows}

    def _judge(self, letter: Letter | None) -> str | None:
        """Why it is left alone; None where it is worked on."""
        if letter is None or self.scope not in (None, letter.tenant):
            return "not_found"
        return _refusal(self.kind, letter, self.max_redrives)

    async def _do(self, edges: Edges, ids: Sequence[str], archived: Sequence[str]) -> list[WaitingHint]:
        """`archived` are those of `ids` whose messages are not in the hot tables."""
        if self.kind is OperationKind.REDRIVE:
            if archived:
                await bring_back(self.connection, edges.tally, archived)
                edges.held |= (await Edges.lock(self.connection, archived)).held
            for message_id in ids:
                edges.redrive(edges.held[message_id], expires_after_s=self.expires_after_s, supervisor=self.supervisor)
            await edges.write(self.connection)
            return [edges.held[message_id].hint() for message_id in ids]
        if archived:
            await self.connection.rows(DISCARD_ARCHIVED, (archived,))
        state = DeadLetterState.ARCHIVED if self.kind is OperationKind.ARCHIVE else DeadLetterState.DISCARDED
        for message_id in ids:
            if message_id in edges.held:
                edges.close(edges.held[message_id], state)
        await edges.write(self.connection)
        return []


def _refusal(kind: OperationKind, letter: Letter, max_redrives: int) -> str | None:
    if letter.state not in OPEN_TO[kind]:
        return str(letter.state)
    if kind is not OperationKind.REDRIVE:
        return None
    if letter.redrives >= max_redrives:
        return "max_redrives"
    return "suppressed" if letter.suppressed else None


async def _get(connection: Connection, operation_id: str, tenant: str | None) -> Operation:
    rows = await connection.rows(GET, (operation_id,))
    if not rows or tenant not in (None, rows[0][3]):
        raise NotFound(f"there is no operation {operation_id}")
    return _operation(rows[0])


def _operation(row: Sequence[Any]) -> Operation:
    (
        id_, kind, state, tenant, total, done, failed, skipped, rate, reason, actor, created_at, finished_at, failures,
    ) = row  # fmt: skip
    return Operation(
        id=id_,
        kind=OperationKind(kind),
        state=OperationState(state),
        tenant=tenant,
        total=total,
        done=done,
        failed=failed,
        skipped=skipped,
        failures=tuple((message_id, why) for message_id, why in failures or ()),
        rate=rate,
        reason=reason,
        actor=actor,
        created_at=created_at,
        finished_at=finished_at,
    )
