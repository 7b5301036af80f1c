"""Whole supervisors in virtual time, as a fleet of `heliograph simulate`, with providers that follow a script and a
judge who looks on. Any of them can be killed, cut off from a store, joined by others or drained; either store can lose
its data, its answers, or be away.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Any

import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Settled
from heliograph.actors.model.errors import HeliographError, LedgerDown
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Message, State
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.settings import Config, DeadLetterSettings, DeliverySettings
from heliograph.actors.ports.coordination import BreakerRecord
from heliograph.actors.ports.courier import Begin
from heliograph.actors.ports.ledger import Acceptance, Accepted
from heliograph.actors.simulation.fleet import Fleet, Life
from heliograph.actors.tree.node import ROLES
from tests.support.builders import a_message
from tests.support.judge import BreakerChange, Call, Judge

LONGEST_CALL_S = 3.0
SETTLE_S = 1800.0
CRASH_WITHIN_S = 60.0
SETTLED = frozenset(State) - {State.SCHEDULED, State.QUEUED, State.SENDING}
DELIVERY = DeliverySettings(backoff_cap_s=20.0, unknown_wait_s=5.0, drain_grace_s=5.0)


# ------------------------------------------------------------------------------------------------------ providers


@dataclass(frozen=True, slots=True)
class Spell:
    """What a provider does to a part (`chance`) of the calls that begin in a time. An `unknown` one it has taken or
    not, at a draw."""

    outcome: Outcome
    from_s: float = 0.0
    to_s: float = inf
    chance: float = 1.0
    latency_s: float | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """`can_ask`: it can be asked what became of an attempt. The first spell that a draw finds counts."""

    latency_s: float = 0.05
    spells: tuple[Spell, ...] = ()
    can_ask: bool = True


class ScriptedProvider:
    """One supervisor's courier to a provider. Its truth is the judge's."""

    longest_call_s = LONGEST_CALL_S

    def __init__(self, world: World, life: Life, settings: ProviderSettings) -> None:
        self._world = world
        self._life = life
        self._name = settings.name
        self._script = world.scripts.get(settings.name, Script())
        self.can_ask = self._script.can_ask

    def takes(self, message: Message) -> str | None:
        return None

    def batch_key(self, message: Message) -> Hashable | None:
        return message.channel

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        await trio.lowlevel.checkpoint()
        await self._life.cross()
        begin()
        world, now_s = self._world, trio.current_time()
        world.batches += 1
        answers, made, latency_s = [], [], 0.0
        for call in calls:
            answer, taken, takes_s = self._judge(now_s)
            latency_s = max(latency_s, takes_s)
            answers.append(answer)
            made.append(Call(self._name, self._life.name, call.message, call.number, now_s, taken, batch=world.batches))
            world.judge.begin(made[-1], now_s, record_lost=self._name not in world.redis.data.breakers)
        await trio.sleep(latency_s)
        await self._life.cross()
        for each, answer in zip(made, answers, strict=True):
            each.ended_s, each.answer = trio.current_time(), answer
        return answers

    def _judge(self, now_s: float) -> tuple[Answer, bool, float]:
        draw = self._world.clock.random.random
        for spell in self._script.spells:
            if spell.from_s <= now_s < spell.to_s and draw() < spell.chance:
                latency_s = self._script.latency_s if spell.latency_s is None else spell.latency_s
                answer = Answer(outcome=spell.outcome, code=str(spell.outcome), retry_after_s=spell.retry_after_s)
                taken = spell.outcome is Outcome.ACCEPTED or (spell.outcome is Outcome.UNKNOWN and draw() < 0.5)
                return answer, taken, min(latency_s, LONGEST_CALL_S)
        return Answer(outcome=Outcome.ACCEPTED), True, min(self._script.latency_s * (0.5 + draw()), LONGEST_CALL_S)

    async def ask(self, call: ProviderCall) -> Settled | None:
        await trio.sleep(0.02)
        made = [c for c in self._world.judge.of(self._name) if c.message.id == call.message.id]
        taken = any(c.taken for c in made if c.number == call.number)
        return Settled.ACCEPTED if taken else Settled.NOT_SENT

    async def check(self) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(outcome=Outcome.ACCEPTED)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


# ----------------------------------------------------------------------------------------------------- supervisors


class World:
    """`seed` draws everything. `ledger_fault` is asked at each of the ledger's calls, as `memory_ledger` says."""

    def __init__(
        self,
        nursery: trio.Nursery,
        providers: Sequence[ProviderSettings],
        scripts: Mapping[str, Script] | None = None,
        *,
        seed: int = 0,
        delivery: DeliverySettings = DELIVERY,
    ) -> None:
        self.scripts = dict(scripts or {})
        self.config = Config(
            redis_url="",
            postgres_url="",
            providers=tuple(providers),
            delivery=delivery,
            dead_letters=DeadLetterSettings(auto_retry_s=()),
        )
        self.doubt = 0.0
        self.fleet = Fleet(
            nursery,
            self.config,
            lambda life, settings: ScriptedProvider(self, life, settings),
            lambda _: "IN",
            draw=random.Random(seed),
            ledger_fault=self._in_doubt,
            breaker_changed=self._breaker_changed,
        )
        self.clock = self.fleet.clock
        self.redis = self.fleet.redis
        self.ledger = self.fleet.ledger
        self.store = self.fleet.store
        self.lives = self.fleet.lives
        self.judge = Judge(self.store, {p.name: p for p in providers})
        self.batches = 0
        self._posting = 0

    def _in_doubt(self, call: str) -> None:
        if self.doubt and call.endswith("/done") and self.clock.random.random() < self.doubt:
            raise LedgerDown("PostgreSQL gave no answer to a commit")

    def _breaker_changed(self, life: Life, provider: str, in_force: BreakerRecord) -> None:
        change = BreakerChange(life.name, trio.current_time(), in_force.epoch, in_force.state)
        self.judge.breakers[provider].append(change)

    # -------------------------------------------------------------------------------------------- supervisors

    @property
    def living(self) -> list[Life]:
        return self.fleet.living

    async def start(self, count: int = 1, roles: frozenset[str] = ROLES) -> Life:
        """Start so many, and wait until they run, or are killed before they do."""
        for _ in range(count):
            life = await self.fleet.start(f"s{len(self.lives) + 1}", roles)
        return life

    async def kill(self, life: Life) -> None:
        """SIGKILL: not another word reaches a store, and what was in memory is gone."""
        self.judge.troubled.append((life.name, trio.current_time(), inf))
        await self.fleet.kill(life)

    async def crash(self, life: Life, step: int) -> bool:
        """Have it die at the so-manieth of its next crossings. False where it ended otherwise, or does nothing more."""
        life.crash_in = step
        with trio.move_on_after(CRASH_WITHIN_S):
            await life.ended.wait()
        life.crash_in = None
        if life.killed:
            self.judge.troubled.append((life.name, trio.current_time(), inf))
        return life.killed

    async def pause(self, life: Life, for_s: float) -> None:
        """SIGSTOP, and SIGCONT."""
        now_s = trio.current_time()
        self.judge.troubled.append((life.name, now_s, now_s + for_s))
        life.pause()
        await trio.sleep(for_s)
        life.resume()

    async def drain(self, life: Life) -> None:
        """SIGTERM. What it cannot hand over since a store is away, others find as they find a death."""
        self._note_trouble(life)
        await self.fleet.drain(life)
        self._note_trouble(life)

    def _note_trouble(self, life: Life) -> None:
        if self.fleet.ledger_down or self.doubt or not life.ledger.whole:
            self.judge.troubled.append((life.name, trio.current_time(), inf))

    async def cut(self, life: Life, for_s: float, *, ledger: bool = False, redis: bool = False) -> None:
        if ledger:
            began_s = trio.current_time()
            self.judge.troubled.append((life.name, began_s, began_s + for_s))
        await self.fleet.cut(life, for_s, ledger=ledger, redis=redis)

    async def ledger_away(self, for_s: float) -> None:
        await self.fleet.ledger_away(for_s)

    async def redis_away(self, for_s: float) -> None:
        await self.fleet.redis_away(for_s)

    # ------------------------------------------------------------------------------------------------- traffic

    def message(self, **wanted: Any) -> Message:
        now = self.clock.now()
        known: dict[str, Any] = {
            "id": new_id("msg", now, self.clock.random.getrandbits(80)),
            "created_at": now,
            "expires_at": now + timedelta(seconds=self.config.delivery.expires_after_s),
        }
        return a_message(**known | wanted)

    async def post(self, *messages: Message) -> bool:
        """As a client does, through any living gateway. True: it was answered, so it must not be lost."""
        gateways = [life for life in self.living if "gateway" in life.node.roles]
        if not gateways or not messages:
            return False
        life = self.clock.random.choice(gateways)
        born = tuple(State.SCHEDULED if message.send_at else State.QUEUED for message in messages)
        self._posting += 1
        try:
            with trio.move_on_after(15.0) as patience:
                result = await life.node.accept(Acceptance(messages=messages, states=born))
        except (HeliographError, trio.TooSlowError):
            return False
        finally:
            self._posting -= 1
        if patience.cancelled_caught or not isinstance(result, Accepted):
            return False
        self.judge.accepted.update({m.id: (m, trio.current_time()) for m in messages})
        return True

    async def settle(self, within_s: float = SETTLE_S) -> float:
        """Wait until every message is where it will stay; answers how long that took. It gives up after `within_s`:
        the judge then finds what waits."""
        began_s = trio.current_time()
        while trio.current_time() < began_s + within_s:
            await trio.sleep(0.5)
            if not self._posting and all(self.store.state_of(row) in SETTLED for row in self.store.rows.values()):
                break
        return trio.current_time() - began_s

    async def end(self) -> None:
        """Drain all that live. Nothing may be left in anybody's hand."""
        for life in self.living:
            await self.drain(life)
        in_force = self.store.generation
        if in_force is not None and in_force.run_id == self.redis.run_id:
            hands = self.redis.data.lists[in_force.name].hands if in_force.name in self.redis.data.lists else {}
            if held := {name: ids for name, ids in hands.items() if ids and not self._found_dead(name)}:
                self.judge.wrong.append(f"still in hand after a drain: {held}")
        if claims := {c.supervisor for c in self.store.claims.values() if not self._found_dead(c.supervisor)}:
            self.judge.wrong.append(f"claims left by those that drained: {claims}")

    def _found_dead(self, name: str) -> bool:
        """Others look after what it left: it was killed, or did not say good-bye."""
        return any(life.name == name and (life.killed or life.left_without_word) for life in self.lives)
