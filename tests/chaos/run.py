"""One run: a cluster under load, the faults of a plan, quiet, and the verdict."""

from __future__ import annotations

import heapq
import itertools
import math
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from tests.chaos.beside import beside
from tests.chaos.clients import Clients
from tests.chaos.cluster import Cluster, Ground, tracebacks
from tests.chaos.judge import Evidence, Verdict, judge
from tests.chaos.plan import PROVIDERS, Fault, Kind, Plan, written
from tests.chaos.waits import Waits
from tests.chaos.watch import Watch
from tests.support.command import Process

TICK_S: Final = 0.02
INTAKE_WITHIN_S: Final = 45.0
STUCK_S: Final = 60.0
"""What waits so long without becoming less is stuck; a busy machine may take its time."""
STORES: Final = ("redis", "postgres")


@dataclass(slots=True)
class Report:
    """`wrong` has what a verdict cannot: processes, counts, leftovers. `said`: the faults and all supervisors' logs."""

    plan: Plan
    verdict: Verdict
    accepted: int
    calls: int
    answers: dict[int, int]
    settled_s: float
    wrong: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.verdict.good and not self.wrong

    def as_json(self) -> dict[str, object]:
        return {
            "seed": self.plan.seed,
            "result": "ok" if self.good else "failed",
            "faults": len(self.plan.faults),
            "accepted": self.accepted,
            "calls": self.calls,
            "duplicates": dict(self.verdict.duplicates),
            "lost": len(self.verdict.lost),
            "excess": {n: [e, self.plan.bursts[n]] for n, e in self.verdict.excess.items()},
            "states": dict(self.verdict.states),
            "breakers": dict(self.verdict.spans),
            "answers": self.answers,
            "settled_s": round(self.settled_s, 1),
            "wrong": [*self.verdict.lost[:10], *self.verdict.wrong[:20], *self.wrong[:20]],
            "plan": written(self.plan),
        }


def run(plan: Plan, tell: Callable[[str], None], ground: Ground | None = None) -> Report:
    """On this ground, or on one of its own."""
    with ExitStack() as stack:
        if ground is None:
            ground = Ground()
            stack.callback(ground.remove)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heliograph-chaos-")))
        cluster = Cluster(plan, home, stack, ground)
        clients = Clients(cluster.gateways, cluster.key, plan.posted, plan.seed)
        watch = Watch(lambda: cluster.redis.url, PROVIDERS)
        waits = Waits(lambda: [s.process.child.pid for s in cluster.supervisors.values()])
        stack.enter_context(beside(watch.look_on))
        stack.enter_context(beside(waits.look_on))
        return _Run(cluster, clients, watch, waits, tell).run()


class _Run:
    def __init__(
        self, cluster: Cluster, clients: Clients, watch: Watch, waits: Waits, tell: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._plan = cluster.plan
        self._clients = clients
        self._watch = watch
        self._waits = waits
        self._tell = tell
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._began_s = 0.0
        self._away: dict[str, Callable[[], None]] = {}
        """Stores that are hurt, and how each is mended."""
        self._wrong: list[str] = []
        self._told: list[str] = []

    def run(self) -> Report:
        self._clients.fill(self._plan.backlog)
        self._clients.start()
        try:
            self._began_s = time.monotonic()
            for fault in self._plan.faults:
                self._at(fault.at_s, partial(self._do, fault))
            self._go_on(lambda: self._now_s() >= self._plan.faults_s)
            self._mend()
            self._clients.finish()
            if not self._go_on(lambda: not self._clients.busy, within_s=INTAKE_WITHIN_S):
                self._wrong.append(f"requests were not answered 202 within {INTAKE_WITHIN_S:g} s of the last fault")
        finally:
            self._clients.leave()
        settled_s = self._settle()
        self._wrong += filter(None, [self._cluster.accounts()])
        self._drain()
        return self._report(settled_s)

    # ------------------------------------------------------------------------------------------ the time table

    def _at(self, at_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._numbers), do))

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _go_on(self, enough: Callable[[], bool], within_s: float = math.inf) -> bool:
        """What is due is done until it is enough; False: it was not in time."""
        until_s = self._now_s() + within_s
        while not enough():
            if self._now_s() > until_s:
                return False
            while self._due and self._due[0][0] <= self._now_s():
                heapq.heappop(self._due)[2]()
            self._look()
            time.sleep(TICK_S)
        return True

    def _look(self) -> None:
        for supervisor in self._cluster.supervisors.values():
            wrong = supervisor.look()
            if wrong:
                self._wrong.append(f"{self._now_s():.2f} s: {wrong}")

    def _do(self, fault: Fault) -> None:
        self._tell(str(fault))
        self._told.append(f"{datetime.now(UTC):%H:%M:%S.%f} {fault}")
        cluster, end_s = self._cluster, self._now_s() + fault.for_s
        supervisor = cluster.supervisors[fault.target] if isinstance(fault.target, int) else None
        match fault.kind:
            case Kind.KILL:
                assert supervisor is not None
                supervisor.kill(fault.for_s)
            case Kind.STOP:
                assert supervisor is not None
                supervisor.signal(signal.SIGSTOP)
                self._at(end_s, partial(_wake, supervisor.process))
            case Kind.TERM:
                assert supervisor is not None
                supervisor.terminate()
            case Kind.FLUSH:
                if "redis" not in self._away:
                    cluster.redis.flush()
            case Kind.BACKENDS:
                if "postgres" not in self._away:
                    cluster.end_sessions()
            case Kind.REDIS | Kind.POSTGRES | Kind.PROMOTE | Kind.FULL | Kind.STANDBY | Kind.PAUSE:
                self._hurt(*self._store_fault(fault), end_s)
            case Kind.CLOCK:
                assert not isinstance(fault.target, str)
                clock = cluster.clocks[fault.target]
                clock.set(fault.how)
                self._at(end_s, partial(clock.set, "+0s"))
            case Kind.CUT:
                target = supervisor.number if supervisor else None
                cluster.lines.each(fault.how, target, lambda line: line.cut(True))
                self._at(end_s, lambda: cluster.lines.each(fault.how, target, lambda line: line.cut(False)))
            case Kind.STALL:
                target = supervisor.number if supervisor else None
                cluster.lines.each(fault.how, target, lambda line: line.stall(True))
                self._at(end_s, lambda: cluster.lines.each(fault.how, target, lambda line: line.stall(False)))
            case Kind.RESET:
                target = supervisor.number if supervisor else None
                cluster.lines.each(fault.how, target, lambda line: line.reset_connections())
            case Kind.PROVIDER:
                provider = str(fault.target)
                cluster.sink.be(provider, fault.how)
                self._at(end_s, partial(cluster.sink.be, provider, "ok"))

    def _store_fault(self, fault: Fault) -> tuple[str, Callable[[], None], Callable[[], None]]:
        """Which store, how it is hurt, and how it is mended."""
        cluster, redis, postgres = self._cluster, self._cluster.redis, self._cluster.postgres
        match fault.kind, fault.how:
            case Kind.REDIS, how:
                return "redis", partial(self._stop_redis, how), redis.start
            case Kind.POSTGRES, how:
                number = signal.SIGINT if how == "fast" else signal.SIGQUIT
                return "postgres", lambda: postgres.stop(number), postgres.start
            case Kind.PROMOTE, "empty":
                return "redis", lambda: None, cluster.promote
            case Kind.PROMOTE, _:
                self._at(self._now_s() + fault.for_s / 2, cluster.follow_no_more)
                return "redis", cluster.follow, cluster.promote
            case Kind.FULL, how:
                fill = {"postgres": cluster.fill_disk, "redis": cluster.fill_memory, "saves": cluster.lock_saves}[how]
                return "postgres" if how == "postgres" else "redis", lambda: fill(True), lambda: fill(False)
            case Kind.STANDBY, "redis":
                return "redis", lambda: cluster.make_replica(True), lambda: cluster.make_replica(False)
            case Kind.STANDBY, how:
                return "postgres", partial(self._demote, how), lambda: cluster.make_read_only(False)
            case Kind.PAUSE, store:
                server = redis if store == "redis" else postgres
                return store, server.pause, server.resume
        raise ValueError(f"{fault} is no fault of a store")

    def _stop_redis(self, how: str) -> None:
        self._cluster.redis.stop()
        self._cluster.age_redis_file(how)

    def _demote(self, how: str) -> None:
        self._cluster.make_read_only(True)
        if how == "failover":
            self._cluster.postgres.restart(signal.SIGQUIT)

    def _hurt(self, store: str, hurt: Callable[[], None], mend: Callable[[], None], end_s: float) -> None:
        """One fault of a store at a time."""
        if store not in self._away:
            hurt()
            self._away[store] = mend
            self._at(end_s, partial(self._mend_store, store))

    def _mend_store(self, store: str) -> None:
        mend = self._away.pop(store, None)
        if mend is not None:
            mend()

    # ------------------------------------------------------------------------------------------------- quiet

    def _mend(self) -> None:
        """All faults end."""
        cluster = self._cluster
        self._due.clear()
        for clock in cluster.clocks.values():
            clock.set("+0s")
        for store in STORES:
            self._mend_store(store)
            cluster.lines.each(store, None, lambda line: line.cut(False))
            cluster.lines.each(store, None, lambda line: line.stall(False))
        for provider in PROVIDERS:
            cluster.sink.be(provider, "ok")
        for supervisor in cluster.supervisors.values():
            supervisor.signal(signal.SIGCONT)
            if supervisor.starts_at_s is not None:
                supervisor.starts_at_s = 0.0

    def _settle(self) -> float:
        """Until nothing waits, or what waits has not become less for a while; answers how long that took."""
        began_s, look_s = self._now_s(), 0.0
        least, moved_s = math.inf, self._now_s()

        def over() -> bool:
            nonlocal look_s, least, moved_s
            if self._now_s() < look_s:
                return False
            look_s = self._now_s() + 0.5
            if (waiting := self._cluster.waiting()) < least:
                least, moved_s = waiting, self._now_s()
            return waiting == 0 or self._now_s() > moved_s + STUCK_S

        self._go_on(over)
        if least:
            self._wrong.append(f"{self._cluster.waiting()} messages wait, and it was never less than {least:g}")
            self._wrong += self._cluster.still_waiting()
        return self._now_s() - began_s

    def _drain(self) -> None:
        for supervisor in self._cluster.supervisors.values():
            supervisor.terminate()
        for supervisor in self._cluster.supervisors.values():
            code = supervisor.process.ends()
            if code != 0:
                self._wrong.append(f"supervisor {supervisor.number} drained and ended with {code}")
            self._wrong += tracebacks(supervisor)
        self._wrong += [f"left in hand: {each}" for each in self._cluster.in_hand()]

    def _report(self, settled_s: float) -> Report:
        calls = self._cluster.sink.calls()
        evidence = Evidence(
            accepted=self._clients.accepted,
            calls=calls,
            log=self._cluster.log(),
            limits=self._cluster.limits(),
            breakers=self._watch.spans(),
            waited_s=self._waits.before,
        )
        return Report(
            plan=self._plan,
            verdict=judge(evidence),
            accepted=len(self._clients.accepted),
            calls=len(calls),
            answers=dict(self._clients.answers),
            settled_s=settled_s,
            wrong=[*self._wrong, *self._clients.odd],
            said=[*self._told, *(line for s in self._cluster.supervisors.values() for line in s.said())],
        )


def _wake(stopped: Process) -> None:
    """That very one; another may have taken its place."""
    if stopped.child.poll() is None:
        stopped.signal(signal.SIGCONT)
