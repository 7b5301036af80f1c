"""`/console/suppressions`: who is not written to: looked for, added and removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlencode

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.message import Channel
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.ledger import SuppressionFilter
from heliograph.gateway.api import pages
from heliograph.gateway.api.reading import query_of
from heliograph.gateway.api.schemas import SuppressionQuery
from heliograph.gateway.api.suppressions import LIST, ROUTES
from heliograph.gateway.console.commands import Equivalent, equivalent
from heliograph.gateway.console.visit import Moved, Page, View, Visit, route_to

HERE: Final = "/console/suppressions"
A_PAGE: Final = 50
FIELDS: Final = ("to", "channel", "reason")
_API: Final = "/v1/suppressions"


async def many(visit: Visit) -> Page:
    given = {name: visit.query[name].strip() for name in FIELDS if visit.query.get(name, "").strip()}
    query = query_of(SuppressionQuery, urlencode(given).encode())
    wanted = SuppressionFilter(
        channel=Channel(query.channel) if query.channel else None,
        to=query.to,
        reason=SuppressionReason(query.reason) if query.reason else None,
    )
    before = pages.id_before(LIST, visit.query.get("cursor"))
    found = await visit.services.ledger.suppressions.list(wanted, tenant=visit.tenant, before=before, limit=A_PAGE + 1)
    shown, more = pages.split(found, A_PAGE)
    values = {
        "given": given,
        "suppressions": shown,
        "channels": list(Channel),
        "reasons": list(SuppressionReason),
        "may_write": visit.may(ScopeName.MESSAGES_WRITE),
        "next": urlencode({**given, "cursor": pages.cursor_after(LIST, shown[-1].id)}) if more else None,
        "equivalents": list(_equivalents(visit, given)),
    }
    return Page("suppressions.html", values)


def _equivalents(visit: Visit, given: Mapping[str, str]) -> Iterator[Equivalent]:
    query = f"?{urlencode(given)}" if given else ""
    yield equivalent("list", visit.origin, f"{_API}{query}", None, method="GET")
    if not visit.may(*WRITE):
        return
    yield equivalent("add", visit.origin, _API, None, {"channel": "email", "to": "asha@example.com"})
    yield equivalent("remove", visit.origin, f"{_API}/ID", None, method="DELETE")


async def add(visit: Visit) -> Moved:
    body = {name: visit.form.get(name, "").strip() for name in ("channel", "to", "reason", "detail")}
    await visit.act(route_to(ROUTES, "POST", _API), {name: value for name, value in body.items() if value})
    return Moved(f"{HERE}?{urlencode({'to': body['to']})}")


async def remove(visit: Visit) -> Moved:
    await visit.act(route_to(ROUTES, "DELETE", f"{_API}/{{id}}"))
    return Moved(HERE)


READ: Final = (ScopeName.MESSAGES_READ,)
WRITE: Final = (ScopeName.MESSAGES_WRITE,)
VIEWS: Final = (
    View(path=HERE, handler=many, scopes=READ),
    View(method="POST", path=HERE, handler=add, scopes=WRITE),
    View(method="POST", path=f"{HERE}/{{id}}/remove", handler=remove, scopes=WRITE, id_kind="suppression"),
)
