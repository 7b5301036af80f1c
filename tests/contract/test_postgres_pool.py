"""Connections that trio drives: what comes out when the server goes away, is slow, or is told to stop."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import LiteralString

import psycopg
import pytest
import trio

from heliograph.actors.ledger.pool import LONGER, Connection, Pool
from heliograph.actors.model.errors import Conflict, LedgerDown
from tests.support.postgres import ask, until, until_running
from tests.support.services import PostgresServer


@asynccontextmanager
async def pool_of(url: str, size: int = 2) -> AsyncIterator[Pool]:
    pool = Pool(url, size=size, application="test", writer="test/")
    try:
        yield pool
    finally:
        await pool.aclose()


async def backend(pool: Pool) -> int:
    [[pid]] = await pool.rows("SELECT pg_backend_pid()")
    return int(pid)


async def test_a_connection_is_kept_for_the_next_statement(postgres_url: str) -> None:
    async with pool_of(postgres_url) as pool:
        assert await backend(pool) == await backend(pool)


async def test_no_more_than_its_size_are_open(postgres_url: str) -> None:
    async with pool_of(postgres_url, size=2) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(pool.rows, "SELECT pg_sleep(0.01)")
        open_now = ask(postgres_url, "SELECT FROM pg_stat_activity WHERE application_name = 'test'")
        assert len(open_now) == 2


async def test_a_statement_larger_than_any_buffer_is_sent_and_heard(postgres_url: str) -> None:
    text = "नमस्ते " * 1_000_000
    async with pool_of(postgres_url) as pool:
        assert await pool.rows("SELECT %s::text || '!'", (text,)) == [(text + "!",)]


async def test_times_are_utc(postgres_url: str) -> None:
    async with pool_of(postgres_url) as pool:
        [[at]] = await pool.rows("SELECT '2026-11-24T12:00:00+05:30'::timestamptz")
        assert at.isoformat() == "2026-11-24T06:30:00+00:00"


async def test_a_restart_in_the_middle_of_a_statement_is_ledger_down_and_then_over(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with pool_of(postgres_url) as pool, trio.open_nursery() as nursery:
        down = trio.Event()

        async def sleep_long() -> None:
            with pytest.raises(LedgerDown):
                await pool.rows("SELECT pg_sleep(60)")
            down.set()

        nursery.start_soon(sleep_long)
        await until_running(postgres_url, "pg_sleep(60)")
        postgres.restart(signal.SIGINT)
        with trio.fail_after(10):
            await down.wait()
        assert await pool.rows("SELECT 1") == [(1,)]


async def test_a_restart_between_statements_is_not_even_noticed(postgres: PostgresServer, postgres_url: str) -> None:
    async with pool_of(postgres_url, size=1) as pool:
        before = await backend(pool)
        postgres.restart(signal.SIGINT)
        assert await backend(pool) != before


async def test_a_transaction_whose_session_is_ended_is_ledger_down(postgres_url: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.rows("INSERT INTO queue_generation (name, run_id) VALUES ('a', 'b')")
        ask(postgres_url, "SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        await connection.rows("SELECT 1")

    async with pool_of(postgres_url) as pool:
        with pytest.raises(LedgerDown) as raised:
            await pool.transact(work)
        assert raised.value.asked, "whether it took effect is another question"
        assert await pool.rows("SELECT name FROM queue_generation") == []


async def test_a_transaction_that_slept_too_long_is_ledger_down(postgres_url: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.rows("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
        await until(connection.hung_up, "the server ends the session")
        await connection.rows("SELECT 1")

    async with pool_of(postgres_url) as pool:
        with pytest.raises(LedgerDown, match="idle-in-transaction"):
            await pool.transact(work)


@pytest.mark.parametrize("condition", ["disk_full", "read_only_sql_transaction", "cannot_connect_now", "out_of_memory"])
async def test_a_server_that_takes_no_writes_is_ledger_down_and_is_asked_again(
    postgres_url: str, condition: LiteralString
) -> None:
    async with pool_of(postgres_url, size=1) as pool:
        with pytest.raises(LedgerDown, match="it cannot"):
            await pool.rows(f"DO $$ BEGIN RAISE EXCEPTION 'it cannot' USING ERRCODE = '{condition}'; END $$")
        assert await pool.rows("SELECT 1") == [(1,)]


async def test_a_server_that_answers_nothing_is_ledger_down_after_the_limit(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with pool_of(postgres_url) as pool:
        await backend(pool)
        postgres.pause()
        try:
            with pytest.raises(LedgerDown, match=r"no answer within 0\.2 s"):
                await pool.rows("SELECT 1", limit_s=0.2)
        finally:
            postgres.resume()
        assert await pool.rows("SELECT 1") == [(1,)]


async def test_where_nobody_listens_it_is_ledger_down_and_the_password_is_not_told() -> None:
    async with pool_of("postgresql://heliograph:s3cret@127.0.0.1:1/heliograph") as pool:
        with pytest.raises(LedgerDown, match="refused") as raised:
            await pool.rows("SELECT 1")
    assert "s3cret" not in str(raised.value)
    assert not raised.value.asked


async def test_a_cancelled_statement_does_not_poison_the_pool(postgres_url: str) -> None:
    async with pool_of(postgres_url, size=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.rows, "SELECT pg_sleep(60)")
            busy = await until_running(postgres_url, "pg_sleep(60)")
            nursery.cancel_scope.cancel()
        assert await backend(pool) != busy
        assert await pool.rows("SELECT 1") == [(1,)]
        ask(postgres_url, "SELECT pg_terminate_backend(%s)", busy)


async def test_a_cancelled_transaction_leaves_nothing(postgres_url: str) -> None:
    begun = trio.Event()

    async def work(connection: Connection) -> None:
        await connection.rows("INSERT INTO queue_generation (name, run_id) VALUES ('a', 'b')")
        begun.set()
        await trio.sleep_forever()

    async with pool_of(postgres_url, size=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.transact, work)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert await pool.rows("SELECT name FROM queue_generation") == []


async def test_a_shielded_statement_is_finished_though_its_caller_is_cancelled(postgres_url: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.rows("INSERT INTO queue_generation (name, run_id) SELECT 'a', 'b' FROM pg_sleep(0.05)")

    async with pool_of(postgres_url) as pool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.once(work, shield=True)
        assert await pool.rows("SELECT name FROM queue_generation") == [("a",)]


async def test_a_statement_that_the_server_ends_for_its_length_is_ledger_down(postgres_url: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.rows(LONGER, ("0.05s",))
        await connection.rows("SELECT pg_sleep(60)")

    async with pool_of(postgres_url, size=1) as pool:
        before = await backend(pool)
        with pytest.raises(LedgerDown, match="statement timeout"):
            await pool.transact(work)
        assert await backend(pool) == before, "and its connection is as good as before"


async def test_who_waits_too_long_for_a_connection_hears_ledger_down(postgres_url: str) -> None:
    async with pool_of(postgres_url, size=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.rows, "SELECT pg_sleep(60)")
        await until_running(postgres_url, "pg_sleep(60)")
        with pytest.raises(LedgerDown, match="no answer within"):
            await pool.rows("SELECT 1", limit_s=0.05)
        nursery.cancel_scope.cancel()


async def test_an_error_in_what_we_ask_stays_as_it_is(postgres_url: str) -> None:
    async with pool_of(postgres_url, size=1) as pool:
        before = await backend(pool)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await pool.rows("SELECT FROM no_such_table")
        assert await backend(pool) == before


async def test_an_error_of_the_callers_undoes_the_transaction(postgres_url: str) -> None:
    async def work(connection: Connection) -> None:
        await connection.rows("INSERT INTO queue_generation (name, run_id) VALUES ('a', 'b')")
        raise Conflict("someone was first")

    async with pool_of(postgres_url, size=1) as pool:
        before = await backend(pool)
        with pytest.raises(Conflict):
            await pool.transact(work)
        assert await pool.rows("SELECT name FROM queue_generation") == []
        assert await backend(pool) == before


async def test_the_one_who_loses_a_deadlock_is_repeated(postgres_url: str) -> None:
    for provider in ("p1", "p2"):
        ask(postgres_url, "INSERT INTO provider_controls (provider) VALUES (%s)", provider)
    tries = 0
    both_hold = trio.Event()
    holding = 0

    async def in_order(connection: Connection, first: str, second: str) -> None:
        nonlocal tries, holding
        tries += 1
        await connection.rows("SET LOCAL deadlock_timeout = '20ms'")
        touch = "UPDATE provider_controls SET pause_reason = coalesce(pause_reason, '') || '.' WHERE provider = %s"
        await connection.rows(touch, (first,))
        holding += 1
        if holding == 2:
            both_hold.set()
        await both_hold.wait()
        await connection.rows(touch, (second,))

    async with pool_of(postgres_url) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.transact, lambda c: in_order(c, "p1", "p2"))
        nursery.start_soon(pool.transact, lambda c: in_order(c, "p2", "p1"))
    assert tries > 2
    assert ask(postgres_url, "SELECT DISTINCT pause_reason FROM provider_controls") == [("..",)]


async def test_a_lock_that_is_not_given_is_ledger_down(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as holder:
        holder.execute("LOCK TABLE queue_generation")

        async def work(connection: Connection) -> None:
            await connection.rows("SET LOCAL lock_timeout = '50ms'")
            await connection.rows("SELECT name FROM queue_generation")

        async with pool_of(postgres_url) as pool:
            with pytest.raises(LedgerDown, match="lock timeout"):
                await pool.transact(work)


async def test_values_are_found_by_place_or_by_name(postgres_url: str) -> None:
    async with pool_of(postgres_url) as pool:
        assert await pool.rows("SELECT %s || %s LIKE 'a%%'", ("a", "b")) == [(True,)]
        assert await pool.rows("SELECT %(b)s || %(a)s || %(b)s", {"a": "a", "b": "b"}) == [("bab",)]
        rows = await pool.rows("SELECT * FROM unnest(%s::text[], %s::integer[])", (["x", "y"], [1, None]))
        assert rows == [("x", 1), ("y", None)]


async def test_a_statement_is_prepared_once_for_each_types_of_its_values(postgres_url: str) -> None:
    kept = "SELECT statement FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1%%'"
    async with pool_of(postgres_url, size=1) as pool:
        for value in ("a", "b", None, 1):
            assert await pool.rows("SELECT %s", (value,)) == [(value,)]
        assert await pool.rows("SELECT %s AS seldom", ("c",), prepare=False) == [("c",)]
        assert [text for (text,) in await pool.rows(kept)] == ["SELECT $1"] * 2, "one for text, one for a number"


async def test_a_connection_outlives_what_the_server_refuses(postgres_url: str) -> None:
    async with pool_of(postgres_url, size=1) as pool:
        before = await backend(pool)
        for _ in range(2):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await pool.rows("SELECT 1 / %s", (0,))
            with pytest.raises(psycopg.errors.UndefinedColumn):
                await pool.rows("SELECT nothing")
        assert await pool.rows("SELECT 1 / %s", (1,)) == [(1,)]
        assert await backend(pool) == before
