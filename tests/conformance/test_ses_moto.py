"""SES against moto, which nobody here wrote: what it takes, what it keeps, and three of its refusals."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Attachment
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, an_email

SCOPE = "AWS4-HMAC-SHA256 Credential=a/20261124/ap-south-1/ses/aws4_request, SignedHeaders=a, Signature=b"
"""moto reads region and account from it, and checks nothing."""


def call_moto(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": SCOPE}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A moto server in a process of its own that knows the sender `shop.in`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                call_moto(f"{url}/moto-api/data.json")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, "moto ended by itself"
                assert time.monotonic() < deadline, "moto did not start within a minute"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def courier(moto: str) -> AsyncIterator[Courier]:
    call_moto(f"{moto}/moto-api/reset", {})
    call_moto(f"{moto}/v2/email/identities", {"EmailIdentity": "shop.in"})
    opened = build(http_settings("ses", moto))
    yield opened
    await opened.aclose()


def kept(moto: str, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call_moto(f"{moto}/moto-api/data.json").get("ses", {}).get(kind, [])
    return found


async def test_a_simple_mail_arrives(moto: str, courier: Courier) -> None:
    (answer,) = await courier.send([a_call(an_email(subject="Grüße", text="नमस्ते"))], lambda: None)
    assert answer.outcome is Outcome.ACCEPTED
    (mail,) = kept(moto, "Message")
    assert mail["id"] == answer.provider_message_id
    assert (mail["subject"], mail["body"]) == ("Grüße", "नमस्ते")


async def test_a_raw_mail_arrives(moto: str, courier: Courier) -> None:
    attachment = Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8=")
    (answer,) = await courier.send([a_call(an_email(attachments=(attachment,)))], lambda: None)
    assert answer.outcome is Outcome.ACCEPTED
    (mail,) = kept(moto, "RawMessage")
    assert "a.txt" in mail["raw_data"]


async def test_an_unknown_sender_is_refused(moto: str, courier: Courier) -> None:
    (answer,) = await courier.send([a_call(an_email(sender="me@elsewhere.example"))], lambda: None)
    assert (answer.outcome, answer.code) == (Outcome.REJECTED, "MessageRejected")
    assert kept(moto, "Message") == []


async def test_too_many_recipients_are_refused(courier: Courier) -> None:
    crowd = tuple(f"a{n}@example.net" for n in range(60))
    (answer,) = await courier.send([a_call(an_email(cc=crowd))], lambda: None)
    assert (answer.outcome, answer.detail) == (Outcome.REJECTED, "Too many recipients.")


async def test_a_call_that_moto_does_not_have_is_no_error_of_ours(courier: Courier) -> None:
    answer = await courier.check()
    assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "404")
