"""`heliograph check --live` against a server of every kind: who is let in, what is left, and the mend if not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from heliograph.gateway.cli import main, output
from tests.conformance.rigs import CHANNELS, CREDENTIALS
from tests.support.emulators import smtp

MAIL = ("gmail", "smtp")
KINDS = (*sorted(CHANNELS), *MAIL)
BALANCES = {"bulksms": "credits", "fast2sms": "wallet", "sendgrid": "may send", "ses": "24"}
"""What each kind's line tells of the account, in a word."""
LOGIN = dict(zip(("username", "password"), smtp.LOGIN, strict=True))
SECRET = {
    "fast2sms": "api_key",
    "bulksms": "token_secret",
    "sendgrid": "api_key",
    "ses": "secret_access_key",
    "smtp": "password",
    "gmail": "password",
}


@contextmanager
def emulator(kind: str) -> Iterator[str]:
    """An HTTP provider in a process of its own; its URL."""
    command = [sys.executable, "-m", "tests.support.emulators", kind]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running.stdout.readline().removeprefix("listening on ").strip()
    finally:
        running.terminate()
        assert running.wait(10) == 0
        running.stdout.close()


@dataclass(frozen=True, slots=True)
class Checked:
    """`said` is by kind. The stores of tests may be set up for speed, which `check` is right to blame."""

    code: int
    stores_are_blamed: bool
    said: Mapping[str, dict[str, Any]]


Check = Callable[..., Checked]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """URL, or port, by kind."""
    with ExitStack() as stack:
        where = {kind: stack.enter_context(emulator(kind)) for kind in CHANNELS}
        for kind in MAIL:
            password = smtp.LOGIN[1].replace(" ", "") if kind == "gmail" else smtp.LOGIN[1]
            where[kind] = str(stack.enter_context(smtp.Smtp(login=(smtp.LOGIN[0], password))).port)
        yield where


@pytest.fixture
def check(
    servers: dict[str, str],
    tmp_path: Path,
    postgres_url: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Check]:
    def run(credentials: Mapping[str, dict[str, str]], **moved: str) -> Checked:
        file = tmp_path / "heliograph.toml"
        tables = [table(kind, moved.get(kind, servers[kind]), credentials[kind]) for kind in KINDS]
        file.write_text("\n".join([f"[redis]\nurl = '{redis_url}'\n[postgres]\nurl = '{postgres_url}'", *tables]))
        code = main.run(["check", "--config", str(file), "--live", "--json"])
        lines = json.loads(capsys.readouterr().out)["checks"]
        named = {line["name"].removeprefix("provider ").removesuffix(" live"): line for line in lines}
        blamed = any(line["status"] == "failed" for name, line in named.items() if not name.startswith("the-"))
        return Checked(code, blamed, {kind: named[f"the-{kind}"] for kind in KINDS})

    yield run
    output.forget_wishes()


def table(kind: str, where: str, credentials: dict[str, str]) -> str:
    mail = f"channel = 'email'\nhost = '127.0.0.1'\nport = {where}\ntls = 'none'\nsender = 'hi@shop.in'"
    http = f"channel = '{CHANNELS.get(kind)}'\nbase_url = '{where}'"
    given = ", ".join(f"{name} = '{value}'" for name, value in credentials.items())
    return f"""
        [[providers]]
        name = "the-{kind}"
        kind = "{kind}"
        rate = 5
        timeout = "5s"
        {mail if kind in MAIL else http}
        credentials = {{ {given} }}
    """


GOOD = {**CREDENTIALS, **dict.fromkeys(MAIL, LOGIN)}
BAD = {
    **{kind: given | {SECRET[kind]: "x" * 40} for kind, given in CREDENTIALS.items()},
    **dict.fromkeys(MAIL, LOGIN | {"password": "wrongwrongwrongw"}),
}


def test_who_is_let_in_is_told_with_what_is_left(check: Check) -> None:
    checked = check(GOOD)
    assert checked.code == int(checked.stores_are_blamed)
    for kind, line in checked.said.items():
        assert (kind, line["status"], line["mend"]) == (kind, "ok", None)
        assert BALANCES.get(kind, "") in line["detail"].lower()


def test_wrong_credentials_are_a_failure_with_its_mend_and_without_the_secret(check: Check) -> None:
    checked = check(BAD)
    assert checked.code == 1
    for kind, line in checked.said.items():
        assert (kind, line["status"]) == (kind, "failed")
        assert f"the-{kind}" in line["mend"]
        assert BAD[kind][SECRET[kind]] not in line["detail"]


def test_a_provider_that_is_not_there_harms_no_neighbour(check: Check, unused_port: int) -> None:
    checked = check(GOOD, bulksms=f"http://127.0.0.1:{unused_port}", smtp=str(unused_port))
    assert checked.code == 1
    assert {kind for kind, line in checked.said.items() if line["status"] != "ok"} == {"bulksms", "smtp"}
    for kind in ("bulksms", "smtp"):
        assert "can it be reached" in checked.said[kind]["mend"]
