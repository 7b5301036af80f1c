"""The gateway over a ledger in memory, with sandbox providers: what its tests talk to, and what they may break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import orjson
import trio
from prometheus_client import CollectorRegistry
from quart.typing import TestClientProtocol

from heliograph.actors.kernel.actor import Health
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.ledger.memory import memory_ledger
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.access import DEFAULT_TENANT, ScopeName
from heliograph.actors.model.errors import LedgerDown, MailboxFull
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.settings import Config, DeliverySettings, GatewaySettings, Server
from heliograph.actors.model.stats import Stats
from heliograph.actors.policy.route import Router
from heliograph.actors.ports.ledger import Acceptance, Accepted, Admission, Ledger, Reported, Taken
from heliograph.actors.ports.receipts import ReceiptReader
from heliograph.actors.queue.memory import MemoryCoordination, MemoryRedis
from heliograph.gateway.app import hot_of, make_app, serve_gateway
from heliograph.gateway.auth import make_key
from heliograph.gateway.fetching import Fetcher
from heliograph.gateway.front import Front
from heliograph.gateway.health import Check
from heliograph.gateway.services import Services
from heliograph.providers import build, country_of, reader
from tests.support.builders import a_provider
from tests.support.lines import Answer, Lines

SMS: Final = {"channel": "sms", "to": "+919876540000", "text": "Hello, Asha."}
EMAIL: Final = {"channel": "email", "to": "asha@shop.in", "subject": "Hello", "text": "Hello, Asha."}
BOTH: Final = (
    a_provider(name="text", channel=Channel.SMS, priority=1),
    a_provider(name="post", channel=Channel.EMAIL, priority=1),
)


SERVER: Final[ContextVar[Server]] = ContextVar("SERVER", default=Server.FAST)
"""Who reads HTTP for the gateways that are made here."""


@dataclass
class HandClock:
    """Stands still until a test moves it."""

    at: datetime = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    random: Random = field(default_factory=lambda: Random(7))

    def boot_s(self) -> float:
        return trio.current_time()

    def now(self) -> datetime:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class World:
    """`ledger_down` makes every call of the ledger fail; `full` sheds every acceptance; `held` stops them half-way, and
    `arrived` tells that one has come so far; `store` is a ledger to use in place of the one in memory."""

    providers: Sequence[ProviderSettings] = BOTH
    clock: HandClock = field(default_factory=HandClock)
    delivery: DeliverySettings = DeliverySettings(drain_grace_s=1.0)
    ledger_down: bool = False
    full: bool = False
    draining: bool = False
    held: trio.Event | None = None
    checks: Mapping[str, Check] = field(default_factory=lambda: {"postgres": Check(True, "answers")})
    accepted: list[Acceptance] = field(default_factory=list)
    fail_with: Exception | None = None
    actors: Sequence[Health] = ()
    store: Ledger | None = None
    readers: Mapping[str, ReceiptReader] = field(default_factory=dict)
    fetcher: Fetcher = field(default_factory=Fetcher)
    taken: list[Taken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = self.store or memory_ledger(self.clock.now, self._fault)
        self.redis = MemoryRedis()
        self.arrived = trio.Event()
        self.registry = CollectorRegistry()
        self.services = Services(
            supervisor="s1",
            clock=self._clock(),
            config=Config(redis_url="", postgres_url="", providers=tuple(self.providers), delivery=self.delivery),
            ledger=self.ledger,
            router=Router(self.providers, {p.name: build(p).takes for p in self.providers}, country_of),
            coordination=MemoryCoordination(self.redis),
            metrics=Metrics(self.registry),
            registry=self.registry,
            accept=self._accept,
            report=self._report,
            receipts={p.name: found for p in self.providers if (found := reader(p)) is not None} | self.readers,
            fetcher=self.fetcher,
            stats=self._stats,
            readiness=lambda: self.checks,
            draining=lambda: self.draining,
            actors=lambda: self.actors,
        )

    def _clock(self) -> Clock:
        return self.clock

    def _fault(self, _: str) -> None:
        if self.ledger_down:
            raise LedgerDown("the ledger is down")

    async def _accept(self, acceptance: Acceptance) -> Admission:
        if self.fail_with is not None:
            raise self.fail_with
        if self.full:
            raise MailboxFull("intake")
        if self.held is not None:
            self.arrived.set()
            await self.held.wait()
        [result] = await self.ledger.intake.accept([acceptance], supervisor="s1")
        if isinstance(result, Accepted):
            self.accepted.append(acceptance)
        return result

    async def _report(self, reported: Sequence[Reported]) -> None:
        if self.full:
            raise MailboxFull("receipts")
        self.taken += await self.ledger.receipts.take(reported, keep_s=3600.0)

    async def _stats(self) -> Stats:
        census = await self.ledger.stats.census()
        return Stats(
            messages=census.messages,
            depth=census.due,
            oldest_age_s=census.oldest_due_age_s,
            dead_letters=census.dead_letters,
            rates={"accepted": 1.5, "sent": 1.0, "failed": 0.0},
        )

    async def key(self, *scopes: ScopeName, tenant: str = DEFAULT_TENANT, live: bool = True) -> str:
        """The secret of a new key; without scopes it is an admin's."""
        key, secret = make_key(
            "test", now=self.clock.now(), scopes=scopes or (ScopeName.ADMIN,), tenant=tenant, live=live
        )
        await self.ledger.keys.create(key)
        return secret


@dataclass
class Gateway:
    """Talks to the application without a socket: by the framework's own client, or as bytes over `lines` where it is
    asked as the fast server would. `secret` is an admin's."""

    world: World
    client: TestClientProtocol
    secret: str
    lines: Lines | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        secret: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`body` goes out as JSON; `secret` None sends no key at all."""
        sent = dict(headers or {})
        if secret is not None and "Authorization" not in sent:
            sent["Authorization"] = f"Bearer {secret or self.secret}"
        data = orjson.dumps(body) if body is not None else raw
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        if self.lines is not None:
            return await self.lines.ask(method, path, sent, data or b"")
        response = await self.client.open(path, method=method, headers=sent, data=data)
        return Answer(response.status_code, response.headers, await response.get_data(as_text=False))

    async def get(self, path: str, **how: Any) -> Answer:
        return await self.ask("GET", path, **how)

    async def post(self, path: str, body: Any = None, **how: Any) -> Answer:
        return await self.ask("POST", path, body, **how)

    async def accepted(self, *, secret: str = "", **fields: Any) -> str:
        """The id of a message that was posted: an SMS, with these fields changed."""
        answer = await self.post("/v1/messages", {**SMS, **fields}, secret=secret)
        assert answer.status == 202, answer.raw
        return str(answer.json["id"])


@asynccontextmanager
async def a_gateway(world: World | None = None) -> AsyncIterator[Gateway]:
    world = world or World()
    secret = await world.key()
    front = Front(world.services)
    app = make_app(world.services, front)
    lines = Lines(app, hot_of(front)) if SERVER.get() is Server.FAST else None
    yield Gateway(world, app.test_client(), secret, lines)


@dataclass
class Served:
    """A gateway on a port of its own, for what only a socket shows."""

    world: World
    port: int
    secret: str
    stop: trio.Event


@asynccontextmanager
async def a_served_gateway(world: World | None = None, **settings: int) -> AsyncIterator[Served]:
    world = world or World()
    secret = await world.key()
    stop = trio.Event()
    ports: list[int] = []
    up = trio.Event()

    def ready(_: str, port: int) -> None:
        ports.append(port)
        up.set()

    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            bound = GatewaySettings(port=0, http_server=SERVER.get(), **settings)  # type: ignore[arg-type]
            await serve_gateway(world.services, bound, shutdown_trigger=stop.wait, ready=ready)

        nursery.start_soon(serve)
        await up.wait()
        yield Served(world, ports[0], secret, stop)
        stop.set()
