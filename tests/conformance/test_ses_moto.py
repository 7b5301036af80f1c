"""SES against moto, which nobody here wrote: what it takes, what it keeps, and three of its refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.message import Attachment
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, an_email
from tests.support.moto import call_moto, kept, know_sender, moto_server


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
async def courier(moto: str) -> AsyncIterator[Courier]:
    call_moto(f"{moto}/moto-api/reset", {})
    know_sender(moto, "shop.in")
    opened = build(http_settings("ses", moto))
    yield opened
    await opened.aclose()


async def test_a_simple_mail_arrives(moto: str, courier: Courier) -> None:
    (answer,) = await courier.send([a_call(an_email(subject="Grüße", text="नमस्ते"))], lambda: None)
    assert answer.outcome is Outcome.ACCEPTED
    (mail,) = kept(moto)
    assert mail["id"] == answer.provider_message_id
    assert (mail["subject"], mail["body"]) == ("Grüße", "नमस्ते")


async def test_a_raw_mail_arrives(moto: str, courier: Courier) -> None:
    attachment = Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8=")
    (answer,) = await courier.send([a_call(an_email(attachments=(attachment,)))], lambda: None)
    assert answer.outcome is Outcome.ACCEPTED
    (mail,) = kept(moto, "RawMessage")
    assert "a.txt" in mail["raw_data"]


async def test_an_unknown_sender_is_refused(moto: str, courier: Courier) -> None:
    (answer,) = await courier.send([a_call(an_email(sender="me@elsewhere.example"))], lambda: None)
    assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "MessageRejected")
    assert answer.scope is Scope.MESSAGE
    assert kept(moto) == []


async def test_too_many_recipients_are_refused(courier: Courier) -> None:
    crowd = tuple(f"a{n}@example.net" for n in range(60))
    (answer,) = await courier.send([a_call(an_email(cc=crowd))], lambda: None)
    assert (answer.outcome, answer.detail) == (Outcome.REJECTED, "Too many recipients.")


async def test_a_call_that_moto_does_not_have_is_no_error_of_ours(courier: Courier) -> None:
    answer = await courier.check()
    assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "404")
