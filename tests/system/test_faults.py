"""Two supervisors as processes under load, and what goes wrong around them. The provider that receives is the judge:
it shares no code with the product, knows no deduplication, and counts how often each recipient's message was taken."""

from __future__ import annotations

import itertools
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
import redis

from tests.main_job.servers import EMULATORS, Server, emulator
from tests.support.command import Process, heliograph, process
from tests.support.ports import a_free_port
from tests.support.services import PostgresServer, RedisServer, wait_until

PATIENCE_S: Final = 90.0
DELAY_S: Final = 0.05
BATCH: Final = 750
CONFIG: Final = """
[gateway]
bind = "127.0.0.1:{port}"
[monitor]
bind = "127.0.0.1:0"
[postgres]
url = "{postgres}"
[redis]
url = "{redis}"
[[providers]]
name = "far"
kind = "fast2sms"
channel = "sms"
base_url = "{provider}"
rate = 400
timeout = "5s"
credentials.api_key = "fast2sms-test-key"
options.route = "q"
"""
# What the log of attempts says of each message.
STORY: Final = """
SELECT c.recipient, m.state, array_remove(array_agg(a.outcome ORDER BY a.number), NULL)
FROM contents c JOIN messages m USING (id) LEFT JOIN attempts a ON a.message_id = m.id GROUP BY c.recipient, m.state
"""


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[PostgresServer, RedisServer]]:
    """Servers that may be stopped: nobody else uses them. What PostgreSQL committed outlives an immediate stop."""
    postgres, redis_server = PostgresServer(durable=True), RedisServer()
    yield postgres, redis_server
    redis_server.remove()
    postgres.remove()


class Cluster:
    """`whole` has every role, `helper` delivers only. `accepted`: the recipients whose messages were answered 202."""

    def __init__(
        self, provider: Server, url: str, key: str, postgres_url: str, whole: Process, helper: Process
    ) -> None:
        self.provider = provider
        self.whole = whole
        self.helper = helper
        self.accepted: list[str] = []
        self._postgres_url = postgres_url
        self._numbers = itertools.count(9_000_000_000)
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def post(self, count: int = BATCH) -> httpx.Response:
        people = [f"+91{next(self._numbers)}" for _ in range(count)]
        messages = [{"channel": "sms", "to": to, "text": f"Hello {to}"} for to in people]
        answer = self._http.post("/v1/messages/batch", json={"messages": messages})
        if answer.status_code == 202:
            assert all("id" in item for item in answer.json()["data"])
            self.accepted += people
        return answer

    def taken(self) -> Counter[str]:
        return self.provider.taken()

    def takes(self, more: int) -> None:
        """Wait until the provider has taken so many more than now."""
        so_far = self.taken().total()
        wait_until(
            lambda: self.taken().total() >= so_far + more, f"{more} more messages are taken", within_s=PATIENCE_S
        )

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._postgres_url) as connection:
            return connection.execute(statement).fetchall()

    def settles(self) -> dict[str, list[str]]:
        """Wait for the end; the outcomes of each recipient's attempts. All that was accepted is `sent` and was taken,
        each call is in the log, and only what ended without an answer was followed by another."""
        wait_until(
            lambda: not self.ask("SELECT 1 FROM messages WHERE state IN ('queued', 'scheduled') LIMIT 1"),
            "nothing waits any more",
            within_s=PATIENCE_S,
        )
        taken = self.taken()
        attempts: dict[str, list[str]] = {}
        for recipient, state, outcomes in self.ask(STORY):
            assert isinstance(recipient, str)
            assert isinstance(outcomes, list)
            assert (state, outcomes[-1]) in (("sent", "accepted"), ("sent", "unknown")), recipient
            assert set(outcomes[:-1]) <= {"unknown"}, recipient
            assert 1 <= taken[recipient] <= len(outcomes), recipient
            attempts[recipient] = outcomes
        assert set(self.accepted) <= set(attempts)
        assert set(taken) == set(attempts)
        assert self.ask("SELECT * FROM claims") == []
        wait_until(lambda: self._sent() == len(attempts), "the API counts them, too")
        return attempts

    def _sent(self) -> int:
        return int(self._http.get("/v1/stats").json()["messages"]["sms"]["sent"])

    def ends(self) -> None:
        for each in (self.helper, self.whole):
            if each.child.poll() is None:
                each.signal(signal.SIGTERM)
                assert each.ends() == 0, each.errors
        for each in (self.helper, self.whole):
            said = "\n".join(each.errors)
            assert "Traceback" not in said
            assert "Hello" not in said
            assert "+91" not in said
        self._http.close()


@pytest.fixture
def cluster(stores: tuple[PostgresServer, RedisServer], tmp_path: Path) -> Iterator[Cluster]:
    postgres, redis_server = stores
    redis_server.flush()
    with ExitStack() as stack:
        postgres_url = stack.enter_context(postgres.fresh())
        address = stack.enter_context(emulator(EMULATORS, "fast2sms")).split()[-1]
        provider = Server("far", "sms", (), address)
        httpx.post(f"{address}/_control", json={"mode": "slow", "delay_s": DELAY_S}).raise_for_status()
        port = a_free_port()
        config = tmp_path / "heliograph.toml"
        config.write_text(CONFIG.format(port=port, postgres=postgres_url, redis=redis_server.url, provider=address))
        assert heliograph("migrate", f"--config={config}").returncode == 0
        made = heliograph("keys", "create", "--name=test", f"--config={config}", "--json")
        key = httpx.Response(200, text=made.stdout).json()["key"]
        run = ("run", f"--config={config}")
        whole = stack.enter_context(process(*run, cwd=tmp_path))
        helper = stack.enter_context(process(*run, "--role=delivery", cwd=tmp_path))
        url = f"http://127.0.0.1:{port}"
        made_cluster = Cluster(provider, url, key, postgres_url, whole, helper)
        wait_until(lambda: _is_ready(url), "the gateway is ready", within_s=PATIENCE_S)
        wait_until(
            lambda: len(made_cluster.ask("SELECT 1 FROM supervisors")) == 2, "both have joined", within_s=PATIENCE_S
        )
        yield made_cluster
        made_cluster.ends()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


HELPERS: Final = "SELECT id FROM supervisors WHERE roles = '{delivery}'"
HELPERS_CLAIMS: Final = f"SELECT 1 FROM claims WHERE supervisor IN ({HELPERS})"


def test_a_supervisor_that_is_killed_under_load_loses_nothing_and_doubles_only_what_it_left_unanswered(
    cluster: Cluster,
) -> None:
    cluster.post()
    cluster.post()
    cluster.takes(200)
    wait_until(lambda: bool(cluster.ask(HELPERS_CLAIMS)), "it holds some")
    cluster.helper.signal(signal.SIGKILL)
    cluster.helper.ends()
    left = len(cluster.ask(HELPERS_CLAIMS))
    attempts = cluster.settles()
    assert sum(len(outcomes) - 1 for outcomes in attempts.values()) <= left


def test_redis_may_forget_everything_under_load_and_each_message_is_taken_once(
    cluster: Cluster, stores: tuple[PostgresServer, RedisServer]
) -> None:
    _, redis_server = stores
    cluster.post()
    for _ in range(2):
        cluster.takes(200)
        redis_server.flush()
    cluster.post()
    attempts = cluster.settles()
    assert len(attempts) == len(cluster.accepted) == 2 * BATCH
    assert set(cluster.taken().values()) == {1}
    assert {tuple(outcomes) for outcomes in attempts.values()} == {("accepted",)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_postgres_may_restart_under_load_and_intake_says_503_and_never_a_false_202(
    cluster: Cluster, stores: tuple[PostgresServer, RedisServer], how: signal.Signals
) -> None:
    postgres, _ = stores
    refused: list[httpx.Response] = []
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.1):
            answer = cluster.post(40)
            if answer.status_code != 202:
                refused.append(answer)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        cluster.takes(200)
        postgres.stop(how)
        wait_until(lambda: bool(refused), "intake refuses")
    finally:
        postgres.start()
        cluster.takes(200)
        enough.set()
        feeder.join(PATIENCE_S)
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    cluster.settles()


def test_a_drain_under_load_cuts_nothing_off_and_leaves_nothing_in_hand(
    cluster: Cluster, stores: tuple[PostgresServer, RedisServer]
) -> None:
    _, redis_server = stores
    cluster.post()
    cluster.post()
    cluster.takes(200)
    wait_until(lambda: bool(cluster.ask(HELPERS_CLAIMS)), "it holds some")
    cluster.helper.signal(signal.SIGTERM)
    assert cluster.helper.ends() == 0, cluster.helper.errors
    assert cluster.ask(HELPERS_CLAIMS) == []
    ((helper, ended),) = cluster.ask("SELECT id, ended_at FROM supervisors WHERE roles = '{delivery}'")
    assert ended is not None
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        assert list(client.scan_iter(f"*:hand:{helper}")) == []
    attempts = cluster.settles()
    assert set(cluster.taken().values()) == {1}
    assert {tuple(outcomes) for outcomes in attempts.values()} == {("accepted",)}
