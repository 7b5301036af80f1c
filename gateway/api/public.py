"""What is open to all: `/livez`, `/readyz`, `/openapi.json`, `/docs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from heliograph.gateway.api.replies import Reply
from heliograph.gateway.api.schemas import LiveAnswer, ReadyAnswer
from heliograph.gateway.health import Check, live, ready


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRoute:
    path: str
    handler: Callable[[], Reply]
    summary: str
    answers: Mapping[int, Any]
    answer_type: str = "application/json"


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
