"""What happens to a request between whoever reads it from the socket and its route's handler, and to the answer on its
way back. The web application and the fast way (hot.py) both go through here, so that they cannot differ."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from prometheus_client import Counter

from heliograph.actors.metrics.histogram import Spread
from heliograph.actors.model.access import ApiKey
from heliograph.gateway.api.reading import body_of, query_of
from heliograph.gateway.api.replies import Reply, dumps
from heliograph.gateway.api.routing import Call, Route, Shared
from heliograph.gateway.api.schemas import Query
from heliograph.gateway.auth import RequestHeaders, require
from heliograph.gateway.problems import Code, Refusal, Refused, new_request_id, refusal_of
from heliograph.gateway.services import Services

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SAFE: Final = ("X-Content-Type-Options", "nosniff")
NO_QUERY: Final = Query()
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_JSON: Final = re.compile(r"application/json\s*(;\s*charset\s*=\s*\"?utf-?8\"?\s*)?", re.IGNORECASE)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose head was read. `body` reads the whole of it, up to so many bytes; Refused with 408 or 413."""

    headers: RequestHeaders
    query_string: bytes
    id: str
    request_id: str
    body: Callable[[int], Awaitable[bytes]]


class Front:
    """Lets requests in, calls the route's handler, turns errors into answers, and counts."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._shared = Shared.of(services)
        self._counts: dict[tuple[str, str, int], Counter] = {}
        self._times: dict[str, Spread] = {}

    async def answer(self, route: Route[Any, Any], asked: Asked) -> Reply:
        """Nothing takes effect before the body was read. Raises HeliographError, and whatever goes wrong."""
        key = await self._shared.authenticator.key_of(asked.headers)
        require(key, *route.scopes)
        query = query_of(route.query or Query, asked.query_string) if route.query or asked.query_string else NO_QUERY
        if not route.takes_json:
            return await self._handled(route, asked, key, query, b"")
        content_type = asked.headers.get("Content-Type") or ""
        if content_type != "application/json" and not _JSON.fullmatch(content_type.strip()):
            raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, "the body must come as application/json, in UTF-8")
        if not route.takes_messages:
            return await self._handled(route, asked, key, query, await asked.body(route.most_bytes))
        length = asked.headers.get("Content-Length")
        with await self._shared.admission.through(key, length, partial(asked.body, route.most_bytes)) as turn:
            return await self._handled(route, asked, key, query, turn.raw)

    async def _handled(self, route: Route[Any, Any], asked: Asked, key: ApiKey, query: Query, raw: bytes) -> Reply:
        call = Call(
            services=self.services,
            shared=self._shared,
            key=key,
            id=asked.id,
            body=body_of(route.body, raw) if route.body is not None else None,
            query=query,
            raw=raw,
            headers=asked.headers,
            request_id=asked.request_id,
        )
        reply: Reply = await route.handler(call)
        return reply

    def failed(self, error: Exception, route: str, request_id: str) -> Reply:
        refusal = refusal_of(error)
        if refusal.code is Code.INTERNAL:
            log.error(
                "http.failed", request=request_id, route=route, error=type(error).__name__, at=origin_of(error)
            )  # fmt: skip
        return problem(refusal, request_id)

    def count(self, route: str, method: str, status: int, began_s: float) -> None:
        """`began_s` by time.perf_counter()."""
        labels = route, method if method in METHODS else "other", status
        counter = self._counts.get(labels)
        if counter is None:
            counter = self._counts[labels] = self.services.metrics.http_requests.labels(*labels)
        counter.inc()
        histogram = self._times.get(route)
        if histogram is None:
            histogram = self._times[route] = self.services.metrics.http_request_duration.labels(route)
        histogram.observe(time.perf_counter() - began_s)


def request_id_of(headers: RequestHeaders) -> str:
    """The client's, where it is fit for logs and headers."""
    given = headers.get("X-Request-Id") or ""
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def problem(refusal: Refusal, request_id: str) -> Reply:
    return Reply(refusal.status, dumps(refusal.problem(request_id)), refusal.headers, "application/problem+json")


def headers_of(reply: Reply) -> Mapping[str, str]:
    """What an answer says of itself, but for its length and the request's id."""
    headers = {"Content-Type": reply.content_type, "Cache-Control": "no-store", **reply.headers}
    if reply.status == 204:
        del headers["Content-Type"]
    return headers


def origin_of(error: BaseException) -> str:
    """Where it was raised: file and line say enough for a log, and hold nothing of the request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown"
