"""The numbers that `/v1/stats` and its stream tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heliograph.actors.model.message import Channel, Lane, Reason, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """At most a second old. `rates` (accepted, sent, failed) are per second over the last 60 s."""

    messages: Mapping[tuple[Channel, State], int]
    depth: Mapping[Lane, int]
    oldest_age_s: Mapping[Lane, float | None]
    dead_letters: Mapping[Reason, int]
    rates: Mapping[str, float]
