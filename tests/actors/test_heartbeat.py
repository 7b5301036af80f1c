"""The heartbeat in virtual time: who counts as dead and who does not, what a death sets going, the operators' word."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog
import trio

from heliograph.actors.heartbeat import Heartbeat, Peers
from heliograph.actors.kernel.actor import Inbox, Mailbox
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.message import Channel, Priority
from heliograph.actors.model.provider import Controls, Pause
from heliograph.actors.ports.handover import ControlsChanged
from heliograph.actors.ports.ledger import RESUMED_S
from heliograph.actors.ports.queue import Hint
from tests.support.stage import Before, Stage

ROOM = dict.fromkeys(Priority, 1000)
SEEN_DEAD_S = 6.0
"""A beat before it is seen to stand still, and how long it must."""


class Member:
    """One supervisor's heartbeat, with two providers that only listen. `line` False: its beats get no answer."""

    def __init__(self, stage: Stage, name: str, roles: Sequence[str] = ("delivery",)) -> None:
        self.stage = stage
        self.name = name
        self.roles = roles
        self.line = True
        self.queue = stage.queue(name)
        self.peers = Peers()
        self.providers: dict[str, Mailbox[Any]] = {n: Mailbox(f"provider/{n}", 2, stage.clock) for n in "xy"}
        self.mailbox: Mailbox[Any]
        self.scope: trio.CancelScope

    def build(self) -> Heartbeat:
        async def cut(_: str) -> None:
            if not self.line:
                raise LedgerDown("PostgreSQL gave no answer: the line is cut")

        cluster: Any = Before(self.stage.ledger.cluster, cut)
        return Heartbeat(
            cluster,
            self.stage.ledger.delivery,
            self.queue,
            self.peers,
            {name: mailbox.ref for name, mailbox in self.providers.items()},
            list,
            supervisor=self.name,
            roles=self.roles,
            metrics_url=lambda: f"http://{self.name}/metrics",
            clock=self.stage.clock,
        )

    async def start(self) -> Member:
        await self.queue.open("g")
        self.mailbox, self.scope = await self.stage.start("heartbeat", self.build)
        return self

    def told(self, provider: str) -> list[Controls | None]:
        """The operators' word as it came since the last look."""
        pile = Inbox[ControlsChanged](self.providers[provider]).pile(100)
        return [changed.controls for changed in pile]

    async def takes(self, hints: Sequence[Hint]) -> None:
        await self.queue.push(hints)
        await self.queue.take(Channel.SMS, ROOM, most=len(hints), bulk_share=0, wait_s=0)


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


async def living(stage: Stage) -> list[str]:
    return sorted(peer.supervisor for peer in await stage.ledger.cluster.peers())


def in_lanes(stage: Stage) -> list[str]:
    return [message_id for ids in stage.redis.data.lists["g"].lanes.values() for message_id in ids]


# ------------------------------------------------------------------------------------------------------- deaths


async def test_one_that_lives_is_counted_and_never_taken_for_dead(stage: Stage, autojump_clock: object) -> None:
    a, b = await Member(stage, "a").start(), await Member(stage, "b").start()
    gateway = await Member(stage, "c", roles=("gateway",)).start()
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(600)
    assert [member.peers.alive for member in (a, b, gateway)] == [2, 2, 2], "those that share the rate"
    assert await living(stage) == ["a", "b", "c"]
    assert logs == []
    assert a.peers.beaten_at_s is not None
    assert trio.current_time() - a.peers.beaten_at_s <= 1


async def test_a_death_moves_its_hints_and_pushes_what_it_may_have_owed(stage: Stage, autojump_clock: object) -> None:
    a, b = await Member(stage, "a").start(), await Member(stage, "b").start()
    taken = await stage.accept(2)
    await b.takes(taken)
    owed = await stage.accept(1, by="b")
    others = await stage.accept(1, by="a")
    b.scope.cancel()
    await trio.sleep(4)
    assert await living(stage) == ["a", "b"]
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(SEEN_DEAD_S - 4)
    assert await living(stage) == ["a"]
    assert in_lanes(stage) == [hint.message_id for hint in (*taken, *owed)]
    assert others[0].message_id not in in_lanes(stage)
    assert a.peers.alive == 1
    [entry] = logs
    assert (entry["event"], entry["supervisor"], entry["hints_moved"]) == ("supervisor.dead", "b", 2)


async def test_many_may_see_the_same_death(stage: Stage, autojump_clock: object) -> None:
    members = [await Member(stage, name).start() for name in "abcd"]
    dead = members[-1]
    hints = await stage.accept(3)
    await dead.takes(hints)
    dead.scope.cancel()
    await trio.sleep(SEEN_DEAD_S)
    assert in_lanes(stage) == [hint.message_id for hint in hints], "each once"
    assert await living(stage) == ["a", "b", "c"]


async def test_one_that_was_only_slow_is_back_with_its_next_beat(stage: Stage, autojump_clock: object) -> None:
    a, slow = await Member(stage, "a").start(), await Member(stage, "b").start()
    hints = await stage.accept(1)
    await slow.takes(hints)
    slow.line = False
    await trio.sleep(10)
    assert await living(stage) == ["a"]
    assert in_lanes(stage) == [hint.message_id for hint in hints], "doubled: it has it in hand still"
    slow.line = True
    await trio.sleep(2.5)
    assert await living(stage) == ["a", "b"]
    assert (a.peers.alive, slow.peers.alive) == (2, 2)
    await trio.sleep(60)
    assert await living(stage) == ["a", "b"]


async def test_nobody_is_dead_because_the_ledger_was_away(stage: Stage, autojump_clock: object) -> None:
    """The slower one comes back four seconds after the others."""
    a, b = await Member(stage, "a").start(), await Member(stage, "b").start()
    await trio.sleep(5)
    with structlog.testing.capture_logs() as logs:
        stage.ledger_down = True
        await trio.sleep(60)
        b.line = False
        stage.ledger_down = False
        await trio.sleep(4)
        b.line = True
        await trio.sleep(10)
    assert await living(stage) == ["a", "b"]
    assert a.peers.alive == 2
    assert sorted(entry["event"] for entry in logs) == ["ledger.back", "ledger.back", "ledger.down", "ledger.down"]


async def test_one_that_was_cut_off_itself_takes_nobody_for_dead(stage: Stage, autojump_clock: object) -> None:
    a, b = await Member(stage, "a").start(), await Member(stage, "b").start()
    await trio.sleep(5)
    a.line = False
    await trio.sleep(3)
    b.scope.cancel()
    await trio.sleep(20)
    a.line = True
    await trio.sleep(4)
    assert await living(stage) == ["a", "b"], "it has only looked for four seconds"
    await trio.sleep(SEEN_DEAD_S - 4)
    assert await living(stage) == ["a"]


@pytest.mark.parametrize("away", ["redis", "touched_by", "leave"])
async def test_a_burial_that_was_cut_short_is_done_again(away: str, stage: Stage, autojump_clock: object) -> None:
    _, b = await Member(stage, "a").start(), await Member(stage, "b").start()
    hints = await stage.accept(1)
    await b.takes(hints)
    owed = await stage.accept(1, by="b")
    b.scope.cancel()
    match away:
        case "redis":
            stage.redis.down(True)
        case "touched_by":
            stage.lost_calls.add("delivery.touched_by")
        case _:
            stage.lost_calls.add("cluster.leave")
    await trio.sleep(SEEN_DEAD_S)
    if away == "redis":
        assert await living(stage) == ["a", "b"], "its hints are not moved yet"
        stage.redis.down(False)
    await trio.sleep(2)
    assert await living(stage) == ["a"]
    assert set(in_lanes(stage)) == {hint.message_id for hint in (*hints, *owed)}


async def test_what_a_dead_one_owed_outlives_the_death_of_the_one_that_buries_it(
    stage: Stage, autojump_clock: object
) -> None:
    """The dead one counts as buried once the lists have what it owed, not when somebody has that in memory."""
    a, b = await Member(stage, "a").start(), await Member(stage, "b").start()
    owed = await stage.accept(1, by="b")

    async def stuck(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    a.queue.push = stuck  # type: ignore[method-assign]
    b.scope.cancel()
    await trio.sleep(SEEN_DEAD_S)
    a.scope.cancel()
    await Member(stage, "c").start()
    await trio.sleep(SEEN_DEAD_S)
    assert await living(stage) == ["c"]
    assert in_lanes(stage) == [hint.message_id for hint in owed]


async def test_one_that_has_drained_is_not_buried(stage: Stage, autojump_clock: object) -> None:
    await Member(stage, "a").start()
    b = await Member(stage, "b").start()
    b.mailbox.close()
    await stage.ledger.cluster.leave("b")
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(20)
    assert logs == []
    assert await living(stage) == ["a"]


async def test_it_does_not_keep_others_from_starting_while_the_ledger_is_away(
    stage: Stage, autojump_clock: object
) -> None:
    stage.ledger_down = True
    with trio.fail_after(1):
        a = await Member(stage, "a").start()
    await trio.sleep(10)
    assert a.peers.beaten_at_s is None
    stage.ledger_down = False
    await trio.sleep(1.5)
    [peer] = await stage.ledger.cluster.peers()
    assert (peer.roles, peer.metrics_url) == (("delivery",), "http://a/metrics")


async def test_told_to_finish_it_ends_at_once(stage: Stage, autojump_clock: object) -> None:
    a = await Member(stage, "a").start()
    await trio.sleep(5.5)
    a.mailbox.close()
    await trio.sleep(0.01)
    assert stage.living == set()


# --------------------------------------------------------------------------------------------- the operators' word


def pause(stage: Stage, for_s: float) -> Pause:
    return Pause(until=stage.clock.now() + timedelta(seconds=for_s), reason="maintenance")


async def test_what_operators_say_reaches_every_supervisor_within_a_beat_and_runs_out(
    stage: Stage, autojump_clock: object
) -> None:
    members = [await Member(stage, name).start() for name in "ab"]
    await trio.sleep(0.5)
    for member in members:
        assert [member.told("x"), member.told("y")] == [[None], [None]]
    said = pause(stage, 30)
    await stage.ledger.cluster.pause("x", said)
    await trio.sleep(1.01)
    for member in members:
        assert [member.told("x"), member.told("y")] == [[Controls(provider="x", pause=said)], []]
    await trio.sleep(28)
    assert [member.told("x") for member in members] == [[], []], "once"
    await trio.sleep(3)
    assert [member.told("x") for member in members] == [[None], [None]]


async def test_a_changed_word_replaces_the_one_before(stage: Stage, autojump_clock: object) -> None:
    a = await Member(stage, "a").start()
    await stage.ledger.cluster.pause("x", pause(stage, 30))
    await trio.sleep(1.5)
    a.told("x")
    longer = pause(stage, 60)
    await stage.ledger.cluster.pause("x", longer)
    await trio.sleep(1.5)
    assert a.told("x") == [Controls(provider="x", pause=longer)]
    await stage.ledger.cluster.resume("x")
    resumed_at = stage.clock.now()
    await trio.sleep(1.5)
    assert a.told("x") == [Controls(provider="x", resumed_at=resumed_at)]
    await trio.sleep(RESUMED_S)
    assert a.told("x") == [None]


async def test_a_word_that_finds_a_full_mailbox_is_brought_again(stage: Stage, autojump_clock: object) -> None:
    a = await Member(stage, "a").start()
    await trio.sleep(0.5)
    while a.providers["x"].ref.offer(ControlsChanged(None)):
        pass
    said = pause(stage, 30)
    await stage.ledger.cluster.pause("x", said)
    await trio.sleep(5)
    a.told("x")
    await trio.sleep(1.5)
    assert a.told("x") == [Controls(provider="x", pause=said)]


async def test_a_word_that_was_taken_back_while_the_heartbeat_was_away_is_taken_back_by_the_next_one(
    stage: Stage, autojump_clock: object
) -> None:
    a = await Member(stage, "a").start()
    await stage.ledger.cluster.pause("x", pause(stage, 3600))
    await trio.sleep(1.5)
    a.told("x")
    a.scope.cancel()  # as by a crash
    await stage.ledger.cluster.resume("x")
    resumed_at = stage.clock.now()
    await a.start()
    await trio.sleep(0.5)
    assert a.told("x") == [Controls(provider="x", resumed_at=resumed_at)]
