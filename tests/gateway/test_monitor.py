"""The monitor: metrics and health of one supervisor, on a port of its own."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry

from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.settings import MonitorSettings
from heliograph.gateway.health import Check
from heliograph.gateway.monitor import Monitor, serve_monitor


class Process:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.checks: Mapping[str, Check] = {"postgres": Check(True, "answers")}
        self.draining = False
        self.refreshed = 0
        self.trouble: Exception | None = None
        self.hangs = False
        self.monitor = Monitor(self.registry, lambda: self.checks, lambda: self.draining, self.refresh)

    async def refresh(self) -> None:
        self.refreshed += 1
        self.metrics.accounting_drift.set(self.refreshed)
        if self.hangs:
            await trio.sleep_forever()
        if self.trouble is not None:
            raise self.trouble


async def get(process: Process, path: str, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(process.monitor)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://monitor") as client:
        return await client.request(method, path)


async def test_metrics_are_brought_up_to_date_before_they_are_read() -> None:
    process = Process()
    for expected in ("1.0", "2.0"):
        answer = await get(process, "/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert f"heliograph_accounting_drift {expected}" in answer.text


async def test_metrics_are_served_when_they_cannot_be_brought_up_to_date(autojump_clock: trio.abc.Clock) -> None:
    process = Process()
    process.trouble = RuntimeError("no")
    assert (await get(process, "/metrics")).status_code == 200
    process.hangs = True
    assert (await get(process, "/metrics")).status_code == 200


async def test_health_is_told_as_on_the_gateway() -> None:
    process = Process()
    assert (await get(process, "/livez")).json() == {"status": "live"}
    assert (await get(process, "/readyz")).status_code == 200
    process.checks = {"postgres": Check(False, "no answer"), "redis": Check(False, "no answer", required=False)}
    answer = await get(process, "/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["postgres"]["detail"] == "no answer"
    process.checks, process.draining = {}, True
    assert (await get(process, "/readyz")).status_code == 503


async def test_anything_else_is_a_problem() -> None:
    process = Process()
    nowhere = await get(process, "/v1/messages")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not_found")
    wrong = await get(process, "/metrics", "POST")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert process.refreshed == 0


async def test_port_0_picks_a_free_one_and_says_which() -> None:
    process = Process()
    stop = trio.Event()
    found: list[tuple[str, int]] = []
    up = trio.Event()

    def bound(host: str, port: int) -> None:
        found.append((host, port))
        up.set()

    async def serve() -> None:
        settings = MonitorSettings(host="127.0.0.1", port=0)
        await serve_monitor(process.monitor, settings, shutdown_trigger=stop.wait, bound=bound)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await up.wait()
            [(host, port)] = found
            assert port > 0
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://{host}:{port}/metrics")
                head = await client.head(f"http://{host}:{port}/readyz")
            assert "heliograph_accounting_drift" in answer.text
            assert (head.status_code, head.content) == (200, b"")
            stop.set()


async def test_a_port_that_is_taken_is_named_with_the_mend() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = MonitorSettings(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=r"is in use: .*monitor.bind"):
            await serve_monitor(
                Process().monitor, settings, shutdown_trigger=trio.sleep_forever, bound=lambda host, port: None
            )
