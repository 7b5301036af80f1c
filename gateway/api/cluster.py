"""What the cluster says of its providers: configuration, operators' controls and supervisors' reports put together.

Read at most once a second in each process. From it follows what a message that is due still waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import trio

from heliograph.actors.model.message import Message, Priority, Standing, State, WaitingFor
from heliograph.actors.model.provider import Controls, ForcedBreaker, Pause, ProviderReport, ProviderSettings
from heliograph.actors.ports.ledger import MessageView, Peer
from heliograph.gateway.api.answers import waiting_answer
from heliograph.gateway.api.schemas import (
    BreakerAnswer,
    ProviderAnswer,
    QuotaAnswer,
    ReportAnswer,
    SupervisorAnswer,
    WaitingAnswer,
)
from heliograph.gateway.services import Services

FRESH_S: Final = 1.0
BLOCKS: Final = (WaitingFor.PAUSED, WaitingFor.BREAKER, WaitingFor.RATE, WaitingFor.QUOTA)
"""Of these the cluster knows the end better than whoever put the message off until its next look."""


@dataclass(frozen=True, slots=True)
class Cluster:
    settings: Sequence[ProviderSettings]
    controls: Mapping[str, Controls]
    peers: Sequence[Peer]
    now: datetime

    def pause(self, provider: str) -> Pause | None:
        controls = self.controls.get(provider)
        if controls is None or controls.pause is None or controls.pause.until <= self.now:
            return None
        return controls.pause

    def breaker(self, provider: str) -> BreakerAnswer:
        """The operators' word, else the newest report: the state is the cluster's, some only hear of it later."""
        forced = self._forced(provider)
        newest = max(self._reports(provider), key=lambda r: r.breaker_since, default=None)
        if forced is not None:
            since = newest.breaker_since if newest is not None and newest.breaker is forced.state else None
            return {"state": forced.state.value, "since": since, "until": forced.until, "forced": True}
        if newest is None:
            return {"state": "closed", "since": None, "until": None, "forced": False}
        return _breaker(newest, forced=False)

    def providers(self) -> list[ProviderAnswer]:
        """The configured ones; what only serves test keys is nobody's to operate."""
        return [self.provider(settings) for settings in self.settings if not settings.test_only]

    def provider(self, settings: ProviderSettings) -> ProviderAnswer:
        reports = self._reports(settings.name)
        pause = self.pause(settings.name)
        neighbours = {s.name for s in self.settings if s.channel is settings.channel}
        handled = {name: sum(r.handled for r in self._reports(name)) for name in neighbours}
        whole = sum(handled.values())
        return {
            "name": settings.name,
            "kind": settings.kind,
            "channel": settings.channel.value,
            "priority": settings.priority,
            "weight": settings.weight,
            "paused": {"until": pause.until, "reason": pause.reason} if pause else None,
            "breaker": self.breaker(settings.name),
            "limiter": {
                "rate": settings.rate,
                "burst": settings.burst,
                "effective_rate": min((r.effective_rate for r in reports), default=settings.rate),
            },
            "quota": self._quota(settings),
            "in_flight": sum(r.in_flight for r in reports),
            "share": handled[settings.name] / whole if whole else 0.0,
        }

    def _quota(self, settings: ProviderSettings) -> QuotaAnswer | None:
        """By the supervisor that has seen the least left."""
        if settings.quota is None:
            return None
        told = [r.quota_remaining for r in self._reports(settings.name) if r.quota_remaining is not None]
        limit = settings.quota.limit
        return {"limit": limit, "remaining": min([limit, *told])}

    def supervisors(self) -> list[SupervisorAnswer]:
        return [
            {
                "supervisor": peer.supervisor,
                "roles": list(peer.roles),
                "metrics_url": peer.metrics_url,
                "providers": [self._report(report) for report in peer.reports],
            }
            for peer in self.peers
        ]

    def waiting(self, view: MessageView, candidates: Sequence[str]) -> WaitingAnswer | None:
        """What a message waits for; `candidates` are those that could ever take it."""
        standing, priority = view.standing, view.message.priority
        match standing.state:
            case State.SCHEDULED:
                return waiting_answer(WaitingFor.SEND_AT, None, view.message.send_at or standing.due_at)
            case State.QUEUED if standing.due_at > self.now and standing.waiting_for is not None:
                noted = waiting_answer(standing.waiting_for, standing.waiting_provider, standing.due_at)
                return (standing.waiting_for in BLOCKS and self._blocked(candidates, priority)) or noted
            case State.QUEUED:
                return self._blocked(candidates, priority) or _noted(standing)
            case _:
                return None

    def _blocked(self, candidates: Sequence[str], priority: Priority) -> WaitingAnswer | None:
        """None as soon as one candidate could be asked; else the first of them to come back."""
        if not candidates:
            return waiting_answer(WaitingFor.PROVIDER, None, None)
        blocks: list[tuple[bool, datetime, WaitingAnswer]] = []
        for name in candidates:
            block = self._block(name, priority)
            if block is None:
                return None
            until = block["until"]
            blocks.append((until is None, until or self.now, block))
        return min(blocks, key=lambda b: b[:2])[2]

    def _block(self, name: str, priority: Priority) -> WaitingAnswer | None:
        pause = self.pause(name)
        if pause is not None:
            return waiting_answer(WaitingFor.PAUSED, name, pause.until)
        breaker = self.breaker(name)
        if breaker["state"] == "open":
            return waiting_answer(WaitingFor.BREAKER, name, breaker["until"])
        used_up = [r for r in self._reports(name) if r.quota_until is not None and r.quota_until > self.now]
        if used_up and (priority is not Priority.URGENT or not any(r.quota_remaining for r in used_up)):
            return waiting_answer(WaitingFor.QUOTA, name, max(r.quota_until for r in used_up if r.quota_until))
        return None

    def _forced(self, provider: str) -> ForcedBreaker | None:
        controls = self.controls.get(provider)
        if controls is None or controls.forced is None or controls.forced.until <= self.now:
            return None
        return controls.forced

    def _report(self, report: ProviderReport) -> ReportAnswer:
        forced = self._forced(report.name)
        return {
            "name": report.name,
            "breaker": _breaker(report, forced=forced is not None and forced.state is report.breaker),
            "effective_rate": report.effective_rate,
            "in_flight": report.in_flight,
            "handled": report.handled,
        }

    def _reports(self, provider: str) -> list[ProviderReport]:
        return [report for peer in self.peers for report in peer.reports if report.name == provider]


def _noted(standing: Standing) -> WaitingAnswer | None:
    """What its last dispatcher noted of a message that is due again; it is about to be looked at."""
    if standing.waiting_for in (WaitingFor.RATE, WaitingFor.RECEIPT):
        return waiting_answer(standing.waiting_for, standing.waiting_provider, None)
    return None


def _breaker(report: ProviderReport, *, forced: bool) -> BreakerAnswer:
    return {
        "state": report.breaker.value,
        "since": report.breaker_since,
        "until": report.breaker_until,
        "forced": forced,
    }


class ClusterView:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._last: Cluster | None = None
        self._read_at_s = 0.0

    async def now(self, *, fresh: bool = False) -> Cluster:
        """At most FRESH_S old; `fresh` reads it anew. LedgerDown."""
        if not fresh and self._last is not None and trio.current_time() - self._read_at_s < FRESH_S:
            return self._last
        read_at_s = trio.current_time()
        ledger = self._services.ledger.cluster
        controls = {c.provider: c for c in await ledger.controls()}
        peers = await ledger.peers()
        self._last = Cluster(self._services.config.providers, controls, peers, self._services.clock.now())
        self._read_at_s = read_at_s
        return self._last

    async def waiting(self, views: Sequence[MessageView]) -> list[WaitingAnswer | None]:
        if not any(v.standing.state in (State.QUEUED, State.SCHEDULED) for v in views):
            return [None] * len(views)
        cluster = await self.now()
        return [cluster.waiting(v, self._candidates(v.message, v.standing)) for v in views]

    def _candidates(self, message: Message, standing: Standing) -> Sequence[str]:
        return self._services.router.candidates(message).names if standing.state is State.QUEUED else ()
