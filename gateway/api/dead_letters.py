"""`/v1/dead-letters`: what failed, by cause; redrive, archive and discard, by ids or by filter."""

from __future__ import annotations

from typing import Final

import structlog

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.deadletter import DeadLetterFilter, DeadLetterState, OperationKind
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Channel, Reason
from heliograph.gateway.api import answers, pages
from heliograph.gateway.api.messages import message_of
from heliograph.gateway.api.reading import refused
from heliograph.gateway.api.replies import Reply, json_reply
from heliograph.gateway.api.routing import Call, Handler, Route
from heliograph.gateway.api.schemas import (
    DeadLetterCriteria,
    DeadLetterDetail,
    DeadLetterPage,
    DeadLetterQuery,
    DryRunAnswer,
    GroupPage,
    GroupQuery,
    OperationAnswer,
    OperationBody,
)
from heliograph.gateway.auth import seen_tenant
from heliograph.gateway.problems import Fault

log = structlog.get_logger()
LIST: Final = "dead-letters"


def filter_of(wanted: DeadLetterCriteria) -> DeadLetterFilter:
    return DeadLetterFilter(
        state=DeadLetterState(wanted.state),
        channel=Channel(wanted.channel) if wanted.channel else None,
        provider=wanted.provider,
        reason=Reason(wanted.reason) if wanted.reason else None,
        code=wanted.code,
        cause=wanted.cause,
        tag=wanted.tag,
        text=wanted.text,
        since=wanted.since,
        until=wanted.until,
    )


async def many(call: Call[None, DeadLetterQuery]) -> Reply:
    query = call.query
    before = pages.id_before(LIST, query.cursor)
    found = await call.services.ledger.dead_letters.list(
        filter_of(query), tenant=seen_tenant(call.key), before=before, limit=query.limit + 1
    )
    shown, more = pages.split(found, query.limit)
    page = DeadLetterPage(
        data=[answers.dead_letter_answer(letter) for letter in shown],
        has_more=more,
        next_cursor=pages.cursor_after(LIST, shown[-1].id) if more else None,
    )
    return json_reply(200, page)


async def groups(call: Call[None, GroupQuery]) -> Reply:
    limit = call.query.limit
    found = await call.services.ledger.dead_letters.groups(
        filter_of(call.query), tenant=seen_tenant(call.key), limit=limit + 1
    )
    shown, more = pages.split(found, limit)
    page = GroupPage(data=[answers.group_answer(group) for group in shown], has_more=more, next_cursor=None)
    return json_reply(200, page)


async def one(call: Call[None, None]) -> Reply:
    tenant = seen_tenant(call.key)
    letter = await call.services.ledger.dead_letters.get(call.id, tenant=tenant)
    try:
        view = await call.services.ledger.messages.get(call.id, tenant=tenant)
    except NotFound:
        message = None
    else:
        message = await message_of(call, view)
    detail: DeadLetterDetail = {**answers.dead_letter_answer(letter), "message": message}
    return json_reply(200, detail)


async def redrive(call: Call[OperationBody, None]) -> Reply:
    return await _operate(call, OperationKind.REDRIVE)


async def archive(call: Call[OperationBody, None]) -> Reply:
    return await _operate(call, OperationKind.ARCHIVE)


async def discard(call: Call[OperationBody, None]) -> Reply:
    return await _operate(call, OperationKind.DISCARD)


async def _operate(call: Call[OperationBody, None], kind: OperationKind) -> Reply:
    body, services, tenant = call.body, call.services, seen_tenant(call.key)
    if (body.ids is None) == (body.filter is None):
        detail = "give `ids` or `filter`" if body.ids is None else "give `ids` or `filter`, not both"
        raise refused([Fault("#", detail)])
    ids = list(dict.fromkeys(body.ids)) if body.ids is not None else None
    wanted = filter_of(body.filter) if body.filter is not None else None
    if body.dry_run:
        most = services.config.dead_letters.max_redrives
        run = await services.ledger.operations.dry_run(kind, ids=ids, wanted=wanted, tenant=tenant, max_redrives=most)
        return json_reply(200, answers.dry_run_answer(run))
    operation = await services.ledger.operations.create(
        new_id("op", services.clock.now()),
        kind,
        ids=ids,
        wanted=wanted,
        tenant=tenant,
        rate=body.rate,
        reason=body.reason,
        actor=call.key.id,
    )
    log.info("operation.created", operation=operation.id, kind=kind.value, total=operation.total, key=call.key.id)
    return json_reply(202, answers.operation_answer(operation), {"Location": f"/v1/operations/{operation.id}"})


def _operation(path: str, handler: Handler[OperationBody, None], summary: str) -> Route[OperationBody, None]:
    return Route(
        method="POST",
        path=f"/v1/dead-letters/{path}",
        handler=handler,
        summary=summary,
        tag="dead letters",
        scope=ScopeName.DEAD_LETTERS_WRITE,
        body=OperationBody,
        answer=OperationAnswer,
        status=202,
        other_answers={200: DryRunAnswer},
    )


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/dead-letters",
        handler=many,
        summary="List dead letters, the newest first",
        tag="dead letters",
        scope=ScopeName.DEAD_LETTERS_READ,
        query=DeadLetterQuery,
        answer=DeadLetterPage,
    ),
    Route(
        method="GET",
        path="/v1/dead-letters/groups",
        handler=groups,
        summary="Count dead letters by cause, the largest groups first",
        tag="dead letters",
        scope=ScopeName.DEAD_LETTERS_READ,
        query=GroupQuery,
        answer=GroupPage,
    ),
    Route(
        method="GET",
        path="/v1/dead-letters/{id}",
        handler=one,
        summary="Read a dead letter with its message and all attempts",
        tag="dead letters",
        scope=ScopeName.DEAD_LETTERS_READ,
        id_kind="message",
        answer=DeadLetterDetail,
    ),
    _operation("redrive", redrive, "Send open and archived dead letters again, under the same ids"),
    _operation("archive", archive, "Put open dead letters aside"),
    _operation("discard", discard, "Give open and archived dead letters up"),
)
