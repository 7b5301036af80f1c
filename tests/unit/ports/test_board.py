"""The board: what dispatchers read, and when they are woken."""

from __future__ import annotations

from math import inf

import pytest
import trio

from heliograph.actors.model.message import Priority, WaitingFor
from heliograph.actors.ports.board import Board, Desk
from tests.support.builders import a_provider


def a_board() -> tuple[Board, Desk]:
    board = Board([a_provider(concurrency=50, rate=1e6)])
    return board, board.desk("sandbox")


async def woken(board: Board, within_s: float = 1.0) -> bool:
    with trio.move_on_after(within_s):
        await board.changed()
        return True
    return False


def fill(desk: Desk) -> int:
    count = desk.room(Priority.URGENT)
    desk.enter(Priority.URGENT, count)
    return count


def test_entering_takes_room_and_leaving_gives_it_back() -> None:
    _, desk = a_board()
    whole = desk.room(Priority.URGENT)
    desk.enter(Priority.URGENT, 3)
    assert (desk.room(Priority.URGENT), desk.held) == (whole - 3, 3)
    desk.leave(Priority.URGENT, 2)
    desk.arrive(Priority.URGENT)
    desk.done(Priority.URGENT)
    assert (desk.room(Priority.URGENT), desk.held) == (whole, 0)


def test_blocked_says_for_how_long_and_why_and_runs_out() -> None:
    _, desk = a_board()
    assert desk.blocked(0.0) is None
    desk.publish(window=10, blocked_until_s=5.0, blocked_for=WaitingFor.BREAKER)
    assert desk.blocked(2.0) == (3.0, WaitingFor.BREAKER)
    assert desk.blocked(5.0) is None
    view = desk.view()
    assert (view.blocked_until_s, view.blocked_for, view.room[Priority.URGENT]) == (5.0, WaitingFor.BREAKER, 10)


def take_off(desk: Desk, count: int, priority: Priority = Priority.URGENT) -> None:
    for _ in range(count):
        desk.take_off(priority)


def test_what_is_in_the_air_takes_no_place_of_what_may_wait_for_its_call() -> None:
    _, desk = a_board()
    desk.publish(window=30, ahead=20, blocked_until_s=0.0, blocked_for=None)
    assert fill(desk) == 20
    take_off(desk, 8)
    assert fill(desk) == 8
    take_off(desk, 20)
    assert fill(desk) == 2, "with those in the air it holds no more than its window"
    for _ in range(28):
        desk.lands(Priority.URGENT)
    desk.leave(Priority.URGENT, 28)
    assert fill(desk) == 18


def test_bulk_has_its_part_of_what_may_wait_whatever_is_in_the_air() -> None:
    _, desk = a_board()
    desk.publish(window=100, ahead=20, blocked_until_s=0.0, blocked_for=None)
    desk.enter(Priority.BULK, 10)
    assert desk.room(Priority.BULK) == 0
    take_off(desk, 10, Priority.BULK)
    assert desk.room(Priority.BULK) == 10


async def test_a_call_that_begins_wakes_who_waits_for_room(autojump_clock: object) -> None:
    board, desk = a_board()
    desk.publish(window=100, ahead=16, blocked_until_s=0.0, blocked_for=None)
    desk.enter(Priority.URGENT, 16)
    trio.lowlevel.current_trio_token().run_sync_soon(take_off, desk, 2)
    assert await woken(board)


def test_after_a_crash_only_what_waits_in_the_mailbox_counts() -> None:
    _, desk = a_board()
    desk.enter(Priority.NORMAL, 5)
    desk.enter(Priority.BULK, 2)
    for priority in (Priority.NORMAL, Priority.NORMAL, Priority.BULK):
        desk.arrive(priority)
    desk.done(Priority.NORMAL)
    desk.reset()
    assert desk.held == 4
    for _ in range(3):
        desk.arrive(Priority.NORMAL)
        desk.done(Priority.NORMAL)
    assert desk.held == 1


def test_between_two_lives_of_its_actor_a_provider_cannot_be_asked() -> None:
    _, desk = a_board()
    desk.vacate()
    assert desk.blocked(0.0) == (1.0, WaitingFor.PROVIDER)
    assert desk.blocked(1000.0) == (1.0, WaitingFor.PROVIDER), "for as long as it takes"
    desk.reset()
    assert desk.blocked(1000.0) is None


async def test_a_dispatcher_is_woken_when_room_worth_it_appears(autojump_clock: object) -> None:
    board, desk = a_board()
    count = fill(desk)
    async with trio.open_nursery() as nursery:

        async def leave_slowly() -> None:
            for _ in range(count):
                await trio.sleep(0.01)
                desk.leave(Priority.URGENT)

        nursery.start_soon(leave_slowly)
        assert await woken(board)
        assert desk.room(Priority.URGENT) == count // 8


async def test_a_dispatcher_that_waits_for_bulk_is_woken_although_others_had_room(autojump_clock: object) -> None:
    board, desk = a_board()
    desk.enter(Priority.BULK, bulk := desk.room(Priority.BULK))
    assert desk.room(Priority.NORMAL) > 0
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.sleep(0.1)
            desk.leave(Priority.BULK, bulk)

        nursery.start_soon(leave)
        assert await woken(board)


@pytest.mark.parametrize(("until_s", "why"), [(-inf, None), (3.0, WaitingFor.RATE)])
async def test_a_dispatcher_is_woken_when_a_block_ends_sooner(
    until_s: float, why: WaitingFor | None, autojump_clock: object
) -> None:
    board, desk = a_board()
    desk.publish(window=100, blocked_until_s=100.0, blocked_for=WaitingFor.BREAKER)
    async with trio.open_nursery() as nursery:

        async def unblock() -> None:
            await trio.sleep(0.1)
            desk.publish(window=100, blocked_until_s=until_s, blocked_for=why)

        nursery.start_soon(unblock)
        assert await woken(board)


async def test_saying_the_same_again_wakes_nobody(autojump_clock: object) -> None:
    board, desk = a_board()
    desk.publish(window=100, blocked_until_s=100.0, blocked_for=WaitingFor.BREAKER)
    async with trio.open_nursery() as nursery:

        async def repeat() -> None:
            await trio.sleep(0.1)
            desk.publish(window=100, blocked_until_s=100.0, blocked_for=WaitingFor.BREAKER)

        nursery.start_soon(repeat)
        assert not await woken(board)
