"""The protocol of one message as a small model, whose every interleaving is visited.

One message, two supervisors, one reaper; at any step a crash, a pause, a flush, a doubled hint, a cancel. Time is
counted in ticks: a right to a call is good for its first tick, a call ends within the next one (its time-out), and the
reaper may close a claim from the tick after that. Edges of the message are `policy.lifecycle`'s own. `Guards` can be
taken out one by one, to see that each is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.message import State
from heliograph.actors.policy.lifecycle import Event, move

MOST_ATTEMPTS = 2
MOST_HINTS = 2
OVERDUE = 2


class Phase(IntEnum):
    IDLE = 0
    HINT = 1  # has taken a hint
    RIGHT = 2  # has won the claim of `number`; nothing was sent
    CALL = 3  # the call is in the air
    ANSWER = 4  # knows the outcome, and has not written it yet


class Worker(NamedTuple):
    """A supervisor. `age` counts ticks since it asked for its right, as its own clock does, also while it is paused."""

    phase: Phase = Phase.IDLE
    number: int = 0
    age: int = 0
    outcome: Outcome | None = None
    paused: bool = False


class Claim(NamedTuple):
    number: int
    owner: int
    age: int = 0


class Logged(NamedTuple):
    number: int
    outcome: Outcome
    settled: Settled | None = None


class World(NamedTuple):
    """`calls` are the numbers in the order of their first bytes; `taken` those that the provider has."""

    state: State = State.QUEUED
    attempts: int = 0
    claim: Claim | None = None
    landed: bool = False
    log: tuple[Logged, ...] = ()
    lane: int = 1
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    calls: tuple[int, ...] = ()
    taken: frozenset[int] = frozenset()
    crashes: int = 1
    pauses: int = 1
    flushes: int = 1
    wrong: str | None = None

    @property
    def settled(self) -> bool:
        return self.claim is None and self.state is not State.QUEUED


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """`deadline`: no first byte after one's own deadline. `claim`: one right at a time, and only to a message that
    waits. `patience`: the reaper waits for the longest call. `mark`: late truth is kept while a newer attempt runs."""

    deadline: bool = True
    claim: bool = True
    patience: bool = True
    mark: bool = True


def steps(world: World, guards: Guards) -> Iterator[tuple[str, World]]:
    """All that can happen next, by whom."""
    for me, worker in enumerate(world.workers):
        if worker.paused:
            yield f"{me} goes on", _put(world, me, worker._replace(paused=False))
            continue
        for what, after in _work(world, me, worker, guards):
            yield f"{me} {what}", after
        if world.crashes:
            lane = min(MOST_HINTS, world.lane + (worker.phase is Phase.HINT))  # others move what it had in hand
            yield f"{me} dies, and is born again", _put(world._replace(crashes=0, lane=lane), me, Worker())
        if world.pauses and worker.phase is not Phase.IDLE:
            yield f"{me} stands still", _put(world._replace(pauses=0), me, worker._replace(paused=True))
    if world.claim is not None and world.claim.age >= (OVERDUE if guards.patience else OVERDUE - 1):
        yield "the reaper closes the claim", _reclaim(world, world.claim)
    if world.flushes and world.lane:
        yield "Redis is flushed", world._replace(flushes=0, lane=0)
    if world.state is State.QUEUED and world.lane < MOST_HINTS:
        yield "a hint is pushed again", world._replace(lane=world.lane + 1)
    if world.state is State.QUEUED and world.claim is None:
        yield "it is cancelled", world._replace(state=move(State.QUEUED, Event.CANCELLED))
    if not any(w.phase is Phase.CALL and w.age >= OVERDUE - 1 and not w.paused for w in world.workers):
        yield "time passes", _tick(world)


def _work(world: World, me: int, worker: Worker, guards: Guards) -> Iterator[tuple[str, World]]:
    match worker.phase:
        case Phase.IDLE:
            if world.lane:
                yield "takes a hint", _put(world._replace(lane=world.lane - 1), me, Worker(Phase.HINT))
        case Phase.HINT:
            yield "claims", _claim(world, me, guards)
        case Phase.RIGHT:
            yield "gives its right up", _release(world, me, worker)
            if worker.age == 0 or not guards.deadline:
                for taken in (True, False):
                    yield f"calls, {'taken' if taken else 'not taken'}", _begin(world, me, worker, taken=taken)
        case Phase.CALL:
            known = Outcome.ACCEPTED if worker.number in world.taken else Outcome.DEFERRED
            for outcome in (known, Outcome.UNKNOWN):
                yield f"hears {outcome}", _put(world, me, worker._replace(phase=Phase.ANSWER, outcome=outcome))
        case Phase.ANSWER:
            yield "writes it down", _finish(world, me, worker, guards)


def _put(world: World, me: int, worker: Worker) -> World:
    first, second = world.workers
    return world._replace(workers=(worker, second) if me == 0 else (first, worker))


def _tick(world: World) -> World:
    claim = world.claim and world.claim._replace(age=min(OVERDUE, world.claim.age + 1))
    aged = (w._replace(age=min(OVERDUE, w.age + 1)) if w.phase >= Phase.RIGHT else w for w in world.workers)
    first, second = aged
    return world._replace(claim=claim, workers=(first, second))


def _claim(world: World, me: int, guards: Guards) -> World:
    waits = world.state is State.QUEUED and world.claim is None
    number = (world.claim.number if world.claim else world.attempts) + 1
    if number > MOST_ATTEMPTS or (guards.claim and not waits):
        return _put(world, me, Worker())
    wrong = "a right to call again, although it is known to be taken" if _known_taken(world) else world.wrong
    return _put(world._replace(claim=Claim(number, me), wrong=wrong), me, Worker(Phase.RIGHT, number))


def _begin(world: World, me: int, worker: Worker, *, taken: bool) -> World:
    number = worker.number
    wrong = _judge(world, me, number)
    world = world._replace(
        calls=(*world.calls, number), taken=world.taken | {number} if taken else world.taken, wrong=wrong
    )
    return _put(world, me, worker._replace(phase=Phase.CALL))


def _judge(world: World, me: int, number: int) -> str | None:
    """What a first byte must not come upon."""
    if world.claim is None or (world.claim.number, world.claim.owner) != (number, me):
        return "a call without a right"
    if any(later >= number for later in world.calls):
        return "a call after a newer one began"
    if any(w.phase is Phase.CALL and w.age < OVERDUE for n, w in enumerate(world.workers) if n != me):
        return "two calls at a time"
    if not set(world.calls) <= {each.number for each in world.log}:
        return "a second call, although the first is not in the log"
    return None


def _known_taken(world: World) -> bool:
    return any(x.outcome is Outcome.ACCEPTED or x.settled is Settled.ACCEPTED for x in world.log)


def _release(world: World, me: int, worker: Worker) -> World:
    if world.claim is None or (world.claim.number, world.claim.owner) != (worker.number, me):
        return _put(world, me, Worker())
    world = world._replace(lane=min(MOST_HINTS, world.lane + 1))
    return _put(_back(world, None), me, Worker())


def _back(world: World, logged: Logged | None) -> World:
    """Out of `sending`, but to `sent`: every such edge reads the late-truth mark."""
    log = world.log if logged is None else (*world.log, logged)
    attempts = world.attempts if logged is None else logged.number
    if world.landed:
        state = move(State.SENDING, Event.TAKEN)
    elif attempts >= MOST_ATTEMPTS:
        state = move(State.SENDING, Event.GIVEN_UP)
    else:
        state = move(State.SENDING, Event.RETURNED)
    return world._replace(state=state, claim=None, landed=False, log=log, attempts=attempts)


def _reclaim(world: World, claim: Claim) -> World:
    world = world._replace(lane=min(MOST_HINTS, world.lane + 1))
    return _back(world, Logged(claim.number, Outcome.UNKNOWN))


def _finish(world: World, me: int, worker: Worker, guards: Guards) -> World:
    outcome = worker.outcome or Outcome.UNKNOWN
    if world.claim is not None and (world.claim.number, world.claim.owner) == (worker.number, me):
        logged = Logged(worker.number, outcome)
        if outcome is Outcome.ACCEPTED:
            state = move(State.SENDING, Event.TAKEN)
            world = world._replace(
                state=state, claim=None, landed=False, log=(*world.log, logged), attempts=worker.number
            )
        else:
            world = _back(world._replace(lane=min(MOST_HINTS, world.lane + 1)), logged)
    elif outcome is not Outcome.UNKNOWN:
        world = _late(world, worker.number, outcome, guards)
    return _put(world, me, Worker())


def _late(world: World, number: int, outcome: Outcome, guards: Guards) -> World:
    learnt = Settled.ACCEPTED if outcome is Outcome.ACCEPTED else Settled.NOT_SENT
    if not any(x.number == number and x.outcome is Outcome.UNKNOWN and x.settled is None for x in world.log):
        return world
    world = world._replace(log=tuple(x._replace(settled=learnt) if x.number == number else x for x in world.log))
    if learnt is not Settled.ACCEPTED:
        return world
    if world.claim is not None:
        return world._replace(landed=guards.mark)
    if world.state in (State.QUEUED, State.FAILED):
        return world._replace(state=move(world.state, Event.PROVED))
    return world


def violation(world: World) -> str | None:
    """What must hold at every moment."""
    if world.wrong is not None:
        return world.wrong
    if _known_taken(world) and world.claim is None and world.state not in (State.SENT, State.CANCELLED):
        return f"known to be taken, and {world.state}"
    if world.state is State.SENT and not world.taken:
        return "said to be sent, and no provider has it"
    if len({x.number for x in world.log}) != len(world.log):
        return "an attempt is in the log twice"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """`wrong`: the first violation found, by one of the shortest ways. `stuck`: from where nothing settles it."""

    states: int
    wrong: tuple[str, tuple[str, ...]] | None
    stuck: World | None


def explore(guards: Guards = Guards()) -> Explored:
    """Every state that can be reached, breadth first, until one is wrong."""
    start = World()
    came: dict[World, tuple[World, str] | None] = {start: None}
    before: dict[World, list[World]] = {start: []}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        if (what := violation(world)) is not None:
            return Explored(states=len(came), wrong=(what, _way(came, world)), stuck=None)
        for step, after in steps(world, guards):
            if after not in came:
                came[after] = (world, step)
                before[after] = []
                queue.append(after)
            before[after].append(world)
    settles = [world for world in came if world.settled]
    reached = set(settles)
    while settles:
        for earlier in before[settles.pop()]:
            if earlier not in reached:
                reached.add(earlier)
                settles.append(earlier)
    return Explored(states=len(came), wrong=None, stuck=next((w for w in came if w not in reached), None))


def _way(came: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    way: list[str] = []
    while (link := came[world]) is not None:
        world, step = link
        way.append(step)
    return tuple(reversed(way))
