"""Callbacks that nobody signs: who knows the secret is the provider."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.ports.receipts import Genuine, ReceiptCall, Refused
from heliograph.providers.shared_secret import SharedSecret, shared_secret
from tests.support.builders import NOW, a_provider

SECRET = "kJ4vq2mZ8xTnW0pR"


def called(headers: dict[str, str] | None = None, query: dict[str, str] | None = None) -> ReceiptCall:
    return ReceiptCall(headers=headers or {}, query=query or {}, body=b"[]", received_at=NOW)


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def admits(reader: SharedSecret, call: ReceiptCall) -> bool:
    return isinstance(reader.verify(call), Genuine)


def test_the_secret_is_in_the_url_or_the_password_of_any_user() -> None:
    reader = shared_secret(a_provider(receipts={"secret": SECRET}))
    assert admits(reader, called(query={"secret": SECRET}))
    assert admits(reader, called(basic("anyone", SECRET)))
    assert not admits(reader, called())
    assert not admits(reader, called(query={"secret": SECRET[:-1]}))
    assert not admits(reader, called(basic("anyone", SECRET + "x")))


def test_a_configured_user_must_be_that_user() -> None:
    reader = shared_secret(a_provider(receipts={"secret": SECRET, "username": "bulksms"}))
    assert admits(reader, called(basic("bulksms", SECRET)))
    assert not admits(reader, called(basic("anyone", SECRET)))


@given(given_=st.text(), header=st.text() | st.binary().map(lambda b: "Basic " + base64.b64encode(b).decode()))
def test_whatever_is_given_is_refused_and_never_an_error(given_: str, header: str) -> None:
    refused = SharedSecret(secret=SECRET).verify(called({"authorization": header}, {"secret": given_}))
    assert isinstance(refused, Refused)
    assert refused.status == 401


@pytest.mark.parametrize(
    ("receipts", "key"),
    [
        ({"secrt": SECRET}, "receipts.secrt"),
        ({"username": "x"}, "receipts.secret"),
        ({"secret": ""}, "receipts.secret"),
        ({"secret": "with spaces in between"}, "receipts.secret"),
        ({"secret": 12345678901234567}, "receipts.secret"),
        ({"secret": SECRET, "username": ""}, "receipts.username"),
    ],
)
def test_a_wrong_table_is_told_by_its_key_and_without_its_value(receipts: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key) as told:
        shared_secret(a_provider(receipts=receipts))
    assert SECRET not in str(told.value)
    assert SECRET not in repr(SharedSecret(secret=SECRET))
