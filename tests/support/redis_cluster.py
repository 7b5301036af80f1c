"""A Redis Cluster of three nodes without replicas, on this machine."""

from __future__ import annotations

import itertools
from binascii import crc_hqx
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import redis

from heliograph.gateway.cli import embedded
from tests.support.ports import a_free_port
from tests.support.services import RedisServer, wait_until

SIZE: Final = 3
SLOTS: Final = 16_384
BUS: Final = 10_000
"""A node talks to the others at a port so much higher than its own."""


class Cluster:
    """`announced`: clients are sent to these ports instead of the nodes' own."""

    def __init__(self, *, secret: str | None = None, announced: Sequence[int] = ()) -> None:
        secret = secret or embedded.make_secret()
        flags = (
            "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000",
            "--cluster-require-full-coverage", "no",
        )  # fmt: skip
        ports = [_low_port() for _ in range(SIZE)]
        self.nodes = [
            RedisServer(*flags, *_announcing(port, shown), port=port, secret=secret)
            for port, shown in zip(ports, announced or ports, strict=True)
        ]
        bounds = [round(SLOTS * n / SIZE) for n in range(SIZE + 1)]
        for node, (first, beyond) in zip(self.nodes, itertools.pairwise(bounds), strict=True):
            ask(node, "CLUSTER", "ADDSLOTS", *range(first, beyond))
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", 1 + first)
        for node in self.nodes[1:]:
            ask(self.nodes[0], "CLUSTER", "MEET", embedded.HOST, node.port)
        self.is_whole_again()

    def is_whole_again(self) -> None:
        for node in self.nodes:
            wait_until(partial(_is_whole, node), "the cluster is whole")

    @property
    def url(self) -> str:
        """Of the first node."""
        return self.nodes[0].url

    def of(self, tag: str) -> RedisServer:
        """The node that serves the keys of this hash tag when the cluster is new."""
        return self.nodes[slot_of(tag) * SIZE // SLOTS]

    def move(self, tag: str, source: RedisServer, target: RedisServer) -> None:
        """The tag's slot, which has to be empty. One that was imported is the target's for good: its claim is newer."""
        slot, name = slot_of(tag), ask(target, "CLUSTER", "MYID")
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ask(source, "CLUSTER", "MYID"))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", name)
        for node in (target, source, *self.nodes):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", name)

    def flush(self) -> None:
        for node in self.nodes:
            node.flush()

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()


def slot_of(tag: str) -> int:
    return crc_hqx(tag.encode(), 0) % SLOTS


def ask(node: RedisServer, *command: object) -> Any:
    with redis.Redis.from_url(node.url, decode_responses=True) as client:
        return client.execute_command(*command)


def _is_whole(node: RedisServer) -> bool:
    told = ask(node, "CLUSTER", "INFO").split()
    return "cluster_state:ok" in told and f"cluster_known_nodes:{SIZE}" in told


def _announcing(port: int, shown: int) -> tuple[str, ...]:
    return ("--cluster-announce-port", str(shown), "--cluster-announce-bus-port", str(port + BUS))


def _low_port() -> int:
    """That of the cluster's bus has to be one, too."""
    while True:
        port = a_free_port()
        if port + BUS < 65_536 and embedded.port_is_free(embedded.HOST, port + BUS):
            return port
