"""Fair shares of room and of turns, as laws."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.policy.shares import Refusal, Room, Ticket, Turns


def fill(room: Room, key: str, size: int = 1) -> Refusal:
    while (refusal := room.enter(key, size)) is None:
        pass
    return refusal


def test_one_that_floods_gets_half_and_is_told_that_it_is_the_one() -> None:
    room = Room(100)
    assert fill(room, "flood") is Refusal.GREEDY
    assert room.held_by("flood") == 50
    assert room.enter("other", 1) is None


def test_more_that_flood_share_what_there_is_and_leave_as_much_for_another() -> None:
    room = Room(100)
    for _ in range(100):
        for key in ("a", "b", "c"):
            room.enter(key, 1)
    assert [room.held_by(key) for key in ("a", "b", "c")] == [25, 25, 25]
    assert room.enter("new", 20) is None


def test_when_there_is_no_room_for_anybody_it_is_nobody_s_fault() -> None:
    room = Room(10)
    for n in range(10):
        assert room.enter(f"key-{n}", 1) is None
    assert room.enter("late", 1) is Refusal.FULL
    room.leave("key-3", 1)
    assert room.enter("late", 1) is None


def test_what_is_larger_than_the_room_has_it_to_itself() -> None:
    room = Room(10)
    assert room.enter("a", 25) is None
    assert room.enter("b", 1) is Refusal.FULL
    room.leave("a", 25)
    assert room.enter("b", 1) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.booleans()), max_size=100))
def test_what_is_held_never_passes_the_room_and_leaves_nothing_behind(moves: list[tuple[str, int, bool]]) -> None:
    room, inside = Room(100), defaultdict[str, deque[int]](deque)
    for key, size, leaves in moves:
        if leaves and inside[key]:
            room.leave(key, inside[key].popleft())
        elif room.enter(key, size) is None:
            inside[key].append(size)
        assert room.held == sum(map(sum, inside.values())) <= 100
    for key, sizes in inside.items():
        for size in sizes:
            room.leave(key, size)
    assert room.held == 0
    assert room.enter("new", 100) is None


class Desk:
    def __init__(self, capacity: int) -> None:
        self.turns = Turns(capacity)
        self.begun: list[Ticket] = []

    def ask(self, key: str, cost: int = 1) -> Ticket:
        ticket = Ticket(key, cost, lambda: self.begun.append(ticket))
        self.turns.ask(ticket)
        return ticket

    def serve(self) -> None:
        """Each that has begun is done, in order."""
        for ticket in self.begun:
            self.turns.leave(ticket)


def test_who_asks_for_little_waits_for_what_is_at_work_and_not_for_what_another_has_piled_up() -> None:
    desk = Desk(4)
    flood = [desk.ask("flood") for _ in range(1000)]
    mine = [desk.ask("mine") for _ in range(3)]
    assert [ticket.started for ticket in mine] == [True, False, False]
    for ticket in flood[:4]:
        desk.turns.leave(ticket)
    assert [ticket.started for ticket in mine][:2] == [True, True]
    for ticket in flood[4:6]:
        desk.turns.leave(ticket)
    assert mine[2].started
    assert sum(ticket.started for ticket in flood) <= 10


def test_many_keys_at_once_do_not_pass_twice_the_room() -> None:
    desk = Desk(10)
    tickets = [desk.ask(f"key {n}", 3) for n in range(50)]
    assert sum(ticket.cost for ticket in tickets if ticket.started) == 9 + 9
    desk.serve()
    assert all(ticket.started for ticket in tickets)


def test_costs_are_shared_and_not_numbers() -> None:
    desk = Desk(1)
    for _ in range(200):
        desk.ask("large", 10)
        desk.ask("small", 1)
    served: Counter[str] = Counter()
    for n in range(100):
        served[desk.begun[n].key] += desk.begun[n].cost
        desk.turns.leave(desk.begun[n])
    assert abs(served["large"] - served["small"]) <= 11


def test_what_is_larger_than_the_desk_is_not_starved_by_keys_that_are_new() -> None:
    desk = Desk(10)
    desk.ask("a", 5)
    large = desk.ask("a", 50)
    served = 0
    for n in range(1000):
        desk.ask(f"new {n}", 4)
        if n > 5:
            desk.turns.leave(desk.begun[served])
            served += 1
        if large.started:
            break
    assert large.started
    assert sum(ticket.cost for ticket in desk.begun if not ticket.gone) <= 20


def test_who_waits_no_longer_keeps_nobody_waiting() -> None:
    desk = Desk(1)
    first, second, third = desk.ask("a"), desk.ask("a"), desk.ask("a")
    desk.turns.leave(second)
    desk.turns.leave(second)
    desk.turns.leave(first)
    assert (second.started, third.started) == (False, True)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 8)), min_size=1, max_size=80), st.integers(1, 12))
def test_everyone_has_a_turn_once_and_a_key_s_own_in_their_order(asks: list[tuple[str, int]], capacity: int) -> None:
    desk = Desk(capacity)
    tickets = [desk.ask(key, cost) for key, cost in asks]
    desk.serve()
    assert Counter(map(id, desk.begun)) == Counter(map(id, tickets))
    for key in "abcd":
        assert [t for t in desk.begun if t.key == key] == [t for t in tickets if t.key == key]
