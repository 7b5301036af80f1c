"""The whole configuration as plain values. Only `gateway.cli.config` reads files and the environment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from heliograph.actors.model.provider import ProviderSettings


class Server(StrEnum):
    """Who reads HTTP from the gateway's sockets."""

    FAST = "fast"  # hypercorn, with a way around it for the calls that come most
    HYPERCORN = "hypercorn"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """`connections` are those that are open at a time, in all and of one address."""

    host: str = "127.0.0.1"
    port: int = 8080
    http_server: Server = Server.FAST
    max_sms_parts: int = 10
    connections: int = 1000
    connections_per_address: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """`port` 0 picks a free one."""

    host: str = "127.0.0.1"
    port: int = 9464


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: str = "info"
    format: str = "auto"  # json | text | auto


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    max_attempts: int = 5
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 300.0
    expires_after_s: float = 86_400.0
    receipt_timeout_s: float = 259_200.0
    unknown_wait_s: float = 30.0
    drain_grace_s: float = 30.0
    bulk_share: float = 0.05
    send_window_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSettings:
    auto_retry_s: tuple[float, ...] = (60.0, 600.0, 3600.0)
    archive_after_s: float = 30 * 86_400.0
    delete_after_s: float = 365 * 86_400.0
    max_redrives: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How long bodies (`content_s`) and rows (`metadata_s`) stay in the hot tables once a message is final."""

    content_s: float = 30 * 86_400.0
    metadata_s: float = 90 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    redis_url: str
    postgres_url: str
    providers: tuple[ProviderSettings, ...]
    gateway: GatewaySettings = GatewaySettings()
    monitor: MonitorSettings = MonitorSettings()
    log: LogSettings = LogSettings()
    delivery: DeliverySettings = DeliverySettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    retention: RetentionSettings = RetentionSettings()
