"""What the tree of actors shows of itself: mailboxes, handling times, restarts, last progress."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter

from heliograph.actors.kernel.actor import Health
from heliograph.actors.metrics.families import Metrics
from heliograph.actors.metrics.histogram import Spread


class TreeMetrics:
    """The kernel's observer; `show` sets the gauges when somebody looks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._handled: dict[str, Spread] = {}
        self._restarts: dict[str, Counter] = {}

    def know(self, name: str) -> None:
        """Give an actor its series at once, so that zero is told apart from absence."""
        self._handled[name] = self._metrics.actor_handle_duration.labels(name)
        self._restarts[name] = self._metrics.actor_restarts.labels(name)

    def handled(self, name: str, duration_s: float) -> None:
        self._handled[name].observe(duration_s)

    def restarted(self, name: str) -> None:
        self._restarts[name].inc()

    def show(self, tree: Iterable[Health]) -> None:
        for health in tree:
            self._metrics.actor_mailbox_depth.labels(health.name).set(health.depth)
            self._metrics.actor_mailbox_capacity.labels(health.name).set(health.capacity)
            if health.progress_at is not None:
                self._metrics.actor_last_progress.labels(health.name).set(health.progress_at.timestamp())
