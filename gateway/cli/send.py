"""`heliograph send`: one message from the command line, or thousands from a CSV file.

A line of a file becomes an item of a batch with an idempotency key of its own, made from the file's content and the
line's number. So a batch whose answer was lost is posted again, and the whole command may be: nothing is doubled
within the API's 24 hours. `--run NAME` is for those who want the same file sent once more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import trio
import typer

from heliograph.gateway.cli import output
from heliograph.gateway.cli.client import Client, KeyOption, Target, UrlOption, problem_text, target
from heliograph.gateway.cli.output import CommandMisused, JsonFlag

GOOD: Final = frozenset({"sent", "delivered"})
OVER: Final = GOOD | {"undelivered", "failed", "expired", "cancelled", "suppressed"}


def add(app: typer.Typer) -> None:
    app.command()(send)


def send(
    to: Annotated[str | None, typer.Option(help="A number with its +, or an address.")] = None,
    text: Annotated[str | None, typer.Option()] = None,
    subject: Annotated[str | None, typer.Option(help="For email.")] = None,
    html: Annotated[str | None, typer.Option(help="For email.")] = None,
    sender: Annotated[str | None, typer.Option("--from", help="For email: Name <a@b>.")] = None,
    channel: Annotated[str | None, typer.Option(help="sms | email; by the recipient where left out.")] = None,
    priority: Annotated[str | None, typer.Option(help="urgent | normal | bulk")] = None,
    category: Annotated[str | None, typer.Option(help="otp | transactional | service | promotional")] = None,
    send_at: Annotated[str | None, typer.Option(help="A time with its offset.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="A time with its offset.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A file whose header names the fields; - is stdin.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="With --csv: a name that makes the same file new.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow to sent or a final state.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Send a message, or each line of a CSV file. Exit 1 where one was refused."""
    where = target(url, api_key)
    message: dict[str, Any] = {
        "to": to,
        "text": text,
        "subject": subject,
        "html": html,
        "from": sender,
        "priority": priority,
        "category": category,
        "send_at": send_at,
        "expires_at": expires_at,
        "tags": tag or None,
    }
    if csv is not None:
        if channel is not None or any(value is not None for value in message.values()):
            raise CommandMisused("with --csv the file says what to send; only --run and --wait go with it")
        raise typer.Exit(trio.run(_send_file, where, csv, run or "", wait))
    if to is None:
        raise CommandMisused("--to names the recipient, or --csv a file")
    _send_one(where, {"channel": channel or channel_of(to), **message}, wait=wait)


def channel_of(to: str) -> str:
    return "email" if "@" in to else "sms"


def _send_one(where: Target, message: dict[str, Any], *, wait: bool) -> None:
    answer = Client(where).post("/v1/messages", message)
    if wait:
        answer = trio.run(_follow_one, where, answer)
    output.show(answer, f"{answer['id']} {answer['state']}" + _because(answer))
    if wait and answer["state"] not in GOOD:
        raise typer.Exit(output.FAILED)


def _because(message: dict[str, Any]) -> str:
    return f" ({message['reason']})" if message.get("reason") else ""


async def _follow_one(where: Target, message: dict[str, Any]) -> dict[str, Any]:
    from heliograph.gateway.cli.posting import Poster

    async with Poster(where) as poster:
        return await poster.follow(message, until=OVER)


async def _send_file(where: Target, file: Path, run: str, wait: bool) -> int:
    """One result a line, in the file's order, as soon as it and all before it are known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from heliograph.gateway.cli.posting import Poster
    from heliograph.gateway.cli.table import read

    lines = read(file, run)
    counts = {"accepted": 0, "refused": 0, "unsent": 0}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("sending", total=len(lines))
        async with Poster(where) as poster, poster.results(lines, follow_to=OVER if wait else None) as results:
            async for line, answer in results:
                bad = "error" in answer
                counts["refused" if bad else "accepted"] += 1
                counts["unsent"] += not bad and wait and answer["state"] not in GOOD
                _print(line, answer)
                progress.advance(bar)
    output.tell(f"heliograph: {counts['accepted']} accepted, {counts['refused']} refused")
    return output.FAILED if counts["refused"] or counts["unsent"] else 0


def _print(line: int, answer: dict[str, Any]) -> None:
    if output.as_json():
        output.say_json({"line": line, **answer})
    elif "error" in answer:
        output.say(f"{line}\trefused\t" + " ".join(problem_text(answer["error"]).split()))
    else:
        output.say(f"{line}\t{answer['state']}\t{answer['id']}" + _because(answer))
