"""Looking at a PostgreSQL server from beside the code under test, with blocking connections of our own."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import trio
from psycopg.rows import TupleRow

from tests.support.services import PATIENCE_S


def ask(url: str, query: str, *params: object) -> list[TupleRow]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, params)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description is not None else []


async def until(true: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.01)
        return
    raise TimeoutError(f"not within {PATIENCE_S:.0f} s: {what}")


async def until_running(url: str, words: str) -> int:
    """Until a statement with these words is under way; the process that works on it."""
    found: list[int] = []

    def running() -> bool:
        rows = ask(
            url,
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE %s",
            f"%{words}%",
        )
        found.extend(row[0] for row in rows)
        return bool(rows)

    await until(running, f"{words!r} runs")
    return found[-1]


async def until_waiting_for_a_lock(url: str, n: int = 1) -> None:
    def waiting() -> bool:
        rows = ask(
            url,
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        return len(rows) >= n

    await until(waiting, f"{n} statements wait for a lock")
