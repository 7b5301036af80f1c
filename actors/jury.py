"""The jury: holds a provider's rejections against what others accept, and stops one that refuses good recipients.

It is told of each rejection after it was written down, asks the ledger whether another provider has lately accepted
that recipient, and puts its own count together with what the other supervisors report. Where the verdict is against
the provider it is paused through the operators' controls, so that everybody sees why and anybody can resume it; a
little later the dead letters that it made in that time go on their way again as an operation. Who hears late of the
pause, or has a slow call in the air, makes some more: they follow. Several supervisors may come to the same verdict:
the pause is one, and so is each operation.
"""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Final

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.metrics.provider import StopReason
from heliograph.actors.model.deadletter import DeadLetterFilter, OperationKind
from heliograph.actors.model.errors import LedgerDown, QueueDown
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Message, Reason
from heliograph.actors.model.provider import Pause, ProviderReport
from heliograph.actors.policy.refutation import LATELY_S, WINDOW_S, Evidence, Refutations, Ruling, rule
from heliograph.actors.policy.route import Router
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.ports.ledger import Ledger

log = structlog.get_logger()
MOST: Final = 200
LOOK_S: Final = 1.0
PAUSE_S: Final = 900.0
BRIDGE_S: Final = 3.0
"""Until the heartbeats have brought the pause to every supervisor; what is refused meanwhile is redriven too."""
SWEEPS_S: Final = (BRIDGE_S, 10.0, 30.0)
WARN_EVERY_S: Final = 300.0
ACTOR: Final = "system"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Written down as such."""

    message: Message
    provider: str


@dataclass(slots=True)
class _Owed:
    """Dead letters of a provider, of a span of time, to be redriven at these times."""

    since: datetime
    until: datetime
    due_s: deque[float]


class Jury:
    """`refuted` outlives this actor; `reports` are the newest of all supervisors, ours too; `blocked` names the
    providers that cannot be asked now."""

    def __init__(
        self,
        ledger: Ledger,
        coordination: Coordination,
        router: Router,
        refuted: Mapping[str, Refutations],
        reports: Callable[[], Sequence[ProviderReport]],
        blocked: Callable[[], Mapping[str, object]],
        *,
        max_redrives: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._max_redrives = max_redrives
        self._ledger = ledger
        self._coordination = coordination
        self._router = router
        self._refuted = refuted
        self._reports = reports
        self._blocked = blocked
        self._clock = clock
        self._stops = {name: metrics.provider_stops.labels(name, StopReason.REJECTIONS) for name in refuted}
        self._outage = Outage("jury", clock)
        self._owed: dict[str, _Owed] = {}
        self._warned_s: dict[str, float] = {}

    async def run(self, inbox: Inbox[Rejected]) -> None:
        while True:
            first = await inbox.receive(LOOK_S if self._at_work() else inf)
            if inbox.closed:
                return
            inbox.began()
            told = [first, *inbox.pile(MOST - 1)] if first is not None else []
            try:
                await self._hear(told)
                for name in self._refuted:
                    await self._judge(name)
                    await self._redrive(name)
            except LedgerDown as error:
                await trio.sleep(self._outage.failed(error))
                continue
            self._outage.over()

    def _at_work(self) -> bool:
        now_s = self._clock.boot_s()
        return bool(self._owed) or any(each.count(now_s) for each in self._refuted.values())

    async def _hear(self, told: Sequence[Rejected]) -> None:
        by_provider: defaultdict[str, dict[str, Message]] = defaultdict(dict)
        for each in told:
            by_provider[each.provider][each.message.id] = each.message
        for name, messages in by_provider.items():
            if name not in self._refuted:
                continue
            known = await self._ledger.delivery.accepted_elsewhere(list(messages), name, within_s=LATELY_S)
            now_s = self._clock.boot_s()
            for message_id, message in messages.items():
                if message_id in known:
                    self._refuted[name].add(message, now_s)

    async def _judge(self, name: str) -> None:
        ours, now_s = self._refuted[name], self._clock.boot_s()
        if not ours.count(now_s):
            return
        reports = [report for report in self._reports() if report.name == name]
        evidence = Evidence(sum(r.answered for r in reports), sum(r.refuted for r in reports))
        match rule(evidence, others=self._others(name, ours)):
            case Ruling.PAUSE:
                await self._pause(name, evidence)
            case Ruling.WARN if now_s >= self._warned_s.get(name, -inf):
                self._warned_s[name] = now_s + WARN_EVERY_S
                self._tell(name, evidence, paused=False)
            case _:
                pass

    def _others(self, name: str, ours: Refutations) -> bool:
        """Could at least half of those that it refused be sent by another one, now?"""
        blocked = self._blocked()
        messages = ours.messages
        could = sum(
            any(other != name and other not in blocked for other in self._router.candidates(message).names)
            for message in messages
        )
        return 2 * could >= len(messages)

    async def _pause(self, name: str, evidence: Evidence) -> None:
        """Repeating it, after an outage in the middle, does no harm."""
        now = self._clock.now()
        paused = {c.provider for c in await self._ledger.cluster.controls() if c.pause and c.pause.until > now}
        if name not in paused:
            until = now + timedelta(seconds=PAUSE_S)
            await self._ledger.cluster.pause(name, Pause(until=until, reason=StopReason.REJECTIONS))
            try:
                await self._coordination.pause(name, for_s=BRIDGE_S)
            except QueueDown as error:  # then nobody calls anyway
                log.warning("provider.not_told", provider=name, error=str(error))
            self._tell(name, evidence, paused=True)
            since, ends = now - timedelta(seconds=WINDOW_S), now + timedelta(seconds=WINDOW_S)
            now_s = self._clock.boot_s()
            self._owed[name] = _Owed(since, ends, deque(now_s + after_s for after_s in SWEEPS_S))
        self._refuted[name].clear()

    def _tell(self, name: str, evidence: Evidence, *, paused: bool) -> None:
        self._stops[name].inc()
        log.error(
            "provider.rejects_good_recipients",
            provider=name,
            rejected=evidence.refuted,
            answered=evidence.answered,
            paused_for_s=PAUSE_S if paused else None,
            mend="look at its account and routes; resume it when it is well"
            if paused
            else "no other provider can take its messages, so it is not paused: look at its account and routes",
        )

    async def _redrive(self, name: str) -> None:
        owed = self._owed.get(name)
        if owed is None or self._clock.boot_s() < owed.due_s[0]:
            return
        wanted = DeadLetterFilter(provider=name, reason=Reason.REJECTED, since=owed.since, until=owed.until)
        operations = self._ledger.operations
        found = await operations.dry_run(
            OperationKind.REDRIVE, ids=None, wanted=wanted, tenant=None, max_redrives=self._max_redrives
        )
        if found.eligible:
            await self._begin(name, wanted, sweep=len(owed.due_s))
        owed.due_s.popleft()
        if not owed.due_s:
            del self._owed[name]

    async def _begin(self, name: str, wanted: DeadLetterFilter, *, sweep: int) -> None:
        """Under the same id for all who came to this verdict within the minute."""
        minute = self._clock.now().replace(second=0, microsecond=0)
        operation = await self._ledger.operations.create(
            new_id("op", minute, chance=zlib.crc32(f"{name} {sweep}".encode())),
            OperationKind.REDRIVE,
            ids=None,
            wanted=wanted,
            tenant=None,
            rate=None,
            reason=f"{name} rejected recipients that other providers accept",
            actor=ACTOR,
        )
        log.info("provider.rejections_redriven", provider=name, operation=operation.id, total=operation.total)
