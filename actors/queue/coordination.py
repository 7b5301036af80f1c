"""The coordination on Redis: a provider's bucket, its pause, and its breaker's record.

Keys, all of one provider under one hash tag, for which there is one connection:

    heliograph:breaker:{name}            hash: epoch, state, since, until, openings, successes, failures, refused
    heliograph:permits:{name}            half-open permits of that epoch, by the time they run out
    heliograph:pause:{name}              there while nobody gets a slot
    heliograph:last:{name}               which bucket was used last
    heliograph:bucket:{name}:<run_id>    when the bucket will have leaked empty, microseconds of Redis' clock
    heliograph:quota:{name}:<run_id>:<length of a part>    hash: the ring of `policy.quota`

The keys of the bucket and of the quota name the server's run: one that was started on an older file, or promoted, finds
neither, and one that was left and came back takes neither for good. A missing bucket is an empty one, and a missing
ring is seeded from the ledger, where old ones would let calls through that were made already.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import ceil
from typing import Final

from heliograph.actors.model.provider import BreakerState, Quota
from heliograph.actors.policy.bucket import HORIZON_S, BucketShape, check_reserve, next_in
from heliograph.actors.policy.quota import part_us
from heliograph.actors.ports.coordination import (
    LOST,
    NO_RECORD,
    BreakerRecord,
    Lost,
    QuotaAsk,
    QuotaWord,
    Reservation,
    Verdict,
    blocked_for,
)
from heliograph.actors.queue.link import Exchange, Link, Replaced, Run, Script, open_links
from heliograph.actors.queue.slots import SlotClock

RESERVE: Final = Script.load("breaker", "last", "quota", "reserve")
RECORD: Final = Script.load("breaker", "record")
USED: Final = Script.load("breaker", "last", "quota", "used")
SEED: Final = Script.load("breaker", "last", "quota", "seed")
CHANGE: Final = Script.load("breaker", "change")
PERMIT: Final = Script.load("breaker", "permit")
CLOSE_PERMIT: Final = Script.load("breaker", "close_permit")
PAUSE: Final = Script.load("breaker", "pause")


def _keys(provider: str) -> list[str]:
    return [f"heliograph:{kind}:{{{provider}}}" for kind in ("breaker", "permits", "pause")]


class RedisCoordination:
    """`ports.coordination.Coordination`. Made by `open_coordination`."""

    def __init__(self, link_to: Callable[[str], Link]) -> None:
        self._link_to = link_to
        self._links: dict[str, Link] = {}
        self._run_ids: dict[str, str] = {}
        self._slots = SlotClock()

    async def reserve(
        self,
        provider: str,
        shape: BucketShape,
        *,
        want: int,
        cost: float,
        horizon_s: float,
        quota: QuotaAsk | None = None,
    ) -> Reservation:
        horizon_us = horizon_s * 1e6
        check_reserve(shape, cost=cost, horizon_us=horizon_us)
        ask = self._slots.ask(provider, shape.lateness_s)
        numbers = [shape.interval_s * 1e6, shape.burst, want, horizon_us, cost, HORIZON_S * 1e6, int(ask.forget)]
        exchange = await self._reserve(provider, numbers, quota)
        [(word, now_us, pause_ms, next_us, slots_us, used)] = exchange.replies
        record, paused_for_s = _parse(word, now_us, pause_ms)
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
            quota=_quota(used, int(now_us), len(slots_us.split()) * int(cost)),
        )

    async def _reserve(self, provider: str, numbers: Sequence[float], quota: QuotaAsk | None) -> Exchange:
        arguments: list[str | int] = [repr(n) for n in numbers]
        if quota is not None:
            arguments += [part_us(quota.quota), quota.allowed, _unused(quota)]
        return await self._on_this_run(RESERVE, provider, arguments, quota.quota if quota else None)

    async def _on_this_run(
        self, script: Script, provider: str, arguments: Sequence[str | int], quota: Quota | None
    ) -> Exchange:
        """The keys depend on who answers. Where that is another server than before, nothing was sent to it."""
        while True:
            run_id = self._run_ids.get(provider) or await self._link(provider).server()
            keys = [*_keys(provider), f"heliograph:last:{{{provider}}}", f"heliograph:bucket:{{{provider}}}:{run_id}"]
            if quota is not None:
                keys.append(f"heliograph:quota:{{{provider}}}:{run_id}:{part_us(quota)}")
            try:
                exchange = await self._link(provider).exchange([Run(script, keys, arguments)], on=run_id)
            except Replaced:
                self._run_ids.pop(provider, None)
            else:
                self._run_ids[provider] = run_id
                return exchange

    async def used(self, provider: str, ask: QuotaAsk) -> int | Lost:
        arguments: list[str | int] = [part_us(ask.quota), _unused(ask)]
        [used] = (await self._on_this_run(USED, provider, arguments, ask.quota)).replies
        return LOST if used < 0 else int(used)

    async def seed(self, provider: str, quota: Quota, ages: Sequence[int]) -> None:
        await self._on_this_run(SEED, provider, [part_us(quota), " ".join(map(str, ages))], quota)

    async def record(self, provider: str) -> tuple[BreakerRecord | None, float]:
        return _parse(*await self._link(provider).run(RECORD, _keys(provider), []))

    async def change(self, provider: str, *, expected_epoch: int, record: BreakerRecord) -> BreakerRecord:
        arguments: list[str | int] = [
            expected_epoch, record.epoch, record.state, _us(record.since_s), _us(record.until_in_s), record.openings,
            record.refused,
        ]  # fmt: skip
        return _parse(*await self._link(provider).run(CHANGE, _keys(provider), arguments))[0] or NO_RECORD

    async def permit(self, provider: str, *, epoch: int, most: int, ttl_s: float) -> str | None:
        permit = secrets.token_hex(8)
        given = await self._link(provider).run(PERMIT, _keys(provider), [epoch, most, _us(ttl_s), permit])
        return permit if given else None

    async def close_permit(self, provider: str, *, epoch: int, permit: str, verdict: Verdict) -> BreakerRecord | None:
        word = await self._link(provider).run(CLOSE_PERMIT, _keys(provider), [epoch, permit, verdict])
        return None if word is None else _parse(*word)[0]

    async def pause(self, provider: str, *, for_s: float) -> None:
        await self._link(provider).run(PAUSE, _keys(provider), [ceil(for_s * 1e3)])

    async def aclose(self) -> None:
        for link in self._links.values():
            await link.aclose()

    def _link(self, provider: str) -> Link:
        link = self._links.get(provider)
        if link is None:
            link = self._links[provider] = self._link_to(provider)
        return link


def _us(length_s: float) -> int:
    return int(length_s * 1e6)


def _unused(ask: QuotaAsk) -> str:
    return " ".join([str(ask.made), *(f"{part} {recipients}" for part, recipients in ask.unused.items())])


def _quota(word: str, now_us: int, counted: int) -> QuotaWord | Lost | None:
    if not word:
        return None
    if word == LOST.value:
        return LOST
    used, made, part, opens_us = map(int, word.split())
    return QuotaWord(used, made, part, counted, max(0.0, (opens_us - now_us) / 1e6))


def _parse(word: str, now_us: str, pause_ms: int) -> tuple[BreakerRecord | None, float]:
    paused_for_s = max(pause_ms, 1) / 1e3 if pause_ms >= 0 else 0.0
    if not word:
        return None, paused_for_s
    epoch, state, since_us, until_us, openings, permits_out, successes, refused = word.split(" ")
    record = BreakerRecord(
        epoch=int(epoch),
        state=BreakerState(state),
        since_s=max(0.0, (int(now_us) - int(since_us)) / 1e6),
        until_in_s=max(0.0, (int(until_us) - int(now_us)) / 1e6),
        openings=int(openings),
        permits_out=int(permits_out),
        successes=int(successes),
        refused=refused,
    )
    return record, paused_for_s


@asynccontextmanager
async def open_coordination(url: str, name: str, boot_s: Callable[[], float]) -> AsyncIterator[RedisCoordination]:
    """`boot_s` is the clock that slots are told in; `name` is how `CLIENT LIST` shows the connections."""
    async with open_links(url, f"heliograph-{name}-slots", boot_s) as link_to:
        yield RedisCoordination(link_to)
