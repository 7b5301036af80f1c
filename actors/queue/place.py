"""What a Redis URL means: `redis://`, `rediss://` or `unix://`, with a user, a password, a database and options of TLS.

The options are those that redis-py knows; it is not asked itself, since to load it takes as much memory as all of the
queue.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from heliograph.actors.model.errors import ConfigurationError

PORT: Final = 6379
VERIFY: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
YES: Final = frozenset({"1", "true", "yes", "on", "t", "y"})
TLS_OPTIONS: Final = frozenset(
    {
        "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password",
        "ssl_check_hostname",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """A server's address, and as whom it is spoken to. With a `path` it is a unix socket."""

    host: str = "localhost"
    port: int = PORT
    path: str | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str) -> Place:
        """ConfigurationError where it cannot be read; the text holds nothing of the URL."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        common = cls(
            username=unquote(parts.username) if parts.username else options.pop("username", None),
            password=unquote(parts.password) if parts.password else options.pop("password", None),
        )
        match parts.scheme:
            case "unix":
                place = replace(common, path=unquote(parts.path), database=_database(options.pop("db", "")))
            case "redis" | "rediss":
                place = replace(
                    common,
                    host=unquote(parts.hostname or common.host),
                    port=parts.port or PORT,
                    database=_database(options.pop("db", "") or unquote(parts.path).strip("/")),
                )
            case _:
                raise ConfigurationError("redis.url begins with redis://, rediss:// or unix://")
        if parts.scheme == "rediss":
            place = replace(place, tls=_context({name: options.pop(name) for name in TLS_OPTIONS & options.keys()}))
        if options:
            raise ConfigurationError(f"redis.url has no option {min(options)}")
        return place

    def at(self, host: str, port: int) -> Place:
        """Another node of the same cluster; one that knows no name of its own is where the one is that was asked."""
        return replace(self, host=host or self.host, port=port)


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise ConfigurationError("the database in redis.url is a number")
    return int(text or 0)


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    verify = VERIFY.get(options.get("ssl_cert_reqs", "required"))
    if verify is None:
        raise ConfigurationError(f"ssl_cert_reqs in redis.url is one of {', '.join(VERIFY)}")
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    checks = options.get("ssl_check_hostname", "true").lower() in YES
    context.check_hostname = checks and verify is not ssl.CERT_NONE
    context.verify_mode = verify
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password"))
    return context
