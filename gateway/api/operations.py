"""`/v1/operations`: how far work on many dead letters has come."""

from __future__ import annotations

from typing import Final

import structlog

from heliograph.actors.model.access import ScopeName
from heliograph.gateway.api import answers
from heliograph.gateway.api.replies import Reply, json_reply
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import OperationAnswer
from heliograph.gateway.auth import seen_tenant
from heliograph.gateway.problems import Code

log = structlog.get_logger()


async def one(call: Call[None, None]) -> Reply:
    operation = await call.services.ledger.operations.get(call.id, tenant=seen_tenant(call.key))
    return json_reply(200, answers.operation_answer(operation))


async def cancel(call: Call[None, None]) -> Reply:
    operation = await call.services.ledger.operations.cancel(call.id, tenant=seen_tenant(call.key))
    log.info("operation.cancelled", operation=operation.id, key=call.key.id)
    return json_reply(200, answers.operation_answer(operation))


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/operations/{id}",
        handler=one,
        summary="Read an operation and its progress",
        tag="operations",
        scope=ScopeName.DEAD_LETTERS_READ,
        or_scope=ScopeName.DEAD_LETTERS_WRITE,  # who may start one may see what became of it
        id_kind="operation",
        answer=OperationAnswer,
    ),
    Route(
        method="POST",
        path="/v1/operations/{id}/cancel",
        handler=cancel,
        summary="Stop an operation: what it has not worked on yet is skipped",
        tag="operations",
        scope=ScopeName.DEAD_LETTERS_WRITE,
        id_kind="operation",
        answer=OperationAnswer,
        also=(Code.CONFLICT,),
    ),
)
