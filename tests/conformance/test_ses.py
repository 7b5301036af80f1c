"""SES: every request's signature is computed again by botocore, and its body checked against the service's model."""

from __future__ import annotations

import base64
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.message import Attachment
from heliograph.providers import build
from heliograph.providers.ses import SesCourier
from tests.conformance.rigs import CREDENTIALS, http_settings
from tests.support.builders import a_call, an_email
from tests.support.emulators import Emulator, Ses, running


@asynccontextmanager
async def ses(api: Ses | None = None, **fields: Any) -> AsyncIterator[tuple[SesCourier, Emulator]]:
    async with running(api or Ses()) as emulator:
        courier = build(http_settings("ses", emulator.url, **fields))
        assert isinstance(courier, SesCourier)
        yield courier, emulator
        await courier.aclose()


def a_mail(to: str = "asha@example.net", **content: Any) -> ProviderCall:
    return a_call(an_email(to, **content))


async def sent(courier: SesCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


async def test_a_plain_mail_goes_as_simple_with_its_tag() -> None:
    async with ses(options={"configuration_set": "heliograph"}) as (courier, emulator):
        call = a_mail(html="<p>नमस्ते</p>", reply_to="help@shop.in", cc=("ravi@example.net",), bcc=("audit@shop.in",))
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json() == {
            "FromEmailAddress": "Shop <hi@shop.in>",
            "Destination": {
                "ToAddresses": ["asha@example.net"],
                "CcAddresses": ["ravi@example.net"],
                "BccAddresses": ["audit@shop.in"],
            },
            "ReplyToAddresses": ["help@shop.in"],
            "Content": {
                "Simple": {
                    "Subject": {"Data": "Hello", "Charset": "UTF-8"},
                    "Body": {
                        "Text": {"Data": "Hello, Asha.", "Charset": "UTF-8"},
                        "Html": {"Data": "<p>नमस्ते</p>", "Charset": "UTF-8"},
                    },
                }
            },
            "EmailTags": [{"Name": "hg-attempt", "Value": call.attempt_id}],
            "ConfigurationSetName": "heliograph",
        }


async def test_a_few_plain_headers_stay_simple() -> None:
    async with ses() as (courier, emulator):
        assert (await sent(courier, a_mail(headers=(("X-Order", "1"),))))[0].outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json()["Content"]["Simple"]["Headers"] == [{"Name": "X-Order", "Value": "1"}]


async def test_attachments_and_odd_headers_go_as_raw_without_the_blind_copies() -> None:
    attachment = Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8=")
    raws = (
        {"attachments": (attachment,)},
        {"headers": (("List-Unsubscribe", "<https://shop.in/u/1>"),)},
        {"headers": tuple((f"X-{n}", "1") for n in range(16))},
        {"headers": (("X-Name", "Büro"),)},
    )
    async with ses() as (courier, emulator):
        for content in raws:
            call = a_mail(bcc=("audit@shop.in",), **content)
            (answer,) = await sent(courier, call)
            assert answer.outcome is Outcome.ACCEPTED
            body = emulator.requests[-1].json()
            assert body["Destination"]["BccAddresses"] == ["audit@shop.in"]
            written = base64.b64decode(body["Content"]["Raw"]["Data"])
            assert b"audit@shop.in" not in written
            parsed = email.message_from_bytes(written, policy=email.policy.default)
            assert parsed["From"] == "Shop <hi@shop.in>"
            assert "Hello, Asha." in parsed.get_body().get_content()


async def test_a_name_outside_ascii_is_encoded() -> None:
    async with ses(sender="Büro <buero@bücher.example>") as (courier, emulator):
        assert (await sent(courier, a_mail()))[0].outcome is Outcome.ACCEPTED
        written = emulator.requests[-1].json()["FromEmailAddress"]
        assert written == "=?utf-8?b?QsO8cm8=?= <buero@xn--bcher-kva.example>"


async def test_a_wrong_secret_is_the_accounts_fault_and_is_not_repeated() -> None:
    async with ses(credentials=CREDENTIALS["ses"] | {"secret_access_key": "wrong"}) as (courier, emulator):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "SignatureDoesNotMatch")
        assert (await courier.check()).outcome is Outcome.MISCONFIGURED
        assert emulator.seen.calls == 2


async def test_a_clock_that_is_wrong_is_corrected_by_the_answer_in_the_same_call() -> None:
    async with ses(Ses(skew_s=3600)) as (courier, emulator):
        begun: list[None] = []
        (answer,) = await courier.send([a_mail()], lambda: begun.append(None))
        assert answer.outcome is Outcome.ACCEPTED
        assert (len(begun), emulator.seen.calls, emulator.seen.messages) == (2, 2, 1)
        assert (await sent(courier, a_mail()))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.calls == 3


async def test_an_unverified_sender_that_the_message_named_says_nothing_of_the_account() -> None:
    async with ses(Ses(identities={"verified.example"})) as (courier, _):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "MessageRejected")
        assert answer.scope is Scope.PROVIDER
        (named,) = await sent(courier, a_mail(sender="me@elsewhere.example"))
        assert (named.outcome, named.scope) == (Outcome.MISCONFIGURED, Scope.MESSAGE)
        assert (await sent(courier, a_mail(sender="me@verified.example")))[0].outcome is Outcome.ACCEPTED


async def test_fifty_recipients_are_taken_and_one_more_is_not_routed_here() -> None:
    async with ses() as (courier, emulator):
        fifty = a_mail(cc=tuple(f"a{n}@example.net" for n in range(49)))
        assert courier.takes(fifty.message) is None
        assert (await sent(courier, fifty))[0].outcome is Outcome.ACCEPTED
        more = a_mail(cc=tuple(f"a{n}@example.net" for n in range(50)))
        assert courier.takes(more.message) == "too_many_recipients"
        assert emulator.seen.calls == 1


async def test_the_check_tells_the_quota() -> None:
    async with ses() as (courier, _):
        assert (await courier.check()).detail == "production; 1234 of 50000 in 24 h, 14/s"


async def test_a_path_before_the_api_is_signed_as_it_is_sent() -> None:
    async with running(Ses()) as emulator:
        courier = build(http_settings("ses", f"{emulator.url}/a%20b"))
        (answer,) = await courier.send([a_mail()], lambda: None)
        await courier.aclose()
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "NotFoundException")
