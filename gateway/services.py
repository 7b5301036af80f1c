"""What the gateway needs of the rest: handed over by the supervisor, by fakes in tests. No actor is imported here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from heliograph.actors.kernel.actor import Health
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.settings import Config
from heliograph.actors.model.stats import Stats
from heliograph.actors.policy.route import Router
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.ports.ledger import Acceptance, Admission, Ledger, Reported
from heliograph.actors.ports.receipts import ReceiptReader
from heliograph.gateway.fetching import Fetcher
from heliograph.gateway.health import Check
from heliograph.gateway.seldom import Seldom


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`accept` answers after the commit; raises MailboxFull (shed: 503 with Retry-After) and LedgerDown (503).
    `report` is the same for receipts, and `receipts` has the readers of those providers that have any.
    `coordination` is best effort here: the ledger's controls are the truth, and its QueueDown is ignored.
    `config` holds secrets; `supervisor` is this process's id, `actors` are those of its tree."""

    supervisor: str
    clock: Clock
    config: Config
    ledger: Ledger
    router: Router
    coordination: Coordination
    metrics: Metrics
    registry: CollectorRegistry
    accept: Callable[[Acceptance], Awaitable[Admission]]
    report: Callable[[Sequence[Reported]], Awaitable[None]]
    receipts: Mapping[str, ReceiptReader]
    fetcher: Fetcher
    stats: Callable[[], Awaitable[Stats]]
    readiness: Callable[[], Mapping[str, Check]]
    draining: Callable[[], bool]
    actors: Callable[[], Sequence[Health]]
    complaints: Seldom = field(default_factory=Seldom)
    """Of what strangers send."""
