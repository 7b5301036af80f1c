"""What is open to all: `/livez`, `/readyz`, `/openapi.json`, `/docs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from heliograph.gateway.api.routing import Reply, json_reply
from heliograph.gateway.api.schemas import LiveAnswer, ReadyAnswer
from heliograph.gateway.services import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRoute:
    path: str
    handler: Callable[[], Reply]
    summary: str
    answers: Mapping[int, Any]
    answer_type: str = "application/json"


def live() -> Reply:
    """Answered by the loop itself: who reads this knows that the process turns. No store is asked."""
    answer: LiveAnswer = {"status": "live"}
    return json_reply(200, answer, NOT_KEPT)


def ready(checks: Mapping[str, Check], draining: bool) -> Reply:
    answer: ReadyAnswer = {
        "checks": {
            name: {"ok": check.ok, "detail": check.detail, "required": check.required} for name, check in checks.items()
        }
    }
    if draining:
        answer["checks"]["draining"] = {"ok": False, "detail": "this process is about to end", "required": True}
    fine = all(check["ok"] for check in answer["checks"].values() if check["required"])
    return json_reply(200, answer, NOT_KEPT) if fine else json_reply(503, answer, {**NOT_KEPT, "Retry-After": "1"})


NOT_KEPT: Final = {"Cache-Control": "no-store"}


def routes(
    readiness: Callable[[], Mapping[str, Check]], draining: Callable[[], bool], openapi: Callable[[], bytes],
    docs: Callable[[], bytes],
) -> tuple[PublicRoute, ...]:  # fmt: skip
    return (
        PublicRoute(path="/livez", handler=live, summary="Whether this process turns", answers={200: LiveAnswer}),
        PublicRoute(
            path="/readyz",
            handler=lambda: ready(readiness(), draining()),
            summary="Whether this process can do its work, check by check",
            answers={200: ReadyAnswer, 503: ReadyAnswer},
        ),
        PublicRoute(
            path="/openapi.json",
            handler=lambda: Reply(200, openapi()),
            summary="This API, described for programs",
            answers={200: dict[str, Any]},
        ),
        PublicRoute(
            path="/docs",
            handler=lambda: Reply(200, docs(), DOCS_HEADERS, "text/html; charset=utf-8"),
            summary="This API, described for people",
            answers={200: str},
            answer_type="text/html",
        ),
    )


DOCS_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
