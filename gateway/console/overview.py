"""`/console`: how the service is, in numbers, and what fails."""

from __future__ import annotations

from typing import Any, Final

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.deadletter import DeadLetterFilter
from heliograph.actors.model.message import Channel, State
from heliograph.gateway.api.stats import stats_answer
from heliograph.gateway.auth import is_operator
from heliograph.gateway.console.filters import Filter
from heliograph.gateway.console.visit import Page, View, Visit

MOST_GROUPS: Final = 5


async def overview(visit: Visit) -> Page:
    """Each part only for who may see it: the numbers are of all tenants together."""
    values: dict[str, Any] = {"stats": None, "providers": [], "groups": [], "filter": Filter.of({}, visit.now)}
    if is_operator(visit.key) and visit.may(ScopeName.MESSAGES_READ):
        values |= {
            "stats": stats_answer(await visit.services.stats()),
            "states": list(State),
            "channels": list(Channel),
        }
    if visit.may(ScopeName.PROVIDERS_READ):
        values["providers"] = (await visit.shared.cluster.now()).providers()
    if visit.may(ScopeName.DEAD_LETTERS_READ):
        letters = visit.services.ledger.dead_letters
        values["groups"] = await letters.groups(DeadLetterFilter(), tenant=visit.tenant, limit=MOST_GROUPS)
    return Page("overview.html", values)


VIEWS: Final = (View(path="/console", handler=overview, live="live/overview.html"),)
