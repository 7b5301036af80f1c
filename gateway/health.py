"""`/livez` and `/readyz`, of a gateway and of a process without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from heliograph.gateway.api.replies import Reply, json_reply

if TYPE_CHECKING:
    from heliograph.gateway.api.schemas import LiveAnswer, ReadyAnswer

NOT_KEPT: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of /readyz. It is ready when all that is `required` is `ok`; the rest is told, and takes nobody away."""

    ok: bool
    detail: str
    required: bool = True


def live() -> Reply:
    """Answered by the loop itself: who reads this knows that the process turns. No store is asked."""
    answer: LiveAnswer = {"status": "live"}
    return json_reply(200, answer, NOT_KEPT)


def ready(checks: Mapping[str, Check], draining: bool) -> Reply:
    answer: ReadyAnswer = {
        "checks": {
            name: {"ok": check.ok, "detail": check.detail, "required": check.required} for name, check in checks.items()
        }
    }
    if draining:
        answer["checks"]["draining"] = {"ok": False, "detail": "this process is about to end", "required": True}
    fine = all(check["ok"] for check in answer["checks"].values() if check["required"])
    return json_reply(200, answer, NOT_KEPT) if fine else json_reply(503, answer, {**NOT_KEPT, "Retry-After": "1"})
