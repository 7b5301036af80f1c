"""One pretended Redis, one ledger in memory, and single actors between them, in virtual time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from heliograph.actors.kernel.actor import Actor, Inbox, Mailbox
from heliograph.actors.kernel.clock import VirtualClock
from heliograph.actors.ledger.memory import memory_ledger
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Message, State
from heliograph.actors.ports.ledger import Acceptance
from heliograph.actors.ports.queue import Hint
from heliograph.actors.queue.memory import MemoryQueue, MemoryRedis
from tests.support.builders import a_message


class Before:
    """Any port; before each of its calls `hook` is awaited with the call's name, and may dally or raise."""

    def __init__(self, port: Any, hook: Callable[[str], Awaitable[None]]) -> None:
        self._port = port
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._hook(name)
            return await method(*args, **kwargs)

        return call


class Stage:
    """`ledger_down` makes every call of the ledger fail. A name in `lost_calls` (`cluster.beat`) makes the next call of
    that name fail before it took effect, one in `lost_answers` after it did."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.clock = VirtualClock(random.Random(1))
        self.redis = MemoryRedis()
        self.ledger = memory_ledger(self.clock.now, self._fault)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self._numbers = itertools.count()
        self.ledger_down = False
        self.lost_calls: set[str] = set()
        self.lost_answers: set[str] = set()
        self.living: set[str] = set()
        """Names of the actors that were started and have not ended."""

    def _fault(self, moment: str) -> None:
        name, _, done = moment.partition("/")
        lost = self.lost_answers if done else self.lost_calls
        if self.ledger_down or name in lost:
            lost.discard(name)
            raise LedgerDown("PostgreSQL gave no answer", asked=bool(done))

    def queue(self, supervisor: str) -> MemoryQueue:
        return MemoryQueue(self.redis, supervisor)

    async def start(self, name: str, build: Callable[[], Actor[Any]]) -> tuple[Mailbox[Any], trio.CancelScope]:
        """An actor, until its mailbox is closed (or its scope cancelled, which is its death)."""
        mailbox: Mailbox[Any] = Mailbox(name, 100, self.clock)
        inbox: Inbox[Any] = Inbox(mailbox)
        scope = trio.CancelScope()

        async def live() -> None:
            with scope:
                await build().run(inbox)
            self.living.discard(name)

        self.living.add(name)
        self._nursery.start_soon(live)
        await inbox.ready.wait()
        return mailbox, scope

    async def accept(
        self, count: int = 1, *, in_s: float | None = None, by: str = "gateway", **fields: Any
    ) -> list[Hint]:
        """Messages committed by a supervisor, whose hints nobody was told of. With `in_s` they are scheduled."""
        now = self.clock.now()
        messages = [self.message(in_s, **fields) for _ in range(count)]
        state = State.QUEUED if in_s is None else State.SCHEDULED
        await self.ledger.intake.accept([Acceptance(messages=tuple(messages), states=(state,) * count)], supervisor=by)
        assert self.clock.now() == now
        return [Hint(message.id, message.lane) for message in messages]

    def message(self, in_s: float | None = None, **fields: Any) -> Message:
        """One of now; with `in_s` to be sent then."""
        now = self.clock.now()
        known: dict[str, Any] = {
            "id": new_id("msg", now, next(self._numbers)),
            "created_at": now,
            "expires_at": now + timedelta(days=1),
            "send_at": None if in_s is None else now + timedelta(seconds=in_s),
        }
        return a_message(**known | fields)

    async def state(self, hint: Hint) -> State:
        return (await self.ledger.messages.get(hint.message_id, tenant=None)).standing.state
