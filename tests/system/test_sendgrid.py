"""SendGrid's whole way through a running system: shared calls, then its signed events, over real sockets."""

from __future__ import annotations

import base64
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from heliograph.actors.model.identity import attempt_id
from tests.main_job.servers import EMULATORS, emulator
from tests.support.command import System
from tests.support.services import wait_until

MESSAGES: Final = 60
CONFIG: Final = """
[[providers]]
name = "sendgrid"
kind = "sendgrid"
channel = "email"
base_url = "{url}"
rate = 500
burst = 500
batch = 1000
sender = "Shop <orders@shop.in>"
credentials.api_key = "SG.test-key"
receipts.public_key = "{public_key}"
"""


@dataclass
class Stage:
    api: httpx.Client
    emulator: str
    key: ec.EllipticCurvePrivateKey

    def seen(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.emulator}/_seen").raise_for_status().json()
        return answer

    def message(self, message_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(f"/v1/messages/{message_id}").raise_for_status().json()
        return answer

    def states(self) -> dict[str, int]:
        return {s: n for s, n in self.api.get("/v1/stats").json()["messages"]["email"].items() if n}

    def tell(self, *events: dict[str, Any]) -> httpx.Response:
        """As SendGrid does; it brings no API key."""
        body, timestamp = json.dumps(events).encode() + b"\r\n", str(int(time.time()))
        signature = self.key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "content-type": "application/json",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        }
        return httpx.post(self.api.base_url.join("/v1/receipts/sendgrid"), content=body, headers=headers)


@pytest.fixture
def stage() -> Iterator[Stage]:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with (
        tempfile.TemporaryDirectory(prefix="heliograph-sendgrid-") as home,
        emulator(EMULATORS, "sendgrid", "--reject", "bad@example.net") as said,
    ):
        Path(home).chmod(0o711)
        [url] = re.findall(r"http://\S+", said)
        config = Path(home) / "sendgrid.toml"
        config.write_text(CONFIG.format(url=url, public_key=base64.b64encode(public).decode()))
        system = System(Path(home))
        try:
            done = system.command("up", "--port=0", f"--config={config}", "--detach", "--json")
            assert done.returncode == 0, done.stderr
            running = json.loads(done.stdout)
            with httpx.Client(
                base_url=running["url"], headers={"Authorization": f"Bearer {running['api_key']}"}, timeout=30
            ) as api:
                yield Stage(api, url, key)
        finally:
            system.remove()


def posted(stage: Stage, *people: str, **fields: Any) -> list[str]:
    """The ids of messages to them, all of one content."""
    messages = [
        {"channel": "email", "to": to, "subject": f"Hello, {to}", "text": "The shop opens.", **fields} for to in people
    ]
    answer = stage.api.post("/v1/messages/batch", json={"messages": messages}).raise_for_status().json()
    return [message["id"] for message in answer["data"]]


def test_mails_of_one_content_share_calls_and_their_signed_events_find_them(stage: Stage) -> None:
    people = [f"a{n}@example.net" for n in range(MESSAGES)]
    ids = dict(zip([*people, "bad@example.net"], posted(stage, *people, "bad@example.net"), strict=True))
    copied = posted(stage, "copied@example.net", cc=["copy@example.net"])[0]
    wait_until(lambda: stage.states() == {"sent": MESSAGES + 1, "failed": 1}, "all are sent but one", within_s=60)
    seen = stage.seen()
    assert seen["recipients"] == dict.fromkeys([*people, "copied@example.net"], 1)
    assert seen["calls"] < MESSAGES
    assert stage.message(ids["bad@example.net"])["attempts"][-1]["outcome"] == "rejected"

    def event(kind: str, to: str, message_id: str, **fields: Any) -> dict[str, Any]:
        last = stage.message(message_id)["attempts"][-1]["number"]
        named = {"email": to, "event": kind, "timestamp": int(time.time()), "hg_attempt": attempt_id(message_id, last)}
        return {**named, "sg_event_id": f"{kind}-{to}", **fields}

    nameless = event("delivered", people[3], ids[people[3]])
    del nameless["hg_attempt"]
    taken_as = stage.message(ids[people[3]])["attempts"][-1]["provider_message_id"]
    answer = stage.tell(
        event("processed", people[0], ids[people[0]]),
        event("delivered", people[0], ids[people[0]]),
        event("bounce", people[1], ids[people[1]], type="bounce", status="5.1.1", reason="550 5.1.1 user unknown"),
        event("spamreport", people[2], ids[people[2]]),
        {**nameless, "sg_message_id": f"{taken_as}.recvd-5f54b5d587-czsgf-1-63A1B3CE-A.0"},
        event("bounce", "copy@example.net", copied, type="bounce"),
        {"event": "account_status_change", "type": "compliance_suspend"},
    )
    assert (answer.status_code, answer.json()) == (200, {"receipts": 6, "ignored": 1})
    stage.tell(
        event("bounce", people[0], ids[people[0]], type="blocked"), event("processed", people[0], ids[people[0]])
    )
    found = [stage.message(ids[to])["state"] for to in people[:4]]
    assert found == ["undelivered", "undelivered", "sent", "delivered"]
    assert stage.message(copied)["state"] == "sent"
    suppressed = stage.api.get("/v1/suppressions").raise_for_status().json()["data"]
    assert {(each["to"], each["reason"]) for each in suppressed} == {
        (people[1], "bounce"),
        (people[2], "complaint"),
        ("copy@example.net", "bounce"),
    }
    again = posted(stage, people[1])[0]
    assert stage.message(again)["state"] == "suppressed"
    assert stage.seen()["recipients"][people[1]] == 1
