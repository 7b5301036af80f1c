"""Every documented receipt of every provider, in its own words, and what it must report."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.receipt import Receipt
from heliograph.actors.ports.receipts import Genuine, ReceiptCall, ReceiptReader, Refused, Reports
from heliograph.providers import KINDS
from tests.conformance.cases import ATTEMPTS, Fixture, fixtures, unknown_keys
from tests.conformance.rigs import http_settings
from tests.support.builders import NOW

KEYS: Final = {
    "case", "headers", "query", "body", "genuine", "refused", "reports", "ignored", "notices", "confirm"
}  # fmt: skip
ALWAYS: Final = ("attempt_id", "provider_message_id", "recipient", "effect", "suppress")


@pytest.mark.parametrize("fixture", fixtures("receipts.toml", "receipt", "settings"), ids=str)
def test_a_receipt_reports_what_its_documentation_means(fixture: Fixture) -> None:
    assert not unknown_keys(fixture, KEYS)
    check_receipt(fixture)


def test_every_kind_that_reports_has_its_documented_receipts() -> None:
    walked = {fixture.kind for fixture in fixtures("receipts.toml", "receipt", "settings")}
    reporting = {kind for kind, known in KINDS.items() if known.receipts is not None and known.explain is not None}
    assert walked == reporting  # the sandbox reports to itself


def check_receipt(fixture: Fixture) -> None:
    entry, reader = fixture.entry, _reader(fixture)
    call = ReceiptCall(
        headers={name.lower(): value for name, value in entry.get("headers", {}).items()},
        query=entry.get("query", {}),
        body=entry["body"].encode(),
        received_at=NOW,
    )
    if "genuine" in entry:
        assert isinstance(reader.verify(call, {}), Genuine) is entry["genuine"]
    if "refused" in entry:
        assert _refusal(reader, call).status == entry["refused"]
        return
    reports = reader.read(call)
    assert isinstance(reports, Reports)
    wanted = entry["reports"]
    assert [_shown(*pair) for pair in zip(reports.receipts, wanted, strict=True)] == [
        {**dict.fromkeys(ALWAYS), **report} for report in wanted
    ]
    assert reports.ignored == entry.get("ignored", 0)
    assert list(reports.notices) == entry.get("notices", list(reports.notices))
    assert reports.confirm == entry.get("confirm")


def _reader(fixture: Fixture) -> ReceiptReader:
    build = KINDS[fixture.kind].receipts
    assert build is not None
    return build(http_settings(fixture.kind, "http://api.example.com", receipts=fixture.common))


def _refusal(reader: ReceiptReader, call: ReceiptCall) -> Refused:
    """Of the first that refuses, as the gateway asks them."""
    verified = reader.verify(call, {})
    refused = verified if isinstance(verified, Refused) else reader.read(call)
    assert isinstance(refused, Refused)
    return refused


def _shown(receipt: Receipt, wanted: dict[str, Any]) -> dict[str, Any]:
    """Of a receipt what a fixture speaks of."""
    return {name: getattr(receipt, name) for name in (*ALWAYS, *(key for key in wanted if key not in ALWAYS))}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    [
        "id", "status", "type", "subtype", "condition", "cause", "to", "userSuppliedId", "date", "address", "event",
        "email", "sg_message_id", "hg_attempt", "timestamp", "reason", "request_id", "mobile", "udf1",
        "delivery_status", "Type", "Message", "TopicArn", "SigningCertURL", "SubscribeURL", "Signature", "eventType",
        "mail", "messageId", "tags", "bounce", "bounceType", "bouncedRecipients", "emailAddress", "hg-attempt",
        "destination", "delivery",
    ]
)  # fmt: skip
SAID = st.sampled_from(["DELIVERED", "FAILED", "Bounce", "Complaint", "Delivery", "bounce", "dropped", ATTEMPTS[0]])
LIKELY = st.recursive(
    JSON | SAID, lambda inner: st.dictionaries(WORDS, inner, max_size=6) | st.lists(inner, max_size=3), max_leaves=15
)
BODIES = st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), LIKELY | JSON)
READERS: Final = {fixture.kind: fixture for fixture in fixtures("receipts.toml", "receipt", "settings")}


@given(
    kind=st.sampled_from(sorted(READERS)),
    headers=st.dictionaries(st.sampled_from(["authorization", "x-bulksms-event", "x-amz-sns-message-type"]), st.text()),
    query=st.dictionaries(st.sampled_from(["secret", "token"]), st.text(max_size=20)),
    body=BODIES,
)
def test_whatever_calls_is_refused_or_read_and_never_an_error(
    kind: str, headers: dict[str, str], query: dict[str, str], body: bytes
) -> None:
    reader = _reader(READERS[kind])
    call = ReceiptCall(headers=headers, query=query, body=body, received_at=NOW)
    assert not isinstance(reader.verify(call, {}), Genuine)
    said = reader.read(call)
    if isinstance(said, Refused):
        assert said.status in (400, 401)
        return
    for receipt in said.receipts:
        assert receipt.attempt_id or receipt.provider_message_id or receipt.recipient
        assert receipt.effect or receipt.suppress
        for text in (receipt.code, receipt.detail):
            assert text is None or (text.isprintable() and len(text) <= 500)
