"""The tree keeps its promises: order, restarts, bounds, drain."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from heliograph.actors.kernel.actor import ActorStopped, Inbox, Mailbox, Phase, Reply
from heliograph.actors.kernel.clock import VirtualClock
from heliograph.actors.kernel.supervision import ChildSpec, Exceeded, Group, RestartsExceeded, Supervisor
from heliograph.actors.model.errors import MailboxFull
from heliograph.actors.policy.restart import Intensity

CLOCK = VirtualClock(random.Random(1))
Body = Callable[[Inbox[Any]], Awaitable[None]]


class Acts:
    def __init__(self, body: Body) -> None:
        self._body = body

    async def run(self, inbox: Inbox[Any]) -> None:
        await self._body(inbox)


def child(name: str, body: Body, **more: Any) -> ChildSpec:
    return ChildSpec(mailbox=Mailbox(name, 10, CLOCK), build=lambda: Acts(body), **more)


async def test_children_start_in_order_and_are_drained_in_the_opposite_order(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    def named(name: str) -> Body:
        async def body(inbox: Inbox[Any]) -> None:
            await trio.sleep(1)
            seen.append(f"start {name}")
            async for _ in inbox:
                pass
            seen.append(f"stop {name}")

        return body

    supervisor = Supervisor(
        Group(name="top", children=[child("a", named("a")), Group(name="g", children=[child("b", named("b"))])]), CLOCK
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert seen == ["start a", "start b"]
        await supervisor.drain()
    assert seen == ["start a", "start b", "stop b", "stop a"]


async def test_a_crash_keeps_the_mailbox_and_touches_no_other_child(autojump_clock: MockClock) -> None:
    got: list[str] = []
    lives = 0

    async def fragile(inbox: Inbox[str]) -> None:
        async for message in inbox:
            if message == "poison":
                raise ValueError(message)
            got.append(message)

    async def steady(inbox: Inbox[str]) -> None:
        nonlocal lives
        lives += 1
        async for _ in inbox:
            pass

    weak, strong = child("weak", fragile), child("strong", steady)
    supervisor = Supervisor(Group(name="top", children=[weak, strong]), CLOCK)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        for message in ("one", "poison", "two"):
            await weak.mailbox.ref.tell(message)
        await trio.sleep(1)
        assert got == ["one", "two"]
        assert (weak.mailbox.health().restarts, strong.mailbox.health().restarts, lives) == (1, 0, 1)
        await supervisor.drain()
    assert weak.mailbox.health().phase is Phase.STOPPED


async def test_too_many_crashes_escalate_to_the_parent(autojump_clock: MockClock) -> None:
    async def hopeless(inbox: Inbox[Any]) -> None:
        inbox.started()
        await trio.sleep(0.01)
        raise ValueError

    spec = child("hopeless", hopeless, intensity=Intensity(most=3, window_s=60))
    supervisor = Supervisor(Group(name="top", children=[spec]), CLOCK)
    with pytest.RaisesGroup(RestartsExceeded, flatten_subgroups=True):
        await supervisor.run()
    assert spec.mailbox.health().restarts == 3


async def test_a_child_that_may_rest_never_escalates_and_is_tried_again(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    async def hopeless(inbox: Inbox[Any]) -> None:
        starts.append(trio.current_time())
        inbox.started()
        raise ValueError

    spec = child("hopeless", hopeless, intensity=Intensity(most=2), exceeded=Exceeded.REST)
    supervisor = Supervisor(Group(name="top", children=[spec]), CLOCK)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(100)
        await supervisor.drain()
    assert len(starts) > 6
    assert max(b - a for a, b in pairwise(starts)) == pytest.approx(30)


async def test_an_actor_that_overstays_its_grace_is_cancelled(autojump_clock: MockClock) -> None:
    async def stubborn(inbox: Inbox[Any]) -> None:
        inbox.started()
        await trio.sleep_forever()

    supervisor = Supervisor(Group(name="top", children=[child("stubborn", stubborn, grace_s=3)]), CLOCK)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        began = trio.current_time()
        await supervisor.drain()
    assert trio.current_time() - began == pytest.approx(3)


async def test_an_actor_that_ends_by_itself_is_built_again(autojump_clock: MockClock) -> None:
    lives = 0

    async def short(inbox: Inbox[Any]) -> None:
        nonlocal lives
        lives += 1
        inbox.started()
        if lives > 1:
            async for _ in inbox:
                pass

    supervisor = Supervisor(Group(name="top", children=[child("short", short)]), CLOCK)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(1)
        await supervisor.drain()
    assert lives == 2


async def test_ask_gives_the_answer_the_error_or_the_time_out(autojump_clock: MockClock) -> None:
    mailbox: Mailbox[tuple[str, Reply[int]]] = Mailbox("asked", 1, CLOCK)
    inbox = Inbox(mailbox)

    async def answer() -> None:
        async for order, reply in inbox:
            if order == "good":
                reply.send(7)
            elif order == "bad":
                reply.fail(KeyError("no"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await mailbox.ref.ask(lambda r: ("good", r), timeout_s=1) == 7
        with pytest.raises(KeyError):
            await mailbox.ref.ask(lambda r: ("bad", r), timeout_s=1)
        with pytest.raises(trio.TooSlowError):
            await mailbox.ref.ask(lambda r: ("silent", r), timeout_s=1)
        mailbox.close()


async def test_a_full_mailbox_refuses_and_a_closed_one_says_so() -> None:
    mailbox: Mailbox[int] = Mailbox("small", 1, CLOCK)
    assert mailbox.ref.offer(1)
    assert not mailbox.ref.offer(2)
    with pytest.raises(MailboxFull):
        await mailbox.ref.ask(lambda _: 3, timeout_s=1)
    mailbox.close()
    with pytest.raises(ActorStopped):
        await mailbox.ref.tell(4)
    assert Inbox(mailbox).pile(10) == [1]


async def test_an_idle_actor_gets_on_and_a_stuck_one_does_not(autojump_clock: MockClock) -> None:
    async def stuck(inbox: Inbox[str]) -> None:
        async for _ in inbox:
            await trio.sleep(100)

    idle, busy = child("idle", stuck), child("busy", stuck)
    supervisor = Supervisor(Group(name="top", children=[idle, busy]), CLOCK)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await busy.mailbox.ref.tell("work")
        began = CLOCK.now()
        await trio.sleep(60)
        assert idle.mailbox.health().progress_at == CLOCK.now()
        assert busy.mailbox.health().progress_at == began
        nursery.cancel_scope.cancel()
