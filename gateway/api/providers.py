"""`/v1/providers`: the cluster's view, and what operators say: pause, resume, hold a breaker open or closed.

The word is written to the ledger, from where each supervisor's heartbeat brings it to its actors. The pause in Redis
only bridges the time until then; without Redis nothing is sent anyway.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import structlog
import trio

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.errors import NotFound, QueueDown
from heliograph.actors.model.provider import BreakerState, ForcedBreaker, Pause, ProviderSettings
from heliograph.gateway.api.reading import refused
from heliograph.gateway.api.replies import Reply, json_reply
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import (
    BreakerBody,
    PauseBody,
    ProviderAnswer,
    ProviderPage,
    ProviderQuery,
    SupervisorPage,
)
from heliograph.gateway.auth import require_operator
from heliograph.gateway.problems import Fault

log = structlog.get_logger()
BRIDGE_S: Final = 3.0
REDIS_S: Final = 2.0


async def many(call: Call[None, ProviderQuery]) -> Reply:
    cluster = await call.shared.cluster.now()
    if call.query.view == "supervisors":
        return json_reply(200, SupervisorPage(data=cluster.supervisors()))
    return json_reply(200, ProviderPage(data=cluster.providers()))


async def pause(call: Call[PauseBody, None]) -> Reply:
    settings = _settings(call)
    until = call.services.clock.now() + timedelta(seconds=call.body.duration)
    await call.services.ledger.cluster.pause(settings.name, Pause(until=until, reason=call.body.reason))
    await _hold_back(call, settings.name, min(call.body.duration, BRIDGE_S))
    log.info("provider.paused", provider=settings.name, seconds=call.body.duration, key=call.key.id)
    return await _provider(call, settings)


async def resume(call: Call[None, None]) -> Reply:
    """It lifts, too, what the provider itself asked for by `Retry-After`."""
    settings = _settings(call)
    await call.services.ledger.cluster.resume(settings.name)
    await _hold_back(call, settings.name, 0.0)
    log.info("provider.resumed", provider=settings.name, key=call.key.id)
    return await _provider(call, settings)


async def breaker(call: Call[BreakerBody, None]) -> Reply:
    settings, body = _settings(call), call.body
    cluster = call.services.ledger.cluster
    if body.state == "auto":
        await cluster.force_breaker(settings.name, None)
    elif body.duration is None:
        raise refused([Fault("#/duration", f"is required to hold the breaker {body.state}")])
    else:
        until = call.services.clock.now() + timedelta(seconds=body.duration)
        await cluster.force_breaker(settings.name, ForcedBreaker(state=BreakerState(body.state), until=until))
        if body.state == "open":
            await _hold_back(call, settings.name, min(body.duration, BRIDGE_S))
    log.info("provider.breaker", provider=settings.name, state=body.state, seconds=body.duration, key=call.key.id)
    return await _provider(call, settings)


async def _hold_back(call: Call[Any, None], provider: str, for_s: float) -> None:
    with trio.move_on_after(REDIS_S):
        try:
            await call.services.coordination.pause(provider, for_s=for_s)
        except QueueDown as error:
            log.warning("provider.not_told", provider=provider, error=str(error))


async def _provider(call: Call[Any, None], settings: ProviderSettings) -> Reply:
    cluster = await call.shared.cluster.now(fresh=True)
    return json_reply(200, cluster.provider(settings))


def _settings(call: Call[Any, None]) -> ProviderSettings:
    require_operator(call.key)
    for settings in call.services.config.providers:
        if settings.name == call.id:
            return settings
    raise NotFound(f"no provider is called {call.id}")


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/providers",
        handler=many,
        summary="See how the providers are, over the cluster or as each supervisor sees them",
        tag="providers",
        scope=ScopeName.PROVIDERS_READ,
        query=ProviderQuery,
        answer=ProviderPage | SupervisorPage,
    ),
    Route(
        method="POST",
        path="/v1/providers/{name}/pause",
        handler=pause,
        summary="Call a provider no more, for a time",
        tag="providers",
        scope=ScopeName.PROVIDERS_WRITE,
        id_kind="provider",
        body=PauseBody,
        answer=ProviderAnswer,
    ),
    Route(
        method="POST",
        path="/v1/providers/{name}/resume",
        handler=resume,
        summary="End a pause",
        tag="providers",
        scope=ScopeName.PROVIDERS_WRITE,
        id_kind="provider",
        answer=ProviderAnswer,
    ),
    Route(
        method="POST",
        path="/v1/providers/{name}/breaker",
        handler=breaker,
        summary="Hold a provider's breaker open or closed for a time, or leave it to itself",
        tag="providers",
        scope=ScopeName.PROVIDERS_WRITE,
        id_kind="provider",
        body=BreakerBody,
        answer=ProviderAnswer,
    ),
)
