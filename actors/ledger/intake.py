"""Accepting messages: one commit for all that piled up.

Without idempotency keys that is one statement. With them, the keys are written first, in order, in the same
transaction; whoever comes second with a key waits for the first one's commit and is answered as the first was.

The same statement looks for suppressed recipients; requests that have one are left out of the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from psycopg.errors import UniqueViolation

from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.rows import documents_of, refuse_nul
from heliograph.actors.ledger.suppressions import suppressed
from heliograph.actors.ledger.tallies import ACCEPTED
from heliograph.actors.model.message import Channel, Message, State
from heliograph.actors.policy.allowance import Exceeded, Usage, charge
from heliograph.actors.policy.lifecycle import BIRTHS
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    Admission,
    IdempotencyRecord,
    Mismatch,
    Replay,
    Suppressed,
)

# Into messages (its primary key, and the two indexes of what waits) and contents (its primary key, by channel, tenant,
# recipient and tag): all of it, or nothing where one of them is to go to somebody who is suppressed; answers those.
#
# What the rows have in common is told once and not read again from the JSON of each.
ACCEPT: Final = f"""
WITH posted AS (
    SELECT id, coalesce(state, 'queued') AS state, coalesce(tenant, %s) AS tenant, coalesce(key_id, %s) AS key_id,
           coalesce(live, %s) AS live, coalesce(channel, %s) AS channel, coalesce(priority, %s) AS priority,
           coalesce(category, %s) AS category, coalesce(created_at, %s) AS created_at,
           coalesce(expires_at, %s) AS expires_at, "to" AS recipient, content, send_at, providers,
           coalesce(tags, '{{}}') AS tags, coalesce(metadata, '{{}}') AS metadata, parts, webhook_url, traceparent
    FROM json_to_recordset(%s::json) AS p (
        id text, state text, tenant text, key_id text, live boolean, channel text, priority text, category text,
        created_at timestamptz, expires_at timestamptz, "to" text, content json, send_at timestamptz, providers text[],
        tags text[], metadata json, parts smallint, webhook_url text, traceparent text
    )
), hit AS (
    SELECT p.id FROM posted AS p WHERE p.state <> 'suppressed' AND {suppressed("p")}
), stored AS (
    INSERT INTO messages (id, channel, priority, state, due_at, expires_at, updated_at, waiting_for, touched_by)
    SELECT id, channel, priority, state, CASE WHEN state = 'scheduled' THEN coalesce(send_at, now()) ELSE now() END,
           expires_at, now(), CASE WHEN state = 'scheduled' THEN 'send_at' END, %s
    FROM posted
    WHERE NOT EXISTS (SELECT FROM hit)
), kept AS (
    INSERT INTO contents (
        id, channel, tenant, key_id, live, category, recipient, content, created_at, expires_at, send_at, providers,
        tags, metadata, parts, webhook_url, traceparent
    )
    SELECT id, channel, tenant, key_id, live, category, recipient, content, created_at, expires_at, send_at, providers,
           tags, metadata, parts, webhook_url, traceparent
    FROM posted
    WHERE NOT EXISTS (SELECT FROM hit)
), counted AS (
    INSERT INTO tallies AS t (writer, channel, counted, present, entered)
    SELECT %s, channel, counted, present, entered
    FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) AS d (channel, counted, present, entered)
    WHERE NOT EXISTS (SELECT FROM hit)
    ON CONFLICT (writer, channel, counted) DO UPDATE
    SET present = t.present + excluded.present, entered = t.entered + excluded.entered, updated_at = now()
)
SELECT id FROM hit"""  # noqa: S608 - all its parts are constants of ours

# By the primary key.
STORED: Final = "SELECT id FROM messages WHERE id = ANY(%s)"

# By the primary key. One that is a day old is as good as none.
REMEMBER: Final = """
INSERT INTO idempotency AS i (key_id, route, key, fingerprint, status, body)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bytea[], %s::smallint[], %s::bytea[])
ON CONFLICT (key_id, route, key) DO UPDATE
SET fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body, created_at = now()
WHERE i.created_at <= now() - interval '24 hours'
RETURNING key_id, route, key"""

# By the primary key. What was written above for requests that are not stored after all.
FORGET: Final = """
DELETE FROM idempotency AS i USING unnest(%s::text[], %s::text[], %s::text[]) AS k (key_id, route, key)
WHERE i.key_id = k.key_id AND i.route = k.route AND i.key = k.key"""

# By the primary key; the limit keeps the planner from any other way.
RECALL: Final = """
SELECT i.*
FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (key_id, route, key)
CROSS JOIN LATERAL (
    SELECT i.key_id, i.route, i.key, i.fingerprint, i.status, i.body FROM idempotency AS i
    WHERE i.key_id = k.key_id AND i.route = k.route AND i.key = k.key
      AND i.created_at > now() - interval '24 hours'
    LIMIT 1
) AS i"""

# By the primary key, in order: each row is locked until the commit, so what is counted is exact.
LOCK_USAGE: Final = """
INSERT INTO key_usage AS u (key_id) SELECT unnest(%s::text[])
ON CONFLICT (key_id) DO UPDATE SET used = u.used
RETURNING key_id, level_us, day, used, (date_part('epoch', clock_timestamp()) * 1e6)::bigint"""

# By the primary key.
COUNT_USAGE: Final = """
UPDATE key_usage AS u SET level_us = c.level_us, day = c.day, used = c.used
FROM unnest(%s::text[], %s::bigint[], %s::integer[], %s::bigint[]) AS c (key_id, level_us, day, used)
WHERE u.key_id = c.key_id"""

Name = tuple[str, str, str]


class PostgresIntake:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def accept(self, batch: Sequence[Acceptance], *, supervisor: str) -> list[Admission]:
        if not all(BIRTHS.issuperset(acceptance.states) for acceptance in batch):
            raise ValueError("a message is born queued, scheduled or suppressed")
        try:
            return await self._accept(batch, supervisor, frozenset())
        except UniqueViolation:  # a commit in doubt, repeated: it had landed
            ids = [message.id for acceptance in batch for message in acceptance.messages]
            rows = await self._pool.rows(STORED, (ids,))
            return await self._accept(batch, supervisor, frozenset(row[0] for row in rows))

    async def _accept(self, batch: Sequence[Acceptance], supervisor: str, there: Collection[str]) -> list[Admission]:
        async def store(connection: Connection, numbers: Sequence[int]) -> dict[int, Suppressed]:
            return await _store(connection, batch, numbers, supervisor, there)

        async def recognise_and_store(connection: Connection) -> list[Admission]:
            answers = await _recognise(connection, batch)
            new = [n for n, x in enumerate(answers) if isinstance(x, Accepted)]
            usage = await _Usage.locked(connection, batch, new)
            beyond = usage.beyond(batch, new)
            refused: dict[int, Suppressed | Exceeded] = dict(beyond)
            refused |= await store(connection, [n for n in new if n not in beyond])
            await usage.count(connection, batch, [n for n in new if n not in refused])
            if refused:
                await _forget(connection, batch, answers, refused)
            return answers

        if any(acceptance.idempotency or acceptance.limits for acceptance in batch):
            return await self._pool.transact(recognise_and_store)
        refused = await self._pool.once(lambda connection: store(connection, range(len(batch))))
        return [refused.get(n) or Accepted() for n in range(len(batch))]

    async def recall(self, key_id: str, route: str, key: str, fingerprint: bytes) -> Replay | Mismatch | None:
        refuse_nul([route, key])
        rows = await self._pool.rows(RECALL, ([key_id], [route], [key]))
        if not rows:
            return None
        [[_, _, _, stored, status, body]] = rows
        return _answer(stored, status, body, fingerprint)


class _Usage:
    """Of the limited keys in one group, their rows locked."""

    def __init__(self, found: Mapping[str, Usage], now_us: int) -> None:
        self._found = found
        self._now_us = now_us

    @classmethod
    async def locked(cls, connection: Connection, batch: Sequence[Acceptance], numbers: Sequence[int]) -> _Usage:
        keys = sorted({limits.key_id for n in numbers if (limits := batch[n].limits) is not None})
        rows = await connection.rows(LOCK_USAGE, (keys,)) if keys else []
        found = {key_id: Usage(level_us, day, used) for key_id, level_us, day, used, _ in rows}
        return cls(found, max((now_us for *_, now_us in rows), default=0))

    def beyond(self, batch: Sequence[Acceptance], numbers: Sequence[int]) -> dict[int, Exceeded]:
        """Those of the requests that are more than their keys may send, in their order."""
        return self._charged(batch, numbers)[1]

    async def count(self, connection: Connection, batch: Sequence[Acceptance], stored: Sequence[int]) -> None:
        if rows := [(k, u.level_us, u.day, u.used) for k, u in sorted(self._charged(batch, stored)[0].items())]:
            await connection.rows(COUNT_USAGE, [list(column) for column in zip(*rows, strict=True)])

    def _charged(
        self, batch: Sequence[Acceptance], numbers: Sequence[int]
    ) -> tuple[dict[str, Usage], dict[int, Exceeded]]:
        usage: dict[str, Usage] = {}
        beyond: dict[int, Exceeded] = {}
        for n in numbers:
            if (limits := batch[n].limits) is None:
                continue
            before = usage.get(limits.key_id, self._found[limits.key_id])
            match charge(limits, before, len(batch[n].messages), self._now_us):
                case Usage() as after:
                    usage[limits.key_id] = after
                case Exceeded() as exceeded:
                    beyond[n] = exceeded
        return usage, beyond


async def _store(
    connection: Connection, batch: Sequence[Acceptance], numbers: Iterable[int], supervisor: str, there: Collection[str]
) -> dict[int, Suppressed]:
    """Store those of `batch`, but for messages that are `there` already. Answers what was left out, by its number.

    Mostly one statement, and one more where some were left out: nothing was stored by the first then.
    """
    refused: dict[int, set[str]] = {}
    while True:
        given = [
            (message, state, n)
            for n in numbers
            if n not in refused
            for message, state in zip(batch[n].messages, batch[n].states, strict=True)
            if message.id not in there
        ]
        if not given:
            break
        given.sort(key=_by_id)  # so that the indexes of ids grow at their right ends
        usual, documents = documents_of([(message, state) for message, state, _ in given])
        tally = _tally(given)
        hits = await connection.rows(ACCEPT, (*usual, documents, supervisor, connection.writer, *tally))
        if not hits:
            break
        owners = {message.id: n for message, _, n in given}
        for (message_id,) in hits:
            refused.setdefault(owners[message_id], set()).add(message_id)
    return {n: Suppressed(frozenset(ids)) for n, ids in refused.items()}


def _by_id(given: tuple[Message, State, int]) -> str:
    return given[0].id


def _tally(given: Iterable[tuple[Message, State, int]]) -> tuple[list[str], list[str], list[int], list[int]]:
    """Columns of what `tallies` counts: channel, what, how many more there are, and how many entered it."""
    born = Counter((message.channel, state) for message, state, _ in given)
    accepted: Counter[Channel] = Counter()
    for (channel, _), n in born.items():
        accepted[channel] += n
    rows = [(c, ACCEPTED, 0, n) for c, n in accepted.items()] + [(c, s, n, n) for (c, s), n in born.items()]
    channels, counted, present, entered = zip(*sorted(rows), strict=True)
    return [*map(str, channels)], [*map(str, counted)], [*present], [*entered]


async def _recognise(connection: Connection, batch: Sequence[Acceptance]) -> list[Admission]:
    """Write the keys that are new; answer each acceptance, by the first one in this batch that brings its key."""
    first: dict[Name, IdempotencyRecord] = {}
    for acceptance in batch:
        for record in acceptance.idempotency:
            first.setdefault(_name(record), record)
    records = [first[name] for name in sorted(first)]
    if not records:
        return [Accepted() for _ in batch]
    names = [list(column) for column in zip(*(_name(r) for r in records), strict=True)]
    for column in names:
        refuse_nul(column)
    won = await connection.rows(
        REMEMBER,
        (*names, [r.fingerprint for r in records], [r.status for r in records], [r.body for r in records]),
    )
    new: set[Name] = {(key_id, route, key) for key_id, route, key in won}
    known: dict[Name, tuple[bytes, int, bytes]] = {}
    if len(new) < len(records):
        rows = await connection.rows(RECALL, names)
        known = {(r[0], r[1], r[2]): (r[3], r[4], r[5]) for r in rows}
    return [_judge(acceptance, first, new, known) for acceptance in batch]


async def _forget(
    connection: Connection,
    batch: Sequence[Acceptance],
    answers: list[Admission],
    refused: Mapping[int, Suppressed | Exceeded],
) -> None:
    """The keys of what was not stored; who brought one of them for the second time has the same answer."""
    owners = {_name(record): number for number in refused for record in batch[number].idempotency}
    if owners:
        await connection.rows(FORGET, [list(column) for column in zip(*owners, strict=True)])
    for number, answer in enumerate(answers):
        first = next((owners[_name(r)] for r in batch[number].idempotency if _name(r) in owners), number)
        if first in refused and not isinstance(answer, Mismatch):
            answers[number] = refused[first]


def _judge(
    acceptance: Acceptance,
    first: dict[Name, IdempotencyRecord],
    new: set[Name],
    known: dict[Name, tuple[bytes, int, bytes]],
) -> Admission:
    for record in acceptance.idempotency:
        name = _name(record)
        if name not in new:
            return _answer(*known[name], record.fingerprint)
        if first[name] is not record:
            earlier = first[name]
            return _answer(earlier.fingerprint, earlier.status, earlier.body, record.fingerprint)
    return Accepted()


def _name(record: IdempotencyRecord) -> Name:
    return record.key_id, record.route, record.key


def _answer(stored: bytes, status: int, body: bytes, fingerprint: bytes) -> Replay | Mismatch:
    return Replay(status=status, body=body) if stored == fingerprint else Mismatch()
