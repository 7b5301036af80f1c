"""A dispatcher on a stage, and desks with mailboxes whose actors take nothing out by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from heliograph.actors.dispatcher import Dispatcher
from heliograph.actors.kernel.actor import Inbox, Mailbox
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Channel, Lane, Message, Move, Priority, Standing, State, WaitingFor
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.settings import DeliverySettings
from heliograph.actors.policy.route import Router
from heliograph.actors.ports.board import Board
from heliograph.actors.ports.handover import Deliver
from heliograph.actors.ports.ledger import ClaimRequest, Finish
from heliograph.actors.ports.queue import Hint
from heliograph.actors.queue.memory import MemoryQueue
from tests.support.builders import a_provider
from tests.support.stage import Stage

LONGEST_CALL_S = 10.0


def provider(name: str, **fields: Any) -> ProviderSettings:
    """An SMS provider with room for ten."""
    known: dict[str, Any] = {"name": name, "rate": 10.0, "concurrency": 10}
    return a_provider(channel=Channel.SMS, **known | fields)


class DispatchWorld:
    """One dispatcher of SMS for the supervisor `a`. `ledger` and `takes` may be replaced before `start`."""

    def __init__(self, stage: Stage, *providers: ProviderSettings) -> None:
        self.stage = stage
        self.providers = providers
        self.ledger: Any = stage.ledger.delivery
        self.queue = stage.queue("a")
        self.board = Board(providers)
        self.mailboxes: Mapping[str, Mailbox[Any]] = {
            p.name: Mailbox(f"provider/{p.name}", 1000, stage.clock) for p in providers
        }
        self.takes: dict[str, Callable[[Message], str | None]] = {p.name: lambda _: None for p in providers}
        self.delivery = DeliverySettings(bulk_share=0.0)

    def build(self, supervisor: str = "a", queue: MemoryQueue | None = None) -> Dispatcher:
        return Dispatcher(
            Channel.SMS,
            queue or self.queue,
            self.ledger,
            Router(self.providers, self.takes, lambda _: "IN"),
            self.board,
            {name: mailbox.ref for name, mailbox in self.mailboxes.items()},
            dict.fromkeys(self.mailboxes, LONGEST_CALL_S),
            delivery=self.delivery,
            auto_retry_s=(60.0,),
            supervisor=supervisor,
            clock=self.stage.clock,
            metrics=self.stage.metrics,
        )

    async def start(self) -> tuple[Mailbox[Any], trio.CancelScope]:
        await self.queue.open("g")
        return await self.stage.start("dispatcher/sms", self.build)

    async def post(self, count: int = 1, **fields: Any) -> list[Hint]:
        """Committed, and their hints pushed."""
        hints = await self.stage.accept(count, **fields)
        await self.push(hints)
        return hints

    async def push(self, hints: Sequence[Hint]) -> None:
        other = self.stage.queue("gateway")
        await other.open(self.stage.redis.data.generation or "g")
        await other.push(hints)

    # ------------------------------------------------------------------------------------------ what providers see

    def handed(self, name: str) -> list[Deliver]:
        """What was handed over since the last look."""
        return list(Inbox[Deliver](self.mailboxes[name]).pile(1000))

    def ids(self, name: str) -> list[str]:
        return [deliver.tracked.message.id for deliver in self.handed(name)]

    def window(self, name: str, size: int) -> None:
        self.board.desk(name).publish(window=size, blocked_until_s=0.0, blocked_for=None)

    def block(self, name: str, for_s: float, why: WaitingFor = WaitingFor.BREAKER, *, window: int = 10) -> None:
        until_s = self.stage.clock.boot_s() + for_s
        self.board.desk(name).publish(window=window, blocked_until_s=until_s, blocked_for=why)

    def held(self, name: str) -> int:
        return self.board.desk(name).held

    # ---------------------------------------------------------------------------------------------- what is where

    @property
    def _lists(self) -> Any:
        return self.stage.redis.data.lists["g"]

    def lane(self, priority: Priority = Priority.NORMAL) -> list[str]:
        return next([*ids] for lane, ids in self._lists.lanes.items() if lane.priority is priority)

    def in_hand(self, supervisor: str = "a") -> set[str]:
        return set(self._lists.hands[supervisor])

    def delayed(self) -> dict[str, float]:
        """Seconds until each is due."""
        now_us = self.stage.redis.now_us()
        due_us = self._lists.later[Channel.SMS].due_us
        return {hint.message_id: (at_us - now_us) / 1e6 for hint, at_us in due_us.items()}

    def line(self, provider: str) -> list[str]:
        """Who stands in a provider's line, urgent ones first."""
        lines = self._lists.lines
        return [i for priority in Priority for i in lines.get((provider, Lane(Channel.SMS, priority)), ())]

    async def standing(self, hint: Hint) -> Standing:
        return (await self.stage.ledger.messages.get(hint.message_id, tenant=None)).standing

    async def left_unanswered_by(self, name: str, **fields: Any) -> Hint:
        """A message whose first attempt, at this provider, ended without an answer; its hint is pushed again."""
        [hint] = await self.stage.accept(**fields)
        ledger, now = self.stage.ledger.delivery, self.stage.clock.now()
        await ledger.claim([ClaimRequest(hint.message_id, name, 1.0)], supervisor="b")
        move = Move(state=State.QUEUED, counted=1, unknowns=1, unsettled=1, unsettled_provider=name)
        answer = Answer(outcome=Outcome.UNKNOWN)
        finish = Finish(
            message_id=hint.message_id,
            number=1,
            provider=name,
            started_at=now,
            finished_at=now,
            answer=answer,
            move=move,
        )
        await ledger.finish([finish], supervisor="b")
        await self.push([hint])
        return hint
