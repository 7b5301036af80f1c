"""The commands of deploy/compose that are ours, run as processes in their containers' environment."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.support.command import heliograph, process
from tests.support.deployment import DEPLOY, SAMPLE, compose, example_secrets
from tests.support.ports import a_free_port
from tests.support.services import wait_until

README = DEPLOY / "README.md"
IN_CONTAINER = "/etc/heliograph/heliograph.toml"


def here(words: Sequence[str]) -> list[str]:
    return [str(SAMPLE) if word == IN_CONTAINER else word for word in words]


def command(service: str) -> list[str]:
    return here(compose()["services"][service]["command"])


@pytest.fixture
def environ(empty_postgres_url: str, redis_url: str) -> dict[str, str]:
    """A container's, but for where things are on this machine."""
    given = {**compose()["services"]["supervisor"]["environment"], **example_secrets()}
    moved = {
        "HELIOGRAPH_POSTGRES__URL": empty_postgres_url,
        "HELIOGRAPH_REDIS__URL": redis_url,
        "HELIOGRAPH_GATEWAY__BIND": f"127.0.0.1:{a_free_port()}",
        "HELIOGRAPH_MONITOR__BIND": f"127.0.0.1:{a_free_port()}",
    }
    return given | moved


def health(service: str, environ: dict[str, str]) -> int:
    _, name, *words = compose()["services"][service]["healthcheck"]["test"]
    assert name == "heliograph"
    return heliograph(*here(words), **environ).returncode


def test_the_system_comes_up_by_its_own_commands(environ: dict[str, str], tmp_path: Path) -> None:
    migrated = heliograph(*command("migrate"), **environ)
    assert migrated.returncode == 0, migrated.stderr
    (told,) = re.findall(r"^docker compose run --rm supervisor (keys .+)$", README.read_text(), re.MULTILINE)
    made = heliograph(*here(told.split()), "--json", **environ)
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]

    worker = environ | {"HELIOGRAPH_MONITOR__BIND": f"127.0.0.1:{a_free_port()}"}
    assert health("supervisor", environ) == 1
    with (
        process(*command("supervisor"), cwd=tmp_path, **environ) as first,
        process(*command("delivery"), cwd=tmp_path, **worker) as second,
    ):
        wait_until(lambda: health("supervisor", environ) == 0, "the supervisor is healthy")
        wait_until(lambda: health("delivery", worker) == 0, "the delivery worker is healthy")
        url = f"http://{environ['HELIOGRAPH_GATEWAY__BIND']}"
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the gateway is ready")
        answer = httpx.get(f"{url}/v1/providers", headers={"X-API-Key": key})
        names = [each["name"] for each in answer.json()["data"]]
        assert names[:5] == ["fast2sms", "bulksms", "ses", "gmail", "sendgrid"]
        # In the order of `docker compose down`: workers first.
        for child in (second, first):
            child.signal(signal.SIGTERM)
            assert child.ends() == 0
