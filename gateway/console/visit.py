"""A page's request and what comes of it. Pages know nothing of the web framework: they take a `Visit`, answer a `Page`
or `Moved`, and raise `Refused` or an error of the ports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from werkzeug.datastructures import Headers, MultiDict

from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.gateway.api.reading import body_of
from heliograph.gateway.api.replies import Reply, dumps
from heliograph.gateway.api.routing import Call, Route, Shared
from heliograph.gateway.api.schemas import Body
from heliograph.gateway.auth import require, seen_tenant
from heliograph.gateway.services import Services

B = TypeVar("B", bound=Body | None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Somebody with a key looks at a page, or sends its form. `origin` is this gateway as they address it."""

    services: Services
    shared: Shared
    key: ApiKey
    id: str
    path: str
    query: Mapping[str, str]
    form: MultiDict[str, str]
    origin: str
    headers: Headers
    request_id: str

    @property
    def tenant(self) -> str | None:
        return seen_tenant(self.key)

    @property
    def now(self) -> datetime:
        return self.services.clock.now()

    def may(self, *scopes: ScopeName) -> bool:
        """Whether one of them is enough."""
        return any(self.key.allows(scope) for scope in scopes)

    async def act(self, route: Route[Any, None], body: Mapping[str, Any] | None = None) -> Reply:
        """What the API does for the same key and the same body, checked the same way."""
        require(self.key, *route.scopes)
        call = Call(
            services=self.services,
            shared=self.shared,
            key=self.key,
            id=self.id,
            body=body_of(route.body, dumps(body or {})) if route.body is not None else None,
            query=None,
            raw=b"",
            headers=self.headers,
            request_id=self.request_id,
        )
        return await route.handler(call)


@dataclass(frozen=True, slots=True)
class Page:
    template: str
    values: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Moved:
    """Look there instead (303)."""

    to: str


Handler = Callable[[Visit], Awaitable[Page | Moved]]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One page, or one form's target. `live` is the template of that part of it which a stream sends again and again.
    Any of `scopes` lets a key in; none named: every key."""

    method: Literal["GET", "POST"] = "GET"
    path: str
    handler: Handler
    scopes: tuple[ScopeName, ...] = ()
    id_kind: str = ""
    live: str | None = None


def route_to(routes: tuple[Route[Any, Any], ...], method: str, path: str) -> Route[Any, Any]:
    """The API's own entry for this call."""
    [found] = (route for route in routes if (route.method, route.path) == (method, path))
    return found
