"""The processes of a run: both stores, the receiving server, and the supervisors, each of which can be hurt."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psycopg
import redis
from psycopg import sql

from heliograph.gateway.cli.embedded import make_secret
from tests.chaos.clock import WallClock
from tests.chaos.judge import Attempt, Limit, Logged
from tests.chaos.lines import Lines
from tests.chaos.plan import PROVIDERS, Kind, Plan
from tests.chaos.sink import Call
from tests.support.command import Process, heliograph
from tests.support.ports import a_free_port
from tests.support.services import PostgresServer, RedisServer, wait_until

ROOT: Final = Path(__file__).parents[2]
READY_WITHIN_S: Final = 180.0
GRACE_S: Final = 15.0
CONFIG: Final = """
[gateway]
bind = "127.0.0.1:1"
[monitor]
bind = "127.0.0.1:0"
[postgres]
url = "{postgres}"
[redis]
url = "{redis}"
[delivery]
max_attempts = 20
backoff_base = "200ms"
backoff_cap = "2s"
unknown_wait = "1s"
drain_grace = "{grace:g}s"
[dead_letters]
auto_retry = []
[[providers]]
name = "first"
kind = "fast2sms"
channel = "sms"
priority = 1
base_url = "http://127.0.0.1:{sink}"
rate = {first_rate}
burst = {first_burst}
timeout = "2s"
unknown = "retry"
credentials.api_key = "key"
options.route = "q"
breaker = {{ open_for = "1s", window = "5s" }}
[[providers]]
name = "second"
kind = "bulksms"
channel = "sms"
priority = 2
base_url = "http://127.0.0.1:{sink}"
rate = {second_rate}
burst = {second_burst}
batch = {batch}
timeout = "2s"
unknown = "ask"
credentials = {{ token_id = "id", token_secret = "secret" }}
breaker = {{ open_for = "1s", window = "5s" }}
"""
LOG: Final = """
SELECT m.id, c.recipient, m.state, m.reason, coalesce(json_agg(json_build_object(
    'number', a.number, 'provider', a.provider, 'outcome', a.outcome, 'code', a.code, 'settled', a.settled,
    'started_s', extract(epoch FROM a.started_at), 'finished_s', extract(epoch FROM a.finished_at),
    'written_s', extract(epoch FROM pg_xact_commit_timestamp(a.xmin))
) ORDER BY a.number) FILTER (WHERE a.number IS NOT NULL), '[]')
FROM messages m JOIN contents c USING (id) LEFT JOIN attempts a ON a.message_id = m.id
GROUP BY m.id, c.recipient, m.state, m.reason
"""
WAITING: Final = "SELECT count(*) FROM messages WHERE state IN ('queued', 'scheduled')"
SESSIONS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND pid <> pg_backend_pid()"
)
DISK: Final = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.disk (is_full boolean);
INSERT INTO chaos.disk VALUES (false);
CREATE FUNCTION chaos.room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT is_full FROM chaos.disk) THEN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
    END IF;
    RETURN NULL;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
        EXECUTE format('CREATE TRIGGER room BEFORE INSERT OR UPDATE ON %I EXECUTE FUNCTION chaos.room()', name);
    END LOOP;
END $$;
"""
"""What a full disk is to a client: reading and deleting go on, whatever needs a page is refused."""


class Ground:
    """What runs can share, one after the other: a PostgreSQL, with an empty system to copy and the key to it."""

    def __init__(self) -> None:
        self.postgres = PostgresServer("track_commit_timestamp=on", durable=True)
        self.postgres.administer(sql.SQL("CREATE DATABASE ground"))
        with tempfile.TemporaryDirectory(prefix="heliograph-chaos-") as home:
            config = Path(home) / "ground.toml"
            config.write_text(f'[postgres]\nurl = "{self.postgres.address("ground")}"\n')
            _command(config, "migrate")
            self.key = str(json.loads(_command(config, "keys", "create", "--name=chaos", "--json"))["key"])
        with psycopg.connect(self.postgres.address("ground")) as connection:
            connection.execute(DISK)

    def database(self) -> AbstractContextManager[str]:
        return self.postgres.fresh("ground")

    def remove(self) -> None:
        self.postgres.remove()


class Sink:
    """The receiving server, as a process."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.chaos.sink"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        self.port = int(self._child.stdout.readline().split()[-1])
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def be(self, provider: str, mode: str, share: float = 1.0) -> None:
        told = {"provider": provider, "mode": mode, "share": share}
        self._http.post("/_mode", json=told).raise_for_status()

    def calls(self) -> list[Call]:
        return [Call(**each) for each in self._http.get("/_calls").raise_for_status().json()]

    def remove(self) -> None:
        self._http.close()
        self._child.terminate()
        self._child.communicate(timeout=10)


class Supervisor:
    """`heliograph run`, over and over. `starts_at_s` (monotonic): when the next one is due; None where one runs."""

    def __init__(self, number: int, environ: dict[str, str], roles: str, home: Path) -> None:
        self.number = number
        self.starts_at_s: float | None = None
        self.told_to_end = False
        self.ended: list[Process] = []
        self._environ = environ
        self._arguments = ("run", f"--config={home / 'chaos.toml'}", f"--role={roles}")
        self._home = home
        self.process = self._start()

    def _start(self) -> Process:
        self.starts_at_s, self.told_to_end = None, False
        return Process(*self._arguments, cwd=self._home, ignore_sigint=False, **self._environ)

    @property
    def runs(self) -> bool:
        return self.starts_at_s is None and self.process.child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.runs:
            self.process.signal(number)

    def look(self) -> str | None:
        """What was wrong with the end of one that has ended; the next one is started when it is due."""
        if self.starts_at_s is None:
            code = self.process.child.poll()
            if code is None:
                return None
            self._forget(code)
            if code == -signal.SIGTERM and not any("supervisor.starting" in line for line in self.process.errors):
                return None  # it was still being loaded
            if self.told_to_end and code != 0:
                return f"supervisor {self.number} was told to drain and ended with {code}: {self.process.errors[-3:]}"
            if not self.told_to_end:
                return f"supervisor {self.number} ended by itself with {code}: {self.process.errors[-3:]}"
        elif time.monotonic() >= self.starts_at_s:
            self.process = self._start()
        return None

    def _forget(self, code: int) -> None:
        self.process.ends()
        self.ended.append(self.process)
        self.starts_at_s = time.monotonic() + (0.0 if code == 0 else 0.1)

    def kill(self, for_s: float) -> None:
        if self.runs:
            self.process.signal(signal.SIGKILL)
            self._forget(self.process.child.wait(30))
            self.starts_at_s = time.monotonic() + for_s

    def terminate(self) -> None:
        if self.runs and not self.told_to_end:
            self.told_to_end = True
            self.process.signal(signal.SIGTERM)

    def said(self) -> Iterator[str]:
        for process in (*self.ended, self.process):
            yield from process.errors

    def remove(self) -> None:
        self.process.remove()


class Cluster:
    """`supervisors` by number from 1."""

    def __init__(self, plan: Plan, home: Path, stack: ExitStack, ground: Ground) -> None:
        self.plan = plan
        self.home = home
        stepped = {fault.target for fault in plan.faults if fault.kind is Kind.CLOCK}
        self.clocks = {target: WallClock(home / f"clock-{target}") for target in stepped}
        self.postgres, self.key = ground.postgres, ground.key
        secret, environ = make_secret(), self._clock_environ(None)
        self.redis, self.standby = (RedisServer(durable=True, secret=secret, environ=environ) for _ in range(2))
        stack.callback(self.redis.remove)
        stack.callback(self.standby.remove)
        self.postgres_url = stack.enter_context(ground.database())
        self.sink = Sink()
        stack.callback(self.sink.remove)
        urls = {"redis": self.redis.url, "postgres": self.postgres_url}
        self.lines = stack.enter_context(Lines(urls, plan.supervisors).served())
        self._write_config(urls)
        ports = [a_free_port() for _ in range(plan.gateways)]
        self.gateways = [f"http://127.0.0.1:{port}" for port in ports]
        self.supervisors: dict[int, Supervisor] = {}
        for number in range(1, plan.supervisors + 1):
            port = ports[number - 1] if number <= plan.gateways else None
            self.supervisors[number] = supervisor = self._supervisor(number, port)
            stack.callback(supervisor.remove)
        wait_until(self.all_ready, "all supervisors are ready", within_s=READY_WITHIN_S)

    def _write_config(self, urls: Mapping[str, str]) -> None:
        self.config = self.home / "chaos.toml"
        limits = {f"{name}_rate": rate for name, rate in self.plan.rates.items()}
        limits |= {f"{name}_burst": burst for name, burst in self.plan.bursts.items()}
        text = CONFIG.format(sink=self.sink.port, batch=self.plan.batch, grace=GRACE_S, **urls, **limits)
        self.config.write_text(text)

    def _supervisor(self, number: int, port: int | None) -> Supervisor:
        environ = self._clock_environ(number) | {
            "HELIOGRAPH_REDIS__URL": self.lines.url(number, "redis"),
            "HELIOGRAPH_POSTGRES__URL": self.lines.url(number, "postgres"),
        }
        if port is None:
            return Supervisor(number, environ, "delivery", self.home)
        environ["HELIOGRAPH_GATEWAY__BIND"] = f"127.0.0.1:{port}"
        return Supervisor(number, environ, "gateway,delivery,dead-letters", self.home)

    def _clock_environ(self, target: int | None) -> dict[str, str]:
        return self.clocks[target].environ if target in self.clocks else {}

    def all_ready(self) -> bool:
        for supervisor in self.supervisors.values():
            if supervisor.starts_at_s is None and not supervisor.runs:
                raise RuntimeError(f"supervisor {supervisor.number} has ended: {supervisor.process.errors[-3:]}")
        joined = self.ask("SELECT count(*) FROM supervisors WHERE ended_at IS NULL")[0][0]
        return joined >= self.plan.supervisors and all(map(_is_ready, self.gateways))

    # ---------------------------------------------------------------------------------------------- questions

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres_url, connect_timeout=10) as connection:
            return connection.execute(statement).fetchall()

    def waiting(self) -> int:
        return int(self.ask(WAITING)[0][0]) + int(self.ask("SELECT count(*) FROM claims")[0][0])

    def log(self) -> list[Logged]:
        return [
            Logged(message_id, recipient, state, reason, [Attempt(**attempt) for attempt in attempts])
            for message_id, recipient, state, reason, attempts in self.ask(LOG)
        ]

    def limits(self) -> dict[str, Limit]:
        return {name: Limit(self.plan.rates[name], self.plan.bursts[name]) for name in PROVIDERS}

    def accounts(self) -> str | None:
        """What `heliograph check --deep` finds wrong with the counts, if anything."""
        done = heliograph("check", "--deep", f"--config={self.config}", "--json")
        found = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "accounting"]
        bad = [each["detail"] for each in found if each["status"] != "ok"]
        return ", ".join(bad) or (None if found else "no line on accounting")

    def in_hand(self) -> list[str]:
        """What is left when all have drained: hints in hands, and claims."""
        ((generation,),) = self.ask("SELECT name FROM queue_generation")
        with redis.Redis.from_url(self.redis.url, decode_responses=True) as client:
            hands = [f"{name} in Redis" for name in client.scan_iter(f"*{generation}*:hand:*")]
        claims = [f"a claim on {row[0]}" for row in self.ask("SELECT message_id FROM claims LIMIT 5")]
        return hands + claims

    def still_waiting(self) -> list[str]:
        """Where the ledger and Redis have what waits."""
        with redis.Redis.from_url(self.redis.url, decode_responses=True) as client:
            lists = {name: client.lrange(name, 0, -1) for name in client.scan_iter(_type="list")}
            later = {name: client.zrange(name, 0, -1) for name in client.scan_iter(_type="zset")}
        rows = self.ask("SELECT row_to_json(m) FROM messages m WHERE state IN ('queued', 'scheduled') LIMIT 5")
        rows += self.ask("SELECT row_to_json(c) FROM claims c LIMIT 5")
        return [
            f"{row} is in {[name for name, ids in (lists | later).items() if any(row['id'] in each for each in ids)]}"
            for (row,) in rows
            if "id" in row
        ]

    # ------------------------------------------------------------------------------------------------- faults

    def end_sessions(self) -> None:
        with psycopg.connect(self.postgres.address("postgres"), connect_timeout=10, autocommit=True) as connection:
            connection.execute(SESSIONS)

    def follow(self) -> None:
        """The standby copies what Redis has, and from then on what is written."""
        self.standby.ask("CONFIG", "SET", "masterauth", urlsplit(self.redis.url).password or "")
        self.standby.ask("REPLICAOF", "127.0.0.1", self.redis.port)

    def follow_no_more(self) -> None:
        self.standby.ask("REPLICAOF", "NO", "ONE")

    def promote(self) -> None:
        """All lines lead to the standby, with what it has. The other one is emptied and stands by."""
        self.follow_no_more()
        self.redis, self.standby = self.standby, self.redis
        self.lines.each("redis", None, lambda line: line.lead_to(self.redis.port))
        self.standby.flush()

    def fill_memory(self, is_full: bool) -> None:
        self.redis.ask("CONFIG", "SET", "maxmemory", 1 if is_full else 0)

    def lock_saves(self, is_locked: bool) -> None:
        """Redis takes no writes once it could not save: a folder lies where its file should go."""
        if not is_locked:
            self.redis.ask("CONFIG", "SET", "save", "")
            self.redis.ask("CONFIG", "SET", "dbfilename", "dump.rdb")
            return
        (self.redis_folder / "blocked").mkdir(exist_ok=True)
        self.redis.ask("CONFIG", "SET", "dbfilename", "blocked")
        self.redis.ask("CONFIG", "SET", "save", "3600 1000000")
        self.redis.ask("BGSAVE")

    def make_replica(self, is_replica: bool) -> None:
        """Of nobody who is there: it answers, and takes no writes."""
        self.redis.ask("REPLICAOF", *(("127.0.0.1", 1) if is_replica else ("NO", "ONE")))

    def fill_disk(self, is_full: bool) -> None:
        with psycopg.connect(self.postgres_url, connect_timeout=10) as connection:
            connection.execute("UPDATE chaos.disk SET is_full = %s", (is_full,))

    def make_read_only(self, is_read_only: bool) -> None:
        """As a PostgreSQL that is not promoted yet."""
        verb = "SET default_transaction_read_only = on" if is_read_only else "RESET default_transaction_read_only"
        for statement in (f"ALTER SYSTEM {verb}", "SELECT pg_reload_conf()"):
            self.postgres.administer(sql.SQL(statement))

    def age_redis_file(self, how: str) -> None:
        """Between its stop and its start. `old`: as if it had been saved when half of it was written."""
        file = next(iter(self.redis_folder.glob("appendonly.aof")), None)
        if file is None or how == "kept":
            return
        if how == "lost":
            file.unlink()
        else:
            os.truncate(file, file.stat().st_size // 2)

    @property
    def redis_folder(self) -> Path:
        return self.redis._folder / "redis"


def _command(config: Path, *arguments: str) -> str:
    done = heliograph(*arguments, f"--config={config}")
    if done.returncode != 0:
        raise RuntimeError(f"heliograph {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def tracebacks(supervisor: Supervisor) -> list[str]:
    """What a process should never have written: a traceback, or whom a message was for and what it said."""
    said = [line for line in supervisor.said() if re.search(r"Traceback|Hello|\+91\d{10}", line)]
    return [f"supervisor {supervisor.number} wrote {line[:300]}" for line in said[:3]]
