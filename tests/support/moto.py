"""moto as Amazon SES, which nobody here wrote: a server process that takes mails and keeps them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

# moto reads region and account from it, and checks nothing.
SCOPE: Final = "AWS4-HMAC-SHA256 Credential=a/20261124/ap-south-1/ses/aws4_request, SignedHeaders=a, Signature=b"


def call_moto(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": SCOPE}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
        return json.loads(answer.read())


def know_sender(moto: str, domain: str) -> None:
    call_moto(f"{moto}/v2/email/identities", {"EmailIdentity": domain})


def kept(moto: str, kind: str = "Message") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call_moto(f"{moto}/moto-api/data.json").get("ses", {}).get(kind, [])
    return found


def recipients(moto: str) -> Counter[str]:
    """Of simple mails: how often each was written to."""
    return Counter(to for mail in kept(moto) for to in mail["destinations"]["ToAddresses"])


@contextmanager
def moto_server() -> Iterator[str]:
    """Its URL."""
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
