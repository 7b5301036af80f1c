"""A scenario on a fleet of supervisors: who posts what and when, and what befalls whom."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from math import inf
from typing import Final, assert_never

import trio

from heliograph.actors.model.errors import HeliographError
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import LANES, Channel, EmailContent, Lane, Message, Priority, SmsContent, State
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.settings import Config
from heliograph.actors.policy.lifecycle import AT_REST, DEAD
from heliograph.actors.ports.courier import Courier
from heliograph.actors.ports.ledger import Acceptance, Accepted
from heliograph.actors.simulation.courier import Account, SimulatedCourier
from heliograph.actors.simulation.fleet import Fleet, Life
from heliograph.actors.simulation.record import Record
from heliograph.actors.simulation.scenario import Fault, FaultKind, Scenario, ScenarioError, Timeline, Traffic
from heliograph.actors.simulation.virtual import LeapingClock

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
        self._lined = any(f.supervisor is not None for f in scenario.faults)
        self._fleet = Fleet(
            nursery,
            self._config,
            self._courier,
            country_of,
            draw=self._draw("cluster"),
            lined=self._lined,
            pause=trio.lowlevel.checkpoint_if_cancelled,
            breaker_changed=lambda _, provider, in_force: self.record.changed(
                provider, in_force.state, trio.current_time()
            ),
        )
        self._clock = self._fleet.clock
        self._store = self._fleet.store
        self._lives: list[Life] = []
        """The scenario's supervisors, each as its last incarnation."""
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

    def _courier(self, life: Life, settings: ProviderSettings) -> SimulatedCourier:
        return SimulatedCourier(self._accounts[settings.name], self.record, life.awake if self._lined else None)

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
        return await self._fleet.start(f"supervisor-{len(self._fleet.lives) + 1}")

    # ------------------------------------------------------------------------------------------------ faults

    async def _befall(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at_s)
        self._befallen += 1
        match fault.kind:
            case FaultKind.KILL:
                await self._kill(fault)
            case FaultKind.PAUSE:
                life = self._life(fault)
                life.pause()
                await trio.sleep(fault.for_s or 0.0)
                life.resume()
            case FaultKind.REDIS_LOSS:
                redis = self._fleet.redis
                redis.down(True)
                await trio.sleep(fault.for_s or 0.0)
                redis.replace()
                redis.down(False)
            case FaultKind.POSTGRES_RESTART:
                await self._fleet.ledger_away(RESTART_S if fault.for_s is None else fault.for_s)
            case _ as never:
                assert_never(never)
        self._befallen -= 1

    def _life(self, fault: Fault) -> Life:
        if fault.supervisor is None or fault.supervisor > len(self._lives):
            raise ScenarioError(f"fault at {fault.at_s:g} s: there is no such supervisor")
        return self._lives[fault.supervisor - 1]

    async def _kill(self, fault: Fault) -> None:
        await self._fleet.kill(self._life(fault))
        if fault.for_s is not None and fault.supervisor is not None:
            await trio.sleep(fault.for_s)
            self._lives[fault.supervisor - 1] = await self._start()

    # ----------------------------------------------------------------------------------------------- traffic

    async def _arrive(self, number: int, traffic: Traffic) -> None:
        draw, ids = self._draw(f"traffic {number}"), self._draw(f"ids {number}")
        for counted, at_s in enumerate(traffic.arrivals(draw, self._scenario.duration_s), 1):
            self._coming[number] = at_s
            await trio.sleep_until(at_s)
            message = self._message(traffic, number, counted, ids)
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
            if spare_s > QUIET_S and not self._befallen and self._settled() and isinstance(clock, LeapingClock):
                clock.leap(spare_s)

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
