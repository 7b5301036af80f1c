"""The only reader of configuration: a TOML file, the environment over it, and what a command itself lays on top.

Answers `actors.model.settings.Config` and, for every key, what is in force and where it is from. All faults of a
configuration are told at once, each with its key; nothing that a fault says quotes a value, which may be a secret.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from heliograph.actors.model.duration import format_duration
from heliograph.actors.model.errors import ConfigurationError, NotAvailableYet
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import (
    AnswerRule,
    BreakerSettings,
    HttpClient,
    ProviderSettings,
    RouteRule,
    parse_quota,
)
from heliograph.actors.model.settings import (
    Config,
    DeadLetterSettings,
    DeliverySettings,
    GatewaySettings,
    LogSettings,
    MonitorSettings,
    RetentionSettings,
    Server,
)
from heliograph.gateway.cli import schema
from heliograph.providers import KINDS

PREFIX: Final = "HELIOGRAPH_"
DEFAULT: Final = "default"
MASK: Final = "********"

Path_ = tuple[str, ...]
"""Of a key: ("delivery", "max_attempts"); a provider's by its name: ("providers", "ses-mumbai", "rate")."""


class Need(StrEnum):
    """What a command cannot do without."""

    REDIS = "redis"
    POSTGRES = "postgres"
    PROVIDERS = "providers"


EVERYTHING: Final = frozenset(Need)


@dataclass(frozen=True, slots=True)
class Fault:
    key: str
    text: str
    origin: str | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" + (f" ({self.origin})" if self.origin else "")


class ConfigFaults(ConfigurationError):
    """Everything that is wrong with a configuration, a line each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class LaterFaults(ConfigFaults, NotAvailableYet):
    """All of the faults are keys that this version does not have yet."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key in force: a value as it is written in a file (secrets masked), and where it is from."""

    key: str
    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    config: Config
    entries: tuple[Entry, ...]


def load(
    file: Path | None,
    environ: Mapping[str, str],
    *,
    overrides: Mapping[Path_, object] | None = None,
    overrides_origin: str = "command line",
    need: frozenset[Need] = EVERYTHING,
    credentials: bool = True,
) -> Loaded:
    """Read, merge and check. Raises ConfigFaults (LaterFaults where nothing but later keys is wrong). Without
    `credentials` those that are missing are made up: for who will call nobody."""
    tree = _Tree()
    if file is not None:
        tree.add_file(file)
    tree.add_environment(environ)
    for path, value in (overrides or {}).items():
        tree.put(path, value, overrides_origin)
    if not credentials:
        tree.make_up_credentials()
    later = list(_take_later(tree))
    parsed, faults = _validate(tree)
    faults += _missing(tree, need)
    if parsed is None or faults or later:
        raise ConfigFaults([*faults, *later]) if faults else LaterFaults(later)
    return Loaded(_to_config(parsed), tuple(_entries(parsed, tree)))


# ------------------------------------------------------------------------------------------------- merging


class _Tree:
    """The raw values of all sources, the later over the earlier, and the origin of each leaf.

    Providers are kept by name while sources are laid over each other; one without a name keeps its place as name.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.providers: dict[str, Any] = {}
        self.origins: dict[Path_, str] = {}
        self.faults: list[Fault] = []

    def add_file(self, file: Path) -> None:
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigFaults([Fault(str(file), f"cannot be read: {error.strerror}")]) from error
        except UnicodeDecodeError as error:
            raise ConfigFaults([Fault(str(file), f"is not UTF-8 (byte {error.start})")]) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigFaults([Fault(str(file), f"is not TOML: {error}")]) from error
        providers = raw.pop("providers", [])
        if not isinstance(providers, list) or not all(isinstance(p, dict) for p in providers):
            self.faults.append(Fault("providers", "should be an array of tables, [[providers]]", file.name))
            providers = []
        for number, provider in enumerate(providers, 1):
            self._add_provider(number, provider, file.name)
        self.values.update(raw)
        self._note((), raw, file.name)

    def _add_provider(self, number: int, provider: dict[str, Any], origin: str) -> None:
        name = provider.get("name")
        label = name if isinstance(name, str) and name else f"#{number}"
        if label in self.providers:
            self.faults.append(Fault(f"providers.{label}.name", "is used twice; names are unique", origin))
            return
        self.providers[label] = provider
        self._note(("providers", label), provider, origin)

    def _note(self, path: Path_, value: object, origin: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                self._note((*path, key), inner, origin)
        else:
            self.origins[path] = origin

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Variables with a `__` are configuration; HELIOGRAPH_URL and its like are not."""
        for variable in sorted(environ):
            section, nested, rest = variable.removeprefix(PREFIX).partition("__")
            if not variable.startswith(PREFIX) or not nested:
                continue
            if section == "PROVIDERS":
                path = self._provider_path(rest)
            else:
                path = tuple(part.lower() for part in (section, *rest.split("__")))
            if path is None or not all(path):
                self.faults.append(Fault(variable, "should be HELIOGRAPH_<SECTION>__<KEY>"))
                continue
            self.put(path, _from_environment(environ[variable]), variable)

    def _provider_path(self, rest: str) -> Path_ | None:
        """The provider whose name in capitals begins `rest`; a name not seen yet makes a new provider."""
        for name in sorted(self.providers, key=len, reverse=True):
            if rest.startswith(environment_name(name) + "__"):
                break
        else:
            name = rest.partition("__")[0].lower().replace("_", "-")
            if not name:
                return None
            self.providers[name] = {"name": name}
            self.origins["providers", name, "name"] = "environment"
            rest_of_key = rest.partition("__")[2]
            return ("providers", name, *(part.lower() for part in rest_of_key.split("__")))
        return ("providers", name, *(part.lower() for part in rest[len(environment_name(name)) + 2 :].split("__")))

    def put(self, path: Path_, value: object, origin: str) -> None:
        table = self.providers if path[0] == "providers" else self.values
        walk = path[1:] if path[0] == "providers" else path
        for key in walk[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                self.faults.append(Fault(".".join(path), "lies below a key that is no table", origin))
                return
            table = inner
        table[walk[-1]] = value
        if len(walk) == 1 and path[0] == "providers":
            return
        self.origins[path] = origin

    def make_up_credentials(self) -> None:
        for provider in self.providers.values():
            kind, given = KINDS.get(str(provider.get("kind"))), provider.get("credentials", {})
            if kind is not None and isinstance(given, dict):
                provider["credentials"] = dict.fromkeys(kind.credentials[0], "made-up") | given

    def whole(self) -> dict[str, Any]:
        return {**self.values, "providers": list(self.providers.values())}

    def origin(self, path: Path_) -> str | None:
        """Where a key is from; of a table, where its first leaf is from; of a row in a list, where the list is from."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return next((origin for leaf, origin in self.origins.items() if leaf[: len(path)] == path), None)


def environment_name(provider: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in provider).upper()


def _from_environment(text: str) -> object:
    """Lists and tables are written as in a file; everything else is text that its key's type reads."""
    if text.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


# ------------------------------------------------------------------------------------------ keys to come


def _differs(*available: object) -> Callable[[object], bool]:
    return lambda value: value not in available


_LATER: Final[tuple[tuple[Path_, Callable[[object], bool]], ...]] = (
    (("windows",), _differs()),
    (("webhooks",), _differs()),
    (("retention", "archive"), _differs("partition")),
)
"""Keys, or values of keys, that the public contract names and this version does not have."""


def _take_later(tree: _Tree) -> Iterator[Fault]:
    """Remove them from the tree, so that they are told once and as what they are."""
    for path, is_later in _LATER:
        tables: list[tuple[Path_, dict[str, Any]]] = [((), tree.values)]
        if path[0] == "providers":
            tables = [(("providers", name), table) for name, table in tree.providers.items()]
        elif len(path) == 2:
            tables = [(path[:1], tree.values.get(path[0], {}))]
        for above, table in tables:
            key = path[-1]
            if isinstance(table, dict) and key in table and is_later(table[key]):
                value = table.pop(key)
                shown = f"{value!r} is not available yet" if isinstance(value, str) and path[0] != "providers" else ""
                origin = tree.origin((*above, key))
                yield Fault(".".join((*above, key)), shown or "is not available yet", origin)


# ---------------------------------------------------------------------------------------------- validation


def _validate(tree: _Tree) -> tuple[schema.File | None, list[Fault]]:
    faults = list(tree.faults)
    names = Counter(environment_name(name) for name in tree.providers)
    for name in tree.providers:
        if names[environment_name(name)] > 1:
            text = f"shares its environment name {environment_name(name)} with another provider; rename one"
            faults.append(Fault(f"providers.{name}.name", text))
    parsed = None
    try:
        parsed = schema.File.model_validate(tree.whole())
    except ValidationError as error:
        labels = list(tree.providers)
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            path = _path(item["loc"], labels)
            faults.append(Fault(".".join(path), _wording(item["type"], item["msg"], item["loc"]), tree.origin(path)))
    return parsed, faults + list(_kind_faults(tree))


def _kind_faults(tree: _Tree) -> Iterator[Fault]:
    """What each kind says of its credentials and options, also where other tables are wrong."""
    for label, raw in tree.providers.items():
        try:
            settings = _provider(schema.Provider.model_validate(raw))
        except ValidationError:
            continue
        try:
            KINDS[settings.kind].prepare(settings)
        except ConfigurationError as error:
            key, _, text = str(error).partition(", ")[2].partition(": ")
            path = ("providers", label, *key.split("."))
            yield Fault(".".join(path), text, tree.origin(path))


def _path(loc: tuple[int | str, ...], labels: list[str]) -> Path_:
    if len(loc) > 1 and loc[0] == "providers" and isinstance(loc[1], int):
        return ("providers", labels[loc[1]], *map(str, loc[2:]))
    return tuple(map(str, loc))


def _wording(kind: str, message: str, loc: tuple[int | str, ...]) -> str:
    match kind:
        case "extra_forbidden":
            return f"unknown key; the nearest known one is {_nearest(loc)}"
        case "missing":
            return "is required"
        case "model_type" | "dict_type":
            return "should be a table"
        case _:
            text = message.removeprefix("Value error, ").removeprefix("Input ")
            return text[0].lower() + text[1:]


def _nearest(loc: tuple[int | str, ...]) -> str:
    """The likeliest key that was meant: of the same table, else one of the same name elsewhere."""
    wrong = str(loc[-1])
    table = tuple(str(part) for part in loc[:-1] if not isinstance(part, int))
    known = list(known_keys())
    siblings = sorted(path[-1] for path in known if path[:-1] == table)
    close = difflib.get_close_matches(wrong, siblings, n=1, cutoff=0.8)
    elsewhere = [path for path in known if path[-1] == wrong]
    if elsewhere and not close:
        return ".".join(elsewhere[0])
    return ".".join((*table, *(close or difflib.get_close_matches(wrong, siblings, n=1, cutoff=0.0))))


def known_keys() -> Iterator[Path_]:
    """Every key and table, as a path without providers' names: ("providers", "rate")."""

    def below(model: type[BaseModel], above: Path_) -> Iterator[Path_]:
        for name, field in model.model_fields.items():
            yield (*above, name)
            inner = table_of(field)
            if inner is not None:
                yield from below(inner, (*above, name))

    return below(schema.File, ())


def table_of(field: FieldInfo) -> type[schema.Table] | None:
    """The model behind a field that is a table, or an array of tables."""
    annotation: Any = field.annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, schema.Table):
            return candidate
    return None


def _missing(tree: _Tree, need: frozenset[Need]) -> list[Fault]:
    faults = []
    if Need.REDIS in need and ("redis", "url") not in tree.origins:
        faults.append(Fault("redis.url", "is required, such as redis://127.0.0.1:6379/0"))
    if Need.POSTGRES in need and ("postgres", "url") not in tree.origins:
        faults.append(Fault("postgres.url", "is required, such as postgresql://heliograph@127.0.0.1:5432/heliograph"))
    if Need.PROVIDERS in need and not tree.providers and not tree.faults:
        faults.append(Fault("providers", "there is none; a [[providers]] table configures one"))
    return faults


# ------------------------------------------------------------------------------------------ plain settings


def _to_config(parsed: schema.File) -> Config:
    host, port = schema.split_bind(parsed.gateway.bind)
    monitor_host, monitor_port = schema.split_bind(parsed.monitor.bind)
    delivery, dead, kept = parsed.delivery, parsed.dead_letters, parsed.retention
    client = HttpClient(delivery.http_client)
    providers = tuple(replace(_provider(table), http_client=client) for table in parsed.providers)
    return Config(
        redis_url=parsed.redis.url,
        postgres_url=parsed.postgres.url,
        providers=providers + _for_test_keys(providers),
        gateway=GatewaySettings(
            host=host,
            port=port,
            http_server=Server(parsed.gateway.http_server),
            max_sms_parts=parsed.gateway.max_sms_parts,
            connections=parsed.gateway.connections,
            connections_per_address=parsed.gateway.connections_per_address,
        ),
        monitor=MonitorSettings(host=monitor_host, port=monitor_port),
        log=LogSettings(level=parsed.log.level, format=parsed.log.format),
        delivery=DeliverySettings(
            max_attempts=delivery.max_attempts,
            backoff_base_s=delivery.backoff_base,
            backoff_cap_s=delivery.backoff_cap,
            expires_after_s=delivery.expires_after,
            receipt_timeout_s=delivery.receipt_timeout,
            unknown_wait_s=delivery.unknown_wait,
            drain_grace_s=delivery.drain_grace,
            bulk_share=delivery.bulk_share,
        ),
        dead_letters=DeadLetterSettings(
            auto_retry_s=tuple(dead.auto_retry),
            archive_after_s=dead.archive_after,
            delete_after_s=dead.delete_after,
            max_redrives=dead.max_redrives,
        ),
        retention=RetentionSettings(content_s=kept.content, metadata_s=kept.metadata),
    )


def _provider(table: schema.Provider) -> ProviderSettings:
    return ProviderSettings(
        name=table.name,
        kind=table.kind,
        channel=table.channel,
        priority=table.priority,
        rate=table.usual_rate,
        burst=table.usual_burst,
        quota=None if table.quota is None else parse_quota(table.quota),
        weight=table.weight,
        base_url=table.base_url,
        host=table.host,
        port=table.port,
        tls=table.tls,
        sender=table.sender,
        routes=RouteRule(
            countries=frozenset(table.routes.countries),
            tags=frozenset(table.routes.tags),
            categories=frozenset(table.routes.categories),
        ),
        unknown=table.unknown,
        concurrency=table.concurrency,
        batch=table.batch,
        timeout_s=table.timeout,
        breaker=BreakerSettings(
            failure_ratio=table.breaker.failure_ratio,
            minimum_calls=table.breaker.minimum_calls,
            window_s=table.breaker.window,
            slow_call_s=table.breaker.slow_call,
            open_for_s=table.breaker.open_for,
            half_open_permits=table.breaker.half_open_permits,
        ),
        credentials=dict(table.credentials),
        options=dict(table.options),
        receipts=dict(table.receipts),
        answers=tuple(map(_rule, table.answers)),
    )


def _rule(row: schema.AnswerRow) -> AnswerRule:
    return AnswerRule(
        outcome=row.outcome,
        status=row.status,
        code=row.code,
        text=None if row.text is None else re.compile(row.text, re.IGNORECASE),
        meaning=row.meaning,
        cure=row.cure,
        retry_after_s=row.retry_after,
        scope=row.scope,
    )


def _for_test_keys(providers: tuple[ProviderSettings, ...]) -> tuple[ProviderSettings, ...]:
    """What test keys send goes to a sandbox and nowhere else: a channel without one gets one that only they reach."""
    names = {p.name for p in providers}
    made = []
    for channel in Channel:
        if any(p.kind == "sandbox" and p.channel is channel for p in providers):
            continue
        name = f"sandbox-{channel}"
        while name in names:
            name += "-test"
        table = schema.Provider(name=name, kind="sandbox", channel=channel, priority=10_000)
        made.append(replace(_provider(table), test_only=True))
    return tuple(made)


# ----------------------------------------------------------------------------------------- what is in force


def _entries(parsed: schema.File, tree: _Tree) -> Iterator[Entry]:
    for name in schema.File.model_fields:
        if name == "providers":
            for provider in parsed.providers:
                yield from _table_entries(provider, ("providers", provider.name), tree)
        else:
            yield from _table_entries(getattr(parsed, name), (name,), tree)


def _table_entries(table: schema.Table, path: Path_, tree: _Tree) -> Iterator[Entry]:
    for name, field in type(table).model_fields.items():
        here = (*path, name)
        value = getattr(table, name)
        if isinstance(value, schema.Table):
            yield from _table_entries(value, here, tree)
        elif isinstance(value, list) and value and table_of(field):
            for number, row in enumerate(value):
                given = {key: shown(type(row).model_fields[key], getattr(row, key)) for key in row.model_fields_set}
                yield Entry(".".join((*here, str(number))), given, tree.origin(here) or DEFAULT)
        elif isinstance(value, dict) and value:
            for key, inner in value.items():
                yield Entry(".".join((*here, key)), shown(field, inner), tree.origin((*here, key)) or DEFAULT)
        elif name == "rate" and value is None and isinstance(table, schema.Provider):
            yield Entry(".".join(here), table.usual_rate, DEFAULT)
        elif name == "burst" and value is None and isinstance(table, schema.Provider):
            yield Entry(".".join(here), table.usual_burst, "from rate")
        else:
            yield Entry(".".join(here), shown(field, value), tree.origin(here) or DEFAULT)


def shown(field: FieldInfo, value: object) -> object:
    """A value as it would be written in a file, without what is secret in it."""
    marks = {type(mark) for mark in field.metadata}
    for argument in getattr(field.annotation, "__args__", ()):
        marks |= {type(mark) for mark in getattr(argument, "__metadata__", ())}
    if schema.IsSecret in marks:
        return MASK if value else value
    if schema.IsUrl in marks and isinstance(value, str):
        return without_password(value)
    if schema.IsDuration in marks and value is not None:
        if isinstance(value, list):
            return [format_duration(float(item)) for item in value]
        return format_duration(float(str(value)))
    if isinstance(value, list):
        return [str(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def without_password(url: str) -> str:
    """The URL with its password, and each value of its query, masked.

    >>> without_password("postgresql://me:secret@db/x?sslmode=require")
    'postgresql://me:********@db/x?sslmode=********'
    """
    parts = urllib.parse.urlsplit(url)
    user, at, where = parts.netloc.rpartition("@")
    if ":" in user:
        user = f"{user.partition(':')[0]}:{MASK}"
    query = "&".join(f"{pair.partition('=')[0]}={MASK}" for pair in parts.query.split("&")) if parts.query else ""
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{user}{at}{where}", query=query))
