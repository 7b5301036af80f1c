"""How many messages a second the ledger takes in and brings to their end, on a PostgreSQL of its own with fsync on.

.venv/bin/python -m tests.bench.ledger [--messages 60000]
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
import trio

from heliograph.actors.ledger.migrate import migrate
from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Message, Move, State
from heliograph.actors.ports.ledger import Acceptance, ClaimRequest, Finish, Ledger
from tests.support.builders import a_message
from tests.support.services import PostgresServer

SUPERVISOR: Final = "sup_01KAT0000000000000000000000"
ACCEPTED: Final = Answer(outcome=Outcome.ACCEPTED, provider_message_id="0102018c-b7a1-4f0e-9f9a-5d1f")


def messages(n: int) -> list[Message]:
    now = datetime.now(UTC)
    until = now + timedelta(days=1)
    return [
        a_message(
            f"user{i}@shop.example.in" if i % 2 else f"+9198{i:08}",
            id=new_id("msg", now + timedelta(milliseconds=i)),
            created_at=now,
            expires_at=until,
            tags=("order", "in"),
            metadata={"order": i},
        )
        for i in range(n)
    ]


def batches(items: Sequence[Message], size: int) -> Iterator[Sequence[Message]]:
    return (items[i : i + size] for i in range(0, len(items), size))


async def accept(ledger: Ledger, posted: Sequence[Message], *, size: int, writers: int) -> None:
    left = batches(posted, size)

    async def write() -> None:
        for batch in left:
            acceptance = Acceptance(messages=tuple(batch), states=(State.QUEUED,) * len(batch))
            await ledger.intake.accept([acceptance], supervisor=SUPERVISOR)

    async with trio.open_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(write)


async def deliver(ledger: Ledger, posted: Sequence[Message], *, size: int, workers: int) -> None:
    left = batches(posted, size)
    sent = Move(state=State.SENT, counted=1)

    async def work() -> None:
        for batch in left:
            loaded = await ledger.delivery.load([m.id for m in batch])
            requests = [ClaimRequest(x.tracked.message.id, "ses-mumbai", 13.0) for x in loaded]
            won = await ledger.delivery.claim(requests, supervisor=SUPERVISOR)
            finishes = [
                Finish(
                    message_id=c.message_id, number=c.number, provider="ses-mumbai", started_at=c.started_at,
                    finished_at=c.started_at, answer=ACCEPTED, move=sent,
                )
                for c in won
            ]  # fmt: skip
            done = await ledger.delivery.finish(finishes, supervisor=SUPERVISOR)
            assert sum(x.applied for x in done) == len(batch)

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)


def cpu_of_children_s(parent: int) -> float:
    """What the server's processes have used so far; the figure that other work on the machine disturbs least."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


async def run(url: str, n: int, postmaster: int) -> None:
    async with open_ledger(url, supervisor=SUPERVISOR) as ledger:
        for round_ in itertools.count(1):
            posted = messages(n)
            for name, work in (
                ("accept, batches of 500, 2 writers", accept(ledger, posted, size=500, writers=2)),
                ("load, claim, finish, batches of 100, 4 at once", deliver(ledger, posted, size=100, workers=4)),
            ):
                before = time.perf_counter(), time.process_time(), cpu_of_children_s(postmaster)
                await work
                after = time.perf_counter(), time.process_time(), cpu_of_children_s(postmaster)
                took_s, client_s, server_s = (b - a for a, b in zip(before, after, strict=True))
                print(
                    f"{round_}  {name}: {n / took_s:,.0f} messages/s; CPU us a message: "
                    f"client {1e6 * client_s / n:.0f}, server {1e6 * server_s / n:.0f}"
                )
            if round_ == 3:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=60_000)
    options = parser.parse_args()
    server = PostgresServer(durable=True)
    try:
        with server.fresh() as url:
            migrate(url)
            trio.run(run, url, options.messages, server.pid)
            with psycopg.connect(url) as connection:
                sizes = connection.execute(
                    "SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class "
                    "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
                    "ORDER BY pg_total_relation_size(oid) DESC LIMIT 5"
                ).fetchall()
                print(os.cpu_count(), "cores;", sizes)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
