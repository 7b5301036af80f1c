"""Recipients as the console shows them until somebody asks for them."""

from __future__ import annotations

import re
from typing import Final

DOTS: Final = "•••"
_ADDRESS: Final = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)*")
_NUMBER: Final = re.compile(r"\+?\d(?:[ -]?\d){6,}")


def masked(to: str) -> str:
    """One recipient.

    >>> masked("asha.rao@shop.in"), masked("+919876543210")
    ('a•••@shop.in', '+91•••10')
    """
    if "@" in to:
        local, _, domain = to.rpartition("@")
        return f"{local[:1] if len(local) > 1 else ''}{DOTS}@{domain}"
    return f"{to[:3]}{DOTS}{to[-2:]}"


def masked_text(text: str) -> str:
    """Whatever looks like a recipient in a text that a provider wrote.

    >>> masked_text("550 <asha@shop.in>: no user; call +91 98765 43210")
    '550 <a•••@shop.in>: no user; call +91•••10'
    """
    return _NUMBER.sub(lambda m: masked(m[0]), _ADDRESS.sub(lambda m: masked(m[0]), text))
