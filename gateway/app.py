"""The web application: every way of a request from the socket to a route's handler and back.

`make_app` registers the table of routes; `serve_gateway` runs it under hypercorn as one child of the supervisor's tree.
Nothing else of ours ever runs in the application's own nursery.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any, Final, cast

import structlog
from quart import Response, g, request
from quart.routing import QuartRule
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from heliograph.actors.model.errors import HeliographError
from heliograph.actors.model.settings import GatewaySettings, Server
from heliograph.actors.ports.receipts import ReceiptCall
from heliograph.gateway.api import (
    batch,
    dead_letters,
    keys,
    messages,
    operations,
    providers,
    public,
    receipts,
    stats,
    suppressions,
)
from heliograph.gateway.api.docs import docs_page
from heliograph.gateway.api.openapi import openapi
from heliograph.gateway.api.replies import Reply, dumps
from heliograph.gateway.api.routing import KINDS_OF_ID, Route
from heliograph.gateway.connections import Connection, Gate
from heliograph.gateway.finishing import FinishingConnection
from heliograph.gateway.front import SAFE, Asked, Front, headers_of, origin_of, problem, request_id_of
from heliograph.gateway.hot import Hot, HotConnection
from heliograph.gateway.limits import OTHER_BYTES, BoundedBody, BoundedRequest
from heliograph.gateway.listening import Connect, bind, room_for, serve_on
from heliograph.gateway.problems import Refusal, refusal_of, refusal_of_status
from heliograph.gateway.services import Services

log = structlog.get_logger()

ROUTES: Final[tuple[Route[Any, Any], ...]] = (
    *messages.ROUTES,
    *batch.ROUTES,
    *dead_letters.ROUTES,
    *operations.ROUTES,
    *suppressions.ROUTES,
    *providers.ROUTES,
    *stats.ROUTES,
    *keys.ROUTES,
)
HOT: Final = frozenset(
    {
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/batch"),
        ("GET", "/v1/messages/{id}"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
    }
)
"""Those that are asked so often that they have a way of their own, where the gateway is set to have one."""
CONSOLE: Final = "heliograph.gateway.console.routes"


def make_app(services: Services, front: Front | None = None) -> QuartTrio:
    app = _App(__name__, static_folder=None)
    # Bodies bound themselves (limits.py), and no time-out of the framework's may cut a stream.
    app.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, PROPAGATE_EXCEPTIONS=False)
    app.url_map.merge_slashes = False
    for kind, pattern in KINDS_OF_ID.items():
        app.url_map.converters[kind] = _converter(kind, pattern)
    views = _Views(front or Front(services), app)
    for route in ROUTES:
        views.add(route)
    views.add_receipts()
    for page in public.routes(services.readiness, services.draining, _openapi, _docs):
        views.add_public(page)
    app.before_request(views.begin)
    app.after_request(views.finish)
    app.register_error_handler(HTTPException, views.on_http_error)
    app.register_error_handler(Exception, views.on_error)
    _mount_console(app, services)
    return app


class _Rule(QuartRule):
    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: ARG002
        """No URL is ever made from a rule here, and code to make them from would be most of the application's start."""
        return _no_url


def _no_url(*_: object, **__: object) -> tuple[str, str]:
    raise AssertionError("a rule was asked for its URL")


class _App(QuartTrio):
    url_rule_class = _Rule  # type: ignore[assignment] # as with the framework's own: it is typed as the one below it
    request_class = BoundedRequest
    asgi_http_class = FinishingConnection

    def log_exception(self, *known: Any) -> None:
        """What fails after an answer was made, last among the arguments. A traceback would show what was asked."""
        _, error, _ = known[-1]
        log.error("http.failed", error=type(error).__name__, at=origin_of(error))


def _mount_console(app: QuartTrio, services: Services) -> None:
    """The console's pages, which come as one blueprint: `blueprint(services)`."""
    if importlib.util.find_spec(CONSOLE) is not None:
        app.register_blueprint(importlib.import_module(CONSOLE).blueprint(services))


@cache
def _openapi() -> bytes:
    return dumps(_description())


@cache
def _docs() -> bytes:
    return docs_page(_description())


@cache
def _description() -> dict[str, Any]:
    return openapi(ROUTES, public.routes(dict, bool, bytes, bytes))


def _rule(route: Route[Any, Any]) -> str:
    name = route.parameter
    return route.path.replace(f"{{{name}}}", f"<{route.id_kind}:{name}>")


def _converter(kind: str, pattern: str) -> type[BaseConverter]:
    return type(kind, (BaseConverter,), {"regex": pattern})


class _Views:
    """The framework's side of the front: its requests in, its responses out."""

    def __init__(self, front: Front, app: QuartTrio) -> None:
        self._front = front
        self._services = front.services
        self._app = app
        self._names: dict[str, str] = {}

    # ------------------------------------------------------------------------------------ registration

    def add(self, route: Route[Any, Any]) -> None:
        async def view(**parameter: str) -> Response:
            try:
                return _response(await self._answer(route, parameter.get(route.parameter, "")))
            except HeliographError as error:
                return self._problem(refusal_of(error))

        self._register(route.method, route.path, _rule(route), view)

    def add_public(self, page: public.PublicRoute) -> None:
        async def view() -> Response:
            return _response(page.handler())

        self._register("GET", page.path, page.path, view)

    def add_receipts(self) -> None:
        async def view(provider: str) -> Response:
            try:
                return _response(await self._reported(provider))
            except HeliographError as error:
                return self._problem(refusal_of(error))

        for method in receipts.METHODS:
            self._register(method, receipts.PATH, receipts.PATH.replace("{provider}", "<provider:provider>"), view)

    def _register(self, method: str, name: str, rule: str, view: Callable[..., Awaitable[Response]]) -> None:
        endpoint = f"{method} {name}".replace(".", "_")
        self._names[endpoint] = name
        self._app.add_url_rule(rule, endpoint, view, methods=[method], provide_automatic_options=False)

    # ---------------------------------------------------------------------------------------- requests

    async def _answer(self, route: Route[Any, Any], path_id: str) -> Reply:
        async def body(most_bytes: int) -> bytes:
            _body().allow(most_bytes)
            return await _body().whole()

        return await self._front.answer(
            route, Asked(request.headers, request.query_string, path_id, g.request_id, body)
        )

    async def _reported(self, provider: str) -> Reply:
        reader = receipts.reader_of(self._services, provider)
        _body().allow(receipts.MOST_BYTES)
        call = ReceiptCall(
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await _body().whole(),
            received_at=self._services.clock.now(),
            query=request.args.to_dict(),
        )
        return await receipts.take(self._services, provider, reader, call)

    async def begin(self) -> Response | None:
        g.request_id = request_id_of(request.headers)
        g.began = time.perf_counter()
        if request.endpoint not in self._names:
            _body().allow(OTHER_BYTES)
        return None

    async def finish(self, response: Response) -> Response:
        body = _body()
        await body.drain()
        body.release()
        response.headers["X-Request-Id"] = g.request_id
        response.headers.setdefault(*SAFE)
        if not body.arrived and request.http_version.startswith("1"):
            response.headers["Connection"] = "close"
        self._front.count(self._route_name(), request.method, response.status_code, g.began)
        return response

    async def on_http_error(self, error: HTTPException) -> Response:
        headers = dict(error.get_headers())
        return self._problem(refusal_of_status(error.code or 500, headers))

    async def on_error(self, error: Exception) -> Response:
        return _response(self._front.failed(error, self._route_name(), g.request_id))

    # ----------------------------------------------------------------------------------------- answers

    def _problem(self, refusal: Refusal) -> Response:
        return _response(problem(refusal, g.request_id))

    def _route_name(self) -> str:
        if request.endpoint in self._names:
            return self._names[request.endpoint]
        return str(request.url_rule.rule) if request.url_rule is not None else "unmatched"


def _body() -> BoundedBody:
    return cast(BoundedBody, request.body)  # as `request_class` makes it


def _response(reply: Reply) -> Response:
    if reply.stream is None or request.method == "HEAD":
        response = Response(reply.body, reply.status)
    else:
        response = Response(reply.stream, reply.status)
        response.timeout = None
    del response.headers["Content-Type"]  # the framework's own word
    response.headers.update(headers_of(reply))
    return response


def hot_of(front: Front) -> Hot:
    services = front.services
    pages = public.routes(services.readiness, services.draining, _openapi, _docs)
    routes = [r for r in ROUTES if (r.method, r.path) in HOT]
    return Hot(front, routes, [page for page in pages if ("GET", page.path) in HOT])


async def serve_gateway(
    services: Services,
    settings: GatewaySettings,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    ready: Callable[[str, int], None],
) -> None:
    """Serve until `shutdown_trigger` returns, then let requests end within the grace. `ready` is told the address and
    port once connections are taken. ConfigurationError where they cannot be had."""
    front = Front(services)
    app = make_app(services, front)
    connect: Connect = partial(HotConnection, hot_of(front)) if settings.http_server is Server.FAST else Connection
    await serve_on(
        bind(settings.host, settings.port, "gateway.bind"),
        app,
        Gate(room_for(settings.connections), settings.connections_per_address),
        connect,
        shutdown_trigger=shutdown_trigger,
        ready=ready,
        grace_s=services.config.delivery.drain_grace_s,
    )
