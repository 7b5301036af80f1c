"""The census: counts for the metrics, the stats and their stream, read from the ledger at most once a second.

It reads on demand, so that nobody's looking costs nothing, but for a sample of the ledger's running counters each
SAMPLE_S, of which the rates over the last minute are made. The drift reads the rows themselves: once a minute, or more
rarely where there are so many that it takes long, and beside all else, so that nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox, Reply
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.deadletter import REASONS
from heliograph.actors.model.errors import LedgerDown, QueueDown, StaleGeneration
from heliograph.actors.model.message import LANES, Lane, State
from heliograph.actors.model.stats import Stats
from heliograph.actors.ports.ledger import Census as Counts
from heliograph.actors.ports.ledger import StatsLedger

log = structlog.get_logger()
FRESH_S: Final = 1.0
SAMPLE_S: Final = 5.0
RATES_OVER_S: Final = 60.0
DRIFT_S: Final = 60.0
DRIFT_SHARE: Final = 0.02
"""The most of the time that reading for the drift may take, whatever there is to read."""
COUNT_TO: Final = 10_000


@dataclass(frozen=True, slots=True)
class Ask:
    """For the stats as they are now. Fails with LedgerDown."""

    reply: Reply[Stats]


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    accepted: int
    sent: int
    failed: int


class Census:
    def __init__(
        self,
        ledger: StatsLedger,
        depths: Callable[[], Awaitable[Mapping[Lane, int]]],
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._depths = depths
        self._clock = clock
        self._depth = {lane: metrics.queue_depth.labels(lane) for lane in LANES}
        self._age = {lane: metrics.queue_oldest_age.labels(lane) for lane in LANES}
        self._dead = {reason: metrics.dead_letters.labels(reason) for reason in REASONS}
        self._drift = metrics.accounting_drift
        self._outage = Outage("census", clock)
        self._samples: deque[_Sample] = deque()
        self._stats: Stats | None = None
        self._read_s = float("-inf")

    async def run(self, inbox: Inbox[Ask]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_drift)
            await self._answer(inbox)
            nursery.cancel_scope.cancel()

    async def _watch_drift(self) -> None:
        while True:
            began_s = self._clock.boot_s()
            try:
                self._drift.set(await self._ledger.drift())
            except LedgerDown as error:
                log.info("census.drift_unknown", error=str(error))
            await trio.sleep(max(DRIFT_S, (self._clock.boot_s() - began_s) / DRIFT_SHARE))

    async def _answer(self, inbox: Inbox[Ask]) -> None:
        while True:
            ask = await inbox.receive(SAMPLE_S)
            if ask is None and inbox.closed:
                return
            inbox.began()
            asks = [*([ask] if ask else []), *inbox.pile(256)]
            try:
                stats = await self._fresh()
                self._outage.over()
            except LedgerDown as error:
                self._outage.failed(error)
                for each in asks:
                    each.reply.fail(error)
                continue
            for each in asks:
                each.reply.send(stats)

    async def _fresh(self) -> Stats:
        now_s = self._clock.boot_s()
        if self._stats is not None and now_s - self._read_s < FRESH_S:
            return self._stats
        counts = await self._ledger.census(count_to=COUNT_TO)
        self._sample(counts, now_s)
        self._stats = Stats(
            messages=counts.messages,
            depth=await self._due(counts),
            oldest_age_s=counts.oldest_due_age_s,
            dead_letters=counts.dead_letters,
            rates=self._rates(),
        )
        self._read_s = now_s
        self._show(self._stats)
        return self._stats

    async def _due(self, counts: Counts) -> Mapping[Lane, int]:
        """Counted where that is cheap; beyond it the queue's own word, which leaves out what is in hand."""
        if max(counts.due.values()) < COUNT_TO:
            return counts.due
        try:
            depths = await self._depths()
        except (QueueDown, StaleGeneration):
            return counts.due
        return {lane: due if due < COUNT_TO else max(due, depths[lane]) for lane, due in counts.due.items()}

    def _sample(self, counts: Counts, now_s: float) -> None:
        def entered(*states: State) -> int:
            return sum(n for (_, state), n in counts.entered.items() if state in states)

        self._samples.append(
            _Sample(now_s, sum(counts.accepted.values()), entered(State.SENT), entered(State.FAILED, State.UNDELIVERED))
        )
        while len(self._samples) > 2 and self._samples[1].at_s <= now_s - RATES_OVER_S:
            self._samples.popleft()

    def _rates(self) -> dict[str, float]:
        first, last = self._samples[0], self._samples[-1]
        over_s = max(last.at_s - first.at_s, FRESH_S)
        return {
            "accepted": (last.accepted - first.accepted) / over_s,
            "sent": (last.sent - first.sent) / over_s,
            "failed": (last.failed - first.failed) / over_s,
        }

    def _show(self, stats: Stats) -> None:
        for lane, depth in stats.depth.items():
            self._depth[lane].set(depth)
            self._age[lane].set(stats.oldest_age_s[lane] or 0.0)
        for reason, gauge in self._dead.items():
            gauge.set(stats.dead_letters.get(reason, 0))
