from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio

from heliograph.gateway.cli.client import Target
from heliograph.gateway.cli.output import CommandFailed
from heliograph.gateway.cli.posting import BATCH, GIVE_UP_S, Poster
from heliograph.gateway.cli.table import Line

Reply = Callable[[list[dict[str, Any]]], httpx.Response]


class Gateway:
    """Answers batches as the API does; `faults` come first, one a call."""

    def __init__(self, *faults: Reply | Exception) -> None:
        self.faults = list(faults)
        self.accepted: dict[str, str] = {}
        self.calls: list[float] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(trio.current_time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(0.01)
            return self.answer(json.loads(request.content)["messages"])
        finally:
            self.at_once -= 1

    def answer(self, items: list[dict[str, Any]]) -> httpx.Response:
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                self.accept(items)  # the answer is lost, what it did is not
                raise fault
            return fault(items)
        return httpx.Response(202, json={"data": self.accept(items)})

    def accept(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        keys = [item["idempotency_key"] for item in items]
        return [{"id": self.accepted.setdefault(key, f"msg_{key}"), "state": "queued"} for key in keys]


def lines(count: int) -> list[Line]:
    return [Line(n + 2, {"to": "a@shop.in", "idempotency_key": str(n)}) for n in range(count)]


async def posted(gateway: Gateway, count: int) -> list[tuple[int, dict[str, Any]]]:
    poster = Poster(Target("http://gateway", "key"), transport=httpx.MockTransport(gateway))
    async with poster, poster.results(lines(count), follow_to=None) as results:
        return [result async for result in results]


async def test_answers_come_in_the_files_order(autojump_clock: trio.testing.MockClock) -> None:
    found = await posted(Gateway(), BATCH * 5 + 1)
    assert [line for line, _ in found] == list(range(2, BATCH * 5 + 3))
    assert all(answer["id"] == f"msg_{line - 2}" for line, answer in found)


async def test_a_few_batches_go_at_once_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    gateway = Gateway()
    await posted(gateway, BATCH * 10)
    assert gateway.most_at_once == 4


async def test_a_lost_answer_is_asked_for_again_and_doubles_nothing(autojump_clock: trio.testing.MockClock) -> None:
    gateway = Gateway(httpx.ReadError("cut"), httpx.RemoteProtocolError("cut"))
    found = await posted(gateway, 3)
    assert len(found) == len(gateway.accepted) == 3
    assert len(gateway.calls) == 3


@pytest.mark.parametrize("status", [429, 503])
async def test_nobody_posts_before_retry_after_is_over(autojump_clock: trio.testing.MockClock, status: int) -> None:
    gateway = Gateway(lambda _: httpx.Response(status, headers={"Retry-After": "7"}, json={"status": status}))
    await posted(gateway, 1)
    assert gateway.calls[1] - gateway.calls[0] >= 7


async def test_an_item_that_is_told_to_come_again_comes_again_alone(autojump_clock: trio.testing.MockClock) -> None:
    def in_flight(items: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(202, json={"data": [{"error": {"status": 409}}, *gateway.accept(items[1:])]})

    gateway = Gateway(in_flight)
    found = await posted(gateway, 3)
    assert ["error" in answer for _, answer in found] == [False] * 3
    assert len(gateway.calls) == 2


async def test_an_item_that_is_refused_harms_no_neighbour(autojump_clock: trio.testing.MockClock) -> None:
    def one_bad(items: list[dict[str, Any]]) -> httpx.Response:
        bad = {"error": {"status": 422, "code": "invalid", "detail": "no number"}}
        return httpx.Response(202, json={"data": [bad, *gateway.accept(items[1:])]})

    gateway = Gateway(one_bad)
    found = await posted(gateway, 2)
    assert ["error" in answer for _, answer in found] == [True, False]
    assert len(gateway.calls) == 1


async def test_a_refused_key_ends_the_command_with_the_apis_words(autojump_clock: trio.testing.MockClock) -> None:
    problem = {"status": 401, "code": "unauthorized", "detail": "this API key was revoked"}
    gateway = Gateway(lambda _: httpx.Response(401, json=problem))
    with pytest.RaisesGroup(pytest.RaisesExc(CommandFailed, match="401 unauthorized: this API key was revoked")):
        await posted(gateway, 1)


async def test_a_gateway_that_never_answers_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    gateway = Gateway(*[httpx.ConnectError("refused")] * 1000)
    began = trio.current_time()
    with pytest.RaisesGroup(pytest.RaisesExc(CommandFailed, match="cannot be reached")):
        await posted(gateway, 1)
    assert GIVE_UP_S <= trio.current_time() - began < GIVE_UP_S + 20
