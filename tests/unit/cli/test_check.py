"""What `check` says of a provider's configuration."""

from __future__ import annotations

import pytest

from heliograph.actors.model.provider import Quota
from heliograph.gateway.cli.check import Status, _provider
from tests.support.builders import a_provider

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("quota", "says"),
    [
        (Quota(50_000, DAY_S), None),
        (Quota(5, DAY_S), "one burst uses it up"),
        (Quota(2_000_000, DAY_S), "more than its rate ever hands over"),
        (Quota(50_000, 40 * DAY_S), "longer than messages are kept (30d)"),
    ],
)
def test_a_quota_that_does_not_go_with_the_rest_is_warned_of(quota: Quota, says: str | None) -> None:
    provider = a_provider(rate=10.0, burst=10.0, quota=quota)
    lines = [line for line in _provider(provider, 30 * DAY_S) if "quota" in line.name]
    warned = [line for line in lines if line.status is Status.WARNING]
    assert lines
    assert len(warned) == (0 if says is None else 1)
    assert all(says is not None and says in line.detail and line.mend for line in warned)
