"""Every documented receipt of every provider, in its own words, and what it must report."""

from __future__ import annotations

from typing import Any, Final

import pytest

from heliograph.actors.model.receipt import Receipt
from heliograph.actors.ports.receipts import Genuine, ReceiptCall, ReceiptReader, Refused, Reports
from heliograph.providers import KINDS
from tests.conformance.cases import Fixture, fixtures, unknown_keys
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
    return build(http_settings(fixture.kind, "https://api.example.com", receipts=fixture.common))


def _refusal(reader: ReceiptReader, call: ReceiptCall) -> Refused:
    """Of the first that refuses, as the gateway asks them."""
    verified = reader.verify(call, {})
    refused = verified if isinstance(verified, Refused) else reader.read(call)
    assert isinstance(refused, Refused)
    return refused


def _shown(receipt: Receipt, wanted: dict[str, Any]) -> dict[str, Any]:
    """Of a receipt what a fixture speaks of."""
    return {name: getattr(receipt, name) for name in (*ALWAYS, *(key for key in wanted if key not in ALWAYS))}
