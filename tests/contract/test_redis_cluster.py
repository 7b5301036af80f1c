"""On a Redis Cluster: each hash tag on its own node, found and followed. The whole suites: on_a_cluster.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from heliograph.actors.kernel.clock import SystemClock
from heliograph.actors.model.errors import QueueDown, StaleGeneration
from heliograph.actors.model.message import Channel, Lane, Priority
from heliograph.actors.ports.queue import Later, Queue
from heliograph.actors.queue.coordination import open_coordination
from heliograph.actors.queue.link import open_links
from heliograph.actors.queue.redis import open_queue
from tests.contract.coordination_suite import ask as reserve
from tests.contract.coordination_suite import filled
from tests.contract.queue_suite import BULK, NORMAL, URGENT, hints, ids, take
from tests.support.redis_cluster import Cluster, ask

PROVIDERS = ("p", "b", "email")
"""Their keys are on three nodes."""
MAIL = Lane(Channel.EMAIL, Priority.NORMAL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
async def queue(cluster: Cluster) -> AsyncIterator[Queue]:
    cluster.flush()
    async with open_queue(cluster.url, "a") as queue:
        await queue.open("g1")
        yield queue


def test_the_tags_of_these_tests_are_on_different_nodes(cluster: Cluster) -> None:
    assert cluster.of("sms") is not cluster.of("email")
    assert len({cluster.of(name).port for name in PROVIDERS}) == 3
    assert cluster.of("b") is cluster.nodes[0], "the node of the URL has none of the queue's lists"


async def test_each_channel_s_hints_are_on_the_node_of_its_tag(cluster: Cluster, queue: Queue) -> None:
    await queue.push([*hints(BULK, 1), *hints(URGENT, 2), *hints(MAIL, 3)], later=[Later(hints(NORMAL, 4)[0], 100.0)])
    assert await queue.depths() == {lane: int(lane in (BULK, URGENT, MAIL)) for lane in await queue.depths()}
    assert ask(cluster.of("email"), "LRANGE", "heliograph:g1:{email}:lane:normal", 0, -1) == ["msg_00003"]
    assert ask(cluster.of("sms"), "ZCARD", "heliograph:g1:{sms}:later") == 1
    assert ask(cluster.nodes[0], "DBSIZE") == 0
    assert await take(queue) == [2, 1]
    room = dict.fromkeys(Priority, 9)
    assert ids(await queue.take(Channel.EMAIL, room, most=9, bulk_share=0.0, wait_s=0.0)) == [3]
    await queue.line_up("p", hints(BULK, 1))
    await queue.settle(["msg_00002", "msg_00003"])
    assert ids(await queue.take_lined(Channel.SMS, "p", room, most=9)) == [1]


async def test_who_waits_is_woken_through_its_own_node(queue: Queue) -> None:
    found: list[int] = []

    async def wait() -> None:
        found.extend(await take(queue, wait_s=20.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.05)
        await queue.push(hints(NORMAL, 7))
    assert found == [7]


async def test_slots_come_from_each_provider_s_node(cluster: Cluster) -> None:
    cluster.flush()
    boot_s = SystemClock().boot_s
    async with open_coordination(cluster.url, "a", boot_s) as coordination:
        for name in PROVIDERS:
            await filled(coordination, boot_s, name)
            slots = (await reserve(coordination, name=name)).slots
            assert all(slot.opens_s < boot_s() + 1.0 for slot in slots)
            [bucket] = ask(cluster.of(name), "KEYS", "heliograph:bucket:*")
            assert f"{{{name}}}" in bucket


async def test_a_slot_that_moves_is_followed_and_its_lists_are_another_server_s(cluster: Cluster, queue: Queue) -> None:
    await queue.push(hints(NORMAL, 1))
    before = await queue.server()
    home, other = cluster.of("sms"), cluster.of("b")
    home.flush()
    cluster.move("sms", home, other)
    try:
        with pytest.raises(StaleGeneration):
            await queue.push(hints(NORMAL, 2))
        assert await queue.server() != before
        await queue.open("g2")
        await queue.push(hints(NORMAL, 1, 2))
        assert ask(other, "LLEN", "heliograph:g2:{sms}:lane:normal") == 2
        assert await take(queue) == [1, 2]
    finally:
        other.flush()
        cluster.move("sms", other, home)


async def test_any_node_shows_the_way_when_that_of_the_url_is_away(cluster: Cluster) -> None:
    first, tag = cluster.nodes[0], "sms"
    async with open_links(cluster.url, "test", trio.current_time) as link_to:
        await link_to(tag).server()
        first.stop()
        try:
            late = link_to(tag)
            with pytest.raises(QueueDown, match="refused"):
                await late.server()
            assert await late.server() == await link_to(tag).server()
            with pytest.raises(QueueDown):
                await link_to("b").server()
        finally:
            first.start()
            cluster.is_whole_again()
