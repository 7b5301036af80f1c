"""What a provider's actor is told. A dispatcher hands messages over; the heartbeat brings the operators' word."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from heliograph.actors.model.message import Tracked
from heliograph.actors.model.provider import Controls


@dataclass(frozen=True, slots=True)
class Deliver:
    """A claimed message. After `deadline_s` (boot clock) its first byte may no longer be written: the deadline was set
    before the claim was asked for. `expires_at_s` is the message's own end on the same clock."""

    tracked: Tracked
    number: int
    started_at: datetime
    deadline_s: float
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class ControlsChanged:
    """None: nothing is said of this provider any more."""

    controls: Controls | None


ProviderMessage = Deliver | ControlsChanged
