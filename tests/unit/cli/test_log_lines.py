"""A log line is one line, whatever strangers put into what is logged, and holds no traceback."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.settings import LogSettings
from heliograph.gateway.cli import logs

HOSTILE = "a\n2026-01-01 [info] forged\r\x1b[2J\x85\u2028\u2029\x00\x7f\u202eb"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def written(format_: str, text: str) -> list[str]:
    out = io.StringIO()
    logs.configure(LogSettings(format=format_), stream=out)
    structlog.get_logger().warning("provider.said", detail=text, inner=[text, {text: text}])
    structlog.get_logger().warning(text)
    logging.getLogger("some.library").warning("it says %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("some.library").exception("failed")
    return out.getvalue().removesuffix("\n").split("\n")


@pytest.mark.parametrize("format_", ["text", "json"])
@given(text=st.just(HOSTILE) | st.text(max_size=20))
def test_a_line_stays_one_line(format_: str, text: str) -> None:
    lines = written(format_, text)
    assert len(lines) == 5
    for line in lines:
        assert line.isprintable()
        assert len(line.splitlines()) == 1


def test_a_machine_reads_back_what_was_logged() -> None:
    first, second, third, *_ = map(json.loads, written("json", HOSTILE))
    assert (first["detail"], second["event"], third["event"]) == (HOSTILE, HOSTILE, f"it says {HOSTILE}")


@pytest.mark.parametrize("format_", ["text", "json"])
def test_an_exception_is_its_type_and_place_and_neither_its_text_nor_its_values(format_: str) -> None:
    *_, own, theirs = written(format_, "sekret")
    for line in (own, theirs):
        assert "ValueError" in line
        assert "test_log_lines.py:" in line
        assert "sekret" not in line
        assert "Traceback" not in line
