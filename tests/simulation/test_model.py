"""Every interleaving of the protocol's small model: nothing wrong with all of its guards, something without any one."""

from __future__ import annotations

import pytest

from tests.simulation.model import Guards, explore


def test_no_interleaving_is_wrong_and_from_each_the_message_can_still_be_settled() -> None:
    explored = explore()
    assert explored.wrong is None
    assert explored.stuck is None
    assert explored.states > 50_000


@pytest.mark.parametrize(
    ("without", "what"),
    [
        (Guards(deadline=False), "a call without a right"),
        (Guards(claim=False), "a call without a right"),
        (Guards(patience=False), "two calls at a time"),
        (Guards(mark=False), "known to be taken, and queued"),
    ],
)
def test_each_guard_is_needed(without: Guards, what: str) -> None:
    explored = explore(without)
    assert explored.wrong is not None
    found, way = explored.wrong
    assert found == what
    assert len(way) <= 11
