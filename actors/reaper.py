"""The reaper: a claim whose time is over belonged to an owner that died, hangs or is cut off.

It tells the journal, which closes the attempt as `unknown` (nobody can say whether the call was made) and lets the
message go on as its provider's `unknown` rule says. Every supervisor looks about once a second, and when one is due
that it saw coming; the ledger lets one of them win. Once the ledger is back after an outage it holds still for a
while, so that owners can land the answers they kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import structlog

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.ports.journal import AttemptOverdue, Journal
from heliograph.actors.ports.ledger import DeliveryLedger, Overdue

log = structlog.get_logger()
EVERY_S: Final = 1.0
AHEAD_S: Final = 2 * EVERY_S
"""More than lies between two looks, so that each is seen coming."""
SOON_S: Final = 0.25
"""Within so much of its time an overdue claim is looked at: not by all supervisors in the same instant. So mostly the
first has closed it when the others look, and their journals do not wait for each other."""
AFTER_OUTAGE_S: Final = 5.0
AGAIN_S: Final = 10.0
"""The journal forgets nothing that it was told. Where it is behind, all who look would else keep it so."""
MOST: Final = 200


class Reaper:
    def __init__(self, ledger: DeliveryLedger, journal: Journal, clock: Clock) -> None:
        self._ledger = ledger
        self._journal = journal
        self._clock = clock

    async def run(self, inbox: Inbox[None]) -> None:
        wait_s = self._until_next(())
        away, still_until_s = False, -inf
        told_s: dict[tuple[str, int], float] = {}
        while True:
            await inbox.receive(wait_s)
            if inbox.closed:
                return
            inbox.began()
            try:
                seen = await self._ledger.overdue(MOST, within_s=AHEAD_S)
            except LedgerDown:
                away, wait_s = True, self._until_next(())
                continue
            overdue = [each for each in seen if each.due_in_s <= 0]
            wait_s = self._until_next(seen[len(overdue) :])
            now_s = self._clock.boot_s()
            told_s = {key: told_s[key] for key in map(_key, overdue) if key in told_s}
            if away:
                away, still_until_s = False, now_s + AFTER_OUTAGE_S
            if now_s < still_until_s:  # it goes on looking: another outage begins the wait anew
                continue
            for each in overdue:
                if now_s - told_s.get(_key(each), -inf) < AGAIN_S:
                    continue  # it is with the journal
                told_s[_key(each)] = now_s
                log.warning(
                    "attempt.overdue", message_id=each.tracked.message.id, number=each.number, provider=each.provider,
                    owner=each.supervisor,
                )  # fmt: skip
                await self._journal.tell(
                    AttemptOverdue(
                        tracked=each.tracked, number=each.number, provider=each.provider, started_at=each.started_at
                    )
                )
            if len(overdue) == MOST:
                wait_s = 0.1

    def _until_next(self, coming: Sequence[Overdue]) -> float:
        chance = self._clock.random.random()
        wait_s = EVERY_S * (1 + chance / 2)
        return min(wait_s, coming[0].due_in_s + SOON_S * (1 + 4 * chance) / 5) if coming else wait_s


def _key(overdue: Overdue) -> tuple[str, int]:
    return overdue.tracked.message.id, overdue.number
