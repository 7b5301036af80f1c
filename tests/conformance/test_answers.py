"""Every documented answer of every HTTP provider, in its own words, and what it must come to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import pytest

from heliograph.actors.model.attempt import Answer, ProviderCall, Scope
from heliograph.actors.model.message import Channel, EmailContent, Message, SmsContent
from heliograph.providers import KINDS, build, explain
from heliograph.providers.http import HttpCourier
from heliograph.providers.wire import WireAnswer
from tests.conformance.cases import MESSAGES, Fixture, fixtures, unknown_keys
from tests.conformance.rigs import CHANNELS, http_settings
from tests.support.builders import NOW, a_call, a_message

EXPECTED: Final = {"outcome", "code", "retry_after", "scope", "provider_message_id", "suppress"}
KEYS: Final = {"case", "status", "headers", "body", "named", "calls"} | EXPECTED


@pytest.mark.parametrize("fixture", fixtures("answers.toml", "answer", "provider"), ids=str)
async def test_an_answer_comes_to_what_its_documentation_means(fixture: Fixture) -> None:
    assert not unknown_keys(fixture, KEYS)
    await check_answer(fixture)


def test_every_http_kind_has_its_documented_answers() -> None:
    walked = {fixture.kind for fixture in fixtures("answers.toml", "answer", "provider")}
    assert walked == {kind for kind, known in KINDS.items() if known.base_url is not None}


async def check_answer(fixture: Fixture) -> None:
    entry = fixture.entry
    wanted: list[dict[str, Any]] = entry.get("calls") or [entry]
    channel = CHANNELS[fixture.kind]
    calls = [_call(channel, number, entry.get("named", ())) for number in range(len(wanted))]
    courier = build(http_settings(fixture.kind, "http://api.example.com", **fixture.common))
    assert isinstance(courier, HttpCourier)
    try:
        answers = courier.classify(calls, wire_answer(entry))
    finally:
        await courier.aclose()
    assert [_shown(answer, keys) for answer, keys in zip(answers, wanted, strict=True)] == [
        {key: value for key, value in {"scope": Scope.PROVIDER.value, **keys}.items() if key in EXPECTED}
        for keys in wanted
    ]
    if not entry.keys() & {"calls", "named", "headers"}:
        verdict = explain(fixture.kind, str(entry["status"]), entry["body"].encode())
        assert verdict.outcome == entry["outcome"], "`heliograph classify` says something else"


def wire_answer(entry: dict[str, Any]) -> WireAnswer:
    headers = {name.lower(): value for name, value in entry.get("headers", {}).items()}
    return WireAnswer(status=entry["status"], headers=headers, body=entry["body"].encode(), at_s=NOW.timestamp())


def _call(channel: Channel, number: int, named: Collection[str]) -> ProviderCall:
    assert set(named) <= {"sender", "template"}
    return a_call(_sms(number, named) if channel is Channel.SMS else _email(number, named))


def _sms(number: int, named: Collection[str]) -> Message:
    content = SmsContent(
        text="Your code is 5566",
        sender_id="HELIOG" if "sender" in named else None,
        dlt_template_id="1107161234567890123" if "template" in named else None,
        dlt_entity_id="1101456789012345678" if "template" in named else None,
    )
    return a_message(f"+91987654321{number}", id=MESSAGES[number], content=content)


def _email(number: int, named: Collection[str]) -> Message:
    content = EmailContent(subject="Hello", text="Hello.", sender="other@shop.in" if "sender" in named else None)
    return a_message(f"asha{number}@example.net", id=MESSAGES[number], content=content)


def _shown(answer: Answer, wanted: dict[str, Any]) -> dict[str, Any]:
    """Of an answer what a fixture speaks of."""
    said = {
        "outcome": answer.outcome.value,
        "code": answer.code,
        "retry_after": answer.retry_after_s,
        "scope": answer.scope.value,
        "provider_message_id": answer.provider_message_id,
        "suppress": answer.suppress,
    }
    return {key: said[key] for key in EXPECTED if key in wanted or key in ("outcome", "scope")}
