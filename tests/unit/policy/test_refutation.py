"""When a provider's rejections speak against it."""

from __future__ import annotations

import pytest

from heliograph.actors.policy.refutation import LEAST, MOST_KEPT, WINDOW_S, Evidence, Refutations, Ruling, rule
from tests.support.builders import a_message


@pytest.mark.parametrize(
    ("answered", "refuted", "others", "ruling"),
    [
        (20, 20, True, Ruling.PAUSE),
        (40, 20, True, Ruling.PAUSE),
        (41, 20, True, Ruling.NONE),
        (19, 19, True, Ruling.NONE),
        (20, 20, False, Ruling.WARN),
        (0, 0, True, Ruling.NONE),
    ],
)
def test_twenty_of_them_and_half_of_the_answers_are_a_verdict(
    answered: int, refuted: int, others: bool, ruling: Ruling
) -> None:
    assert rule(Evidence(answered, refuted), others=others) is ruling


def test_they_count_for_a_minute() -> None:
    refuted = Refutations()
    refuted.add(a_message(), 100.0)
    refuted.add(a_message(), 130.0)
    assert [refuted.count(at) for at in (130.0, 100.0 + WINDOW_S, 130.0 + WINDOW_S)] == [2, 1, 0]
    assert refuted.messages == ()


def test_all_are_counted_and_only_the_latest_messages_kept() -> None:
    refuted = Refutations()
    for _ in range(MOST_KEPT + LEAST):
        refuted.add(a_message(), 1.0)
    assert (refuted.count(1.0), len(refuted.messages)) == (MOST_KEPT + LEAST, MOST_KEPT)
    refuted.clear()
    assert refuted.count(1.0) == 0
