"""What a Redis URL means is what redis-py takes it for."""

from __future__ import annotations

import ssl

import pytest
from redis.asyncio.connection import ConnectionPool

from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.queue.place import Place


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://127.0.0.1:6380/3",
        "redis://:p%40ss%2Fword@redis/0",
        "redis://ann.e:secret@[::1]:7000?db=5",
        "redis://redis?username=ann&password=secret",
        "rediss://:secret@redis.example:6380/1?ssl_cert_reqs=none",
        "unix:///var/run/redis%20one.sock?db=2",
        "unix://ann:secret@/run/redis.sock",
    ],
)
def test_it_is_read_as_redis_py_reads_it(url: str) -> None:
    pool = ConnectionPool.from_url(url)
    theirs, ours = pool.connection_class(**pool.connection_kwargs), Place.of(url)
    assert (ours.username, ours.password, ours.database) == (theirs.username, theirs.password, theirs.db)
    assert ours.path == getattr(theirs, "path", None)
    if ours.path is None:
        assert (ours.host, ours.port) == (theirs.host, int(theirs.port))
    assert (ours.tls is not None) == url.startswith("rediss")


@pytest.mark.parametrize(
    ("options", "verify", "checks"),
    [
        ("", ssl.CERT_REQUIRED, True),
        ("?ssl_check_hostname=false", ssl.CERT_REQUIRED, False),
        ("?ssl_cert_reqs=none", ssl.CERT_NONE, False),
    ],
)
def test_a_certificate_is_checked_but_where_the_url_says_otherwise(
    options: str, verify: ssl.VerifyMode, checks: bool
) -> None:
    tls = Place.of(f"rediss://redis{options}").tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (verify, checks)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://:secret@redis", "begins with redis://"),
        ("redis://:secret@redis/one", "is a number"),
        ("redis://:secret@redis?socket_timeout=1", "no option socket_timeout"),
        ("redis://:secret@redis?ssl_cert_reqs=none", "no option ssl_cert_reqs"),
        ("rediss://:secret@redis?ssl_cert_reqs=maybe", "is one of required"),
    ],
)
def test_what_cannot_be_read_is_told_without_the_password(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        Place.of(url)
    assert "secret" not in str(caught.value)
