"""Stories for hypothesis to draw: who runs, what providers do, what is posted, what breaks; and how one is played."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import trio
from hypothesis import strategies as st
from structlog.testing import capture_logs

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Channel, Priority
from heliograph.actors.model.provider import BreakerSettings, ProviderSettings, Quota, UnknownRule
from heliograph.actors.simulation.virtual import play
from tests.support.builders import a_provider
from tests.support.world import SETTLE_S, Life, Script, Spell, World

LENGTH_S: Final = 30.0
BREAKER: Final = BreakerSettings(minimum_calls=5, open_for_s=3.0)


@dataclass(frozen=True, slots=True)
class Wave:
    """So many messages, evenly over a time."""

    channel: Channel
    priority: Priority
    count: int
    from_s: float
    over_s: float


class Trouble(StrEnum):
    KILL = "kill"
    CRASH = "crash"
    PAUSE = "pause"
    CLOCK = "clock"
    REDIS_CLOCK = "redis_clock"
    JOIN = "join"
    DRAIN = "drain"
    CUT_LEDGER = "cut_ledger"
    CUT_REDIS = "cut_redis"
    LEDGER_AWAY = "ledger_away"
    LEDGER_IN_DOUBT = "ledger_in_doubt"
    REDIS_AWAY = "redis_away"
    REDIS_LOSES_REPLIES = "redis_loses_replies"
    FLUSH = "flush"
    REDIS_ANEW = "redis_anew"
    REDIS_OLD = "redis_old"


@dataclass(frozen=True, slots=True)
class Fault:
    """`who` counts the living; `for_s` is for what passes. `step`: at which of the next crossings to a store or a
    provider, or back, one crashes: what no such await lies between nobody outside can tell apart. `by_s`: how far a
    wall clock steps."""

    trouble: Trouble
    at_s: float
    for_s: float
    who: int
    step: int = 1
    by_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Story:
    """`patience_s`: how long all may take to settle once the faults are over. `lag_s`: the mean of what each crossing
    to a store, and back, takes; then questions overtake each other, and answers tell of a state that is past."""

    supervisors: int
    providers: tuple[tuple[ProviderSettings, Script], ...]
    waves: tuple[Wave, ...]
    faults: tuple[Fault, ...]
    seed: int
    patience_s: float = SETTLE_S
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Played:
    """`crashes`: what was logged of actors that crashed: there is no reason for any. `digest` is of all calls."""

    world: World
    settled_in_s: float
    crashes: list[str]
    digest: str


# ---------------------------------------------------------------------------------------------------- to be drawn

times = st.floats(0.0, LENGTH_S).map(lambda t: round(t, 2))
lengths = st.floats(0.1, 8.0).map(lambda t: round(t, 2))
outcomes = st.sampled_from(
    [Outcome.DEFERRED, Outcome.THROTTLED, Outcome.UNKNOWN, Outcome.REJECTED, Outcome.MISCONFIGURED, Outcome.ACCEPTED]
)
spells = st.builds(
    lambda outcome, from_s, for_s, chance, latency_s, retry_after_s: Spell(
        outcome, from_s, from_s + for_s, chance, latency_s, retry_after_s if outcome is Outcome.THROTTLED else None
    ),
    outcomes,
    times,
    lengths,
    st.sampled_from([0.1, 0.5, 1.0]),
    st.none() | st.floats(0.01, 3.0).map(lambda t: round(t, 2)),
    st.none() | st.sampled_from([0.5, 2.0]),
)


@st.composite
def providers(draw: st.DrawFn, name: str, channel: Channel) -> tuple[ProviderSettings, Script]:
    rate = draw(st.sampled_from([10.0, 25.0, 80.0]))
    settings = a_provider(
        "scripted",
        channel,
        name=name,
        rate=rate,
        burst=draw(st.sampled_from([1.0, 4.0, rate])),
        priority=draw(st.sampled_from([1, 2])),
        concurrency=draw(st.sampled_from([2, 16])),
        batch=draw(st.sampled_from([1, 1, 10])),
        unknown=draw(st.sampled_from([UnknownRule.ASK, UnknownRule.ASK, UnknownRule.RETRY])),
        breaker=BREAKER,
        quota=draw(st.sampled_from([None, None, Quota(40, 20.0)])),
    )
    script = Script(latency_s=draw(st.sampled_from([0.01, 0.1, 0.5])), spells=tuple(draw(st.lists(spells, max_size=3))))
    return settings, script


waves = st.builds(
    Wave,
    st.sampled_from(Channel),
    st.sampled_from(Priority),
    st.integers(1, 60),
    times,
    st.sampled_from([0.0, 2.0, 20.0]),
)
faults = st.builds(
    Fault,
    st.sampled_from(Trouble),
    times,
    lengths,
    st.integers(0, 5),
    st.integers(1, 200),
    st.sampled_from([0.5, -0.5, 30.0, -30.0, 3600.0, -3600.0]),
)


@st.composite
def stories(draw: st.DrawFn, *, faulty: bool) -> Story:
    named = [(f"{channel}-{n}", channel) for channel in Channel for n in range(draw(st.integers(1, 2)))]
    return Story(
        supervisors=draw(st.integers(1, 3)),
        providers=tuple(draw(providers(name, channel)) for name, channel in named),
        waves=tuple(draw(st.lists(waves, min_size=1, max_size=4))),
        faults=tuple(draw(st.lists(faults, min_size=1, max_size=5))) if faulty else (),
        seed=draw(st.integers(0, 2**32 - 1)),
        lag_s=draw(st.sampled_from([0.0, 0.0, 0.001, 0.01])) if faulty else 0.0,
    )


# ------------------------------------------------------------------------------------------------------- to be played


def tell(story: Story) -> Played:
    """Play a story to its end: all faults are over, all is settled, everybody was drained."""
    with capture_logs() as logs:
        world, settled_in_s = play(lambda: _unfold(story), story.seed)
    crashes = [str(entry) for entry in logs if entry["event"] in ("actor.crashed", "provider.bug")]
    calls = "\n".join(f"{call} {call.taken} {call.ended_s}" for call in world.judge.calls)
    return Played(world, settled_in_s, crashes, hashlib.sha256(calls.encode()).hexdigest())


async def _unfold(story: Story) -> tuple[World, float]:
    async with trio.open_nursery() as nursery:
        world = World(
            nursery, [p for p, _ in story.providers], {p.name: s for p, s in story.providers}, seed=story.seed
        )
        world.fleet.lag_s = story.lag_s
        await world.start(story.supervisors)
        async with trio.open_nursery() as happening:
            for wave in story.waves:
                happening.start_soon(_post, world, wave)
            for fault in story.faults:
                happening.start_soon(_break, world, fault)
        if not world.living:
            await world.start()
        settled_in_s = await world.settle(story.patience_s)
        await world.end()
        nursery.cancel_scope.cancel()
    return world, settled_in_s


async def _post(world: World, wave: Wave) -> None:
    await trio.sleep(wave.from_s)
    to = "+919876543210" if wave.channel is Channel.SMS else "asha@example.net"
    if wave.over_s == 0.0:
        await world.post(*[world.message(to=to, priority=wave.priority) for _ in range(wave.count)])
        return
    async with trio.open_nursery() as nursery:
        for _ in range(wave.count):
            nursery.start_soon(world.post, world.message(to=to, priority=wave.priority))
            await trio.sleep(wave.over_s / wave.count)


async def _break(world: World, fault: Fault) -> None:
    await trio.sleep(fault.at_s)
    life: Life | None = world.living[fault.who % len(world.living)] if world.living else None
    match fault.trouble:
        case Trouble.JOIN:
            await world.start()
        case Trouble.KILL if life:
            await world.kill(life)
            await trio.sleep(fault.for_s)
            await world.start()
        case Trouble.CRASH if life:
            if await world.crash(life, fault.step):
                await trio.sleep(fault.for_s)
                await world.start()
        case Trouble.PAUSE if life:
            await world.pause(life, fault.for_s)
        case Trouble.CLOCK if life:
            life.clock.stepped_s += fault.by_s
        case Trouble.REDIS_CLOCK:
            world.redis.set_clock(fault.by_s)
        case Trouble.DRAIN if life:
            await world.drain(life)
            await world.start()
        case Trouble.CUT_LEDGER if life:
            await world.cut(life, fault.for_s, ledger=True)
        case Trouble.CUT_REDIS if life:
            await world.cut(life, fault.for_s, redis=True)
        case Trouble.LEDGER_AWAY:
            await world.ledger_away(fault.for_s)
        case Trouble.LEDGER_IN_DOUBT:
            world.doubt = 0.2
            await trio.sleep(fault.for_s)
            world.doubt = 0.0
        case Trouble.REDIS_AWAY:
            await world.redis_away(fault.for_s)
        case Trouble.REDIS_LOSES_REPLIES:
            world.redis.lose_replies(20)
        case Trouble.FLUSH:
            world.redis.flush()
        case Trouble.REDIS_ANEW:
            world.redis.replace()
        case Trouble.REDIS_OLD:
            old = world.redis.snapshot()
            await trio.sleep(fault.for_s)
            world.redis.replace(old)
        case _:
            await trio.lowlevel.checkpoint()
