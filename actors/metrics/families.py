"""Every metric family, once, with its help text, labels and unit. The dashboards are made from these names.

Keep the children that `labels(…)` gives: looking one up costs five times as much as using it. No message id and no
address is ever a label.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from heliograph.actors.metrics.histogram import Histogram

PREFIX: Final = "heliograph"
CALL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DELIVERY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 86400)
HANDLE_BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class Metrics:
    """All families of one process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=PREFIX, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, labels, buckets, registry)

        self.build_info = gauge("build_info", "Always 1; the labels tell what runs.", "version", "python")
        self.messages = counter("messages_total", "Entries of messages into a state.", "channel", "state")
        self.attempts = counter("attempts_total", "Ended attempts.", "provider", "outcome")
        self.attempt_duration = histogram(
            "attempt_duration_seconds", "From the first byte of a call to its answer.", CALL_BUCKETS, "provider"
        )
        self.delivery_duration = histogram(
            "delivery_duration_seconds",
            "From accepted by us to taken by a provider.",
            DELIVERY_BUCKETS,
            "channel",
            "priority",
        )
        self.unknown_settled = counter(
            "unknown_settled_total", "Attempts without an answer, by how their truth was learnt.", "provider", "how"
        )
        self.message_parts = counter("message_parts_total", "SMS parts that providers took.", "provider")
        self.queue_depth = gauge("queue_depth", "Messages due in a queue, over the whole cluster.", "queue")
        self.queue_oldest_age = gauge(
            "queue_oldest_age_seconds", "How long the oldest due message of a queue has been due.", "queue"
        )
        self.breaker_state = gauge("breaker_state", "0 closed, 1 half-open, 2 open.", "provider")
        self.breaker_transitions = counter("breaker_transitions_total", "Changes of a breaker.", "provider", "to")
        self.limiter_wait = histogram(
            "limiter_wait_seconds", "How long a claimed message waited for its send slot.", CALL_BUCKETS, "provider"
        )
        self.limiter_rate = gauge("limiter_rate", "Effective recipients per second, cluster-wide.", "provider")
        self.actor_mailbox_depth = gauge("actor_mailbox_depth", "Messages waiting in an actor's mailbox.", "actor")
        self.actor_mailbox_capacity = gauge("actor_mailbox_capacity", "Room of an actor's mailbox.", "actor")
        self.actor_restarts = counter("actor_restarts_total", "Times an actor was built anew after a crash.", "actor")
        self.actor_handle_duration = histogram(
            "actor_handle_duration_seconds", "Time an actor spent on one message or turn.", HANDLE_BUCKETS, "actor"
        )
        self.actor_last_progress = gauge(
            "actor_last_progress_timestamp_seconds",
            "Unix time of an actor's last sign of progress; now, while it waits for something to do.",
            "actor",
        )
        self.store_up = gauge("store_up", "1 while the store answers this supervisor.", "store")
        self.dead_letters = gauge("dead_letters", "Open dead letters, over the whole cluster.", "reason")
        self.provider_quota_remaining = gauge(
            "provider_quota_remaining", "What a provider's quota still allows.", "provider"
        )
        self.provider_stops = counter(
            "provider_stops_total",
            "Stops of a provider for more than a passing fault: its account, its quota, or what it rejects.",
            "provider",
            "reason",
        )
        self.accounting_drift = gauge(
            "accounting_drift", "Messages accepted minus messages accounted for; anything but 0 is an alarm."
        )
        self.http_requests = counter("http_requests_total", "Answered requests.", "route", "method", "status")
        self.http_request_duration = histogram(
            "http_request_duration_seconds", "From a request's head to its answer.", HANDLE_BUCKETS, "route"
        )
