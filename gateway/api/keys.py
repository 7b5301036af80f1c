"""`/v1/keys`: list, make and revoke API keys. The secret is in one answer only."""

from __future__ import annotations

from typing import Final

import structlog

from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.actors.model.errors import NotFound
from heliograph.gateway.api import answers, pages
from heliograph.gateway.api.reading import refused
from heliograph.gateway.api.replies import Reply, json_reply
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import KeyAnswer, KeyBody, KeyPage, NewKeyAnswer, PageQuery
from heliograph.gateway.auth import make_key
from heliograph.gateway.problems import Fault

log = structlog.get_logger()
LIST: Final = "keys"


async def many(call: Call[None, PageQuery]) -> Reply:
    before = pages.id_before(LIST, call.query.cursor)
    keys = sorted(await _seen(call), key=lambda key: key.id, reverse=True)
    shown, more = pages.split([key for key in keys if before is None or key.id < before], call.query.limit)
    page = KeyPage(
        data=[answers.key_answer(key) for key in shown],
        has_more=more,
        next_cursor=pages.cursor_after(LIST, shown[-1].id) if more else None,
    )
    return json_reply(200, page)


async def one(call: Call[None, None]) -> Reply:
    return json_reply(200, answers.key_answer(await _find(call)))


async def create(call: Call[KeyBody, None]) -> Reply:
    body, maker = call.body, call.key
    tenant = body.tenant or maker.tenant
    if tenant != maker.tenant and not maker.sees_all:
        raise refused([Fault("#/tenant", f"must be {maker.tenant}: a key makes keys of its own tenant")])
    if body.live and not maker.live:
        raise refused([Fault("#/live", "must be false: a test key makes test keys, so that none of its own sends")])
    scopes = {ScopeName(scope) for scope in body.scopes}
    key, secret = make_key(
        body.name,
        now=call.services.clock.now(),
        scopes=scopes,
        tenant=tenant,
        live=body.live,
        rate=body.rate,
        daily=body.daily,
    )
    await call.services.ledger.keys.create(key)
    log.info("key.created", created=key.id, key=maker.id)
    answer: NewKeyAnswer = {**answers.key_answer(key), "key": secret}
    return json_reply(201, answer, {"Location": f"/v1/keys/{key.id}"})


async def revoke(call: Call[None, None]) -> Reply:
    found = await _find(call)
    await call.services.ledger.keys.revoke(found.id)
    log.info("key.revoked", revoked=found.id, key=call.key.id)
    return Reply(204)


async def _find(call: Call[None, None]) -> ApiKey:
    for key in await _seen(call):
        if key.id == call.id:
            return key
    raise NotFound(f"there is no API key {call.id}")


async def _seen(call: Call[None, None] | Call[None, PageQuery]) -> list[ApiKey]:
    keys = await call.services.ledger.keys.list()
    return [key for key in keys if call.key.sees_all or key.tenant == call.key.tenant]


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/keys",
        handler=many,
        summary="List API keys, the newest first",
        tag="keys",
        scope=ScopeName.ADMIN,
        query=PageQuery,
        answer=KeyPage,
    ),
    Route(
        method="POST",
        path="/v1/keys",
        handler=create,
        summary="Make an API key; its secret is shown this once",
        tag="keys",
        scope=ScopeName.ADMIN,
        body=KeyBody,
        answer=NewKeyAnswer,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/keys/{id}",
        handler=one,
        summary="Read what an API key may do",
        tag="keys",
        scope=ScopeName.ADMIN,
        id_kind="key",
        answer=KeyAnswer,
    ),
    Route(
        method="DELETE",
        path="/v1/keys/{id}",
        handler=revoke,
        summary="Revoke an API key: it is refused everywhere within 5 s",
        tag="keys",
        scope=ScopeName.ADMIN,
        id_kind="key",
        status=204,
    ),
)
