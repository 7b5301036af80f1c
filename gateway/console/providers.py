"""`/console/providers`: each one's breaker, limiter and load, what an operator can tell it, and our own actors."""

from __future__ import annotations

from typing import Any, Final

from heliograph.actors.model.access import ScopeName
from heliograph.gateway.api.providers import ROUTES
from heliograph.gateway.api.routing import Route
from heliograph.gateway.api.schemas import ProviderAnswer
from heliograph.gateway.console.commands import Equivalent, equivalent
from heliograph.gateway.console.visit import Moved, Page, View, Visit, route_to

HERE: Final = "/console/providers"


async def many(visit: Visit) -> Page:
    cluster = await visit.shared.cluster.now()
    found = cluster.providers()
    values = {
        "providers": found,
        "supervisors": cluster.supervisors(),
        "actors": visit.services.actors(),
        "supervisor": visit.services.supervisor,
        "may_write": visit.may(ScopeName.PROVIDERS_WRITE),
        "equivalents": {provider["name"]: _equivalents(visit, provider) for provider in found},
    }
    return Page("providers.html", values)


def _equivalents(visit: Visit, provider: ProviderAnswer) -> list[Equivalent]:
    name = provider["name"]
    path = f"/v1/providers/{name}"
    hour = ["--duration", "1h"]
    return [
        equivalent("pause", visit.origin, f"{path}/pause", ["providers", "pause", name, *hour], {"duration": "1h"}),
        equivalent("resume", visit.origin, f"{path}/resume", ["providers", "resume", name]),
        equivalent(
            "hold the breaker open", visit.origin, f"{path}/breaker", ["providers", "breaker", name, "open", *hour],
            {"state": "open", "duration": "1h"},
        ),
        equivalent(
            "leave the breaker to itself", visit.origin, f"{path}/breaker", ["providers", "breaker", name, "auto"],
            {"state": "auto"},
        ),
    ]  # fmt: skip


async def pause(visit: Visit) -> Moved:
    body: dict[str, Any] = {"duration": visit.form.get("duration", "").strip()}
    if reason := visit.form.get("reason", "").strip():
        body["reason"] = reason
    await visit.act(_route("pause"), body)
    return _back(visit)


async def resume(visit: Visit) -> Moved:
    await visit.act(_route("resume"))
    return _back(visit)


async def breaker(visit: Visit) -> Moved:
    state = visit.form.get("state", "")
    body = {"state": state} if state == "auto" else {"state": state, "duration": visit.form.get("duration", "").strip()}
    await visit.act(_route("breaker"), body)
    return _back(visit)


def _route(action: str) -> Route[Any, Any]:
    return route_to(ROUTES, "POST", f"/v1/providers/{{name}}/{action}")


def _back(visit: Visit) -> Moved:
    return Moved(f"{HERE}#{visit.id}")


def _action(name: str, handler: Any) -> View:
    return View(
        method="POST",
        path=f"{HERE}/{{id}}/{name}",
        handler=handler,
        scopes=(ScopeName.PROVIDERS_WRITE,),
        id_kind="provider",
    )


VIEWS: Final = (
    View(path=HERE, handler=many, scopes=(ScopeName.PROVIDERS_READ,), live="live/providers.html"),
    _action("pause", pause),
    _action("resume", resume),
    _action("breaker", breaker),
)
