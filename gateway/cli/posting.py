"""Posts many messages in batches, a few at a time, and brings the answers back in order.

Every item has an idempotency key, so whatever ends without an answer is posted again. 429 and 503 are obeyed: nobody
posts before `Retry-After` is over. When nothing has gone through for GIVE_UP_S the rest counts as refused.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import httpx
import trio

from heliograph.gateway.cli.client import TIMEOUT_S, Target, no_answer, refusal
from heliograph.gateway.cli.output import CommandFailed
from heliograph.gateway.cli.table import Line

BATCH: Final = 500
BATCH_BYTES: Final = 8_000_000
AT_ONCE: Final = 4
FOLLOWED_AT_ONCE: Final = 16
GIVE_UP_S: Final = 120.0
LONGEST_WAIT_S: Final = 60.0
FIRST_LOOK_S: Final = 0.1
LATER_LOOK_S: Final = 1.0

Answer = dict[str, Any]
"""A message as the API has it, or `{"error": problem}`."""


class Poster:
    """For one command. Only CommandFailed comes out: the key is refused, or nobody has answered for long."""

    def __init__(self, where: Target, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._where = where
        self._http = httpx.AsyncClient(
            base_url=where.url, headers=where.headers(), timeout=TIMEOUT_S, trust_env=False, transport=transport
        )
        self._not_before = 0.0  # of trio's clock: the gateway asked everybody to wait until then
        self._last_success = trio.current_time()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def results(
        self, lines: Sequence[Line], *, follow_to: Collection[str] | None
    ) -> AsyncIterator[AsyncIterator[tuple[int, Answer]]]:
        """An iterator over (line's number, answer), in the order of `lines`."""
        groups = list(_batches(lines))
        answers: list[list[Answer] | None] = [None] * len(groups)
        ready = [trio.Event() for _ in groups]
        room = trio.Semaphore(AT_ONCE)

        async def post(number: int) -> None:
            async with room:
                answers[number] = await self._post(groups[number])
            if follow_to is not None:
                answers[number] = await self._follow_all(answers[number] or [], follow_to)
            ready[number].set()

        async def in_order() -> AsyncIterator[tuple[int, Answer]]:
            for group, event, number in zip(groups, ready, range(len(groups)), strict=True):
                await event.wait()
                for line, answer in zip(group, answers[number] or [], strict=True):
                    yield line.number, answer
                answers[number] = None

        async with trio.open_nursery() as nursery:
            for number in range(len(groups)):
                nursery.start_soon(post, number)
            yield in_order()

    async def follow(self, message: Answer, *, until: Collection[str]) -> Answer:
        """The message once it is in one of these states."""
        pause_s = FIRST_LOOK_S
        while message["state"] not in until:
            await trio.sleep(pause_s)
            pause_s = min(LATER_LOOK_S, pause_s * 1.5)
            answer = await self._call("GET", f"/v1/messages/{message['id']}")
            message = answer.json()
        return message

    async def _follow_all(self, answers: list[Answer], until: Collection[str]) -> list[Answer]:
        room = trio.Semaphore(FOLLOWED_AT_ONCE)

        async def follow(number: int) -> None:
            async with room:
                answers[number] = await self.follow(answers[number], until=until)

        async with trio.open_nursery() as nursery:
            for number, answer in enumerate(answers):
                if "error" not in answer:
                    nursery.start_soon(follow, number)
        return answers

    async def _post(self, group: Sequence[Line]) -> list[Answer]:
        """Until each item has an answer that is one: some may be told to come again."""
        answers: dict[int, Answer] = {}
        left = list(range(len(group)))
        while left:
            body = {"messages": [group[i].message for i in left]}
            response = await self._call("POST", "/v1/messages/batch", body)
            items: list[Answer] = response.json()["data"]
            answers.update(zip(left, items, strict=True))
            left = [i for i, item in zip(left, items, strict=True) if _should_come_again(item)]
            if left and trio.current_time() - self._last_success > GIVE_UP_S:
                break
            if left:
                await trio.sleep(0.2 + random.random() * 0.3)  # noqa: S311 - spreads load, guards nothing
            if len(left) < len(items):
                self._last_success = trio.current_time()
        return [answers[i] for i in range(len(group))]

    async def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        pause_s = 0.1
        while True:
            await trio.sleep_until(self._not_before)
            try:
                answer = await self._http.request(
                    method, path, content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.TransportError as error:
                why = no_answer(self._where.url, error)
            else:
                if answer.is_success:
                    if method == "GET":
                        self._last_success = trio.current_time()
                    return answer
                why = refusal(answer)
                if answer.status_code not in (429, 502, 503, 504):
                    raise CommandFailed(why)
                self._not_before = max(self._not_before, trio.current_time() + _asked_wait_s(answer))
            if trio.current_time() - self._last_success > GIVE_UP_S:
                raise CommandFailed(f"{why}; nothing went through for {GIVE_UP_S:g} s, what is left was not sent")
            await trio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - spreads load, guards nothing
            pause_s = min(5.0, pause_s * 2)


def _should_come_again(item: Answer) -> bool:
    """The gateway is full, or still works on the very item whose answer was lost."""
    return "error" in item and item["error"].get("status") in (409, 429, 503)


def _asked_wait_s(answer: httpx.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return min(LONGEST_WAIT_S, float(asked)) if asked.isdecimal() else 0.0


def _batches(lines: Sequence[Line]) -> list[list[Line]]:
    """At most BATCH items and BATCH_BYTES each; one item alone may be larger, and the gateway says so."""
    groups: list[list[Line]] = []
    size = 0
    for line in lines:
        bytes_ = len(json.dumps(line.message))
        if not groups or len(groups[-1]) == BATCH or size + bytes_ > BATCH_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(line)
        size += bytes_
    return groups
