"""A route as data: what the application registers and the OpenAPI page shows is the same table.

Handlers know nothing of the web framework: they take a `Call` and answer a `Reply`, and raise `Refused` or an error of
the ports. Each resource's file ends in its own `ROUTES`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

import trio

from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.gateway.admission import Admission
from heliograph.gateway.api.cluster import ClusterView
from heliograph.gateway.api.drafts import Drafter
from heliograph.gateway.api.idempotency import InFlight
from heliograph.gateway.api.replies import Reply
from heliograph.gateway.api.schemas import Body, Query
from heliograph.gateway.auth import Authenticator, RequestHeaders
from heliograph.gateway.limits import OTHER_BYTES
from heliograph.gateway.problems import Code
from heliograph.gateway.services import Services

B = TypeVar("B", bound=Body | None)
Q = TypeVar("Q", bound=Query | None)

ULID: Final = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
KINDS_OF_ID: Final[Mapping[str, str]] = {
    "message": f"msg_{ULID}",
    "operation": f"op_{ULID}",
    "key": f"key_{ULID}",
    "suppression": f"sup_{ULID}",
    "provider": "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
}
"""Kinds of path parameters, and the pattern that each keeps to; a path that does not is no path: 404."""


@dataclass(slots=True)
class Shared:
    """What the requests of one process have in common. `streams` counts those that are open; batches take their
    `turn` at the processor, so that one is committed while the next is read, and not all at the same time."""

    authenticator: Authenticator
    drafter: Drafter
    in_flight: InFlight
    cluster: ClusterView
    admission: Admission
    streams: int = 0
    turn: trio.Lock = field(default_factory=trio.Lock)

    @classmethod
    def of(cls, services: Services) -> Shared:
        drafter = Drafter(services.config, services.router)
        keys, admission = Authenticator(services.ledger.keys), Admission(services.clock)
        return cls(keys, drafter, InFlight(), ClusterView(services), admission)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[B, Q]):
    """A request that was let in. `id` is the path's one parameter, '' where it has none; `raw` the body's bytes."""

    services: Services
    shared: Shared
    key: ApiKey
    id: str
    body: B
    query: Q
    raw: bytes
    headers: RequestHeaders
    request_id: str


Handler = Callable[[Call[B, Q]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Generic[B, Q]):
    """`path` is written as in OpenAPI; its parameter, if any, is of the kind `id_kind`.

    A key needs `scope`, or `or_scope` where there is one. `body` and `query` are read and checked before the handler
    is called. A handler that reads `raw` itself names what it takes in `documents`. `answer` describes what comes with
    `status`; `also` are the problems that are this route's own. What
    `takes_messages` is let in by the key's limits and its share."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler[B, Q]
    summary: str
    tag: str
    scope: ScopeName
    or_scope: ScopeName | None = None
    id_kind: str = ""
    body: type[B] | None = None
    query: type[Q] | None = None
    documents: Any = None
    answer: Any = None
    status: int = 200
    other_answers: Mapping[int, Any] = field(default_factory=dict)
    also: tuple[Code, ...] = ()
    most_bytes: int = OTHER_BYTES
    idempotent_by_key: bool = False
    takes_messages: bool = False
    answer_type: str = "application/json"

    @property
    def scopes(self) -> tuple[ScopeName, ...]:
        return (self.scope,) if self.or_scope is None else (self.scope, self.or_scope)

    @property
    def parameter(self) -> str:
        """The name of the path's parameter, '' where it has none."""
        return self.path.partition("{")[2].partition("}")[0]

    @property
    def takes_json(self) -> bool:
        return self.body is not None or self.documents is not None
