"""Templates: Jinja with autoescape over everything, and the few words they have for times, numbers and recipients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from heliograph.gateway.console.masking import masked, masked_text

HERE: Final = files("heliograph.gateway.console")
TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    body: bytes
    content_type: str
    tag: str


def static_files() -> Mapping[str, StaticFile]:
    """All of them, by name: they are few and small."""
    found = {}
    for file in (HERE / "static").iterdir():
        body = file.read_bytes()
        tag = hashlib.sha256(body).hexdigest()[:16]
        found[file.name] = StaticFile(body, TYPES[file.name.rpartition(".")[2]], tag)
    return found


class Renderer:
    def __init__(self, statics: Mapping[str, StaticFile]) -> None:
        self._statics = statics
        self._jinja = Environment(
            loader=FunctionLoader(lambda name: (HERE / "templates" / name).read_text(encoding="utf-8")),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._jinja.filters |= {
            "masked": masked, "masked_text": masked_text, "moment": moment, "iso": iso, "number": number,
            "length_of_time": length_of_time, "words": words,
        }  # fmt: skip
        self._jinja.globals |= {"static": self._static, "ago": ago}

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        return self._jinja.get_template(template).render(values)

    def _static(self, name: str) -> str:
        """Its address changes with its content, so that it can be kept for ever."""
        return f"/console/static/{name}?v={self._statics[name].tag}"


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(at: datetime, now: datetime) -> str:
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"in {length_of_time(-seconds)}" if seconds < 0 else f"{length_of_time(seconds)} ago"


def length_of_time(seconds: float) -> str:
    """
    >>> [length_of_time(s) for s in (0.0123, 3.25, 75, 7260, 200000)]
    ['12 ms', '3.2 s', '1 min', '2 h', '2 d']
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, length_s in (("d", 86400), ("h", 3600)):
        if seconds >= length_s:
            return f"{int(seconds // length_s)} {unit}"
    return f"{int(seconds // 60)} min"


def number(value: float) -> str:
    """
    >>> number(12345), number(0.5), number(40.0)
    ('12,345', '0.5', '40')
    """
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}".rstrip("0")


def words(name: str) -> str:
    """A name of the API for people.

    >>> words("attempts_exhausted")
    'attempts exhausted'
    """
    return name.replace("_", " ")
