"""The page on adding a provider, held to its word: its files are made, its kind registered, and the suite runs on it.

What only a test needs stands here: the example's server.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from trio.testing import MockClock

from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import HttpClient
from heliograph.providers import KINDS, explain
from tests.conformance import rigs, test_every_kind, test_faults
from tests.conformance.cases import fixtures
from tests.conformance.rigs import Rig, http_rig
from tests.conformance.test_answers import check_answer
from tests.conformance.test_faults import CELLS, PATIENCE_S, Cell
from tests.conformance.test_receipts import check_receipt
from tests.support.emulators import APIS
from tests.support.emulators.server import Api, Request, Response

PAGE: Final = Path(__file__).parents[2] / "docs" / "adding-a-provider.md"
BLOCK: Final = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES: Final = dict(BLOCK.findall(PAGE.read_text()))
KEY: Final = "a-key-for-pigeons"


class Pigeon(Api):
    """As strict as the page's own words."""

    def handle(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return self.unauthorized()
        if (request.method, request.path) == ("GET", "/v1/account"):
            return Response.of(200, {"credit": 12.5})
        order = request.json()
        if (request.method, request.path) != ("POST", "/v1/send") or not isinstance(order, dict):
            return Response(404)
        if not set(order) <= {"to", "text", "from", "reference"} or order["to"] in self.rejects:
            return self.refuse(request)
        self.seen.take(order["to"], order["reference"], order["text"])
        return Response.of(201, {"id": f"p-{self.seen.messages}"})

    def refuse(self, request: Request) -> Response:
        self.seen.refused[request.json()["to"]] += 1
        return Response.of(400, {"error": {"code": "bad_number", "message": "Nobody lives there"}})

    def unauthorized(self) -> Response:
        return Response.of(401, {"error": {"code": "bad_key", "message": "Who are you?"}})


@pytest.fixture(autouse=True)
def pigeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page followed to the letter; the folder of fixtures."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    spec = importlib.util.spec_from_file_location("heliograph.providers.pigeon", tmp_path / "providers" / "pigeon.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(KINDS, "pigeon", module.KIND)
    monkeypatch.setitem(APIS, "pigeon", Pigeon)
    for known, value in ((rigs.CHANNELS, Channel.SMS), (rigs.CREDENTIALS, {"api_key": KEY})):
        monkeypatch.setitem(known, "pigeon", value)  # type: ignore[arg-type]
    return tmp_path / "tests" / "conformance" / "fixtures"


async def test_its_documented_answers_and_receipts_come_to_what_they_mean(pigeon: Path) -> None:
    answers = fixtures("answers.toml", "answer", "provider", pigeon)
    receipts = fixtures("receipts.toml", "receipt", "settings", pigeon)
    assert (len(answers), len(receipts)) == (7, 3)
    for answer in answers:
        await check_answer(answer)
    for receipt in receipts:
        check_receipt(receipt)


def test_its_table_can_be_read_by_people() -> None:
    verdict = explain("pigeon", "402", b'{"error":{"code":"no_credit"}}')
    assert (verdict.outcome, verdict.cure, verdict.source) == ("misconfigured", "buy credit", "Pigeon REST API v1")


def _shared_tests() -> list[Any]:
    """Every test of `test_every_kind` that takes a rig, with the cases it is parametrized by."""
    found = []
    for name, function in vars(test_every_kind).items():
        if not name.startswith("test_") or "rig" not in inspect.signature(function).parameters:
            continue
        marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
        assert len(marks) <= 1
        names, cases = marks[0].args if marks else ((), [()])
        for case in cases:
            values = case if isinstance(case, tuple) else (case,)
            given = dict(zip((names,) if isinstance(names, str) else names, values, strict=True))
            label = " ".join([name, *map(str, values)])
            found.append(pytest.param(function, given, id=label))
    return found


@pytest.fixture
async def rig(pigeon: Path) -> AsyncIterator[Rig]:
    async with http_rig("pigeon")() as opened:
        yield opened


@pytest.mark.parametrize(("shared", "given"), _shared_tests())
async def test_it_does_what_every_kind_must(
    shared: Callable[..., Awaitable[None]], given: dict[str, Any], rig: Rig, unused_port: int
) -> None:
    more = {"unused_port": unused_port} if "unused_port" in inspect.signature(shared).parameters else {}
    await shared(rig, **given, **more)


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_it_stands_the_fault_matrix(cell: Cell, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = PATIENCE_S
    await test_faults.test_a_fault_comes_to_what_is_known_and_sends_nothing_twice(
        "pigeon", HttpClient.FAST, cell, None, autojump_clock
    )
