"""`heliograph config`: a file to begin with, what is in force and from where, and the file's schema for editors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import CommandFailed, JsonFlag
from heliograph.gateway.cli.system import ConfigFile

HEAD: Final = """\
# Heliograph's configuration. What is commented out is the default.
# Every key is also an environment variable, which wins: HELIOGRAPH_<SECTION>__<KEY>, so HELIOGRAPH_LOG__LEVEL=debug;
# a provider goes by its name: HELIOGRAPH_PROVIDERS__SANDBOX_SMS__RATE=50.
# Durations are numbers with units (ms s m h d), summed: "1h30m". `heliograph check --config FILE` reads this file.
"""
BEGUN: Final[dict[str, dict[str, object]]] = {
    "redis": {"url": "redis://127.0.0.1:6379/0"},
    "postgres": {"url": "postgresql://heliograph@127.0.0.1:5432/heliograph"},
}
BEGUN_PROVIDERS: Final[tuple[dict[str, object], ...]] = (
    {"name": "sandbox-sms", "kind": "sandbox", "channel": "sms"},
    {"name": "sandbox-email", "kind": "sandbox", "channel": "email"},
)


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Begin a configuration file, show what is in force, or its schema.")
    group.command()(init)
    group.command()(show)
    group.command()(schema)
    app.add_typer(group, name="config")


def init(
    file: Annotated[Path | None, typer.Argument(help="To write; standard output where none is named.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Write a commented file with every key."""
    text = "\n".join(_commented()) + "\n"
    if file is None:
        output.show({"text": text}, text.rstrip("\n"))
        return
    try:
        # It will hold credentials.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL), 0o600)
    except FileExistsError as error:
        raise CommandFailed(f"{file} exists; --force writes over it") from error
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    output.show({"file": str(file)}, f"wrote {file}")


def show(
    origin: Annotated[bool, typer.Option("--origin", help="With where each value is from.")] = False,
    config: ConfigFile = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Show what is in force; secrets are masked."""
    from heliograph.gateway.cli import config as configuration

    loaded = configuration.load(config, os.environ, need=frozenset())
    rows = [
        {"key": entry.key, "value": entry.value} | ({"origin": entry.origin} if origin else {})
        for entry in loaded.entries
    ]
    lines = [f"{entry.key} = {written(entry.value)}" for entry in loaded.entries]
    if origin:
        width = max(map(len, lines))
        lines = [f"{line.ljust(width)}  # {entry.origin}" for line, entry in zip(lines, loaded.entries, strict=True)]
    output.show({"data": rows}, *lines)


def schema(json: JsonFlag = False) -> None:  # noqa: ARG001
    """Print the file's JSON Schema."""
    import json as json_

    found = file_schema()
    output.show(found, json_.dumps(found, indent=2, ensure_ascii=False))


def file_schema() -> dict[str, Any]:
    """As pydantic tells it, but with durations' defaults as they are written in a file."""
    from heliograph.actors.model.duration import PATTERN, format_duration
    from heliograph.gateway.cli.schema import File

    def mend(part: Any) -> None:
        match part:
            case {"pattern": str(pattern), "default": float(default)} if pattern == PATTERN:
                part["default"] = format_duration(default)
            case {"items": {"pattern": str(pattern)}, "default": list(defaults)} if pattern == PATTERN:
                part["default"] = [format_duration(default) for default in defaults]
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            mend(inner)

    found = File.model_json_schema()
    mend(found)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "heliograph.toml"}


def _commented() -> Iterator[str]:
    from heliograph.gateway.cli.config import table_of
    from heliograph.gateway.cli.schema import File, Provider

    yield HEAD.rstrip("\n")
    for name, field in File.model_fields.items():
        table = table_of(field)
        if table is None:
            continue
        if table is Provider:
            yield from _providers()
            continue
        yield from ("", f"# {table.__doc__}", f"[{name}]")
        yield from _keys(table, BEGUN.get(name, {}))


def _providers() -> Iterator[str]:
    from heliograph.gateway.cli.schema import Provider

    for number, given in enumerate(BEGUN_PROVIDERS):
        yield ""
        if number == 0:
            yield "# One table for each account at a provider. The sandbox sends nothing."
        yield "[[providers]]"
        yield from _keys(Provider, given, all_keys=number == 0)


def _keys(table: Any, given: dict[str, object], *, all_keys: bool = True) -> Iterator[str]:
    """A line each: what is given as it is, the rest as comments; nested tables last, as TOML wants it."""
    from heliograph.gateway.cli.config import shown, table_of

    nested = []
    for name, field in table.model_fields.items():
        inner = table_of(field)
        if inner is not None:
            nested.append((name, inner, isinstance(field.default, list)))
        if inner is not None and not isinstance(field.default, list):
            continue
        if name in given:
            yield f"{name} = {written(given[name])}".ljust(44) + f"  # {field.description}"
        elif all_keys:
            default = shown(field, field.get_default(call_default_factory=True))
            value = "…" if default is None else written(default)
            yield f"# {name} = {value}".ljust(44) + f"  # {field.description}"
    for name, inner, rows in nested if all_keys else ():
        if rows:
            yield f"# Each of [[providers.{name}]]:".ljust(44) + f"  # {inner.__doc__}"
            for key, field in inner.model_fields.items():
                yield f"# {key} = …".ljust(44) + f"  # {field.description}"
            continue
        yield f"# [providers.{name}]".ljust(44) + f"  # {inner.__doc__}"
        yield from _keys(inner, {})


def written(value: object) -> str:
    """As TOML has it; what is not set has no value there and is shown as a dash."""
    import json

    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case list():
            return f"[{', '.join(map(written, value))}]"
        case dict():
            return "{}" if not value else f"{{{', '.join(f'{k} = {written(v)}' for k, v in value.items())}}}"
        case _:
            return json.dumps(str(value), ensure_ascii=False)
