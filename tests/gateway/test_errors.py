"""Every error is a problem of RFC 9457, whoever raised it, and tells nothing that is nobody's business."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from heliograph.actors.model.errors import LedgerDown
from heliograph.gateway.problems import MEANINGS, Code
from tests.support.gateway_world import SMS, Answer, a_gateway


def is_problem(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer.raw
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(problem)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["type"] == f"/docs#{code}"


async def test_what_the_framework_refuses_has_the_same_form() -> None:
    async with a_gateway() as gateway:
        is_problem(await gateway.get("/nowhere", secret=None), 404, "not_found")
        wrong = await gateway.ask("PUT", "/v1/messages")
        is_problem(wrong, 405, "method_not_allowed")
        assert {"GET", "POST"} <= {m.strip() for m in wrong.headers["Allow"].split(",")}
        is_problem(await gateway.ask("OPTIONS", "/v1/messages"), 405, "method_not_allowed")


async def test_a_failure_of_ours_is_500_without_a_word_on_why_and_the_log_tells_where() -> None:
    async with a_gateway() as gateway:
        gateway.world.fail_with = RuntimeError("secret detail +919876540000")
        with capture_logs() as logs:
            answer = await gateway.post("/v1/messages", SMS)
        is_problem(answer, 500, "internal")
        assert b"secret" not in answer.raw
        assert b"Traceback" not in answer.raw
        [event] = [entry for entry in logs if entry["event"] == "http.failed"]
        assert event["error"] == "RuntimeError"
        assert event["request"] == answer.json["request_id"]
        assert "gateway_world.py" in event["at"]
        assert "secret" not in str(event)


async def test_a_group_of_errors_is_one_500() -> None:
    async with a_gateway() as gateway:
        gateway.world.fail_with = ExceptionGroup("several", [ValueError("a"), KeyError("b")])
        is_problem(await gateway.post("/v1/messages", SMS), 500, "internal")


async def test_a_store_that_is_down_or_full_is_503_with_the_time_to_come_again() -> None:
    async with a_gateway() as gateway:
        gateway.world.fail_with = LedgerDown("no answer from 10.0.0.1")
        down = await gateway.post("/v1/messages", SMS)
        is_problem(down, 503, "unavailable")
        assert down.headers["Retry-After"] == "5"
        assert b"10.0.0.1" not in down.raw
        gateway.world.fail_with = None
        gateway.world.full = True
        full = await gateway.post("/v1/messages", SMS)
        is_problem(full, 503, "unavailable")
        assert full.headers["Retry-After"] == "1"


async def test_each_call_of_the_ledger_that_fails_is_503() -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        gateway.world.ledger_down = True
        for path in (
            "/v1/messages", f"/v1/messages/{message_id}", "/v1/dead-letters", "/v1/dead-letters/groups", "/v1/stats",
            "/v1/providers", "/v1/keys",
        ):  # fmt: skip
            is_problem(await gateway.get(path), 503, "unavailable")


@pytest.mark.parametrize("given", ["abc-123", "01JD3Q8Z:4", "r" * 128])
async def test_a_sane_request_id_is_kept(given: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get("/nowhere", headers={"X-Request-Id": given})
        assert answer.json["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "r" * 129, "<script>", "-x"])
async def test_any_other_is_replaced(given: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get("/nowhere", headers={"X-Request-Id": given})
        assert answer.json["request_id"].startswith("req_")


async def test_answers_are_kept_by_no_cache_and_sniffed_by_nobody() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get("/v1/messages")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_requests_are_counted_by_route_and_not_by_address() -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        await gateway.get(f"/v1/messages/{message_id}")
        await gateway.get("/nowhere/at/all")
        await gateway.ask("BREW", "/v1/messages")
        value = gateway.world.registry.get_sample_value

        def count(route: str, method: str, status: int) -> float | None:
            labels = {"route": route, "method": method, "status": str(status)}
            return value("heliograph_http_requests_total", labels)

        assert count("/v1/messages", "POST", 202) == 1
        assert count("/v1/messages/{id}", "GET", 200) == 1
        assert count("unmatched", "GET", 404) == 1
        assert count("unmatched", "other", 405) == 1
        assert value("heliograph_http_request_duration_seconds_count", {"route": "/v1/messages"}) == 1


def test_every_code_has_a_meaning_and_a_cure() -> None:
    assert set(MEANINGS) == set(Code)
    for meaning in MEANINGS.values():
        assert 400 <= meaning.status < 600
        assert meaning.cure.endswith(".")
