"""The supervisor: one process of Heliograph. It opens the adapters, runs the tree of actors, and drains it.

The HTTP servers are children of that tree like any other actor. The first signal drains: the gateway refuses, the
dispatchers stop taking and hand back, calls in the air end within the grace, the journal commits, the row in
`supervisors` is marked ended. A second signal stops at once.

Exit codes: 0 drained; 1 a port is taken, the database is not migrated, or the tree escalated.
"""

from __future__ import annotations

import gc
import platform
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from heliograph.actors.census import Ask
from heliograph.actors.kernel.actor import Health, Inbox, Phase
from heliograph.actors.kernel.clock import Clock, SystemClock
from heliograph.actors.kernel.supervision import ChildSpec, Group, Supervisor
from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.errors import HeliographError, LedgerDown, QueueDown
from heliograph.actors.model.settings import Config
from heliograph.actors.model.stats import Stats
from heliograph.actors.queue.coordination import open_coordination
from heliograph.actors.queue.redis import open_queue
from heliograph.actors.tree.node import ROLES, Adapters, Node, leaf
from heliograph.gateway.health import Check
from heliograph.gateway.monitor import Monitor, serve_monitor
from heliograph.providers import build, country_of, reader

if TYPE_CHECKING:
    from heliograph.gateway.services import Services

log = structlog.get_logger()
CLOSE_S: Final = 5.0
LEAVE_S: Final = 3.0
STATS_LIMIT_S: Final = 5.0
STILL_S: Final = 3.0
OPEN_WITHIN_S: Final = 10.0
OPEN_AGAIN_S: Final = 0.2

Serve = Callable[[Callable[[], Awaitable[None]], Callable[[], None]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Served:
    """An HTTP server as an actor: closing its mailbox is its shutdown trigger."""

    serve: Serve

    async def run(self, inbox: Inbox[None]) -> None:
        async def told_to_finish() -> None:
            while not inbox.closed:
                await inbox.receive(3600.0)

        await self.serve(told_to_finish, inbox.started)


class Process:
    """The node of this process together with its servers, and what they tell of it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.draining = False
        self.group = Group(name="heliograph", children=self._children())

    def _children(self) -> list[ChildSpec | Group]:
        node = self.node
        grace_s = node.config.delivery.drain_grace_s
        tree = [leaf(node.box("monitor", 1), lambda: Served(self._monitor)), *node.children()]
        if "gateway" in node.roles:
            tree.append(leaf(node.box("gateway", 1), lambda: Served(self._gateway), grace_s=grace_s + CLOSE_S))
        return tree

    async def _monitor(self, shutdown: Callable[[], Awaitable[None]], started: Callable[[], None]) -> None:
        def bound(host: str, port: int) -> None:
            self.node.metrics_url = f"http://{host}:{port}/metrics"
            started()

        monitor = Monitor(self.node.registry, self.readiness, lambda: self.draining, self._refresh)
        await serve_monitor(monitor, self.node.config.monitor, shutdown_trigger=shutdown, bound=bound)

    async def _gateway(self, shutdown: Callable[[], Awaitable[None]], started: Callable[[], None]) -> None:
        def ready(host: str, port: int) -> None:
            log.info("gateway.listening", host=host, port=port)
            started()

        from heliograph.gateway.app import serve_gateway  # by role: the web framework is a third of all that is loaded

        await serve_gateway(self._services(), self.node.config.gateway, shutdown_trigger=shutdown, ready=ready)

    def _services(self) -> Services:
        from heliograph.gateway.fetching import Fetcher
        from heliograph.gateway.services import Services

        node = self.node
        return Services(
            supervisor=node.supervisor,
            clock=node.clock,
            config=node.config,
            ledger=node.adapters.ledger,
            router=node.router,
            coordination=node.adapters.coordination,
            metrics=node.metrics,
            registry=node.registry,
            accept=node.accept,
            report=node.report,
            receipts={p.name: found for p in node.config.providers if (found := reader(p)) is not None},
            fetcher=Fetcher(),
            stats=self._stats,
            readiness=self.readiness,
            draining=lambda: self.draining,
            actors=self._health,
        )

    async def _stats(self) -> Stats:
        stats: Stats = await self.node.census.ref.ask(Ask, timeout_s=STATS_LIMIT_S)
        return stats

    async def _refresh(self) -> None:
        self.node.tree_metrics.show(self._health())
        checks = self.readiness()
        for store in ("postgres", "redis"):
            self.node.metrics.store_up.labels(store).set(checks[store].ok)
        await self._stats()

    def _health(self) -> list[Health]:
        return self.group.health()

    def readiness(self) -> Mapping[str, Check]:
        """Not before all have started once. Without the ledger nothing is ready; without Redis a gateway is."""
        node = self.node
        beaten_at_s = node.peers.beaten_at_s
        beats = beaten_at_s is not None and node.clock.boot_s() - beaten_at_s < STILL_S
        reaches, needed = node.reaches_queue, "gateway" not in node.roles
        health = self._health()
        down = [h.name for h in health if h.phase is not Phase.RUNNING]
        starting = any(h.phase is Phase.STARTING and not h.restarts for h in health)
        return {
            "postgres": Check(beats, "beats go through" if beats else "no beat has gone through for some seconds"),
            "redis": Check(reaches, "the queue answers" if reaches else "the queue does not answer", required=needed),
            "actors": Check(not down, ", ".join(down) or "all run", required=starting),
        }


async def run_supervisor(config: Config, *, roles: frozenset[str] = ROLES, clock: Clock | None = None) -> int:
    """One supervisor until a signal; answers the exit code. Its id is drawn anew at each start: a name used again
    would hide what its former bearer left."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)  # values come and go by the thousand, few in cycles: a twelfth of the time
    supervisor = secrets.token_hex(4)
    structlog.contextvars.bind_contextvars(supervisor=supervisor)
    try:
        async with AsyncExitStack() as stack:
            adapters = await _open_soon(config, stack, supervisor, clock or SystemClock())
            node = Node(config, adapters, roles=roles, supervisor=supervisor, clock=clock or SystemClock())
            node.metrics.build_info.labels(version("heliograph"), platform.python_version()).set(1)
            if await _run(Process(node)):
                with trio.move_on_after(LEAVE_S):
                    await _leave(node)
            return 0
    except HeliographError as error:
        return _failed(error)
    except ExceptionGroup as group:
        # What no restart mends, and what was restarted too often. Anything else is a bug, and goes on up.
        ours, others = group.split(HeliographError)
        if ours is None or others is not None:
            raise
        return _failed(_first(ours))


def _failed(error: BaseException) -> int:
    print(f"heliograph: {error}", file=sys.stderr)  # noqa: T201
    return 1


async def _open_soon(config: Config, stack: AsyncExitStack, supervisor: str, clock: Clock) -> Adapters:
    """It answered a moment ago: a line that breaks just now is no reason to end. LedgerDown where it stays away."""
    patience_ends_s = trio.current_time() + OPEN_WITHIN_S
    while True:
        try:
            return await _open(config, stack, supervisor, clock)
        except LedgerDown:
            if trio.current_time() >= patience_ends_s:
                raise
        await trio.sleep(OPEN_AGAIN_S)


async def _open(config: Config, stack: AsyncExitStack, supervisor: str, clock: Clock) -> Adapters:
    couriers = {settings.name: build(settings) for settings in config.providers}
    return Adapters(
        ledger=await stack.enter_async_context(open_ledger(config.postgres_url, supervisor=supervisor)),
        queue=await stack.enter_async_context(open_queue(config.redis_url, supervisor)),
        coordination=await stack.enter_async_context(open_coordination(config.redis_url, supervisor, clock.boot_s)),
        couriers=couriers,
        country_of=country_of,
    )


async def _leave(node: Node) -> None:
    try:
        if not await node.leave():
            log.warning("supervisor.left_without_word", error="hints are left that no list has")
    except (LedgerDown, QueueDown) as error:
        log.warning("supervisor.left_without_word", error=str(error))


async def _run(process: Process) -> bool:
    """Whether it ended by a drain. Else it was stopped at once, and others find what it left as they find a death."""
    drained = False
    supervisor = Supervisor(process.group, process.node.clock)
    log.info("supervisor.starting", roles=sorted(process.node.roles), version=version("heliograph"))
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            nursery.start_soon(_watch, signals, process, supervisor, nursery.cancel_scope)
            await supervisor.run()
            drained = True
            nursery.cancel_scope.cancel()
    log.info("supervisor.stopped")
    return drained


async def _watch(
    signals: AsyncIterator[int], process: Process, supervisor: Supervisor, everything: trio.CancelScope
) -> None:
    async with trio.open_nursery() as nursery:
        async for _ in signals:
            if process.draining:
                log.warning("supervisor.stops_at_once")
                everything.cancel()
                return
            log.info("supervisor.draining", grace_s=process.node.config.delivery.drain_grace_s)
            process.draining = True
            nursery.start_soon(supervisor.drain)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
