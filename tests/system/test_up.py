"""`heliograph up` and `down` as processes: boot, second boot, every way to end, and what is left afterwards."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.command import Process, System, lines_of_up
from tests.support.services import wait_until


@pytest.fixture
def system() -> Iterator[System]:
    """In a folder that PostgreSQL's user can enter, with a name that wants quoting."""
    with tempfile.TemporaryDirectory(prefix="a system ") as home:
        Path(home).chmod(0o711)
        made = System(Path(home))
        yield made
        made.remove()


@pytest.fixture
def up(system: System) -> Iterator[Process]:
    started = system.up()
    yield started
    started.remove()


def post(url: str, key: str, text: str = "Hello") -> str:
    answer = httpx.post(
        f"{url}/v1/messages",
        json={"channel": "sms", "to": "+919876543210", "text": text},
        headers={"Authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def state_of(url: str, key: str, message: str) -> str:
    answer = httpx.get(f"{url}/v1/messages/{message}", headers={"X-API-Key": key})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["state"])


def ends_cleanly(system: System, up: Process, number: signal.Signals) -> None:
    children = system.children()
    assert len(children) == 3
    up.signal(number)
    assert up.ends() == 0, up.errors
    system.leaves_nothing(children)


def test_up_says_where_it_is_and_its_curl_line_posts_a_message(system: System, up: Process) -> None:
    url, key, console, curl = lines_of_up(up)
    entered = httpx.get(console)
    assert (entered.status_code, "heliograph_console" in entered.cookies) == (303, True)
    assert httpx.get(console).status_code == 401  # the code in it is good once
    _, _, address, *rest = shlex.split(curl)
    assert rest[::2] == ["-H", "-H", "-d"]
    headers = dict(header.split(": ", 1) for header in (rest[1], rest[3]))
    assert headers["Authorization"] == f"Bearer {key}"
    answer = httpx.post(address, headers=headers, content=rest[5])
    assert answer.status_code == 202, answer.text
    wait_until(lambda: state_of(url, key, answer.json()["id"]) == "sent", "the message is sent")
    ends_cleanly(system, up, signal.SIGTERM)


def test_the_consoles_url_logs_in_once(system: System, up: Process) -> None:
    url, _, console, _ = lines_of_up(up)
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(console)
        assert (page.status_code, page.url.path) == (200, "/console")
        assert browser.cookies
    with httpx.Client(follow_redirects=True) as another:
        assert another.get(console).url.path == "/console/login"
        assert another.get(f"{url}/console").url.path == "/console/login"


def test_a_second_up_finds_its_data_and_its_key_again(system: System, up: Process) -> None:
    url, key, _, _ = lines_of_up(up)
    message = post(url, key)
    wait_until(lambda: state_of(url, key, message) == "sent", "the message is sent")
    ends_cleanly(system, up, signal.SIGINT)
    second = system.up()
    try:
        url, same_key, _, _ = lines_of_up(second)
        assert same_key == key
        assert state_of(url, key, message) == "sent"
        ends_cleanly(system, second, signal.SIGTERM)
    finally:
        second.remove()


def test_sigint_ends_it_also_where_it_was_inherited_as_ignored(system: System) -> None:
    up = system.up(ignore_sigint=True)
    try:
        lines_of_up(up)
        ends_cleanly(system, up, signal.SIGINT)
    finally:
        up.remove()


def test_a_signal_during_the_boot_leaves_nothing(system: System, up: Process) -> None:
    wait_until(lambda: bool(system.children()), "the first child runs")
    up.signal(signal.SIGTERM)
    assert up.ends() == 0, up.errors
    system.leaves_nothing(system.children())


def test_after_a_sigkill_the_next_up_starts_by_itself_and_nothing_is_lost(system: System, up: Process) -> None:
    url, key, _, _ = lines_of_up(up)
    message = post(url, key)
    up.signal(signal.SIGKILL)
    up.ends()
    second = system.up()
    try:
        url, same_key, _, _ = lines_of_up(second)
        assert same_key == key
        wait_until(lambda: state_of(url, key, message) == "sent", "the message is sent")
        ends_cleanly(system, second, signal.SIGTERM)
    finally:
        second.remove()


def test_down_after_a_sigkill_leaves_nothing(system: System, up: Process) -> None:
    lines_of_up(up)
    children = system.children()
    up.signal(signal.SIGKILL)
    up.ends()
    assert system.command("down").returncode == 0
    system.leaves_nothing(children)


@pytest.mark.parametrize("victim", ["supervisor-1", "postgres", "redis"])
def test_a_child_that_is_killed_is_started_again_and_nothing_is_lost(system: System, up: Process, victim: str) -> None:
    url, key, _, _ = lines_of_up(up)
    message = post(url, key, "before")
    system.running().children[victim].signal(signal.SIGKILL)

    def goes_on() -> bool:
        try:
            return state_of(url, key, post(url, key, "after")) in ("queued", "sending", "sent")
        except (httpx.TransportError, AssertionError):
            return False

    wait_until(goes_on, "messages are taken again")
    wait_until(lambda: state_of(url, key, message) == "sent", "the first message is sent")
    ends_cleanly(system, up, signal.SIGTERM)


def test_detached_it_returns_when_ready_and_down_stops_it(system: System) -> None:
    done = system.command("up", "--port", "0", "--supervisors", "2", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"url", "api_key", "console_url", "metrics_urls", "postgres_url", "redis_url"}
    assert len(said["metrics_urls"]) == 2
    for url in said["metrics_urls"]:
        assert "heliograph_build_info" in httpx.get(url).text
    post(said["url"], said["api_key"])
    children = system.children()
    assert len(children) == 4
    assert system.command("down").returncode == 0
    system.leaves_nothing(children)
    assert system.command("down").returncode == 0


def test_one_folder_runs_one_system(system: System, up: Process) -> None:
    lines_of_up(up)
    second = system.command("up", "--port", "0")
    assert second.returncode == 1
    assert f"already running from {system.folder.path} (process {up.child.pid})" in second.stderr
    assert second.stdout == ""


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_taken_port_is_named_and_nothing_is_left(system: System, detach: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = system.command("up", "--port", str(port), *detach)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr
    assert "--port" in done.stderr
    system.leaves_nothing([])


def test_bad_configuration_ends_with_2_before_anything_is_written(system: System) -> None:
    done = system.command("up", HELIOGRAPH_GATEWAY__BNID="1")
    assert done.returncode == 2
    assert "the nearest known one is gateway.bind" in done.stderr
    assert not system.folder.path.exists()


def test_the_configured_providers_take_the_sandboxes_place(system: System) -> None:
    file = system.home / "mine.toml"
    file.write_text('[[providers]]\nname = "mine"\nkind = "sandbox"\nchannel = "email"\n')
    up = system.up("--config", str(file))
    try:
        url, key, _, curl = lines_of_up(up)
        assert '"channel": "email"' in curl
        found = httpx.get(f"{url}/v1/providers", headers={"X-API-Key": key}).json()["data"]
        assert "mine" in [provider["name"] for provider in found]
        ends_cleanly(system, up, signal.SIGTERM)
    finally:
        up.remove()


def test_it_runs_from_a_folder_that_no_one_else_can_enter(system: System) -> None:
    """As root PostgreSQL runs as another user, so its data lies elsewhere; as anybody else it needs no other place."""
    system.home.chmod(0o700)
    data = system.folder.path / "postgres"
    up = system.up()
    try:
        url, key, _, _ = lines_of_up(up)
        post(url, key)
        assert data.is_symlink() == (os.geteuid() == 0)
        assert data.stat().st_uid != 0
        ends_cleanly(system, up, signal.SIGTERM)
    finally:
        up.remove()
        if data.is_symlink():
            shutil.rmtree(data.readlink().parent)
