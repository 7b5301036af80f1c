"""Supervisors in virtual time over one ledger and one Redis in memory, and what befalls them.

Nothing in here is a model of the product: what runs is what runs in production, but for the adapters.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from math import inf
from typing import Any, Final, assert_never

import trio
from trio.testing import MockClock

from heliograph.actors.kernel.clock import VirtualClock
from heliograph.actors.kernel.supervision import Group, Supervisor
from heliograph.actors.ledger.memory import memory_ledger
from heliograph.actors.model.errors import HeliographError, LedgerDown, QueueDown
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import LANES, Channel, EmailContent, Lane, Message, Priority, SmsContent, State
from heliograph.actors.model.settings import Config
from heliograph.actors.policy.lifecycle import AT_REST, DEAD
from heliograph.actors.ports.coordination import BreakerRecord
from heliograph.actors.ports.courier import Courier
from heliograph.actors.ports.ledger import Acceptance, Accepted, Ledger
from heliograph.actors.queue.memory import MemoryCoordination, MemoryQueue, MemoryRedis
from heliograph.actors.simulation.courier import Account, SimulatedCourier
from heliograph.actors.simulation.record import Record
from heliograph.actors.simulation.scenario import Fault, FaultKind, Scenario, ScenarioError, Timeline, Traffic
from heliograph.actors.tree.node import ROLES, Adapters, Node

SWEEP_S: Final = 60.0
"""How often what has come to rest is forgotten."""
SAMPLES: Final = 288
QUIET_S: Final = 30.0
"""How long nothing must have waited, and how long before the next event everybody is at work again."""
CLIENT_RETRY_S: Final = 1.0
RESTART_S: Final = 2.0
"""How long PostgreSQL is away where a scenario does not say."""
SETTLE_WITHIN_S: Final = 7 * 86_400.0
DONE: Final = AT_REST - DEAD
SMS: Final = SmsContent(text="Your order has shipped.", sender_id="HELIOS")
EMAIL: Final = EmailContent(subject="Your order", text="Your order has shipped.", sender="shop@example.com")


@dataclass(eq=False, slots=True)
class Life:
    """One supervisor from its start to its end."""

    name: str
    node: Node = field(init=False)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    killed: bool = False
    wakes: trio.Event | None = None
    """Set while it is paused."""

    async def awake(self) -> None:
        while self.wakes is not None:
            await self.wakes.wait()


class _Line:
    """A port as one supervisor has it: no answer to a dead one, and a paused one neither asks nor hears."""

    def __init__(self, port: Any, life: Life, trouble: type[HeliographError]) -> None:
        for name, method in inspect.getmembers(port, inspect.iscoroutinefunction):
            setattr(self, name, self._over(method, life, trouble))
        self._port = port

    @staticmethod
    def _over(
        method: Callable[..., Awaitable[Any]], life: Life, trouble: type[HeliographError]
    ) -> Callable[..., Awaitable[Any]]:
        async def over(*args: Any, **kwargs: Any) -> Any:
            await life.awake()
            if life.killed:
                raise trouble("this supervisor was killed")
            result = await method(*args, **kwargs)
            await life.awake()
            return result

        return over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


class _Coordination(MemoryCoordination):
    """Tells the record of each change of a breaker."""

    def __init__(self, server: MemoryRedis, record: Record) -> None:
        super().__init__(server)
        self._record_of_run = record

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        before = self._server.data.breakers.get(provider)
        in_force = await super().change(provider, expected_epoch=expected_epoch, record=record)
        if self._server.data.breakers.get(provider) is not before:
            self._record_of_run.changed(provider, in_force.state, trio.current_time())
        return in_force


class Cluster:
    """`couriers` are the real ones, by provider: asked what their kinds can carry, never told to send."""

    def __init__(
        self,
        nursery: trio.Nursery,
        scenario: Scenario,
        config: Config,
        couriers: Mapping[str, Courier],
        country_of: Callable[[str], str | None],
    ) -> None:
        self._nursery = nursery
        self._scenario = scenario
        reached = (replace(p, receipts={}) for p in config.providers if not p.test_only)  # of whom nobody reports here
        self._config = replace(config, providers=tuple(reached))
        self._country_of = country_of
        self._clock = VirtualClock(self._draw("cluster"))
        self._redis = MemoryRedis(pause=trio.lowlevel.checkpoint_if_cancelled)
        self._ledger_down = False
        self._ledger: Ledger = memory_ledger(self._clock.now, self._ledger_fault, trio.lowlevel.checkpoint_if_cancelled)
        self._store = self._ledger.delivery.store  # type: ignore[attr-defined]
        self.record = Record(self._config.providers, scenario.duration_s / SAMPLES)
        self._accounts = {
            p.name: Account(
                p,
                couriers[p.name],
                Timeline(tuple(b for b in scenario.behaviours if b.provider == p.name)),
                self._draw(f"provider {p.name}"),
            )
            for p in self._config.providers
        }
        self._lives: list[Life] = []
        self._started = 0
        self._turn = 0
        self._posting: list[Message] = []
        self._posted = trio.Event()
        self._busy_posting = False
        self._coming = [0.0] * len(scenario.traffic)
        """When each traffic's next message comes."""
        self._befallen = 0

    def _draw(self, what: str) -> random.Random:
        """Each part draws for itself, so that one more supervisor changes no arrival and no latency's luck."""
        return random.Random(f"{self._scenario.seed}/{what}")  # noqa: S311 - a simulation, to be repeated

    def _ledger_fault(self, _call: str) -> None:
        if self._ledger_down:
            raise LedgerDown("PostgreSQL gave no answer")

    # ------------------------------------------------------------------------------------------------ the run

    async def run(self) -> float:
        """Play the scenario until all is settled; answers when that was."""
        for _ in range(self._scenario.supervisors):
            self._lives.append(await self._start())
        self._nursery.start_soon(self._post)
        self._nursery.start_soon(self._look)
        self._nursery.start_soon(self._leap_over_quiet)
        async with trio.open_nursery() as happening:
            for number, traffic in enumerate(self._scenario.traffic):
                happening.start_soon(self._arrive, number, traffic)
            for fault in self._scenario.faults:
                happening.start_soon(self._befall, fault)
            await trio.sleep_until(self._scenario.duration_s)
        with trio.move_on_after(SETTLE_WITHIN_S):
            await self._settle()
        settled_s = trio.current_time()
        self._forget_what_rests()
        self._nursery.cancel_scope.cancel()
        return settled_s

    async def _settle(self) -> None:
        while not self._settled() and any(not life.killed for life in self._lives):  # noqa: ASYNC110 - time is virtual
            await trio.sleep(1.0)

    def states(self) -> Counter[State]:
        """Of all messages, at the end."""
        return self.record.gone + Counter(self._store.state_of(row) for row in self._store.rows.values())

    async def _start(self) -> Life:
        self._started += 1
        life = Life(f"supervisor-{self._started}")
        life.node = Node(self._config, self._adapters(life), roles=ROLES, supervisor=life.name, clock=self._clock)
        await self._nursery.start(self._live, life)
        return life

    def _adapters(self, life: Life) -> Adapters:
        queue, coordination = MemoryQueue(self._redis, life.name), _Coordination(self._redis, self.record)
        faulty = any(f.supervisor is not None for f in self._scenario.faults)
        ledger: Any = self._ledger
        if faulty:
            parts: Any = {f.name: _Line(getattr(self._ledger, f.name), life, LedgerDown) for f in fields(Ledger)}
            ledger = Ledger(**parts)
        return Adapters(
            ledger=ledger,
            queue=_Line(queue, life, QueueDown) if faulty else queue,
            coordination=_Line(coordination, life, QueueDown) if faulty else coordination,
            couriers={
                name: SimulatedCourier(account, self.record, life.awake if faulty else None)
                for name, account in self._accounts.items()
            },
            country_of=self._country_of,
        )

    async def _live(self, life: Life, task_status: trio.TaskStatus[None]) -> None:
        supervisor = Supervisor(Group(name="heliograph", children=life.node.children()), self._clock)
        with life.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                task_status.started()
        life.ended.set()

    # ------------------------------------------------------------------------------------------------ faults

    async def _befall(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at_s)
        self._befallen += 1
        match fault.kind:
            case FaultKind.KILL:
                await self._kill(fault)
            case FaultKind.PAUSE:
                life = self._life(fault)
                life.wakes = wakes = trio.Event()
                await trio.sleep(fault.for_s or 0.0)
                life.wakes = None
                wakes.set()
            case FaultKind.REDIS_LOSS:
                self._redis.down(True)
                await trio.sleep(fault.for_s or 0.0)
                self._redis.replace()
                self._redis.down(False)
            case FaultKind.POSTGRES_RESTART:
                self._ledger_down = True
                await trio.sleep(RESTART_S if fault.for_s is None else fault.for_s)
                self._ledger_down = False
            case _ as never:
                assert_never(never)
        self._befallen -= 1

    def _life(self, fault: Fault) -> Life:
        if fault.supervisor is None or fault.supervisor > len(self._lives):
            raise ScenarioError(f"fault at {fault.at_s:g} s: there is no such supervisor")
        return self._lives[fault.supervisor - 1]

    async def _kill(self, fault: Fault) -> None:
        """Not another word of it reaches a store, and what was in memory is gone."""
        life = self._life(fault)
        life.killed = True
        if life.wakes is not None:
            life.wakes.set()
            life.wakes = None
        life.scope.cancel()
        await life.ended.wait()
        if fault.for_s is not None and fault.supervisor is not None:
            await trio.sleep(fault.for_s)
            self._lives[fault.supervisor - 1] = await self._start()

    # ----------------------------------------------------------------------------------------------- traffic

    async def _arrive(self, number: int, traffic: Traffic) -> None:
        draw = self._draw(f"traffic {number}")
        for counted, at_s in enumerate(traffic.arrivals(draw, self._scenario.duration_s), 1):
            self._coming[number] = at_s
            await trio.sleep_until(at_s)
            message = self._message(traffic, number, counted, draw)
            if counted == 1:
                self._check_route(traffic, message, number)
            self._posting.append(message)
            self._posted.set()
        self._coming[number] = inf

    def _message(self, traffic: Traffic, number: int, counted: int, draw: random.Random) -> Message:
        now = self._clock.now()
        sms = traffic.channel is Channel.SMS
        return Message(
            id=new_id("msg", now, draw.getrandbits(80)),
            tenant="default",
            key_id="key_simulated",
            live=True,
            channel=traffic.channel,
            priority=traffic.priority,
            category=traffic.category,
            to=_number(traffic.country, counted) if sms else f"person-{number}-{counted}@example.net",
            content=SMS if sms else EMAIL,
            created_at=now,
            expires_at=now + timedelta(seconds=self._config.delivery.expires_after_s),
            providers=traffic.providers,
            tags=traffic.tags,
            parts=1 if sms else None,
        )

    def _check_route(self, traffic: Traffic, message: Message, number: int) -> None:
        candidates = self._lives[0].node.router.candidates(message)
        if not candidates.names:
            why = ", ".join(f"{name}: {word}" for name, word in candidates.refused.items()) or "there is none"
            raise ScenarioError(f"traffic {number + 1}: no provider takes its {traffic.channel} messages ({why})")

    async def _post(self) -> None:
        """The clients: what a gateway cannot take now, they post again in a second, to any gateway that answers."""
        while True:
            await self._posted.wait()
            self._posted = trio.Event()
            messages, self._posting = tuple(self._posting), []
            self._busy_posting = True
            for message in messages:
                self.record.post(message, trio.current_time())
            while not await self._accepted(messages):
                self.record.refused += len(messages)
                await trio.sleep(CLIENT_RETRY_S)
            now_s = trio.current_time()
            for message in messages:
                self.record.accept(message, now_s)
            self._busy_posting = False

    async def _accepted(self, messages: tuple[Message, ...]) -> bool:
        gateways = [life for life in self._lives if not life.killed and life.wakes is None]
        if not gateways:
            return False
        self._turn += 1
        node = gateways[self._turn % len(gateways)].node
        try:
            result = await node.accept(Acceptance(messages=messages, states=(State.QUEUED,) * len(messages)))
        except (HeliographError, trio.TooSlowError):
            return False
        return isinstance(result, Accepted)

    # ------------------------------------------------------------------------------------------- looking on

    async def _leap_over_quiet(self) -> None:
        """Where nothing waits and nothing is going to happen for long, time leaps once, as on a machine that was
        suspended: supervisors that only beat their hearts through a night would cost most of the run."""
        clock = trio.lowlevel.current_clock()
        while True:
            await trio.sleep(QUIET_S)
            now_s = trio.current_time()
            to_come = (fault.at_s for fault in self._scenario.faults if fault.at_s > now_s)
            next_s = min([*self._coming, *to_come, max(self._scenario.duration_s, now_s)])
            spare_s = next_s - now_s - QUIET_S
            if spare_s > QUIET_S and not self._befallen and self._settled() and isinstance(clock, MockClock):
                clock.jump(spare_s)

    async def _look(self) -> None:
        every_s, swept_s = min(self.record.part_s, SWEEP_S), 0.0
        while True:
            await trio.sleep(every_s)
            now_s = trio.current_time()
            self.record.waiting(now_s, {p: sum(len(self._store.free[Lane(c, p)]) for c in Channel) for p in Priority})
            if now_s - swept_s >= SWEEP_S:
                swept_s = now_s
                self._forget_what_rests()

    def _forget_what_rests(self) -> None:
        """What nothing can move any more need not be kept: a day has a million of them."""
        forgotten = [row for row in self._store.rows.values() if row.standing.state in DONE]
        for row in forgotten:
            if row.id not in self._store.claims:
                self.record.gone[row.standing.state] += 1
                self._store.forget(row)

    def _settled(self) -> bool:
        """Nothing waits, nothing is in the air, and no dead letter is to be tried again by itself."""
        return (
            not self._posting
            and not self._busy_posting
            and not self._store.claims
            and not any(self._store.free[lane] for lane in LANES)
            and all(letter.next_auto_retry_at is None for letter in self._store.letters.values())
        )

    def lost(self) -> int:
        """Accepted, and neither at rest nor waiting: to be found nowhere."""
        return self.record.accepted - sum(self.states().values())


def _number(country: str, counted: int) -> str:
    """A number of a country, in turn; of India, a mobile one."""
    return (
        f"{CALLING[country]}{9_000_000_000 + counted % 1_000_000_000}"
        if country == "IN"
        else (f"{CALLING[country]}{700_000_000 + counted % 100_000_000}")
    )


CALLING: Final = {"IN": "+91", "GB": "+44", "US": "+1", "ZA": "+27", "DE": "+49", "AE": "+971", "SG": "+65"}
