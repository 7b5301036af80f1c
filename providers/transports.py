"""The configured way to call a provider over HTTP."""

from __future__ import annotations

from typing import assert_never

from heliograph.actors.model.provider import HttpClient
from heliograph.providers.lines import LineTransport
from heliograph.providers.wire import MIB, Base, Transport


def connected(client: HttpClient, base: Base, *, timeout_s: float, most_bytes: int = MIB) -> Transport:
    """No connection is made before the first call."""
    match client:
        case HttpClient.FAST:
            return LineTransport(base, timeout_s=timeout_s, most_bytes=most_bytes)
        case HttpClient.HTTPX:
            from heliograph.providers.pooled import PooledTransport  # httpx takes a third of a second to load

            return PooledTransport(base, timeout_s=timeout_s, most_bytes=most_bytes)
        case never:
            assert_never(never)
