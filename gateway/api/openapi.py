"""The OpenAPI page (3.1), from the table of routes and the schemas: what is not served is not in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from heliograph.gateway.api import receipts
from heliograph.gateway.api.public import PublicRoute
from heliograph.gateway.api.receipts import ReportedAnswer
from heliograph.gateway.api.routing import KINDS_OF_ID, Route
from heliograph.gateway.limits import MOST_KEY_CHARACTERS
from heliograph.gateway.problems import MEANINGS, Code, Problem

REF: Final = "#/components/schemas/{model}"
ALWAYS: Final = (
    Code.MALFORMED_REQUEST, Code.CONFLICTING_CREDENTIALS, Code.UNAUTHORIZED, Code.MISSING_SCOPE, Code.INVALID,
    Code.INTERNAL, Code.UNAVAILABLE,
)  # fmt: skip
WITH_BODY: Final = (
    Code.MALFORMED_JSON, Code.REQUEST_TIMEOUT, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE,
)  # fmt: skip
OF_RECEIPTS: Final = (
    Code.MALFORMED_REQUEST, Code.NOT_GENUINE, Code.NOT_FOUND, Code.REQUEST_TIMEOUT, Code.TOO_LARGE, Code.INTERNAL,
    Code.UNAVAILABLE,
)  # fmt: skip
DESCRIPTION: Final = """\
Accepts SMS and email and brings each to an end. A message answered with 202 survives the death of any process.

Every error is a problem of RFC 9457; its `code` is for programs. Times are RFC 3339, lengths of time as `1h30m`."""

Routes = Sequence[Route[Any, Any]]


def openapi(routes: Routes, public: Sequence[PublicRoute]) -> dict[str, Any]:
    schemas, definitions = _schemas(routes, public)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    for page in public:
        paths.setdefault(page.path, {})["get"] = _public_operation(page, schemas)
    for method in receipts.METHODS:
        paths.setdefault(receipts.PATH, {})[method.lower()] = _receipts_operation(method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Heliograph", "version": version("heliograph"), "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"header": []}],
    }


def _types(routes: Routes, public: Sequence[PublicRoute]) -> Iterator[tuple[Any, JsonSchemaMode]]:
    yield Problem, "serialization"
    yield ReportedAnswer, "serialization"
    for route in routes:
        yield route.body or route.documents, "validation"
        yield route.answer, "serialization"
        for answer in route.other_answers.values():
            yield answer, "serialization"
    for page in public:
        for answer in page.answers.values():
            yield answer, "serialization"


def _schemas(routes: Routes, public: Sequence[PublicRoute]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each type (a reference, mostly), and what they refer to."""
    types: dict[Any, JsonSchemaMode] = {kind: mode for kind, mode in _types(routes, public) if kind is not None}
    by_key, whole = TypeAdapter.json_schemas(
        [(kind, mode, TypeAdapter(kind)) for kind, mode in types.items()], ref_template=REF
    )
    return {kind: schema for (kind, _), schema in by_key.items()}, whole.get("$defs", {})


def _operation(route: Route[Any, Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route.method, route.path),
        "summary": route.summary,
        "description": f"Needs the scope {' or '.join(f'`{scope}`' for scope in route.scopes)}.",
        "tags": [route.tag],
        "parameters": list(_parameters(route)),
        "responses": _responses(route, schemas),
    }
    if route.takes_json:
        schema = schemas[route.body or route.documents]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _parameters(route: Route[Any, Any]) -> Iterator[dict[str, Any]]:
    if route.id_kind:
        schema = {"type": "string", "pattern": f"^{KINDS_OF_ID[route.id_kind]}$"}
        yield {"name": route.parameter, "in": "path", "required": True, "schema": schema}
    if route.query is not None:
        whole = route.query.model_json_schema(ref_template=REF)
        for name, schema in whole["properties"].items():
            yield {"name": name, "in": "query", "required": False, "schema": _without_null(schema)}
    if route.idempotent_by_key:
        one_key: dict[str, Any] = {
            "type": "string",
            "minLength": 1,
            "maxLength": MOST_KEY_CHARACTERS,
            "pattern": "^[!-~]+$",
        }
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "A repeat within 24 h is answered as the first was, and nothing is done twice.",
            "schema": one_key,
        }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is not there: null is a matter of the model."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "default", "title")}
    return {**options[0], **kept}


def _responses(route: Route[Any, Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in {route.status: route.answer, **route.other_answers}.items():
        responses[str(status)] = _response(status, schemas.get(answer), route.answer_type)
    codes = {*ALWAYS, *route.also}
    if route.takes_json:
        codes.update(WITH_BODY)
    if route.id_kind:
        codes.add(Code.NOT_FOUND)
    for status in sorted({MEANINGS[code].status for code in codes}):
        named = ", ".join(f"`{code}`" for code in Code if code in codes and MEANINGS[code].status == status)
        responses[str(status)] = _response(status, schemas[Problem], "application/problem+json", named)
    return responses


def _public_operation(page: PublicRoute, schemas: dict[Any, Any]) -> dict[str, Any]:
    return {
        "operationId": _operation_id("GET", page.path),
        "summary": page.summary,
        "description": "Open to all.",
        "tags": ["service"],
        "security": [],
        "parameters": [],
        "responses": {
            str(status): _response(status, schemas[answer], page.answer_type) for status, answer in page.answers.items()
        },
    }


def _receipts_operation(method: str, schemas: dict[Any, Any]) -> dict[str, Any]:
    schema = {"type": "string", "pattern": f"^{KINDS_OF_ID['provider']}$"}
    responses = {"200": _response(200, schemas[ReportedAnswer], "application/json")}
    for status in sorted({MEANINGS[code].status for code in OF_RECEIPTS}):
        named = ", ".join(f"`{code}`" for code in OF_RECEIPTS if MEANINGS[code].status == status)
        responses[str(status)] = _response(status, schemas[Problem], "application/problem+json", named)
    return {
        "operationId": _operation_id(method, receipts.PATH),
        "summary": "Take delivery reports from a provider",
        "description": "Needs no API key: each provider proves in its own way that it is the one who calls. The body is"
        " as it sends it. Answered once it is committed.",
        "tags": ["receipts"],
        "security": [],
        "parameters": [{"name": "provider", "in": "path", "required": True, "schema": schema}],
        "requestBody": {"required": False, "content": {"application/json": {"schema": {}}}},
        "responses": responses,
    }


def _response(status: int, schema: Any, content_type: str, description: str = "") -> dict[str, Any]:
    response: dict[str, Any] = {"description": description or HTTPStatus(status).phrase}
    if schema is not None:
        response["content"] = {content_type: {"schema": schema}}
    return response


def _operation_id(method: str, path: str) -> str:
    words = re.sub(r"\{\w+\}", "one", path.removeprefix("/v1")).replace("-", "_").replace(".", "_").split("/")
    return "_".join([method.lower(), *filter(None, words)])
