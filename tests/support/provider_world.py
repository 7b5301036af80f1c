"""Provider actors of several supervisors on one pretended Redis, each with a courier of its own that shares a script.

A small dispatcher claims what waits where a desk has room, and a journal writes everything down; what is released
waits again. Only what these tests need of either is here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from prometheus_client import CollectorRegistry

from heliograph.actors.kernel.actor import Inbox, Mailbox
from heliograph.actors.kernel.clock import VirtualClock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Message, Priority, Standing, State, Tracked
from heliograph.actors.model.provider import Controls, ProviderSettings
from heliograph.actors.ports.board import Board, Desk
from heliograph.actors.ports.handover import ControlsChanged, Deliver, ProviderMessage
from heliograph.actors.ports.journal import AttemptFinished, AttemptReleased, EarlierSettled, Ended
from heliograph.actors.provider import ProviderActor
from heliograph.actors.queue.memory import MemoryCoordination, MemoryRedis
from tests.support.builders import a_message
from tests.support.couriers import Handed, ScriptedCourier

SEND_WINDOW_S = 2.0


def a_standing(message: Message, **fields: object) -> Standing:
    known: dict[str, object] = {
        "state": State.QUEUED,
        "due_at": message.created_at,
        "updated_at": message.created_at,
        "expires_at": message.expires_at,
    }
    return Standing(**known | fields)  # type: ignore[arg-type]


def tracked(message: Message | None = None, **standing: object) -> Tracked:
    message = message or a_message()
    return Tracked(message, a_standing(message, **standing))


@dataclass(eq=False)
class Node:
    """One supervisor's half. `journal_open` unset makes the journal take nothing."""

    world: World
    actor: ProviderActor
    courier: ScriptedCourier
    mailbox: Mailbox[ProviderMessage]
    desk: Desk
    board: Board
    registry: CollectorRegistry
    told: list[tuple[float, Ended]] = field(default_factory=list)
    journal_open: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def offer_all(self, messages: Sequence[Ended]) -> int:
        return 0

    async def tell(self, message: Ended) -> None:
        await self.journal_open.wait()
        await trio.lowlevel.checkpoint()
        self.told.append((self.world.clock.boot_s(), message))
        if isinstance(message, AttemptReleased):
            self.world.waiting.appendleft(message.tracked)

    def of(self, kind: type[Ended]) -> list[Ended]:
        return [message for _, message in self.told if isinstance(message, kind)]

    async def deliver(self, each: Tracked, *, right_s: float = SEND_WINDOW_S, expires_s: float = 1e6) -> None:
        """As a dispatcher that has just won the claim."""
        now_s = self.world.clock.boot_s()
        self.desk.enter(each.message.priority)
        number = each.standing.attempts + 1
        await self.mailbox.ref.tell(Deliver(each, number, self.world.clock.now(), now_s + right_s, now_s + expires_s))

    async def control(self, controls: Controls | None) -> None:
        await self.mailbox.ref.tell(ControlsChanged(controls))

    def build_anew(self) -> None:
        self.actor = self.world.build(self, Metrics(CollectorRegistry()))
        self.scope, self.ended = trio.CancelScope(), trio.Event()

    async def run(self) -> None:
        with self.scope:
            await self.actor.run(Inbox(self.mailbox))
        self.ended.set()

    async def dispatch(self, claim_s: float) -> None:
        """Claims in groups of what there is room for."""
        world = self.world
        while True:
            group: list[Tracked] = []
            while world.waiting and len(group) < 256:
                priority = world.waiting[0].message.priority
                if self.desk.blocked(world.clock.boot_s(), priority) or self.desk.room(priority) <= 0:
                    break
                self.desk.enter(priority)
                group.append(world.waiting.popleft())
            if not group:
                with trio.move_on_after(0.1):
                    await self.board.changed()
                continue
            asked_s = world.clock.boot_s()
            await trio.sleep(claim_s)
            for each in group:
                number = each.standing.attempts + 1
                deliver = Deliver(each, number, world.clock.now(), asked_s + SEND_WINDOW_S, asked_s + 1e6)
                if not self.mailbox.ref.offer(deliver):
                    await self.mailbox.ref.tell(deliver)


class World:
    def __init__(self, settings: ProviderSettings, nursery: trio.Nursery, *, seed: int = 7) -> None:
        self.settings = settings
        self.nursery = nursery
        self.clock = VirtualClock(random.Random(seed))
        self.redis = MemoryRedis()
        self.redis.data.buckets[f"{self.redis.run_id}:{settings.name}"] = 0  # full, as after a quiet time
        self.waiting: deque[Tracked] = deque()
        self.nodes: list[Node] = []

    def add(
        self,
        answer: Callable[..., Answer] | None = None,
        *,
        run: bool = True,
        claim_s: float | None = None,
        **courier: object,
    ) -> Node:
        """Another supervisor. With `claim_s` it has a dispatcher too."""
        scripted = ScriptedCourier(self.clock, **({"answer": answer} if answer else {}), **courier)  # type: ignore[arg-type]
        board = Board([self.settings])
        mailbox: Mailbox[ProviderMessage] = Mailbox(f"provider/{self.settings.name}", 1000, self.clock)
        registry = CollectorRegistry()
        node = Node(self, None, scripted, mailbox, board.desk(self.settings.name), board, registry)  # type: ignore[arg-type]
        node.journal_open.set()
        self.nodes.append(node)
        node.actor = self.build(node, Metrics(registry))
        if run:
            self.nursery.start_soon(node.run)
        if claim_s is not None:
            self.nursery.start_soon(node.dispatch, claim_s)
        return node

    def build(self, node: Node, metrics: Metrics) -> ProviderActor:
        return ProviderActor(
            self.settings,
            node.courier,
            MemoryCoordination(self.redis),
            node,
            node.desk,
            spent=self.spent,
            supervisors=lambda: len(self.nodes),
            clock=self.clock,
            metrics=metrics,
        )

    async def spent(self, provider: str, *, part_s: float, parts: int) -> list[int]:
        """As a ledger in which every call is written down as it is made."""
        await trio.lowlevel.checkpoint()
        ages = [0] * parts
        for handed in self.handed:
            age = int((self.clock.boot_s() - handed.at_s) / part_s)
            if age < parts:
                ages[age] += handed.recipients
        return ages

    def wait_to_be_sent(self, count: int, priority: Priority = Priority.NORMAL) -> None:
        self.waiting.extend(tracked(a_message(priority=priority)) for _ in range(count))

    @property
    def handed(self) -> list[Handed]:
        return sorted((h for node in self.nodes for h in node.courier.handed), key=lambda h: h.at_s)

    @property
    def finished(self) -> list[AttemptFinished]:
        return [m for node in self.nodes for _, m in node.told if isinstance(m, AttemptFinished)]

    @property
    def settled(self) -> list[EarlierSettled]:
        return [m for node in self.nodes for _, m in node.told if isinstance(m, EarlierSettled)]

    def outcomes(self) -> list[Outcome]:
        return [each.answer.outcome for each in self.finished]


def worst_excess(handed: Sequence[Handed], rate: float) -> float:
    """Over all windows that begin and end with a call: the most recipients beyond rate x time."""
    worst, lowest, total = 0.0, float("inf"), 0
    for call in handed:  # max over i <= j of (sum of recipients i..j) - rate * (t_j - t_i)
        lowest = min(lowest, total - rate * call.at_s)
        total += call.recipients
        worst = max(worst, total - rate * call.at_s - lowest)
    return worst
