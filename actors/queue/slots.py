"""From slots on a keeper's clock to slots on ours. The same on Redis and in memory.

Only differences of the two clocks are used, never a clock's own word. Where the keeper's clock was set, which the next
answer shows, the slots of that answer mean nothing, and no bucket's level does: each is asked for anew as if it were
lost, so that a clock set forward refills nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heliograph.actors.policy.bucket import Offset, narrow, window
from heliograph.actors.ports.coordination import Slot


@dataclass(frozen=True, slots=True)
class Ask:
    """A request about to be sent. `forget`: the bucket's level is to be taken for lost. `settings`: how often the
    keeper's clock was known to have been set."""

    provider: str
    lateness_s: float
    forget: bool
    settings: int


class SlotClock:
    def __init__(self) -> None:
        self._offsets: dict[str, Offset] = {}
        self._settings = 0
        self._forgotten: dict[str, int] = {}

    def ask(self, provider: str, lateness_s: float) -> Ask:
        return Ask(provider, lateness_s, self._forgotten.get(provider, 0) != self._settings, self._settings)

    def answer(
        self, ask: Ask, keeper: str, slots_us: Sequence[int], *, asked_s: float, now_us: int, answered_s: float
    ) -> tuple[Slot, ...]:
        """What an answer is worth: `keeper` names who read the time `now_us`, between `asked_s` and `answered_s`."""
        offset, was_set = narrow(self._offsets.get(keeper), asked_s, now_us / 1e6, answered_s)
        self._offsets[keeper] = offset
        self._settings += was_set
        if ask.settings != self._settings:
            return ()
        self._forgotten[ask.provider] = ask.settings
        return tuple(Slot(*window(at_us / 1e6, offset, ask.lateness_s)) for at_us in slots_us)
