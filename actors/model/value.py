"""`@value(frozen=True, slots=True)`: what nobody may change, at the price of what anybody could.

To a type checker it is `dataclasses.dataclass`, so an assignment to a field is an error wherever it is written. When
the program runs, nothing stands in an assignment's way: a guard on each field makes a value of eighteen fields three
times as dear to make, and several such are made for each message. It is for the values on a message's way; all others
are frozen dataclasses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen, **options):
        """Equal and hashed by its fields, as a frozen one is."""
        return dataclass(unsafe_hash=frozen, **options)
