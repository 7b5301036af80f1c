"""Operations: redrive, archive and discard of many dead letters, a page at a time, at the speed that was asked for.

Each page is one commit of the ledger, which also keeps the progress: any supervisor may do the next one, and one that
dies takes nothing along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.settings import Config
from heliograph.actors.ports.ledger import OperationLedger, WaitingHint

MOST: Final = 500
IDLE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class OperationCreated:
    """Look at once."""


class Operations:
    def __init__(
        self,
        ledger: OperationLedger,
        push: Callable[[Sequence[WaitingHint]], None],
        *,
        config: Config,
        supervisor: str,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._push = push
        self._config = config
        self._supervisor = supervisor
        self._outage = Outage("operations", clock)

    async def run(self, inbox: Inbox[OperationCreated]) -> None:
        wait_s = 0.0
        while True:
            await inbox.receive(wait_s)
            if inbox.closed:
                return
            inbox.began()
            try:
                hints, again_in_s = await self._ledger.step(
                    limit=MOST,
                    max_redrives=self._config.dead_letters.max_redrives,
                    expires_after_s=self._config.delivery.expires_after_s,
                    supervisor=self._supervisor,
                )
            except LedgerDown as error:
                wait_s = self._outage.failed(error)
                continue
            self._outage.over()
            self._push(hints)
            wait_s = IDLE_S if again_in_s is None else min(IDLE_S, again_in_s)
