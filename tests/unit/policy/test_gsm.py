from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.policy.gsm import BASIC, EXTENSION, Encoding, segments

FAMILY = "👩\u200d👩\u200d👧\u200d👦"  # eleven units: four pairs and three joiners
FLAG = "🇮🇳"
KEYCAP = "1\ufe0f\u20e3"


def packed(text: str) -> list[list[bytes]]:
    """The parts themselves, filled as a phone does: each a list of characters that cannot be taken apart.

    Written from the two tables of 3GPP TS 23.038 and from UTF-16, and from nothing in the product but the alphabets.
    """
    if all(character in BASIC + EXTENSION for character in text):
        atoms = [b"\x1b" + b"x" if character in EXTENSION else b"x" for character in text]
        alone, each, unit = 160, 153, 1
    else:
        atoms = [character.encode("utf-16-le", "surrogatepass") for character in text]
        alone, each, unit = 70, 67, 2
    if sum(map(len, atoms)) <= alone * unit:
        return [atoms]
    parts: list[list[bytes]] = [[]]
    for atom in atoms:
        if sum(map(len, parts[-1])) + len(atom) > each * unit:
            parts.append([])
        parts[-1].append(atom)
    return parts


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", Encoding.GSM7, 0, 1),
        ("a" * 160, Encoding.GSM7, 160, 1),
        ("a" * 161, Encoding.GSM7, 161, 2),
        ("a" * 306, Encoding.GSM7, 306, 2),
        ("a" * 307, Encoding.GSM7, 307, 3),
        ("a" * 1530, Encoding.GSM7, 1530, 10),
        ("a" * 1531, Encoding.GSM7, 1531, 11),
        ("€" * 80, Encoding.GSM7, 160, 1),
        ("€" * 81, Encoding.GSM7, 162, 2),
        ("€" * 152, Encoding.GSM7, 304, 2),
        ("€" * 153, Encoding.GSM7, 306, 3),
        ("ç", Encoding.UCS2, 1, 1),
        ("Ç", Encoding.GSM7, 1, 1),
        ("₹" * 70, Encoding.UCS2, 70, 1),
        ("₹" * 71, Encoding.UCS2, 71, 2),
        ("₹" * 134, Encoding.UCS2, 134, 2),
        ("₹" * 670, Encoding.UCS2, 670, 10),
        ("₹" * 671, Encoding.UCS2, 671, 11),
        ("😀" * 35, Encoding.UCS2, 70, 1),
        ("😀" * 36, Encoding.UCS2, 72, 2),
        ("😀" * 67, Encoding.UCS2, 134, 3),
        ("a" * 159 + "₹", Encoding.UCS2, 160, 3),
        ("{" + "a" * 158, Encoding.GSM7, 160, 1),
        ("{" + "a" * 159, Encoding.GSM7, 161, 2),
    ],
)
def test_segments_are_counted_as_the_network_counts_them(text: str, encoding: Encoding, units: int, parts: int) -> None:
    counted = segments(text)
    assert (counted.encoding, counted.units, counted.parts) == (encoding, units, parts)


@pytest.mark.parametrize("character", "`’“”–—…\u00a0₹ç\t\u200f\u200bअمש你")
def test_one_letter_outside_the_alphabet_turns_the_whole_text(character: str) -> None:
    assert segments("a" * 70).encoding is Encoding.GSM7
    counted = segments("a" * 70 + character)
    assert (counted.encoding, counted.units, counted.parts) == (Encoding.UCS2, 71, 2)


@pytest.mark.parametrize("character", EXTENSION)
def test_a_letter_of_the_extension_table_costs_two(character: str) -> None:
    assert segments("a" * 158 + character).parts == 1
    assert segments("a" * 159 + character).parts == 2


def test_a_pair_is_pushed_whole_into_the_next_part() -> None:
    # 152 + escape pair: the pair does not fit into 153, so 306 septets need three parts.
    assert segments("a" * 152 + "€" + "a" * 152).parts == 3
    assert segments("a" * 151 + "€" + "a" * 153).parts == 2
    assert segments("₹" * 66 + "😀" + "₹" * 66).parts == 3
    assert segments("₹" * 65 + "😀" + "₹" * 67).parts == 2


def test_an_emoji_sequence_at_a_parts_edge_is_parted_between_its_characters_and_not_inside_one() -> None:
    assert segments(FAMILY).units == 11
    assert segments("₹" * 59 + FAMILY).parts == 1
    assert segments("₹" * 60 + FAMILY).parts == 2
    # Where the 67th unit is the first half of a pair, part one ends after 66, and 134 units need three parts.
    assert segments("₹" * 60 + FAMILY + "₹" * 63).parts == 3
    assert segments("₹" * 61 + FAMILY + "₹" * 62).parts == 2
    assert segments("₹" * 62 + FAMILY + "₹" * 61).parts == 2
    assert segments("₹" * 66 + FAMILY + "₹" * 57).parts == 3
    assert segments("₹" * 65 + FLAG + "₹" * 65).parts == 2
    assert segments("₹" * 66 + FLAG + "₹" * 64).parts == 3
    assert segments("₹" * 66 + KEYCAP + "₹" * 65).parts == 2, "a keycap has no pair in it"


def test_text_from_right_to_left_counts_its_marks_too() -> None:
    assert segments("مرحبا" * 14).parts == 1
    assert segments("\u200f" + "مرحبا" * 14).parts == 2
    assert segments("שלום 123 \u202bworld\u202c").units == 16


def test_half_a_pair_counts_as_the_unit_that_it_is() -> None:
    for text in ("\ud83d", "\ude00", "\ude00\ud83d", "a\ud83db"):
        assert segments(text).units == len(text)
        assert segments(text).encoding is Encoding.UCS2


@given(st.text(alphabet=BASIC + EXTENSION, max_size=500) | st.text(alphabet="₹a😀\u200d€", max_size=300))
def test_parts_are_those_that_a_phone_would_make(text: str) -> None:
    assert segments(text).parts == len(packed(text))


@given(
    before=st.integers(min_value=130, max_value=160),
    pairs=st.text(alphabet=EXTENSION, min_size=1, max_size=12),
    after=st.integers(min_value=130, max_value=170),
)
def test_parts_are_right_wherever_a_pair_meets_an_edge(before: int, pairs: str, after: int) -> None:
    text = "a" * before + pairs + "a" * after
    assert segments(text).parts == len(packed(text))


@given(
    before=st.integers(min_value=50, max_value=70),
    emoji=st.sampled_from([FAMILY, FLAG, KEYCAP, "😀", "👍🏽", "❤️\u200d🔥"]),
    times=st.integers(min_value=1, max_value=8),
    after=st.integers(min_value=0, max_value=80),
)
def test_parts_are_right_wherever_an_emoji_meets_an_edge(before: int, emoji: str, times: int, after: int) -> None:
    text = "अ" * before + emoji * times + "अ" * after
    assert segments(text).parts == len(packed(text))


@given(st.text(alphabet=BASIC + EXTENSION + "₹ç😀", max_size=400))
def test_parts_are_never_fewer_than_division_says(text: str) -> None:
    counted = segments(text)
    alone, each = (160, 153) if counted.encoding is Encoding.GSM7 else (70, 67)
    assert (counted.parts == 1) == (counted.units <= alone)
    assert counted.parts >= counted.units / each or counted.parts == 1
    # A part wastes at most one unit.
    assert counted.parts <= max(1, -(-counted.units // (each - 1)))


@given(st.text(max_size=200), st.text(max_size=20))
def test_more_text_never_makes_fewer_parts(text: str, more: str) -> None:
    assert segments(text + more).parts >= segments(text).parts


@given(st.text(alphabet=st.characters(), max_size=200))
def test_ucs2_units_are_those_of_utf16(text: str) -> None:
    counted = segments(text)
    if counted.encoding is Encoding.UCS2:
        assert counted.units == len(text.encode("utf-16-le", "surrogatepass")) // 2


def test_the_longest_text_that_can_be_posted_is_counted_at_once() -> None:
    begun = time.perf_counter()
    assert segments("😀" * 500_000).parts > 10_000
    assert time.perf_counter() - begun < 5
