"""Figures for three promises, in the same cluster with one fault at a time: `python -m tests.chaos.measure`.

- a supervisor is killed: how long what it had taken, and what it had begun, waits for another
- a supervisor is told to drain under full load: when its hints are back, and when it is gone
- three supervisors are restarted one after the other under load: lost, doubled, and what that adds to the wait
- a backlog, with one, two and four supervisors: what share of a provider's rate is used, by the receiver's clock
"""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import redis

from heliograph.actors.policy.bucket import JITTER_S, LATENESS_S
from tests.chaos.clients import Clients
from tests.chaos.cluster import Cluster, Ground, Supervisor
from tests.chaos.judge import Evidence, judge
from tests.chaos.plan import PROVIDERS, Plan
from tests.support.services import wait_until

RATE: Final = 200
PATIENCE_S: Final = 90.0
USED_RATE: Final = 100
WARM_S, USED_S, SPARE_S = 3.0, 20.0, 5.0
NAMES: Final = "SELECT id FROM supervisors WHERE ended_at IS NULL ORDER BY joined_at DESC"
CREATED: Final = "SELECT recipient, extract(epoch FROM created_at)::float8 FROM contents"


@contextmanager
def a_cluster(supervisors: int, gateways: int, *, rate: int = RATE, burst: int = RATE) -> Iterator[Cluster]:
    rates, bursts = dict.fromkeys(PROVIDERS, rate), dict.fromkeys(PROVIDERS, burst)
    plan = Plan(0, 0.0, supervisors, gateways, rates, bursts, batch=1, backlog=0, posted=60.0, faults=())
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heliograph-measure-")))
        ground = Ground()
        stack.callback(ground.remove)
        yield Cluster(plan, home, stack, ground)


def killed() -> dict[str, object]:
    """The victim is cut off from PostgreSQL for a moment before, so that there is something it had taken and could not
    begin. That is back in line once the death is seen, and begins by its turn in the backlog. What it had begun waits
    for its reclaim, 5 s after it began here, and the reaper's next look."""
    with a_cluster(2, 1) as cluster:
        clients = Clients(cluster.gateways, cluster.key, cluster.plan.posted, 0)
        victim, name = cluster.supervisors[2], _only_deliverer(cluster)
        for provider in PROVIDERS:
            cluster.sink.be(provider, "slow")
        clients.fill(2000)
        _until_taken(cluster, 200)
        cluster.lines.each("postgres", 2, lambda line: line.stall(True))
        wait_until(lambda: bool(_in_hand(cluster, name) - _begun(cluster, name)), "it has taken what it cannot begin")
        time.sleep(0.3)
        victim.signal(signal.SIGKILL)
        at_s = time.time()
        begun = _begun(cluster, name)
        taken = _in_hand(cluster, name) - begun
        for provider in PROVIDERS:
            cluster.sink.be(provider, "ok")
        _settle(cluster)
        ((ended_s,),) = cluster.ask(f"SELECT extract(epoch FROM ended_at)::float8 FROM supervisors WHERE id = '{name}'")
        attempts = {logged.message_id: logged.attempts for logged in cluster.log()}
        return {
            "not_begun": len(taken),
            "back_in_line_within_s": round(ended_s - at_s, 2),
            "not_begun_within_s": _worst(min(a.started_s for a in attempts[each]) - at_s for each in taken),
            "begun": len(begun),
            "begun_within_s": _worst(
                next(a.finished_s for a in attempts[each] if a.finished_s >= at_s) - at_s for each in begun
            ),
            **_promises(cluster, clients),
        }


def drained() -> dict[str, object]:
    """Calls take up to 1.5 s here."""
    with a_cluster(2, 1) as cluster:
        clients = Clients(cluster.gateways, cluster.key, cluster.plan.posted, 0)
        for provider in PROVIDERS:
            cluster.sink.be(provider, "slow")
        name = _only_deliverer(cluster)
        clients.fill(2000)
        _until_taken(cluster, 200)
        wait_until(lambda: bool(_begun(cluster, name)), "it has work in hand")
        process, calls = cluster.supervisors[2].process, len(_begun(cluster, name))
        began_s = time.monotonic()
        process.signal(signal.SIGTERM)
        # What has a claim is a call in the air; all else is to be back at once.
        wait_until(lambda: not (_in_hand(cluster, name) - _begun(cluster, name)), "its hints are back")
        back_s = time.monotonic() - began_s
        code = process.ends()
        gone_s = time.monotonic() - began_s
        left = len(_in_hand(cluster, name)) + len(_begun(cluster, name))
        for provider in PROVIDERS:
            cluster.sink.be(provider, "ok")
        _settle(cluster)
        return {
            "in_hand": calls,
            "hints_back_s": round(back_s, 2),
            "exit": code,
            "gone_s": round(gone_s, 2),
            "left": left,
            **_promises(cluster, clients),
        }


def rolled() -> dict[str, object]:
    with a_cluster(3, 2) as cluster:
        clients = Clients(cluster.gateways, cluster.key, cluster.plan.posted, 0)
        clients.start()
        try:
            time.sleep(10)
            began_s = time.time()
            codes = [_restart(cluster, supervisor) for supervisor in cluster.supervisors.values()]
            ended_s = time.time()
        finally:
            clients.finish()
            wait_until(lambda: not clients.busy, "all is answered", within_s=PATIENCE_S)
            clients.leave()
        _settle(cluster)
        waits = [(created_s, at_s - created_s) for created_s, at_s in _taken(cluster)]
        return {
            "exits": codes,
            "took_s": round(ended_s - began_s, 1),
            "p99_before_s": _p99([wait_s for created_s, wait_s in waits if created_s < began_s]),
            "p99_during_s": _p99([wait_s for created_s, wait_s in waits if began_s <= created_s < ended_s]),
            **_promises(cluster, clients),
        }


def used() -> dict[str, object]:
    """With the least burst for which the whole rate can be used, whose slots are 10 ms wide, and with one as large as
    the rate, whose slots are 90 ms wide. Counted once the first burst is spent, while there is a backlog still."""
    least = math.ceil(1 + USED_RATE * (LATENESS_S + JITTER_S))
    return {f"burst_{burst}": {n: _share(n, burst) for n in (1, 2, 4)} for burst in (least, USED_RATE)}


def _share(supervisors: int, burst: int) -> float:
    with a_cluster(supervisors, 1, rate=USED_RATE, burst=burst) as cluster:
        clients = Clients(cluster.gateways, cluster.key, cluster.plan.posted, 0)
        clients.fill(int(USED_RATE * (WARM_S + USED_S + SPARE_S)) + burst)
        began_s = min(call.at_s for call in cluster.sink.calls()) + WARM_S
        time.sleep(max(0.0, began_s + USED_S - time.time()))
        calls = [c for c in cluster.sink.calls() if c.provider == PROVIDERS[0]]
        assert cluster.waiting() > 0, "else nobody had a use for the rate"
        return round(sum(began_s <= call.at_s < began_s + USED_S for call in calls) / (USED_RATE * USED_S), 4)


def _restart(cluster: Cluster, supervisor: Supervisor) -> int:
    """By the book: the next one only when this one has joined anew."""
    before = cluster.ask(NAMES)
    old = supervisor.process
    supervisor.terminate()
    code = old.ends()

    def is_back() -> bool:
        supervisor.look()
        now = cluster.ask(NAMES)
        return len(now) == len(before) and now[0] not in before and cluster.all_ready()

    wait_until(is_back, "it is back", within_s=PATIENCE_S)
    return code


def _promises(cluster: Cluster, clients: Clients) -> dict[str, object]:
    evidence = Evidence(clients.accepted, cluster.sink.calls(), cluster.log(), cluster.limits())
    verdict = judge(evidence)
    return {
        "messages": len(clients.accepted),
        "lost": len(verdict.lost),
        "duplicates": verdict.duplicates.total(),
        "wrong": verdict.wrong[:5],
    }


def _only_deliverer(cluster: Cluster) -> str:
    return str(cluster.ask("SELECT id FROM supervisors WHERE roles = '{delivery}'")[0][0])


def _begun(cluster: Cluster, name: str) -> set[str]:
    return {row[0] for row in cluster.ask("SELECT message_id, supervisor FROM claims") if row[1] == name}


def _in_hand(cluster: Cluster, name: str) -> set[str]:
    with redis.Redis.from_url(cluster.redis.url, decode_responses=True) as client:
        return {message_id for key in client.scan_iter(f"*:hand:{name}") for message_id in client.hkeys(key)}


def _until_taken(cluster: Cluster, count: int) -> None:
    wait_until(lambda: len(cluster.sink.calls()) >= count, f"{count} are taken", within_s=PATIENCE_S)


def _settle(cluster: Cluster) -> None:
    wait_until(lambda: cluster.waiting() == 0, "all is settled", within_s=PATIENCE_S)


def _taken(cluster: Cluster) -> Iterator[tuple[float, float]]:
    """When each message was accepted and first taken."""
    created = dict(cluster.ask(CREATED))
    for call in cluster.sink.calls():
        created_s = created.pop(call.recipient, None)
        if created_s is not None:
            yield created_s, call.at_s


def _worst(waits_s: Iterator[float]) -> float:
    return round(max(waits_s, default=math.nan), 2)


def _p99(waits_s: Sequence[float]) -> float:
    return round(sorted(waits_s)[int(len(waits_s) * 0.99)], 3) if waits_s else math.nan


MEASURES: Final[tuple[Callable[[], dict[str, object]], ...]] = (killed, drained, rolled, used)


def main() -> int:
    for measure in MEASURES:
        if len(sys.argv) < 2 or measure.__name__ in sys.argv[1:]:
            print(measure.__name__, json.dumps(measure()), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
