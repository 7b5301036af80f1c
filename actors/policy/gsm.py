"""How many SMS a text is: alphabets and segments after 3GPP TS 23.038 and 23.040.

A text whose characters are all in the GSM alphabet costs one septet a character, two for those of the extension
table; one other character turns the whole into UCS-2, counted in UTF-16 units. One message carries 160 septets or 70
units; each part of a longer one 153 or 67. A pair (escape and code, or two surrogates) is never split over two parts,
so dividing undercounts: parts are filled one after the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BASIC: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION: Final = "\f^{}\\[~]|€"

_BASIC: Final = re.compile(f"[{re.escape(BASIC)}]*")
_EXTENDED: Final = re.compile(f"[{re.escape(BASIC + EXTENSION)}]*")
_PAIR_IN_GSM: Final = re.compile(f"[{re.escape(EXTENSION)}]")
_PAIR_IN_UCS2: Final = re.compile("[\U00010000-\U0010ffff]")


class Encoding(StrEnum):
    GSM7 = "gsm-7"
    UCS2 = "ucs-2"


@dataclass(frozen=True, slots=True)
class Segments:
    """`units` are septets or UTF-16 units; `parts` is what is sent, counted and paid for."""

    encoding: Encoding
    units: int
    parts: int


def segments(text: str) -> Segments:
    """
    >>> segments("a" * 161)
    Segments(encoding=<Encoding.GSM7: 'gsm-7'>, units=161, parts=2)
    >>> segments("नमस्ते")
    Segments(encoding=<Encoding.UCS2: 'ucs-2'>, units=6, parts=1)
    """
    if _BASIC.fullmatch(text):
        return Segments(Encoding.GSM7, len(text), _parts(text, None, len(text), 160, 153))
    if _EXTENDED.fullmatch(text):
        units = len(text) + len(_PAIR_IN_GSM.findall(text))
        return Segments(Encoding.GSM7, units, _parts(text, _PAIR_IN_GSM, units, 160, 153))
    units = len(text) + len(_PAIR_IN_UCS2.findall(text))
    pairs = _PAIR_IN_UCS2 if units > len(text) else None
    return Segments(Encoding.UCS2, units, _parts(text, pairs, units, 70, 67))


def _parts(text: str, pairs: re.Pattern[str] | None, units: int, alone: int, each: int) -> int:
    if units <= alone:
        return 1
    if pairs is None:
        return -(-units // each)
    parts, used = 1, 0
    for character in text:
        need = 2 if pairs.match(character) else 1
        if used + need > each:
            parts, used = parts + 1, 0
        used += need
    return parts
