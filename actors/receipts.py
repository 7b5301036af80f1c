"""Receipts: commits what providers report, in groups, and answers each report only after its commit.

What a receipt does is the ledger's to decide (policy.receipts). Here it is made fit to be stored, counted, and, where
its meaning cannot be told yet, looked at again when its time has come: kept ones are in the ledger, and whichever
supervisor is there looks at them. While the ledger is away reports fail, and providers repeat them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from heliograph.actors.kernel.actor import Inbox, Reply
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.kernel.outage import Outage
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.message import Channel, State
from heliograph.actors.ports.ledger import ReceiptLedger, Reported, Taken

log = structlog.get_logger()
MOST: Final = 500
MOST_OWED: Final = 10_000
POLL_S: Final = 30.0
"""How often kept receipts are looked for that another supervisor has left behind."""
SOON_S: Final = 1.0
BREATH_S: Final = 0.25
FORGET_EVERY_S: Final = 60.0
RECEIPT: Final = "receipt"

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a provider reported in one call. Answered once it is committed; LedgerDown where it could not be."""

    reported: tuple[Reported, ...]
    reply: Reply[None]


@dataclass(frozen=True, slots=True)
class Promised:
    """Receipts that a provider of our own gives of what it takes just now, in so long."""

    reported: tuple[Reported, ...]
    in_s: float


class Receipts:
    """`timeout_s` is how long a receipt may take: so long it is kept, and attempts are findable by providers' ids."""

    def __init__(self, ledger: ReceiptLedger, *, timeout_s: float, clock: Clock, metrics: Metrics) -> None:
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._clock = clock
        self._entered = {(c, s): metrics.messages.labels(c, s) for c in Channel for s in State}
        self._settled = metrics.unknown_settled
        self._outage = Outage("receipts", clock)
        self._owed: list[Promised] = []
        self._look_s = clock.boot_s()
        self._forget_s = clock.boot_s() + FORGET_EVERY_S * clock.random.random()

    async def run(self, inbox: Inbox[Arrived | Promised]) -> None:
        while True:
            first = await inbox.receive(max(0.0, self._look_s - self._clock.boot_s()))
            if first is not None:
                await self._handle([first, *inbox.pile(MOST - 1)])
            elif inbox.closed:
                return
            if self._clock.boot_s() >= self._look_s:
                inbox.began()
                await self._look_again()

    async def _handle(self, group: Sequence[Arrived | Promised]) -> None:
        arrived = [message for message in group if isinstance(message, Arrived)]
        promised = [message for message in group if isinstance(message, Promised)]
        self._owed += promised[: max(0, MOST_OWED - len(self._owed))]
        if promised:
            self._look_s = self._clock.boot_s()
        if not arrived:
            return
        try:
            await self._take([_storable(each) for message in arrived for each in message.reported])
        except LedgerDown as error:
            for message in arrived:
                message.reply.fail(error)
            return
        for message in arrived:
            message.reply.send(None)

    async def _take(self, reported: Sequence[Reported]) -> None:
        for begin in range(0, len(reported), MOST):
            await self._take_some(reported[begin : begin + MOST])

    async def _take_some(self, reported: Sequence[Reported]) -> None:
        try:
            taken = await self._ledger.take(reported, keep_s=self._timeout_s)
        except LedgerDown:
            raise
        except Exception as bug:
            if len(reported) > 1:
                # One that the ledger chokes on must not take its neighbours along, nor be repeated with them for ever.
                for each in reported:
                    await self._take_some([each])
                return
            log.exception("receipts.refused", provider=reported[0].provider, error=type(bug).__name__, exc_info=False)
            return
        self._count(taken)
        if any(each.kept for each in taken):
            self._look_s = min(self._look_s, self._clock.boot_s() + SOON_S)

    async def _look_again(self) -> None:
        try:
            await self._keep_promised()
            taken, due_in_s = await self._ledger.look_again(limit=MOST)
            self._count(taken)
            if self._clock.boot_s() >= self._forget_s:
                await self._forget()
        except LedgerDown as error:
            self._look_s = self._clock.boot_s() + self._outage.failed(error)
            return
        self._outage.over()
        wait_s = POLL_S if due_in_s is None else min(POLL_S, due_in_s)
        # What is due and was not given to us, another one is looking at.
        self._look_s = self._clock.boot_s() + (wait_s if taken else max(wait_s, BREATH_S))

    async def _keep_promised(self) -> None:
        while self._owed:
            promised = self._owed[0]
            reported = [_storable(each) for each in promised.reported]
            await self._ledger.expect(reported, in_s=promised.in_s, keep_s=self._timeout_s)
            self._owed.pop(0)

    async def _forget(self) -> None:
        forgotten = await self._ledger.forget(after_s=self._timeout_s, limit=MOST)
        self._forget_s = self._clock.boot_s() + (0.0 if forgotten == MOST else FORGET_EVERY_S)

    def _count(self, taken: Sequence[Taken]) -> None:
        for each in taken:
            if each.channel is not None:
                for state in each.entered:
                    self._entered[each.channel, state].inc()
            if each.settled is not None:
                self._settled.labels(each.provider, RECEIPT).inc()
                log.info(
                    "unknown.settled", message_id=each.message_id, provider=each.provider, number=each.settled,
                    how=RECEIPT, learnt="accepted",
                )  # fmt: skip
        if nameless := sum(1 for each in taken if each.message_id is None and not each.kept):
            log.debug("receipts.of_nobody", count=nameless)


def _storable(reported: Reported) -> Reported:
    """Without what PostgreSQL has no place for, and no longer than anything of use is."""
    receipt = reported.receipt
    mended = replace(
        receipt,
        attempt_id=_text(receipt.attempt_id, 64),
        provider_message_id=_text(receipt.provider_message_id, 512),
        recipient=_text(receipt.recipient, 320),
        code=_text(receipt.code, 100),
        detail=_text(receipt.detail, 500),
    )
    return replace(reported, receipt=mended)


def _text(text: str | None, most: int) -> str | None:
    return None if text is None else _UNSTORABLE.sub("\ufffd", text)[:most]
