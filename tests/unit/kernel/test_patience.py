"""How long answers are waited for, in virtual time."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from heliograph.actors.kernel.actor import Inbox, Mailbox, Patience, Reply
from heliograph.actors.kernel.clock import VirtualClock


async def test_each_question_has_its_own_time_whatever_is_answered_meanwhile(autojump_clock: MockClock) -> None:
    """Asked half a second apart; every other one is answered half a second later."""
    mailbox: Mailbox[tuple[int, Reply[int]]] = Mailbox("asked", 20, VirtualClock(random.Random(1)))
    ends: dict[int, tuple[float, int | None]] = {}

    async def answer() -> None:
        async for number, reply in Inbox(mailbox):
            if number % 2:
                nursery.start_soon(answer_one, number, reply)

    async def answer_one(number: int, reply: Reply[int]) -> None:
        await trio.sleep(0.5)
        reply.send(number)

    async def ask(number: int) -> None:
        await trio.sleep(number / 2)
        try:
            ends[number] = trio.current_time(), await mailbox.ref.ask(lambda reply: (number, reply), timeout_s=2)
        except trio.TooSlowError:
            ends[number] = trio.current_time() - 2, None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with trio.open_nursery() as asking:
            for number in range(10):
                asking.start_soon(ask, number)
        mailbox.close()
    started_s = ends[1][0] - 0.5
    assert ends == {n: (pytest.approx(started_s + n / 2), n if n % 2 else None) for n in range(10)}


async def test_what_was_answered_is_not_kept(autojump_clock: MockClock) -> None:
    patience = Patience(2.0)
    for _ in range(1000):
        reply: Reply[int] = Reply()
        patience.watch(reply)
        reply.send(1)
    assert len(patience._asked) == 1
    await trio.sleep(3)
    assert not patience._asked
    late: Reply[int] = Reply()
    patience.watch(late)
    with pytest.raises(trio.TooSlowError):
        await late.wait()
