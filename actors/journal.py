"""The journal: writes what attempts came to, and where their messages go, in groups; then settles their hints.

One commit holds all that piled up during the last one. Only after it are the hints dropped, put back at the head of
their lanes (the next provider, at once), or delayed. While the ledger is away the outcomes stay here and the same
group is tried until it lands: throwing answers away is what makes duplicates. The mailbox is bounded, and provider
actors wait for room in it, so that what is kept cannot outgrow what was in the air. Only when the grace of a drain
is over are outcomes given up; the reaper then closes those attempts as `unknown`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, assert_never

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.attempt import Answer, Outcome, Settled
from heliograph.actors.model.errors import LedgerDown, QueueDown, StaleGeneration
from heliograph.actors.model.message import Channel, Message, Move, Priority, Reason, State
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import DeadLetterSettings, DeliverySettings
from heliograph.actors.policy.route import Router
from heliograph.actors.policy.triage import Blocked, Situation, triage
from heliograph.actors.ports.journal import (
    AttemptFinished,
    AttemptOverdue,
    AttemptReleased,
    EarlierSettled,
    Ended,
)
from heliograph.actors.ports.ledger import DeliveryLedger, Finish, Finished
from heliograph.actors.ports.queue import Hint, Later, Queue

log = structlog.get_logger()
MOST: Final = 500
COMMIT_LIMIT_S: Final = 10.0
OVERDUE: Final = Answer(
    outcome=Outcome.UNKNOWN, code="no_answer", detail="The supervisor that made this attempt did not report its end."
)


ASKED: Final = "asked"  # the provider told when asked
RETRIED: Final = "retried"  # the call was made again
LATE: Final = "late"  # its answer came after the reaper had given the attempt up

Closing = AttemptFinished | EarlierSettled | AttemptOverdue


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """`can_ask` names the providers that can tell what became of a call."""

    delivery: DeliverySettings
    dead_letters: DeadLetterSettings
    can_ask: frozenset[str]


class JournalActor:
    def __init__(
        self,
        ledger: DeliveryLedger,
        queue: Queue,
        router: Router,
        blocked: Callable[[], Mapping[str, Blocked]],
        announce: Callable[[Sequence[Hint], Sequence[Later]], None],
        rejected: Callable[[Message, str], None],
        *,
        settings: JournalSettings,
        supervisor: str,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._router = router
        self._blocked = blocked
        self._announce = announce
        self._rejected = rejected
        self._settings = settings
        self._supervisor = supervisor
        self._clock = clock
        self._entered = {(c, s): metrics.messages.labels(c, s) for c in Channel for s in State}
        self._delivered = {(c, p): metrics.delivery_duration.labels(c, p) for c in Channel for p in Priority}
        self._settled = metrics.unknown_settled
        for provider in router.settings:
            for how in (ASKED, RETRIED, LATE):
                self._settled.labels(provider, how)

    async def run(self, inbox: Inbox[Ended]) -> None:
        async for first in inbox:
            await self._write([first, *inbox.pile(MOST - 1)])

    async def _write(self, group: Sequence[Ended]) -> None:
        """In rounds that name no message twice: a late answer and its successor may arrive together."""
        while group:
            now: dict[str, Ended] = {}
            group = [each for each in group if now.setdefault(each.tracked.message.id, each) is not each]
            await self._write_round(list(now.values()))

    async def _write_round(self, group: Sequence[Ended]) -> None:
        try:
            await self._write_together(group)
        except Exception as bug:
            if len(group) == 1:
                # The attempt stays open, and the reaper ends it.
                name = group[0].tracked.message.id
                log.exception("journal.refused", message_id=name, error=type(bug).__name__, exc_info=False)
                return
            # One outcome that our code or the ledger chokes on must not take its neighbours along.
            for each in group:
                await self._write_round([each])

    async def _write_together(self, group: Sequence[Ended]) -> None:
        releases = [e for e in group if isinstance(e, AttemptReleased)]
        ended = [e for e in group if not isinstance(e, AttemptReleased)]
        blocked = self._blocked()
        finishes = [self._finish(e, blocked) for e in ended]
        finished = await self._commit(finishes, [(e.tracked.message.id, e.number) for e in releases])
        self._count(ended, finishes, finished)
        await self._settle(releases, ended, finishes, finished)

    async def _commit(self, finishes: Sequence[Finish], releases: Sequence[tuple[str, int]]) -> list[Finished]:
        """Until it lands. Each statement is shielded, so that it is either known or repeated; the waits between are
        not, so that the end of a grace ends this."""
        pause_s = 0.05
        waited = False
        finished: list[Finished] = []
        while True:
            try:
                with trio.move_on_after(COMMIT_LIMIT_S, shield=True) as limit:
                    if releases:
                        await self._ledger.release(releases, supervisor=self._supervisor)
                    if finishes:
                        finished = await self._ledger.finish(finishes, supervisor=self._supervisor)
                if not limit.cancelled_caught:
                    break
                why = f"no commit within {COMMIT_LIMIT_S:.0f} s"
            except LedgerDown as error:
                why = str(error)
            if not waited:
                log.warning("journal.waits", outcomes=len(finishes), error=why)
                waited = True
            await trio.sleep(pause_s * (0.5 + self._clock.random.random()))
            pause_s = min(1.0, pause_s * 2)
        if not waited:
            return finished
        log.info("journal.landed", outcomes=len(finishes))
        return [_as_told_first(*each) for each in zip(finishes, finished, strict=True)]

    def _finish(self, ended: Closing, blocked: Mapping[str, Blocked]) -> Finish:
        answer: Answer | None
        settles: tuple[int, Settled] | None = None
        match ended:
            case AttemptFinished():
                answer, settles, finished_at = ended.answer, ended.settles, ended.finished_at
                move = self._judge(ended, answer, blocked, internal=ended.internal)
            case AttemptOverdue():
                answer, finished_at = OVERDUE, self._clock.now()
                move = self._judge(ended, answer, blocked, reclaimed=True)
            case EarlierSettled():
                answer, finished_at = None, self._clock.now()
                settles = (ended.settled_number, Settled.ACCEPTED)
                move = _sent(ended.tracked.standing.counted, ended.tracked.standing.unknowns)
            case _ as never:
                assert_never(never)
        return Finish(
            ended.tracked.message.id,
            ended.number,
            ended.provider,
            ended.started_at,
            finished_at,
            answer,
            move,
            settles,
            isinstance(ended, AttemptOverdue),
        )

    def _judge(
        self,
        ended: AttemptFinished | AttemptOverdue,
        answer: Answer,
        blocked: Mapping[str, Blocked],
        *,
        internal: bool = False,
        reclaimed: bool = False,
    ) -> Move:
        tracked, provider = ended.tracked, ended.provider
        if answer.outcome is Outcome.ACCEPTED:  # by far the most
            return _sent(tracked.standing.counted + 1, tracked.standing.unknowns)
        settings = self._router.settings.get(provider)
        situation = Situation(
            standing=tracked.standing,
            priority=tracked.message.priority,
            number=ended.number,
            provider=provider,
            answer=answer,
            candidates=self._router.candidates(tracked.message).names,
            blocked=blocked,
            unknown=settings.unknown if settings else UnknownRule.RETRY,  # a dead owner's, whom we do not know
            can_ask=provider in self._settings.can_ask,
            expires_in_s=(tracked.standing.expires_at - self._clock.now()).total_seconds(),
            draw=self._clock.random.random(),
            internal=internal,
            reclaimed=reclaimed,
        )
        return triage(situation, self._settings.delivery, self._settings.dead_letters.auto_retry_s)

    def _count(
        self,
        ended: Sequence[Closing],
        finishes: Sequence[Finish],
        finished: Sequence[Finished],
    ) -> None:
        now = self._clock.now()
        entered: Counter[tuple[Channel, State]] = Counter()
        for end, finish, result in zip(ended, finishes, finished, strict=True):
            message = end.tracked.message
            if result.applied or result.state is finish.move.state is State.SENT:
                entered[message.channel, result.state] += 1
                if result.state is State.SENT:
                    waited_s = (now - message.created_at).total_seconds()
                    self._delivered[message.channel, message.priority].observe(max(0.0, waited_s))
            if finish.move.reason is Reason.REJECTED and finish.answer and finish.answer.outcome is Outcome.REJECTED:
                self._rejected(message, finish.provider)
            if finish.settles is not None or end.tracked.standing.unsettled is not None or not result.applied:
                self._settle_unknown(end, finish, result)
        for which, count in entered.items():
            self._entered[which].inc(count)

    def _settle_unknown(self, end: Closing, finish: Finish, result: Finished) -> None:
        """What became of an attempt without an answer, where this is the end of its being unknown."""
        standing, answer = end.tracked.standing, finish.answer
        provider, number = finish.provider, finish.number
        learnt: Outcome | Settled | None = answer.outcome if answer is not None else None
        if finish.settles is not None:
            how, (number, learnt) = ASKED, finish.settles
        elif not result.applied:
            if answer is None or finish.overdue_only:
                return
            how = LATE
        elif standing.unsettled is not None and finish.move.unsettled is None:
            how, number = RETRIED, standing.unsettled
            provider = standing.unsettled_provider or provider
        else:
            return
        self._settled.labels(provider, how).inc()
        message_id = end.tracked.message.id
        log.info("unknown.settled", message_id=message_id, provider=provider, number=number, how=how, learnt=learnt)

    async def _settle(
        self,
        releases: Sequence[AttemptReleased],
        ended: Sequence[Closing],
        finishes: Sequence[Finish],
        finished: Sequence[Finished],
    ) -> None:
        done = [e.tracked.message.id for e in (*releases, *ended)]
        again = [Hint(e.tracked.message.id, e.tracked.message.lane) for e in releases]
        later: list[Later] = []
        for end, finish, result in zip(ended, finishes, finished, strict=True):
            if result.state is not State.QUEUED or finish.move.state is not State.QUEUED:
                continue
            # Not applied may mean that the first of two tries landed: a doubled hint does no harm, a missing one does.
            due_in_s = finish.move.due_in_s if result.due_in_s is None else result.due_in_s
            hint = Hint(result.message_id, end.tracked.message.lane)
            if due_in_s <= 0:
                again.append(hint)
            else:
                later.append(Later(hint, due_in_s))
        try:
            await self._queue.settle(done, again=again, later=later)
        except (QueueDown, StaleGeneration):
            # The relay keeps what it can and finds the rest in the ledger; what stays in hand, the sweep puts back.
            if again or later:
                self._announce(again, later)


@lru_cache(maxsize=64)
def _sent(counted: int, unknowns: int) -> Move:
    return Move(state=State.SENT, counted=counted, unknowns=unknowns)


def _as_told_first(finish: Finish, result: Finished) -> Finished:
    """The answer to a repeated Finish: where the message is where that would have taken it, a try before had landed."""
    landed = not finish.overdue_only and result.state is finish.move.state
    return replace(result, applied=True) if landed else result
