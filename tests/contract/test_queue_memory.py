"""The queue in memory keeps the contract, and does what a plain model of lists does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heliograph.actors.model.errors import QueueDown
from heliograph.actors.model.message import LANES, Channel, Lane, Priority
from heliograph.actors.ports.queue import Hint, Later, Queue
from heliograph.actors.queue.memory import MemoryQueue, MemoryRedis
from tests.contract.queue_suite import QueueSuite

T = TypeVar("T")


class MemoryWorld:
    def __init__(self) -> None:
        self.server = MemoryRedis()

    async def queue(self, supervisor: str) -> Queue:
        queue = MemoryQueue(self.server, supervisor)
        await queue.open("g1")
        return queue

    async def flush(self) -> None:
        self.server.flush()

    async def replace(self) -> None:
        self.server.replace()

    def down(self, is_down: bool) -> None:
        self.server.down(is_down)

    def lose_reply(self) -> None:
        self.server.lose_replies(1)


class TestMemoryQueue(QueueSuite):
    virtual_time = True

    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()


HINTS = [Hint(f"msg_{n}_{priority}", Lane(Channel.SMS, priority)) for n in range(4) for priority in Priority]
SUPERVISORS = ("a", "b")


class QueueMachine(RuleBasedStateMachine):
    """Two supervisors against a model of plain lists. Ids are unique to their lane, as messages are. Less time passes
    in all than a hint may be in hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        server = MemoryRedis(lambda: self.now_s)
        self.server = server
        self.queues = {name: MemoryQueue(server, name) for name in SUPERVISORS}
        self.lanes: dict[Lane, list[Hint]] = {lane: [] for lane in LANES}
        self.listed: dict[str, set[Hint]] = {name: set() for name in SUPERVISORS}
        self.known: dict[str, set[Hint]] = {name: set() for name in SUPERVISORS}
        self.suspects: dict[str, set[Hint]] = {name: set() for name in SUPERVISORS}
        self.later: dict[Hint, float] = {}
        self.pushed: set[Hint] = set()
        self.done: set[Hint] = set()
        for queue in self.queues.values():
            self.call(queue.open, "g1")

    def call(self, method: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
        return trio.run(partial(method, *arguments, **named))

    @rule(pushed=st.lists(st.sampled_from(HINTS), max_size=5), front=st.booleans())
    def push(self, pushed: list[Hint], front: bool) -> None:
        self.call(self.queues["a"].push, pushed, front=front)
        self.put(pushed, front=front)

    def put(self, hints: Sequence[Hint], *, front: bool) -> None:
        for lane in LANES:
            mine = [hint for hint in hints if hint.lane == lane]
            self.lanes[lane] = [*mine, *self.lanes[lane]] if front else [*self.lanes[lane], *mine]
        self.pushed.update(hints)
        self.done.difference_update(hints)

    def move_to_hand(self, who: str, most: int) -> list[Hint]:
        moved = [hint for priority in Priority for hint in self.lanes[Lane(Channel.SMS, priority)]][:most]
        for hint in moved:
            self.lanes[hint.lane].remove(hint)
        self.listed[who].update(moved)
        return moved

    @rule(who=st.sampled_from(SUPERVISORS), most=st.integers(1, 6))
    def take(self, who: str, most: int) -> None:
        new: list[Hint] = []
        while not new and (moved := self.move_to_hand(who, most)):
            new = [hint for hint in dict.fromkeys(moved) if hint not in self.known[who]]
        self.known[who].update(new)
        assert self.call(self.take_up_to, who, most) == new

    @precondition(lambda self: any(self.lanes.values()))
    @rule(who=st.sampled_from(SUPERVISORS), most=st.integers(1, 6))
    def take_and_lose_the_answer(self, who: str, most: int) -> None:
        self.move_to_hand(who, most)
        self.server.lose_replies(1)
        with pytest.raises(QueueDown):
            self.call(self.take_up_to, who, most)

    async def take_up_to(self, who: str, most: int) -> list[Hint]:
        room = dict.fromkeys(Priority, most)
        return await self.queues[who].take(Channel.SMS, room, most=most, bulk_share=0.0, wait_s=0)

    @rule(who=st.sampled_from(SUPERVISORS), hint=st.sampled_from(HINTS), what=st.sampled_from("dal"))
    def settle(self, who: str, hint: Hint, what: str) -> None:
        if hint not in self.known[who]:
            return
        again = [hint] if what == "a" else []
        later = [Later(hint, 3.0)] if what == "l" else []
        self.call(self.queues[who].settle, [hint.message_id], again=again, later=later)
        self.listed[who].discard(hint)
        self.known[who].discard(hint)
        self.put(again, front=True)
        self.later |= {each.hint: self.now_s + each.due_in_s for each in later}
        if what == "d":
            self.done.add(hint)

    @rule(passed_s=st.floats(0, 4))
    def wake(self, passed_s: float) -> None:
        self.now_s += passed_s
        due = {hint for hint, at_s in self.later.items() if at_s <= self.now_s - 1e-5}
        early = {hint for hint, at_s in self.later.items() if at_s > self.now_s + 1e-5}
        woken, next_s = self.call(self.queues["b"].wake, Channel.SMS, limit=100)
        assert due <= set(woken)
        assert not early & set(woken)
        for hint in woken:
            del self.later[hint]
        self.put(woken, front=False)
        assert (
            next_s is None
            if not self.later
            else next_s == pytest.approx(min(self.later.values()) - self.now_s, abs=1e-5)
        )

    @rule(who=st.sampled_from(SUPERVISORS))
    def sweep(self, who: str) -> None:
        seen = self.listed[who] - self.known[who]
        stranded = sorted(seen & self.suspects[who], key=lambda hint: hint.message_id)
        assert self.call(self.queues[who].sweep) == len(stranded)
        self.suspects[who] = seen
        self.listed[who].difference_update(stranded)
        self.put(stranded, front=True)

    @rule(who=st.sampled_from(SUPERVISORS))
    def adopt(self, who: str) -> None:
        held = sorted(self.listed[who], key=lambda hint: hint.message_id)
        assert self.call(self.queues["a"].adopt, who) == len(held)
        self.listed[who].clear()
        self.put(held, front=True)

    @invariant()
    def every_hint_is_where_the_model_says(self) -> None:
        depths, found = self.call(self.look)
        assert depths == {lane: len(hints) for lane, hints in self.lanes.items()}
        for lane, there in found.items():
            held = {h.message_id for listed in self.listed.values() for h in listed if h.lane == lane}
            late = {hint.message_id for hint in self.later if hint.lane == lane}
            queued = {hint.message_id for hint in self.lanes[lane]}
            assert there == held | late | queued
            # Each one pushed is somewhere or was settled: in the lists, or in the memory of one taken for dead.
            known = {h.message_id for hints in self.known.values() for h in hints if h.lane == lane}
            assert {hint.message_id for hint in self.pushed - self.done if hint.lane == lane} <= there | known

    async def look(self) -> tuple[Mapping[Lane, int], dict[Lane, set[str]]]:
        queue = self.queues["a"]
        lanes = [Lane(Channel.SMS, priority) for priority in Priority]
        return await queue.depths(), {lane: await queue.hints(lane) for lane in lanes}


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
