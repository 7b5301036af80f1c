"""One supervisor's actors, wired over whatever adapters they are given: real ones, or their twins in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import structlog
import trio
from prometheus_client import CollectorRegistry

from heliograph.actors.census import Census
from heliograph.actors.dead_letters import DeadLetters
from heliograph.actors.dispatcher import Dispatcher
from heliograph.actors.heartbeat import Heartbeat, Peers
from heliograph.actors.intake import Accept, Intake
from heliograph.actors.journal import JournalActor, JournalSettings
from heliograph.actors.jury import Jury, Rejected
from heliograph.actors.kernel.actor import Actor, Mailbox, Ref
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.supervision import ChildSpec, Exceeded, Group
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.metrics.tree import TreeMetrics
from heliograph.actors.model.errors import LedgerDown, StaleGeneration
from heliograph.actors.model.message import Channel, Message, Priority, State
from heliograph.actors.model.provider import ProviderReport
from heliograph.actors.model.receipt import Receipt
from heliograph.actors.model.settings import Config
from heliograph.actors.operations import Operations
from heliograph.actors.policy.refutation import Refutations
from heliograph.actors.policy.route import Router
from heliograph.actors.policy.triage import Blocked
from heliograph.actors.ports.board import Board
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.ports.courier import Courier, Reporting
from heliograph.actors.ports.ledger import Acceptance, Admission, Ledger, Reported, WaitingHint
from heliograph.actors.ports.queue import Hint, Later, Queue
from heliograph.actors.provider import ProviderActor
from heliograph.actors.reaper import Reaper
from heliograph.actors.receipts import Arrived, Promised, Receipts
from heliograph.actors.relay import Dirty, NewWork, Relay
from heliograph.actors.scheduler import Scheduler

log = structlog.get_logger()
ROLES: Final = frozenset({"gateway", "delivery", "dead-letters"})
ACCEPT_LIMIT_S: Final = 12.0
FEW: Final = 20
"""Requests of more messages are committed apart, so that they keep no single message waiting."""
REPORT_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The outside, behind its ports: one courier for each configured provider."""

    ledger: Ledger
    queue: Queue
    coordination: Coordination
    couriers: Mapping[str, Courier]
    country_of: Callable[[str], str | None]


class Node:
    """The actors of one process, by `roles`. `children` is the tree, without servers; the rest is for those who look
    or ask from outside: the gateway, the monitor, a test."""

    def __init__(
        self, config: Config, adapters: Adapters, *, roles: frozenset[str], supervisor: str, clock: Clock
    ) -> None:
        self.config = config
        self.adapters = adapters
        self.roles = roles
        self.supervisor = supervisor
        self.clock = clock
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.peers = Peers()
        self.board = Board(config.providers)
        takes = {name: partial(_takes, name, courier) for name, courier in adapters.couriers.items()}
        self.router = Router(config.providers, takes, adapters.country_of)
        self.metrics_url: str | None = None
        self.tree_metrics = TreeMetrics(self.metrics)
        self._boxes: dict[str, Mailbox[Any]] = {}
        self._actors: dict[str, ProviderActor] = {}
        self._refuted = {p.name: Refutations() for p in config.providers}
        self._relay_actor: Relay | None = None
        self._owes_word = False
        self.relay = self.box("relay", 4096)
        self.census = self.box("census", 256)
        self.intake: Mailbox[Accept] = self.box("intake", 512)
        self.intake_bulk: Mailbox[Accept] = self.box("intake/bulk", 512)
        self.operations = self.box("operations", 16)
        self.receipts: Mailbox[Arrived | Promised] = self.box("receipts", 512)
        for name, courier in adapters.couriers.items():
            if isinstance(courier, Reporting):
                courier.reports_to(partial(self._promise, name))
        self.jury: Mailbox[Rejected] = self.box("jury", 512)

    # -------------------------------------------------------------------------------------- seen from outside

    def box(self, name: str, capacity: int) -> Mailbox[Any]:
        """A mailbox that outlives its actors' crashes, known to the metrics from the start."""
        self.tree_metrics.know(name)
        return Mailbox(name, capacity, self.clock, self.tree_metrics)

    async def accept(self, acceptance: Acceptance) -> Admission:
        """Answers after the commit. MailboxFull and LedgerDown as the intake says."""
        to = self.intake_bulk if len(acceptance.messages) > FEW else self.intake
        return await to.ref.ask(lambda reply: Accept(acceptance, reply), timeout_s=ACCEPT_LIMIT_S)

    async def report(self, reported: Sequence[Reported]) -> None:
        """What a provider reports; returned means committed. MailboxFull and LedgerDown as the actor says."""
        try:
            await self.receipts.ref.ask(lambda reply: Arrived(tuple(reported), reply), timeout_s=REPORT_LIMIT_S)
        except trio.TooSlowError as error:
            raise LedgerDown(f"no commit within {REPORT_LIMIT_S:.0f} s") from error

    def _promise(self, provider: str, receipts: Sequence[Receipt], in_s: float) -> None:
        if not self.receipts.ref.offer(Promised(tuple(Reported(provider, each) for each in receipts), in_s)):
            log.warning("receipts.lost", provider=provider, count=len(receipts))

    def announce(self, hints: Sequence[Hint], later: Sequence[Later] = ()) -> None:
        """Tell the relay of committed work. What its mailbox has no room for, it is told to look for in the ledger."""
        if not self.relay.ref.offer(NewWork(hints, later)):
            self._owes_word = True
        elif self._owes_word:
            self._owes_word = not self.relay.ref.offer(Dirty())

    def announce_waiting(self, waiting: Sequence[WaitingHint]) -> None:
        now = [Hint(w.message_id, w.lane) for w in waiting if w.due_in_s <= 0]
        later = [Later(Hint(w.message_id, w.lane), w.due_in_s) for w in waiting if w.due_in_s > 0]
        if now or later:
            self.announce(now, later)

    def _announce_requeued(self, waiting: Sequence[WaitingHint]) -> None:
        """Dead letters that are messages again."""
        for channel, n in Counter(w.lane.channel for w in waiting).items():
            self.metrics.messages.labels(channel, State.QUEUED).inc(n)
        self.announce_waiting(waiting)

    def blocked(self) -> dict[str, Blocked]:
        now_s = self.clock.boot_s()
        stopped = ((desk, desk.blocked(now_s)) for desk in self.board)
        return {
            desk.settings.name: Blocked(*why, spares_urgent=desk.blocked(now_s, Priority.URGENT) is None)
            for desk, why in stopped
            if why is not None
        }

    @property
    def reaches_queue(self) -> bool:
        return self._relay_actor is not None and self._relay_actor.reaches_queue

    async def leave(self) -> bool:
        """The last word after a drain: nothing is left with us, nobody need look. Where hints are left, since Redis is
        away, it is not said (False, QueueDown or LedgerDown), and the others find it as they find a death."""
        if self._relay_actor is not None and self._relay_actor.owes:
            return False
        with suppress(StaleGeneration):  # then our hand is gone with its lists
            await self.adapters.queue.adopt(self.supervisor)
        await self.adapters.ledger.cluster.leave(self.supervisor)
        return True

    def reports(self) -> list[ProviderReport]:
        now_s = self.clock.boot_s()
        reports = [actor.report() for actor in self._actors.values()]
        return [replace(each, refuted=self._refuted[each.name].count(now_s)) for each in reports]

    def _rejected(self, message: Message, provider: str) -> None:
        """The jury has room for a flood's beginning, and needs no more of it."""
        self.jury.ref.offer(Rejected(message, provider))

    # ------------------------------------------------------------------------------------------- the tree

    def children(self) -> list[ChildSpec | Group]:
        """In the order in which they start; they are drained the other way round."""
        ledger, queue = self.adapters.ledger, self.adapters.queue
        delivers = "delivery" in self.roles
        providers = {p.name: self.box(f"provider/{p.name}", 2048) for p in self.config.providers} if delivers else {}
        refs = {name: box.ref for name, box in providers.items()}
        tree: list[ChildSpec | Group] = [
            leaf(
                self.box("heartbeat", 1),
                lambda: Heartbeat(
                    ledger.cluster, ledger.delivery, queue, self.peers, refs, self.reports,
                    supervisor=self.supervisor, roles=sorted(self.roles), metrics_url=lambda: self.metrics_url,
                    clock=self.clock,
                ),
            ),
            leaf(self.relay, self._relay),
            leaf(
                self.census,
                lambda: Census(ledger.stats, queue.depths, clock=self.clock, metrics=self.metrics),
            ),
            leaf(
                self.receipts,
                lambda: Receipts(
                    ledger.receipts, timeout_s=self.config.delivery.receipt_timeout_s, clock=self.clock,
                    metrics=self.metrics,
                ),
            ),
        ]  # fmt: skip
        if delivers:
            tree += self._delivery(providers, refs)
        if "dead-letters" in self.roles:
            tree.append(self._aftercare())
        if "gateway" in self.roles:
            tree += [leaf(self.intake_bulk, self._intake), leaf(self.intake, self._intake)]
        return tree

    def _relay(self) -> Relay:
        self._relay_actor = Relay(
            self.adapters.ledger, self.adapters.queue, supervisor=self.supervisor, clock=self.clock
        )
        return self._relay_actor

    def _delivery(self, providers: Mapping[str, Mailbox[Any]], refs: Mapping[str, Ref[Any]]) -> list[ChildSpec | Group]:
        ledger, queue, clock, metrics = self.adapters.ledger.delivery, self.adapters.queue, self.clock, self.metrics
        settings, couriers = self.config.delivery, self.adapters.couriers
        journal = self.box("journal", 2048)
        judged = JournalSettings(
            delivery=settings,
            dead_letters=self.config.dead_letters,
            can_ask=frozenset(name for name, courier in couriers.items() if courier.can_ask),
        )

        def provider(name: str) -> ProviderActor:
            self._actors[name] = actor = ProviderActor(
                self.router.settings[name], couriers[name], self.adapters.coordination, journal.ref,
                self.board.desk(name), spent=ledger.spent, supervisors=lambda: self.peers.alive, clock=clock,
                metrics=metrics, bulk_share=settings.bulk_share,
            )  # fmt: skip
            return actor

        def dispatcher(channel: Channel) -> Dispatcher:
            return Dispatcher(
                channel, queue, ledger, self.router, self.board, refs,
                {n: c.longest_call_s for n, c in couriers.items()}, delivery=settings,
                auto_retry_s=self.config.dead_letters.auto_retry_s, supervisor=self.supervisor, clock=clock,
                metrics=metrics,
            )  # fmt: skip

        return [
            leaf(self.jury, self._jury),
            leaf(
                journal,
                lambda: JournalActor(
                    ledger, queue, self.router, self.blocked, self.announce, self._rejected, settings=judged,
                    supervisor=self.supervisor, clock=clock, metrics=metrics,
                ),
            ),
            Group(
                name="providers",
                together=True,
                children=[
                    leaf(
                        box, partial(provider, name), grace_s=settings.drain_grace_s, exceeded=Exceeded.REST
                    )
                    for name, box in providers.items()
                ],
            ),
            Group(
                name="dispatch",
                together=True,
                children=[
                    *(leaf(self.box(f"dispatcher/{c}", 1), partial(dispatcher, c)) for c in Channel),
                    *(leaf(self.box(f"scheduler/{c}", 64), partial(self._scheduler, c)) for c in Channel),
                    leaf(self.box("reaper", 1), lambda: Reaper(ledger, journal.ref, clock)),
                ],
            ),
        ]  # fmt: skip

    def _jury(self) -> Jury:
        return Jury(
            self.adapters.ledger, self.adapters.coordination, self.router, self._refuted,
            lambda: [*self.reports(), *self.peers.reports], self.blocked,
            max_redrives=self.config.dead_letters.max_redrives, clock=self.clock, metrics=self.metrics,
        )  # fmt: skip

    def _scheduler(self, channel: Channel) -> Scheduler:
        return Scheduler(
            channel, self.adapters.queue, self.adapters.ledger.delivery, clock=self.clock, metrics=self.metrics
        )

    def _aftercare(self) -> Group:
        ledger = self.adapters.ledger
        given: dict[str, Any] = {"config": self.config, "supervisor": self.supervisor, "clock": self.clock}
        return Group(
            name="aftercare",
            together=True,
            children=[
                leaf(self.box("dead_letters", 1), lambda: DeadLetters(ledger, self._announce_requeued, **given)),
                leaf(self.operations, lambda: Operations(ledger.operations, self._announce_requeued, **given)),
            ],
        )

    def _intake(self) -> Intake:
        return Intake(
            self.adapters.ledger.intake, self.announce, supervisor=self.supervisor, clock=self.clock,
            metrics=self.metrics,
        )  # fmt: skip


def _takes(name: str, courier: Courier, message: Message) -> str | None:
    """The courier's word. One whose own code cannot stand a message does not take it, and harms nobody who asks."""
    try:
        return courier.takes(message)
    except Exception as bug:
        log.exception("provider.bug", provider=name, error=type(bug).__name__, exc_info=False)
        return "internal"


def leaf(box: Mailbox[Any], build: Callable[[], Actor[Any]], **more: Any) -> ChildSpec:
    return ChildSpec(mailbox=box, build=build, **more)
