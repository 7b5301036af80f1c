"""Does what is asked for take longer when there is more? Lists, reads and a drain over tables of growing size.

    python -m tests.bench.growth [--sizes 100000,1000000] [--drain 10000] [--repeat 15]

For each size a database is filled by SQL, by the schema as it is migrated: a month of messages in all states of rest,
with contents, attempts and dead letters. Then each list is asked for through the API, and a backlog is drained.

A figure is microseconds of PostgreSQL's CPU for one answer, as the kernel counts it, beside the milliseconds that the
client waited: other work on the machine disturbs the second far more than the first. The last column holds the largest
size against the smallest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import psycopg
from psycopg import sql

from heliograph.actors.ledger.migrate import migrate
from heliograph.actors.model.identity import ALPHABET
from tests.bench.__main__ import Bench
from tests.support.services import PostgresServer, RedisServer

DAYS: Final = 28
TENANT: Final = "tenant7"
BEFORE_S: Final = 60.0
"""How long before now the last message was accepted."""
TABLES: Final = ("contents", "messages", "attempts", "dead_letters")

# An id is ten digits of milliseconds and sixteen of chance; hexadecimal digits are among ours.
_TIME: Final = " || ".join(
    f"substr('{ALPHABET}', ((ms >> {shift}) & 31)::integer + 1, 1)" for shift in range(45, -1, -5)
)
MADE: Final = f"""
CREATE TEMPORARY TABLE made AS
SELECT n, 'msg_' || {_TIME} || upper(substr(md5(n::text), 1, 16)) AS id, to_timestamp(ms / 1e3) AS at,
       CASE WHEN n %% 50000 = 7 THEN 'scheduled'
            WHEN n %% 1000 < 600 THEN 'delivered' WHEN n %% 1000 < 980 THEN 'sent'
            WHEN n %% 1000 < 990 THEN 'failed' WHEN n %% 1000 < 993 THEN 'undelivered'
            WHEN n %% 1000 < 995 THEN 'expired' WHEN n %% 1000 < 998 THEN 'cancelled' ELSE 'suppressed' END AS state,
       CASE WHEN n %% 50000 = 7 OR n %% 1000 >= 993 THEN 0
            WHEN n %% 1000 >= 980 AND n %% 1000 < 990 THEN 2 ELSE 1 END AS calls
FROM (
    SELECT n, (extract(epoch FROM now()) * 1000 - %(before_ms)s - (%(count)s - n) * (%(span_ms)s / %(count)s))::bigint
           AS ms
    FROM generate_series(1, %(count)s::bigint) AS n
) AS numbers"""
# A tenth of all recipients' messages are one tenant's in fifty; a third have a tag that ten share, and one in a hundred
# that of a campaign.
FILLED: Final = (
    """
INSERT INTO contents (
    id, channel, tenant, key_id, live, category, recipient, content, created_at, expires_at, parts, tags, metadata
)
SELECT id, CASE WHEN n % 10 < 7 THEN 'sms' ELSE 'email' END, 'tenant' || (n / 7) % 50, 'key_1', true, 'transactional',
       CASE WHEN n % 10 < 7 THEN '+9198' || lpad((n / 10)::text, 8, '0')
            ELSE 'user' || n / 10 || '@shop.example.in' END,
       CASE WHEN n % 10 < 7
            THEN '{"text": "Your order has shipped and will be with you soon.", "sender_id": null, '
                 '"dlt_template_id": null, "dlt_entity_id": null, "dlt_variables": []}'
            ELSE '{"subject": "Your order", "text": "It has shipped and will be with you soon.", "html": null, '
                 '"sender": null, "reply_to": null, "cc": [], "bcc": [], "headers": [], "attachments": []}' END::json,
       at, at + interval '1 day', CASE WHEN n % 10 < 7 THEN 1 END,
       CASE WHEN n % 100 = 0 THEN ARRAY['campaign'] WHEN n % 3 = 0 THEN ARRAY['order' || n / 30] ELSE '{}' END, '{}'
FROM made ORDER BY n""",
    """
INSERT INTO messages (
    id, channel, priority, state, due_at, expires_at, updated_at, attempts, counted, provider, reason, waiting_for,
    touched_by
)
SELECT id, CASE WHEN n % 10 < 7 THEN 'sms' ELSE 'email' END,
       CASE n % 20 WHEN 0 THEN 'urgent' WHEN 1 THEN 'bulk' ELSE 'normal' END, state,
       CASE WHEN state = 'scheduled' THEN now() + interval '20 days' ELSE at END,
       CASE WHEN state = 'scheduled' THEN now() + interval '30 days' ELSE at + interval '1 day' END,
       at + interval '2 s', calls, calls, CASE WHEN calls > 0 THEN 'p' || n % 4 END,
       CASE state WHEN 'failed' THEN 'rejected' WHEN 'undelivered' THEN 'undelivered' WHEN 'expired' THEN 'expired' END,
       CASE WHEN state = 'scheduled' THEN 'send_at' END, 'filled'
FROM made ORDER BY n""",
    """
INSERT INTO attempts (message_id, number, provider, started_at, finished_at, outcome, code, provider_message_id)
SELECT id, k, 'p' || n % 4, at + k * interval '1 s', at + k * interval '1.1 s',
       CASE WHEN state = 'failed' THEN CASE k WHEN 1 THEN 'deferred' ELSE 'rejected' END ELSE 'accepted' END,
       CASE WHEN state = 'failed' THEN '550' END, CASE WHEN state <> 'failed' THEN md5(n::text) END
FROM made CROSS JOIN LATERAL generate_series(1, calls) AS k ORDER BY n""",
    """
INSERT INTO dead_letters (
    id, tenant, state, channel, recipient, reason, code, provider, cause, tags, attempts, redrives, created_at,
    updated_at
)
SELECT c.id, c.tenant, CASE WHEN n % 4 = 0 THEN 'open' ELSE 'discarded' END, c.channel, c.recipient,
       CASE m.state WHEN 'failed' THEN 'rejected' ELSE m.state END, '550', m.provider, 'The address does not exist.',
       c.tags, m.attempts, 0, m.updated_at, m.updated_at
FROM made JOIN messages AS m USING (id) JOIN contents AS c USING (id)
WHERE made.state IN ('failed', 'undelivered', 'expired') ORDER BY n""",
)
COUNTED: Final = """
INSERT INTO tallies (writer, channel, counted, present, entered)
SELECT 'filled', channel, state, count(*), count(*) FROM messages GROUP BY channel, state
UNION ALL SELECT 'filled', channel, 'accepted', 0, count(*) FROM messages GROUP BY channel
UNION ALL SELECT 'filled', '', 'dead_letter/' || reason, count(*), 0 FROM dead_letters WHERE state = 'open'
GROUP BY reason"""
# Receipts are not waited for any more, so that the first look at them is no part of a drain.
LOOKED: Final = "INSERT INTO receipts_awaited (looked_to) VALUES (now())"

INDEXES: Final = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indrelid::regclass::text, c.conname,
       pg_get_constraintdef(c.oid)
FROM pg_index AS i LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid
WHERE i.indrelid::regclass::text = ANY(%s)"""


def fill(url: str, count: int) -> None:
    """As a restore would: rows in the order of their ids, indexes afterwards."""
    migrate(url)
    sizes = {"count": count, "span_ms": DAYS * 86_400_000, "before_ms": BEFORE_S * 1000}
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("maintenance_work_mem = '512MB'", "work_mem = '256MB'", "synchronous_commit = off"):
            connection.execute(sql.SQL("SET " + setting))
        psycopg.ClientCursor(connection).execute(MADE, sizes)
        connection.execute("ANALYZE made")
        with connection.transaction():
            found = connection.execute(INDEXES, (list(TABLES),)).fetchall()
            for name, _, table, constraint, _ in found:
                of = f"ALTER TABLE {table} DROP CONSTRAINT {constraint}" if constraint else f"DROP INDEX {name}"
                connection.execute(sql.SQL(of))
            for statement in FILLED[:3]:
                connection.execute(statement)
            for _, index, table, constraint, rule in found:
                again = f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {rule}" if constraint else index
                connection.execute(sql.SQL(again))
        for statement in (FILLED[3], COUNTED, LOOKED, "VACUUM (ANALYZE)", "CHECKPOINT"):
            connection.execute(statement)


class Asked:
    """One kind of question: its name and how it is put."""

    def __init__(self, name: str, path: str, *, tenant: bool = False, **query: str) -> None:
        self.name = name
        self.path = path + ("?" + "&".join(f"{k}={quote(v)}" for k, v in query.items()) if query else "")
        self.tenant = tenant


def questions(url: str, count: int, client: httpx.Client) -> list[Asked]:
    with psycopg.connect(url) as connection:
        middle = count // 2
        [[in_the_middle, to, tag]] = connection.execute(
            "SELECT id, recipient, tags[1] FROM contents WHERE tags <> '{}' AND tags <> '{campaign}' "
            "AND id >= (SELECT id FROM contents ORDER BY id OFFSET %s LIMIT 1) ORDER BY id LIMIT 1",
            (middle,),
        ).fetchall()
        [[letter]] = connection.execute("SELECT id FROM dead_letters ORDER BY id DESC OFFSET 100 LIMIT 1").fetchall()
    now = datetime.now(UTC)

    def ago(**long: float) -> str:
        return (now - timedelta(**long)).isoformat().replace("+00:00", "Z")

    def cursor(path: str) -> str:
        return str(client.get(path).json()["next_cursor"])

    old = cursor("/v1/messages?until=" + quote(ago(days=DAYS / 2)))
    old_letter = cursor("/v1/dead-letters?until=" + quote(ago(days=DAYS / 2)))
    messages, letters = "/v1/messages", "/v1/dead-letters"
    states = ("scheduled", "queued", "sending", "sent", "delivered", "failed", "undelivered", "cancelled")
    return [
        Asked("all", messages),
        Asked("all, 200 of them", messages, limit="200"),
        Asked("all, of a tenant", messages, tenant=True),
        Asked("cursor", messages, cursor=old),
        Asked("cursor, of a tenant", messages, cursor=old, tenant=True),
        *(Asked(f"state={state}", messages, state=state) for state in states),
        *(Asked(f"state={state}, of a tenant", messages, state=state, tenant=True) for state in ("sent", "failed")),
        Asked("state=failed, cursor", messages, state="failed", cursor=old),
        Asked("channel=email", messages, channel="email"),
        Asked("channel=email, cursor", messages, channel="email", cursor=old),
        Asked("to", messages, to=to),
        Asked("tag that ten have", messages, tag=tag),
        Asked("tag that 1 in 100 has", messages, tag="campaign"),
        Asked("since a minute", messages, since=ago(seconds=BEFORE_S + 60)),
        Asked("until two weeks ago", messages, until=ago(days=DAYS / 2)),
        Asked("a day, in the past", messages, since=ago(days=3), until=ago(days=2)),
        Asked("state, tag and to", messages, state="failed", tag=tag, to=to),
        Asked("state, channel and tag", messages, state="sent", channel="sms", tag="campaign"),
        Asked("by id", f"{messages}/{in_the_middle}"),
        Asked("dead letters", letters),
        Asked("dead letters, cursor", letters, cursor=old_letter),
        Asked("dead letters, of a tenant", letters, tenant=True),
        Asked("dead letters, state=discarded", letters, state="discarded"),
        Asked("dead letters, reason", letters, reason="undelivered"),
        Asked("dead letters, provider", letters, provider="p2"),
        Asked("dead letters, tag", letters, tag="campaign"),
        Asked("dead letters, text", letters, text="does not exist"),
        Asked("dead letters, a day", letters, since=ago(days=3), until=ago(days=2)),
        Asked("dead letter by id", f"{letters}/{letter}"),
        Asked("stats", "/v1/stats"),
    ]


def on_cpu_us(postmaster: int) -> float:
    """What PostgreSQL's processes have run so far, those that serve a connection or did: to the nanosecond."""
    total = 0
    for pid in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
        try:
            if b"heliograph" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b":")[2]:
                total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e3


class Growth:
    def __init__(self, postgres: PostgresServer, redis: RedisServer, options: argparse.Namespace) -> None:
        self._postgres = postgres
        self._redis = redis
        self._options = options

    def measured(self, count: int) -> dict[str, dict[str, float]]:
        """By what was asked: PostgreSQL's CPU in us, and the wait in ms."""
        with self._filled(count) as url, tempfile.TemporaryDirectory(prefix="heliograph-bench-") as folder:
            bench = Bench(Path(folder), url, self._postgres, self._redis)
            keys = [bench.key, bench.make_key("--tenant", TENANT, "--scope", "messages:read,dead_letters:read")]
            found: dict[str, dict[str, float]] = {}
            with bench.running("gateway"):
                found |= self._lists(url, count, bench.port, keys)
            if self._options.drain:
                drained = bench.drain_noop(self._options.drain)
                found["drain"] = {"us": drained["postgres_us_per_msg"], "heliograph": drained["heliograph_us_per_msg"]}
            return found

    @contextmanager
    def _filled(self, count: int) -> Iterator[str]:
        with self._postgres.fresh() as url:
            began_s = time.perf_counter()
            fill(url, count)
            with psycopg.connect(url) as connection:
                [[size]] = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchall()
            print(f"{count:,} messages: {size}, filled in {time.perf_counter() - began_s:.0f} s", flush=True)
            yield url

    def _lists(self, url: str, count: int, port: int, keys: list[str]) -> dict[str, dict[str, float]]:
        clients = [
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": key}, timeout=30) for key in keys
        ]
        found = {}
        for asked in questions(url, count, clients[0]):
            client = clients[asked.tenant]
            used, waits = [], []
            for _ in range(self._options.repeat):
                before, began_s = on_cpu_us(self._postgres.pid), time.perf_counter()
                client.get(asked.path).raise_for_status()
                waits.append(1e3 * (time.perf_counter() - began_s))
                used.append(on_cpu_us(self._postgres.pid) - before)
            found[asked.name] = {"us": statistics.median(used[1:]), "ms": statistics.median(waits[1:])}
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[100_000, 1_000_000])
    parser.add_argument("--drain", type=int, default=10_000, help="messages in the backlog; 0: none is drained")
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for count in options.sizes:
        postgres, redis = PostgresServer(), RedisServer()
        try:
            for name, figures in Growth(postgres, redis, options).measured(count).items():
                rows.setdefault(name, {})[count] = figures
                print(
                    json.dumps({"size": count, "asked": name} | {k: round(v, 2) for k, v in figures.items()}),
                    flush=True,
                )
        finally:
            postgres.remove()
            redis.remove()
    table(rows, options.sizes)


def table(rows: dict[str, dict[int, dict[str, float]]], sizes: list[int]) -> None:
    print("|  | " + " | ".join(f"{n:,}" for n in sizes) + " |  |")
    print("|---" * (len(sizes) + 2) + "|")
    for name, figures in rows.items():
        cells: list[Any] = [_cell(figures[n]) for n in sizes]
        ratio = figures[sizes[-1]]["us"] / max(figures[sizes[0]]["us"], 1)
        print(f"| {name} | " + " | ".join(cells) + f" | {ratio:.2f} |")


def _cell(figures: dict[str, float]) -> str:
    return f"{figures['us']:,.0f}" + (f" ({figures['ms']:.1f} ms)" if "ms" in figures else "")


if __name__ == "__main__":
    main()
