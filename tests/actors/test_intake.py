"""Intake in virtual time: one commit for what piles up, an answer to each request after it, hints only then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog
import trio

from heliograph.actors.intake import COMMIT_LIMIT_S, DECIDED_S, MOST_MESSAGES, OVERLAP_S, WRITERS, Accept, Intake
from heliograph.actors.kernel.actor import ActorStopped, Mailbox
from heliograph.actors.model.errors import LedgerDown, MailboxFull, NotFound
from heliograph.actors.model.message import State
from heliograph.actors.ports.ledger import Acceptance, Accepted, Admission, IdempotencyRecord, Replay
from heliograph.actors.ports.queue import Hint, Later
from tests.support.stage import Stage

COMMIT_S = 1.0


class SlowLedger:
    """`commit_s` for each commit; `groups` are the numbers of requests in each."""

    def __init__(self, ledger: Any) -> None:
        self.commit_s = COMMIT_S
        self._ledger = ledger
        self.groups: list[int] = []
        self.under_way = self.most_under_way = 0

    async def accept(self, batch: Sequence[Acceptance], *, supervisor: str) -> Any:
        self.groups.append(len(batch))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.sleep(self.commit_s)
            return await self._ledger.accept(batch, supervisor=supervisor)
        finally:
            self.under_way -= 1


class World:
    def __init__(self, stage: Stage, nursery: trio.Nursery) -> None:
        self.stage = stage
        self.nursery = nursery
        self.ledger: Any = SlowLedger(stage.ledger.intake)
        self.announced: list[Hint] = []
        self.delayed: list[Later] = []
        self.mailbox: Mailbox[Accept]

    def build(self) -> Intake:
        return Intake(self.ledger, self._announce, supervisor="a", clock=self.stage.clock, metrics=self.stage.metrics)

    def _announce(self, hints: Sequence[Hint], later: Sequence[Later]) -> None:
        self.announced += hints
        self.delayed += later

    async def start(self) -> None:
        self.mailbox, self.scope = await self.stage.start("intake", self.build)

    async def ask(self, acceptance: Acceptance, timeout_s: float = 12.0) -> Admission:
        return await self.mailbox.ref.ask(lambda reply: Accept(acceptance, reply), timeout_s=timeout_s)

    def post(self, acceptance: Acceptance) -> Asked:
        asked = Asked()
        self.nursery.start_soon(asked.ask, self, acceptance)
        return asked

    async def knows(self, acceptance: Acceptance) -> bool:
        try:
            for message in acceptance.messages:
                await self.stage.ledger.messages.get(message.id, tenant=None)
        except NotFound:
            return False
        return True

    def counted(self, state: State) -> float:
        name, labels = "heliograph_messages_total", {"channel": "sms", "state": str(state)}
        return self.stage.registry.get_sample_value(name, labels) or 0.0


class Asked:
    """A request's answer, or the error that it met, and when."""

    answer: object = None
    at_s: float | None = None

    async def ask(self, world: World, acceptance: Acceptance) -> None:
        try:
            self.answer = await world.ask(acceptance)
        except Exception as error:
            self.answer = error
        self.at_s = trio.current_time()


@pytest.fixture
async def world(autojump_clock: object, nursery: trio.Nursery) -> World:
    world = World(Stage(nursery), nursery)
    await world.start()
    return world


def request(world: World, count: int = 1, *, state: State = State.QUEUED, key: str | None = None, **fields: Any) -> Any:
    messages = tuple(world.stage.message(**fields) for _ in range(count))
    record = IdempotencyRecord(key_id="k", route="r", key=key or "", fingerprint=b"f", status=202, body=b"first")
    return Acceptance(messages=messages, states=(state,) * count, idempotency=(record,) if key else ())


def hints(*acceptances: Acceptance) -> list[Hint]:
    return [Hint(message.id, message.lane) for each in acceptances for message in each.messages]


# ------------------------------------------------------------------------------------------------------- groups


async def test_requests_are_answered_after_their_commit_and_hints_are_told_then(
    world: World, autojump_clock: object
) -> None:
    acceptance = request(world, 3)
    asked = world.post(acceptance)
    await trio.sleep(COMMIT_S / 2)
    assert (asked.answer, world.announced) == (None, [])
    await trio.sleep(COMMIT_S)
    assert (asked.answer, asked.at_s) == (Accepted(), COMMIT_S)
    assert world.announced == hints(acceptance)
    assert await world.knows(acceptance)
    assert world.counted(State.QUEUED) == 3


async def test_what_piles_up_during_commits_is_the_next_group(world: World, autojump_clock: object) -> None:
    first = world.post(request(world))
    await trio.sleep(0.1)
    second = world.post(request(world))
    await trio.sleep(0.1)
    rest = [world.post(request(world)) for _ in range(20)]
    await trio.sleep(5)
    assert world.ledger.groups == [1, 1, 20]
    assert world.ledger.most_under_way == WRITERS
    assert all(asked.answer == Accepted() for asked in (first, second, *rest))


async def test_quick_commits_follow_one_another_and_each_takes_all_that_waits(
    world: World, autojump_clock: object
) -> None:
    world.ledger.commit_s = OVERLAP_S / 2
    world.post(request(world))
    await trio.sleep(OVERLAP_S / 20)
    rest = [world.post(request(world)) for _ in range(20)]
    await trio.sleep(1)
    assert (sum(world.ledger.groups), world.ledger.most_under_way) == (21, 1)
    assert len(world.ledger.groups) <= 3  # the other writer may have one in hand already
    assert all(asked.answer == Accepted() for asked in rest)


async def test_nobody_waits_long_for_a_commit_that_is_slow(world: World, autojump_clock: object) -> None:
    world.post(request(world))
    await trio.sleep(COMMIT_S / 10)
    second = world.post(request(world))
    await trio.sleep(COMMIT_S * 2)
    assert second.at_s == pytest.approx(COMMIT_S * 1.1 + OVERLAP_S)


async def test_a_group_is_bounded_by_its_messages(world: World, autojump_clock: object) -> None:
    for _ in range(WRITERS):
        world.post(request(world))
        await trio.sleep(0.1)
    for _ in range(5):
        world.post(request(world, MOST_MESSAGES // 2))
    await trio.sleep(5)
    assert sorted(world.ledger.groups) == [1, 1, 1, 2, 2]


async def test_scheduled_messages_are_told_with_the_time_that_is_left(world: World, autojump_clock: object) -> None:
    send_at = world.stage.clock.now() + timedelta(seconds=60)
    scheduled = request(world, state=State.SCHEDULED, send_at=send_at)
    world.post(scheduled)
    await trio.sleep(2)
    assert world.announced == []
    [later] = world.delayed
    assert later == Later(hints(scheduled)[0], 60 - COMMIT_S)


async def test_suppressed_messages_are_stored_and_nobody_is_told(world: World, autojump_clock: object) -> None:
    suppressed = request(world, state=State.SUPPRESSED)
    asked = world.post(suppressed)
    await trio.sleep(2)
    assert (asked.answer, world.announced, world.delayed) == (Accepted(), [], [])
    assert world.counted(State.SUPPRESSED) == 1


async def test_a_repeat_is_answered_as_the_first_and_tells_nobody(world: World, autojump_clock: object) -> None:
    first = request(world, key="k1")
    world.post(first)
    await trio.sleep(2)
    again = world.post(request(world, key="k1"))
    await trio.sleep(2)
    assert again.answer == Replay(status=202, body=b"first")
    assert world.announced == hints(first)
    assert world.counted(State.QUEUED) == 1


# ------------------------------------------------------------------------------------------------------- trouble


async def test_one_request_that_the_ledger_chokes_on_takes_no_other_along(world: World, autojump_clock: object) -> None:
    for _ in range(WRITERS):
        world.post(request(world))
        await trio.sleep(0.1)
    good, bad, also_good = request(world), request(world, state=State.DELIVERED), request(world)
    with structlog.testing.capture_logs() as logs:
        asked = [world.post(each) for each in (good, bad, also_good)]
        await trio.sleep(10)
    assert [asked[0].answer, asked[2].answer] == [Accepted(), Accepted()]
    assert isinstance(asked[1].answer, ValueError)
    assert [await world.knows(each) for each in (good, bad, also_good)] == [True, False, True]
    assert set(hints(bad)).isdisjoint(world.announced)
    assert set(hints(good, also_good)) <= set(world.announced)
    assert [entry["event"] for entry in logs] == ["intake.refused"]
    assert "exc_info" not in logs[0] or not logs[0]["exc_info"], "a traceback may hold a body"


async def test_without_the_ledger_all_of_a_group_are_told_so_at_once(world: World, autojump_clock: object) -> None:
    world.stage.ledger_down = True
    asked = [world.post(request(world)) for _ in range(3)]
    await trio.sleep(3)
    assert all(isinstance(each.answer, LedgerDown) for each in asked)
    assert (world.announced, world.counted(State.QUEUED)) == ([], 0)
    world.stage.ledger_down = False
    again = world.post(request(world))
    await trio.sleep(3)
    assert again.answer == Accepted(), "and it goes on when the ledger is back"


async def test_a_commit_that_takes_too_long_is_told_as_an_outage(world: World, autojump_clock: object) -> None:
    class Hangs:
        async def accept(self, batch: object, *, supervisor: str) -> object:
            await trio.sleep_forever()

    hanging = World(world.stage, world.nursery)
    hanging.ledger = Hangs()
    await hanging.start()
    asked = hanging.post(request(world))
    await trio.sleep(COMMIT_LIMIT_S + 1)
    assert isinstance(asked.answer, LedgerDown)
    assert asked.at_s == COMMIT_LIMIT_S
    assert [each.hint for each in hanging.delayed] == hanging.announced, "it may land yet: looked at again by then"
    assert {each.due_in_s for each in hanging.delayed} == {DECIDED_S}


async def test_a_commit_in_doubt_may_be_repeated_by_the_client(world: World, autojump_clock: object) -> None:
    world.stage.lost_answers.add("intake.accept")
    acceptance = request(world, key="k1")
    asked = world.post(acceptance)
    await trio.sleep(2)
    assert isinstance(asked.answer, LedgerDown)
    assert world.announced == hints(acceptance), "it waits, though nobody was told that it is accepted"
    again = world.post(request(world, key="k1"))
    await trio.sleep(2)
    assert again.answer == Replay(status=202, body=b"first")
    assert await world.knows(acceptance)


async def test_a_request_whose_asker_has_gone_is_committed_and_told_all_the_same(
    world: World, autojump_clock: object
) -> None:
    acceptance = request(world)
    with trio.move_on_after(COMMIT_S / 2) as patience:
        await world.ask(acceptance)
    assert patience.cancelled_caught
    await trio.sleep(COMMIT_S)
    assert await world.knows(acceptance)
    assert world.announced == hints(acceptance)


async def test_a_commit_on_its_way_is_not_cut_short_and_its_hints_are_told(
    world: World, autojump_clock: object
) -> None:
    acceptance = request(world)
    asked = world.post(acceptance)
    await trio.sleep(COMMIT_S / 2)
    world.scope.cancel()
    await trio.sleep(COMMIT_S)
    assert (asked.answer, world.announced) == (Accepted(), hints(acceptance))


async def test_beyond_its_mailbox_it_refuses_at_once(world: World, autojump_clock: object) -> None:
    asked = [world.post(request(world)) for _ in range(world.mailbox.capacity + WRITERS + 50)]
    await trio.sleep(COMMIT_S / 2)
    refused = [each for each in asked if isinstance(each.answer, MailboxFull)]
    assert refused
    assert {each.at_s for each in refused} == {0.0}
    await trio.sleep(3)
    assert sum(each.answer == Accepted() for each in asked) == len(asked) - len(refused)


async def test_told_to_finish_it_commits_what_waits_and_takes_no_more(world: World, autojump_clock: object) -> None:
    asked = [world.post(request(world)) for _ in range(5)]
    await trio.sleep(0.1)
    world.mailbox.close()
    with pytest.raises(ActorStopped):
        await world.ask(request(world))
    await trio.sleep(5)
    assert all(each.answer == Accepted() for each in asked)
    assert world.stage.living == set()
