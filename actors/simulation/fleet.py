"""Supervisors in virtual time over one ledger and one Redis in memory, and what can befall each of them.

Nothing in here is a model of the product: what runs is what runs in production, but for the adapters. Who plays
something on it brings the couriers, and says who is started, killed, paused or cut off, and when.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final

import trio

from heliograph.actors.kernel.clock import VirtualClock
from heliograph.actors.kernel.supervision import Group, Supervisor
from heliograph.actors.ledger.memory import memory_ledger
from heliograph.actors.model.errors import HeliographError, LedgerDown, QueueDown
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.settings import Config
from heliograph.actors.ports.coordination import BreakerRecord
from heliograph.actors.ports.courier import Courier
from heliograph.actors.ports.ledger import Ledger
from heliograph.actors.queue.memory import MemoryCoordination, MemoryQueue, MemoryRedis
from heliograph.actors.tree.node import ROLES, Adapters, Node

Pause = Callable[[], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Way:
    """A supervisor's line to one of the stores. What is cut gives no answer, also to what was asked before."""

    store: str
    trouble: type[HeliographError]
    whole: bool = True


@dataclass(eq=False)
class Life:
    """One supervisor from its start to its end.

    `wakes` is set while it is paused. `crash_in` counts down the crossings (of a question to a store or a provider, and
    of its answer) that are left to it: at the last one it dies on the spot. `lag_s` is the mean time that each crossing
    takes, drawn anew each time: so that questions overtake each other, and an answer may be of a state that is past.
    """

    name: str
    clock: VirtualClock
    lag_s: float = 0.0
    node: Node = field(init=False)
    supervisor: Supervisor = field(init=False)
    ledger: Way = field(default_factory=lambda: Way("PostgreSQL", LedgerDown))
    redis: Way = field(default_factory=lambda: Way("Redis", QueueDown))
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    runs: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    killed: bool = False
    left_without_word: bool = False
    """It was drained, and could not say good-bye, since a store was away: others find that as they find a death."""
    wakes: trio.Event | None = None
    crash_in: int | None = None
    _killed_by: Callable[[Life], None] = field(default=lambda _: None)

    @property
    def living(self) -> bool:
        return not self.killed and not self.ended.is_set()

    async def awake(self) -> None:
        while self.wakes is not None:
            await self.wakes.wait()

    async def cross(self) -> None:
        """A moment between asking and the effect, or between the effect and its answer."""
        if self.lag_s:
            await trio.sleep(self.clock.random.expovariate(1.0 / self.lag_s))
        await self.awake()
        if self.crash_in is None or self.killed:
            return
        self.crash_in -= 1
        if self.crash_in <= 0:
            self._killed_by(self)
            await trio.lowlevel.checkpoint_if_cancelled()

    def pause(self) -> None:
        """SIGSTOP, by and large: it neither asks nor hears, until `resume`. Its timers go on, and find nobody."""
        self.wakes = self.wakes or trio.Event()

    def resume(self) -> None:
        wakes, self.wakes = self.wakes, None
        if wakes is not None:
            wakes.set()


class Line:
    """A port as one supervisor has it, over a way that may be cut before a question arrives, or before its answer."""

    def __init__(self, port: Any, life: Life, way: Way, pause: Pause) -> None:
        self._port, self._life, self._way, self._pause = port, life, way, pause
        for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction):
            setattr(self, name, partial(self._ask, name))

    async def _ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        await self._pause()
        await self._cross()
        result = await getattr(self._port, name)(*args, **kwargs)
        await self._cross()
        return result

    async def _cross(self) -> None:
        await self._life.cross()
        if not self._way.whole:
            raise self._way.trouble(f"{self._way.store} gave no answer: the line is cut")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


class _Coordination(MemoryCoordination):
    """Tells of each change of a breaker."""

    def __init__(self, server: MemoryRedis, life: Life, fleet: Fleet) -> None:
        super().__init__(server)
        self._life = life
        self._fleet = fleet

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        in_force = await super().change(provider, expected_epoch=expected_epoch, record=record)
        entry, seen = self._server.data.breakers.get(provider), self._fleet.breakers
        if entry is not seen.get(provider):  # an epoch may come again after a loss; an object does not
            seen[provider] = entry
            self._fleet.breaker_changed(self._life, provider, in_force)
        return in_force


class Fleet:
    """`courier` makes one supervisor's way to a provider. `lined`: the supervisors get lines that can be cut, paused
    and counted; without them nothing can befall one, which spares a tenth of the time. `pause` is awaited before each
    call to a store: trio's checkpoint, or one that lets nobody else run. `ledger_fault` is `memory_ledger`'s."""

    def __init__(
        self,
        nursery: trio.Nursery,
        config: Config,
        courier: Callable[[Life, ProviderSettings], Courier],
        country_of: Callable[[str], str | None],
        *,
        draw: random.Random,
        lined: bool = True,
        pause: Pause = trio.lowlevel.checkpoint,
        ledger_fault: Callable[[str], None] | None = None,
        breaker_changed: Callable[[Life, str, BreakerRecord], None] = lambda *_: None,
    ) -> None:
        self.config: Final = config
        self.breaker_changed: Final = breaker_changed
        self.breakers: Final[dict[str, object]] = {}
        """Their records, as last seen by whoever changed them."""
        self.time: Final = trio.lowlevel.current_clock().current_time
        self.clock: Final = VirtualClock(draw, time=self.time)
        self.redis: Final = MemoryRedis(self.time, pause)
        self.ledger_down = False
        self.ledger: Final[Ledger] = memory_ledger(self.clock.now, self._ledger_fault, pause)
        self.store: Final = self.ledger.delivery.store  # type: ignore[attr-defined]
        self.lives: Final[list[Life]] = []
        """All that ever were, in the order of their starts."""
        self.lag_s = 0.0
        self.fitted: Callable[[Adapters], Adapters] = lambda adapters: adapters
        """The last word on the adapters of each that starts."""
        self._nursery = nursery
        self._courier = courier
        self._country_of = country_of
        self._lined = lined
        self._pause = pause
        self._fault = ledger_fault

    def _ledger_fault(self, call: str) -> None:
        if self.ledger_down:
            raise LedgerDown("PostgreSQL gave no answer")
        if self._fault is not None:
            self._fault(call)

    @property
    def living(self) -> list[Life]:
        return [life for life in self.lives if life.living]

    async def start(self, name: str, roles: frozenset[str] = ROLES) -> Life:
        """Start one, and wait until it runs, or is killed before it does."""
        life = Life(name, VirtualClock(self.clock.random, time=self.time), self.lag_s, _killed_by=self.strike)
        life.node = Node(self.config, self.fitted(self.adapters(life)), roles=roles, supervisor=name, clock=life.clock)
        life.supervisor = Supervisor(Group(name="heliograph", children=life.node.children()), life.clock)
        self.lives.append(life)
        await self._nursery.start(self._live, life)
        return life

    def adapters(self, life: Life) -> Adapters:
        """What a supervisor reaches the world by."""
        ledger, queue = self.ledger, MemoryQueue(self.redis, life.name)
        coordination = _Coordination(self.redis, life, self)
        couriers = {p.name: self._courier(life, p) for p in self.config.providers}
        if not self._lined:
            return Adapters(
                ledger=ledger, queue=queue, coordination=coordination, couriers=couriers, country_of=self._country_of
            )
        parts: Any = {f.name: Line(getattr(ledger, f.name), life, life.ledger, self._pause) for f in fields(Ledger)}
        lines: Any = {
            "queue": Line(queue, life, life.redis, self._pause),
            "coordination": Line(coordination, life, life.redis, self._pause),
        }
        return Adapters(ledger=Ledger(**parts), couriers=couriers, country_of=self._country_of, **lines)

    async def _live(self, life: Life, task_status: trio.TaskStatus[None]) -> None:
        with life.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(life.supervisor.run)
                life.runs.set()
                task_status.started()
        life.ended.set()
        if not life.runs.is_set():
            task_status.started()

    async def drain(self, life: Life) -> None:
        """SIGTERM, to its end."""
        await life.supervisor.drain()
        await life.ended.wait()
        try:
            life.left_without_word = not await life.node.leave()
        except (LedgerDown, QueueDown):
            life.left_without_word = True

    # ------------------------------------------------------------------------------------------------ faults

    def strike(self, life: Life) -> None:
        """SIGKILL: not another word of it reaches a store, and what is in its memory is gone."""
        life.killed = True
        life.ledger.whole = life.redis.whole = False
        life.resume()
        life.scope.cancel()

    async def kill(self, life: Life) -> None:
        self.strike(life)
        await life.ended.wait()

    async def cut(self, life: Life, for_s: float, *, ledger: bool = False, redis: bool = False) -> None:
        life.ledger.whole, life.redis.whole = not ledger, not redis
        await trio.sleep(for_s)
        if life.living:
            life.ledger.whole = life.redis.whole = True

    async def ledger_away(self, for_s: float) -> None:
        self.ledger_down = True
        await trio.sleep(for_s)
        self.ledger_down = False

    async def redis_away(self, for_s: float) -> None:
        self.redis.down(True)
        await trio.sleep(for_s)
        self.redis.down(False)
