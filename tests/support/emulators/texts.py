"""SMS alphabets, spelt out here a second time: an emulator that used the product's own would agree with its errors."""

from __future__ import annotations

from typing import Final

GSM: Final = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
DOUBLE: Final = set("^{}\\[~]|€\f")


def is_gsm(text: str) -> bool:
    return set(text) <= GSM | DOUBLE


def parts(text: str, *, unicode: bool) -> int:
    """Rough at the borders, which is enough to refuse what is far too long."""
    doubled = sum(c > "\uffff" if unicode else c in DOUBLE for c in text)
    units = len(text) + doubled
    alone, each = (70, 67) if unicode else (160, 153)
    return 1 if units <= alone else -(-units // each)
