"""The scheduler in virtual time: due hints move at their moment, late messages expire, outages are waited out."""

from __future__ import annotations

from datetime import timedelta

import pytest
import structlog
import trio

from heliograph.actors.kernel.actor import Mailbox
from heliograph.actors.model.errors import QueueDown
from heliograph.actors.model.message import Channel, Lane, Priority, State
from heliograph.actors.ports.queue import Hint, Later
from heliograph.actors.queue.memory import MemoryQueue
from heliograph.actors.scheduler import MOST, Scheduler
from tests.support.stage import Stage

NORMAL = Lane(Channel.SMS, Priority.NORMAL)


class Counting(MemoryQueue):
    wakes = 0

    async def wake(self, channel: Channel, *, limit: int) -> tuple[list[Hint], float | None]:
        self.wakes += 1
        return await super().wake(channel, limit=limit)


async def start(stage: Stage, queue: MemoryQueue, generation: str = "g") -> tuple[Mailbox[None], trio.CancelScope]:
    await queue.open(generation)
    return await stage.start(
        "scheduler/sms",
        lambda: Scheduler(Channel.SMS, queue, stage.ledger.delivery, clock=stage.clock, metrics=stage.metrics),
    )


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


async def waits(queue: MemoryQueue) -> int:
    return (await queue.depths())[NORMAL]


async def test_a_hint_moves_at_its_moment_although_it_was_put_in_while_the_scheduler_slept(
    stage: Stage, autojump_clock: object
) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    await trio.sleep(7.3)
    [hint] = await stage.accept()
    await queue.push([], later=[Later(hint, 0.25)])
    await trio.sleep(0.249)
    assert await waits(queue) == 0
    await trio.sleep(0.005)
    assert await waits(queue) == 1


async def test_a_far_hint_does_not_hide_a_near_one(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    far, near = await stage.accept(2)
    await queue.push([], later=[Later(far, 1.9)])
    await trio.sleep(1.5)
    await queue.push([], later=[Later(near, 0.2)])
    await trio.sleep(0.21)
    assert await waits(queue) == 1
    await trio.sleep(0.2)
    assert await waits(queue) == 2


async def test_what_another_supervisor_put_in_is_found_within_a_second(stage: Stage, autojump_clock: object) -> None:
    queue, other = stage.queue("a"), stage.queue("b")
    await start(stage, queue)
    await other.open("g")
    [hint] = await stage.accept()
    await other.push([], later=[Later(hint, 0.0)])
    await trio.sleep(1.01)
    assert await waits(queue) == 1


async def test_two_schedulers_move_a_hint_once(stage: Stage, autojump_clock: object) -> None:
    first, second = stage.queue("a"), stage.queue("b")
    await start(stage, first)
    await start(stage, second)
    await first.push([], later=[Later(hint, 0.5) for hint in await stage.accept(100)])
    await trio.sleep(3)
    assert await waits(first) == 100


async def test_more_than_one_call_moves_are_moved_without_a_rest(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    await queue.push([], later=[Later(hint, 0.1) for hint in await stage.accept(MOST * 3 + 1)])
    await trio.sleep(0.2)
    assert await waits(queue) == MOST * 3 + 1


async def test_an_idle_scheduler_looks_once_a_second_and_no_more(stage: Stage, autojump_clock: object) -> None:
    queue = Counting(stage.redis, "a")
    await start(stage, queue)
    await queue.push([], later=[Later(hint, 500.0) for hint in await stage.accept(1)])
    await trio.sleep(100)
    assert 95 <= queue.wakes <= 105


async def test_a_scheduled_message_is_queued_when_it_is_due(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    [hint] = await stage.accept(in_s=30.0)
    await queue.push([], later=[Later(hint, 30.0)])
    await trio.sleep(29.9)
    assert await stage.state(hint) is State.SCHEDULED
    await trio.sleep(0.2)
    assert await stage.state(hint) is State.QUEUED


async def test_late_messages_expire_and_are_counted(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    hints = await stage.accept(MOST + 5, expires_at=stage.clock.now() + timedelta(seconds=20))
    await trio.sleep(19.9)
    assert await stage.state(hints[0]) is State.QUEUED
    await trio.sleep(4)
    assert {await stage.state(hint) for hint in hints} == {State.EXPIRED}
    labels = {"channel": "sms", "state": "expired"}
    assert stage.registry.get_sample_value("heliograph_messages_total", labels) == MOST + 5


async def test_it_waits_for_redis_and_says_so_once(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    await queue.push([], later=[Later(hint, 5.0) for hint in await stage.accept(1)])
    with structlog.testing.capture_logs() as logs:
        stage.redis.down(True)
        await trio.sleep(60)
        with pytest.raises(QueueDown):
            await queue.depths()
        stage.redis.down(False)
        await trio.sleep(2.5)
        assert await waits(queue) == 1
    assert [entry["event"] for entry in logs] == ["scheduler.waits", "scheduler.resumed"]


async def test_it_waits_for_new_lists(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    stage.redis.flush()
    await trio.sleep(30)
    await queue.open("g2")
    await queue.push([], later=[Later(hint, 0.0) for hint in await stage.accept(1)])
    await trio.sleep(2.5)
    assert await waits(queue) == 1


async def test_hints_move_while_the_ledger_is_away_which_is_told_later(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    await start(stage, queue)
    [hint] = await stage.accept(in_s=5.0)
    await queue.push([], later=[Later(hint, 5.0)])
    stage.ledger_down = True
    await trio.sleep(20.3)
    assert await waits(queue) == 1
    stage.ledger_down = False
    assert await stage.state(hint) is State.SCHEDULED
    await trio.sleep(2.5)
    assert await stage.state(hint) is State.QUEUED


async def test_it_ends_when_told_to_and_listens_no_more(stage: Stage, autojump_clock: object) -> None:
    queue = stage.queue("a")
    mailbox, scope = await start(stage, queue)
    await trio.sleep(0.5)
    mailbox.close()
    await trio.sleep(0.01)
    await queue.push([], later=[Later(hint, 0.0) for hint in await stage.accept(1)])
    await trio.sleep(10)
    assert await waits(queue) == 0
    assert not scope.cancel_called
