from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.policy.gsm import BASIC, EXTENSION, Encoding, segments


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", Encoding.GSM7, 0, 1),
        ("a" * 160, Encoding.GSM7, 160, 1),
        ("a" * 161, Encoding.GSM7, 161, 2),
        ("a" * 306, Encoding.GSM7, 306, 2),
        ("a" * 307, Encoding.GSM7, 307, 3),
        ("€" * 80, Encoding.GSM7, 160, 1),
        ("ç", Encoding.UCS2, 1, 1),
        ("₹" * 70, Encoding.UCS2, 70, 1),
        ("₹" * 71, Encoding.UCS2, 71, 2),
        ("₹" * 134, Encoding.UCS2, 134, 2),
        ("😀" * 35, Encoding.UCS2, 70, 1),
        ("`", Encoding.UCS2, 1, 1),
    ],
)
def test_segments_are_counted_as_the_network_counts_them(text: str, encoding: Encoding, units: int, parts: int) -> None:
    counted = segments(text)
    assert (counted.encoding, counted.units, counted.parts) == (encoding, units, parts)


def test_a_pair_is_pushed_whole_into_the_next_part() -> None:
    # 152 + escape pair: the pair does not fit into 153, so 306 septets need three parts.
    assert segments("a" * 152 + "€" + "a" * 152).parts == 3
    assert segments("₹" * 66 + "😀" + "₹" * 66).parts == 3


@given(st.text(alphabet=BASIC + EXTENSION + "₹ç😀", max_size=400))
def test_parts_are_never_fewer_than_division_says(text: str) -> None:
    counted = segments(text)
    alone, each = (160, 153) if counted.encoding is Encoding.GSM7 else (70, 67)
    assert (counted.parts == 1) == (counted.units <= alone)
    assert counted.parts >= counted.units / each or counted.parts == 1
    # A part wastes at most one unit.
    assert counted.parts <= max(1, -(-counted.units // (each - 1)))


@given(st.text(max_size=200))
def test_ucs2_units_are_those_of_utf16(text: str) -> None:
    counted = segments(text)
    if counted.encoding is Encoding.UCS2:
        assert counted.units == len(text.encode("utf-16-le", "surrogatepass")) // 2
