"""Services that the contract suites need beside those of the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from tests.support import virtual
from tests.support.services import RedisServer


@pytest.fixture(scope="session")
def two_servers(redis_server: RedisServer) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two that hold nothing of each other, but take each other's password."""
    other = RedisServer()
    for server, friend in ((redis_server, other), (other, redis_server)):
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "default", f">{urlsplit(friend.url).password}")
    yield redis_server, other
    other.remove()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and getattr(item.cls, "virtual_time", False):
            item.add_marker(pytest.mark.trio(run=virtual.run), append=False)
