"""Whole supervisors in virtual time under drawn load, outages and faults: the promises hold in every story.

`SIMULATED=300 pytest tests/simulation` searches further than a commit does, and another way each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, given, note, settings

from heliograph.actors.model.attempt import Outcome
from tests.simulation.stories import Played, Story, stories, tell

SEARCHED = "SIMULATED" in os.environ
look = settings(
    max_examples=int(os.environ.get("SIMULATED", "25")),
    derandomize=not SEARCHED,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if SEARCHED else [])],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def told(story: Story) -> Played:
    note(f"{story}")
    played = tell(story)
    assert played.world.judge.verdict() == []
    assert played.crashes == []
    return played


@look
@given(stories(faulty=False))
def test_the_promises_hold_under_load_and_outages_of_providers(story: Story) -> None:
    judge = told(story).world.judge
    unanswered = sum(1 for call in judge.calls if call.answer is None or call.answer.outcome is Outcome.UNKNOWN)
    assert judge.duplicates <= unanswered


@look
@given(stories(faulty=True))
def test_the_promises_hold_whatever_breaks(story: Story) -> None:
    told(story)
