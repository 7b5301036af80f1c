"""The dead-letter service in virtual time: retries on schedule, archives and deletes by age, lives through outages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import trio

from heliograph.actors.dead_letters import CLEAN_EVERY_S, CLOSE_EVERY_S, MOST, DeadLetters
from heliograph.actors.kernel.actor import Inbox, Mailbox
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Move, Reason, State
from heliograph.actors.model.settings import Config, DeadLetterSettings, DeliverySettings, RetentionSettings
from heliograph.actors.ports.ledger import ClaimRequest, Finish, WaitingHint
from heliograph.actors.ports.queue import Hint
from tests.support.builders import a_provider
from tests.support.stage import Stage

CONFIG = Config(
    redis_url="",
    postgres_url="",
    providers=(),
    delivery=DeliverySettings(expires_after_s=7200.0),
    dead_letters=DeadLetterSettings(archive_after_s=600.0, delete_after_s=365 * 86_400.0),
    retention=RetentionSettings(content_s=300.0, metadata_s=900.0),
)


class Office:
    """The actor on a stage, and what it pushed, with the moment."""

    def __init__(self, stage: Stage, config: Config = CONFIG) -> None:
        self.stage = stage
        self.config = config
        self.pushed: list[tuple[float, str]] = []

    def actor(self) -> DeadLetters:
        return DeadLetters(self.stage.ledger, self._push, config=self.config, supervisor="me", clock=self.stage.clock)

    def _push(self, hints: Sequence[WaitingHint]) -> None:
        self.pushed += [(trio.current_time(), hint.message_id) for hint in hints]

    async def start(self) -> None:
        await self.stage.start("dead_letters", self.actor)

    async def failed(self, count: int = 1, *, retry_in_s: float | None = None, **fields: Any) -> list[Hint]:
        hints = await self.stage.accept(count, **fields)
        await self.give_up(hints, retry_in_s)
        return hints

    async def give_up(self, hints: Sequence[Hint], retry_in_s: float | None) -> None:
        await self.stage.ledger.delivery.give_up(
            [h.message_id for h in hints], reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=retry_in_s
        )

    async def letter_state(self, hint: Hint) -> DeadLetterState:
        return (await self.stage.ledger.dead_letters.get(hint.message_id, tenant=None)).state

    async def sent(self, provider: str) -> Hint:
        [hint] = await self.stage.accept()
        delivery = self.stage.ledger.delivery
        [claimed] = await delivery.claim([ClaimRequest(hint.message_id, provider, 10.0)], supervisor="me")
        finish = Finish(
            message_id=hint.message_id, number=1, provider=provider, started_at=claimed.started_at,
            finished_at=claimed.started_at, answer=Answer(outcome=Outcome.ACCEPTED), move=Move(state=State.SENT),
        )  # fmt: skip
        await delivery.finish([finish], supervisor="me")
        return hint

    async def reasons(self, hints: Sequence[Hint]) -> list[Reason | None]:
        found = [await self.stage.ledger.messages.get(hint.message_id, tenant=None) for hint in hints]
        return [view.standing.reason for view in found]

    async def archived(self, hint: Hint) -> bool:
        return (await self.stage.ledger.messages.get(hint.message_id, tenant=None)).archived


@pytest.fixture
async def office(autojump_clock: object, nursery: trio.Nursery) -> Office:
    return Office(Stage(nursery))


async def test_a_retry_comes_within_a_second_of_its_time_and_its_hint_is_pushed(
    office: Office, autojump_clock: object
) -> None:
    await office.start()
    [retried], [left] = await office.failed(retry_in_s=60.0), await office.failed()
    await trio.sleep(59.9)
    assert office.pushed == []
    await trio.sleep(1.2)
    assert [message_id for _, message_id in office.pushed] == [retried.message_id]
    assert (await office.stage.state(retried), await office.stage.state(left)) == (State.QUEUED, State.FAILED)
    [loaded] = await office.stage.ledger.delivery.load([retried.message_id])
    assert loaded.expires_in_s == pytest.approx(7200, abs=2)


async def test_one_that_fails_again_is_left_once_its_schedule_is_over(office: Office, autojump_clock: object) -> None:
    await office.start()
    [hint] = await office.failed(retry_in_s=60.0)
    await trio.sleep(62)
    await office.give_up([hint], None)
    await trio.sleep(300)
    assert len(office.pushed) == 1
    assert await office.letter_state(hint) is DeadLetterState.OPEN


async def test_more_than_a_page_is_retried_without_a_wait_between(office: Office, autojump_clock: object) -> None:
    await office.start()
    await office.failed(2 * MOST + 1, retry_in_s=5.0)
    await trio.sleep(7)
    assert len(office.pushed) == 2 * MOST + 1
    assert len({at_s for at_s, _ in office.pushed}) == 1


async def test_an_outage_is_waited_out(office: Office, autojump_clock: object) -> None:
    await office.start()
    await office.failed(3, retry_in_s=5.0)
    office.stage.ledger_down = True
    await trio.sleep(100)
    office.stage.ledger_down = False
    await trio.sleep(2.1)
    assert len(office.pushed) == 3


async def test_a_commit_in_doubt_retries_nothing_twice(office: Office, autojump_clock: object) -> None:
    await office.start()
    hints = await office.failed(3, retry_in_s=5.0)
    office.stage.lost_answers.add("dead_letters.auto_retry")
    await trio.sleep(30)
    letters = [await office.stage.ledger.dead_letters.get(h.message_id, tenant=None) for h in hints]
    assert [letter.redrives for letter in letters] == [1, 1, 1]


async def test_dead_letters_and_messages_are_archived_each_at_its_age(office: Office, autojump_clock: object) -> None:
    await office.start()
    [dead], [cancelled], [waits] = await office.failed(), await office.stage.accept(), await office.stage.accept()
    await office.stage.ledger.messages.cancel(cancelled.message_id, tenant=None, supervisor="gateway")
    await trio.sleep(599)
    assert [await office.archived(h) for h in (dead, cancelled)] == [False, False]
    await trio.sleep(1 + CLEAN_EVERY_S + 1)
    assert [await office.archived(h) for h in (dead, cancelled)] == [True, False]
    assert await office.letter_state(dead) is DeadLetterState.ARCHIVED
    await trio.sleep(300)
    assert [await office.archived(h) for h in (dead, cancelled, waits)] == [True, True, False]
    assert await office.stage.ledger.stats.drift() == 0


async def test_bodies_go_first_where_nobody_can_redrive(office: Office, autojump_clock: object) -> None:
    await office.start()
    [dead], [cancelled] = await office.failed(), await office.stage.accept()
    await office.stage.ledger.messages.cancel(cancelled.message_id, tenant=None, supervisor="gateway")
    await trio.sleep(300 + CLEAN_EVERY_S + 2)
    views = [await office.stage.ledger.messages.get(h.message_id, tenant=None) for h in (dead, cancelled)]
    assert ["Asha" in repr(view.message.content) for view in views] == [True, False]


async def test_what_is_old_enough_is_deleted(office: Office, autojump_clock: object) -> None:
    await office.start()
    made_at = office.stage.clock.now() - timedelta(days=400)
    [ancient] = await office.failed(id=new_id("msg", made_at, 1), created_at=made_at)
    [recent] = await office.failed()
    await trio.sleep(600 + 2 * CLEAN_EVERY_S)
    assert await office.archived(recent)
    with pytest.raises(NotFound):
        await office.archived(ancient)


async def test_a_backlog_of_old_rows_is_archived_page_by_page(nursery: trio.Nursery, autojump_clock: object) -> None:
    office = Office(Stage(nursery), replace(CONFIG, dead_letters=DeadLetterSettings(archive_after_s=10.0)))
    await office.failed(3 * MOST)
    await trio.sleep(10)
    await office.start()
    await trio.sleep(CLEAN_EVERY_S + 5)
    letters = office.stage.ledger.dead_letters
    assert sum((await letters.counts()).values()) == 0


async def test_told_to_finish_it_does_so_at_once(office: Office, autojump_clock: object) -> None:
    mailbox: Mailbox[None] = Mailbox("dead_letters", 10, office.stage.clock)
    inbox = Inbox(mailbox)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(office.actor().run, inbox)
        await inbox.ready.wait()
        mailbox.close()
    assert trio.current_time() == began_s


async def test_what_gets_no_receipt_in_time_is_sent_for_good_where_receipts_are_configured(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    reporting = a_provider(name="p1", receipts={"secret": "x"})
    config = replace(
        CONFIG,
        providers=(reporting, a_provider(name="p2")),
        delivery=replace(CONFIG.delivery, receipt_timeout_s=100.0),
        retention=RetentionSettings(),
    )
    office = Office(Stage(nursery), config)
    await office.start()
    sent = [await office.sent(provider) for provider in ("p1", "p2")]
    many = []
    for _ in range(3 * MOST):
        many.append(await office.sent("p1"))
        await trio.sleep(0.001)
    await trio.sleep(97)
    assert await office.reasons(sent) == [None, None]
    await trio.sleep(2 * CLOSE_EVERY_S + 4)
    assert await office.reasons(sent) == [Reason.NO_RECEIPT, None]
    assert set(await office.reasons(many)) == {Reason.NO_RECEIPT}, "a page after the other"
    assert [await office.stage.state(hint) for hint in sent] == [State.SENT, State.SENT]
