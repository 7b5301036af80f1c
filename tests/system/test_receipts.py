"""Receipts over real HTTP: a provider on loopback calls back, before its answer, after it, or instead of it.

It signs as SendGrid does. How often it was called is its own count.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.command import heliograph, process
from tests.support.ports import a_free_port
from tests.support.services import wait_until

CONFIG: Final = """
[gateway]
bind = "127.0.0.1:{port}"
[monitor]
bind = "127.0.0.1:{monitor}"
[postgres]
url = "{postgres}"
[redis]
url = "{redis}"
[delivery]
unknown_wait = "2s"
[[providers]]
name = "holds"
kind = "sendgrid"
channel = "email"
base_url = "{provider}"
rate = 100
sender = "hi@shop.in"
unknown = "hold"
credentials.api_key = "SG.x"
receipts.public_key = "{public_key}"
[[providers]]
name = "retries"
kind = "sendgrid"
channel = "email"
base_url = "{provider}"
rate = 100
sender = "hi@shop.in"
unknown = "retry"
credentials.api_key = "SG.x"
receipts.public_key = "{public_key}"
[[providers]]
name = "sandbox"
kind = "sandbox"
channel = "sms"
"""


SILENT: Final = "lost-{name}-for-ever"
"""Of this one nothing is ever heard."""


class Provider(ThreadingHTTPServer):
    """Takes every mail. The recipient's local part says when its receipts come: `early-…` before the answer, `late-…`
    after it, `lost-…` in place of it; and which: `…-delivered` or `…-bounced`."""

    daemon_threads = True

    def __init__(self, gateway: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gateway = gateway
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.calls: Counter[str] = Counter()
        self.answered: list[int] = []

    @property
    def public_key(self) -> str:
        der = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    def report(self, name: str, to: str, attempt: str, *, forged: bool = False) -> None:
        what = {"event": "delivered"} if to.partition("@")[0].endswith("delivered") else {
            "event": "bounce", "type": "bounce", "reason": "550 no such user", "status": "5.1.1",
        }  # fmt: skip
        event = {"email": to, "timestamp": 1, "hg_attempt": attempt, "sg_event_id": f"{attempt}-{to}", **what}
        body, timestamp = json.dumps([event]).encode() + b"\r\n", "1764000000"
        signature = self.key.sign(timestamp.encode() + body + b"x" * forged, ec.ECDSA(SHA256()))
        answer = httpx.post(
            f"{self.gateway}/v1/receipts/{name}",
            content=body,
            headers={
                "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
                "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
                "Content-Type": "application/json",
            },
        )
        self.answered.append(answer.status_code)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        mail = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        [personal] = mail["personalizations"]
        to, attempt = personal["to"][0]["email"], personal["custom_args"]["hg_attempt"]
        when, name, _ = to.split("-", 2)
        self.server.calls[to] += 1
        if when == "lost":
            self.close_connection = True
            if not to.startswith(SILENT.format(name=name)):
                threading.Timer(0.3, self.server.report, (name, to, attempt)).start()
            return
        if when == "early":
            self.server.report(name, to, attempt)
        self.send_response(202)
        self.send_header("X-Message-Id", f"id-{attempt}")
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.flush()
        if when == "late":
            self.server.report(name, to, attempt, forged=True)
            self.server.report(name, to, attempt)
            self.server.report(name, to, attempt)

    def log_message(self, *_: Any) -> None:
        """The test asserts; nobody reads it."""


@contextmanager
def running(home: Path, postgres: str, redis: str) -> Iterator[tuple[httpx.Client, Provider, str]]:
    gateway, monitor = a_free_port(), a_free_port()
    provider = Provider(f"http://127.0.0.1:{gateway}")
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    config = home / "heliograph.toml"
    url = f"http://127.0.0.1:{provider.server_port}"
    config.write_text(
        CONFIG.format(
            port=gateway, monitor=monitor, postgres=postgres, redis=redis, provider=url, public_key=provider.public_key
        )
    )
    try:
        assert heliograph("migrate", f"--config={config}").returncode == 0
        made = heliograph("keys", "create", "--name=test", "--json", f"--config={config}")
        headers = {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}
        with process("run", f"--config={config}", cwd=home), httpx.Client(base_url=provider.gateway) as client:
            client.headers.update(headers)
            wait_until(lambda: _ready(client), "the gateway is ready")
            yield client, provider, f"http://127.0.0.1:{monitor}/metrics"
    finally:
        provider.shutdown()
        provider.server_close()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def post(client: httpx.Client, to: str, **fields: Any) -> str:
    known = {"channel": "email", "to": to, "subject": "Hello", "text": "Hello"}
    if to.startswith("+"):
        known = {"channel": "sms", "to": to, "text": "Hello"}
    answer = client.post("/v1/messages", json={**known, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("name", ["holds", "retries"])
def test_a_receipt_finds_its_message_whenever_it_comes(
    empty_postgres_url: str, redis_url: str, tmp_path: Path, name: str
) -> None:
    with running(tmp_path, empty_postgres_url, redis_url) as (client, provider, metrics):
        cases = {
            f"{when}-{name}-{what}@mailbox.example": "delivered" if what == "delivered" else "undelivered"
            for when in ("early", "late", "lost")
            for what in ("delivered", "bounced")
        }
        ids = {to: post(client, to, providers=[name]) for to in cases}
        ids |= {to: post(client, to) for to in ("+919876540007", "+919876540008")}
        wanted = cases | {"+919876540007": "delivered", "+919876540008": "undelivered"}

        def states() -> dict[str, str]:
            return {to: client.get(f"/v1/messages/{i}").json()["state"] for to, i in ids.items()}

        wait_until(lambda: states() == wanted, "every message ends as its receipt says")
        witness = f"{SILENT.format(name=name)}@mailbox.example"
        last = post(client, witness, providers=[name])

        def given_up() -> bool:
            return bool(client.get(f"/v1/messages/{last}").json()["state"] == "failed")

        wait_until(given_up, "one without a receipt fails, so that the others' time to be called again is over, too")
        assert states() == wanted
        assert provider.calls == {**dict.fromkeys(cases, 1), witness: 2 if name == "retries" else 1}
        assert Counter(provider.answered) == {200: 8, 401: 2}
        for to, outcome in ((t, "unknown" if t.startswith("lost") else "accepted") for t in cases):
            [attempt] = client.get(f"/v1/messages/{ids[to]}").json()["attempts"]
            assert (attempt["outcome"], attempt["settled"]) == (outcome, "accepted" if outcome == "unknown" else None)
        letters = client.get("/v1/dead-letters?reason=undelivered").json()["data"]
        assert {(x["to"], x["reason"]) for x in letters} == {
            (to, "undelivered") for to, state in wanted.items() if state == "undelivered"
        }
        found = client.get("/v1/suppressions").json()["data"]
        assert {x["to"] for x in found} == {to for to in cases if to.split("@")[0].endswith("bounced")}
        told = httpx.get(metrics).text
        assert f'heliograph_unknown_settled_total{{how="receipt",provider="{name}"}} 2.0' in told
        assert 'heliograph_messages_total{channel="email",state="delivered"} 3.0' in told
