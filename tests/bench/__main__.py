"""`make bench`: Heliograph's own speed, as processes, on a PostgreSQL and a Redis of its own with their data kept safe.

    python -m tests.bench [--seconds 6] [--count 40000] [--only accept-bulk,drain-noop]

With PEERS=<folder of the kit> the same scenarios are run against the peers too, in turns, by the kit's own runner.
A run whose messages are not all accounted for says so and counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
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
import trio

from heliograph.gateway.cli.embedded import free_port
from tests.support.command import COMMAND, environment
from tests.support.services import PostgresServer, RedisServer, wait_until

SCENARIOS: Final = ("accept-bulk", "drain-noop")
BATCH: Final = 500
CONNECTIONS: Final = 4
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, folder: Path, database: str, postgres: PostgresServer, redis: RedisServer) -> None:
        self._folder = folder
        self.stores = {"postgres": postgres.pid, "redis": redis.pid}
        self.port, self.monitor = free_port(None), free_port(None)
        self._config = folder / "bench.toml"
        self._config.write_text(
            f"""
[gateway]
bind = "127.0.0.1:{self.port}"
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
rate = 1000000
burst = 1000000
concurrency = 64
"""
        )
        self._call("migrate")
        self.key = json.loads(self._call("keys", "create", "--name", "bench", "--json"))["key"]

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            [*COMMAND, *command, "--config", str(self._config)], check=True, capture_output=True, text=True,
            env=environment(),
        )  # fmt: skip
        return done.stdout

    @contextmanager
    def running(self, roles: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([*COMMAND, "run", "--config", str(self._config), "--role", roles], env=environment())
        try:
            wait_until(lambda: self._ready(process), f"{roles} is ready")
            yield process
        finally:
            process.terminate()
            process.wait(40)

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"heliograph run ended with {process.returncode}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.monitor}/readyz").status_code == 200
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
        return {name: _cpu_seconds(each) for name, each in {"heliograph": pid, **self.stores}.items()}

    def _spent(self, before: dict[str, float], pid: int, messages: int) -> dict[str, float]:
        after = self._cpu(pid)
        return {f"{name}_us_per_msg": 1e6 * (after[name] - before[name]) / max(1, messages) for name in after}


def _batch(first: int) -> bytes:
    items = [
        {
            "channel": "sms",
            "to": f"+2783{n // 9000 % 1000:03d}{1000 + n % 9000}",
            "text": f"Your order has shipped and will be with you soon. #{n}",
        }
        for n in range(first, first + BATCH)
    ]
    return json.dumps({"messages": items}).encode()


def _cpu_seconds(pid: int) -> float:
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
            bench = Bench(Path(folder), database, postgres, redis)
            if scenario == "accept-bulk":
                return bench.accept_bulk(options.seconds)
            return bench.drain_noop(options.count)
    finally:
        postgres.remove()
        redis.remove()


def with_peers(kit: Path, options: argparse.Namespace) -> int:
    peers = os.environ.get("PEER_NAMES", "node-tuned").split()
    command = [kit / "run", ",".join(options.only), *peers, "heliograph", "--repeat", str(options.repeat)]
    return subprocess.run(command, env=os.environ | {"HELIOGRAPH_HOME": str(Path.cwd())}, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SCENARIOS))
    options = parser.parse_args()
    if kit := os.environ.get("PEERS"):
        return with_peers(Path(kit), options)
    own(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
