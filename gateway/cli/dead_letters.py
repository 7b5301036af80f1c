"""`heliograph dead-letters`: failures by cause, and what to do with many of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from heliograph.gateway.cli import operations, output
from heliograph.gateway.cli.client import Client, KeyOption, UrlOption, target
from heliograph.gateway.cli.messages import Limit, table, with_attempts
from heliograph.gateway.cli.moments import moment
from heliograph.gateway.cli.output import CommandMisused, JsonFlag

LISTED = ("id", "state", "channel", "to", "provider", "reason", "code", "cause", "created_at")
GROUPED = ("count", "channel", "provider", "reason", "code", "cause", "first_at", "last_at", "sample_id")

Channel = Annotated[str | None, typer.Option(help="sms | email")]
Provider = Annotated[str | None, typer.Option(help="The one that was asked last.")]
Reason = Annotated[str | None, typer.Option(help="Such as rejected or attempts_exhausted.")]
Code = Annotated[str | None, typer.Option(help="The provider's own.")]
Cause = Annotated[str | None, typer.Option(help="As `groups` shows it.")]
Tag = Annotated[str | None, typer.Option()]
Since = Annotated[str | None, typer.Option(help="A time with its offset, or how long ago: 2h.")]
Text = Annotated[str | None, typer.Option(help="Somewhere in cause, detail or recipient.")]
State = Annotated[str | None, typer.Option(help="open | redriven | archived | discarded | settled")]


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="List, group, redrive, archive or discard dead letters.")
    group.command("list")(list_)
    group.command()(show)
    group.command()(groups)
    for kind, text in (
        ("redrive", "Send them again: the same messages, with a fresh budget and expiry."),
        ("archive", "Put them out of sight; they can still be redriven."),
        ("discard", "Give them up for good."),
    ):
        group.command(kind, help=f"{text} By ids, by filter, or --all that are open.")(_on_many(kind))
    app.add_typer(group, name="dead-letters")


def list_(
    channel: Channel = None,
    provider: Provider = None,
    reason: Reason = None,
    code: Code = None,
    cause: Cause = None,
    tag: Tag = None,
    since: Since = None,
    until: Since = None,
    text: Text = None,
    state: State = None,
    limit: Limit = 50,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """List dead letters, newest first; open ones unless --state says otherwise."""
    query = _filter(channel, provider, reason, code, cause, tag, since, until, text, state)
    found = list(Client(target(url, api_key)).pages("/v1/dead-letters", query, most=limit))
    output.show({"data": found}, *table(LISTED, found))


def show(
    message: Annotated[str, typer.Argument(metavar="ID")],
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Show one, with every attempt."""
    found = Client(target(url, api_key)).get(f"/v1/dead-letters/{message}")
    output.show(found, *with_attempts(found))


def groups(
    channel: Channel = None,
    provider: Provider = None,
    reason: Reason = None,
    code: Code = None,
    cause: Cause = None,
    tag: Tag = None,
    since: Since = None,
    until: Since = None,
    text: Text = None,
    state: State = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    json: JsonFlag = False,  # noqa: ARG001
) -> None:
    """Failures that are the same failure, most frequent first."""
    query = _filter(channel, provider, reason, code, cause, tag, since, until, text, state)
    found = Client(target(url, api_key)).get("/v1/dead-letters/groups", query)
    output.show(found, *table(GROUPED, found["data"]))


def _on_many(kind: str) -> Callable[..., None]:
    def command(
        ids: Annotated[list[str] | None, typer.Argument(metavar="ID")] = None,
        channel: Channel = None,
        provider: Provider = None,
        reason: Reason = None,
        code: Code = None,
        cause: Cause = None,
        tag: Tag = None,
        since: Since = None,
        until: Since = None,
        text: Text = None,
        state: State = None,
        all_: Annotated[bool, typer.Option("--all", help="Every open one.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
        rate: Annotated[float | None, typer.Option(help="Messages per second; as fast as can be by default.")] = None,
        why: Annotated[str | None, typer.Option(help="Kept with the operation.")] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
        url: UrlOption = None,
        api_key: KeyOption = None,
        json: JsonFlag = False,  # noqa: ARG001
    ) -> None:
        wanted = _filter(channel, provider, reason, code, cause, tag, since, until, text, state)
        given = {name: value for name, value in wanted.items() if value is not None}
        body: dict[str, Any] = {"dry_run": dry_run or None, "rate": rate, "reason": why}
        if ids and (given or all_):
            raise CommandMisused("name ids, or a filter, not both")
        if not (ids or given or all_):
            raise CommandMisused("name ids, or a filter such as --reason rejected, or --all")
        body |= {"ids": ids} if ids else {"filter": given}
        client = Client(target(url, api_key))
        answer = client.post(f"/v1/dead-letters/{kind}", body)
        if dry_run:
            output.show(answer, *output.fields(answer))
            return
        operations.show_or_follow(client, answer, follow=wait)

    return command


def _filter(
    channel: str | None,
    provider: str | None,
    reason: str | None,
    code: str | None,
    cause: str | None,
    tag: str | None,
    since: str | None,
    until: str | None,
    text: str | None,
    state: str | None,
) -> dict[str, object]:
    return {
        "channel": channel,
        "provider": provider,
        "reason": reason,
        "code": code,
        "cause": cause,
        "tag": tag,
        "since": moment("--since", since),
        "until": moment("--until", until),
        "text": text,
        "state": state,
    }
