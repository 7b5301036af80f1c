"""`/console/dead-letters`: failures by cause, those of one cause, and work on many: looked at first, then done."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import orjson

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.deadletter import REASONS, DeadLetterState, OperationKind
from heliograph.actors.model.message import Channel
from heliograph.gateway.api import pages
from heliograph.gateway.api.dead_letters import LIST, ROUTES
from heliograph.gateway.api.reading import refused
from heliograph.gateway.api.schemas import MOST_IDS
from heliograph.gateway.console.commands import listing_equivalent, operation_equivalent
from heliograph.gateway.console.filters import FIELDS, Filter, first_of_each, parse_words
from heliograph.gateway.console.visit import Moved, Page, View, Visit, route_to
from heliograph.gateway.problems import Fault, Refused

HERE: Final = "/console/dead-letters"
MOST_GROUPS: Final = 200
A_PAGE: Final = 50
REDRIVABLE: Final = frozenset({DeadLetterState.OPEN, DeadLetterState.ARCHIVED})


async def groups(visit: Visit) -> Page | Moved:
    if "q" in visit.query:
        return Moved(f"{HERE}?{urlencode(parse_words(visit.query['q']))}")
    wanted = Filter.of(visit.query, visit.now)
    found = await visit.services.ledger.dead_letters.groups(wanted.wanted, tenant=visit.tenant, limit=MOST_GROUPS + 1)
    shown, more = pages.split(found, MOST_GROUPS)
    values = {
        **_filtering(visit, wanted),
        "groups": shown,
        "more": more,
        "total": _total(shown),
        "equivalents": [listing_equivalent(visit.origin, "groups", "/v1/dead-letters/groups", wanted.exact)],
    }
    return Page("groups.html", values)


async def letters(visit: Visit) -> Page | Moved:
    if "q" in visit.query:
        return Moved(f"{HERE}/list?{urlencode(parse_words(visit.query['q']))}")
    wanted = Filter.of(visit.query, visit.now)
    ledger = visit.services.ledger.dead_letters
    before = pages.id_before(LIST, visit.query.get("cursor"))
    found = await ledger.list(wanted.wanted, tenant=visit.tenant, before=before, limit=A_PAGE + 1)
    shown, more = pages.split(found, A_PAGE)
    matching = await ledger.groups(wanted.wanted, tenant=visit.tenant, limit=MOST_GROUPS)
    values = {
        **_filtering(visit, wanted),
        "letters": shown,
        "total": _total(matching),
        "next": urlencode({**wanted.given, "cursor": pages.cursor_after(LIST, shown[-1].id)}) if more else None,
        "first": before is None,
        "equivalents": [listing_equivalent(visit.origin, "list", "/v1/dead-letters", wanted.exact)],
    }
    return Page("letters.html", values)


async def review(visit: Visit) -> Page:
    """What the form asks for, tried without doing it."""
    kind = _kind(visit)
    body = _asked(visit)
    reply = await visit.act(_route(kind), {**body, "dry_run": True})
    values = {
        "kind": kind,
        "body": body,
        "run": orjson.loads(reply.body),
        "most_redrives": visit.services.config.dead_letters.max_redrives,
        "back": _back(visit),
        "equivalents": [operation_equivalent(visit.origin, kind, body)],
    }
    return Page("review.html", values)


async def operate(visit: Visit) -> Moved:
    kind = _kind(visit)
    body = _asked(visit)
    if rate := visit.form.get("rate", "").strip():
        body["rate"] = _rate(rate)
    if why := visit.form.get("why", "").strip():
        body["reason"] = why
    reply = await visit.act(_route(kind), body)
    back = urlencode({"back": back}) if (back := _back(visit)) else ""
    return Moved(f"/console/operations/{orjson.loads(reply.body)['id']}?{back}".rstrip("?"))


def _route(kind: OperationKind) -> Any:
    return route_to(ROUTES, "POST", f"/v1/dead-letters/{kind}")


def _kind(visit: Visit) -> OperationKind:
    try:
        return OperationKind(visit.form.get("kind", ""))
    except ValueError:
        raise refused([Fault("#/kind", f"must be one of {', '.join(OperationKind)}")]) from None


def _asked(visit: Visit) -> dict[str, Any]:
    """Ids or filter, as the API takes them. Refused with 422."""
    if visit.form.get("what") == "all":
        return {"filter": dict(Filter.of(first_of_each(visit.form.items(multi=True)), visit.now).exact)}
    ids = list(dict.fromkeys(visit.form.getlist("id")))
    if not ids:
        raise refused([Fault("#/ids", "select at least one dead letter, or all that match")])
    if len(ids) > MOST_IDS:
        raise refused([Fault("#/ids", f"select at most {MOST_IDS}, or all that match")])
    return {"ids": ids}


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise refused([Fault("#/rate", "must be a number of messages per second")]) from None


def _back(visit: Visit) -> str:
    """The query of the list that one came from: the filter survives what is done with it."""
    return back_query(visit, visit.form.get("back", ""))


def back_query(visit: Visit, text: str) -> str:
    """Only what is a filter passes."""
    try:
        return Filter.of(first_of_each(parse_qsl(text)), visit.now).query
    except (Refused, ValueError):
        return ""


def _filtering(visit: Visit, wanted: Filter) -> dict[str, Any]:
    """What the form above the lists shows and offers."""
    providers = [p.name for p in visit.services.config.providers if not p.test_only]
    choices = {
        "state": [s.value for s in DeadLetterState],
        "channel": [c.value for c in Channel],
        "provider": providers,
        "reason": [r.value for r in REASONS],
    }
    suggestions = [f"{name}:{value}" for name, values in choices.items() for value in values]
    return {
        "filter": wanted,
        "fields": FIELDS,
        "choices": choices,
        "suggestions": [*suggestions, "code:", "tag:", "since:1h", "since:1d", "until:1h"],
        "redrivable": wanted.wanted.state in REDRIVABLE,
        "archivable": wanted.wanted.state is DeadLetterState.OPEN,
    }


def _total(found: Any) -> int:
    return sum(group.count for group in found)


READ: Final = (ScopeName.DEAD_LETTERS_READ,)
WRITE: Final = (ScopeName.DEAD_LETTERS_WRITE,)
VIEWS: Final = (
    View(path=HERE, handler=groups, scopes=READ),
    View(path=f"{HERE}/list", handler=letters, scopes=READ),
    View(method="POST", path=f"{HERE}/review", handler=review, scopes=WRITE),
    View(method="POST", path=f"{HERE}/operate", handler=operate, scopes=WRITE),
)
