"""SendGrid against an emulator that refuses what the API reference refuses; its receipts against the vendor's own."""

from __future__ import annotations

import base64
import json
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Attachment
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, ReceiptReader, Refused, Reports
from heliograph.providers import KINDS, build
from heliograph.providers.http import PUT_BACK
from heliograph.providers.sendgrid.courier import SendGridCourier
from heliograph.providers.sendgrid.receipts import SIGNATURE, TIMESTAMP, reader
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, an_email
from tests.support.emulators import Emulator, SendGrid, running
from tests.support.emulators.server import Response


@asynccontextmanager
async def sendgrid(api: SendGrid | None = None, **fields: Any) -> AsyncIterator[tuple[SendGridCourier, Emulator]]:
    async with running(api or SendGrid()) as emulator:
        courier = build(http_settings("sendgrid", emulator.url, **fields))
        assert isinstance(courier, SendGridCourier)
        yield courier, emulator
        await courier.aclose()


def a_mail(to: str = "asha@example.net", **content: Any) -> ProviderCall:
    return a_call(an_email(to, **content))


async def sent(courier: SendGridCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


async def test_a_mail_with_everything_is_taken() -> None:
    async with sendgrid(options={"ip_pool": "transactional", "unsubscribe_group": 7}) as (courier, emulator):
        call = a_mail(
            html="<p>Hello, Asha.</p>",
            sender='"Shop, Ltd" <orders@shop.in>',
            reply_to="help@shop.in",
            cc=("ravi@example.net", "Asha@example.net"),
            bcc=("audit@shop.in",),
            headers=(("X-Entity-Ref-ID", "order-1"),),
            attachments=(
                Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8="),
                Attachment(filename="b.png", content_type="image/png", content_base64="aGVsbG8=", content_id="b"),
            ),
        )
        (answer,) = await sent(courier, call)
        assert answer.outcome is Outcome.ACCEPTED
        assert answer.provider_message_id == "sg-1"
        body = emulator.requests[-1].json()
        assert body["personalizations"] == [
            {
                "to": [{"email": "asha@example.net"}],
                "cc": [{"email": "ravi@example.net"}],
                "bcc": [{"email": "audit@shop.in"}],
                "headers": {"X-Entity-Ref-ID": "order-1"},
                "subject": "Hello",
                "custom_args": {"hg_attempt": call.attempt_id},
            }
        ]
        assert body["from"] == {"email": "orders@shop.in", "name": "Shop, Ltd"}
        assert body["tracking_settings"] == {"click_tracking": {"enable": False}, "open_tracking": {"enable": False}}
        assert [part["type"] for part in body["content"]] == ["text/plain", "text/html"]
        assert [part["disposition"] for part in body["attachments"]] == ["attachment", "inline"]


async def test_mails_of_one_content_share_a_call() -> None:
    async with sendgrid(batch=1000) as (courier, emulator):
        calls = [a_mail(f"a{n}@example.net", subject=f"Order {n}") for n in range(50)]
        assert len({courier.batch_key(call.message) for call in calls}) == 1
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.provider_message_id) for a in answers} == {(Outcome.ACCEPTED, "sg-1")}
        assert emulator.seen.taken.total() == 50
        assert set(emulator.seen.attempts) == {call.attempt_id for call in calls}


async def test_one_bad_address_is_named_and_the_others_come_again_together() -> None:
    api = SendGrid()
    api.rejects = {"a17@example.net"}
    async with sendgrid(api, batch=1000) as (courier, emulator):
        calls = [a_mail(f"a{n}@example.net") for n in range(20)]
        answers = await sent(courier, *calls)
        assert answers[17].outcome is Outcome.REJECTED
        others = calls[:17] + calls[18:]
        assert {(a.outcome, a.scope) for n, a in enumerate(answers) if n != 17} == {(Outcome.DEFERRED, Scope.MESSAGE)}
        assert emulator.seen.taken.total() == 0
        assert None not in {courier.batch_key(call.message) for call in others}
        assert {answer.outcome for answer in await sent(courier, *others)} == {Outcome.ACCEPTED}
        assert emulator.seen.taken.total() == 19


async def test_an_unverified_sender_that_the_message_named_says_nothing_of_the_account() -> None:
    async with sendgrid(SendGrid(senders={"verified.example"})) as (courier, _):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "403")
        assert answer.scope is Scope.PROVIDER
        (answer,) = await sent(courier, a_mail(sender="me@elsewhere.example"))
        assert (answer.outcome, answer.scope) == (Outcome.MISCONFIGURED, Scope.MESSAGE)
        (answer,) = await sent(courier, a_mail(sender="me@verified.example"))
        assert answer.outcome is Outcome.ACCEPTED


async def test_sandbox_mode_is_taken_and_sends_nothing() -> None:
    async with sendgrid(options={"sandbox_mode": "true"}) as (courier, emulator):
        assert (await sent(courier, a_mail()))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 0


async def test_a_name_outside_ascii_and_a_foreign_domain_are_written_as_sendgrid_wants_them() -> None:
    async with sendgrid(sender="Büro <büro@bücher.example>".replace("büro@", "buero@")) as (courier, emulator):
        assert (await sent(courier, a_mail("asha@bücher.example")))[0].outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json()["from"] == {"email": "buero@xn--bcher-kva.example", "name": "Büro"}
        assert emulator.seen.taken == {"asha@xn--bcher-kva.example": 1}


async def test_an_empty_text_part_is_left_out() -> None:
    async with sendgrid() as (courier, emulator):
        assert (await sent(courier, a_mail(text="", html="<p>x</p>")))[0].outcome is Outcome.ACCEPTED
        assert emulator.requests[-1].json()["content"] == [{"type": "text/html", "value": "<p>x</p>"}]


async def test_every_rule_of_a_field_is_kept_for_what_would_break_it() -> None:
    attachment = Attachment(filename="a;b,c.txt", content_type="text/plain", content_base64="aGVsbG8=")
    unnamed = Attachment(filename=";", content_type="text/plain", content_base64="aGVsbG8=")
    call = a_mail(
        '"Rao, Asha; Ms" <asha@example.net>',
        subject="A; subject, of ours",
        sender='"Shop; Ltd, Co" <orders@shop.in>',
        reply_to='"Help, Desk" <help@shop.in>',
        cc=('"Ravi, K" <ravi@example.net>', "RAVI@example.net"),
        attachments=(attachment, unnamed),
    )
    tags = ("receipt", "पर्ची", "receipt", *(f"tag-{n}" for n in range(12)))
    async with sendgrid() as (courier, emulator):
        (answer,) = await sent(courier, replace(call, message=replace(call.message, tags=tags)))
        assert answer.outcome is Outcome.ACCEPTED
        body = emulator.requests[-1].json()
        assert body["personalizations"][0]["to"] == [{"email": "asha@example.net", "name": "Rao Asha Ms"}]
        assert body["personalizations"][0]["cc"] == [{"email": "ravi@example.net", "name": "Ravi K"}]
        assert body["from"]["name"] == "Shop; Ltd, Co"
        assert body["categories"] == ["receipt", *(f"tag-{n}" for n in range(9))]
        assert [a["filename"] for a in body["attachments"]] == ["a b c.txt", "attachment"]
        assert "custom_args" not in body
        assert "headers" not in body


async def test_a_thousand_mails_are_one_call() -> None:
    async with sendgrid(batch=1000) as (courier, emulator):
        calls = [a_mail(f"a{n}@example.net", headers=(("X-Order", str(n)),), subject=f"{n}") for n in range(1000)]
        assert len({courier.batch_key(call.message) for call in calls}) == 1
        assert {a.outcome for a in await sent(courier, *calls)} == {Outcome.ACCEPTED}
        assert emulator.seen.calls == 1
        assert len(emulator.requests[-1].json()["personalizations"]) == 1000
        assert emulator.seen.taken.total() == len(emulator.seen.taken) == 1000
        assert set(emulator.seen.attempts) == {call.attempt_id for call in calls}


async def test_a_list_with_many_bad_addresses_uses_up_nobodys_attempts() -> None:
    """Each refusal names one of them; who was put back twice goes alone."""
    api = SendGrid()
    api.rejects = {f"a{n}@example.net" for n in range(0, 30, 3)}
    async with sendgrid(api, batch=1000) as (courier, emulator):
        waiting = [a_mail(f"a{n}@example.net") for n in range(30)]
        attempts: Counter[str] = Counter()
        ended: dict[str, Outcome] = {}
        while waiting:
            together = [call for call in waiting if courier.batch_key(call.message) is not None] or waiting[:1]
            for call, answer in zip(together, await sent(courier, *together), strict=True):
                attempts[call.message.to] += 1
                waiting.remove(call)
                if answer.outcome is Outcome.DEFERRED:
                    waiting.append(a_call(call.message, call.number + 1))
                else:
                    ended[call.message.to] = answer.outcome
        assert {to for to, outcome in ended.items() if outcome is Outcome.REJECTED} == api.rejects
        assert emulator.seen.taken == {f"a{n}@example.net": 1 for n in range(30) if n % 3}
        assert max(attempts.values()) == 3


async def test_what_is_said_of_one_mail_of_a_call_gets_to_no_other() -> None:
    api = SendGrid()
    said = [
        {"message": "Does not contain a valid address: ravi@example", "field": "personalizations.1.to.0.email"},
        {"message": "Header cannot be one of the reserved keys.", "field": "personalizations.3.headers"},
    ]
    api.play.append(Response.of(400, {"errors": said}))
    async with sendgrid(api, batch=1000) as (courier, _):
        answers = await sent(courier, *(a_mail(f"a{n}@example.net") for n in range(5)))
    assert [a.outcome for a in answers] == [
        Outcome.DEFERRED, Outcome.REJECTED, Outcome.DEFERRED, Outcome.REJECTED, Outcome.DEFERRED
    ]  # fmt: skip
    assert [answers[1].detail, answers[3].detail] == [error["message"] for error in said]
    assert {answers[n].detail for n in (0, 2, 4)} == {PUT_BACK.meaning}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "Bad Request", "field": None}),
        (400, {"message": "The personalizations field is required.", "field": "personalizations"}),
        (400, {"message": "Does not contain a valid address.", "field": "personalizations.17.to.0.email"}),
        (413, {"message": "Payload Too Large", "field": None}),
    ],
)
async def test_a_shared_refusal_without_a_culprit_sends_each_alone(status: int, error: dict[str, Any]) -> None:
    api = SendGrid()
    api.play.append(Response.of(status, {"errors": [error]}))
    async with sendgrid(api, batch=1000) as (courier, emulator):
        calls = [a_mail(f"a{n}@example.net") for n in range(3)]
        answers = await sent(courier, *calls)
        assert {(a.outcome, a.scope, a.code) for a in answers} == {(Outcome.DEFERRED, Scope.MESSAGE, str(status))}
        assert {courier.batch_key(call.message) for call in calls} == {None}
        for call in calls:
            assert (await sent(courier, call))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken.total() == 3


async def test_a_shared_call_that_blames_the_account_rejects_nobody() -> None:
    api = SendGrid()
    api.play.append(Response.of(401, {"errors": [{"message": "Maximum credits exceeded", "field": None}]}))
    async with sendgrid(api, batch=1000) as (courier, _):
        answers = await sent(courier, *(a_mail(f"a{n}@example.net") for n in range(3)))
        assert {(a.outcome, a.scope, a.code) for a in answers} == {(Outcome.MISCONFIGURED, Scope.PROVIDER, "credits")}


async def test_the_last_call_of_a_period_asks_for_a_pause_and_so_does_one_too_many() -> None:
    api = SendGrid()
    api.calls_left, api.reset_s = 2, int(time.time()) + 120
    async with sendgrid(api) as (courier, _):
        outcomes = []
        for n in range(3):
            (answer,) = await sent(courier, a_mail(f"a{n}@example.net"))
            outcomes.append(answer.outcome)
            assert (answer.retry_after_s or 0) == 0 if n == 0 else 110 < (answer.retry_after_s or 0) <= 120
        assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.THROTTLED]


async def test_a_pool_or_group_that_the_account_does_not_have_is_the_configurations_fault() -> None:
    for options in ({"ip_pool": "nowhere"}, {"unsubscribe_group": 8}):
        async with sendgrid(options=options) as (courier, _):
            (answer,) = await sent(courier, a_mail(sender="me@shop.in"))
            assert (answer.outcome, answer.scope) == (Outcome.MISCONFIGURED, Scope.PROVIDER)


async def test_the_check_tells_the_balance_where_the_key_may_see_it() -> None:
    api = SendGrid()
    async with sendgrid(api) as (courier, _):
        answer = await courier.check()
        assert (answer.outcome, answer.detail) == (Outcome.ACCEPTED, "the key may send")
        api.scopes.append("user.credits.read")
        assert (await courier.check()).detail == "the key may send; 40 of 100 credits left until 2026-12-01"
        api.scopes.remove("mail.send")
        answer = await courier.check()
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "scopes")
        assert api.seen.taken.total() == 0


# ------------------------------------------------------------------------------------------------------- receipts

FIXTURES = Path(__file__).parent / "fixtures" / "sendgrid"
VECTOR_KEY = tomllib.loads((FIXTURES / "receipts.toml").read_text())["settings"]["public_key"]
VECTOR_SIGNATURE = "MEUCIQDjLB/VUf56BedaKqKMNUo4L7lqZ6UO6LreXzlutN6Z+AIgbskZ0k0/NDFoAOpi9vkSM1YGPi9EfX3NsWDwPt/uAwg="
VECTOR_BODY = b'[{"email":"a@example.net","event":"delivered","timestamp":1795521600,"attempt_id":"att_1"}]\r\n'
SIGNED_AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def a_reader(public_key: str = VECTOR_KEY, group: int | None = None, **receipts: Any) -> ReceiptReader:
    settings = http_settings(
        "sendgrid", "http://127.0.0.1:9", receipts={"public_key": public_key, **receipts},
        options={} if group is None else {"unsubscribe_group": group},
    )  # fmt: skip
    assert KINDS["sendgrid"].receipts is not None
    return KINDS["sendgrid"].receipts(settings)


def posted(
    body: bytes = VECTOR_BODY,
    signature: str | None = VECTOR_SIGNATURE,
    timestamp: str | None = "1795521600",
    after: timedelta = timedelta(seconds=3),
) -> ReceiptCall:
    given = {SIGNATURE: signature, TIMESTAMP: timestamp}
    return ReceiptCall(
        headers={name: value for name, value in given.items() if value is not None},
        body=body,
        received_at=SIGNED_AT + after,
    )


def status_of(verified: Genuine | CertificateNeeded | Refused) -> int:
    match verified:
        case Genuine():
            return 200
        case Refused(status=status):
            return status
        case _:
            raise AssertionError("SendGrid has no certificates")


def test_the_vendors_vector_is_genuine() -> None:
    assert a_reader().verify(posted(), {}) == Genuine()


@pytest.mark.parametrize(
    "changed",
    [
        {"body": VECTOR_BODY.rstrip(b"\r\n")},
        {"body": VECTOR_BODY.replace(b"delivered", b"bounce")},
        {"body": b""},
        {"timestamp": "1795521601"},
        {"timestamp": "1795521600 "},
        {"timestamp": None},
        {"timestamp": "नहीं\udcff"},
        {"signature": None},
        {"signature": ""},
        {"signature": "no base64!"},
        {"signature": "नहीं"},
        {"signature": base64.b64encode(b"no DER").decode()},
        {"signature": VECTOR_SIGNATURE[:-8]},
    ],
)
def test_whatever_is_changed_is_refused(changed: dict[str, Any]) -> None:
    assert status_of(a_reader().verify(posted(**changed), {})) == 401


def test_a_genuine_call_may_be_a_day_old_unless_the_configuration_says_otherwise() -> None:
    late = posted(after=timedelta(hours=24))
    assert a_reader().verify(late, {}) == Genuine()
    assert status_of(a_reader(max_age="10m").verify(late, {})) == 401
    assert a_reader(max_age="10m").verify(posted(), {}) == Genuine()


@given(body=st.binary(max_size=200), noise=st.binary(max_size=80))
def test_we_and_the_vendors_own_verifier_agree(body: bytes, noise: bytes) -> None:
    """The vendor's takes bodies in UTF-8 only."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    body = body.decode("utf-8", "replace").encode() + b"\r\n"
    good = key.sign(b"1795521600" + body, ec.ECDSA(hashes.SHA256()))
    vendor = EventWebhook(public)
    for signed in (good, noise, good[:-1] + bytes([good[-1] ^ 1])):
        signature = base64.b64encode(signed).decode()
        theirs = vendor.verify_signature(body.decode(), signature, "1795521600")
        ours = a_reader(public).verify(posted(body, signature or None), {})
        assert (ours == Genuine()) is theirs


def test_the_key_is_read_as_it_is_shown_and_as_pem() -> None:
    lines = "\n".join(VECTOR_KEY[at : at + 64] for at in range(0, len(VECTOR_KEY), 64))
    for shown in (f" {VECTOR_KEY}\n", f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"):
        assert a_reader(shown).verify(posted(), {}) == Genuine()


@pytest.mark.parametrize(
    ("receipts", "key", "text"),
    [
        ({}, "receipts.public_key", "missing"),
        ({"public_key": "not base64"}, "receipts.public_key", "no public key"),
        ({"public_key": "YWJj"}, "receipts.public_key", "no public key"),
        ({"public_key": 7}, "receipts.public_key", "no public key"),
        ({"public_key": "OTHER"}, "receipts.public_key", "P-256"),
        ({"public_key": VECTOR_KEY, "publickey": "x"}, "receipts.publickey", "did you mean public_key"),
        ({"public_key": VECTOR_KEY, "max_age": "soon"}, "receipts.max_age", ""),
    ],
)
def test_a_fault_of_the_receipts_table_names_its_key(receipts: dict[str, Any], key: str, text: str) -> None:
    if receipts.get("public_key") == "OTHER":
        other = ec.generate_private_key(ec.SECP384R1()).public_key()
        receipts = {"public_key": base64.b64encode(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))}
        receipts = {"public_key": receipts["public_key"].decode()}
    with pytest.raises(ConfigurationError) as caught:
        reader(http_settings("sendgrid", "http://127.0.0.1:9", receipts=receipts))
    assert str(caught.value).startswith(f'[[providers]] name = "sendgrid", {key}: ')
    assert text in str(caught.value)


def test_who_leaves_the_group_that_all_our_mails_carry_has_left_us() -> None:
    body = b'[{"event":"group_unsubscribe","email":"asha@example.net","asm_group_id":7,"hg_attempt":"A"}]'
    for group, suppressed in ((7, [SuppressionReason.UNSUBSCRIBE]), (8, []), (None, [])):
        reports = a_reader(group=group).read(posted(body))
        assert isinstance(reports, Reports)
        assert [receipt.suppress for receipt in reports.receipts] == suppressed
        assert reports.ignored == 1 - len(suppressed)


def test_what_concerns_the_account_is_a_notice_and_no_receipt() -> None:
    body = b'[{"event":"account_status_change","type":"compliance_suspend","timestamp":1795521600,"sg_event_id":"x"}]'
    assert a_reader().read(posted(body)) == Reports(ignored=1, notices=("account_status_change compliance_suspend",))


async def test_a_mail_is_findable_by_the_id_of_its_call_where_receipts_are_taken() -> None:
    for receipts in ({}, {"public_key": VECTOR_KEY}):
        async with sendgrid(receipts=receipts, batch=10) as (courier, _):
            answers = await sent(courier, a_mail("a@example.net"), a_mail("b@example.net"))
            assert [(a.provider_message_id, a.traced) for a in answers] == 2 * [("sg-1", bool(receipts))]


def test_the_time_of_an_event_is_the_providers_own() -> None:
    reports = a_reader().read(posted())
    assert isinstance(reports, Reports)
    assert reports.receipts[0].at == SIGNED_AT


WORDS = st.sampled_from(["bounce", "dropped", "delivered", "unsubscribe", "Invalid", "account_status_change"])
FIELDS = st.sampled_from(
    ["event", "email", "type", "reason", "hg_attempt", "sg_message_id", "timestamp", "sg_event_id", "asm_group_id"]
)
EVENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=20,
)


@given(st.binary(max_size=60) | EVENTS.map(lambda value: json.dumps(value).encode()))
def test_no_body_is_an_error(body: bytes) -> None:
    read = a_reader(group=7).read(posted(body))
    assert isinstance(read, Reports) or read.status == 400
