"""`heliograph classify`: what a provider's answer means, read from the same table that delivery uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import JsonFlag
from heliograph.gateway.cli.system import ConfigFile

if TYPE_CHECKING:
    from heliograph.actors.model.provider import ProviderSettings


def add(app: typer.Typer) -> None:
    app.command()(classify)


def classify(
    kind: Annotated[str, typer.Argument(help="Such as ses, or smtp.")],
    status: Annotated[str, typer.Argument(help="The HTTP status, or SMTP's reply code.")],
    body: Annotated[str, typer.Argument(help="The answer's body, or the reply's text; - reads it from stdin.")],
    config: ConfigFile = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Say what a provider's answer means, and what to do about it, as JSON.

    With --config the rows of [[providers.answers]] come first: those of every provider of this kind, in their order.
    """
    from heliograph.providers import explain

    said = sys.stdin.buffer.read() if body == "-" else body.encode(errors="surrogateescape")
    verdict = explain(kind, status, said, _configured(config, kind) if config else ())
    answer = {
        "outcome": str(verdict.outcome),
        "meaning": verdict.meaning,
        "cure": verdict.cure,
        "source": verdict.source,
    }
    output.say_json(answer)


def _configured(file: Path, kind: str) -> list[ProviderSettings]:
    from heliograph.gateway.cli import config as configuration

    loaded = configuration.load(file, os.environ, need=frozenset())
    return [provider for provider in loaded.config.providers if provider.kind == kind]
