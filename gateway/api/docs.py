"""`/docs`: the OpenAPI page for people. One HTML file without scripts; nothing is loaded from anywhere."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment

from heliograph.gateway.problems import MEANINGS, Code

DEEPEST: Final = 4


def docs_page(openapi: dict[str, Any]) -> bytes:
    source = (files("heliograph.gateway.api") / "docs.html").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    schemas = openapi["components"]["schemas"]
    environment.filters["fields"] = lambda schema: _fields(schema, schemas)
    environment.filters["type_of"] = lambda schema: _type_of(schema)
    environment.filters["pretty"] = lambda value: json.dumps(value, ensure_ascii=False, indent=2)
    by_tag: dict[str, list[dict[str, Any]]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append({"path": path, "method": method.upper(), **operation})
    codes = [(code.value, MEANINGS[code]) for code in Code]
    return environment.from_string(source).render(openapi=openapi, by_tag=by_tag, codes=codes).encode()


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return schemas[reference.rpartition("/")[2]] if reference else schema


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that a schema stands for: its own fields, and those of what it is a list or a choice of."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()

    def look(inner: dict[str, Any], depth: int) -> None:
        whole = _resolved(inner, schemas)
        title = whole.get("title", "")
        if depth > DEEPEST or (title and title in seen):
            return
        if "properties" in whole:
            seen.add(title)
            required = whole.get("required", [])
            fields = [
                {"name": name, "required": name in required, "type": _type_of(field), "note": _note(field)}
                for name, field in whole["properties"].items()
            ]
            found.append({"title": title, "note": whole.get("description", ""), "fields": fields})
        for child in [
            *whole.get("anyOf", ()),
            *whole.get("oneOf", ()),
            *filter(None, [whole.get("items")]),
            *whole.get("properties", {}).values(),
        ]:
            look(child, depth + 1)

    look(schema, 0)
    return found


def _type_of(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type_of(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("contentEncoding") or schema.get("type") or "any")


_NOTED: Final = {
    "minLength": "at least {} characters", "maxLength": "at most {} characters", "minItems": "at least {}",
    "maxItems": "at most {}", "minimum": "from {}", "maximum": "to {}", "pattern": "like {}", "default": "else {}",
}  # fmt: skip


def _note(schema: dict[str, Any]) -> str:
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    whole = {**schema, **options[0]} if len(options) == 1 else schema
    return "; ".join(text.format(whole[name]) for name, text in _NOTED.items() if whole.get(name) not in (None, [], {}))
