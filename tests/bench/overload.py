"""What is promised when there is too much, or a provider is gone: each as a figure.

    python -m tests.bench.overload [--only fair,urgent,failover,memory] [--seconds 10] [--queued 200000]

Real processes, PostgreSQL and Redis with their data kept safe, on this machine. Each line says how busy the machine was
(the load over the last minute): a figure taken beside other work is an upper bound.

- fair: one key posts an urgent message now and then, alone, and then beside another key that posts all it can, single
  messages first and batches then. What is told is the time to the 202, which follows the commit.
- urgent: a backlog of bulk messages at a provider's rate, and an urgent one now and then. From its acceptance until its
  call ended.
- failover: the first provider refuses connections, or answers 503. From acceptance to the end of the second one's call,
  for the first messages (its breaker is closed) and for those after it opened.
- memory: the resident size of a supervisor with all roles, with nothing and with a million messages queued.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx
import psycopg
import trio

from heliograph.gateway.cli.embedded import free_port
from tests.support.command import COMMAND, environment
from tests.support.services import PostgresServer, RedisServer, wait_until

SCENARIOS: Final = ("fair", "urgent", "failover", "memory")
SANDBOX: Final = """
[[providers]]
name = "{name}"
kind = "sandbox"
channel = "sms"
priority = {priority}
rate = {rate}
burst = {burst}
"""
DEAD: Final = """
[[providers]]
name = "first"
kind = "bulksms"
channel = "sms"
priority = 1
rate = 1000
base_url = "http://127.0.0.1:{port}"
[providers.credentials]
token_id = "id"
token_secret = "secret"
"""
FILL: Final = """
WITH made AS (
    SELECT 'msg_01M86' || upper(lpad(to_hex(n), 21, '0')) AS id, n FROM generate_series(1, %(queued)s) AS n
), posted AS (
    INSERT INTO contents (
        created_at, expires_at, live, id, channel, tenant, key_id, category, recipient, content, tags, parts
    )
    SELECT now(), now() + interval '1 day', true, id, 'sms', 'default', 'key', 'promotional',
           '+91987654' || lpad((n %% 10000 / 10 * 10 + 9)::text, 4, '0'),
           '{"text": "Hello", "dlt_variables": []}', '{}', 1
    FROM made
)
INSERT INTO messages (due_at, expires_at, updated_at, id, channel, priority, state, touched_by)
SELECT now(), now() + interval '1 day', now(), id, 'sms', 'bulk', 'queued', 'bench' FROM made"""
WAITED: Final = """
SELECT date_part('epoch', a.finished_at - c.created_at) FROM contents AS c JOIN messages AS m USING (id)
JOIN LATERAL (SELECT * FROM attempts WHERE message_id = c.id AND outcome = 'accepted' LIMIT 1) AS a ON true
WHERE m.priority = 'urgent' ORDER BY c.id"""


class Deployment:
    def __init__(self, folder: Path, url: str, redis: RedisServer, providers: str) -> None:
        self.url = url
        self.redis = redis
        self.port = free_port(None)
        self._monitor = free_port(None)
        self._config = folder / "bench.toml"
        self._config.write_text(
            f"""
[gateway]
bind = "127.0.0.1:{self.port}"
connections_per_address = 1000
[monitor]
bind = "127.0.0.1:{self._monitor}"
[redis]
url = "{redis.url}"
[postgres]
url = "{url}"
[log]
level = "error"
{providers}"""
        )
        self._call("migrate")

    def key(self, name: str) -> str:
        key: str = json.loads(self._call("keys", "create", "--name", name, "--json"))["key"]
        return key

    def _call(self, *command: str) -> str:
        whole = [*COMMAND, *command, "--config", str(self._config)]
        return subprocess.run(whole, check=True, capture_output=True, text=True, env=environment()).stdout

    @contextmanager
    def running(self) -> Iterator[int]:
        process = subprocess.Popen([*COMMAND, "run", "--config", str(self._config)], env=environment())
        try:
            wait_until(self._ready, "it is ready")
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._monitor}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, query: str) -> list[float]:
        with psycopg.connect(self.url) as connection:
            return [row[0] for row in connection.execute(query)]

    def fill(self, queued: int) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(FILL, {"queued": queued})
            connection.execute("ANALYZE")

    def client(self, key: str) -> httpx.AsyncClient:
        headers = {"X-API-Key": key}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)

    async def post(self, key: str, *, each_s: float, seconds: float) -> list[float]:
        """Urgent messages at a pace that waits for no answer; the time that each answer took."""
        took: list[float] = []
        async with self.client(key) as client, trio.open_nursery() as nursery:

            async def one() -> None:
                began_s = time.perf_counter()
                answer = await client.post("/v1/messages", json=message("urgent"))
                answer.raise_for_status()
                took.append(time.perf_counter() - began_s)

            for _ in range(int(seconds / each_s)):
                nursery.start_soon(one)
                await trio.sleep(each_s)
        return took


def message(priority: str) -> dict[str, str]:
    return {"channel": "sms", "to": "+919876540009", "text": "Hello", "priority": priority}


def told(times_s: Sequence[float]) -> str:
    ordered = sorted(times_s)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    p50_s, most_s = statistics.median(ordered), ordered[-1]
    return f"p50 {1e3 * p50_s:.0f} ms, p99 {1e3 * p99:.0f} ms, max {1e3 * most_s:.0f} ms ({len(ordered)})"


def say(*words: object) -> None:
    print(*words, f"[load {os.getloadavg()[0]:.1f}]", flush=True)


# -------------------------------------------------------------------------------------------------- scenarios


def fair(bench: Deployment, options: argparse.Namespace) -> None:
    quiet, loud = bench.key("quiet"), bench.key("loud")

    @contextmanager
    def flood(batch: int, connections: int) -> Iterator[None]:
        """From a process of its own, so that what is measured is not how busy the measuring one is."""
        arguments = (bench.port, loud, batch, connections)
        process = multiprocessing.get_context("spawn").Process(target=pour, args=arguments, daemon=True)
        process.start()
        try:
            time.sleep(2)
            yield
        finally:
            process.terminate()
            process.join()

    with bench.running():
        trio.run(lambda: bench.post(quiet, each_s=0.05, seconds=2))
        say("fair: alone:", told(trio.run(lambda: bench.post(quiet, each_s=0.05, seconds=options.seconds))))
        for batch, connections in ((1, 10), (500, 10)):
            with flood(batch, connections):
                took = trio.run(lambda: bench.post(quiet, each_s=0.05, seconds=options.seconds))
            say(f"fair: beside {connections} connections of {batch}:", told(took))


def pour(port: int, key: str, batch: int, connections: int) -> None:
    """Without a pause, each connection at once when it is answered."""
    body = json.dumps({"messages": [message("bulk")] * batch} if batch > 1 else message("bulk"))
    path = "/v1/messages/batch" if batch > 1 else "/v1/messages"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    async def post() -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        while True:
            await stream.send_all(request)
            received = bytearray(await stream.receive_some(65_536))
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some(65_536)
            length = int(received.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            left = length - len(received.partition(b"\r\n\r\n")[2])
            while left > 0:
                left -= len(await stream.receive_some(1_000_000))

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(post)

    trio.run(all_of_them)


def urgent(bench: Deployment, options: argparse.Namespace) -> None:
    key = bench.key("quiet")
    bench.fill(options.queued)
    with bench.running():
        wait_until(lambda: bench.ask("SELECT count(*) FROM attempts")[0] > 400, "the backlog is being sent")
        before, began_s = bench.ask("SELECT count(*) FROM attempts")[0], time.perf_counter()
        trio.run(lambda: bench.post(key, each_s=0.2, seconds=options.seconds))
        rate = (bench.ask("SELECT count(*) FROM attempts")[0] - before) / (time.perf_counter() - began_s)
        wait_until(lambda: len(bench.ask(WAITED)) >= int(options.seconds / 0.2), "all urgent ones are sent")
        left = bench.ask("SELECT count(*) FROM messages WHERE state = 'queued'")[0]
        say(f"urgent: {left:,} bulk queued, {rate:.0f} calls/s of 200:", told(bench.ask(WAITED)))


def failover(bench: Deployment, options: argparse.Namespace) -> None:
    key = bench.key("quiet")
    with bench.running():
        trio.run(lambda: bench.post(key, each_s=0.05, seconds=options.seconds))
        wait_until(lambda: len(bench.ask(WAITED)) >= int(options.seconds / 0.05), "all are sent")
        waited = bench.ask(WAITED)
        asked = int(bench.ask("SELECT count(*) FROM attempts WHERE provider = 'first'")[0])
        say(f"failover: the {min(20, asked)} before the breaker opened:", told(waited[:20]))
        say(f"failover: after ({asked} calls to the dead one in all):", told(waited[20:]))


def memory(bench: Deployment, options: argparse.Namespace) -> None:
    def resident(pid: int) -> float:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    key = bench.key("quiet")
    with bench.running() as pid:
        trio.run(lambda: bench.post(key, each_s=0.02, seconds=3))
        say(f"memory: nothing queued: {resident(pid):.0f} MiB")
    bench.fill(options.memory)
    bench.redis.flush()
    with bench.running() as pid:
        filled = "SELECT count(*) FROM queue_generation WHERE filled"
        sizes: list[float] = []
        began_s = time.perf_counter()
        while bench.ask(filled)[0] == 0 or len(sizes) < 5:
            time.sleep(2)
            sizes.append(resident(pid))
            if time.perf_counter() - began_s > 180:
                break
        trio.run(lambda: bench.post(key, each_s=0.02, seconds=options.seconds))
        say(f"memory: {options.memory:,} queued: {max(sizes):.0f} MiB at most while filled, {resident(pid):.0f} then")


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that gives every call this answer; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def deployed(providers: str) -> Iterator[Deployment]:
    postgres, redis = PostgresServer(durable=True), RedisServer(durable=True)
    try:
        with tempfile.TemporaryDirectory(prefix="heliograph-bench-") as folder, postgres.fresh() as url:
            yield Deployment(Path(folder), url, redis, providers)
    finally:
        postgres.remove()
        redis.remove()


def run(scenario: str, options: argparse.Namespace) -> None:
    match scenario:
        case "fair":
            with deployed(SANDBOX.format(name="only", priority=1, rate=1_000_000, burst=1_000_000)) as bench:
                fair(bench, options)
        case "urgent":
            with deployed(SANDBOX.format(name="only", priority=1, rate=200, burst=20)) as bench:
                urgent(bench, options)
        case "failover":
            second = SANDBOX.format(name="second", priority=2, rate=1_000_000, burst=1_000_000)
            for what, context in (("refuses connections", None), ("answers 503", answering(503))):
                with context or _closed_port() as port, deployed(DEAD.format(port=port) + second) as bench:
                    print(f"failover: the first provider {what}")
                    failover(bench, options)
        case _:
            with deployed(SANDBOX.format(name="only", priority=1, rate=10, burst=10)) as bench:
                memory(bench, options)


@contextmanager
def _closed_port() -> Iterator[int]:
    yield free_port(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--queued", type=int, default=200_000)
    parser.add_argument("--memory", type=int, default=1_000_000)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SCENARIOS))
    options = parser.parse_args()
    for scenario in options.only:
        run(scenario, options)


if __name__ == "__main__":
    main()
