"""The queue: who is next. Redis lists, or their twin in memory.

It holds *hints*: ids of messages that wait. A hint may be lost or doubled at any time; the ledger's claim tells.
One queue object belongs to one supervisor and knows what that supervisor has *in hand* (taken, not yet settled).

Rules: no method may be cancelled in flight (adapters shield themselves); nothing is retried silently; `QueueDown`
from any method means that nothing is known; `StaleGeneration` that the lists are not those of the generation
this queue was opened with (Redis was emptied, replaced, or another supervisor renewed it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from heliograph.actors.model.message import Channel, Lane, Priority
from heliograph.actors.model.value import value


@value(frozen=True, slots=True)
class Hint:
    message_id: str
    lane: Lane


@value(frozen=True, slots=True)
class Later:
    hint: Hint
    due_in_s: float


class Queue(Protocol):
    async def server(self) -> str:
        """The Redis server that answers now, and the history of its data: another after a restart or a failover."""

    async def current(self) -> str | None:
        """The generation's name that Redis holds; None after a loss of its data."""

    async def open(self, generation: str, *, over: str | None = None) -> None:
        """Use these lists from now on, and write the generation's name to Redis where it is missing or another.

        With `over` it is written only where Redis still holds that name, StaleGeneration else: a name written once more
        would hide from all others that Redis lost the lists meanwhile.
        """

    async def push(self, hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        """Add hints to their lanes (to the head with `front`) and to the delayed set; ring the doorbells."""

    async def take(
        self, channel: Channel, room: Mapping[Priority, int], *, most: int, bulk_share: float, wait_s: float
    ) -> list[Hint]:
        """Move up to `most` hints in hand, at most `room` of each priority, urgent first.

        Of the takes a share of `bulk_share` (each 20th at 0.05) begins at the lowest lane that is not empty, so that
        bulk is never starved. When there is nothing it waits for the doorbell up to `wait_s`, then answers [].
        """

    async def settle(self, done: Sequence[str], *, again: Sequence[Hint] = (), later: Sequence[Later] = ()) -> None:
        """Drop hints from hand, put `again` at the head of their lanes and `later` in the delayed set, in one call."""

    async def hand_back(self, hints: Sequence[Hint]) -> None:
        """From hand to the head of their lanes, in their order."""

    async def line_up(self, provider: str, hints: Sequence[Hint]) -> None:
        """From hand to the end of the provider's *line*: of those that were looked at, and wait for room there. All
        are of one channel, the provider's. Lines are the cluster's, as lanes are, so that nobody need look through a
        long backlog twice."""

    async def take_lined(
        self, channel: Channel, provider: str, room: Mapping[Priority, int], *, most: int
    ) -> list[Hint]:
        """Move up to `most` hints from the head of a provider's line in hand, at most `room` of each priority, urgent
        first; [] where nobody stands there."""

    async def wake(self, channel: Channel, *, limit: int) -> tuple[list[Hint], float | None]:
        """Move due hints from the delayed set to the tails of their lanes; answers them, and in how many seconds the
        next one is due (None: the set is empty)."""

    async def sweep(self) -> int:
        """Hand back what lies in our processing set but not in hand at two looks in a row, or has been in hand for so
        long that whoever took it must have forgotten it; answers how many."""

    async def adopt(self, supervisor: str) -> int:
        """Move all that a dead supervisor had in hand back to the lanes; answers how many. Many may do it at once."""

    async def depths(self) -> Mapping[Lane, int]:
        """Hints in each lane and its providers' lines, without those in hand or delayed."""

    async def hints(self, lane: Lane) -> set[str]:
        """Every id in the lane, in its lines, in any supervisor's hand, or delayed: for the audit, read in pages."""

    def on_later(self, channel: Channel, told: Callable[[float], None] | None) -> None:
        """Tell of each call of ours that adds to the channel's delayed set: in how many seconds the soonest is due.
        One listener a channel; None ends it. Others' calls are not told of."""

    async def aclose(self) -> None: ...
