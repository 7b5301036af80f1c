"""Moments as people write them on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from heliograph.actors.model.duration import parse_duration
from heliograph.gateway.cli.output import CommandMisused


def moment(option: str, text: str | None) -> str | None:
    """RFC 3339 for the API: `2h` is two hours ago; a time needs its offset."""
    if text is None:
        return None
    try:
        return _written(datetime.now(UTC) - timedelta(seconds=parse_duration(text)))
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise CommandMisused(
            f'{option} should be a time with its offset, "2026-11-25T09:00:00+05:30", or how long ago: 2h'
        )
    return _written(at)


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
