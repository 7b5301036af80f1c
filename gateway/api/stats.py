"""`/v1/stats`: the service in numbers, once or as a stream of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.deadletter import REASONS
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.message import LANES, Channel, State
from heliograph.actors.model.stats import Stats
from heliograph.gateway.api.replies import Reply, dumps, json_reply
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import StatsAnswer
from heliograph.gateway.auth import presented, require_operator
from heliograph.gateway.limits import MOST_STREAMS
from heliograph.gateway.problems import Refused, unavailable

EVERY_S: Final = 1.0
STREAM_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


async def once(call: Call[None, None]) -> Reply:
    require_operator(call.key)
    return json_reply(200, stats_answer(await call.services.stats()))


async def stream(call: Call[None, None]) -> Reply:
    require_operator(call.key)
    if call.shared.streams >= MOST_STREAMS:
        raise Refused.of(unavailable(f"{MOST_STREAMS} streams are open already", 10))
    return Reply(200, headers=STREAM_HEADERS, content_type="text/event-stream", stream=_events(call))


async def _events(call: Call[None, None]) -> AsyncIterator[bytes]:
    """One event a second, made when it is sent: a slow reader gets fewer, never old ones. Ends when the key is revoked
    or this process drains."""
    call.shared.streams += 1
    try:
        while not call.services.draining():
            yield await _event(call)
            await trio.sleep(EVERY_S)
    except Refused:  # the key is no longer good
        return
    finally:
        call.shared.streams -= 1


async def _event(call: Call[None, None]) -> bytes:
    try:
        await call.shared.authenticator.key_for(presented(call.headers))
        stats = await call.services.stats()
    except LedgerDown:
        return b": the store does not answer\n\n"
    return b"event: stats\ndata: " + dumps(stats_answer(stats)) + b"\n\n"


def stats_answer(stats: Stats) -> StatsAnswer:
    return {
        "messages": {c.value: {s.value: stats.messages.get((c, s), 0) for s in State} for c in Channel},
        "queues": [
            {
                "queue": str(lane),
                "depth": stats.depth.get(lane, 0),
                "oldest_age_seconds": stats.oldest_age_s.get(lane) or 0.0,
            }
            for lane in LANES
        ],
        "dead_letters": {r.value: stats.dead_letters.get(r, 0) for r in REASONS},
        "rates": {
            "accepted": stats.rates.get("accepted", 0.0),
            "sent": stats.rates.get("sent", 0.0),
            "failed": stats.rates.get("failed", 0.0),
        },
    }


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/stats",
        handler=once,
        summary="Read the numbers: messages by state, queues, dead letters, rates",
        tag="stats",
        scope=ScopeName.MESSAGES_READ,
        answer=StatsAnswer,
    ),
    Route(
        method="GET",
        path="/v1/stats/stream",
        handler=stream,
        summary="Get the same numbers each second as server-sent events (`stats`)",
        tag="stats",
        scope=ScopeName.MESSAGES_READ,
        answer=str,
        answer_type="text/event-stream",
    ),
)
