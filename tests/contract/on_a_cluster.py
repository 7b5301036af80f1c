"""The contract suites on a Redis Cluster of three nodes: not with every commit, but by `make contract`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from heliograph.actors.kernel.clock import SystemClock
from heliograph.actors.ports.coordination import Coordination
from heliograph.actors.ports.queue import Queue
from heliograph.actors.queue.coordination import open_coordination
from heliograph.actors.queue.redis import open_queue
from heliograph.gateway.cli.embedded import make_secret
from tests.contract.coordination_suite import CoordinationSuite
from tests.contract.queue_suite import QueueSuite
from tests.support.kept import Kept
from tests.support.ports import a_free_port
from tests.support.proxy import Proxy
from tests.support.redis_cluster import SIZE, Cluster, slot_of


@pytest.fixture(scope="module")
def places() -> list[int]:
    """Where clients find the nodes of whichever cluster answers."""
    return [a_free_port() for _ in range(SIZE)]


@pytest.fixture(scope="module")
def clusters(places: list[int]) -> Iterator[list[Cluster]]:
    secret = make_secret()
    both = [Cluster(secret=secret, announced=places) for _ in range(2)]
    yield both
    for each in both:
        each.remove()


class ClusterWorld(Kept):
    """Two clusters, one of which answers, behind an address for each place in it."""

    def __init__(self, nursery: trio.Nursery, clusters: list[Cluster], places: list[int]) -> None:
        super().__init__(nursery)
        self._clusters = list(clusters)
        self._proxies = [Proxy(node.port, place) for node, place in zip(clusters[0].nodes, places, strict=True)]

    async def start(self) -> None:
        for proxy in self._proxies:
            await self._nursery.start(proxy.serve)
        for each in self._clusters:
            each.flush()

    @property
    def url(self) -> str:
        first = self._clusters[0].nodes[0]
        return first.url.replace(f":{first.port}", f":{self._proxies[0].port}")

    async def queue(self, supervisor: str) -> Queue:
        queue = await self.keep(open_queue(self.url, supervisor))
        await queue.open("g1")
        return queue

    async def coordination(self, supervisor: str) -> Coordination:
        return await self.keep(open_coordination(self.url, supervisor, self.boot_s))

    def boot_s(self) -> float:
        return SystemClock().boot_s()

    async def flush(self) -> None:
        self._clusters[0].flush()

    async def replace(self) -> None:
        self._clusters.reverse()
        for proxy, node in zip(self._proxies, self._clusters[0].nodes, strict=True):
            proxy.lead_to(node.port)

    def down(self, is_down: bool) -> None:
        for proxy in self._proxies:
            proxy.cut(is_down)

    def lose_reply(self) -> None:
        self._proxies[slot_of("sms") * SIZE // 16_384].lose_replies = 1


@pytest.fixture
async def world(clusters: list[Cluster], places: list[int]) -> AsyncIterator[ClusterWorld]:
    async with trio.open_nursery() as nursery:
        world = ClusterWorld(nursery, clusters, places)
        await world.start()
        yield world
        await world.close()


class TestQueueOnACluster(QueueSuite):
    """`world` is made above."""


class TestCoordinationOnACluster(CoordinationSuite):
    """`world` is made above."""
