"""How much a request may be: sizes, and a body that holds no more of it than may be used.

The web framework puts what arrives into the body while a handler is still busy with something else. This body keeps at
most `allowed` bytes; of what is beyond it counts, so that a client that writes everything before it reads still gets
its answer: the rest is thrown away, up to DRAIN_BYTES or DRAIN_S.
"""

from __future__ import annotations

from typing import Final

import trio
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import RequestEntityTooLarge

from heliograph.gateway.problems import Code, Refused

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

MOST_NESTING: Final = 32
MOST_KEY_CHARACTERS: Final = 255
MOST_STREAMS: Final = 100


class BoundedBody(TrioBody):
    """Until a route says otherwise, the largest body of all is allowed: chunks may arrive before it is known. `arrived`
    once all of it did, kept or not."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:  # noqa: ARG002
        super().__init__(expected_content_length, None)
        self._expected = expected_content_length or 0
        self._allowed = BATCH_BYTES
        self._received = 0
        self._ended = trio.Event()
        self.arrived = False
        self.allow(BATCH_BYTES)

    @property
    def too_large(self) -> bool:
        return self._must_raise is not None

    def allow(self, most: int) -> None:
        self._allowed = most
        if max(self._expected, self._received) > most:
            self._overflow()

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > DRAIN_BYTES:
            self._ended.set()
        if data and not self.too_large:
            self._data.extend(data)
            self._has_data.set()
            if self._received > self._allowed:
                self._overflow()

    def set_complete(self) -> None:
        self.arrived = True
        self._ended.set()
        super().set_complete()

    def _overflow(self) -> None:
        self._data.clear()
        self._must_raise = RequestEntityTooLarge()
        super().set_complete()  # wakes whoever reads, and lets it raise

    async def whole(self) -> bytes:
        """All of it. Refused with 413 or 408."""
        started_s = trio.current_time()
        while not self._complete.is_set():
            self._has_data.clear()
            with trio.move_on_at(started_s + PATIENCE_S + self._received / SLOWEST_BYTES_PER_S) as limit:
                await self._has_data.wait()
            if limit.cancelled_caught:
                raise Refused(Code.REQUEST_TIMEOUT, f"the body did not come in time; {self._received} bytes arrived")
        if self.too_large:
            raise Refused(Code.TOO_LARGE, f"a body here is at most {self._allowed / MB:g} MB")
        return bytes(self._data)

    async def drain(self) -> None:
        """Throw away what is still to come, before an answer that does not depend on it."""
        if not self._ended.is_set():
            self._overflow()
            with trio.move_on_after(DRAIN_S):
                await self._ended.wait()


class BoundedRequest(TrioRequest):
    body_class = BoundedBody
    body: BoundedBody
