"""Intake: commits accepted messages in groups, and answers each request only after its commit.

No timer gathers a group: whatever piled up during the last commit is the next group. A second writer sees to it that
nobody waits long for a commit that is slow. A request that is cancelled meanwhile is committed all the same; nobody is
then told, which an idempotency key makes good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from heliograph.actors.kernel.actor import Inbox, Reply
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.message import Channel, State
from heliograph.actors.ports.ledger import Acceptance, Accepted, Admission, IntakeLedger
from heliograph.actors.ports.queue import Hint, Later

log = structlog.get_logger()
Announce = Callable[[Sequence[Hint], Sequence[Later]], None]
"""Tell the relay of new work; never waits. What it cannot keep it finds in the ledger again."""

WRITERS: Final = 2
OVERLAP_S: Final = 0.02
"""A commit that takes longer has another beside it. Mostly there is one at a time: each has its price, whatever it
holds, and more piles up for the next."""
MOST_MESSAGES: Final = 1000
COMMIT_LIMIT_S: Final = 10.0
DECIDED_S: Final = 15.0
"""After so long a transaction in doubt has ended: a server that hears no more of it gives it up after ten."""


@dataclass(frozen=True, slots=True)
class Accept:
    acceptance: Acceptance
    reply: Reply[Admission]


class Intake:
    def __init__(
        self, ledger: IntakeLedger, announce: Announce, *, supervisor: str, clock: Clock, metrics: Metrics
    ) -> None:
        self._ledger = ledger
        self._announce = announce
        self._supervisor = supervisor
        self._clock = clock
        self._under_way = 0
        self._ended = trio.Event()
        self._entered = {(c, s): metrics.messages.labels(c, s) for c in Channel for s in State}

    async def run(self, inbox: Inbox[Accept]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(self._write, inbox)

    async def _write(self, inbox: Inbox[Accept]) -> None:
        async for first in inbox:
            if self._under_way:
                await self._wait_for_the_other()
            group = [first]
            size = len(first.acceptance.messages)
            while size < MOST_MESSAGES and (more := inbox.pile(1)):
                group += more
                size += len(more[0].acceptance.messages)
            self._under_way += 1
            try:
                await self._commit(group)
            finally:
                self._under_way -= 1
                self._ended.set()

    async def _wait_for_the_other(self) -> None:
        with trio.move_on_after(OVERLAP_S):
            while self._under_way:
                self._ended = trio.Event()
                await self._ended.wait()

    async def _commit(self, group: Sequence[Accept]) -> None:
        try:
            with trio.move_on_after(COMMIT_LIMIT_S, shield=True) as limit:
                results = await self._ledger.accept([a.acceptance for a in group], supervisor=self._supervisor)
        except LedgerDown as error:
            self._fail(group, error)
            return
        except Exception as error:
            if len(group) == 1:
                group[0].reply.fail(error)
                log.exception("intake.refused", error=type(error).__name__, exc_info=False)
                return
            # One request that the ledger chokes on must not take its neighbours along.
            for accept in group:
                await self._commit([accept])
            return
        if limit.cancelled_caught:
            self._fail(group, LedgerDown(f"no commit within {COMMIT_LIMIT_S:.0f} s"))
            return
        self._count_and_announce(group, results)
        for accept, result in zip(group, results, strict=True):
            accept.reply.send(result)

    def _count_and_announce(self, group: Sequence[Accept], results: Sequence[Admission]) -> None:
        accepted = [a.acceptance for a, result in zip(group, results, strict=True) if isinstance(result, Accepted)]
        entered: Counter[tuple[Channel, State]] = Counter()
        for acceptance in accepted:
            entered.update(zip([m.channel for m in acceptance.messages], acceptance.states, strict=True))
        for key, n in entered.items():
            self._entered[key].inc(n)
        hints, later = self._waiting(accepted)
        if hints or later:
            self._announce(hints, later)

    def _waiting(self, acceptances: Iterable[Acceptance]) -> tuple[list[Hint], list[Later]]:
        hints: list[Hint] = []
        later: list[Later] = []
        for acceptance in acceptances:
            for message, state in zip(acceptance.messages, acceptance.states, strict=True):
                if state is State.QUEUED:
                    hints.append(Hint(message.id, message.lane))
                elif state is State.SCHEDULED and message.send_at is not None:
                    due_in_s = (message.send_at - self._clock.now()).total_seconds()
                    later.append(Later(Hint(message.id, message.lane), max(0.0, due_in_s)))
        return hints, later

    def _fail(self, group: Sequence[Accept], error: LedgerDown) -> None:
        """A commit in doubt may have landed, or may land yet: then its messages wait, and a repeat under their key is
        answered 202. So their hints are told, and once more when the server has surely made up its mind. A hint without
        a message costs a look."""
        if error.asked:
            hints, later = self._waiting(accept.acceptance for accept in group)
            self._announce(hints, [*later, *(Later(hint, DECIDED_S) for hint in hints)])
        for accept in group:
            accept.reply.fail(error)
