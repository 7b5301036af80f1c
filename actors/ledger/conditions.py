"""What a list asks of its rows: conditions that must all hold, and their parameters in order."""

from __future__ import annotations

from typing import LiteralString


class Conditions:
    """`sql` continues a WHERE that has something in it already."""

    def __init__(self) -> None:
        self.sql: LiteralString = ""
        self.params: list[object] = []

    def also(self, condition: LiteralString, *values: object) -> None:
        self.sql += f" AND {condition}"
        self.params.extend(values)
