"""The OpenAPI page says what is served, no more and no less, and real answers keep to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.message import Channel, Reason, State, WaitingFor
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.gateway.api.schemas import (
    ChannelName,
    DeadLetterStateName,
    ReasonName,
    Scope,
    StateName,
    SuppressionReasonName,
    WaitingForName,
)
from heliograph.gateway.app import ROUTES, make_app
from tests.gateway.test_dead_letters import failed
from tests.support.gateway_world import EMAIL, SMS, Answer, World, a_gateway, a_served_gateway


async def described() -> Any:
    async with a_gateway() as gateway:
        return (await gateway.get("/openapi.json", secret=None)).json


async def test_the_page_is_valid_openapi_3_1() -> None:
    page = await described()
    assert page["openapi"].startswith("3.1")
    validate(page)


async def test_the_page_names_exactly_the_routes_that_are_served() -> None:
    page = await described()
    named = {(method.upper(), path) for path, methods in page["paths"].items() for method in methods}
    served = {
        (method, endpoint.split(" ", 1)[1].replace("openapi_json", "openapi.json"))
        for rule in make_app(World().services).url_map.iter_rules()
        if not (endpoint := str(rule.endpoint)).startswith("console")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert named == served


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages/preview"), ("GET", "/v1/messages/msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F/explain"),
        ("GET", "/v1/audit"), ("POST", "/v1/receipts/text"), ("POST", "/v1/templates"),
        ("GET", "/v1/webhooks"), ("DELETE", "/v1/webhooks/x"),
        ("GET", "/v1/keys/key_01JD3Q8ZK4A7XNVT0B2C9M5E6F/webhook-secret"),
        ("GET", "/"), ("GET", "/v1"), ("GET", "/v1/messages/"), ("GET", "/nowhere"),
    ],
)  # fmt: skip
async def test_what_is_not_there_yet_is_404_and_not_on_the_page(method: str, path: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.ask(method, path)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert path not in (await described())["paths"]


def test_the_words_of_the_api_are_those_of_the_model() -> None:
    pairs = [
        (ChannelName, Channel), (StateName, State), (ReasonName, Reason), (WaitingForName, WaitingFor),
        (DeadLetterStateName, DeadLetterState), (Scope, ScopeName),
        (SuppressionReasonName, SuppressionReason),
    ]  # fmt: skip
    for literal, enum in pairs:
        assert list(literal.__args__) == [member.value for member in enum]  # type: ignore[attr-defined]


def schema_of(page: Any, method: str, path: str, status: int) -> Any:
    response = page["paths"][path][method.lower()]["responses"][str(status)]
    [content] = response["content"].values()
    return {**content["schema"], "components": page["components"]}


def keeps_to(page: Any, method: str, path: str, answer: Answer) -> None:
    schema = closed(schema_of(page, method, path, answer.status))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(answer.json)


def closed(schema: Any) -> Any:
    """With every object closed: a field that the page does not name is a fault of the page."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    if "properties" in schema and "type" in schema:
        inner.setdefault("additionalProperties", False)
    return inner


async def test_real_answers_keep_to_the_page() -> None:
    page = await described()
    async with a_gateway() as gateway:
        message_id = await failed(gateway, tags=["x"], metadata={"a": 1})
        letters = "/v1/dead-letters"
        posted = await gateway.post("/v1/messages", {**SMS, "send_at": "2026-11-25T00:00:00Z"})
        keeps_to(page, "POST", "/v1/messages", posted)
        batch = await gateway.post("/v1/messages/batch", {"messages": [SMS, EMAIL, {}]})
        keeps_to(page, "POST", "/v1/messages/batch", batch)
        keeps_to(page, "GET", "/v1/messages", await gateway.get("/v1/messages"))
        keeps_to(page, "GET", "/v1/messages/{id}", await gateway.get(f"/v1/messages/{message_id}"))
        cancelled = await gateway.post(f"/v1/messages/{posted.json['id']}/cancel")
        keeps_to(page, "POST", "/v1/messages/{id}/cancel", cancelled)
        keeps_to(page, "GET", letters, await gateway.get(letters))
        keeps_to(page, "GET", f"{letters}/groups", await gateway.get(f"{letters}/groups"))
        keeps_to(page, "GET", f"{letters}/{{id}}", await gateway.get(f"{letters}/{message_id}"))
        dry = await gateway.post(f"{letters}/redrive", {"ids": [message_id], "dry_run": True})
        keeps_to(page, "POST", f"{letters}/redrive", dry)
        operation = await gateway.post(f"{letters}/redrive", {"ids": [message_id, "x"]})
        keeps_to(page, "POST", f"{letters}/redrive", operation)
        one = await gateway.get(f"/v1/operations/{operation.json['id']}")
        keeps_to(page, "GET", "/v1/operations/{id}", one)
        keeps_to(page, "GET", "/v1/providers", await gateway.get("/v1/providers"))
        keeps_to(page, "GET", "/v1/providers", await gateway.get("/v1/providers?view=supervisors"))
        paused = await gateway.post("/v1/providers/text/pause", {"duration": "1h"})
        keeps_to(page, "POST", "/v1/providers/{name}/pause", paused)
        keeps_to(page, "GET", "/v1/stats", await gateway.get("/v1/stats"))
        made = await gateway.post("/v1/keys", {"name": "k"})
        keeps_to(page, "POST", "/v1/keys", made)
        keeps_to(page, "GET", "/v1/keys", await gateway.get("/v1/keys"))
        keeps_to(page, "GET", "/v1/keys/{id}", await gateway.get(f"/v1/keys/{made.json['id']}"))
        suppressed = await gateway.post("/v1/suppressions", {"channel": "email", "to": "x@shop.in"})
        keeps_to(page, "POST", "/v1/suppressions", suppressed)
        keeps_to(page, "GET", "/v1/suppressions", await gateway.get("/v1/suppressions"))
        one = await gateway.get(f"/v1/suppressions/{suppressed.json['id']}")
        keeps_to(page, "GET", "/v1/suppressions/{id}", one)
        for path in ("/livez", "/readyz"):
            keeps_to(page, "GET", path, await gateway.get(path, secret=None))
        keeps_to(page, "POST", "/v1/messages", await gateway.post("/v1/messages", {}))
        keeps_to(page, "GET", "/v1/messages", await gateway.get("/v1/messages", secret=None))


def test_every_operation_can_be_told_from_the_others() -> None:
    ids = [(route.method, route.path) for route in ROUTES]
    assert len(ids) == len(set(ids))


async def test_requests_made_from_the_page_never_break_the_gateway() -> None:
    """Schemathesis draws requests, right and wrong, for each operation: no 5xx, no answer that is not on the page."""
    async with a_served_gateway() as served:
        await trio.to_thread.run_sync(draw_requests, f"http://127.0.0.1:{served.port}", [served.secret], 8)


async def test_whoever_asks_no_answer_is_off_the_page() -> None:
    async with a_served_gateway() as served:
        key = served.world.key
        secrets = [*[await key(scope) for scope in ScopeName], await key(tenant="acme"), await key(live=False), None]
        await trio.to_thread.run_sync(draw_requests, f"http://127.0.0.1:{served.port}", secrets, 1)


def draw_requests(url: str, secrets: Sequence[str | None], examples: int) -> None:
    """So many requests for each operation, each asked with every one of these keys."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/v1/stats/stream":  # has no end
            continue

        @settings(DRAWN, max_examples=examples)
        @given(case=operation.as_strategy())
        def draw(case: schemathesis.Case) -> None:
            for secret in secrets:
                credentials = {"Authorization": f"Bearer {secret}", "X-API-Key": secret} if secret else {}
                response = case.call(base_url=url, headers=credentials, timeout=10)
                # That the page's own types let more through than the validators do is known: a number, an address.
                # Nor does a key that may not ask prove that the page is wrong in what it takes.
                case.validate_response(response, excluded_checks=[positive_data_acceptance, ignored_auth])

        draw()


DRAWN = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
