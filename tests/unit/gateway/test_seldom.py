"""What strangers can cause is told of at most every so often, and counted in between."""

from __future__ import annotations

import trio

from heliograph.gateway.seldom import Seldom


async def test_it_tells_at_once_then_seldom_and_how_many_it_kept_back(autojump_clock: object) -> None:
    seldom = Seldom(every_s=10.0)
    assert [seldom.count("a") for _ in range(4)] == [1, None, None, None]
    assert seldom.count("b") == 1
    await trio.sleep(9.9)
    assert seldom.count("a") is None
    await trio.sleep(0.2)
    assert seldom.count("a") == 5
    await trio.sleep(60.0)
    assert seldom.count("a") == 1
