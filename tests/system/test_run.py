"""`heliograph run` and `migrate` as processes: stores that are not there, a database without tables, and the drain."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.support.command import heliograph, process
from tests.support.ports import a_free_port
from tests.support.services import wait_until

NOWHERE = {
    "HELIOGRAPH_POSTGRES__URL": "postgresql://me:hunter2@127.0.0.1:1/x",
    "HELIOGRAPH_REDIS__URL": "redis://:hunter2@127.0.0.1:1/0",
}


@pytest.fixture
def configured(empty_postgres_url: str, redis_url: str) -> dict[str, str]:
    return {
        "HELIOGRAPH_POSTGRES__URL": empty_postgres_url,
        "HELIOGRAPH_REDIS__URL": redis_url,
        "HELIOGRAPH_PROVIDERS__S__KIND": "sandbox",
        "HELIOGRAPH_PROVIDERS__S__CHANNEL": "sms",
        "HELIOGRAPH_GATEWAY__BIND": f"127.0.0.1:{a_free_port()}",
        "HELIOGRAPH_MONITOR__BIND": f"127.0.0.1:{a_free_port()}",
    }


@pytest.mark.parametrize("down", ["postgres", "redis"])
def test_a_store_that_is_down_is_waited_for_and_then_named(configured: dict[str, str], down: str) -> None:
    variable = f"HELIOGRAPH_{down.upper()}__URL"
    done = heliograph("run", "--wait", "1s", **configured | {variable: NOWHERE[variable]})
    assert done.returncode == 1
    waiting, gave_up = done.stderr.splitlines()
    name = {"postgres": "PostgreSQL", "redis": "Redis"}[down]
    assert waiting.startswith(f"heliograph: {name} gives no answer")
    assert "waiting up to 1 s" in waiting
    assert gave_up.startswith(f"heliograph: {name} gives no answer")
    assert "gave up after 1 s" in gave_up
    assert "hunter2" not in done.stderr


def test_a_signal_while_it_waits_ends_with_0(configured: dict[str, str], tmp_path: Path) -> None:
    with process("run", cwd=tmp_path, **configured | NOWHERE) as waiting:
        waiting.tells("waiting up to 30 s")
        waiting.signal(signal.SIGTERM)
        assert waiting.ends() == 0


def test_a_database_that_is_not_migrated_names_the_command(configured: dict[str, str]) -> None:
    done = heliograph("run", **configured)
    assert done.returncode == 1
    assert "heliograph migrate" in done.stderr


def test_migrate_does_its_work_once(configured: dict[str, str]) -> None:
    first, second = (heliograph("migrate", **configured) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert "applied 0001_" in first.stdout
    assert second.stdout == "applied nothing: it was up to date\n"


@pytest.fixture
def migrated(configured: dict[str, str]) -> dict[str, str]:
    assert heliograph("migrate", **configured).returncode == 0
    return configured


def test_a_supervisor_becomes_ready_and_drains_on_sigterm(migrated: dict[str, str], tmp_path: Path) -> None:
    ready = f"http://{migrated['HELIOGRAPH_MONITOR__BIND']}/readyz"
    with process("run", cwd=tmp_path, **migrated) as supervisor:
        wait_until(lambda: _answers(ready), f"{ready} says yes", within_s=90)
        assert _answers(f"http://{migrated['HELIOGRAPH_GATEWAY__BIND']}/readyz")
        supervisor.signal(signal.SIGTERM)
        assert supervisor.ends() == 0, supervisor.errors


def test_a_role_brings_only_its_part(migrated: dict[str, str], tmp_path: Path) -> None:
    ready = f"http://{migrated['HELIOGRAPH_MONITOR__BIND']}/readyz"
    with process("run", "--role", "delivery", cwd=tmp_path, **migrated) as supervisor:
        wait_until(lambda: _answers(ready), f"{ready} says yes")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{migrated['HELIOGRAPH_GATEWAY__BIND']}/livez")
        supervisor.signal(signal.SIGTERM)
        assert supervisor.ends() == 0, supervisor.errors


def test_an_unknown_role_is_bad_usage(configured: dict[str, str]) -> None:
    done = heliograph("run", "--role", "delivery,gatway", **configured)
    assert done.returncode == 2
    assert "there is no gatway" in done.stderr


def test_a_taken_port_ends_with_1_and_is_named(migrated: dict[str, str], tmp_path: Path) -> None:
    with process("run", cwd=tmp_path, **migrated) as first:
        wait_until(lambda: _answers(f"http://{migrated['HELIOGRAPH_MONITOR__BIND']}/readyz"), "the first is ready")
        second = heliograph("run", **migrated | {"HELIOGRAPH_MONITOR__BIND": "127.0.0.1:0"})
        assert second.returncode == 1
        assert f"{migrated['HELIOGRAPH_GATEWAY__BIND']} is in use" in second.stderr
        first.signal(signal.SIGTERM)
        assert first.ends() == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
