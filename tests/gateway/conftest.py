"""All of these tests hold for both servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from heliograph.actors.model.settings import Server
from tests.support.gateway_world import SERVER


@pytest.fixture(autouse=True, params=Server)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    token = SERVER.set(request.param)
    yield request.param
    SERVER.reset(token)
