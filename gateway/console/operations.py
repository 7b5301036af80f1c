"""`/console/operations`: how far work on many dead letters is."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.deadletter import Operation, OperationState
from heliograph.gateway.api import pages
from heliograph.gateway.api.operations import ROUTES
from heliograph.gateway.console.commands import equivalent
from heliograph.gateway.console.dead_letters import back_query
from heliograph.gateway.console.visit import Moved, Page, View, Visit, route_to

HERE: Final = "/console/operations"
A_PAGE: Final = 50
LIST: Final = "operations"


async def many(visit: Visit) -> Page:
    before = pages.id_before(LIST, visit.query.get("cursor"))
    found = await visit.services.ledger.operations.list(tenant=visit.tenant, before=before, limit=A_PAGE + 1)
    shown, more = pages.split(found, A_PAGE)
    following = urlencode({"cursor": pages.cursor_after(LIST, shown[-1].id)}) if more else None
    return Page("operations.html", {"operations": shown, "next": following})


async def one(visit: Visit) -> Page:
    operation = await visit.services.ledger.operations.get(visit.id, tenant=visit.tenant)
    values = {
        "operation": operation,
        "running": operation.state is OperationState.RUNNING,
        "worked_on": operation.done + operation.failed + operation.skipped,
        "told": _told(operation),
        "back": back_query(visit, visit.query.get("back", "")),
        "may_cancel": visit.may(ScopeName.DEAD_LETTERS_WRITE),
        "equivalents": [
            equivalent(
                "follow", visit.origin, f"/v1/operations/{operation.id}",
                ["operations", "show", operation.id, "--wait"], method="GET",
            ),
            equivalent(
                "cancel", visit.origin, f"/v1/operations/{operation.id}/cancel", ["operations", "cancel", operation.id]
            ),
        ],
    }  # fmt: skip
    return Page("operation.html", values)


def _told(operation: Operation) -> str:
    """For ears: it changes ten times over an operation, not with each message."""
    worked_on = operation.done + operation.failed + operation.skipped
    if operation.state is not OperationState.RUNNING:
        parts = f"{operation.done} done, {operation.failed} failed, {operation.skipped} skipped"
        return f"The {operation.kind} is {operation.state}: {parts}."
    return f"The {operation.kind} is running: {10 * (10 * worked_on // max(operation.total, 1))}%."


async def cancel(visit: Visit) -> Moved:
    await visit.act(route_to(ROUTES, "POST", "/v1/operations/{id}/cancel"))
    return Moved(f"{HERE}/{visit.id}")


READ: Final = (ScopeName.DEAD_LETTERS_READ,)
STARTED: Final = (ScopeName.DEAD_LETTERS_READ, ScopeName.DEAD_LETTERS_WRITE)
VIEWS: Final = (
    View(path=HERE, handler=many, scopes=READ),
    View(path=f"{HERE}/{{id}}", handler=one, scopes=STARTED, id_kind="operation", live="live/operation.html"),
    View(
        method="POST",
        path=f"{HERE}/{{id}}/cancel",
        handler=cancel,
        scopes=(ScopeName.DEAD_LETTERS_WRITE,),
        id_kind="operation",
    ),
)
