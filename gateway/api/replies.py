"""What is answered, as bytes: by the API's handlers and by whatever answers beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` is JSON, ready to be sent, unless `content_type` says otherwise; a `stream` has no end of its own."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    stream: AsyncIterator[bytes] | None = None


def json_reply(status: int, answer: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, dumps(answer), headers or {})


def dumps(answer: object) -> bytes:
    """JSON with times in UTC with `Z`."""
    return orjson.dumps(answer, option=orjson.OPT_UTC_Z)
