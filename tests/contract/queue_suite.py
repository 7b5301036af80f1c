"""What every queue must do: run on the one in memory and on real Redis."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import pytest
import trio
import trio.testing

from heliograph.actors.model.errors import QueueDown, StaleGeneration
from heliograph.actors.model.message import LANES, Channel, Lane, Priority
from heliograph.actors.ports.queue import Hint, Later, Queue
from heliograph.actors.queue import hand
from tests.support.eventually import eventually

SMS: Final = Channel.SMS
URGENT, NORMAL, BULK = (Lane(SMS, priority) for priority in Priority)
PLENTY: Final = dict.fromkeys(Priority, 1000)
SOON_S: Final = 10.0


class QueueWorld(Protocol):
    """A server, and what may happen to it. Each queue it makes is another supervisor's, with `g1` opened."""

    async def queue(self, supervisor: str) -> Queue: ...

    async def flush(self) -> None: ...

    async def replace(self) -> None:
        """Another, empty server answers from now on."""

    def down(self, is_down: bool) -> None: ...

    def lose_reply(self) -> None:
        """The next command takes effect and its caller hears nothing of it."""


def hints(lane: Lane, *numbers: int) -> list[Hint]:
    return [Hint(f"msg_{number:05}", lane) for number in numbers]


def ids(found: Sequence[Hint]) -> list[int]:
    return [int(hint.message_id[4:]) for hint in found]


async def take(queue: Queue, most: int = 1000, *, room: dict[Priority, int] = PLENTY, wait_s: float = 0.0) -> list[int]:
    return ids(await queue.take(SMS, room, most=most, bulk_share=0.0, wait_s=wait_s))


class QueueSuite:
    async def test_hints_come_in_the_order_of_their_priorities_and_then_of_their_pushes(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push([*hints(BULK, 1), *hints(NORMAL, 2, 3), *hints(URGENT, 4)])
        await queue.push([*hints(URGENT, 5), *hints(NORMAL, 6)])
        assert await take(queue) == [4, 5, 2, 3, 6, 1]

    async def test_front_puts_hints_before_those_that_wait_in_their_order(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 2))
        await queue.push(hints(NORMAL, 3, 4), front=True)
        assert await take(queue) == [3, 4, 1, 2]

    async def test_a_take_keeps_to_the_room_of_each_priority_and_to_the_most_in_all(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push([*hints(URGENT, 1, 2), *hints(NORMAL, 3, 4), *hints(BULK, 5, 6)])
        assert await take(queue, room={Priority.URGENT: 1, Priority.BULK: 1}) == [1, 5]
        assert await take(queue, 2) == [2, 3]

    async def test_channels_do_not_mix(self, world: QueueWorld):
        queue = await world.queue("a")
        email = Lane(Channel.EMAIL, Priority.URGENT)
        await queue.push([*hints(email, 1), *hints(URGENT, 2)])
        assert await take(queue) == [2]
        assert ids(await queue.take(Channel.EMAIL, PLENTY, most=9, bulk_share=0, wait_s=0)) == [1]

    async def test_a_share_of_the_takes_begins_at_the_lowest_lane(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push([*hints(URGENT, *range(100, 110)), *hints(BULK, 1, 2)])
        taken = [ids(await queue.take(SMS, PLENTY, most=1, bulk_share=0.25, wait_s=0))[0] for _ in range(8)]
        assert taken == [100, 101, 102, 1, 103, 104, 105, 2]

    async def test_the_bulk_turn_goes_on_with_the_urgent_ones_and_skips_lanes_without_room(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push([*hints(URGENT, 1), *hints(NORMAL, 2), *hints(BULK, 3)])
        room = {Priority.URGENT: 5, Priority.NORMAL: 5}
        assert ids(await queue.take(SMS, room, most=5, bulk_share=1.0, wait_s=0)) == [2, 1]

    async def test_takes_that_find_nothing_do_not_use_up_the_bulk_turn(self, world: QueueWorld):
        queue = await world.queue("a")
        for _ in range(3):
            assert await queue.take(SMS, PLENTY, most=1, bulk_share=0.5, wait_s=0) == []
        await queue.push([*hints(URGENT, 1, 2), *hints(BULK, 3)])
        taken = [ids(await queue.take(SMS, PLENTY, most=1, bulk_share=0.5, wait_s=0)) for _ in range(2)]
        assert taken == [[1], [3]]

    async def test_a_doubled_hint_is_given_to_one_supervisor_once(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        await first.push(hints(NORMAL, 1, 1, 2))
        assert await take(first) == [1, 2]
        await first.push(hints(NORMAL, 1))
        assert await take(first) == []
        await first.push(hints(NORMAL, 1))
        assert await take(second) == [1], "only the ledger can tell it what to do with it"

    async def test_a_doubled_hint_does_not_hide_those_behind_it(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 1, 1, 2))
        assert await take(queue, 1) == [1]
        assert await take(queue, 1) == [2]

    async def test_what_is_taken_is_in_hand_until_it_is_settled(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 2, 3))
        assert await take(queue, 2) == [1, 2]
        assert await queue.depths() == {lane: 1 if lane == NORMAL else 0 for lane in LANES}
        assert len(await queue.hints(NORMAL)) == 3
        await queue.settle(["msg_00001"])
        assert await queue.hints(NORMAL) == {"msg_00002", "msg_00003"}

    async def test_settle_drops_puts_again_and_delays_in_one_call(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 2, 3, 4, 9))
        assert await take(queue, 4) == [1, 2, 3, 4]
        await queue.settle(["msg_00001"], again=hints(NORMAL, 3, 4), later=[Later(hints(NORMAL, 2)[0], 1000.0)])
        assert await take(queue) == [3, 4, 9]
        await queue.settle(["msg_00003", "msg_00004", "msg_00009"])
        assert await queue.hints(NORMAL) == {"msg_00002"}

    async def test_settling_what_is_not_in_hand_does_no_harm(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.settle(["msg_00001"])
        await queue.settle([])
        assert await queue.hints(NORMAL) == set()

    async def test_hand_back_goes_to_the_heads_in_order_and_out_of_hand(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        await first.push([*hints(NORMAL, 1, 2, 3), *hints(URGENT, 4)])
        taken = await first.take(SMS, PLENTY, most=3, bulk_share=0, wait_s=0)
        assert ids(taken) == [4, 1, 2]
        await first.hand_back(taken)
        assert await take(second) == [4, 1, 2, 3]
        assert await second.adopt("a") == 0

    async def test_a_line_gives_back_in_order_what_was_put_there_by_whomever(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        await first.push([*hints(BULK, 1, 2), *hints(URGENT, 3), *hints(BULK, 4, 5)])
        await take(first)
        await first.line_up("one", [*hints(BULK, 1, 2), *hints(URGENT, 3)])
        await first.line_up("two", hints(BULK, 4))
        await first.line_up("one", hints(BULK, 5))
        assert await take(first) == await take(second) == []
        some = {Priority.URGENT: 5, Priority.NORMAL: 5, Priority.BULK: 2}
        assert ids(await second.take_lined(SMS, "one", some, most=10)) == [3, 1, 2]
        assert ids(await second.take_lined(SMS, "one", PLENTY, most=10)) == [5]
        assert ids(await first.take_lined(SMS, "two", PLENTY, most=0)) == []
        assert ids(await first.take_lined(SMS, "two", PLENTY, most=10)) == [4]
        assert await second.take_lined(SMS, "one", PLENTY, most=10) == []
        assert await second.take_lined(Channel.EMAIL, "two", PLENTY, most=10) == []

    async def test_what_stands_in_a_line_counts_as_waiting_in_its_lane_and_outlives_its_putter(self, world: QueueWorld):
        queue, other = await world.queue("a"), await world.queue("b")
        await queue.push(hints(NORMAL, 1, 2, 3))
        await take(queue)
        await queue.line_up("one", hints(NORMAL, 1, 2))
        assert (await queue.depths())[NORMAL] == 2
        assert await other.hints(NORMAL) == {hint.message_id for hint in hints(NORMAL, 1, 2, 3)}
        assert await other.adopt("a") == 1
        assert await take(other) == [3]
        assert ids(await other.take_lined(SMS, "one", PLENTY, most=10)) == [1, 2]
        third = await world.queue("c")
        assert await third.adopt("b") == 3
        assert sorted(await take(third)) == [1, 2, 3]

    async def test_a_hint_doubled_into_a_line_is_given_once(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 1, 2))
        assert await take(queue, 1) == [1]
        await queue.line_up("one", hints(NORMAL, 1))
        assert await take(queue) == [1, 2]
        assert await queue.take_lined(SMS, "one", PLENTY, most=10) == []

    async def test_hints_that_are_due_are_moved_to_the_tails_of_their_lanes(self, world: QueueWorld):
        queue = await world.queue("a")
        [soon, urgent, never] = [*hints(NORMAL, 1), *hints(URGENT, 2), *hints(NORMAL, 3)]
        await queue.push(hints(NORMAL, 9), later=[Later(never, 500.0), Later(soon, 0.05), Later(urgent, 0.0)])
        woken, next_s = await queue.wake(SMS, limit=10)
        assert woken[0] == urgent
        assert next_s is not None

        async def soon_is_woken() -> bool:
            woken.extend((await queue.wake(SMS, limit=10))[0])
            return soon in woken

        await eventually(soon_is_woken)
        due, next_s = await queue.wake(SMS, limit=10)
        assert due == []
        assert next_s == pytest.approx(500.0, abs=SOON_S)
        assert await take(queue) == [2, 9, 1]

    async def test_wake_moves_no_more_than_asked_and_says_that_there_is_more(self, world: QueueWorld):
        queue = await world.queue("a")
        assert await queue.wake(SMS, limit=10) == ([], None)
        await queue.push([], later=[Later(hint, 0.0) for hint in hints(BULK, 1, 2, 3)])
        woken, next_s = await queue.wake(SMS, limit=2)
        assert (ids(woken), next_s) == ([1, 2], 0.0)
        assert await queue.hints(BULK) == {"msg_00001", "msg_00002", "msg_00003"}

    async def test_a_hint_delayed_twice_is_due_when_it_was_last_said(self, world: QueueWorld):
        queue = await world.queue("a")
        [hint] = hints(BULK, 1)
        await queue.push([], later=[Later(hint, 0.0)])
        await queue.push([], later=[Later(hint, 900.0)])
        woken, next_s = await queue.wake(SMS, limit=10)
        assert woken == []
        assert next_s == pytest.approx(900.0, abs=SOON_S)

    async def test_a_listener_is_told_how_soon_its_channel_has_something_due(self, world: QueueWorld):
        queue, other = await world.queue("a"), await world.queue("b")
        told: list[float] = []
        queue.on_later(SMS, told.append)
        first, second, email = [*hints(NORMAL, 1, 2), *hints(Lane(Channel.EMAIL, Priority.BULK), 3)]
        await queue.push([], later=[Later(first, 9.0), Later(second, 4.0), Later(email, 1.0)])
        await queue.settle([], later=[Later(first, 0.5)])
        await queue.push([first])
        await other.push([], later=[Later(first, 1.0)])
        assert told == [4.0, 0.5]
        queue.on_later(SMS, None)
        await queue.push([], later=[Later(first, 1.0)])
        assert told == [4.0, 0.5]

    async def test_a_take_answers_nothing_after_its_wait(self, world: QueueWorld):
        queue = await world.queue("a")
        began = trio.current_time()
        assert await take(queue, wait_s=0.05) == []
        assert trio.current_time() - began >= 0.05

    @pytest.mark.parametrize("way", ["push", "front", "settle", "wake", "adopt"])
    async def test_a_waiting_take_is_woken_by_whatever_brings_hints(
        self, world: QueueWorld, way: str, nursery: trio.Nursery
    ):
        waiting, other = await world.queue("a"), await world.queue("b")
        hint = hints(NORMAL, 1)
        await other.push([], later=[Later(hint[0], 0.0)])
        if way != "wake":
            await other.wake(SMS, limit=1)
            assert await take(other) == [1]
        found: list[int] = []

        async def wait() -> None:
            found.extend(await take(waiting, wait_s=SOON_S * 3))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        match way:
            case "push" | "front":
                await other.push(hint, front=way == "front")
            case "settle":
                await other.settle([], again=hint)
            case "wake":
                await other.wake(SMS, limit=1)
            case "adopt":
                assert await waiting.adopt("b") == 1

        async def is_found() -> bool:
            return found == [1]

        await eventually(is_found)

    async def test_several_waiting_takes_share_what_is_pushed(self, world: QueueWorld):
        queues = [await world.queue(name) for name in "abc"]
        found: list[int] = []

        async def wait(queue: Queue) -> None:
            found.extend(await take(queue, 1, wait_s=SOON_S))

        async with trio.open_nursery() as nursery:
            for queue in queues:
                nursery.start_soon(wait, queue)
            await trio.testing.wait_all_tasks_blocked()
            await queues[0].push(hints(NORMAL, 1, 2, 3))
        assert sorted(found) == [1, 2, 3]

    async def test_a_take_without_room_for_a_lane_does_not_keep_its_hints_from_others(self, world: QueueWorld):
        full, free = await world.queue("a"), await world.queue("b")
        found: dict[str, list[int]] = {}

        async def wait(name: str, queue: Queue, room: dict[Priority, int], wait_s: float) -> None:
            found[name] = await take(queue, room=room, wait_s=wait_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "full", full, {Priority.URGENT: 1, Priority.BULK: 0}, 0.3)
            nursery.start_soon(wait, "free", free, PLENTY, SOON_S)
            await trio.testing.wait_all_tasks_blocked()
            await free.push(hints(BULK, 1))
        assert found == {"full": [], "free": [1]}

    async def test_a_take_cancelled_while_it_waits_loses_nothing(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        with trio.move_on_after(0.02) as scope:
            await take(first, wait_s=SOON_S)
        assert scope.cancelled_caught
        await second.push(hints(NORMAL, *range(50)))
        assert await take(second, wait_s=SOON_S) == list(range(50))

    async def test_a_take_cancelled_at_any_moment_loses_nothing(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, *range(40)))
        got: list[int] = []
        for turn in range(40):
            with trio.move_on_after(turn * 0.0001):
                got += await take(queue, 1)
        while more := await take(queue):
            got += more
        await queue.sweep()
        assert await queue.sweep() == 0
        assert sorted(got) == list(range(40))

    async def test_hints_taken_without_an_answer_come_back_at_the_second_look(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 2, 3))
        world.lose_reply()
        with pytest.raises(QueueDown):
            await take(queue, 2)
        assert await take(queue) == [3]
        assert await queue.sweep() == 0, "an answer may just be on its way"
        assert await queue.sweep() == 2
        assert await take(queue) == [1, 2]
        assert await queue.sweep() == 0
        assert await queue.sweep() == 0, "what is in hand stays there"

    async def test_hints_that_were_taken_and_forgotten_come_back(
        self, world: QueueWorld, monkeypatch: pytest.MonkeyPatch
    ):
        queue, other = await world.queue("a"), await world.queue("b")
        await queue.push(hints(NORMAL, 1, 2))
        assert await take(queue) == [1, 2]
        await queue.settle(["msg_00002"])
        assert await queue.sweep() + await queue.sweep() == 0
        monkeypatch.setattr(hand, "FORGOTTEN_S", 0.05)
        back = 0

        async def is_back() -> bool:
            nonlocal back
            back += await queue.sweep()
            return back == 1

        await eventually(is_back)
        assert await take(other) == [1]

    async def test_a_settled_hint_whose_settling_failed_is_swept(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1))
        assert await take(queue) == [1]
        world.down(True)
        with pytest.raises(QueueDown):
            await queue.settle(["msg_00001"])
        world.down(False)
        await queue.sweep()
        assert await queue.sweep() == 1

    async def test_a_push_whose_answer_was_lost_may_be_repeated(self, world: QueueWorld):
        queue = await world.queue("a")
        world.lose_reply()
        with pytest.raises(QueueDown):
            await queue.push(hints(NORMAL, 1))
        await queue.push(hints(NORMAL, 1))
        assert await take(queue) == [1]
        assert await take(queue) == []

    async def test_the_hand_of_a_dead_one_is_adopted_once_by_two_at_once(self, world: QueueWorld):
        dead, first, second = [await world.queue(name) for name in ("dead", "a", "b")]
        await dead.push([*hints(NORMAL, *range(2500)), *hints(URGENT, 5000)])
        while await take(dead):
            pass
        moved: list[int] = []

        async def adopt(queue: Queue) -> None:
            moved.append(await queue.adopt("dead"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt, first)
            nursery.start_soon(adopt, second)
        assert sum(moved) == 2501
        got: list[int] = []
        while more := await take(first):
            got += more
        assert got[0] == 5000
        assert sorted(got[1:]) == list(range(2500))

    async def test_one_taken_for_dead_goes_on_and_its_hints_are_only_doubled(self, world: QueueWorld):
        slow, other = await world.queue("slow"), await world.queue("b")
        await slow.push(hints(NORMAL, 1, 2))
        assert await take(slow) == [1, 2]
        assert await other.adopt("slow") == 2
        await slow.settle(["msg_00001"], again=hints(NORMAL, 2))
        assert await slow.sweep() + await slow.sweep() == 0
        assert sorted(await take(other)) == [1, 2]

    async def test_every_method_says_so_when_the_lists_are_gone(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 2))
        await take(queue, 1)
        await world.flush()
        assert await queue.current() is None
        [hint] = hints(NORMAL, 1)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.push([hint]),
            lambda: queue.push([], later=[Later(hint, 1.0)]),
            lambda: take(queue),
            lambda: queue.settle([hint.message_id]),
            lambda: queue.hand_back([hint]),
            lambda: queue.wake(SMS, limit=1),
            lambda: queue.sweep(),
            lambda: queue.adopt("b"),
            lambda: queue.hints(NORMAL),
            lambda: queue.line_up("one", [hint]),
            lambda: queue.take_lined(SMS, "one", PLENTY, most=1),
        ]
        for call in calls:
            with pytest.raises(StaleGeneration):
                await call()
        await queue.open("g2")
        assert await queue.current() == "g2"
        assert await queue.hints(NORMAL) == set()
        await queue.push([hint])
        assert await take(queue) == [1]

    async def test_another_server_is_noticed_although_its_lists_have_the_name(self, world: QueueWorld):
        queue = await world.queue("a")
        before = await queue.server()
        await world.replace()
        with pytest.raises((StaleGeneration, QueueDown)):
            await queue.push(hints(NORMAL, 1))
        late = await world.queue("b")  # writes the same generation's name there
        assert await queue.server() == await late.server() != before
        with pytest.raises(StaleGeneration):
            await queue.push(hints(NORMAL, 1))
        await queue.open("g2")
        await queue.push(hints(NORMAL, 1))
        with pytest.raises(StaleGeneration):
            await late.push(hints(NORMAL, 2))

    async def test_nothing_can_be_done_before_a_generation_is_opened_by_all(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        await first.open("g2")
        with pytest.raises(StaleGeneration):
            await second.push(hints(NORMAL, 1))
        await second.open("g2")
        await second.push(hints(NORMAL, 1))
        assert await take(first) == [1]

    async def test_a_generation_takes_the_place_of_the_one_it_is_to_follow_and_of_no_other(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        await first.open("g2", over="g1")
        await second.open("g2", over="g2")
        with pytest.raises(StaleGeneration):
            await first.open("g3", over="g1")
        assert await second.current() == "g2"
        await world.flush()
        with pytest.raises(StaleGeneration):
            await second.open("g2", over="g2")
        assert await second.current() is None, "what Redis lost is not hidden from anybody"

    async def test_hints_in_hand_may_be_settled_after_a_new_generation(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1, 2))
        assert await take(queue) == [1, 2]
        await world.flush()
        await queue.open("g2")
        await queue.settle(["msg_00001"], again=hints(NORMAL, 2))
        assert await take(queue) == [2]

    async def test_a_server_that_is_away_is_said_to_be_down_and_is_found_again(self, world: QueueWorld):
        queue = await world.queue("a")
        await queue.push(hints(NORMAL, 1))
        world.down(True)
        for call in (lambda: take(queue), lambda: queue.push(hints(NORMAL, 2)), queue.server, queue.current):
            with pytest.raises(QueueDown):
                await call()
        world.down(False)
        assert await take(queue) == [1]

    async def test_a_waiting_take_is_told_when_the_server_goes_away(self, world: QueueWorld, nursery: trio.Nursery):
        queue = await world.queue("a")
        told = trio.Event()

        async def wait() -> None:
            with pytest.raises(QueueDown):
                await take(queue, wait_s=SOON_S * 3)
            told.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        world.down(True)
        with trio.fail_after(SOON_S):
            await told.wait()
        world.down(False)

    async def test_four_takers_at_once_lose_nothing_and_double_nothing(self, world: QueueWorld):
        queues = [await world.queue(name) for name in "abcd"]
        total = 1200
        got: list[int] = []

        async def work(queue: Queue) -> None:
            while len(got) < total:
                taken = await queue.take(SMS, PLENTY, most=7, bulk_share=0.05, wait_s=0.02)
                got.extend(ids(taken))
                await queue.settle([hint.message_id for hint in taken])

        with trio.fail_after(SOON_S * 3):
            async with trio.open_nursery() as nursery:
                for queue in queues:
                    nursery.start_soon(work, queue)
                for first in range(0, total, 100):
                    lane = (URGENT, NORMAL, BULK)[first // 100 % 3]
                    await queues[0].push(hints(lane, *range(first, first + 100)))
        assert sorted(got) == list(range(total))
        assert [await queues[0].hints(lane) for lane in (URGENT, NORMAL, BULK)] == [set()] * 3

    async def test_all_hints_of_a_lane_are_found_wherever_they_are(self, world: QueueWorld):
        first, second = await world.queue("a"), await world.queue("b")
        for start in range(0, 2500, 500):
            await first.push([*hints(NORMAL, *range(start, start + 500)), *hints(URGENT, start + 20_000)])
        await first.push([], later=[Later(hint, 100.0) for hint in hints(NORMAL, 3000, 3001)])
        await take(first, 10, room={Priority.NORMAL: 10})
        await take(second, 10, room={Priority.NORMAL: 10})
        assert await first.hints(NORMAL) == {f"msg_{n:05}" for n in [*range(2500), 3000, 3001]}
        assert len(await second.hints(URGENT)) == 5


async def play(queues: Sequence[Queue], seed: int, steps: int, tick: Callable[[], None]) -> list[object]:
    """A random script: what each call answered. The same seed asks the same of any queue, whatever it answers."""
    draw = random.Random(seed)
    answers: list[object] = []
    taken: list[list[Hint]] = [[] for _ in queues]

    def some_hints(most: int) -> list[Hint]:
        lanes = [Lane(SMS, priority) for priority in Priority]
        return [Hint(f"msg_{draw.randrange(60):05}", draw.choice(lanes)) for _ in range(draw.randrange(most))]

    for _ in range(steps):
        tick()
        who = draw.randrange(len(queues))
        queue, hand = queues[who], taken[who]
        draw.shuffle(hand)
        some = hand[: draw.randrange(4)]
        match draw.choice(["push", "push", "take", "take", "settle", "back", "wake", "adopt", "sweep", "look"]):
            case "push":
                later = [Later(hint, draw.choice([0.0, 0.0, 900.0])) for hint in some_hints(3)]
                await queue.push(some_hints(6), later=later, front=draw.random() < 0.3)
            case "take":
                room = {priority: draw.randrange(5) for priority in Priority}
                share = draw.choice([0.0, 0.5, 1.0])
                found = await queue.take(SMS, room, most=draw.randrange(1, 9), bulk_share=share, wait_s=0)
                hand.extend(found)
                answers.append(found)
            case "settle":
                del hand[: len(some)]
                again, later = some_hints(2), [Later(hint, draw.choice([0.0, 900.0])) for hint in some_hints(2)]
                await queue.settle([hint.message_id for hint in some], again=again, later=later)
                gone = {hint.message_id for hint in (*again, *(each.hint for each in later))}
                hand[:] = [hint for hint in hand if hint.message_id not in gone]
            case "back":
                del hand[: len(some)]
                await queue.hand_back(some)
            case "wake":
                woken, next_s = await queue.wake(SMS, limit=draw.randrange(1, 5))
                answers.append((woken, next_s is None or next_s > 0))
            case "adopt":
                answers.append(await queue.adopt("abc"[draw.randrange(3)]))
            case "sweep":
                answers.append(await queue.sweep())
            case "look":
                answers.append((await queue.depths(), [await queue.hints(Lane(SMS, p)) for p in Priority]))
    return answers
