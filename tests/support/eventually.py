"""Waiting for what another process, or another task, will bring about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_s: float = 10.0) -> None:
    """Ask again and again until it is so. trio.TooSlowError when it is not in time."""
    with trio.fail_after(within_s):
        while not await condition():  # noqa: ASYNC110  # nothing tells: the answer is somewhere else
            await trio.sleep(0.01)
