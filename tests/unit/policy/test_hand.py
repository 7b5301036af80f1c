"""What a provider has in hand: who goes next, at which slot, with whom."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.message import Priority
from heliograph.actors.policy.hand import RANK, Counted, Hand, Held, Slot
from tests.support.builders import NOW, a_message
from tests.support.provider_world import tracked


def held(
    priority: Priority = Priority.NORMAL,
    *,
    cost: int = 1,
    deadline_s: float = 2.0,
    key: object = None,
    retry: bool = False,
) -> Held:
    return Held(
        tracked=tracked(a_message(priority=priority)),
        number=1,
        started_at=NOW,
        deadline_s=deadline_s,
        lapses_s=deadline_s,
        arrived_s=0.0,
        cost=cost,
        batch_key=key,  # type: ignore[arg-type]
        retry=retry,
    )


def slot(opens_s: float = 0.0) -> Slot:
    return Slot(opens_s, opens_s + 0.01)


def a_hand(*each: Held, batch: int = 1, largest: float = 20) -> Hand:
    hand = Hand(batch=batch, largest=largest)
    for one in each:
        hand.add(one)
    return hand


def test_nobody_goes_without_a_slot_or_before_it_opens() -> None:
    hand = a_hand(held())
    assert hand.pick(0.0, urgent_only=False) is None
    hand.grant([slot(1.0)], 1)
    assert hand.pick(0.5, urgent_only=False) is None
    assert hand.next_open_s(0.5) == 1.0
    assert hand.pick(1.0, urgent_only=False) is not None


def test_a_slot_is_used_once_and_lost_when_it_is_past() -> None:
    hand = a_hand(held(), held())
    hand.grant([slot(0.0), slot(1.0)], 1)
    assert hand.pick(0.005, urgent_only=False) is not None
    assert hand.pick(0.005, urgent_only=False) is None
    assert hand.pick(1.5, urgent_only=False) is None
    assert hand.next_open_s(1.5) == inf


def test_only_urgent_ones_go_where_only_they_may() -> None:
    hand = a_hand(held())
    hand.grant([slot(), slot()], 1)
    assert hand.pick(0.0, urgent_only=True) is None
    hand.add(urgent := held(Priority.URGENT))
    assert hand.pick(0.0, urgent_only=True) == ([urgent], slot())


def test_retries_beyond_their_part_go_behind_first_tries_and_before_what_is_less_urgent() -> None:
    hand = a_hand(held(Priority.BULK), *(held(retry=True, deadline_s=1.0) for _ in range(30)))
    for _ in range(10):
        hand.add(held(deadline_s=2.0))
    hand.grant([slot() for _ in range(41)], 1)
    order = [each.retry for _ in range(41) if (picked := hand.pick(0.0, urgent_only=False)) for each in picked[0]]
    assert order == [True] * 20 + [False] * 10 + [True] * 10 + [False]
    hand.add(held(retry=True, deadline_s=1.0))
    hand.add(held(deadline_s=2.0))
    hand.grant([slot()], 1)
    picked = hand.pick(0.0, urgent_only=False)
    assert picked is not None
    assert picked[0][0].retry, "ten first tries have earned one retry its turn"


def test_a_call_may_be_kept_for_what_was_not_tried_before() -> None:
    hand = a_hand(held(Priority.URGENT, retry=True), fresh := held(Priority.BULK))
    hand.grant([slot(), slot()], 1)
    assert hand.pick(0.0, urgent_only=False, fresh_only=True) == ([fresh], slot())
    assert hand.pick(0.0, urgent_only=False, fresh_only=True) is None
    assert hand.pick(0.0, urgent_only=False) is not None


def test_what_no_slot_will_carry_can_be_taken_out_but_for_urgent_ones() -> None:
    urgent, first, second, bulk = held(Priority.URGENT), held(), held(), held(Priority.BULK)
    hand = a_hand(bulk, second, first, urgent)
    hand.grant([slot(), slot()], 1)
    assert hand.surplus(0.0, urgent=False) == [first, bulk]
    assert hand.surplus(0.0, urgent=False) == []
    hand.drop_slots()
    assert [each.priority for each in hand.surplus(0.0, urgent=False)] == [Priority.NORMAL]
    assert hand.surplus(0.0, urgent=True) == [urgent]


def test_those_that_share_a_slot_are_no_surplus() -> None:
    together = [held(key="k") for _ in range(4)]
    hand = a_hand(*together, batch=10)
    hand.grant([slot()], 3)
    assert hand.surplus(0.0, urgent=False) == together[3:]


def test_it_is_told_what_of_a_slot_nobody_uses() -> None:
    told: list[tuple[Counted, int]] = []
    hand = Hand(batch=1, largest=20, unused=lambda counted, recipients: told.append((counted, recipients)))
    hand.add(held(cost=2))
    hand.grant([Slot(0.0, 0.1, counted=(1, 7)), Slot(0.0, 0.2, counted=(1, 8)), Slot(0.3, 0.4, counted=(1, 9))], 5)
    assert hand.pick(0.05, urgent_only=False) is not None
    assert hand.slots(0.25) == 1
    hand.drop_slots()
    assert told == [((1, 7), 3), ((1, 8), 5), ((1, 9), 5)]


def test_a_share_of_the_calls_begins_with_what_is_least_urgent() -> None:
    hand = Hand(batch=1, largest=20, low_share=0.25)
    for priority in [Priority.BULK] * 3 + [Priority.NORMAL] * 4 + [Priority.URGENT] * 9:
        hand.add(held(priority))
    hand.grant([slot() for _ in range(16)], 1)
    went = "".join(picked[0][0].priority[0] for _ in range(16) if (picked := hand.pick(0.0, urgent_only=False)))
    assert went == "uuubuuubuuubnnnn"


def test_it_knows_how_many_are_urgent() -> None:
    assert a_hand(held(), held(Priority.BULK)).urgent == 0
    assert a_hand(held(), held(Priority.URGENT), held(Priority.BULK), held(Priority.URGENT)).urgent == 2


def test_a_small_slot_is_not_wasted_while_a_large_message_waits_for_its_own() -> None:
    large, small = held(Priority.URGENT, cost=5), held(cost=1)
    hand = a_hand(large, small)
    assert hand.wanted(0.0, most=10) == (1, 5)
    hand.grant([slot()], 1)
    assert hand.pick(0.0, urgent_only=False) == ([small], slot())
    hand.grant([slot()], 5)
    assert hand.pick(0.0, urgent_only=False) == ([large], slot())


def test_slots_are_asked_for_what_has_none_yet() -> None:
    hand = a_hand(held(), held(), held())
    assert hand.wanted(0.0, most=10) == (3, 1)
    assert hand.wanted(0.0, most=2) == (2, 1)
    hand.grant([slot()], 1)
    assert hand.wanted(0.0, most=10) == (2, 1)
    assert hand.wanted(0.0, most=0) == (0, 0)


def test_messages_of_one_key_share_a_slot_up_to_the_batch_and_its_cost() -> None:
    hand = a_hand(*(held(key="a") for _ in range(5)), held(key="b"), held(), batch=3)
    assert hand.wanted(0.0, most=1) == (1, 3)
    hand.grant([slot()], 3)
    picked = hand.pick(0.0, urgent_only=False)
    assert picked is not None
    assert [one.batch_key for one in picked[0]] == ["a", "a", "a"]
    assert hand.wanted(0.0, most=1) == (1, 2)
    assert len(hand) == 4


def test_without_a_key_a_message_goes_alone() -> None:
    hand = a_hand(held(), held(), batch=3)
    hand.grant([slot()], 3)
    picked = hand.pick(0.0, urgent_only=False)
    assert picked is not None
    assert len(picked[0]) == 1


def test_what_lapsed_is_taken_out_and_the_rest_stays() -> None:
    late, early = held(deadline_s=2.0), held(deadline_s=1.0)
    hand = a_hand(late, early)
    assert hand.next_lapse_s() == 1.0
    assert hand.lapsed(0.9) == []
    assert hand.lapsed(1.0) == [early]
    assert (hand.next_lapse_s(), len(hand)) == (2.0, 1)


kinds = st.tuples(st.sampled_from(Priority), st.integers(1, 5), st.sampled_from([None, "a", "b"]))


@given(st.lists(kinds, max_size=30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_everything_goes_once_and_no_call_exceeds_its_slot(
    messages: list[tuple[Priority, int, str | None]], batch: int, random: object
) -> None:
    everyone = [held(priority, cost=cost, key=key) for priority, cost, key in messages]
    hand = a_hand(*everyone, batch=batch, largest=8)
    gone: list[Held] = []
    for turn in range(200):
        want, cost = hand.wanted(float(turn), most=random.randint(1, 6))  # type: ignore[attr-defined]
        hand.grant([slot(float(turn))] * want, cost)
        while (picked := hand.pick(float(turn), urgent_only=False)) is not None:
            call, _ = picked
            assert sum(one.cost for one in call) <= 8
            assert len(call) <= batch
            assert len({one.batch_key for one in call}) == 1
            assert len(call) == 1 or call[0].batch_key is not None
            gone += call
        if not len(hand):
            break
    assert sorted(map(id, gone)) == sorted(map(id, everyone))


@given(st.lists(st.sampled_from(Priority), max_size=30))
def test_with_slots_for_all_the_more_urgent_goes_first(priorities: list[Priority]) -> None:
    hand = a_hand(*(held(priority) for priority in priorities))
    hand.grant([slot()] * len(priorities), 1)
    ranks = []
    while (picked := hand.pick(0.0, urgent_only=False)) is not None:
        ranks.append(RANK[picked[0][0].priority])
    assert ranks == sorted(RANK[priority] for priority in priorities)
