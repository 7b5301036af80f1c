"""How much a request may be: sizes, and a body that holds no more of it than may be used.

The web framework puts what arrives into the body while a handler is still busy with something else. This body keeps at
most `allowed` bytes; of what is beyond it counts, so that a client that writes everything before it reads still gets
its answer: the rest is thrown away, up to DRAIN_BYTES or DRAIN_S.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import trio
from quart_trio.wrappers import TrioRequest

from heliograph.gateway.problems import Code, Refused, unavailable

MB: Final = 1_000_000
PLAIN_BYTES: Final = 2 * MB
ATTACHED_BYTES: Final = 10 * MB
BATCH_BYTES: Final = 20 * MB
OTHER_BYTES: Final = 2 * MB
DRAIN_BYTES: Final = 64 * MB
DRAIN_S: Final = 10.0

SLOWEST_BYTES_PER_S: Final = 64 * 1024
PATIENCE_S: Final = 10.0
"""A body must come at SLOWEST_BYTES_PER_S, with so much time on top; else 408."""

HELD_BYTES: Final = 256 * MB
"""What the bodies of all requests under way may take together; beyond it 503."""
HELD_RETRY_S: Final = 1

MOST_NESTING: Final = 32
MOST_KEY_CHARACTERS: Final = 255
MOST_STREAMS: Final = 100


class Held:
    """How many bytes the bodies of this process hold."""

    def __init__(self) -> None:
        self.bytes = 0


HELD: Final = Held()


class BoundedBody:
    """What a request's `body` is here: the framework puts chunks in, one of ours takes the whole out.

    Until a route says otherwise, the largest body of all is allowed: chunks may arrive before it is known. It has
    `arrived` once all of it did, kept or not. Whoever puts chunks in waits for `wanted` before the second one: nobody
    can fill our memory before it is known who asks, and what. Whoever made it has to `release` it.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:  # noqa: ARG002
        self.arrived = False
        self._expected = expected_content_length or 0
        self._received = 0
        self._data = bytearray()
        self._kept = True
        self._crowded = False
        self._moved = trio.Event()
        self._ended = trio.Event()
        self._allowed = BATCH_BYTES
        self.wanted = trio.Event()
        if self._expected > BATCH_BYTES:
            self._drop()

    # ---------------------------------------------------------------------------- for the framework

    async def put(self, data: bytes) -> None:
        self.append(data)

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._kept and HELD.bytes + len(data) > HELD_BYTES:
            self._crowded = True
            self._drop()
        if self._kept:
            self._data.extend(data)
            HELD.bytes += len(data)
        if self._received > self._allowed:
            self._drop()
        if self._received > DRAIN_BYTES:
            self._ended.set()
        self._move()

    def set_complete(self) -> None:
        self.arrived = True
        self._ended.set()
        self._move()

    def disconnect(self) -> None:
        """The request's task is about to be cancelled."""

    def clear(self) -> None:
        self.release()

    def __await__(self) -> Generator[Any, None, bytes]:
        return self.whole().__await__()

    # --------------------------------------------------------------------------------------- for us

    def allow(self, most: int) -> None:
        self.wanted.set()
        self._allowed = most
        if max(self._expected, self._received) > most:
            self._drop()

    async def whole(self) -> bytes:
        """All of it. Refused with 413 or 408."""
        self.wanted.set()
        started_s = trio.current_time()
        while self._kept and not self.arrived:
            with trio.move_on_at(started_s + PATIENCE_S + self._received / SLOWEST_BYTES_PER_S) as limit:
                await self._moved.wait()
            if limit.cancelled_caught:
                raise Refused(Code.REQUEST_TIMEOUT, f"the body did not come in time; {self._received} bytes arrived")
        if self._crowded:
            raise Refused.of(unavailable("more bodies come in than there is room for; nothing was done", HELD_RETRY_S))
        if not self._kept:
            raise Refused(Code.TOO_LARGE, f"a body here is at most {self._allowed / MB:g} MB")
        return bytes(self._data)

    async def drain(self) -> None:
        """Throw away what is still to come, before an answer that does not depend on it."""
        self.wanted.set()
        if not self.arrived:
            self._drop()
            with trio.move_on_after(DRAIN_S):
                await self._ended.wait()

    def release(self) -> None:
        self._drop()

    def _drop(self) -> None:
        self._kept = False
        HELD.bytes -= len(self._data)
        self._data = bytearray()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


class BoundedRequest(TrioRequest):
    # The framework names its own class where it only calls these methods (of two versions of it).
    body_class = BoundedBody  # type: ignore[assignment]
    body: BoundedBody  # type: ignore[assignment]
