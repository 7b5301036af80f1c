"""`/metrics`, `/livez` and `/readyz` of one supervisor, on a port of its own; every supervisor has one, with or without
a gateway. A plain ASGI application: it must answer while everything else is in trouble."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from heliograph.actors.model.settings import MonitorSettings
from heliograph.gateway.api.replies import Reply, dumps
from heliograph.gateway.connections import Gate
from heliograph.gateway.health import Check, live, ready
from heliograph.gateway.listening import bind, serve_on
from heliograph.gateway.problems import Code, Refusal, new_request_id

log = structlog.get_logger()
REFRESH_S: Final = 2.0
GRACE_S: Final = 2.0
MOST_CONNECTIONS: Final = 100

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Monitor:
    """`refresh` brings gauges up to date before they are read; it has REFRESH_S, and failing costs freshness only."""

    def __init__(
        self,
        registry: CollectorRegistry,
        readiness: Callable[[], Mapping[str, Check]],
        draining: Callable[[], bool],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._readiness = readiness
        self._draining = draining
        self._refresh = refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                reply = await self._answer(scope["method"], scope["path"])
                await _send(reply, send)
            case "lifespan":
                await _live_on(receive, send)
            case _:
                await send({"type": "websocket.close"})

    async def _answer(self, method: str, path: str) -> Reply:
        if path not in ("/metrics", "/livez", "/readyz"):
            return _problem(Refusal(Code.NOT_FOUND, "here are /metrics, /livez and /readyz"))
        if method not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD"}
            return _problem(Refusal(Code.METHOD_NOT_ALLOWED, "this address takes GET and HEAD", headers=allow))
        match path:
            case "/livez":
                return live()
            case "/readyz":
                return ready(self._readiness(), self._draining())
            case _:
                return Reply(200, await self.metrics(), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def metrics(self) -> bytes:
        with trio.move_on_after(REFRESH_S):
            try:
                await self._refresh()
            except Exception as error:  # the metrics are how one learns of it
                log.warning("monitor.stale", error=type(error).__name__)
        return await trio.to_thread.run_sync(generate_latest, self._registry)


async def serve_monitor(
    monitor: Monitor,
    settings: MonitorSettings,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    bound: Callable[[str, int], None],
) -> None:
    """Serve until `shutdown_trigger` returns. `bound` is told the address and the port in use. ConfigurationError where
    they cannot be had."""

    def ready(host: str, port: int) -> None:
        log.info("monitor.listening", host=host, port=port)
        bound(host, port)

    listener = bind(settings.host, settings.port, "monitor.bind")
    gate = Gate(MOST_CONNECTIONS, MOST_CONNECTIONS)
    await serve_on(listener, monitor, gate, shutdown_trigger=shutdown_trigger, ready=ready, grace_s=GRACE_S)


async def _send(reply: Reply, send: Send) -> None:
    headers = {"content-type": reply.content_type, "content-length": str(len(reply.body)), **reply.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
    await send({"type": "http.response.body", "body": reply.body})


async def _live_on(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


def _problem(refusal: Refusal) -> Reply:
    return Reply(refusal.status, dumps(refusal.problem(new_request_id())), refusal.headers, "application/problem+json")
