"""The emulators as processes of their own, as longer tests use them: ordered about and asked over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heliograph.actors.model.attempt import Outcome
from heliograph.providers import build
from tests.conformance.rigs import CHANNELS, an_order, http_settings
from tests.support.builders import a_call
from tests.support.emulators import APIS


def ask(url: str, order: dict[str, Any] | None = None) -> Any:
    data = None if order is None else json.dumps(order).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
        return json.loads(answer.read())


@pytest.fixture(params=sorted(APIS))
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(kind, url)"""
    rejects = tmp_path / "rejects.txt"
    rejects.write_text("+919876543299\nnobody@example.net\n")
    command = [sys.executable, "-m", "tests.support.emulators", request.param, "--reject-file", str(rejects)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield request.param, running.stdout.readline().removeprefix("listening on ").strip()
    finally:
        running.terminate()
        assert running.wait(10) == 0
        running.stdout.close()


async def test_an_emulator_counts_refuses_and_fails_on_order(process: tuple[str, str]) -> None:
    kind, url = process
    courier, message = build(http_settings(kind, url)), an_order(CHANNELS[kind])
    bad = "+919876543299" if kind in ("fast2sms", "bulksms") else "nobody@example.net"
    good = a_call(message())

    async def outcome(to: str | None = None) -> Outcome:
        (answer,) = await courier.send([a_call(message(to))], lambda: None)
        return answer.outcome

    assert (await courier.send([good], lambda: None))[0].outcome is Outcome.ACCEPTED
    assert await outcome(bad) is Outcome.REJECTED
    ask(f"{url}/_control", {"mode": "503", "times": 1, "retry_after": 3})
    assert await outcome() is Outcome.DEFERRED
    ask(f"{url}/_control", {"mode": "refuse"})
    assert await outcome() is Outcome.REJECTED
    ask(f"{url}/_control", {"mode": "ok"})
    assert await outcome() is Outcome.ACCEPTED
    seen = ask(f"{url}/_seen")
    assert (seen["calls"], seen["messages"], seen["unique"], seen["refused"]) == (5, 2, 1, 2)
    assert seen["recipients"] == {good.message.to: 2}
    assert good.attempt_id in seen["attempts"]
    await courier.aclose()
