"""Ports for servers that are told theirs before they start.

They lie below those that the kernel gives to whoever asks for any, and are claimed for as long as this process lives:
between its choice and its use, or while its server is down, neither another test's connection nor another worker of
the suite takes one.
"""

from __future__ import annotations

import random
import socket
from typing import Final

from heliograph.gateway.cli.embedded import HOST, claim_name, port_is_free

OURS: Final = range(15_000, 32_000)
_claims: Final[list[socket.socket]] = []


def a_free_port() -> int:
    for port in random.sample(OURS, len(OURS)):
        # By a name in the kernel, which goes with this process however it ends.
        if (claim := claim_name(f"heliograph-test-port-{port}")) is None:
            continue
        if port_is_free(HOST, port):
            _claims.append(claim)
            return port
        claim.close()
    raise OSError(f"no port of {OURS} is free")
