"""What a provider's answers mean: the rows of every kind's table, and how a row becomes an Answer.

The tables are data, so that a person can read them (`heliograph classify`) and a test can walk them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome, Scope
from heliograph.actors.model.receipt import SuppressionReason

DETAIL_LENGTH: Final = 500
CODE_LENGTH: Final = 80
ID_LENGTH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row. `cure` is what an operator or a caller can do; `source` says where the row is known from.

    `names` are the parts of a request ("sender", "template") that the row blames. The same fault is the account's
    when the value came from the configuration. A template that the message itself gave is its own fault (`rejected`);
    a sender that it gave only this account does not know, and the next provider may (`misconfigured`, and nothing is
    said of the provider).
    `wait_s` is how long to leave the provider alone where it does not say so itself. `suppress`: nobody writes to the
    refused recipient again.
    """

    outcome: Outcome
    meaning: str
    cure: str
    source: str
    scope: Scope = Scope.PROVIDER
    names: frozenset[str] = frozenset()
    wait_s: float | None = None
    suppress: SuppressionReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A row, and what the provider added to it this time. `detail` is the provider's own text."""

    verdict: Verdict
    code: str | None = None
    detail: str | None = None
    retry_after_s: float | None = None
    provider_message_id: str | None = None

    def answer(self, named: Collection[str] = ()) -> Answer:
        """`named`: the parts of the request that came from the message and not from the configuration."""
        verdict = self.verdict
        outcome, scope = verdict.outcome, verdict.scope
        blamed = verdict.names.intersection(named)
        if blamed == {"sender"}:
            outcome, scope = Outcome.MISCONFIGURED, Scope.MESSAGE
        elif blamed:
            outcome = Outcome.REJECTED
        return Answer(
            outcome=outcome,
            code=clip(self.code, CODE_LENGTH) or None if self.code else None,
            detail=clip(self.detail or verdict.meaning),
            provider_message_id=clip(self.provider_message_id, ID_LENGTH) or None if self.provider_message_id else None,
            retry_after_s=verdict.wait_s if self.retry_after_s is None else self.retry_after_s,
            scope=scope,
            suppress=verdict.suppress if outcome is Outcome.REJECTED else None,
        )


def clip(text: str, most: int = DETAIL_LENGTH) -> str:
    """One line of at most `most` characters that any log and any database takes."""
    text = text[: 4 * most]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
