"""The operations' actor in virtual time: it works to the end, at the asked speed, through outages."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from heliograph.actors.kernel.actor import Inbox, Mailbox
from heliograph.actors.model.deadletter import DeadLetterState, Operation, OperationKind, OperationState
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Reason, State
from heliograph.actors.model.settings import Config, DeadLetterSettings
from heliograph.actors.operations import IDLE_S, MOST, OperationCreated, Operations
from heliograph.actors.ports.ledger import WaitingHint
from heliograph.actors.ports.queue import Hint
from tests.support.stage import Stage

CONFIG = Config(redis_url="", postgres_url="", providers=(), dead_letters=DeadLetterSettings(max_redrives=2))


class Office:
    """The actor on a stage, what it pushed, and when."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.pushed: list[tuple[float, str]] = []
        self._made = 0

    def actor(self) -> Operations:
        return Operations(
            self.stage.ledger.operations, self._push, config=CONFIG, supervisor="me", clock=self.stage.clock
        )

    def _push(self, hints: Sequence[WaitingHint]) -> None:
        self.pushed += [(trio.current_time(), hint.message_id) for hint in hints]

    async def start(self) -> Mailbox[OperationCreated]:
        mailbox, _ = await self.stage.start("operations", self.actor)
        return mailbox

    async def failed(self, count: int) -> list[Hint]:
        hints = await self.stage.accept(count)
        await self.stage.ledger.delivery.give_up(
            [h.message_id for h in hints], reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=None
        )
        return hints

    async def create(
        self, hints: Sequence[Hint], kind: OperationKind = OperationKind.REDRIVE, rate: float | None = None
    ) -> str:
        self._made += 1
        operation_id = new_id("op", self.stage.clock.now(), self._made)
        ids = [hint.message_id for hint in hints]
        await self.stage.ledger.operations.create(
            operation_id, kind, ids=ids, wanted=None, tenant=None, rate=rate, reason=None, actor=None
        )
        return operation_id

    async def operation(self, operation_id: str) -> Operation:
        return await self.stage.ledger.operations.get(operation_id, tenant=None)

    async def letters(self, hints: Sequence[Hint]) -> set[DeadLetterState]:
        letters = self.stage.ledger.dead_letters
        return {(await letters.get(hint.message_id, tenant=None)).state for hint in hints}


@pytest.fixture
async def office(autojump_clock: object, nursery: trio.Nursery) -> Office:
    return Office(Stage(nursery))


async def test_a_redrive_is_worked_to_its_end_and_its_hints_are_pushed(office: Office, autojump_clock: object) -> None:
    await office.start()
    hints = await office.failed(2 * MOST + 1)
    operation_id = await office.create(hints)
    await trio.sleep(IDLE_S + 0.01)
    operation = await office.operation(operation_id)
    assert (operation.state, operation.done) == (OperationState.DONE, len(hints))
    assert sorted(message_id for _, message_id in office.pushed) == sorted(h.message_id for h in hints)
    assert {await office.stage.state(hint) for hint in hints} == {State.QUEUED}


async def test_archive_and_discard_push_nothing(office: Office, autojump_clock: object) -> None:
    await office.start()
    archived, discarded = await office.failed(2), await office.failed(2)
    await office.create(archived, OperationKind.ARCHIVE)
    await office.create(discarded, OperationKind.DISCARD)
    await trio.sleep(2 * IDLE_S)
    assert await office.letters(archived) == {DeadLetterState.ARCHIVED}
    assert await office.letters(discarded) == {DeadLetterState.DISCARDED}
    assert office.pushed == []


async def test_an_operation_that_it_was_told_of_begins_at_once(office: Office, autojump_clock: object) -> None:
    mailbox = await office.start()
    await trio.sleep(5.3)
    operation_id = await office.create(await office.failed(1))
    assert mailbox.ref.offer(OperationCreated())
    await trio.sleep(0.001)
    assert (await office.operation(operation_id)).state is OperationState.DONE


async def test_a_rate_is_kept_over_every_second(office: Office, autojump_clock: object) -> None:
    await office.start()
    operation_id = await office.create(await office.failed(20), rate=2.0)
    await trio.sleep(30)
    assert (await office.operation(operation_id)).state is OperationState.DONE
    moments = [at_s for at_s, _ in office.pushed]
    assert len(moments) == 20
    assert moments[-1] - moments[0] >= 8
    for start_s in moments:
        for over_s in (1.0, 3.0):
            assert sum(start_s <= at_s < start_s + over_s for at_s in moments) <= 2 * over_s + 2


async def test_an_outage_is_waited_out(office: Office, autojump_clock: object) -> None:
    await office.start()
    operation_id = await office.create(await office.failed(10))
    office.stage.ledger_down = True
    await trio.sleep(60)
    office.stage.ledger_down = False
    assert (await office.operation(operation_id)).done == 0
    await trio.sleep(2.1)
    assert (await office.operation(operation_id)).done == 10
    assert len(office.pushed) == 10


async def test_a_commit_in_doubt_redrives_nothing_twice(office: Office, autojump_clock: object) -> None:
    await office.start()
    hints = await office.failed(10)
    operation_id = await office.create(hints)
    office.stage.lost_answers.add("operations.step")
    await trio.sleep(5)
    assert office.stage.lost_answers == set()
    operation = await office.operation(operation_id)
    assert (operation.state, operation.done, operation.skipped) == (OperationState.DONE, 10, 0)
    letters = [await office.stage.ledger.dead_letters.get(h.message_id, tenant=None) for h in hints]
    assert {letter.redrives for letter in letters} == {1}
    owed = await office.stage.ledger.delivery.touched_by("me", limit=100)
    assert len(owed) == 10  # their hints were never pushed: whoever audits or buries us finds them


async def test_two_supervisors_share_the_work_and_neither_repeats_the_others(
    office: Office, autojump_clock: object
) -> None:
    await office.start()
    await office.start()
    hints = await office.failed(3 * MOST)
    operation_id = await office.create(hints)
    await trio.sleep(3)
    assert (await office.operation(operation_id)).done == len(hints)
    assert len(office.pushed) == len(set(office.pushed)) == len(hints)


async def test_the_most_redrives_of_the_configuration_hold(office: Office, autojump_clock: object) -> None:
    mailbox = await office.start()
    [hint] = await office.failed(1)
    for expected in (1, 1, 0):
        operation_id = await office.create([hint])
        await mailbox.ref.tell(OperationCreated())
        await trio.sleep(0.01)
        assert (await office.operation(operation_id)).done == expected
        await office.stage.ledger.delivery.give_up(
            [hint.message_id], reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=None
        )


async def test_told_to_finish_it_does_so_at_once(office: Office, autojump_clock: object) -> None:
    mailbox: Mailbox[OperationCreated] = Mailbox("operations", 10, office.stage.clock)
    inbox = Inbox(mailbox)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(office.actor().run, inbox)
        await inbox.ready.wait()
        mailbox.close()
    assert trio.current_time() == began_s
