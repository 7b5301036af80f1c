"""A journal on a stage, and messages under way: claimed by its supervisor, their hints in its hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import trio

from heliograph.actors.journal import JournalActor, JournalSettings
from heliograph.actors.kernel.actor import Mailbox
from heliograph.actors.kernel.supervision import ChildSpec, Group, Supervisor
from heliograph.actors.model.attempt import Answer, Settled
from heliograph.actors.model.message import Channel, Priority, Tracked
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import DeadLetterSettings, DeliverySettings
from heliograph.actors.policy.route import Router
from heliograph.actors.policy.triage import Blocked
from heliograph.actors.ports.journal import AttemptFinished, AttemptOverdue, AttemptReleased, EarlierSettled
from heliograph.actors.ports.ledger import ClaimRequest
from heliograph.actors.ports.queue import Hint, Later
from tests.support.builders import a_provider
from tests.support.stage import Stage

HOLD_S = 13.0
GRACE_S = 5.0
ROOM = dict.fromkeys(Priority, 1000)
DELIVERY = DeliverySettings(backoff_base_s=10.0, unknown_wait_s=30.0)


class JournalWorld:
    """`announced` is what the relay was told. Providers of the route: x, then y; with `ask` they can be asked what
    became of an attempt, else it is made again."""

    def __init__(self, stage: Stage, supervisor: str = "a", *, ask: bool = False) -> None:
        self.ask = ask
        self.stage = stage
        self.name = supervisor
        self.ledger: Any = stage.ledger.delivery
        self.queue = stage.queue(supervisor)
        self.announced: list[tuple[list[Hint], list[Later]]] = []
        self.blocked: dict[str, Blocked] = {}
        self.rejected: list[tuple[str, str]] = []
        self.mailbox: Mailbox[Any] = Mailbox("journal", 2048, stage.clock)
        child = ChildSpec(mailbox=self.mailbox, build=self._build, grace_s=GRACE_S)
        self.supervisor = Supervisor(Group(name="top", children=[child]), stage.clock)

    def _build(self) -> JournalActor:
        rule = UnknownRule.ASK if self.ask else UnknownRule.RETRY
        providers = [
            a_provider(name=name, channel=Channel.SMS, priority=priority, unknown=rule)
            for priority, name in enumerate("xy")
        ]
        takes: dict[str, Callable[[Any], str | None]] = {p.name: lambda _: None for p in providers}
        return JournalActor(
            self.ledger,
            self.queue,
            Router(providers, takes, lambda _: "IN"),
            lambda: self.blocked,
            lambda hints, later: self.announced.append(([*hints], [*later])),
            lambda message, provider: self.rejected.append((message.id, provider)),
            settings=JournalSettings(
                delivery=DELIVERY,
                dead_letters=DeadLetterSettings(auto_retry_s=(60.0,)),
                can_ask=frozenset("xy" if self.ask else ""),
            ),
            supervisor=self.name,
            clock=self.stage.clock,
            metrics=self.stage.metrics,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        await self.queue.open("g")
        await nursery.start(self.supervisor.run)

    async def tell(self, *words: Any) -> None:
        for word in words:
            await self.mailbox.ref.tell(word)

    # ------------------------------------------------------------------------------------------------ under way

    async def under_way(self, count: int = 1, *, provider: str = "x", **fields: Any) -> list[Tracked]:
        """Accepted, taken and claimed."""
        hints = await self.stage.accept(count, **fields)
        await self.queue.open("g")
        await self.queue.push(hints)
        await self.queue.take(Channel.SMS, ROOM, most=count, bulk_share=0, wait_s=0)
        return await self.claim([hint.message_id for hint in hints], provider=provider)

    async def claim(self, ids: Sequence[str], *, provider: str = "x", hold_s: float = HOLD_S) -> list[Tracked]:
        ledger = self.stage.ledger.delivery
        loaded = await ledger.load(ids)
        claimed = await ledger.claim([ClaimRequest(i, provider, hold_s) for i in ids], supervisor=self.name)
        assert len(claimed) == len(ids)
        return [each.tracked for each in loaded]

    # --------------------------------------------------------------------------------------------------- words

    def _of(self, tracked: Tracked, provider: str) -> dict[str, Any]:
        return {"tracked": tracked, "number": tracked.standing.attempts + 1, "provider": provider}

    def finished(
        self,
        tracked: Tracked,
        answer: Answer,
        *,
        provider: str = "x",
        internal: bool = False,
        settles: tuple[int, Settled] | None = None,
    ) -> AttemptFinished:
        now = self.stage.clock.now()
        return AttemptFinished(
            **self._of(tracked, provider),
            started_at=now - timedelta(seconds=1),
            finished_at=now,
            answer=answer,
            internal=internal,
            settles=settles,
        )

    def released(self, tracked: Tracked) -> AttemptReleased:
        return AttemptReleased(**self._of(tracked, "x"))

    def overdue(self, tracked: Tracked, provider: str = "x") -> AttemptOverdue:
        return AttemptOverdue(**self._of(tracked, provider), started_at=self.stage.clock.now())

    def earlier(self, tracked: Tracked, settled_number: int) -> EarlierSettled:
        return EarlierSettled(
            **self._of(tracked, "x"), started_at=self.stage.clock.now(), settled_number=settled_number
        )

    # ---------------------------------------------------------------------------------------------- what is where

    @property
    def _lists(self) -> Any:
        return self.stage.redis.data.lists["g"]

    def in_lanes(self) -> list[str]:
        return [message_id for ids in self._lists.lanes.values() for message_id in ids]

    def in_hand(self) -> set[str]:
        return set(self._lists.hands[self.name])

    def delayed(self) -> set[str]:
        return {hint.message_id for hint in self._lists.later[Channel.SMS].due_us}

    def counted(self, family: str, **labels: str) -> float:
        return self.stage.registry.get_sample_value(f"heliograph_{family}", labels) or 0.0
