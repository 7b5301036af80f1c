"""The supervisor's process in virtual time: exit codes, signals, what /readyz is told. Its servers only pretend to
listen, its stores are in memory."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import structlog
import trio

from heliograph import supervisor as module
from heliograph.actors.dispatcher import Dispatcher
from heliograph.actors.kernel.supervision import Supervisor
from heliograph.actors.model.errors import ConfigurationError, LedgerDown
from heliograph.actors.model.message import Channel, State
from heliograph.actors.tree.node import ROLES, Adapters, Node
from heliograph.supervisor import STILL_S, Process, run_supervisor
from tests.support.builders import a_provider
from tests.support.world import Life, Script, World

LEFT_ALONE = frozenset({"delivery"})


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def serve_monitor(
        monitor: object, settings: Any, *, shutdown_trigger: Callable[[], Awaitable[None]], bound: Any
    ) -> None:
        bound(settings.host, settings.port)
        await shutdown_trigger()

    async def serve_gateway(
        services: object, settings: Any, *, shutdown_trigger: Callable[[], Awaitable[None]], ready: Any
    ) -> None:
        ready(settings.host, settings.port)
        await shutdown_trigger()

    monkeypatch.setattr(module, "serve_monitor", serve_monitor)
    monkeypatch.setattr("heliograph.gateway.app.serve_gateway", serve_gateway)
    yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture
async def world(autojump_clock: object, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stores for `run_supervisor`; a provider whose calls take two seconds."""
    world = World(nursery, [a_provider(name="x", channel=Channel.SMS, rate=20.0)], {"x": Script(latency_s=2.0)})

    async def opened(config: object, stack: object, supervisor: str, clock: object) -> Adapters:
        return adapters(world, supervisor)

    monkeypatch.setattr(module, "_open", opened)
    return world


def adapters(world: World, name: str) -> Adapters:
    return world.fleet.adapters(Life(name, world.clock))


class Run:
    """`run_supervisor` until it answers its exit code."""

    code: int | None = None

    def __init__(self, world: World, roles: frozenset[str] = ROLES) -> None:
        self.world = world
        self.roles = roles
        self.ended = trio.Event()

    async def start(self, nursery: trio.Nursery) -> Run:
        nursery.start_soon(self._run)
        await trio.sleep(2)
        return self

    async def _run(self) -> None:
        self.code = await run_supervisor(self.world.config, roles=self.roles, clock=self.world.clock)
        self.ended.set()

    async def ends(self, within_s: float) -> int | None:
        with trio.move_on_after(within_s):
            await self.ended.wait()
        return self.code


async def living(world: World) -> int:
    return len(await world.ledger.cluster.peers())


async def accept(world: World, count: int) -> None:
    """As another gateway does, whose relay pushes them."""
    life = await world.start(roles=frozenset({"gateway"}))
    for _ in range(count):
        assert await world.post(world.message())
    await world.drain(life)


# --------------------------------------------------------------------------------------------- exit codes, signals


async def test_a_signal_drains_and_ends_with_0(world: World, nursery: trio.Nursery, autojump_clock: object) -> None:
    run = await Run(world).start(nursery)
    await accept(world, 10)
    await trio.sleep(1)
    assert world.judge.calls
    with structlog.testing.capture_logs() as logs:
        signal.raise_signal(signal.SIGTERM)
        assert await run.ends(within_s=world.config.delivery.drain_grace_s) == 0
    assert await living(world) == 0
    assert world.store.claims == {}
    events = [entry["event"] for entry in logs]
    assert (events[0], events[-1]) == ("supervisor.draining", "supervisor.stopped")


@pytest.mark.parametrize(("away_s", "code"), [(8.0, 0), (60.0, 1)], ids=["for a moment", "for good"])
async def test_a_ledger_that_is_lost_while_it_starts_is_waited_for(
    away_s: float, code: int, world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_s = trio.current_time() + away_s

    async def opened(config: object, stack: object, supervisor: str, clock: object) -> Adapters:
        if trio.current_time() < back_s:
            raise LedgerDown("PostgreSQL cannot answer: server closed the connection unexpectedly")
        return adapters(world, supervisor)

    monkeypatch.setattr(module, "_open", opened)
    run = await Run(world).start(nursery)
    await trio.sleep(20)
    assert await living(world) == 1 - code
    if code == 0:
        signal.raise_signal(signal.SIGTERM)
    assert await run.ends(within_s=world.config.delivery.drain_grace_s) == code


async def test_a_second_signal_stops_at_once_and_leaves_the_rest_to_others(
    world: World, nursery: trio.Nursery, autojump_clock: object
) -> None:
    run = await Run(world).start(nursery)
    await accept(world, 10)
    await trio.sleep(1)
    signal.raise_signal(signal.SIGTERM)
    await trio.sleep(0.1)
    assert run.code is None, "calls are in the air"
    signal.raise_signal(signal.SIGINT)
    assert await run.ends(within_s=0.1) == 0
    assert await living(world) == 1, "taken for dead, so that what it left is found"

    await world.start(roles=LEFT_ALONE)
    await world.settle(120)
    assert {world.store.state_of(row) for row in world.store.rows.values()} == {State.SENT}
    await world.end()


async def test_without_redis_it_still_drains_within_the_grace_and_ends_with_0(
    world: World, nursery: trio.Nursery, autojump_clock: object
) -> None:
    run = await Run(world).start(nursery)
    await accept(world, 10)
    world.redis.down(True)
    signal.raise_signal(signal.SIGTERM)
    with structlog.testing.capture_logs() as logs:
        assert await run.ends(within_s=4 * world.config.delivery.drain_grace_s) == 0
    assert [e["event"] for e in logs][-1] == "supervisor.left_without_word"
    assert await living(world) == 1


async def test_without_the_ledger_it_still_drains_within_the_grace_and_ends_with_0(
    world: World, nursery: trio.Nursery, autojump_clock: object
) -> None:
    run = await Run(world).start(nursery)
    await accept(world, 10)
    await trio.sleep(1)
    world.fleet.ledger_down = True
    signal.raise_signal(signal.SIGTERM)
    assert await run.ends(within_s=4 * world.config.delivery.drain_grace_s) == 0
    world.fleet.ledger_down = False
    assert await living(world) == 1


async def test_a_tree_that_cannot_be_kept_alive_ends_with_1_and_says_why(
    world: World,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    autojump_clock: object,
) -> None:
    async def crash(self: Dispatcher, inbox: object) -> None:
        await trio.sleep(0.1)
        raise ValueError("hunter2")

    monkeypatch.setattr(Dispatcher, "run", crash)
    run = await Run(world).start(nursery)
    assert await run.ends(within_s=3600) == 1
    assert await living(world) == 1, "it is found as a death is found"
    told = capsys.readouterr().err
    assert told == "heliograph: dispatch crashed too often\n"
    assert "hunter2" not in told


async def test_a_port_that_is_taken_ends_with_1_at_once(
    world: World,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    autojump_clock: object,
) -> None:
    async def serve_gateway(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ConfigurationError("gateway.bind: 127.0.0.1:8080 is taken; choose another port")

    monkeypatch.setattr("heliograph.gateway.app.serve_gateway", serve_gateway)
    run = await Run(world).start(nursery)
    assert await run.ends(within_s=1) == 1
    assert capsys.readouterr().err == "heliograph: gateway.bind: 127.0.0.1:8080 is taken; choose another port\n"


# ------------------------------------------------------------------------------------------------------- readiness


class Watched:
    """A process whose tree runs, without signals."""

    def __init__(self, world: World, roles: frozenset[str] = ROLES) -> None:
        node = Node(world.config, adapters(world, "p"), roles=roles, supervisor="p", clock=world.clock)
        self.process = Process(node)
        self.supervisor = Supervisor(self.process.group, world.clock)

    def ok(self) -> dict[str, bool]:
        return {name: check.ok for name, check in self.process.readiness().items()}

    def ready(self) -> bool:
        return all(check.ok for check in self.process.readiness().values() if check.required)


async def test_it_is_ready_once_all_of_the_tree_runs(
    world: World, nursery: trio.Nursery, autojump_clock: object
) -> None:
    watched = Watched(world)
    assert watched.ok() == {"postgres": False, "redis": False, "actors": False}
    await nursery.start(watched.supervisor.run)
    await trio.sleep(0.1)
    assert watched.ok() == {"postgres": True, "redis": True, "actors": True}
    assert watched.process.node.metrics_url == "http://127.0.0.1:9464/metrics"
    await watched.supervisor.drain()


async def test_without_the_ledger_nothing_is_ready_until_beats_go_through_again(
    world: World, nursery: trio.Nursery, autojump_clock: object
) -> None:
    watched = Watched(world)
    await nursery.start(watched.supervisor.run)
    await trio.sleep(5)
    world.fleet.ledger_down = True
    await trio.sleep(STILL_S + 0.1)
    assert not watched.ready()
    assert watched.ok()["postgres"] is False
    world.fleet.ledger_down = False
    await trio.sleep(1.1)
    assert watched.ready()
    await watched.supervisor.drain()


@pytest.mark.parametrize(("roles", "ready"), [(ROLES, True), (LEFT_ALONE, False)])
async def test_without_redis_a_gateway_is_ready_and_one_that_only_delivers_is_not(
    roles: frozenset[str], ready: bool, world: World, nursery: trio.Nursery, autojump_clock: object
) -> None:
    watched = Watched(world, roles)
    await nursery.start(watched.supervisor.run)
    await trio.sleep(5)
    world.redis.down(True)
    await trio.sleep(5)
    assert watched.ok()["redis"] is False
    assert watched.ready() is ready
    world.redis.down(False)
    await trio.sleep(5)
    assert watched.ok()["redis"] is True
    await watched.supervisor.drain()


async def test_an_actor_that_rests_is_named_and_takes_nobody_away(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    watched = Watched(world)
    await nursery.start(watched.supervisor.run)
    await trio.sleep(1)

    async def unable(self: object, *_: object, **__: object) -> Any:
        raise ValueError("a bug of ours")

    monkeypatch.setattr("heliograph.actors.queue.memory.MemoryCoordination.reserve", unable)
    await accept(world, 1)
    await trio.sleep(30)
    check = watched.process.readiness()["actors"]
    assert (check.ok, check.detail) == (False, "provider/x")
    assert watched.ready()
    await watched.supervisor.drain()
