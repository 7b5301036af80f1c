"""What bounds a provider, on real processes and real stores: its quota whatever Redis loses, and a verdict on it."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis

from tests.support.command import System
from tests.support.services import wait_until

NUMBERS: Final = [f"+9198765{n:05}" for n in range(60)]
ADDRESSES: Final = [f"asha{n}@example.net" for n in range(60)]
CONFIG: Final = """
[[providers]]
name = "first"
kind = "fast2sms"
channel = "sms"
priority = 1
base_url = "{first}"
rate = 100
credentials.api_key = "key"
[[providers]]
name = "second"
kind = "fast2sms"
channel = "sms"
priority = 2
base_url = "{second}"
rate = 100
credentials.api_key = "key"
[[providers]]
name = "small"
kind = "sandbox"
channel = "email"
priority = 1
rate = 100
quota = "20/day"
[[providers]]
name = "large"
kind = "sandbox"
channel = "email"
priority = 2
rate = 100
quota = "30/day"
"""


class Gateway:
    """A provider that takes everything until it is told to refuse everything. Numbers by what became of them."""

    def __init__(self) -> None:
        self.refuses = False
        self.taken: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                numbers = json.loads(self.rfile.read(int(self.headers["content-length"])))["numbers"].split(",")
                status, answer = gateway.answer(numbers)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not here."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, numbers: list[str]) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            self.refused.update(numbers)
            return 400, {"return": False, "status_code": 411, "message": "Invalid Numbers"}
        self.taken.update(numbers)
        return 200, {"return": True, "request_id": "r", "message": ["SMS sent successfully."]}


class Run:
    def __init__(self, system: System, first: Gateway, second: Gateway) -> None:
        self.first, self.second = first, second
        running = system.running()
        self.redis_url, self.metrics_urls = running.redis_url, running.metrics_urls
        assert running.url is not None
        self.api = httpx.Client(base_url=running.url, headers={"X-API-Key": running.api_key or ""}, timeout=30)

    def get(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def provider(self, name: str) -> Any:
        return next(each for each in self.get("/v1/providers")["data"] if each["name"] == name)

    def post(self, recipients: list[str], **more: Any) -> list[str]:
        content = {"channel": "email", "subject": "s"} if "@" in recipients[0] else {"channel": "sms"}
        messages = [{**content, "to": to, "text": "Hello", **more} for to in recipients]
        answer = self.api.post("/v1/messages/batch", json={"messages": messages})
        assert answer.status_code == 202, answer.text
        return [each["id"] for each in answer.json()["data"]]

    def messages(self, ids: list[str]) -> list[Any]:
        found = {each["id"]: each for each in self.get("/v1/messages?limit=200")["data"]}
        return [found[each] for each in ids]

    def sent(self, ids: list[str]) -> Counter[str]:
        return Counter(each["provider"] for each in self.messages(ids) if each["state"] == "sent")


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="heliograph-limits-") as folder, ExitStack() as stack:
        home = Path(folder)
        home.chmod(0o711)
        first, second = Gateway(), Gateway()
        for gateway in (first, second):
            stack.callback(gateway.server.server_close)
            stack.callback(gateway.server.shutdown)
        (home / "limits.toml").write_text(CONFIG.format(first=first.url, second=second.url))
        system = System(home)
        stack.callback(system.remove)
        done = system.command("up", "--port", "0", "--supervisors", "2", "--config", "limits.toml", "--detach")
        assert done.returncode == 0, done.stderr
        made = Run(system, first, second)
        with made.api:
            yield made


def test_a_quota_holds_over_supervisors_and_over_the_loss_of_redis(run: Run) -> None:
    ids = run.post(ADDRESSES)
    wait_until(lambda: sum(run.sent(ids).values()) == 48, "95 of 100 of both quotas are used")
    urgent = run.post(ADDRESSES[:4], priority="urgent")
    wait_until(lambda: sum(run.sent(urgent).values()) == 2, "and the rest is for urgent messages")
    wait_until(lambda: run.provider("large")["quota"] == {"limit": 30, "remaining": 0}, "that is told")
    with redis.Redis.from_url(run.redis_url) as client:
        client.flushall()
        wait_until(lambda: len(client.keys("heliograph:quota:*")) == 2, "both are counted anew")
    more = run.post(ADDRESSES[:10], priority="urgent")
    waiting = [each for each in run.messages([*ids, *urgent, *more]) if each["state"] == "queued"]
    wait_until(
        lambda: (
            {(each["waiting"] or {}).get("for") for each in run.messages([each["id"] for each in waiting])} == {"quota"}
        ),
        "what is left says that it waits for a quota",
    )
    assert run.sent([*ids, *urgent, *more]) == {"small": 20, "large": 30}
    shown = "\n".join(httpx.get(url, timeout=10).text for url in run.metrics_urls)
    assert 'heliograph_provider_quota_remaining{provider="small"} 0.0' in shown


def test_a_provider_that_refuses_whom_another_one_knows_is_paused_and_nobody_is_lost(run: Run) -> None:
    known = run.post(NUMBERS, providers=["second"])
    wait_until(lambda: run.sent(known) == {"second": 60}, "the second one knows all of them")
    run.first.refuses = True
    ids = run.post(NUMBERS)
    wait_until(lambda: run.sent(ids) == {"second": 60}, "all of them arrive by the second one")
    assert run.provider("first")["paused"]["reason"] == "rejections"
    assert 20 <= run.first.refused.total() <= 60
    assert set(run.second.taken.values()) == {2}
    resumed = run.api.post("/v1/providers/first/resume")
    assert resumed.json()["paused"] is None
