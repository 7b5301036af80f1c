"""Half-open permits in hand: each allows one call, of its epoch, and is ended once, used or not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permit:
    """Its call has to begin before `begin_by_s`, and so ends before the permit runs out."""

    name: str
    epoch: int
    begin_by_s: float

    def serves(self, epoch: int, now_s: float) -> bool:
        return self.epoch == epoch and now_s < self.begin_by_s


class Permits:
    """Those not yet used. Whatever is taken out or given back has to be ended, once."""

    def __init__(self) -> None:
        self._free: list[Permit] = []

    def __len__(self) -> int:
        return len(self._free)

    def add(self, permit: Permit) -> None:
        self._free.append(permit)

    def take(self) -> Permit:
        return self._free.pop()

    def stale(self, epoch: int, now_s: float) -> list[Permit]:
        """Take out those that serve no longer."""
        stale = [permit for permit in self._free if not permit.serves(epoch, now_s)]
        self._free = [permit for permit in self._free if permit.serves(epoch, now_s)]
        return stale
