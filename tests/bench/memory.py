"""What a delivery process holds in memory: at rest, under load, and with a backlog in Redis.

    python -m tests.bench.memory [--drain 40000] [--backlog 1000000] [--seconds 20]

Proportional set size, in MiB, of the process and its children: what is shared with other processes counts by share.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg
import redis

from tests.bench.__main__ import Bench
from tests.support.services import PostgresServer, RedisServer, wait_until

REST_S: Final = 3.0

# Bulk messages that wait, as the intake leaves them; the relay makes hints of them. No number has a meaning to the
# sandbox.
BACKLOG: Final = """
WITH made AS (
    SELECT 'msg_01KAT00000' || upper(lpad(to_hex(n), 16, '0')) AS id, n FROM generate_series(1, %(count)s::bigint) AS n
), kept AS (
    INSERT INTO contents (
        id, channel, tenant, key_id, live, category, recipient, content, created_at, expires_at, parts, tags, metadata
    )
    SELECT id, 'sms', 'default', 'key_1', true, 'transactional',
           '+2783' || lpad((n / 9000 %% 1000)::text, 3, '0') || (1000 + n %% 9000),
           '{"text": "Your order has shipped.", "sender_id": null, "dlt_template_id": null, "dlt_entity_id": null, '
           '"dlt_variables": []}'::json, now(), now() + interval '1 day', 1, '{}', '{}'
    FROM made
)
INSERT INTO messages (id, channel, priority, state, due_at, expires_at, updated_at, touched_by)
SELECT id, 'sms', 'bulk', 'queued', now(), now() + interval '1 day', now(), 'filled' FROM made"""


def held_mib(pid: int) -> float:
    total, todo = 0, [pid]
    while todo:
        current = todo.pop()
        todo += map(int, Path(f"/proc/{current}/task/{current}/children").read_text().split())
        rollup = Path(f"/proc/{current}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def watched(pid: int, seconds: float) -> list[float]:
    """Once a second."""
    found = []
    for _ in range(round(seconds)):
        time.sleep(1)
        found.append(held_mib(pid))
    return found


def fill_backlog(database: str, count: int) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        psycopg.ClientCursor(connection).execute(BACKLOG, {"count": count})
        connection.execute("VACUUM ANALYZE messages, contents")


def at_rest(bench: Bench, roles: str) -> float:
    with bench.running(roles) as process:
        time.sleep(REST_S)
        return held_mib(process.pid)


def under_load(bench: Bench, count: int) -> dict[str, float]:
    with bench.running("gateway"):
        bench.load(count=count)
    with bench.running("delivery,dead-letters") as process:
        most = 0.0
        while bench.sent() < count:
            most = max(most, held_mib(process.pid))
            time.sleep(0.1)
        time.sleep(REST_S)
        return {"most": most, "afterwards": held_mib(process.pid)}


def with_backlog(bench: Bench, database: str, store: RedisServer, count: int, seconds: float) -> dict[str, float]:
    fill_backlog(database, count)
    store.flush()  # and the next supervisor fills it from the ledger
    with redis.Redis.from_url(store.url) as client, bench.running("delivery,dead-letters") as process:
        empty = client.info("memory")["used_memory"]

        def filled() -> bool:
            return sum(client.llen(key) for key in client.keys("*:{sms}:l*:bulk")) > 0.9 * count - bench.sent()

        wait_until(filled, "the lists are filled", within_s=300)
        series = watched(process.pid, seconds)
        held = client.info("memory")["used_memory"] - empty
        return {
            "first": series[0], "most": max(series), "last": series[-1], "sent": bench.sent(),
            "redis_bytes_per_hint": held / count,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drain", type=int, default=40_000)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="0: none")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    postgres, store = PostgresServer(), RedisServer()
    try:
        with tempfile.TemporaryDirectory(prefix="heliograph-bench-") as folder, postgres.fresh() as database:
            bench = Bench(Path(folder), database, postgres, store)
            for roles in ("delivery,dead-letters", "gateway", "gateway,delivery,dead-letters"):
                _tell({"at rest": roles, "mib": at_rest(bench, roles)})
            _tell({"under load": options.drain} | under_load(bench, options.drain))
            if options.backlog:
                found = with_backlog(bench, database, store, options.backlog, options.seconds)
                _tell({"backlog": options.backlog} | found)
    finally:
        postgres.remove()
        store.remove()


def _tell(row: Mapping[str, object]) -> None:
    print(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
