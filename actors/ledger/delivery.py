"""Messages on their way: load, claim, finish, and whatever else happens to what waits.

The two hot statements, CLAIM and SENT, each do all of their work for a whole batch in one round trip. Everything that
is not "claimed and then accepted" goes through `edges`.

Prepared statements may live for a while on plans that were made while the tables were small, so they are written such
that no plan can read more than the rows asked for: each table is joined by `id = ANY(ARRAY[…])`, which only a look
into its index for each row can answer, and `state || ''` is the state in a form that no partial index on it can serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from heliograph.actors.ledger.edges import NOTHING_AWAITED, Edges, Held
from heliograph.actors.ledger.pool import Connection, Pool
from heliograph.actors.ledger.rows import (
    TRACKED,
    TRACKED_WIDTH,
    array_of,
    nullable_array_of,
    number_array_of,
    tracked_of,
)
from heliograph.actors.ledger.suppressions import among, enter, suppress, suppressed
from heliograph.actors.model.attempt import Answer, Attempt, Outcome, Settled
from heliograph.actors.model.identity import time_prefix
from heliograph.actors.model.message import Channel, Lane, Reason, State, Tracked
from heliograph.actors.policy.lifecycle import Event
from heliograph.actors.ports.ledger import (
    Claimed,
    ClaimRequest,
    Entry,
    Finish,
    Finished,
    Loaded,
    Overdue,
    Park,
    WaitingHint,
)

# By the primary keys of all three.
LOAD: Final = f"""
SELECT {TRACKED}, date_part('epoch', m.due_at - now()), date_part('epoch', m.expires_at - now()), {suppressed("c")}
FROM messages AS m JOIN contents AS c USING (id)
WHERE m.id = ANY(%s::text[]) AND m.state || '' IN ('queued', 'scheduled')
  AND NOT EXISTS (SELECT FROM claims AS k WHERE k.message_id = m.id)"""  # noqa: S608

# By the primary key, in the order given. The lock makes us wait for whoever is moving the message, and then looks at
# what became of it; the key of `claims` makes the second of two claims fail. A scheduled one that is due is woken on
# the way. Where anybody is suppressed its recipient is looked at too: an entry may have come after LOAD.
# Arrays that the planner could see would have each call planned anew, for their lengths; that took a third of the
# server's time where messages come one by one.
CLAIM: Final = f"""
WITH wanted AS (
    SELECT * FROM unnest((SELECT %s::text[]), (SELECT %s::text[]), (SELECT %s::double precision[]))
        AS w (id, provider, hold_s)
), held AS (
    SELECT m.*, w.provider, w.hold_s
    FROM wanted AS w CROSS JOIN LATERAL (
        SELECT id, channel, state, attempts FROM messages
        WHERE id = w.id AND state || '' IN ('queued', 'scheduled') AND due_at <= now() AND expires_at > now()
        FOR NO KEY UPDATE
    ) AS m
    WHERE NOT EXISTS (SELECT FROM suppressions)
       OR NOT EXISTS (SELECT FROM contents AS c WHERE c.id = m.id AND {suppressed("c")})
), won AS (
    INSERT INTO claims (message_id, channel, number, provider, supervisor, started_at, reclaim_at)
    SELECT id, channel, attempts + 1, provider, %s, now(), now() + hold_s * interval '1 second'
    FROM held
    ON CONFLICT (message_id) DO NOTHING
    RETURNING message_id, channel, number, started_at
), woken AS (
    UPDATE messages AS m
    SET state = 'queued', waiting_for = NULL, waiting_provider = NULL, updated_at = now()
    FROM held AS h
    WHERE h.state = 'scheduled' AND m.id = h.id
    RETURNING m.channel
), counted AS (
    INSERT INTO tallies AS t (writer, channel, counted, present, entered)
    SELECT %s, channel, counted, sum(present), sum(entered) FROM (
        SELECT channel, 'sending' AS counted, 0 AS present, 1 AS entered FROM won
        UNION ALL SELECT channel, 'scheduled', -1, 0 FROM woken
        UNION ALL SELECT channel, 'queued', 1, 1 FROM woken
    ) AS changes
    GROUP BY channel, counted
    ORDER BY channel, counted
    ON CONFLICT (writer, channel, counted) DO UPDATE
    SET present = t.present + excluded.present, entered = t.entered + excluded.entered, updated_at = now()
)
SELECT message_id, number, started_at FROM won"""  # noqa: S608 - all its parts are constants of ours

# By the primary keys. Takes those whose claim is ours and still open: the claim is read as of the statement's
# beginning, and `attempts` of the row as it is once we have its lock, which every other end of the claim moves on.
# The row is locked before the claim is deleted, as CLAIM does it. Provider and beginning are the claim's. Answers those
# that it did not take.
SENT: Final = """
WITH ended AS (
    SELECT id, number, timestamptz 'epoch' + finished_us * interval '1 microsecond' AS finished_at, code, detail,
           provider_message_id, traced, counted, unknowns
    FROM unnest(
        (SELECT %(ids)s::text[]), (SELECT %(numbers)s::integer[]), (SELECT %(finished_us)s::bigint[]),
        (SELECT %(codes)s::text[]), (SELECT %(details)s::text[]), (SELECT %(provider_message_ids)s::text[]),
        (SELECT %(traced)s::boolean[]), (SELECT %(counted)s::smallint[]), (SELECT %(unknowns)s::smallint[])
    ) AS e (id, number, finished_us, code, detail, provider_message_id, traced, counted, unknowns)
), moved AS (
    UPDATE messages AS m SET
        state = 'sent', updated_at = now(), attempts = e.number, counted = e.counted, unknowns = e.unknowns,
        throttled = 0, reclaims = 0, passes = 0, tried = NULL, provider = k.provider, reason = NULL,
        waiting_for = NULL, waiting_provider = NULL, unsettled = NULL, unsettled_provider = NULL, landed = NULL,
        touched_by = k.supervisor
    FROM ended AS e
    JOIN claims AS k ON k.message_id = ANY(ARRAY[e.id]) AND k.number = e.number AND k.supervisor = %(supervisor)s
    WHERE m.id = ANY(ARRAY[e.id]) AND m.state || '' = 'queued' AND m.attempts = e.number - 1
    RETURNING m.channel, k.provider, k.started_at, e.*
), closed AS (
    DELETE FROM claims AS k USING moved WHERE k.message_id = ANY(ARRAY[moved.id])
), logged AS (
    INSERT INTO attempts (
        message_id, number, provider, started_at, finished_at, outcome, code, detail, provider_message_id
    )
    SELECT id, number, provider, started_at, finished_at, 'accepted', code, detail, provider_message_id
    FROM moved
), counted AS (
    INSERT INTO tallies AS t (writer, channel, counted, present, entered)
    SELECT %(writer)s, channel, v.counted, n * v.present, n * v.entered
    FROM (SELECT channel, count(*) AS n FROM moved GROUP BY channel) AS m
    CROSS JOIN (VALUES ('queued', -1, 0), ('sent', 1, 1)) AS v (counted, present, entered)
    ORDER BY channel, v.counted
    ON CONFLICT (writer, channel, counted) DO UPDATE
    SET present = t.present + excluded.present, entered = t.entered + excluded.entered, updated_at = now()
)
SELECT id FROM ended EXCEPT ALL SELECT id FROM moved"""
# The same where receipts name some of the attempts by the provider's id alone.
SENT_TRACED: Final = SENT.replace(
    "), counted AS (",
    """), noted AS (
    INSERT INTO provider_ids (message_id, number, provider, provider_message_id, recipient)
    SELECT id, number, provider, provider_message_id, recipient FROM moved JOIN contents USING (id)
    WHERE traced AND provider_message_id <> ''
), counted AS (""",
    1,
)

# Through all of `claims`, which is short.
OVERDUE: Final = f"""
SELECT {TRACKED}, k.number, k.provider, k.supervisor, k.started_at,
       extract(epoch FROM k.reclaim_at - now())::double precision
FROM claims AS k JOIN messages AS m ON m.id = k.message_id JOIN contents AS c USING (id)
WHERE k.reclaim_at <= now() + %s * interval '1 second'
ORDER BY k.reclaim_at
LIMIT %s"""  # noqa: S608

# By messages_expiry.
EXPIRED: Final = """
SELECT m.id FROM messages AS m
WHERE m.state IN ('queued', 'scheduled') AND m.expires_at <= now()
  AND NOT EXISTS (SELECT FROM claims AS k WHERE k.message_id = m.id)
ORDER BY m.expires_at
LIMIT %s"""

# By the primary key.
RECIPIENTS: Final = "SELECT id, tenant, channel, recipient FROM contents WHERE id = ANY(%s)"

# By the primary keys.
READ: Final = f"SELECT {TRACKED} FROM messages AS m JOIN contents AS c USING (id) WHERE m.id = ANY(%s)"  # noqa: S608

_WAITING: Final = """
SELECT m.id, m.channel, m.priority, greatest(0, date_part('epoch', m.due_at - now())), m.due_at
FROM messages AS m
WHERE m.state IN ('queued', 'scheduled')
  AND NOT EXISTS (SELECT FROM claims AS k WHERE k.message_id = m.id)"""
# By messages_waiting.
WAITING_FIRST: Final = _WAITING + " AND m.channel = %s AND m.priority = %s ORDER BY m.due_at, m.id LIMIT %s"
WAITING_AFTER: Final = (
    _WAITING
    + " AND m.channel = %s AND m.priority = %s AND (m.due_at, m.id) > (%s, %s) ORDER BY m.due_at, m.id LIMIT %s"
)
# Through all of messages_waiting; asked once for each death.
TOUCHED: Final = _WAITING + " AND m.touched_by = %s LIMIT %s"
# By messages_waiting, `limit` rows at most.
DUE: Final = """
SELECT count(*) FROM (
    SELECT FROM messages AS m
    WHERE m.state IN ('queued', 'scheduled') AND m.channel = %s AND m.priority = %s
      AND m.due_at <= now() - %s * interval '1 second'
      AND NOT EXISTS (SELECT FROM claims AS k WHERE k.message_id = m.id)
    LIMIT %s
) AS found"""

# By attempts_by_time, once for each loss of a count.
SPENT: Final = """
WITH handed AS (
    SELECT message_id, finished_at AS at FROM attempts
    WHERE provider = %(provider)s AND finished_at > now() - %(within_s)s * interval '1 second'
    UNION ALL
    SELECT message_id, now() FROM claims WHERE provider = %(provider)s
)
SELECT floor(greatest(0, date_part('epoch', now() - h.at)) / %(part_s)s)::integer AS age,
       sum(1 + coalesce(json_array_length(c.content -> 'cc'), 0) + coalesce(json_array_length(c.content -> 'bcc'), 0))
FROM handed AS h LEFT JOIN contents AS c ON c.id = h.message_id
GROUP BY age"""

# By the primary keys and contents_by_recipient.
ACCEPTED_ELSEWHERE: Final = """
SELECT c.id FROM contents AS c
WHERE c.id = ANY(%s) AND EXISTS (
    SELECT FROM contents AS o JOIN attempts AS a ON a.message_id = o.id
    WHERE o.recipient = c.recipient AND o.channel = c.channel AND o.id > %s
      AND a.outcome = 'accepted' AND a.provider <> %s AND a.finished_at > now() - %s * interval '1 second'
)"""

ACCEPTED: Final = Answer(outcome=Outcome.ACCEPTED)
_LEARNT: Final = {
    Outcome.ACCEPTED: Settled.ACCEPTED,
    Outcome.REJECTED: Settled.REJECTED,
    Outcome.DEFERRED: Settled.NOT_SENT,
    Outcome.THROTTLED: Settled.NOT_SENT,
    Outcome.MISCONFIGURED: Settled.NOT_SENT,
}
"""What an owner's late answer says of the attempt that was closed as unknown; a late `unknown` says nothing."""

# How claims are opened and ended is worth a moment's wait even to who is cancelled: what is cut off is unknown, and
# unknown costs an attempt without an answer.
SHIELD_S: Final = 3.0
LONG_S: Final = 60.0
OLDER_S: Final = 172_800.0
"""A message that was accepted longer than this before its attempt is not looked for: a recipient may have many."""


class PostgresDelivery:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load(self, ids: Sequence[str]) -> list[Loaded]:
        if not ids:
            return []
        loaded: list[Loaded] = []
        refused: list[str] = []
        for row in await self._pool.rows(LOAD, (array_of(ids),)):
            due_in_s, expires_in_s, is_suppressed = row[TRACKED_WIDTH:]
            if is_suppressed:
                refused.append(row[0])
            else:
                loaded.append(Loaded(tracked_of(row), due_in_s, expires_in_s))
        if refused:
            await self._pool.transact(lambda connection: suppress(connection, refused))
        return loaded

    async def claim(self, requests: Sequence[ClaimRequest], *, supervisor: str) -> list[Claimed]:
        wanted = sorted({request.message_id: request for request in requests}.values(), key=_message_id)
        if not wanted:
            return []
        ids, providers = array_of([r.message_id for r in wanted]), array_of([r.provider for r in wanted])
        holds_s = number_array_of([r.hold_s for r in wanted])

        async def work(connection: Connection) -> list[Claimed]:
            params = (ids, providers, holds_s, supervisor, connection.writer)
            return [Claimed(*row) for row in await connection.rows(CLAIM, params)]

        return await self._pool.once(work, limit_s=SHIELD_S, shield=True)

    async def release(self, claims: Sequence[tuple[str, int]], *, supervisor: str) -> None:
        async def work(connection: Connection) -> None:
            edges = await Edges.lock(connection, (message_id for message_id, _ in claims))
            forbidden = await among(connection, edges.held)
            for message_id, number in claims:
                held = edges.held.get(message_id)
                if held is None or (claim := held.claim) is None:
                    continue
                if (claim.number, claim.supervisor) != (number, supervisor):
                    continue
                if held.landed is not None:
                    edges.sent(held, held.landed, supervisor)
                else:
                    edges.change(held, Event.RETURNED, supervisor)
                    if message_id in forbidden:
                        edges.change(held, Event.SUPPRESSED, **NOTHING_AWAITED)
            await edges.write(connection)

        if claims:
            await self._pool.transact(work, limit_s=SHIELD_S, shield=True)

    # -------------------------------------------------------------------------------------------- finish

    async def finish(self, finishes: Sequence[Finish], *, supervisor: str) -> list[Finished]:
        plain = sorted((f for f in finishes if _is_plain(f)), key=_message_id)
        left = await self._send(plain, supervisor) if plain else set()
        if not left and len(plain) == len(finishes):
            return [Finished(f.message_id, State.SENT, True) for f in finishes]
        # In another commit: each locks its rows in their order, both together would not.
        others = [f for f in finishes if f.message_id in left or not _is_plain(f)]
        results = await self._pool.transact(lambda connection: self._finish(connection, others, supervisor))
        return [results.get(f.message_id) or Finished(f.message_id, State.SENT, True) for f in finishes]

    async def _send(self, plain: Sequence[Finish], supervisor: str) -> set[str]:
        """Those of them that SENT did not take."""
        columns = _columns(plain, supervisor)
        sent_as = SENT_TRACED if any(f.answer is not None and f.answer.traced for f in plain) else SENT

        async def work(connection: Connection) -> set[str]:
            return {row[0] for row in await connection.rows(sent_as, columns | {"writer": connection.writer})}

        return await self._pool.once(work)

    async def _finish(self, connection: Connection, finishes: Sequence[Finish], supervisor: str) -> dict[str, Finished]:
        edges = await Edges.lock(connection, (f.message_id for f in finishes))
        await edges.look_for_unsettled(connection, list(edges.held))
        if blamed := {f.message_id: f for f in finishes if f.answer is not None and f.answer.suppress is not None}:
            await self._enter(connection, blamed, edges)
        returning = [f.message_id for f in finishes if f.move.state is State.QUEUED or f.message_id in blamed]
        forbidden = await among(connection, returning)
        results: dict[str, Finished] = {}
        for finish in finishes:
            held = edges.held.get(finish.message_id)
            if held is None:
                results[finish.message_id] = Finished(message_id=finish.message_id, state=State.FAILED, applied=False)
                continue
            applied = _may_end(held, finish, supervisor)
            if applied:
                _end(edges, held, finish, supervisor)
            elif not finish.overdue_only:
                _late(edges, held, finish)
            if held.id in forbidden and held.waits:
                edges.change(held, Event.SUPPRESSED, **NOTHING_AWAITED)
            queued = applied and held.standing.state is State.QUEUED
            results[held.id] = Finished(
                message_id=held.id,
                state=held.state,
                applied=applied,
                due_in_s=held.hint().due_in_s if queued else None,
            )
        await edges.write(connection)
        return results

    async def _enter(self, connection: Connection, blamed: Mapping[str, Finish], edges: Edges) -> None:
        """The recipients that answers say to suppress. Also those of a claim that was closed by somebody else: what the
        provider says of its recipient is true all the same."""
        entries: list[Entry] = []
        for message_id, tenant, channel, recipient in await connection.rows(RECIPIENTS, (list(blamed),)):
            finish = blamed[message_id]
            if finish.answer is not None and finish.answer.suppress is not None:
                entries.append(
                    Entry(
                        tenant=tenant,
                        channel=Channel(channel),
                        recipient=recipient,
                        reason=finish.answer.suppress,
                        detail=finish.answer.detail,
                        provider=finish.provider,
                        message_id=message_id,
                    )
                )
        await enter(connection, entries, held=edges.held)

    # ------------------------------------------------------------------------------------------- waiting

    async def overdue(self, limit: int, *, within_s: float = 0.0) -> list[Overdue]:
        rows = await self._pool.rows(OVERDUE, (within_s, limit))
        return [Overdue(tracked_of(row), *row[TRACKED_WIDTH:]) for row in rows]

    async def expire(self, limit: int) -> list[Tracked]:
        async def work(connection: Connection) -> list[Tracked]:
            found = await connection.rows(EXPIRED, (limit,))
            if not found:
                return []
            edges = await Edges.lock(connection, (row[0] for row in found), skip_locked=True)
            ended = [h for h in edges.held.values() if h.waits and h.standing.expires_at <= h.now]
            for held in ended:
                edges.change(held, Event.EXPIRED, reason=Reason.EXPIRED, provider=None, **NOTHING_AWAITED)
                edges.file(held, Reason.EXPIRED, cause=Reason.EXPIRED)
            await edges.write(connection)
            return [tracked_of(row) for row in await connection.rows(READ, ([h.id for h in ended],))]

        return await self._pool.transact(work)

    async def wake(self, ids: Sequence[str]) -> None:
        async def work(connection: Connection) -> None:
            edges = await Edges.lock(connection, ids)
            for held in edges.held.values():
                edges.wake(held)
            await edges.write(connection)

        if ids:
            await self._pool.transact(work)

    async def park(self, parks: Sequence[Park]) -> None:
        async def work(connection: Connection) -> None:
            edges = await Edges.lock(connection, (park.message_id for park in parks))
            for park in parks:
                held = edges.held.get(park.message_id)
                if held is not None and held.state is State.QUEUED:
                    edges.put_off(
                        held,
                        due_at=held.later(park.due_in_s),
                        waiting_for=park.waiting_for,
                        waiting_provider=park.waiting_provider,
                    )
            await edges.write(connection)

        if parks:
            await self._pool.transact(work)

    async def give_up(self, ids: Sequence[str], *, reason: Reason, cause: str, auto_retry_in_s: float | None) -> None:
        async def work(connection: Connection) -> None:
            edges = await Edges.lock(connection, ids)
            for held in edges.held.values():
                edges.wake(held)
                if held.state is not State.QUEUED:
                    continue
                edges.change(held, Event.GIVEN_UP, reason=reason, provider=None, **NOTHING_AWAITED)
                edges.file(held, reason, cause=cause, auto_retry_in_s=auto_retry_in_s)
            await edges.write(connection)

        if ids:
            await self._pool.transact(work)

    async def waiting(self, lane: Lane, *, after: tuple[Any, str] | None, limit: int) -> list[WaitingHint]:
        if after is None:
            return _hints(await self._pool.rows(WAITING_FIRST, (lane.channel, lane.priority, limit)))
        return _hints(await self._pool.rows(WAITING_AFTER, (lane.channel, lane.priority, *after, limit)))

    async def touched_by(self, supervisor: str, *, limit: int) -> list[WaitingHint]:
        return _hints(await self._pool.rows(TOUCHED, (supervisor, limit)))

    async def due_count(self, lane: Lane, *, older_than_s: float, limit: int) -> int:
        [[count]] = await self._pool.rows(DUE, (lane.channel, lane.priority, older_than_s, limit))
        return int(count)

    async def spent(self, provider: str, *, part_s: float, parts: int) -> list[int]:
        params = {"provider": provider, "part_s": part_s, "within_s": part_s * parts}

        async def work(connection: Connection) -> list[int]:
            ages = [0] * parts
            for age, recipients in await connection.rows(SPENT, params):
                if age < parts:
                    ages[age] = int(recipients)
            return ages

        return await self._pool.once(work, limit_s=LONG_S)

    async def accepted_elsewhere(self, ids: Sequence[str], provider: str, *, within_s: float) -> set[str]:
        oldest = f"msg_{time_prefix(datetime.now(UTC) - timedelta(seconds=within_s + OLDER_S))}"
        rows = await self._pool.rows(ACCEPTED_ELSEWHERE, (list(ids), oldest, provider, within_s))
        return {row[0] for row in rows}


def _message_id(named: ClaimRequest | Finish) -> str:
    return named.message_id


def _hints(rows: Sequence[tuple[Any, ...]]) -> list[WaitingHint]:
    return [
        WaitingHint(id_, Lane.parse(f"{channel}:{priority}"), due_in_s, (due_at, id_))
        for id_, channel, priority, due_in_s, due_at in rows
    ]


# --------------------------------------------------------------------------------------------- what follows


def _is_plain(finish: Finish) -> bool:
    """Claimed, called, accepted: what SENT writes."""
    answer, going = finish.answer, finish.move
    return (
        answer is not None
        and answer.outcome is Outcome.ACCEPTED
        and answer.suppress is None
        and going.state is State.SENT
        and not (going.throttled or going.reclaims or going.passes or going.tried)
        and finish.settles is None
        and not finish.overdue_only
    )


def _columns(plain: Sequence[Finish], supervisor: str) -> dict[str, object]:
    answers = [f.answer or ACCEPTED for f in plain]
    return {
        "ids": array_of([f.message_id for f in plain]),
        "numbers": number_array_of([f.number for f in plain]),
        "finished_us": number_array_of([round(f.finished_at.timestamp() * 1e6) for f in plain]),
        "codes": nullable_array_of([a.code for a in answers]),
        "details": nullable_array_of([a.detail for a in answers]),
        "provider_message_ids": nullable_array_of([a.provider_message_id for a in answers]),
        "traced": "{" + ",".join(["t" if a.traced else "f" for a in answers]) + "}",
        "counted": number_array_of([f.move.counted for f in plain]),
        "unknowns": number_array_of([f.move.unknowns for f in plain]),
        "supervisor": supervisor,
    }


def _may_end(held: Held, finish: Finish, supervisor: str) -> bool:
    claim = held.claim
    if claim is None or claim.number != finish.number:
        return False
    return claim.over if finish.overdue_only else claim.supervisor == supervisor


def _late(edges: Edges, held: Held, finish: Finish) -> None:
    """The claim was closed before its owner's word came. Where no call was made that is a truth, too."""
    edges.trace(held, finish.number, finish.provider, finish.answer)
    if finish.settles is not None:
        edges.settle(held, *finish.settles)
    learnt = Settled.NOT_SENT if finish.answer is None else _LEARNT.get(finish.answer.outcome)
    if learnt is not None:
        edges.settle(held, finish.number, learnt)


def _end(edges: Edges, held: Held, finish: Finish, supervisor: str) -> None:
    going, provider = finish.move, finish.provider
    if finish.settles is not None:
        edges.settle(held, *finish.settles)
    if finish.answer is not None:
        edges.log(_attempt(finish, finish.answer))
        edges.trace(held, finish.number, finish.provider, finish.answer)
    changes: dict[str, Any] = {
        "attempts": finish.number if finish.answer is not None else held.standing.attempts,
        "counted": going.counted,
        "unknowns": going.unknowns,
        "throttled": going.throttled,
        "reclaims": going.reclaims,
        "passes": going.passes,
        "tried": going.tried,
        "unsettled": going.unsettled,
        "unsettled_provider": going.unsettled_provider,
    }
    match going.state:
        case State.SENT:
            edges.sent(held, provider, supervisor, **changes)
        case _ if held.landed is not None:
            edges.sent(held, held.landed, supervisor, **changes)
        case State.QUEUED:
            edges.change(
                held,
                Event.RETURNED,
                supervisor,
                due_at=held.later(going.due_in_s),
                waiting_for=going.waiting_for,
                waiting_provider=going.waiting_provider,
                provider=None,
                **changes,
            )
        case State.FAILED:
            _bury(edges, held, finish, Event.GIVEN_UP, going.reason or Reason.REJECTED, supervisor, changes)
        case State.EXPIRED:
            edges.change(held, Event.RETURNED, supervisor)
            _bury(edges, held, finish, Event.EXPIRED, going.reason or Reason.EXPIRED, supervisor, changes)
        case _:
            raise ValueError(f"an attempt cannot end in {going.state}")


def _bury(
    edges: Edges, held: Held, finish: Finish, event: Event, reason: Reason, supervisor: str, changes: dict[str, Any]
) -> None:
    going, provider = finish.move, finish.provider
    edges.change(held, event, supervisor, **{**changes, "provider": provider, "reason": reason, **NOTHING_AWAITED})
    edges.file(
        held,
        reason,
        cause=going.cause or reason,
        provider=provider,
        code=going.code,
        detail=going.detail,
        auto_retry_in_s=going.auto_retry_in_s,
    )


def _attempt(finish: Finish, answer: Answer) -> Attempt:
    return Attempt(
        message_id=finish.message_id,
        number=finish.number,
        provider=finish.provider,
        started_at=finish.started_at,
        finished_at=finish.finished_at,
        outcome=answer.outcome,
        code=answer.code,
        detail=answer.detail,
        provider_message_id=answer.provider_message_id,
    )
