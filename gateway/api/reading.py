"""From the bytes of a request to a checked model: every fault found at once, each with its place.

JSON is read by orjson. What it refuses though it is well-formed (a lone surrogate, a number beyond a double) is read
again by the standard library, so that the answer is 422 with the place and not "no JSON". Of a key that comes twice in
an object the last one counts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Final, NoReturn, TypeVar
from urllib.parse import parse_qsl, quote

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from heliograph.gateway.api.schemas import Body, Query
from heliograph.gateway.limits import MOST_NESTING
from heliograph.gateway.problems import MOST_FAULTS, Code, Fault, Refused, invalid

B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)

MOST_PARAMETERS: Final = 50
TOO_DEEP: Final = f"is nested deeper than {MOST_NESTING} levels"
# What orjson refuses in JSON that RFC 8259 allows.
_ODD: Final = re.compile(rb"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{3}|[0-9]{300}")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_READ_DEPTH: Final = 1024
"""Nesting that orjson reads, and no deeper."""
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def body_of(model: type[B], raw: bytes) -> B:
    """The whole body as a model. Refused with 400 or 422."""
    value, clean = loads(raw)
    faults = [] if clean else list(deep_faults(value))
    if not faults:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            faults = faults_of(error, model)
    raise refused(faults)


def query_of(model: type[Q], query_string: bytes) -> Q:
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_PARAMETERS, errors="strict"
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise refused([Fault("?", "the query cannot be read: it is not escaped UTF-8, or too long")]) from error
    given: dict[str, str] = {}
    faults = []
    for name, value in pairs:
        if name in given:
            faults.append(Fault(f"?{_quoted(name)}", "is given twice"))
        elif _UNSTORABLE.search(value):
            faults.append(Fault(f"?{_quoted(name)}", "holds the character U+0000"))
        given[name] = value
    try:
        wanted = model.model_validate(given)
    except ValidationError as error:
        raise refused(faults + faults_of(error, model, query=True)) from None
    if faults:
        raise refused(faults)
    return wanted


def loads(raw: bytes) -> tuple[object, bool]:
    """The JSON value, and whether nothing but its nesting is left for `deep_faults` to find.

    Refused with 400 where it is none, with 422 where it is nested beyond reason.
    """
    try:
        return orjson.loads(raw), b"\\u0000" not in raw
    except orjson.JSONDecodeError as error:
        if _too_deep(raw):
            raise refused([Fault("#", TOO_DEEP)]) from None
        if not _ODD.search(raw):
            raise _malformed(error) from None
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_int=_number), False
    except json.JSONDecodeError as error:
        raise _malformed(error) from None
    except (ValueError, RecursionError):
        raise Refused(Code.MALFORMED_JSON, "the body is not JSON in UTF-8") from None


def deep_faults(value: object) -> Iterator[Fault]:
    """What types cannot say: nesting, and characters and numbers that no store takes. Not recursive."""
    waiting: list[tuple[object, tuple[str | int, ...]]] = [(value, ())]
    while waiting:
        inner, place = waiting.pop()
        match inner:
            case str():
                if _UNSTORABLE.search(inner):
                    yield Fault(pointer_of(place), "holds U+0000 or half a surrogate pair, which cannot be stored")
            case float():
                if math.isinf(inner):
                    yield Fault(pointer_of(place), "is a number beyond all bounds")
            case dict() | list() if len(place) >= MOST_NESTING:
                yield Fault(pointer_of(place[:3]), TOO_DEEP)
            case dict():
                for name in inner:
                    if _UNSTORABLE.search(name):
                        yield Fault(pointer_of(place), "has a name with U+0000 or half a surrogate pair in it")
                waiting += [(item, (*place, name)) for name, item in inner.items()]
            case list():
                waiting += [(item, (*place, index)) for index, item in enumerate(inner)]


def faults_of(error: ValidationError, model: type[BaseModel], *, query: bool = False) -> list[Fault]:
    """Pydantic's list in the API's words."""
    return [_fault(e, model, query) for e in error.errors(include_url=False, include_input=False)[:MOST_FAULTS]]


def _fault(error: ErrorDetails, model: type[BaseModel], query: bool) -> Fault:
    place = [part for part in error["loc"] if part != "[key]"]
    pointer = f"?{_quoted(str(place[0]))}" if query and place else pointer_of(place)
    match error["type"]:
        case "missing":
            return Fault(pointer, "is required")
        case "extra_forbidden":
            return _unknown_field(pointer, place, model)
        case "model_type" | "model_attributes_type" | "dict_type":
            return Fault(pointer, "must be an object")
        case "fault":
            return Fault(pointer, error["msg"])
        case _:
            message = error["msg"].removeprefix("Value error, ")
            return Fault(pointer, message[:1].lower() + message[1:])


def _unknown_field(pointer: str, place: Sequence[str | int], model: type[BaseModel]) -> Fault:
    name = str(place[-1])
    if len(place) == 1 and issubclass(model, Body) and name in model.not_available:
        return Fault(pointer, "is not available yet", Code.NOT_AVAILABLE)
    known = (
        {field.alias or field_name for field_name, field in model.model_fields.items()} if len(place) == 1 else set()
    )
    near = get_close_matches(name[:100], known, n=1)
    return Fault(pointer, f"is not known here; did you mean {near[0]}?" if near else "is not known here")


def pointer_of(place: Sequence[str | int]) -> str:
    """A JSON pointer as a URI fragment (RFC 6901, 6).

    >>> pointer_of(["metadata", "a/b", 3])
    '#/metadata/a~1b/3'
    """
    return "#" + "".join("/" + _quoted(str(part).replace("~", "~0").replace("/", "~1")) for part in place)


def _quoted(name: str) -> str:
    return quote(name[:100], safe="~!$&'()*+,;=:@", errors="replace")


def refused(faults: Sequence[Fault]) -> Refused:
    return Refused.of(invalid(faults))


def _too_deep(raw: bytes) -> bool:
    """Only asked of what could not be read; looks at a bounded part of it. Brackets that do not close are no JSON,
    however deep."""
    opened = raw.count(b"[") + raw.count(b"{")
    if opened <= _READ_DEPTH or opened != raw.count(b"]") + raw.count(b"}"):
        return False
    depth = 0
    for seen, token in enumerate(_TOKEN.finditer(raw)):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth > _READ_DEPTH:
                return True
        elif mark in (b"]", b"}"):
            depth -= 1
        if seen > 100_000:
            return False
    return False


def _malformed(error: json.JSONDecodeError) -> Refused:
    return Refused(Code.MALFORMED_JSON, f"the body is not JSON: line {error.lineno}, column {error.colno}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(digits: str) -> int | float:
    """As orjson reads it: beyond 64 bits a whole number is a double."""
    return int(digits) if len(digits) < 19 else float(digits)
