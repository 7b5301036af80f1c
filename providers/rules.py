"""What an operator's configuration says of a provider's answers, before the kind's own table does.

`[[providers.answers]]`: a row holds for answers of this `status` (HTTP, or SMTP's reply code), of this `code` (as
attempts show it; for SMTP the enhanced one, 5.7.1), in which `text` is found; what it leaves out it does not ask. The
first row that holds decides. Rows are not asked about what the kind's own table takes for accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.provider import AnswerRule, ProviderSettings
from heliograph.providers.verdicts import Verdict, clip

MOST_TEXT: Final = 64 * 1024
SENTENCE: Final = "as the configuration says"


def first(rules: Sequence[AnswerRule], *, status: int, code: str | None, text: str) -> AnswerRule | None:
    """`code` may be SMTP's two, `550 5.7.1`, of which a row names the second."""
    codes = {(code or "").lower(), (code or "").partition(" ")[2].lower()}
    for rule in rules:
        if rule.status not in (None, status) or (rule.code is not None and rule.code.lower() not in codes):
            continue
        if rule.text is None or rule.text.search(text[:MOST_TEXT]):
            return rule
    return None


def ruled(answer: Answer, rule: AnswerRule) -> Answer:
    """The answer as the row has it, with what the provider said; its ids stay."""
    detail = answer.detail if rule.meaning is None else clip(f"{rule.meaning}: {answer.detail}")
    return replace(
        answer,
        outcome=rule.outcome,
        detail=detail,
        scope=rule.scope,
        retry_after_s=answer.retry_after_s if rule.retry_after_s is None else rule.retry_after_s,
        suppress=answer.suppress if rule.outcome is Outcome.REJECTED else None,
    )


def verdict(rule: AnswerRule, source: str) -> Verdict:
    return Verdict(
        outcome=rule.outcome,
        meaning=rule.meaning or SENTENCE,
        cure=rule.cure or SENTENCE,
        source=source,
        scope=rule.scope,
        wait_s=rule.retry_after_s,
    )


def verdict_of(settings: ProviderSettings, *, status: int, code: str | None, text: str) -> Verdict | None:
    """What a provider's rows say of an answer, for people; None where they say nothing."""
    rule = first(settings.answers, status=status, code=code, text=text)
    if rule is None:
        return None
    row = settings.answers.index(rule) + 1
    return verdict(rule, f"the configuration: [[providers.answers]] of {settings.name}, row {row}")


def refuses_all(rule: AnswerRule) -> bool:
    """A shared call that is refused is refused for one of its messages; nobody knows for which."""
    return rule.outcome is Outcome.REJECTED
