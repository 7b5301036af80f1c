"""Reading messages, and cancelling one.

A list goes through `contents` from its newest id down, by the narrowest index that the filter allows; a state that is
rare is looked for in `messages` instead. Which of the two is better is the planner's choice, so these statements are
planned each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

from heliograph.actors.ledger.conditions import Conditions
from heliograph.actors.ledger.edges import NOTHING_AWAITED, Edges
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.rows import (
    MESSAGE_WIDTH,
    TRACKED,
    TRACKED_WIDTH,
    attempt_of_document,
    message_of,
    standing_of,
)
from heliograph.actors.model.attempt import Attempt
from heliograph.actors.model.errors import Conflict, NotFound
from heliograph.actors.model.identity import time_prefix
from heliograph.actors.model.message import State
from heliograph.actors.policy.lifecycle import WAITING, Event
from heliograph.actors.ports.ledger import MessageFilter, MessageView

# By the primary keys, in the hot tables and in the archive at once, so that one which is being moved is not missed.
# What the archive has lacks columns that are newer, so it is read through the row types of today.
GET: Final = f"""
SELECT {TRACKED}, k.number, k.provider, k.started_at, false,
       (SELECT json_agg(a ORDER BY a.number) FROM attempts AS a WHERE a.message_id = m.id)
FROM contents AS c JOIN messages AS m USING (id) LEFT JOIN claims AS k ON k.message_id = m.id
WHERE m.id = %s
UNION ALL
SELECT {TRACKED}, NULL, NULL, NULL, true, a.attempts
FROM archive AS a
CROSS JOIN LATERAL json_populate_record(NULL::messages, a.message) AS m
CROSS JOIN LATERAL json_populate_record(NULL::contents, a.content) AS c
WHERE a.id = %s"""  # noqa: S608

# As the filter has it by the primary key of contents or contents_by_channel, _tenant, _recipient or _tag; by
# messages_rare or messages_waiting; or from the claims.
LIST: Final = f"""
SELECT {TRACKED}, k.number, k.provider, k.started_at
FROM contents AS c JOIN messages AS m USING (id) LEFT JOIN claims AS k ON k.message_id = m.id
WHERE true"""  # noqa: S608
# And only for those of the page their attempts, by the primary key.
PAGE: Final = """
SELECT p.*, (SELECT json_agg(a ORDER BY a.number) FROM attempts AS a WHERE a.message_id = p.id)
FROM ({list} ORDER BY c.id DESC LIMIT %s) AS p
ORDER BY p.id DESC"""

_CLOCKS: Final = timedelta(minutes=1)
"""How far an id and the moment of its message may be apart."""
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


class PostgresMessages:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, message_id: str, *, tenant: str | None) -> MessageView:
        async def work(connection: Connection) -> MessageView:
            return await _find(connection, message_id, tenant)

        return await self._pool.once(work)

    async def cancel(self, message_id: str, *, tenant: str | None, supervisor: str) -> MessageView:
        async def work(connection: Connection) -> MessageView:
            edges = await Edges.lock(connection, [message_id])
            view = await _find(connection, message_id, tenant)
            held = edges.held.get(message_id)
            if held is None or held.state not in WAITING:
                raise Conflict(f"message {message_id} is {view.standing.state}: it is too late to cancel it")
            edges.change(held, Event.CANCELLED, supervisor, **NOTHING_AWAITED)
            await edges.write(connection)
            return await _find(connection, message_id, tenant)

        return await self._pool.transact(work)

    async def list(
        self, wanted: MessageFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[MessageView]:
        where, params = conditions(wanted, tenant, before)
        rows = await self._pool.rows(PAGE.replace("{list}", LIST + where), (*params, limit), prepare=False)
        return [_view(row, attempts) for *row, attempts in rows]


async def _find(connection: Connection, message_id: str, tenant: str | None) -> MessageView:
    found = await connection.rows(GET, (message_id, message_id))
    if not found:
        raise NotFound(f"there is no message {message_id}")
    *row, archived, attempts = found[0]
    view = _view(row, attempts, archived=archived)
    if tenant not in (None, view.message.tenant):
        raise NotFound(f"there is no message {message_id}")
    return view


def _view(row: Sequence[Any], documents: Sequence[Any] | None, *, archived: bool = False) -> MessageView:
    attempts = [attempt_of_document(document) for document in documents or ()]
    message, standing = message_of(row), standing_of(row[MESSAGE_WIDTH:])
    number, provider, started_at = row[TRACKED_WIDTH:]
    if number is not None:
        standing = replace(standing, state=State.SENDING, provider=provider, waiting_for=None)
        begun = Attempt(message_id=message.id, number=number, provider=provider, started_at=started_at)
        attempts = [*attempts, begun]
    return MessageView(message=message, standing=standing, attempts=tuple(attempts), archived=archived)


# A bound is told of both ids, for of `c.id = m.id` the planner does not carry it over: a join that reads both tables in
# the order of their ids would begin to read the other one at its newest.
def conditions(wanted: MessageFilter, tenant: str | None, before: str | None) -> tuple[LiteralString, list[object]]:
    found = Conditions()
    if tenant is not None:
        found.also("c.tenant = %s", tenant)
    if before is not None:
        found.also("c.id < %s AND m.id < %s", before, before)
    if wanted.state is State.SENDING:
        found.also("k.message_id IS NOT NULL")
    elif wanted.state is not None:
        found.also("m.state = %s", wanted.state)
        if wanted.state in WAITING:
            found.also("k.message_id IS NULL")
    if wanted.channel is not None:
        found.also("c.channel = %s", wanted.channel)
    if wanted.to is not None:
        found.also("c.recipient = %s", wanted.to)
    if wanted.tag is not None:
        found.also("c.tags <> '{}' AND c.tags @> ARRAY[%s]", wanted.tag)
    if wanted.since is not None:
        first = _id_at(wanted.since, -_CLOCKS)
        found.also("c.created_at >= %s AND c.id >= %s AND m.id >= %s", wanted.since, first, first)
    if wanted.until is not None:
        beyond = _id_at(wanted.until, _CLOCKS)
        found.also("c.created_at < %s AND c.id < %s AND m.id < %s", wanted.until, beyond, beyond)
    return found.sql, found.params


def _id_at(at: datetime, shift: timedelta) -> str:
    return "msg_" + time_prefix(min(max(at, _FIRST), _LAST) + shift)
