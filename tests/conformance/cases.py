"""The fixture folders, `tests/conformance/fixtures/<kind>/`: what a provider is documented to say, and what it means.

`answers.toml`, the answers of an HTTP provider:

    [provider]                   # optional: fields of its [[providers]] table (sender, options, batch …)
    [[answer]]
    case = "the wallet is empty"
    status = 400
    headers = {}                 # optional
    body = '''{…}'''
    named = ["sender"]           # optional: what the message itself gave: sender, template
    outcome = "misconfigured"
    code = "416"                 # this and the rest: not compared where left out
    retry_after = 60
    scope = "message"            # provider by default
    provider_message_id = "…"
    suppress = "unsubscribe"     # the recipient is not written to again
    calls = [{ outcome = "accepted" }, …]  # in place of outcome and the rest: a shared call, message by message

The attempts of a call have the ids of ATTEMPTS, in their order, should the body repeat them.

`receipts.toml`:

    [settings]                   # the [providers.receipts] table
    [[receipt]]
    case = "delivered"
    headers = {}                 # optional; names in lower case
    query = {}                   # optional
    body = '''[{…}]'''
    genuine = true               # optional: whether `verify` must find it so; not asked where left out
    refused = 400                # optional: `verify` or `read` refuses it with this status; then nothing below
    reports = [{ attempt_id = "…", recipient = "…", effect = "delivered", suppress = "…" }]
    ignored = 0                  # optional, as are notices = […] (not compared where left out) and confirm = "https://…"

Fields of a report that are left out are None, but `at`, `code` and `detail` are then not compared.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from heliograph.actors.model.identity import attempt_id

FOLDER: Final = Path(__file__).parent / "fixtures"
MESSAGES: Final = tuple(f"msg_01JD3Q8ZK4A7XNVT0B{n}C9M5E6F" for n in range(1, 10))
ATTEMPTS: Final = tuple(attempt_id(message, 1) for message in MESSAGES)  # 1JD3Q8ZK4A7XNVT0B101, …0B201, …


@dataclass(frozen=True, slots=True)
class Fixture:
    """One entry of a file; `common` is the table that holds for all of them."""

    kind: str
    entry: dict[str, Any]
    common: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}: {self.entry['case']}"


def fixtures(file: str, entries: str, common: str, folder: Path = FOLDER) -> list[Fixture]:
    return list(_walk(file, entries, common, folder))


def _walk(file: str, entries: str, common: str, folder: Path) -> Iterator[Fixture]:
    for path in sorted(folder.glob(f"*/{file}")):
        content = tomllib.loads(path.read_text())
        for entry in content[entries]:
            yield Fixture(path.parent.name, entry, content.get(common, {}))


def unknown_keys(fixture: Fixture, known: set[str]) -> set[str]:
    """A key that is mistyped would be an expectation that nobody checks."""
    return set(fixture.entry) - known
