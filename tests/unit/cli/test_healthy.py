"""`heliograph healthy`, against an answer of each sort."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from heliograph.gateway.cli import main, output

BIND = "HELIOGRAPH_MONITOR__BIND"


@contextmanager
def answering(status: int, body: object) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps({**body, "path": self.path} if isinstance(body, dict) else body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def plain_output() -> Iterator[None]:
    output.forget_wishes()
    yield
    output.forget_wishes()


def test_a_living_supervisor_is_exit_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, {"status": "live"}) as port:
        monkeypatch.setenv(BIND, f"0.0.0.0:{port}")
        assert main.run(["healthy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "status": "live", "path": "/livez"}


def test_what_is_not_ready_is_told_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checks = {"postgres": {"ok": False, "detail": "no beat"}, "redis": {"ok": True, "detail": "the queue answers"}}
    with answering(503, {"checks": checks}) as port:
        monkeypatch.setenv(BIND, f"127.0.0.1:{port}")
        assert main.run(["healthy", "--ready"]) == 1
    assert capsys.readouterr().out.splitlines() == ["not ok (503)", "postgres: no beat"]


def test_where_nothing_answers_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, {}) as port:
        pass
    monkeypatch.setenv(BIND, f"127.0.0.1:{port}")
    assert main.run(["healthy"]) == 1
    assert f"nothing answers at http://127.0.0.1:{port}/livez" in capsys.readouterr().err


def test_a_port_that_nobody_can_know_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BIND, "127.0.0.1:0")
    assert main.run(["healthy"]) == 2
