"""The receiving end: a process for each provider of `main-job.toml`, which counts what it takes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).parents[2]
EMULATORS: Final = "tests.support.emulators"


@dataclass
class Server:
    """`control` is where it is asked and told; `down` is its mode that a provider's 503 is."""

    name: str
    channel: str
    arguments: Sequence[str]
    control: str
    down: str = "503"

    def be(self, mode: str, times: int | None = None) -> None:
        order = {"mode": mode} | ({"times": times} if times else {})
        httpx.post(f"{self.control}/_control", json=order, timeout=10).raise_for_status()

    def seen(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.control}/_seen", timeout=10).raise_for_status().json()
        return answer

    def taken(self) -> Counter[str]:
        return Counter(self.seen()["recipients"])

    def refused(self) -> Counter[str]:
        return Counter(self.seen()["refused_recipients"])


def _http(name: str, channel: str, port: int) -> Server:
    return Server(name, channel, (EMULATORS, name, f"--port={port}"), f"http://127.0.0.1:{port}")


SERVERS: Final = (
    _http("fast2sms", "sms", 18801),
    _http("bulksms", "sms", 18802),
    _http("sendgrid", "email", 18803),
    Server(
        "smtp", "email", (f"{EMULATORS}.smtp", "--port=18804", "--control-port=18805"), "http://127.0.0.1:18805",
        down="unavailable",
    ),
)  # fmt: skip


@contextmanager
def running(servers: Sequence[Server], rejects: Path) -> Iterator[None]:
    """`rejects` names the recipients that each of them refuses for good."""
    with ExitStack() as processes:
        for server in servers:
            processes.enter_context(emulator(*server.arguments, f"--reject-file={rejects}"))
        yield


@contextmanager
def emulator(*arguments: str) -> Iterator[str]:
    """A process of `python -m` these arguments; its line that says where it listens."""
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("listening on"):
            raise SystemExit(f"{' '.join(arguments)} did not start; is its port taken?")
        yield said
    finally:
        process.terminate()
        process.communicate(timeout=10)
