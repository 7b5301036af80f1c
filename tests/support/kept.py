"""Adapters that a test opens in the midst of it, and that close together at its end."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio
import trio.testing

T = TypeVar("T")


class Kept:
    """Adapters opened through `keep` live in tasks of their own until `close`, which ends the whole nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._over = trio.Event()

    async def keep(self, opening: AbstractAsyncContextManager[T]) -> T:
        async def live(task_status: trio.TaskStatus[T]) -> None:
            async with opening as opened:
                task_status.started(opened)
                await self._over.wait()

        return await self._nursery.start(live)  # type: ignore[no-any-return]

    async def close(self) -> None:
        self._over.set()
        await trio.testing.wait_all_tasks_blocked()
        self._nursery.cancel_scope.cancel()
