"""The heartbeat: proves that this supervisor lives, sees which others died, and brings the operators' word.

A supervisor is dead when its counter has stood still for DEAD_AFTER_S of our own clock *while our own beats went
through*: neither an emptied Redis nor a restarted PostgreSQL declares anybody dead. Death moves hints, nothing else;
work that was begun is the reaper's. A wrong verdict is harmless: the slow one raises its counter again and goes on,
its hints are doubled, and claims absorb that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from heliograph.actors.kernel.actor import Inbox, Ref
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.model.errors import LedgerDown, QueueDown, StaleGeneration
from heliograph.actors.model.provider import Controls, ProviderReport
from heliograph.actors.ports.handover import ControlsChanged, ProviderMessage
from heliograph.actors.ports.ledger import ClusterLedger, DeliveryLedger, Peer, WaitingHint
from heliograph.actors.ports.queue import Hint, Later, Queue

log = structlog.get_logger()
EVERY_S: Final = 1.0
DEAD_AFTER_S: Final = 4.8
"""With one second for a last beat to be seen, and what it takes to move its hints, these are with others within 6 s."""
SOON_S: Final = 0.01
MISSED_S: Final = 3.0
MOST_OWED: Final = 10_000
PAGE: Final = 1000


@dataclass(slots=True)
class Seen:
    beats: int
    still_since_s: float


class Peers:
    """Who lives, as the last beat told: what a share of the cluster's rate is reckoned by; and what the others said of
    their providers."""

    def __init__(self) -> None:
        self.alive = 1
        self.reports: tuple[ProviderReport, ...] = ()
        self.beaten_at_s: float | None = None


class Heartbeat:
    def __init__(
        self,
        cluster: ClusterLedger,
        delivery: DeliveryLedger,
        queue: Queue,
        peers: Peers,
        providers: Mapping[str, Ref[ProviderMessage]],
        reports: Callable[[], Sequence[ProviderReport]],
        *,
        supervisor: str,
        roles: Sequence[str],
        metrics_url: Callable[[], str | None],
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self._delivery = delivery
        self._queue = queue
        self._peers = peers
        self._providers = providers
        self._reports = reports
        self._supervisor = supervisor
        self._roles = roles
        self._metrics_url = metrics_url
        self._clock = clock
        self._seen: dict[str, Seen] = {}
        self._said: dict[str, Controls | None] = {}
        self._last_beat_s: float | None = None

    async def run(self, inbox: Inbox[None]) -> None:
        joined = False
        down = False
        while True:
            inbox.began()
            try:
                if not joined:
                    url = self._metrics_url()
                    await self._cluster.join(self._supervisor, roles=self._roles, metrics_url=url)
                    joined = True
                await self._beat()
                if down:
                    log.info("ledger.back")
                down = False
            except LedgerDown as error:
                if not down:
                    log.warning("ledger.down", error=str(error))
                down = True
            await inbox.receive(self._next_in_s())
            if inbox.closed:
                return

    def _next_in_s(self) -> float:
        """A beat later, or as soon as one that stands still would count as dead."""
        now_s = self._clock.boot_s()
        due_s = [seen.still_since_s + DEAD_AFTER_S - now_s for seen in self._seen.values()]
        return min((due_in_s + SOON_S for due_in_s in due_s if 0 < due_in_s < EVERY_S), default=EVERY_S)

    async def _beat(self) -> None:
        peers = await self._cluster.beat(self._supervisor, self._reports())
        now_s = self._clock.boot_s()
        if self._last_beat_s is not None and now_s - self._last_beat_s > MISSED_S:
            self._seen.clear()  # we were away ourselves: everybody's stillness is counted anew
        self._last_beat_s = self._peers.beaten_at_s = now_s
        dead = [peer for peer in peers if self._is_dead(peer, now_s)]
        self._seen = {p.supervisor: self._seen[p.supervisor] for p in peers if p.supervisor in self._seen}
        delivering = sum(1 for p in peers if "delivery" in p.roles and p not in dead)
        self._peers.alive = max(1, delivering)
        others = (p for p in peers if p.supervisor != self._supervisor and p not in dead)
        self._peers.reports = tuple(report for peer in others for report in peer.reports)
        await self._spread_controls()
        for peer in dead:
            await self._bury(peer.supervisor)

    def _is_dead(self, peer: Peer, now_s: float) -> bool:
        if peer.supervisor == self._supervisor:
            return False
        seen = self._seen.get(peer.supervisor)
        if seen is None or seen.beats != peer.beats:
            self._seen[peer.supervisor] = Seen(peer.beats, now_s)
            return False
        return now_s - seen.still_since_s > DEAD_AFTER_S

    async def _spread_controls(self) -> None:
        controls = {c.provider: c for c in await self._cluster.controls()}
        for name, ref in self._providers.items():
            said = controls.get(name)
            if name in self._said and self._said[name] == said:
                continue
            if ref.offer(ControlsChanged(said)):  # else with the next beat
                self._said[name] = said

    async def _bury(self, dead: str) -> None:
        """Move its hints, push again what it may have owed, and only when the lists have all of it mark it ended: many
        may do it at once, and one that is cut short, by our own death too, is done again by the next look."""
        try:
            moved = await self._queue.adopt(dead)
            owed = await self._delivery.touched_by(dead, limit=MOST_OWED)
            for n in range(0, len(owed), PAGE):
                await self._push(owed[n : n + PAGE])
        except (QueueDown, StaleGeneration):
            return
        await self._cluster.leave(dead)
        self._seen.pop(dead, None)
        log.warning("supervisor.dead", supervisor=dead, hints_moved=moved, pushed_again=len(owed))

    async def _push(self, owed: Sequence[WaitingHint]) -> None:
        due = [Hint(each.message_id, each.lane) for each in owed if each.due_in_s <= 0]
        later = [Later(Hint(each.message_id, each.lane), each.due_in_s) for each in owed if each.due_in_s > 0]
        await self._queue.push(due, later=later)
