"""`/v1/suppressions`: who is not written to. Receipts and answers of providers enter recipients too; here people do."""

from __future__ import annotations

from typing import Final

import structlog

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.message import Channel, State
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.ledger import Entry, SuppressionFilter
from heliograph.gateway.api import answers, pages
from heliograph.gateway.api.replies import Reply, json_reply
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import SuppressionAnswer, SuppressionBody, SuppressionPage, SuppressionQuery
from heliograph.gateway.auth import seen_tenant

log = structlog.get_logger()
LIST: Final = "suppressions"


async def many(call: Call[None, SuppressionQuery]) -> Reply:
    query = call.query
    wanted = SuppressionFilter(
        channel=Channel(query.channel) if query.channel else None,
        to=query.to,
        reason=SuppressionReason(query.reason) if query.reason else None,
    )
    before = pages.id_before(LIST, query.cursor)
    found = await call.services.ledger.suppressions.list(
        wanted, tenant=seen_tenant(call.key), before=before, limit=query.limit + 1
    )
    shown, more = pages.split(found, query.limit)
    page = SuppressionPage(
        data=[answers.suppression_answer(each) for each in shown],
        has_more=more,
        next_cursor=pages.cursor_after(LIST, shown[-1].id) if more else None,
    )
    return json_reply(200, page)


async def one(call: Call[None, None]) -> Reply:
    found = await call.services.ledger.suppressions.get(call.id, tenant=seen_tenant(call.key))
    return json_reply(200, answers.suppression_answer(found))


async def enter(call: Call[SuppressionBody, None]) -> Reply:
    """Repeated, it is answered with the first entry."""
    body, services = call.body, call.services
    entry = Entry(
        tenant=call.key.tenant,
        channel=Channel(body.channel),
        recipient=body.to,
        reason=SuppressionReason(body.reason),
        detail=body.detail,
    )
    entered = await services.ledger.suppressions.enter(entry)
    suppression = entered.suppression
    services.metrics.messages.labels(entry.channel, State.SUPPRESSED).inc(entered.moved)
    if entered.new:
        log.info("suppression.entered", suppression=suppression.id, key=call.key.id, messages=entered.moved)
    answer = answers.suppression_answer(suppression)
    return json_reply(201 if entered.new else 200, answer, {"Location": f"/v1/suppressions/{suppression.id}"})


async def remove(call: Call[None, None]) -> Reply:
    await call.services.ledger.suppressions.remove(call.id, tenant=seen_tenant(call.key))
    log.info("suppression.removed", suppression=call.id, key=call.key.id)
    return Reply(204)


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/suppressions",
        handler=many,
        summary="List who is not written to, the newest entry first",
        tag="suppressions",
        scope=ScopeName.MESSAGES_READ,
        query=SuppressionQuery,
        answer=SuppressionPage,
    ),
    Route(
        method="POST",
        path="/v1/suppressions",
        handler=enter,
        summary="Write to this recipient no more, nor what waits already",
        tag="suppressions",
        scope=ScopeName.MESSAGES_WRITE,
        body=SuppressionBody,
        answer=SuppressionAnswer,
        status=201,
        other_answers={200: SuppressionAnswer},
    ),
    Route(
        method="GET",
        path="/v1/suppressions/{id}",
        handler=one,
        summary="Read why a recipient is not written to",
        tag="suppressions",
        scope=ScopeName.MESSAGES_READ,
        id_kind="suppression",
        answer=SuppressionAnswer,
    ),
    Route(
        method="DELETE",
        path="/v1/suppressions/{id}",
        handler=remove,
        summary="Write to this recipient again, from the next message on",
        tag="suppressions",
        scope=ScopeName.MESSAGES_WRITE,
        id_kind="suppression",
        status=204,
    ),
)
