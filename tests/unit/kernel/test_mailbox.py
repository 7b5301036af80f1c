"""A mailbox: what was put in is taken out once, in order, whoever waits or is cancelled."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from heliograph.actors.kernel.actor import ActorStopped, Inbox, Mailbox
from heliograph.actors.kernel.clock import VirtualClock
from heliograph.actors.model.errors import MailboxFull


@pytest.fixture
def box(autojump_clock: object) -> Mailbox[int]:
    return Mailbox("it", 3, VirtualClock(random.Random(1)))


async def test_of_many_as_many_are_taken_as_there_is_room_for(box: Mailbox[int]) -> None:
    assert box.ref.offer_all([1, 2]) == 2
    assert box.ref.offer_all([3, 4, 5]) == 1
    assert not box.ref.offer(6)
    assert (box.depth, Inbox(box).pile(10)) == (3, [1, 2, 3])
    assert box.ref.offer_all([4, 5]) == 2


async def test_who_waits_for_room_is_let_in_as_room_comes(box: Mailbox[int], nursery: trio.Nursery) -> None:
    box.ref.offer_all([1, 2, 3])
    for number in (4, 5, 6):
        nursery.start_soon(box.ref.tell, number)
        await trio.testing.wait_all_tasks_blocked()
    inbox = Inbox(box)
    taken = [await anext(inbox)]
    await trio.testing.wait_all_tasks_blocked()
    taken += inbox.pile(10)
    await trio.testing.wait_all_tasks_blocked()
    taken += inbox.pile(10)
    assert (taken[:4], {*taken[4:]}, len(taken)) == ([1, 2, 3, 4], {5, 6}, 6)


async def test_many_wake_the_one_who_waits(box: Mailbox[int], nursery: trio.Nursery) -> None:
    taken: list[int] = []

    async def work() -> None:
        inbox = Inbox(box)
        async for first in inbox:
            taken.extend([first, *inbox.pile(10)])

    nursery.start_soon(work)
    await trio.testing.wait_all_tasks_blocked()
    box.ref.offer_all([1, 2, 3])
    await trio.testing.wait_all_tasks_blocked()
    box.close()
    assert taken == [1, 2, 3]


async def test_a_reader_that_is_cancelled_takes_nothing_along(box: Mailbox[int]) -> None:
    inbox = Inbox(box)
    with trio.move_on_after(1) as limit:
        await anext(inbox)
    assert limit.cancelled_caught
    with trio.CancelScope() as scope:
        box.ref.offer(1)
        scope.cancel()
        await anext(inbox)
    assert await anext(inbox) == 1


async def test_a_writer_that_is_cancelled_has_put_nothing_in(box: Mailbox[int]) -> None:
    box.ref.offer_all([1, 2, 3])
    with trio.move_on_after(1):
        await box.ref.tell(4)
    assert Inbox(box).pile(10) == [1, 2, 3]
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.ref.tell(5)
    assert box.depth == 0


async def test_closed_it_takes_nothing_more_and_gives_out_what_it_has(box: Mailbox[int], nursery: trio.Nursery) -> None:
    box.ref.offer_all([1, 2, 3])
    refused: list[str] = []

    async def put() -> None:
        with pytest.raises(ActorStopped, match="it takes no more"):
            await box.ref.tell(4)
        refused.append("4")

    nursery.start_soon(put)
    await trio.testing.wait_all_tasks_blocked()
    box.close()
    assert box.ref.offer_all([5]) == 0
    assert [message async for message in Inbox(box)] == [1, 2, 3]
    assert refused == ["4"]


async def test_a_question_finds_a_full_mailbox_at_once(box: Mailbox[int]) -> None:
    box.ref.offer_all([1, 2, 3])
    with pytest.raises(MailboxFull, match=r"it is full \(3\)"):
        await box.ref.ask(lambda _: 4, timeout_s=1)
