"""How the ledger asks PostgreSQL: by an index, in few statements, and never a row at a time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import LiteralString

import psycopg
import pytest
from psycopg.rows import TupleRow

from heliograph.actors.ledger.dead_letters import select_letters
from heliograph.actors.ledger.messages import LIST, PAGE, conditions
from heliograph.actors.ledger.migrate import migrate
from heliograph.actors.ledger.pool import Connection
from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.deadletter import DeadLetterFilter, DeadLetterState
from heliograph.actors.model.identity import attempt_id, new_id
from heliograph.actors.model.message import LANES, Channel, EmailContent, Reason, State
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.ledger import (
    Acceptance,
    ClaimRequest,
    Entry,
    Finish,
    Ledger,
    MessageFilter,
    Reported,
    Suppressed,
    SuppressionFilter,
)
from tests.contract.ledger_suppression_suite import redrive
from tests.contract.ledger_world import ACCEPTED, AGAIN, DAY_S, ME, REJECTED, SENT, LedgerWorld, utc_now
from tests.contract.test_ledger_postgres import set_back
from tests.support.postgres import ask
from tests.support.services import PostgresServer

IDS = [new_id("msg", utc_now() - timedelta(seconds=30_000 - n), n) for n in range(30_000)]
FILL = """
CREATE TEMPORARY TABLE made AS
SELECT id, n, now() - (30000 - n) * interval '1 s' AS at FROM unnest(%s::text[]) WITH ORDINALITY AS i (id, n);
INSERT INTO contents (
    id, channel, tenant, key_id, live, category, recipient, content, created_at, expires_at, tags, metadata
)
SELECT id, 'sms', 'tenant' || n %% 50, 'key_1', true, 'transactional', '+9198' || lpad((n %% 15000)::text, 8, '0'),
       '{"text": "Hello", "sender_id": null, "dlt_template_id": null, "dlt_entity_id": null, "dlt_variables": []}',
       at, now() + interval '1 day', CASE WHEN n %% 3 = 0 THEN ARRAY['tag' || n %% 5000] ELSE '{}' END, '{}'
FROM made;
INSERT INTO messages (id, channel, priority, state, due_at, expires_at, updated_at, touched_by)
SELECT id, 'sms', CASE WHEN n %% 2 = 0 THEN 'normal' ELSE 'bulk' END,
       CASE WHEN n %% 100 = 0 THEN 'queued' WHEN n %% 500 = 1 THEN 'failed' ELSE 'sent' END,
       now() - interval '1 hour', CASE WHEN n %% 3000 = 0 THEN now() - interval '1 s' ELSE now() + interval '1 day' END,
       at, 'sup_' || n %% 20
FROM made;
INSERT INTO attempts (message_id, number, provider, started_at, finished_at, outcome)
SELECT id, 1, 'p1', now(), now(), 'accepted' FROM messages WHERE state <> 'queued';
INSERT INTO dead_letters (
    id, tenant, state, channel, recipient, reason, cause, tags, attempts, redrives, created_at, updated_at
)
SELECT id, tenant, CASE WHEN row_number() OVER () %% 50 = 0 THEN 'open' ELSE 'redriven' END, 'sms', recipient,
       'rejected', 'No such user', tags, 1, 0, created_at, created_at
FROM contents LIMIT 8000;
INSERT INTO suppressions (id, tenant, channel, recipient, folded, reason)
SELECT 'sup_' || substr(id, 5), 'tenant' || n %% 50, 'sms', '+9197' || lpad(n::text, 8, '0'),
       '+9197' || lpad(n::text, 8, '0'), CASE WHEN n %% 100 = 0 THEN 'complaint' ELSE 'bounce' END
FROM made;
ANALYZE"""

LARGE = re.compile(r"Seq Scan on (messages|contents|attempts|dead_letters|suppressions s(_\d+)?)\b")
MESSAGE_FILTERS = [
    MessageFilter(),
    *(MessageFilter(state=state) for state in State),
    MessageFilter(channel=Channel.EMAIL),
    MessageFilter(to="+919800000007"),
    MessageFilter(tag="tag9"),
    MessageFilter(since=utc_now() - timedelta(minutes=1)),
    MessageFilter(until=utc_now() - timedelta(days=30)),
    MessageFilter(state=State.FAILED, tag="tag9", to="+919800000007"),
]
LETTER_FILTERS = [
    DeadLetterFilter(),
    DeadLetterFilter(state=None),
    DeadLetterFilter(state=DeadLetterState.REDRIVEN),
    DeadLetterFilter(state=DeadLetterState.ARCHIVED, text="user"),
    DeadLetterFilter(reason=Reason.REJECTED, provider="p1", since=utc_now()),
]


def str_of(wanted: MessageFilter | DeadLetterFilter | SuppressionFilter) -> str:
    given = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
    return "+".join(
        name if isinstance(value, datetime) else f"{name}={value}" for name, value in given.items() if value
    )


@pytest.fixture(scope="module")
def filled_url(postgres: PostgresServer) -> str:
    with postgres.fresh() as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True) as connection:
            psycopg.ClientCursor(connection).execute(FILL, (IDS,))
        yield url


class Watched:
    """Every statement and its plan, planned as a session that was told nothing would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, explain: bool = True) -> None:
        self.statements: list[str] = []
        self.plans: list[str] = []
        rows = Connection.rows

        async def watched(
            connection: Connection,
            query: LiteralString,
            params: Sequence[object] = (),
            *,
            prepare: bool | None = None,
        ) -> list[TupleRow]:
            self.statements.append(query)
            if explain and query.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "(")):
                await rows(connection, "SET enable_seqscan = on", prepare=False)
                plan = await rows(connection, "EXPLAIN " + query, params, prepare=False)
                self.plans.append("\n".join(line for [line] in plan))
            return await rows(connection, query, params, prepare=prepare)

        monkeypatch.setattr(Connection, "rows", watched)

    @property
    def whole_reads(self) -> list[str]:
        return [plan for plan in self.plans if LARGE.search(plan)]


@pytest.fixture
async def ledger(filled_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Ledger, Watched]]:
    async with open_ledger(filled_url, supervisor=ME) as ledger:
        yield ledger, Watched(monkeypatch)


@pytest.mark.parametrize("wanted", MESSAGE_FILTERS, ids=str_of)
@pytest.mark.parametrize("tenant", [None, "tenant7"])
async def test_a_list_of_messages_reads_an_index(
    ledger: tuple[Ledger, Watched], wanted: MessageFilter, tenant: str | None
) -> None:
    asked, watched = ledger
    for before in (None, IDS[20_000]):
        await asked.messages.list(wanted, tenant=tenant, before=before, limit=50)
    assert len(watched.plans) == 2
    assert watched.whole_reads == []


FAR_DOWN = [
    MessageFilter(),
    MessageFilter(channel=Channel.SMS),
    MessageFilter(until=utc_now() - timedelta(seconds=20_000)),
]


@pytest.mark.parametrize("wanted", FAR_DOWN, ids=str_of)
async def test_a_page_far_down_reads_no_more_than_the_first(filled_url: str, wanted: MessageFilter) -> None:
    """Both tables are read in the order of their ids, and neither from its newest."""
    read: list[int] = []
    async with open_ledger(filled_url, supervisor=ME) as ledger:
        for asked, before in ((replace(wanted, until=None), None), (wanted, IDS[10_000])):
            found = await ledger.messages.list(asked, tenant=None, before=before, limit=50)
            assert len(found) == 50
            where, params = conditions(asked, None, before)
            query = PAGE.replace("{list}", LIST + where)
            [[[plan]]] = ask(filled_url, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, *params, 50)
            read.append(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
    assert read[1] < 1.5 * read[0]


async def test_the_few_dead_letters_of_a_tenant_are_not_looked_for_among_all(filled_url: str) -> None:
    query, params = select_letters(DeadLetterFilter(state=DeadLetterState.REDRIVEN), "tenant7", limit=50)
    [[[plan]]] = ask(filled_url, "EXPLAIN (ANALYZE, FORMAT JSON) " + query, *params)
    assert "dead_letters_by_tenant" in str(plan)
    assert "Rows Removed by Filter" not in str(plan)


@pytest.mark.parametrize("wanted", LETTER_FILTERS, ids=str_of)
async def test_a_list_of_dead_letters_reads_an_index(ledger: tuple[Ledger, Watched], wanted: DeadLetterFilter) -> None:
    asked, watched = ledger
    await asked.dead_letters.list(wanted, tenant=None, before=None, limit=50)
    await asked.dead_letters.list(wanted, tenant="tenant7", before=IDS[106], limit=50)
    assert len(watched.plans) == 3
    assert watched.whole_reads == []


async def test_what_runs_each_second_reads_an_index(ledger: tuple[Ledger, Watched]) -> None:
    asked, watched = ledger
    delivery = asked.delivery
    await delivery.overdue(100)
    await delivery.touched_by("sup_7", limit=100)
    await delivery.due_count(LANES[1], older_than_s=30, limit=100)
    first = await delivery.waiting(LANES[1], after=None, limit=100)
    await delivery.waiting(LANES[1], after=first[-1].cursor, limit=100)
    await asked.messages.get(IDS[7], tenant=None)
    await asked.dead_letters.auto_retry(limit=10, supervisor=ME, expires_after_s=DAY_S)
    await asked.dead_letters.counts()
    await asked.stats.census()
    await delivery.expire(5)
    assert len(watched.plans) > 12
    assert watched.whole_reads == []


async def test_a_quota_and_the_jury_read_an_index(ledger: tuple[Ledger, Watched]) -> None:
    asked, watched = ledger
    assert await asked.delivery.accepted_elsewhere(IDS[:100], "p2", within_s=DAY_S)
    assert await asked.delivery.spent("p1", part_s=0.001, parts=10) == [0] * 10
    assert watched.whole_reads == []


SUPPRESSION_FILTERS = [
    SuppressionFilter(),
    SuppressionFilter(to="+919700000007"),
    SuppressionFilter(channel=Channel.SMS, reason=SuppressionReason.COMPLAINT),
]


@pytest.mark.parametrize("wanted", SUPPRESSION_FILTERS, ids=str_of)
@pytest.mark.parametrize("tenant", [None, "tenant7"])
async def test_a_list_of_suppressions_reads_an_index(
    ledger: tuple[Ledger, Watched], wanted: SuppressionFilter, tenant: str | None
) -> None:
    asked, watched = ledger
    before = f"sup_{IDS[20_000][4:]}"
    for cursor in (None, before):
        await asked.suppressions.list(wanted, tenant=tenant, before=cursor, limit=50)
    assert len(watched.plans) == 2
    assert watched.whole_reads == []


async def test_who_is_suppressed_is_found_by_an_index_wherever_it_is_asked(ledger: tuple[Ledger, Watched]) -> None:
    asked, watched = ledger
    world = LedgerWorld(asked, lambda _: (_ for _ in ()).throw(AssertionError))
    for to in ("+919700000007", "अशोक@उदाहरण.भारत"):
        entry = Entry(
            tenant="tenant8",
            channel=Channel.EMAIL if "@" in to else Channel.SMS,
            recipient=to,
            reason=SuppressionReason.MANUAL,
        )
        entered = await asked.suppressions.enter(entry)
        assert (await asked.suppressions.enter(entry)).suppression == entered.suppression
        refused, fine = world.message(to, tenant="tenant8"), await world.queued(to, tenant="tenant9")
        acceptance = Acceptance(messages=(refused,), states=(State.QUEUED,))
        assert await asked.intake.accept([acceptance], supervisor=ME) == [Suppressed(frozenset({refused.id}))]
        assert len(await asked.delivery.load([fine.id])) == 1
        claimed = await world.claim(fine)
        await world.finish(claimed, replace(REJECTED, suppress=SuppressionReason.INVALID), AGAIN)
        await asked.suppressions.remove(entered.suppression.id, tenant=None)
    assert await redrive(world, refused) == (0, {refused.id: "not_found"})
    assert len(watched.plans) > 25
    assert watched.whole_reads == []


async def test_all_that_is_suppressed_is_never_read_to_accept_many(ledger: tuple[Ledger, Watched]) -> None:
    asked, watched = ledger
    world = LedgerWorld(asked, lambda _: (_ for _ in ()).throw(AssertionError))
    await world.accept(*[world.message("ravi@shop.in") for _ in range(500)], state=State.SUPPRESSED)
    assert len(watched.plans) == 1
    assert watched.whole_reads == []
    assert "hashed SubPlan" not in watched.plans[0]


async def test_receipts_read_an_index(ledger: tuple[Ledger, Watched]) -> None:
    asked, watched = ledger
    taken = await asked.receipts.take(
        [
            *(Reported("p1", Receipt(attempt_id=attempt_id(i, 1), effect=Effect.TAKEN)) for i in IDS[100:110]),
            Reported("p1", Receipt(provider_message_id="pm", recipient="+919800000007", effect=Effect.TAKEN)),
            Reported("p1", Receipt(provider_message_id="pm", effect=Effect.TAKEN)),
        ],
        keep_s=60,
    )
    assert sum(each.message_id is not None for each in taken) >= 9
    await asked.receipts.look_again(limit=10)
    assert await asked.receipts.close(["p2"], after_s=100, limit=500) == (0, True)
    assert await asked.receipts.close(["p2"], after_s=100, limit=500) == (0, True)
    await asked.receipts.forget(after_s=60, limit=10)
    assert len(watched.plans) > 15
    assert watched.whole_reads == []


async def test_retention_reads_an_index(ledger: tuple[Ledger, Watched]) -> None:
    asked, watched = ledger
    await asked.retention.archive(dead_letters_after_s=29_000, messages_after_s=29_000, limit=20)
    await asked.retention.strip_content(after_s=29_000, limit=20)
    await asked.retention.purge(limit=20)
    assert watched.whole_reads == []


async def test_the_hot_way_takes_three_statements_for_a_whole_batch(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_ledger(postgres_url, supervisor=ME) as ledger:
        world = LedgerWorld(ledger, lambda _: (_ for _ in ()).throw(AssertionError))
        messages = [world.message() for _ in range(100)]
        watched = Watched(monkeypatch, explain=False)
        states = (State.QUEUED,) * 100
        await ledger.intake.accept([Acceptance(messages=tuple(messages), states=states)], supervisor=ME)
        assert len(watched.statements) == 1
        loaded = await ledger.delivery.load([m.id for m in messages])
        requests = [ClaimRequest(x.tracked.message.id, "p1", 10) for x in loaded]
        finishes = [
            Finish(
                message_id=c.message_id, number=c.number, provider="p1", started_at=c.started_at,
                finished_at=c.started_at, answer=ACCEPTED, move=SENT,
            )
            for c in await ledger.delivery.claim(requests, supervisor=ME)
        ]  # fmt: skip
        finished = await ledger.delivery.finish(finishes, supervisor=ME)
        assert [f.applied for f in finished] == [True] * 100
        assert len(watched.statements) == 4


async def test_a_message_alone_is_not_planned_for_anew(postgres_url: str) -> None:
    """A plan that depends on the values is made up to five times; then the one for all of them has to be as good."""
    planned = "SELECT statement, custom_plans FROM pg_prepared_statements WHERE custom_plans > 5"
    async with open_ledger(postgres_url, supervisor=ME) as ledger:
        world = LedgerWorld(ledger, lambda _: (_ for _ in ()).throw(AssertionError))
        for _ in range(8):
            message = world.message()
            await ledger.intake.accept([Acceptance(messages=(message,), states=(State.QUEUED,))], supervisor=ME)
            await ledger.delivery.load([message.id])
            [c] = await ledger.delivery.claim([ClaimRequest(message.id, "p1", 10)], supervisor=ME)
            finish = Finish(
                message_id=c.message_id, number=c.number, provider="p1", started_at=c.started_at,
                finished_at=c.started_at, answer=ACCEPTED, move=SENT,
            )  # fmt: skip
            await ledger.delivery.finish([finish], supervisor=ME)
        assert await ledger.delivery._pool.rows(planned) == []  # type: ignore[attr-defined]


async def test_to_drop_a_month_writes_next_to_nothing(postgres_url: str) -> None:
    async with open_ledger(postgres_url, supervisor=ME) as ledger:

        async def advance(seconds: float) -> None:
            set_back(postgres_url, seconds)

        world = LedgerWorld(ledger, advance)
        old = [world.message(made_at=utc_now() - timedelta(days=500)) for _ in range(2000)]
        await world.accept(*old, state=State.SUPPRESSED)
        await world.advance(100 * DAY_S)
        archive = ledger.retention.archive
        before = _written(postgres_url)
        assert await archive(dead_letters_after_s=DAY_S, messages_after_s=DAY_S, limit=5000) == 2000
        archived = _written(postgres_url)
        [name] = await ledger.retention.drop(after_s=365 * DAY_S)
        dropped = _written(postgres_url)
        assert ask(postgres_url, "SELECT to_regclass(%s)", name) == [(None,)]
        assert dropped - archived < (archived - before) / 20
        assert await ledger.stats.drift() == 0


async def test_a_text_with_a_nul_is_refused_in_words_and_harms_no_other(postgres_url: str) -> None:
    async with open_ledger(postgres_url, supervisor=ME) as ledger:
        world = LedgerWorld(ledger, lambda _: (_ for _ in ()).throw(AssertionError))
        nul = world.message("asha@shop.in", content=EmailContent(subject="a\0b", text="x"))
        with pytest.raises(ValueError, match=r"U\+0000"):
            await world.accept(nul)
        harmless = world.message("asha@shop.in", content=EmailContent(subject=r"C:\u0000 \\u0000", text="x"))
        await world.accept(harmless)
        assert (await world.get(harmless)).message.content == harmless.content


def _written(url: str) -> int:
    [[position]] = ask(url, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    return int(position)
