from __future__ import annotations

import pytest
from heliograph.actors.policy.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250ms", 0.25), ("10s", 10), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400), ("1m1m", 120), ("0s", 0)],
)
def test_a_duration_is_a_sum_of_numbers_with_units(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 h", "1y", "1h30", "١s", "1e3s", "9999999999999s", "1..5s"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)
