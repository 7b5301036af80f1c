from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from heliograph.actors.model.settings import LogSettings
from heliograph.gateway.cli.logs import configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    before = logging.getLogger().handlers[:]
    yield io.StringIO()
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = before


def test_an_event_is_one_line_of_json_where_there_is_no_terminal(stream: io.StringIO) -> None:
    configure(LogSettings(), stream=stream)
    structlog.get_logger().info("breaker.opened", provider="ses")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["provider"], event["level"]) == ("breaker.opened", "ses", "info")
    assert event["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    configure(LogSettings(level="warning", format="text"), stream=stream)
    log = structlog.get_logger()
    log.info("quiet")
    log.warning("loud")
    assert "loud" in stream.getvalue()
    assert "quiet" not in stream.getvalue()


def test_an_exception_is_its_type_and_place_and_never_its_values(stream: io.StringIO) -> None:
    configure(LogSettings(), stream=stream)
    try:
        raise ValueError("hunter2")
    except ValueError:
        structlog.get_logger().exception("crashed")
        logging.getLogger("a.library").warning("also crashed", exc_info=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["error"] for line in lines] == ["ValueError", "ValueError"]
    assert all(line["raised_at"].startswith("test_logs.py:") for line in lines)
    assert "hunter2" not in stream.getvalue()
