"""`make bench`: Heliograph's own speed, as processes, on a PostgreSQL and a Redis of its own with their data kept safe.

    python -m tests.bench [--seconds 6] [--count 40000] [--only accept-single,drain-noop] [--server hypercorn]

With PEERS=<folder of the kit> all scenarios are run against a peer in turns (peers.py), and ratios that have become
worse are reported. Beside these: tests.bench.growth, tests.bench.memory, tests.bench.scale, tests.bench.overload.
A run whose messages are not all accounted for says so and counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import trio

from heliograph.gateway.cli.embedded import free_port
from tests.bench import peers
from tests.support.command import COMMAND, environment
from tests.support.services import PostgresServer, RedisServer, wait_until

SCENARIOS: Final = ("accept-single", "accept-bulk", "drain-noop")
BATCH: Final = 500
CONNECTIONS: Final = 4
SINGLE_CONNECTIONS: Final = 50
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(
        self,
        folder: Path,
        database: str,
        postgres: PostgresServer,
        redis: RedisServer,
        server: str = "fast",
        *,
        rate: int = 1_000_000,
    ) -> None:
        self._folder = folder
        self._database = database
        self.stores = {"postgres": postgres.pid, "redis": redis.pid}
        self.port, self.monitor = free_port(None), free_port(None)
        self._config = folder / "bench.toml"
        self._config.write_text(
            f"""
[gateway]
bind = "127.0.0.1:{self.port}"
http_server = "{server}"
[monitor]
bind = "127.0.0.1:{self.monitor}"
[redis]
url = "{redis.url}"
[postgres]
url = "{database}"
[log]
level = "warning"
[[providers]]
name = "noop"
kind = "sandbox"
channel = "sms"
rate = {rate}
burst = {rate}
concurrency = 64
"""
        )
        self._call("migrate")
        self.key = self.make_key()

    def make_key(self, *options: str) -> str:
        return str(json.loads(self._call("keys", "create", "--name", "bench", *options, "--json"))["key"])

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            [*COMMAND, *command, "--config", str(self._config)], check=True, capture_output=True, text=True,
            env=environment(),
        )  # fmt: skip
        return done.stdout

    @contextmanager
    def running(self, roles: str, *, monitor: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        port = monitor or self.monitor
        process = subprocess.Popen(
            [*COMMAND, "run", "--config", str(self._config), "--role", roles],
            env=environment(HELIOGRAPH_MONITOR__BIND=f"127.0.0.1:{port}"),
        )
        try:
            wait_until(lambda: self._ready(process, port), f"{roles} is ready", within_s=60)
            yield process
        finally:
            process.terminate()
            process.wait(40)

    def _ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"heliograph run ended with {process.returncode}")
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def sent(self) -> int:
        page = httpx.get(f"http://127.0.0.1:{self.monitor}/metrics").text
        lines = (line for line in page.splitlines() if line.startswith("heliograph_messages_total{"))
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'state="sent"' in line))

    def load(self, *, seconds: float | None = None, count: int | None = None) -> tuple[int, float]:
        """Post batches over a few connections in a closed loop; answers how many were accepted, and the time taken."""
        return trio.run(self._load, seconds, count)

    async def _load(self, seconds: float | None, count: int | None) -> tuple[int, float]:
        numbers = iter(range(count // BATCH) if count is not None else range(10**9))
        accepted = 0
        began_s = time.perf_counter()

        async def post(client: httpx.AsyncClient) -> None:
            nonlocal accepted
            for number in numbers:
                if seconds is not None and time.perf_counter() - began_s > seconds:
                    return
                answer = await client.post("/v1/messages/batch", content=_batch(number * BATCH))
                answer.raise_for_status()
                accepted += sum("id" in item for item in answer.json()["data"])

        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)
                nursery.start_soon(post, client)
        return accepted, time.perf_counter() - began_s

    def accept_bulk(self, seconds: float) -> dict[str, float]:
        with self.running("gateway") as process:
            self.load(seconds=1)
            before = self._cpu(process.pid)
            accepted, took_s = self.load(seconds=seconds)
            return {"msgs_per_s": accepted / took_s} | self._spent(before, process.pid, accepted)

    def accept_single(self, seconds: float) -> dict[str, float]:
        with self.running("gateway") as process:
            ids = trio.run(self._posted_singly, 1.0)
            before, began_s = self._cpu(process.pid), time.perf_counter()
            measured = trio.run(self._posted_singly, seconds)
            took_s = time.perf_counter() - began_s
            row = {"msgs_per_s": len(measured) / took_s} | self._spent(before, process.pid, len(measured))
        self._account(ids + measured)
        return row

    async def _posted_singly(self, seconds: float) -> list[str]:
        """The ids that were answered, over connections that each post one message after the other."""
        ids: list[str] = []
        until_s = time.perf_counter() + seconds

        async def post() -> None:
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                while time.perf_counter() < until_s:
                    await stream.send_all(self._single(len(ids)))
                    ids.append(await _accepted_id(stream))

        async with trio.open_nursery() as nursery:
            for _ in range(SINGLE_CONNECTIONS):
                nursery.start_soon(post)
        return ids

    def _single(self, number: int) -> bytes:
        body = json.dumps(_item(number)).encode()
        head = (
            f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nX-API-Key: {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _account(self, ids: list[str]) -> None:
        with psycopg.connect(self._database) as connection:
            stored = {row[0] for row in connection.execute("SELECT id FROM messages")}
        if len(set(ids)) < len(ids) or not stored.issuperset(ids):
            raise RuntimeError(f"{len(ids)} accepted, {len(set(ids))} of them different, {len(stored)} in the store")

    def drain_noop(self, count: int) -> dict[str, float]:
        with self.running("gateway"):
            accepted, _ = self.load(count=count)
        with self.running("delivery,dead-letters") as process:
            while (start := self.sent()) < accepted / 10:
                time.sleep(0.02)
            before, began_s = self._cpu(process.pid), time.perf_counter()
            deadline_s = began_s + 120
            while (done := self.sent()) < accepted and time.perf_counter() < deadline_s:
                time.sleep(0.1)
            if done < accepted:
                raise RuntimeError(f"{accepted - done} of {accepted} messages were not sent in time")
            took_s = time.perf_counter() - began_s
            return {"msgs_per_s": (done - start) / took_s} | self._spent(before, process.pid, done - start)

    def _cpu(self, pid: int) -> dict[str, float]:
        return {name: cpu_seconds(each) for name, each in {"heliograph": pid, **self.stores}.items()}

    def _spent(self, before: dict[str, float], pid: int, messages: int) -> dict[str, float]:
        after = self._cpu(pid)
        return {f"{name}_us_per_msg": 1e6 * (after[name] - before[name]) / max(1, messages) for name in after}


def _item(n: int) -> dict[str, str]:
    return {
        "channel": "sms",
        "to": f"+2783{n // 9000 % 1000:03d}{1000 + n % 9000}",
        "text": f"Your order has shipped and will be with you soon. #{n}",
    }


def _batch(first: int) -> bytes:
    return json.dumps({"messages": [_item(n) for n in range(first, first + BATCH)]}).encode()


async def _accepted_id(stream: trio.SocketStream) -> str:
    """Of the one answer that comes now."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _some(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
    if not head.startswith(b"HTTP/1.1 202") or length is None:
        raise RuntimeError(f"answered {head[:40]!r}")
    while len(body) < int(length[1]):
        body += await _some(stream)
    return str(json.loads(body)["id"])


async def _some(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some(65_536))
    if not data:
        raise RuntimeError("the gateway hung up")
    return data


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all below it, with those it has reaped."""
    total, todo = 0, [pid]
    while todo:
        current = todo.pop()
        try:
            fields = Path(f"/proc/{current}/stat").read_text().rsplit(")", 1)[1].split()
            todo += map(int, Path(f"/proc/{current}/task/{current}/children").read_text().split())
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / CLOCK_TICKS


def own(options: argparse.Namespace) -> None:
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.repeat):
        for scenario in options.only:
            row = _once(scenario, options)
            rows.setdefault(scenario, []).append(row)
            print(json.dumps({"scenario": scenario} | {k: round(v, 1) for k, v in row.items()}), flush=True)
    for scenario, runs in rows.items():
        medians: dict[str, Any] = {k: round(statistics.median(r[k] for r in runs), 1) for k in runs[0]}
        print(f"{scenario}: median of {len(runs)}: {medians}")


def _once(scenario: str, options: argparse.Namespace) -> dict[str, float]:
    postgres, redis = PostgresServer(durable=True), RedisServer(durable=True)
    try:
        with tempfile.TemporaryDirectory(prefix="heliograph-bench-") as folder, postgres.fresh() as database:
            bench = Bench(Path(folder), database, postgres, redis, options.server)
            match scenario:
                case "accept-single":
                    return bench.accept_single(options.seconds)
                case "accept-bulk":
                    return bench.accept_bulk(options.seconds)
                case _:
                    return bench.drain_noop(options.count)
    finally:
        postgres.remove()
        redis.remove()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--server", choices=("fast", "hypercorn"), default="fast")
    parser.add_argument("--record", action="store_true", help="with PEERS: take the ratios found for the recorded ones")
    options = parser.parse_args()
    if kit := os.environ.get("PEERS"):
        return peers.run(
            Path(kit),
            scenarios=options.only or peers.SCENARIOS,
            peer=os.environ.get("PEER", "node-tuned"),
            repeat=options.repeat,
            seconds=options.seconds,
            record=options.record,
        )
    options.only = options.only or SCENARIOS
    own(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
