"""`heliograph classify`: what a provider's answer means, read from the same table that delivery uses."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.output import JsonFlag


def add(app: typer.Typer) -> None:
    app.command()(classify)


def classify(
    kind: Annotated[str, typer.Argument(help="Such as ses, or smtp.")],
    status: Annotated[str, typer.Argument(help="The HTTP status, or SMTP's reply code.")],
    body: Annotated[str, typer.Argument(help="The answer's body, or the reply's text; - reads it from stdin.")],
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Say what a provider's answer means, and what to do about it, as JSON."""
    from heliograph.providers import explain

    said = sys.stdin.buffer.read() if body == "-" else body.encode(errors="surrogateescape")
    verdict = explain(kind, status, said)
    answer = {
        "outcome": str(verdict.outcome),
        "meaning": verdict.meaning,
        "cure": verdict.cure,
        "source": verdict.source,
    }
    output.say_json(answer)
