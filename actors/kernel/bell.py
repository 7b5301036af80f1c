"""A bell that one task listens to: it sleeps until somebody rings, or until a time it knows of."""

from __future__ import annotations

import trio


class Bell:
    """Rung before it is listened to, it rings at once; rung many times, it rings once."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, at_most_s: float) -> None:
        with trio.move_on_after(max(0.0, at_most_s)):
            await self._event.wait()
        self._event = trio.Event()
