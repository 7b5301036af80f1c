"""`/console/messages`: messages, and everything that happened to one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

import structlog

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.attempt import Attempt, Outcome
from heliograph.actors.model.deadletter import DeadLetter, DeadLetterState
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.message import Channel, State
from heliograph.actors.ports.ledger import MessageFilter, MessageView
from heliograph.gateway.api import pages
from heliograph.gateway.api.messages import LIST, ROUTES
from heliograph.gateway.api.reading import query_of
from heliograph.gateway.api.routing import ULID
from heliograph.gateway.api.schemas import MessageQuery
from heliograph.gateway.console.commands import Equivalent, equivalent, operation_equivalent
from heliograph.gateway.console.filters import MOMENTS, moment_of
from heliograph.gateway.console.visit import Moved, Page, View, Visit, route_to

log = structlog.get_logger()
HERE: Final = "/console/messages"
A_PAGE: Final = 50
FIELDS: Final = ("state", "channel", "to", "tag", "since", "until")
_ID: Final = re.compile(f"msg_{ULID}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of a message's story. `kind` is its sort, for colour; `lasted_s` of an attempt."""

    at: datetime
    kind: str
    title: str
    provider: str | None = None
    code: str | None = None
    detail: str | None = None
    lasted_s: float | None = None
    facts: tuple[tuple[str, str], ...] = ()


async def many(visit: Visit) -> Page | Moved:
    found_id = _ID.fullmatch(visit.query.get("to", "").strip())
    if found_id is not None:
        return Moved(f"{HERE}/{found_id[0]}")
    given = {name: visit.query[name].strip() for name in FIELDS if visit.query.get(name, "").strip()}
    exact = {name: moment_of(value, visit.now) if name in MOMENTS else value for name, value in given.items()}
    query = query_of(MessageQuery, urlencode(exact).encode())
    wanted = MessageFilter(
        state=State(query.state) if query.state else None,
        channel=Channel(query.channel) if query.channel else None,
        to=query.to,
        tag=query.tag,
        since=query.since,
        until=query.until,
    )
    before = pages.id_before(LIST, visit.query.get("cursor"))
    found = await visit.services.ledger.messages.list(wanted, tenant=visit.tenant, before=before, limit=A_PAGE + 1)
    shown, more = pages.split(found, A_PAGE)
    values = {
        "given": given,
        "messages": shown,
        "waiting": await visit.shared.cluster.waiting(shown),
        "states": list(State),
        "channels": list(Channel),
        "next": urlencode({**given, "cursor": pages.cursor_after(LIST, shown[-1].message.id)}) if more else None,
    }
    return Page("messages.html", values)


async def one(visit: Visit) -> Page:
    return await _page(visit, revealed=False)


async def reveal(visit: Visit) -> Page:
    """The same page with its addresses. Who looked is written down."""
    page = await _page(visit, revealed=True)
    log.info("console.revealed", message=visit.id, key=visit.key.id)
    return page


async def _page(visit: Visit, *, revealed: bool) -> Page:
    letter = await _letter(visit)
    if letter is None and not visit.may(ScopeName.MESSAGES_READ):
        raise NotFound(f"there is no dead letter {visit.id}")
    view = await visit.services.ledger.messages.get(visit.id, tenant=visit.tenant)
    [waiting] = await visit.shared.cluster.waiting([view])
    state = letter.state if letter is not None else None
    cancellable = view.standing.state in (State.QUEUED, State.SCHEDULED) and visit.may(ScopeName.MESSAGES_WRITE)
    values = {
        "view": view,
        "letter": letter,
        "waiting": waiting,
        "story": sorted(story(view, letter), key=lambda m: m.at)[::-1],
        "revealed": revealed,
        "may_write": visit.may(ScopeName.DEAD_LETTERS_WRITE),
        "redrivable": state in (DeadLetterState.OPEN, DeadLetterState.ARCHIVED),
        "archivable": state is DeadLetterState.OPEN,
        "cancellable": cancellable,
        "equivalents": list(_equivalents(visit, letter, cancellable=cancellable)),
    }
    return Page("message.html", values)


async def _letter(visit: Visit) -> DeadLetter | None:
    if not visit.may(ScopeName.DEAD_LETTERS_READ):
        return None
    try:
        return await visit.services.ledger.dead_letters.get(visit.id, tenant=visit.tenant)
    except NotFound:
        return None


def _equivalents(visit: Visit, letter: DeadLetter | None, *, cancellable: bool) -> Iterator[Equivalent]:
    path = f"/v1/messages/{visit.id}"
    yield equivalent("read", visit.origin, path, ["messages", "show", visit.id], method="GET")
    if cancellable:
        yield equivalent("cancel", visit.origin, f"{path}/cancel", None)
    if letter is not None:
        yield operation_equivalent(visit.origin, "redrive", {"ids": [visit.id]})


def story(view: MessageView, letter: DeadLetter | None) -> Iterator[Moment]:
    """What happened; of what happened at the same time, the first comes first."""
    message, standing = view.message, view.standing
    yield Moment(at=message.created_at, kind="accepted", title="Accepted", facts=(("key", message.key_id),))
    for attempt in view.attempts:
        yield from _of_attempt(attempt)
    if standing.state in (State.CANCELLED, State.SUPPRESSED):
        yield Moment(at=standing.updated_at, kind="ended", title=standing.state.capitalize())
    if letter is not None:
        yield Moment(
            at=letter.created_at,
            kind="dead",
            title=f"Became a dead letter: {letter.reason.replace('_', ' ')}",
            provider=letter.provider,
            code=letter.code,
            detail=letter.cause,
        )
        if letter.state is not DeadLetterState.OPEN:
            times = (("redriven so often", str(letter.redrives)),) if letter.redrives else ()
            yield Moment(at=letter.updated_at, kind=letter.state.value, title=letter.state.capitalize(), facts=times)


def _of_attempt(attempt: Attempt) -> Iterator[Moment]:
    ended = attempt.finished_at
    outcome = attempt.outcome.value if attempt.outcome else "under way"
    facts = (("provider's id", attempt.provider_message_id),) if attempt.provider_message_id else ()
    yield Moment(
        at=ended or attempt.started_at,
        kind=_kind(attempt),
        title=f"Attempt {attempt.number}: {outcome}",
        provider=attempt.provider,
        code=attempt.code,
        detail=attempt.detail,
        lasted_s=(ended - attempt.started_at).total_seconds() if ended else None,
        facts=facts,
    )
    if attempt.settled is not None:
        yield Moment(
            at=attempt.settled_at or ended or attempt.started_at,
            kind="accepted" if attempt.settled == "accepted" else "ended",
            title=f"Attempt {attempt.number} settled: {attempt.settled.replace('_', ' ')}",
            provider=attempt.provider,
        )


def _kind(attempt: Attempt) -> str:
    match attempt.outcome:
        case None:
            return "running"
        case Outcome.ACCEPTED:
            return "accepted"
        case Outcome.REJECTED | Outcome.MISCONFIGURED:
            return "dead"
        case _:
            return "ended"


async def cancel(visit: Visit) -> Moved:
    await visit.act(route_to(ROUTES, "POST", "/v1/messages/{id}/cancel"))
    return Moved(f"{HERE}/{visit.id}")


SEEN: Final = (ScopeName.MESSAGES_READ, ScopeName.DEAD_LETTERS_READ)
VIEWS: Final = (
    View(path=HERE, handler=many, scopes=(ScopeName.MESSAGES_READ,)),
    View(path=f"{HERE}/{{id}}", handler=one, scopes=SEEN, id_kind="message"),
    View(method="POST", path=f"{HERE}/{{id}}/reveal", handler=reveal, scopes=SEEN, id_kind="message"),
    View(
        method="POST",
        path=f"{HERE}/{{id}}/cancel",
        handler=cancel,
        scopes=(ScopeName.MESSAGES_WRITE,),
        id_kind="message",
    ),
)
