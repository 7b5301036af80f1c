"""The coordination on Redis: a provider's bucket, its pause, and its breaker's record.

Keys, all of one provider under one hash tag:

    heliograph:breaker:{name}            hash: epoch, state, since, until, openings, successes, failures
    heliograph:permits:{name}            half-open permits of that epoch, by the time they run out
    heliograph:pause:{name}              there while nobody gets a slot
    heliograph:bucket:{name}:<run_id>    when the bucket will have leaked empty, microseconds of Redis' clock

The bucket's key names the server's run: one that was started on an older file finds no bucket at all, and a missing
bucket is an empty one, where an old one would let calls through that were made already.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import ceil
from typing import Final

from heliograph.actors.model.provider import BreakerState
from heliograph.actors.policy.bucket import HORIZON_S, BucketShape, check_reserve, next_in
from heliograph.actors.ports.coordination import (
    NO_RECORD,
    BreakerRecord,
    Reservation,
    Verdict,
    blocked_for,
)
from heliograph.actors.queue.link import Exchange, Link, Replaced, Script, open_links
from heliograph.actors.queue.slots import SlotClock

RESERVE: Final = Script.load("breaker", "reserve")
RECORD: Final = Script.load("breaker", "record")
CHANGE: Final = Script.load("breaker", "change")
PERMIT: Final = Script.load("breaker", "permit")
CLOSE_PERMIT: Final = Script.load("breaker", "close_permit")
PAUSE: Final = Script.load("breaker", "pause")


def _keys(provider: str) -> list[str]:
    return [f"heliograph:{kind}:{{{provider}}}" for kind in ("breaker", "permits", "pause")]


class RedisCoordination:
    """`ports.coordination.Coordination`. Made by `open_coordination`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._slots = SlotClock()
        self._run_id: str | None = None

    async def reserve(
        self, provider: str, shape: BucketShape, *, want: int, cost: float, horizon_s: float
    ) -> Reservation:
        horizon_us = horizon_s * 1e6
        check_reserve(shape, cost=cost, horizon_us=horizon_us)
        ask = self._slots.ask(provider, shape.lateness_s)
        numbers = [shape.interval_s * 1e6, shape.burst, want, horizon_us, cost, HORIZON_S * 1e6, int(ask.forget)]
        exchange = await self._reserve(provider, numbers)
        [(word, now_us, pause_ms, next_us, slots_us)] = exchange.replies
        record, paused_for_s = _parse(word, now_us, pause_ms)
        self._run_id = exchange.run_id
        slots = self._slots.answer(
            ask,
            exchange.run_id,
            [int(at_us) for at_us in slots_us.split()],
            asked_s=exchange.asked_s,
            now_us=int(now_us),
            answered_s=exchange.answered_s,
        )
        blocked_s = blocked_for(record, paused_for_s)
        return Reservation(
            slots=slots,
            next_in_s=next_in(int(next_us), int(now_us), horizon_s) if blocked_s is None else blocked_s,
            record=record,
            paused_for_s=paused_for_s,
        )

    async def _reserve(self, provider: str, numbers: Sequence[float]) -> Exchange:
        """The bucket's key depends on who answers. Where that is another server than before, nothing was sent to it."""
        while True:
            run_id = self._run_id or await self._link.server()
            keys = [*_keys(provider), f"heliograph:bucket:{{{provider}}}:{run_id}"]
            try:
                return await self._link.run_timed(RESERVE, keys, [repr(n) for n in numbers], on=run_id)
            except Replaced:
                self._run_id = None

    async def record(self, provider: str) -> tuple[BreakerRecord | None, float]:
        return _parse(*await self._link.run(RECORD, _keys(provider), []))

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        arguments: list[str | int] = [
            expected_epoch, record.epoch, record.state, _us(record.since_s), _us(record.until_in_s), record.openings,
        ]  # fmt: skip
        return _parse(*await self._link.run(CHANGE, _keys(provider), arguments))[0] or NO_RECORD

    async def permit(self, provider: str, *, epoch: int, most: int, ttl_s: float) -> str | None:
        permit = secrets.token_hex(8)
        given = await self._link.run(PERMIT, _keys(provider), [epoch, most, _us(ttl_s), permit])
        return permit if given else None

    async def close_permit(self, provider: str, *, epoch: int, permit: str, verdict: Verdict) -> BreakerRecord | None:
        word = await self._link.run(CLOSE_PERMIT, _keys(provider), [epoch, permit, verdict])
        return None if word is None else _parse(*word)[0]

    async def pause(self, provider: str, *, for_s: float) -> None:
        await self._link.run(PAUSE, _keys(provider), [ceil(for_s * 1e3)])

    async def aclose(self) -> None:
        await self._link.aclose()


def _us(length_s: float) -> int:
    return int(length_s * 1e6)


def _parse(word: str, now_us: str, pause_ms: int) -> tuple[BreakerRecord | None, float]:
    paused_for_s = max(pause_ms, 1) / 1e3 if pause_ms >= 0 else 0.0
    if not word:
        return None, paused_for_s
    epoch, state, since_us, until_us, openings, permits_out, successes = word.split()
    record = BreakerRecord(
        epoch=int(epoch),
        state=BreakerState(state),
        since_s=max(0.0, (int(now_us) - int(since_us)) / 1e6),
        until_in_s=max(0.0, (int(until_us) - int(now_us)) / 1e6),
        openings=int(openings),
        permits_out=int(permits_out),
        successes=int(successes),
    )
    return record, paused_for_s


@asynccontextmanager
async def open_coordination(url: str, name: str, boot_s: Callable[[], float]) -> AsyncIterator[RedisCoordination]:
    """`boot_s` is the clock that slots are told in; `name` is how `CLIENT LIST` shows the connection."""
    async with open_links(url, f"heliograph-{name}-slots", 1, boot_s) as [link]:
        yield RedisCoordination(link)
