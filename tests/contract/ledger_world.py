"""A ledger under test, the one who winds its clock, and short ways to bring messages where a test needs them."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from heliograph.actors.model.attempt import Answer, Outcome, Settled
from heliograph.actors.model.deadletter import DeadLetterFilter
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Message, Move, Reason, State
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    Claimed,
    ClaimRequest,
    Finish,
    Finished,
    Ledger,
    MessageView,
    Park,
)
from tests.support.builders import a_message

ME: Final = "sup_me"
OTHER: Final = "sup_other"
HOLD_S: Final = 10.0
DAY_S: Final = 86_400.0
ACCEPTED: Final = Answer(outcome=Outcome.ACCEPTED, provider_message_id="pm_1")
REJECTED: Final = Answer(outcome=Outcome.REJECTED, code="550 5.1.1", detail="No such user: <asha@example.in>")
DEFERRED: Final = Answer(outcome=Outcome.DEFERRED, code="451", detail="Greylisted")
UNKNOWN: Final = Answer(outcome=Outcome.UNKNOWN, code="no_answer")
SENT: Final = Move(state=State.SENT, counted=1)
AGAIN: Final = Move(state=State.QUEUED, counted=1, tried=("p1",))
DEAD: Final = Move(state=State.FAILED, counted=1, reason=Reason.REJECTED, cause="No such user", code="550 5.1.1")
ANY_STATE: Final = DeadLetterFilter(state=None)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class LedgerWorld:
    """`advance(seconds)` lets time pass for the ledger: a virtual clock's leap, or all stored times set back.

    After it a moment read from the ledger before may be off by what passed; so tests compare lengths, and moments
    only with moments of one reading.
    """

    ledger: Ledger
    advance: Callable[[float], Awaitable[None]]
    now: Callable[[], datetime] = utc_now
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def message(self, to: str = "+919876543210", **fields: Any) -> Message:
        """Each is made a second after the one before, the first an hour ago."""
        made_at = fields.pop("made_at", None) or self.now() - timedelta(hours=1) + timedelta(seconds=next(self.numbers))
        known = {
            "id": new_id("msg", made_at),
            "created_at": made_at,
            "expires_at": self.now() + timedelta(days=1),
        }
        return a_message(to, **known | fields)

    async def accept(self, *messages: Message, state: State = State.QUEUED, supervisor: str = ME) -> None:
        acceptance = Acceptance(messages=messages, states=(state,) * len(messages))
        assert await self.ledger.intake.accept([acceptance], supervisor=supervisor) == [Accepted()]

    async def queued(self, to: str = "+919876543210", **fields: Any) -> Message:
        message = self.message(to, **fields)
        await self.accept(message)
        return message

    async def scheduled(self, in_s: float, **fields: Any) -> Message:
        message = self.message(send_at=self.now() + timedelta(seconds=in_s), **fields)
        await self.accept(message, state=State.SCHEDULED)
        return message

    async def try_claim(self, *ids: str, provider: str = "p1", supervisor: str = ME) -> list[Claimed]:
        requests = [ClaimRequest(message_id, provider, HOLD_S) for message_id in ids]
        return await self.ledger.delivery.claim(requests, supervisor=supervisor)

    async def claim(self, message: Message, provider: str = "p1", supervisor: str = ME) -> Claimed:
        [claimed] = await self.try_claim(message.id, provider=provider, supervisor=supervisor)
        return claimed

    async def finish(
        self,
        claimed: Claimed,
        answer: Answer | None,
        move: Move,
        *,
        provider: str = "p1",
        supervisor: str = ME,
        settles: tuple[int, Settled] | None = None,
        overdue_only: bool = False,
    ) -> Finished:
        finish = Finish(
            message_id=claimed.message_id,
            number=claimed.number,
            provider=provider,
            started_at=claimed.started_at,
            finished_at=claimed.started_at,
            answer=answer,
            move=move,
            settles=settles,
            overdue_only=overdue_only,
        )
        [finished] = await self.ledger.delivery.finish([finish], supervisor=supervisor)
        assert finished.message_id == claimed.message_id
        return finished

    async def reclaim(self, claimed: Claimed, move: Move = AGAIN) -> Finished:
        """Its owner dies, and another one's reaper finds it."""
        await self.advance(HOLD_S + 1)
        return await self.finish(claimed, UNKNOWN, move, supervisor=OTHER, overdue_only=True)

    async def sent(self, **fields: Any) -> Message:
        message = await self.queued(**fields)
        await self.finish(await self.claim(message), ACCEPTED, SENT)
        return message

    async def failed(
        self, *, answer: Answer = REJECTED, move: Move = DEAD, provider: str = "p1", **fields: Any
    ) -> Message:
        message = await self.queued(**fields)
        await self.finish(await self.claim(message, provider), answer, move, provider=provider)
        return message

    async def expired(self) -> Message:
        message = await self.queued(expires_at=self.now() + timedelta(seconds=30))
        await self.advance(31)
        await self.ledger.delivery.expire(100)
        return message

    async def get(self, message: Message) -> MessageView:
        return await self.ledger.messages.get(message.id, tenant=None)

    async def state(self, message: Message) -> State:
        return (await self.get(message)).standing.state

    async def park(self, park: Park) -> None:
        await self.ledger.delivery.park([park])
