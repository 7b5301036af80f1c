"""Logs: events with fields, one a line, to standard error; JSON for machines, text for a terminal.

Called once by each long-running command. Libraries that log through the standard library come out the same way, from
`warning` up. No traceback is written, since its values may be secrets or a message's content: an exception becomes
its type and the line of code that raised it.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from heliograph.actors.model.settings import LogSettings


def configure(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """`auto` is text on a terminal and JSON elsewhere; NO_COLOR is obeyed."""
    out = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_text = settings.format == "text" or (settings.format == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_as_fields,
    ]
    structlog.configure(
        processors=[*shared, *_renderers(as_text=as_text, colours=out.isatty() and not os.environ.get("NO_COLOR"))],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging(out, shared, as_text=as_text, level=max(level, logging.WARNING))


def _renderers(*, as_text: bool, colours: bool) -> tuple[Processor, ...]:
    if as_text:
        return _printable, structlog.dev.ConsoleRenderer(colors=colours)
    return (structlog.processors.JSONRenderer(),)


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What strangers say may hold the end of a line and what looks like another, or words to the terminal."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
    return event


def _adopt_standard_logging(out: TextIO, shared: list[Processor], *, as_text: bool, level: int) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(as_text=as_text, colours=False),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)


def _exception_as_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if not isinstance(error, BaseException):
        return event
    event["error"] = type(error).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        code = trace.tb_frame.f_code
        event["raised_at"] = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
    return event
