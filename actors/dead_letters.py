"""The dead-letter service: tries again by itself what may have mended, archives by age, deletes what is old enough.

It also says of messages whose receipts never came that they are sent for good.

Automatic retries follow their schedule and then give up: a person sees the dead letter all the time, and may redrive it
before. Archiving moves whole messages out of the hot tables into partitions by month; deleting drops partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from heliograph.actors.kernel.actor import Inbox
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.settings import Config
from heliograph.actors.ports.ledger import Ledger, WaitingHint

log = structlog.get_logger()
RETRY_EVERY_S: Final = 1.0
CLEAN_EVERY_S: Final = 60.0
CLOSE_EVERY_S: Final = 5.0
MOST: Final = 500


class DeadLetters:
    def __init__(
        self,
        ledger: Ledger,
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
        self._clock = clock
        self._outage = Outage("dead_letters", clock)
        self._reporting = [p.name for p in config.providers if p.receipts]
        self._close_s = clock.boot_s() + CLOSE_EVERY_S * clock.random.random()
        self._clean_s = clock.boot_s() + CLEAN_EVERY_S * clock.random.random()

    async def run(self, inbox: Inbox[None]) -> None:
        wait_s = RETRY_EVERY_S
        while True:
            await inbox.receive(wait_s)
            if inbox.closed:
                return
            inbox.began()
            try:
                full = await self._retry()
                if self._reporting and self._clock.boot_s() >= self._close_s:
                    full |= await self._close()
                if self._clock.boot_s() >= self._clean_s:
                    await self._clean()
            except LedgerDown as error:
                wait_s = self._outage.failed(error)
                continue
            self._outage.over()
            wait_s = 0.0 if full else RETRY_EVERY_S

    async def _retry(self) -> bool:
        """Whether there may be more."""
        hints = await self._ledger.dead_letters.auto_retry(
            limit=MOST, supervisor=self._supervisor, expires_after_s=self._config.delivery.expires_after_s
        )
        if hints:
            log.info("dead_letters.retried", count=len(hints))
            self._push(hints)
        return len(hints) == MOST

    async def _close(self) -> bool:
        """Whether there is more. Without receipts configured a message is sent for good at once."""
        closed, more = await self._ledger.receipts.close(
            self._reporting, after_s=self._config.delivery.receipt_timeout_s, limit=MOST
        )
        if closed:
            log.info("receipts.never_came", count=closed)
        self._close_s = self._clock.boot_s() + (0.0 if more else CLOSE_EVERY_S)
        return more

    async def _clean(self) -> None:
        """A page of each; a full one is followed by the next at the next turn, so that retries are not kept waiting."""
        letters, kept = self._config.dead_letters, self._config.retention
        retention = self._ledger.retention
        moved = await retention.archive(
            dead_letters_after_s=letters.archive_after_s, messages_after_s=kept.metadata_s, limit=MOST
        )
        stripped = await retention.strip_content(after_s=kept.content_s, limit=MOST)
        dropped = await retention.drop(after_s=letters.delete_after_s)
        purged = await retention.purge(limit=MOST)
        if dropped:
            log.info("archive.dropped", partitions=dropped)
        more = MOST in (moved, stripped, purged)
        self._clean_s = self._clock.boot_s() + (0.0 if more else CLEAN_EVERY_S)
