"""Our histograms show what prometheus_client's own would."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from heliograph.actors.metrics.histogram import Histogram

BUCKETS = (0.005, 0.1, 1, 30)


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.005, 0.0051, 1.0, 7.5, 30.0, 31.0]))))
def test_it_shows_each_value_in_the_bucket_it_belongs_to(values: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Histogram("x_seconds", "Seconds.", ["who"], BUCKETS, ours)
    other = prometheus_client.Histogram("x_seconds", "Seconds.", ["who"], buckets=BUCKETS, registry=theirs)
    for who, value in values:
        mine.labels(who).observe(value)
        other.labels(who).observe(value)
    assert lines(ours) == lines(theirs)


def test_a_series_is_there_before_its_first_value() -> None:
    registry = CollectorRegistry()
    Histogram("x_seconds", "Seconds.", ["who"], BUCKETS, registry).labels("a")
    assert registry.get_sample_value("x_seconds_count", {"who": "a"}) == 0


def test_it_has_one_name_only_and_all_its_labels() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("x_seconds", "Seconds.", ["who"], BUCKETS, registry)
    with pytest.raises(ValueError, match="who"):
        histogram.labels("a", "b")
    with pytest.raises(ValueError, match="x_seconds"):
        Histogram("x_seconds", "Seconds.", [], BUCKETS, registry)
