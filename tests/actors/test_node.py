"""One supervisor's whole tree over stores in memory: it delivers, a provider's crashes stay its own, a drain leaves
nothing behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
import trio

from heliograph.actors.dispatcher import Dispatcher
from heliograph.actors.kernel.actor import Mailbox, Phase
from heliograph.actors.kernel.supervision import RestartsExceeded
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import QueueDown
from heliograph.actors.model.message import Channel, Message, Priority, State, WaitingFor
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.settings import DeliverySettings
from heliograph.actors.ports.queue import Hint
from heliograph.actors.relay import Dirty, NewWork
from heliograph.actors.tree.node import Adapters
from tests.support.builders import a_provider
from tests.support.world import Life, Script, Spell, World


def sms(name: str, **fields: Any) -> ProviderSettings:
    return _provider(Channel.SMS, name, fields)


def email(name: str, **fields: Any) -> ProviderSettings:
    return _provider(Channel.EMAIL, name, fields)


def _provider(channel: Channel, name: str, fields: dict[str, Any]) -> ProviderSettings:
    known: dict[str, Any] = {"name": name, "rate": 100.0, "burst": 20.0}
    return a_provider(channel=channel, **known | fields)


class Breakable(World):
    """The actor of a provider in `broken` crashes as soon as it wants slots; the code of one in `cannot_stand` raises
    when it is asked whether it takes a message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.broken: set[str] = set()
        self.cannot_stand: set[str] = set()
        self.fleet.fitted = self._fitted

    def _fitted(self, adapters: Adapters) -> Adapters:
        coordination: Any = Breaks(adapters.coordination, self.broken)
        couriers: Any = {n: Refuses(c, n, self.cannot_stand) for n, c in adapters.couriers.items()}
        return replace(adapters, coordination=coordination, couriers=couriers)


class Breaks:
    def __init__(self, coordination: Any, broken: set[str]) -> None:
        self._coordination = coordination
        self._broken = broken

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._coordination, name)

        async def call(provider: str, *args: Any, **kwargs: Any) -> Any:
            if provider in self._broken:
                raise ValueError("a bug of ours")
            return await method(provider, *args, **kwargs)

        return call


class Refuses:
    def __init__(self, courier: Any, name: str, cannot_stand: set[str]) -> None:
        self._courier = courier
        self._name = name
        self._cannot_stand = cannot_stand

    def takes(self, message: Message) -> str | None:
        if self._name in self._cannot_stand:
            raise KeyError(message.to)
        taken: str | None = self._courier.takes(message)
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._courier, name)


def restarts(life: Life) -> dict[str, int]:
    return {h.name: h.restarts for h in _health(life) if h.restarts}


def _health(life: Life) -> Sequence[Any]:
    return life.supervisor._group.health()


def states(world: World) -> set[State]:
    return {world.store.state_of(row) for row in world.store.rows.values()}


async def _post(world: World, count: int, **wanted: Any) -> list[Message]:
    messages = [world.message(**wanted) for _ in range(count)]
    assert await world.post(*messages)
    return messages


# ---------------------------------------------------------------------------------------------------- the whole


async def test_the_whole_tree_delivers(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = World(nursery, [sms("x"), email("y", batch=5)])
    life = await world.start()
    for priority in Priority:
        await _post(world, 50, priority=priority)
        await _post(world, 50, priority=priority, to="asha@shop.in")
    assert await world.settle(60) < 10
    await world.end()
    assert world.judge.verdict() == []
    assert states(world) == {State.SENT}
    assert len(world.judge.calls) == 300
    sent = life.node.registry.get_sample_value("heliograph_messages_total", {"channel": "sms", "state": "sent"})
    assert sent == 150
    assert restarts(life) == {}


async def test_what_is_scheduled_is_delivered_at_its_time(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = World(nursery, [sms("x")])
    await world.start()
    await _post(world, 3, send_at=world.clock.now() + timedelta(seconds=60))
    await trio.sleep(59)
    assert world.judge.calls == []
    await trio.sleep(2)
    assert len(world.judge.calls) == 3
    await world.end()
    assert world.judge.verdict() == []


async def test_roles_pick_branches_of_the_tree(autojump_clock: object, nursery: trio.Nursery) -> None:
    world = World(nursery, [sms("x")])
    gateway = await world.start(roles=frozenset({"gateway"}))
    messages = await _post(world, 5)
    await trio.sleep(30)
    assert states(world) == {State.QUEUED}
    delivers = await world.start(roles=frozenset({"delivery"}))
    await world.settle(30)
    assert {call.message.id for call in world.judge.calls} == {message.id for message in messages}
    assert gateway.node.peers.alive == delivers.node.peers.alive == 1, "one shares the rate"
    names = [{h.name for h in _health(life)} for life in (gateway, delivers)]
    assert names[0] == {"heartbeat", "relay", "census", "receipts", "intake", "intake/bulk"}
    assert names[1] >= {"journal", "provider/x", "dispatcher/sms", "scheduler/email", "reaper"}
    assert "intake" not in names[1]
    await world.end()


async def test_work_that_the_relay_has_no_room_to_hear_of_is_looked_for_in_the_ledger(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = World(nursery, [sms("x")])
    node = (await world.start()).node
    await world.end()
    relay: Mailbox[Any] = Mailbox("relay", 2, world.clock)
    node.relay = relay
    hint = Hint("msg_1", world.message().lane)
    for _ in range(3):
        node.announce([hint])
    assert relay.take(2) == [NewWork([hint]), NewWork([hint])]
    node.announce([hint])
    assert relay.take(2) == [NewWork([hint]), Dirty()]
    node.announce([hint])
    assert relay.take(2) == [NewWork([hint])], "said once"


# ------------------------------------------------------------------------------------------------------- crashes


async def test_the_crashes_of_one_provider_touch_no_other_actor_and_cost_no_attempt(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = Breakable(nursery, [sms("x", priority=1), sms("y", priority=2), email("z")])
    life = await world.start()
    await _post(world, 20)
    await trio.sleep(3)
    assert {call.provider for call in world.judge.calls} == {"x"}
    world.broken.add("x")
    with structlog.testing.capture_logs() as logs:
        for _ in range(30):
            await _post(world, 5)
            await _post(world, 5, to="asha@shop.in")
            await trio.sleep(1)
        await world.settle(30)
    assert set(restarts(life)) == {"provider/x"}
    assert {entry["actor"] for entry in logs if entry["event"] == "actor.crashed"} == {"provider/x"}
    assert {call.provider for call in world.judge.calls if call.began_s > 3.5} == {"y", "z"}
    attempts = [attempt for row in world.store.rows.values() for attempt in row.attempts]
    assert {attempt.outcome for attempt in attempts} == {Outcome.ACCEPTED}, "not one that nobody made"
    assert len(attempts) == 320

    world.broken.clear()
    await trio.sleep(35)
    before = len(world.judge.calls)
    await _post(world, 5)
    await trio.sleep(2)
    assert {call.provider for call in world.judge.calls[before:]} == {"x"}
    await world.end()
    assert world.judge.verdict() == []


async def test_the_messages_of_a_crashing_provider_that_is_alone_wait_for_it(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = Breakable(nursery, [sms("x")])
    await world.start()
    await trio.sleep(1)
    world.broken.add("x")
    messages = await _post(world, 100)
    await trio.sleep(60)
    assert states(world) <= {State.QUEUED, State.SENDING}
    world.broken.clear()
    await world.settle(60)
    await world.end()
    assert states(world) == {State.SENT}
    assert [len(world.store.rows[message.id].attempts) for message in messages] == [1] * 100


async def test_a_provider_whose_code_cannot_stand_a_message_harms_nobody(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = Breakable(nursery, [sms("x", priority=1), sms("y", priority=2)])
    life = await world.start()
    world.cannot_stand.add("x")
    with structlog.testing.capture_logs() as logs:
        await _post(world, 10)
        await world.settle(30)
    assert {call.provider for call in world.judge.calls} == {"y"}
    assert restarts(life) == {}
    bugs = [entry for entry in logs if entry["event"] == "provider.bug"]
    assert {(entry["provider"], entry["error"]) for entry in bugs} == {("x", "KeyError")}
    assert "+91" not in str(bugs), "no address in a log"
    await world.end()


async def test_a_desk_without_an_actor_is_waited_for_as_for_a_provider(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = Breakable(nursery, [sms("x"), sms("y")])
    life = await world.start()
    world.broken.add("x")
    await _post(world, 1, providers=("x",))
    await trio.sleep(60)
    assert life.node.blocked()["x"].why is WaitingFor.PROVIDER
    assert "y" not in life.node.blocked()
    await world.end()


async def test_an_actor_that_cannot_be_kept_alive_ends_the_tree(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(self: Dispatcher, inbox: object) -> None:
        await trio.sleep(0.1)
        raise ValueError("a bug of ours")

    monkeypatch.setattr(Dispatcher, "run", run)
    with pytest.RaisesGroup(pytest.RaisesExc(RestartsExceeded), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await World(nursery, [sms("x")]).start()
            await trio.sleep(3600)


# --------------------------------------------------------------------------------------------------------- drain


async def test_a_drain_goes_from_those_who_bring_work_to_those_who_write_down(
    autojump_clock: object, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(nursery, [sms("x"), email("y")])
    life = await world.start()
    told: list[str] = []
    ended: list[str] = []
    close = Mailbox.close

    def noted(self: Mailbox[Any]) -> None:
        told.append(self.name)
        ended.extend(h.name for h in _health(life) if h.phase is Phase.STOPPED and h.name not in ended)
        close(self)

    monkeypatch.setattr(Mailbox, "close", noted)
    await world.drain(life)
    assert told[:2] == ["intake", "intake/bulk"]
    told.remove("intake/bulk")
    ended.remove("intake/bulk")
    assert set(told[1:3]) == {"dead_letters", "operations"}
    assert set(told[3:8]) == {"dispatcher/sms", "dispatcher/email", "scheduler/sms", "scheduler/email", "reaper"}
    assert set(told[8:10]) == {"provider/x", "provider/y"}
    assert told[10:] == ["journal", "jury", "receipts", "census", "relay", "heartbeat"]
    assert set(ended) == set(told) - {"heartbeat"}, "each step waits for the one before"
    assert {h.phase for h in _health(life)} == {Phase.STOPPED}


async def test_after_a_drain_in_mid_traffic_nothing_is_in_hand_or_claimed(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = World(nursery, [sms("x", rate=20.0, burst=5.0)], {"x": Script(latency_s=1.0)})
    life = await world.start()
    messages = await _post(world, 200)
    await trio.sleep(3)
    called = len(world.judge.calls)
    assert 0 < called < 200
    began_s = trio.current_time()
    await world.drain(life)
    assert trio.current_time() - began_s < world.config.delivery.drain_grace_s
    assert world.store.claims == {}
    [lists] = world.redis.data.lists.values()
    assert all(not hand for hand in lists.hands.values())
    assert life.node.board.desk("x").held == 0
    assert await world.ledger.cluster.peers() == []
    outcomes = [attempt.outcome for row in world.store.rows.values() for attempt in row.attempts]
    assert outcomes == [Outcome.ACCEPTED] * len(world.judge.calls), "calls in the air came to their end"
    waiting = {m.id for m in messages if world.store.rows[m.id].standing.state is State.QUEUED}
    hinted = {i for ids in lists.lanes.values() for i in ids} | set(_delayed(lists))
    assert waiting <= hinted

    await world.start()
    await world.settle(60)
    await world.end()
    assert world.judge.verdict() == []
    assert len(world.judge.calls) == 200


def _delayed(lists: Any) -> set[str]:
    return {hint.message_id for later in lists.later.values() for hint in later.due_us}


async def test_a_call_that_outlasts_the_grace_is_written_down_as_unknown_at_once(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    slow = Script(spells=(Spell(Outcome.ACCEPTED, latency_s=3.0),))
    world = World(nursery, [sms("x")], {"x": slow}, delivery=DeliverySettings(drain_grace_s=1.0))
    life = await world.start()
    [message] = await _post(world, 1)
    await trio.sleep(1)
    await world.drain(life)
    row = world.store.rows[message.id]
    assert [attempt.outcome for attempt in row.attempts] == [Outcome.UNKNOWN]
    assert (row.standing.state, row.standing.unsettled_provider) == (State.QUEUED, "x")
    assert world.store.claims == {}


async def test_what_a_drain_could_not_hand_back_since_redis_was_away_others_find(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    world = World(nursery, [sms("x", rate=20.0, burst=5.0)], {"x": Script(latency_s=1.0)})
    life = await world.start()
    await _post(world, 200)
    await trio.sleep(3)
    world.redis.down(True)
    await world.drain(life)
    assert life.left_without_word
    with suppress(QueueDown):
        assert not await life.node.leave()
    world.redis.down(False)
    await world.start()
    await world.settle(120)
    await world.end()
    assert world.judge.verdict() == []
