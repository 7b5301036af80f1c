"""`python -m tests.simulation.fidelity`: the same scenarios simulated, and run for real; how far apart are they?

The real run is `heliograph up`: a supervisor, Redis and PostgreSQL as processes of their own. Its two providers are one
server in this process, which behaves as the scenario says, with the simulation's own draws, and notes when it has taken
a message; this process is the client, too. Prints a table, as it stands in docs/simulation.md; exit 1 where
counts differ or a percentile is off by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
import trio

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Priority, State
from heliograph.actors.model.settings import Config
from heliograph.actors.simulation.courier import Account
from heliograph.actors.simulation.record import percentile
from heliograph.actors.simulation.run import simulate
from heliograph.actors.simulation.scenario import Scenario, Timeline
from heliograph.gateway.cli import scenario_file
from heliograph.gateway.cli.config import Need, load
from heliograph.providers import build, country_of
from tests.chaos.sink import Call, Sink
from tests.support.command import COMMAND, environment

SCENARIOS: Final = Path(__file__).parent.parent / "data" / "simulation"
NAMES: Final = ("calm", "outage", "campaign")
CONFIG: Final = """
[[providers]]
name = "first"
kind = "fast2sms"
channel = "sms"
priority = 1
base_url = "http://127.0.0.1:{port}"
rate = 20
concurrency = 100
credentials.api_key = "key"
options.route = "q"
breaker = {{ open_for = "5s", window = "10s", minimum_calls = 5 }}
[[providers]]
name = "second"
kind = "bulksms"
channel = "sms"
priority = 2
base_url = "http://127.0.0.1:{port}"
rate = 20
concurrency = 100
credentials = {{ token_id = "id", token_secret = "secret" }}
"""
WARM_S: Final = 3.0
"""How long before its first second a real run has all that it needs."""
QUIET_WITHIN_S: Final = 120.0
TOLERANCE: Final = 0.1


@dataclass(slots=True)
class Seen:
    """What a run came to: latencies in seconds from the client's posting to a provider's having taken the message."""

    sent: int = 0
    by_provider: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    latencies: dict[Priority, list[float]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Receiver(Sink):
    """Both providers, with the scenario's behaviour. `began_s` is when its first second began, by this machine."""

    accounts: Mapping[str, Account] = field(default_factory=dict)
    began_s: float = 0.0
    taken_at_s: dict[str, tuple[float, str]] = field(default_factory=dict)
    duplicates: int = 0
    _news: trio.Event = field(default_factory=trio.Event)

    async def has(self, count: int) -> None:
        """Wait until so many messages were taken."""
        while len(self.taken_at_s) < count:
            await self._news.wait()

    async def _take(
        self, stream: trio.SocketStream, made: list[Call], status: int, body: object, mode: str | None = None
    ) -> bool:
        [call] = made
        answer, latency_s = self.accounts[call.provider].judge(max(0.0, call.at_s - self.began_s))
        await trio.sleep(call.at_s + latency_s - time.time())
        if answer.outcome is not Outcome.ACCEPTED:
            return await self._answer(stream, made, "deferred", 503, {})
        self.duplicates += call.recipient in self.taken_at_s
        self.taken_at_s.setdefault(call.recipient, (time.time(), call.provider))
        self._news.set()
        self._news = trio.Event()
        return await self._answer(stream, made, "accepted", status, body)


def simulated(scenario: Scenario, config: Config) -> Seen:
    outcome = simulate(scenario, config, {p.name: build(p) for p in config.providers}, country_of)
    record = outcome.record
    return Seen(
        sent=outcome.states[State.SENT],
        by_provider=Counter({name: p.outcomes[Outcome.ACCEPTED] for name, p in record.providers.items()}),
        duplicates=record.duplicates,
        latencies={p: sorted(values) for p, values in record.latencies.items() if values},
    )


def accounts(scenario: Scenario, config: Config) -> dict[str, Account]:
    """With the draws that the simulation's providers have."""
    return {
        p.name: Account(
            p,
            build(p),
            Timeline(tuple(b for b in scenario.behaviours if b.provider == p.name)),
            random.Random(f"{scenario.seed}/provider {p.name}"),
        )
        for p in config.providers
    }


@dataclass(frozen=True, slots=True)
class Posting:
    at_s: float
    to: str
    priority: Priority
    providers: tuple[str, ...] | None

    @property
    def body(self) -> dict[str, Any]:
        named = {} if self.providers is None else {"providers": list(self.providers)}
        return {"channel": "sms", "to": self.to, "text": "Your order.", "priority": str(self.priority), **named}


def postings(scenario: Scenario) -> list[Posting]:
    """The simulation's own arrivals, each with a recipient to know it by."""
    found = [
        (at_s, traffic)
        for number, traffic in enumerate(scenario.traffic)
        for at_s in traffic.arrivals(random.Random(f"{scenario.seed}/traffic {number}"), scenario.duration_s)
    ]
    found.sort(key=lambda each: each[0])
    return [
        Posting(at_s, f"+91{9_000_000_000 + n}", traffic.priority, traffic.providers)
        for n, (at_s, traffic) in enumerate(found)
    ]


async def real(scenario: Scenario, home: Path) -> Seen:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1000)
    text = CONFIG.format(port=listener.socket.getsockname()[1])
    file = home / "config.toml"
    file.write_text(text)
    config = load(file, {}, need=frozenset({Need.PROVIDERS}), credentials=False).config
    receiver = Receiver(accounts=accounts(scenario, config))
    posted_at_s: dict[str, float] = {}
    plan = postings(scenario)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        with system(home, file) as up:
            limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
            head = {"authorization": f"Bearer {up['api_key']}"}
            async with httpx.AsyncClient(base_url=up["url"], headers=head, limits=limits, timeout=30) as http:
                began = trio.current_time() + WARM_S
                receiver.began_s = time.time() + WARM_S
                async with trio.open_nursery() as clients:
                    for at_s, together in groupby(plan, key=lambda each: each.at_s):
                        await trio.sleep_until(began + at_s)
                        clients.start_soon(_post, http, list(together), posted_at_s)
                with trio.move_on_after(QUIET_WITHIN_S):
                    await receiver.has(len(plan))
                await trio.sleep(1.0)  # the log is a moment behind
                stats = (await http.get("/v1/stats")).raise_for_status().json()
        nursery.cancel_scope.cancel()
    seen = Seen(sent=stats["messages"]["sms"]["sent"], duplicates=receiver.duplicates)
    for each in plan:
        if each.to in receiver.taken_at_s:
            taken_s, provider = receiver.taken_at_s[each.to]
            seen.by_provider[provider] += 1
            seen.latencies.setdefault(each.priority, []).append(taken_s - posted_at_s[each.to])
    for values in seen.latencies.values():
        values.sort()
    return seen


async def _post(http: httpx.AsyncClient, together: Sequence[Posting], posted_at_s: dict[str, float]) -> None:
    posted_at_s.update(dict.fromkeys((each.to for each in together), time.time()))
    if len(together) == 1:
        answer = await http.post("/v1/messages", json=together[0].body)
    else:
        answer = await http.post("/v1/messages/batch", json={"messages": [each.body for each in together]})
    answer.raise_for_status()


@contextmanager
def system(home: Path, config: Path) -> Iterator[dict[str, Any]]:
    told = subprocess.run(
        [*COMMAND, "up", "--port=0", f"--config={config}", "--detach", "--json"],
        cwd=home, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if told.returncode:
        raise SystemExit(f"heliograph up did not start: {told.stderr}")
    try:
        yield json.loads(told.stdout)
    finally:
        subprocess.run([*COMMAND, "down"], cwd=home, env=environment(), capture_output=True, check=True)


def compared(name: str, simulated: Seen, real: Seen) -> tuple[list[str], bool]:
    """Rows of the table, and whether the two agree. How many each provider took is determined only while no provider
    stops: at the edges of an outage a call more or less depends on the millisecond."""
    agree = simulated.sent == real.sent and simulated.duplicates == real.duplicates == 0
    carried = [
        ", ".join(f"{provider} {n}" for provider, n in sorted(seen.by_provider.items()) if n)
        for seen in (simulated, real)
    ]
    rows = [f"| {name} | delivered | {simulated.sent} ({carried[0]}) | {real.sent} ({carried[1]}) | |"]
    for priority in sorted(set(simulated.latencies) | set(real.latencies), key=list(Priority).index):
        for share in (0.5, 0.99):
            two = [percentile(seen.latencies.get(priority, []), share) for seen in (simulated, real)]
            off = two[0] / two[1] - 1 if two[1] else 1.0
            agree = agree and abs(off) <= TOLERANCE
            rows.append(f"| | {priority} p{share * 100:g} | {two[0]:.3f} s | {two[1]:.3f} s | {off:+.1%} |")
    return rows, agree


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.fidelity", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="by default all")
    rows, all_agree = ["| scenario | | simulated | real | off by |", "|---|---|---|---|---|"], True
    for name in parser.parse_args().names or NAMES:
        scenario = scenario_file.read(SCENARIOS / f"fidelity-{name}.toml", frozenset({"first", "second"}))
        with tempfile.TemporaryDirectory(prefix="heliograph-fidelity-") as folder:
            home = Path(folder)
            home.chmod(0o755)
            (home / "simulated.toml").write_text(CONFIG.format(port=1))
            loaded = load(home / "simulated.toml", {}, need=frozenset({Need.PROVIDERS}), credentials=False)
            foreseen = simulated(scenario, loaded.config)
            found, agree = compared(name, foreseen, trio.run(real, scenario, home))
        rows += found
        all_agree = all_agree and agree
        sys.stderr.write("\n".join(found) + "\n")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0 if all_agree else 1


if __name__ == "__main__":
    sys.exit(main())
