"""SES: every request's signature is computed again by botocore, and its body checked against the service's model."""

from __future__ import annotations

import base64
import email
import email.policy
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope
from heliograph.actors.model.message import Attachment, EmailContent, Priority
from heliograph.actors.policy.mail import parse_mailbox
from heliograph.actors.ports.courier import Allowance, Measured
from heliograph.providers import build
from heliograph.providers.ses import SesCourier
from heliograph.providers.ses.requests import SEND_BULK, SesAccount, send_bulk_email, send_email
from heliograph.providers.wire import WireAnswer
from tests.conformance.rigs import CREDENTIALS, http_settings
from tests.support.builders import a_call, a_message, an_email
from tests.support.emulators import Emulator, Mode, Ses, running
from tests.support.emulators.ses import faults

FILE: Final = Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8=")
ONE_CLICK: Final = (
    ("List-Unsubscribe", "<https://shop.in/u/1>"),
    ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
)
PICTURE: Final = Attachment(filename="p.png", content_type="image/png", content_base64="iVBORw0=", content_id="pic")


@asynccontextmanager
async def ses(api: Ses | None = None, **fields: Any) -> AsyncIterator[tuple[SesCourier, Emulator]]:
    async with running(api or Ses()) as emulator:
        courier = build(http_settings("ses", emulator.url, **fields))
        assert isinstance(courier, SesCourier)
        try:
            yield courier, emulator
        finally:
            await courier.aclose()


def a_mail(to: str = "asha@example.net", **content: Any) -> ProviderCall:
    return a_call(an_email(to, **content))


async def sent(courier: SesCourier, *calls: ProviderCall) -> list[Answer]:
    return list(await courier.send(calls, lambda: None))


async def taken(courier: SesCourier, emulator: Emulator, call: ProviderCall) -> Any:
    """The body of a mail that was taken."""
    (answer,) = await sent(courier, call)
    assert answer.outcome is Outcome.ACCEPTED, answer
    return emulator.requests[-1].json()


def raw(body: Any) -> EmailMessage:
    data = base64.b64decode(body["Content"]["Raw"]["Data"])
    return email.message_from_bytes(data, policy=email.policy.default)


# ------------------------------------------------------------------------------------------------- single mails


async def test_a_plain_mail_goes_as_simple_with_its_tag() -> None:
    async with ses(options={"configuration_set": "heliograph"}) as (courier, emulator):
        call = a_mail(html="<p>नमस्ते</p>", reply_to="help@shop.in", cc=("ravi@example.net",), bcc=("audit@shop.in",))
        assert await taken(courier, emulator, call) == {
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


async def test_a_few_headers_of_ones_own_stay_simple() -> None:
    headers = (("X-Order", "1"), ("X-Long", "x" * 800))
    async with ses() as (courier, emulator):
        body = await taken(courier, emulator, a_mail(headers=headers))
        assert [tuple(header.values()) for header in body["Content"]["Simple"]["Headers"]] == list(headers)


@pytest.mark.parametrize(
    "content",
    [
        {"attachments": (FILE,)},
        {"headers": ONE_CLICK},
        {"headers": (("In-Reply-To", "<1@shop.in>"),)},
        {"headers": tuple((f"X-{n}", "1") for n in range(16))},
        {"headers": (("X-Name", "Büro"),)},
        {"headers": (("X-Name", "1"), ("x-name", "2"))},
        {"headers": (("X-Name", ("y" * 70 + " ") * 14 + "y"),)},
        {"subject": ""},
        {"text": "Hello, Asha.", "html": ""},
    ],
)
async def test_what_ses_might_take_otherwise_goes_as_raw_without_the_blind_copies(content: dict[str, Any]) -> None:
    async with ses() as (courier, emulator):
        body = await taken(courier, emulator, a_mail("Asha <asha@example.net>", bcc=("audit@shop.in",), **content))
        assert body["Destination"] == {"ToAddresses": ["asha@example.net"], "BccAddresses": ["audit@shop.in"]}
        mail = raw(body)
        assert b"audit@shop.in" not in mail.as_bytes()
        assert (mail["From"], mail["To"]) == ("Shop <hi@shop.in>", "Asha <asha@example.net>")
        assert "Hello, Asha." in cast(EmailMessage, mail.get_body(("plain",))).get_content()
        for name, value in content.get("headers", ()):
            assert value in (mail.get_all(name) or ())


async def test_inline_images_stand_beside_their_page_and_files_beside_the_mail() -> None:
    async with ses() as (courier, emulator):
        html = '<img src="cid:pic">'
        mail = raw(await taken(courier, emulator, a_mail(html=html, attachments=(PICTURE, FILE))))
        kinds = [part.get_content_type() for part in mail.walk()]
        assert kinds[0] == "multipart/mixed"
        assert kinds[kinds.index("multipart/related") :][1:3] == ["text/html", "image/png"]
        (picture,) = (part for part in mail.walk() if part.get_content_type() == "image/png")
        assert (picture["Content-ID"], picture.get_content_disposition()) == ("<pic>", "inline")
        assert [part.get_filename() for part in mail.iter_attachments()] == ["a.txt"]


async def test_names_are_shown_whatever_their_letters_and_domains_are_in_punycode() -> None:
    name = "Büro für außergewöhnlich lange Namen, और बहुत लंबे नाम, die niemand in ein Wort bekommt"
    async with ses(sender=f'"{name}" <buero@bücher.example>') as (courier, emulator):
        call = a_mail(
            '"Rao, Asha" <asha@भारत.example>',
            reply_to="Größe <hilfe@bücher.example>",
            cc=("Ravi <ravi@example.net>",),
            bcc=("Audit <audit@bücher.example>",),
        )
        body = await taken(courier, emulator, call)
        shown, address = parseaddr(body["FromEmailAddress"])
        assert (str(make_header(decode_header(shown))), address) == (name, "buero@xn--bcher-kva.example")
        assert body["Destination"] == {
            "ToAddresses": ['"Rao, Asha" <asha@xn--h2brj9c.example>'],
            "CcAddresses": ["Ravi <ravi@example.net>"],
            "BccAddresses": ["audit@xn--bcher-kva.example"],
        }
        assert body["ReplyToAddresses"] == ["=?utf-8?b?R3LDtsOfZQ==?= <hilfe@xn--bcher-kva.example>"]


async def test_a_name_that_makes_the_address_too_long_is_left_out() -> None:
    async with ses() as (courier, emulator):
        body = await taken(courier, emulator, a_mail(sender=f"{'ü' * 250} <me@shop.in>"))
        assert body["FromEmailAddress"] == "me@shop.in"


@pytest.mark.parametrize(
    ("tags", "written"),
    [
        (("otp",), {"otp": "1"}),
        (("campaign:summer sale", "campaign:again"), {"campaign": "summer_sale"}),
        (("grüße", "a.b:c.d"), {"gr__e": "1", "a_b": "c_d"}),
        (("नमस्ते", ":", "", "---"), {}),
        (("hg-attempt:forged", "empty:"), {"empty": "1"}),
        (("x" * 300 + ":" + "y" * 300,), {"x" * 256: "y" * 256}),
    ],
)
async def test_a_messages_tags_become_what_ses_takes_for_tags(tags: Sequence[str], written: dict[str, str]) -> None:
    async with ses() as (courier, emulator):
        call = a_call(a_message("asha@example.net", tags=tuple(tags)))
        body = await taken(courier, emulator, call)
        assert {tag["Name"]: tag["Value"] for tag in body["EmailTags"]} == {"hg-attempt": call.attempt_id, **written}


async def test_a_messages_tags_are_kept_back_where_the_configuration_says_so() -> None:
    async with ses(options={"tags": False}) as (courier, emulator):
        body = await taken(courier, emulator, a_call(a_message("asha@example.net", tags=("otp",))))
        assert [tag["Name"] for tag in body["EmailTags"]] == ["hg-attempt"]


def test_a_header_that_ses_would_obey_is_not_routed_there() -> None:
    courier = build(http_settings("ses", "https://email.example"))
    assert courier.takes(an_email(headers=(("X-SES-Configuration-Set", "other"),))) == "header"
    assert courier.takes(an_email(headers=(("X-Session", "1"),))) is None


async def test_fifty_recipients_are_taken_and_one_more_is_not_routed_here() -> None:
    async with ses() as (courier, emulator):
        fifty = a_mail(cc=tuple(f"a{n}@example.net" for n in range(49)))
        assert courier.takes(fifty.message) is None
        assert (await sent(courier, fifty))[0].outcome is Outcome.ACCEPTED
        more = a_mail(cc=tuple(f"a{n}@example.net" for n in range(50)))
        assert courier.takes(more.message) == "too_many_recipients"
        assert emulator.seen.calls == 1


LINES = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters='<>"\\=')
LOCALS = st.text("abcxyz0189+_-", min_size=1, max_size=20)
MAILBOXES = st.builds(lambda name, local: f'"{name}" <{local}@bücher.example>', st.text(LINES, max_size=60), LOCALS)
TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")) | st.just("\n"), min_size=1, max_size=80)
VALUES = st.text(LINES, min_size=1, max_size=40).filter(str.strip)
CONTENTS = st.builds(
    EmailContent,
    subject=st.text(LINES, max_size=40),
    text=TEXTS,
    html=st.none() | TEXTS,
    sender=st.none() | MAILBOXES,
    reply_to=st.none() | MAILBOXES,
    cc=st.lists(MAILBOXES, max_size=3).map(tuple),
    bcc=st.lists(MAILBOXES, max_size=3).map(tuple),
    headers=st.dictionaries(st.sampled_from(["X-A", "X-B", "List-Unsubscribe"]), VALUES).map(
        lambda h: tuple(h.items())
    ),
    attachments=st.lists(st.sampled_from([FILE, PICTURE]), max_size=2, unique=True).map(tuple),
)
ACCOUNT: Final = SesAccount(sender=parse_mailbox("Shop <hi@shop.in>"), configuration_set="heliograph")


@given(content=CONTENTS, to=MAILBOXES, tags=st.lists(st.text(max_size=20), max_size=5))
def test_every_body_is_one_that_the_services_own_model_takes(content: EmailContent, to: str, tags: list[str]) -> None:
    call = a_call(a_message(to, content=content, tags=tuple(tags)))
    assert faults(json.loads(send_email(call, ACCOUNT).body), "SendEmail") == ""
    single = replace(content, cc=(), bcc=(), attachments=())
    pair = [a_call(a_message(to, content=single, tags=tuple(tags))) for _ in range(2)]
    assert faults(json.loads(send_bulk_email(pair, ACCOUNT).body), "SendBulkEmail") == ""


# ------------------------------------------------------------------------------------------------- shared calls


def people(number: int, **content: Any) -> list[ProviderCall]:
    return [a_mail(f"a{n}@example.net", **content) for n in range(number)]


def alike(courier: SesCourier, calls: Sequence[ProviderCall]) -> bool:
    return len({courier.batch_key(call.message) for call in calls} - {None}) == 1


async def test_mails_of_one_content_share_a_call_each_under_its_own_id() -> None:
    async with ses(batch=50, options={"configuration_set": "heliograph"}) as (courier, emulator):
        calls = people(50, html="<p>50 % off {only today}</p>", reply_to="help@shop.in")
        assert alike(courier, calls)
        answers = await sent(courier, *calls)
        assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}
        assert len({answer.provider_message_id for answer in answers}) == 50
        assert emulator.seen.calls == 1
        assert emulator.seen.taken == Counter(call.message.to for call in calls)
        assert emulator.seen.attempts == Counter(call.attempt_id for call in calls)
        body = emulator.requests[-1].json()
        assert body["DefaultContent"]["Template"] == {
            "TemplateContent": {"Subject": "Hello", "Text": "Hello, Asha.", "Html": "<p>50 % off {only today}</p>"},
            "TemplateData": "{}",
        }
        assert (body["ReplyToAddresses"], body["ConfigurationSetName"]) == (["help@shop.in"], "heliograph")
        assert body["BulkEmailEntries"][7] == {
            "Destination": {"ToAddresses": ["a7@example.net"]},
            "ReplacementTags": [{"Name": "hg-attempt", "Value": calls[7].attempt_id}],
        }


async def test_mails_that_share_a_call_keep_their_own_headers_and_tags() -> None:
    async with ses(batch=50) as (courier, emulator):
        content = EmailContent(subject="Hello", text="Hello.")
        ways = [(("List-Unsubscribe", f"<https://shop.in/u/{n}>"), ("X-Person", str(n))) for n in range(3)]
        calls = [
            a_call(a_message(f"a{n}@example.net", tags=(f"group:{n}",), content=replace(content, headers=way)))
            for n, way in enumerate(ways)
        ]
        assert alike(courier, calls)
        assert {answer.outcome for answer in await sent(courier, *calls)} == {Outcome.ACCEPTED}
        entries = emulator.requests[-1].json()["BulkEmailEntries"]
        assert [tuple(tuple(h.values()) for h in entry["ReplacementHeaders"]) for entry in entries] == ways
        assert [entry["ReplacementTags"][1] for entry in entries] == [
            {"Name": "group", "Value": str(n)} for n in range(3)
        ]


@pytest.mark.parametrize(
    "other",
    [{"subject": "Other"}, {"text": "Other"}, {"html": "Other"}, {"sender": "me@a.in"}, {"reply_to": "me@a.in"}],
)
def test_mails_that_differ_share_no_call(other: dict[str, Any]) -> None:
    courier = build(http_settings("ses", "https://email.example", batch=50))
    assert courier.batch_key(an_email()) is not None
    assert courier.batch_key(an_email(**other)) not in (None, courier.batch_key(an_email()))


@pytest.mark.parametrize(
    "content",
    [
        {"cc": ("ravi@example.net",)},
        {"bcc": ("ravi@example.net",)},
        {"attachments": (FILE,)},
        {"text": "Dear {{name}}"},
        {"html": "<p>{{{name}}}</p>"},
        {"subject": "{{#each}}"},
        {"subject": ""},
        {"text": ""},
        {"headers": (("In-Reply-To", "<1@shop.in>"),)},
        {"headers": (("X-Name", "Büro"),)},
        {"text": "x" * 200_000},
        {"priority": Priority.URGENT},
    ],
)
def test_what_a_template_or_an_entry_might_change_goes_alone(content: dict[str, Any]) -> None:
    courier = build(http_settings("ses", "https://email.example", batch=50))
    assert courier.batch_key(an_email(**content)) is None


async def test_a_text_that_looks_like_a_template_arrives_as_it_is() -> None:
    async with ses(batch=50) as (courier, emulator):
        body = await taken(courier, emulator, a_mail(text="Use {{name}} and {{{html}}}"))
        assert body["Content"]["Simple"]["Body"]["Text"]["Data"] == "Use {{name}} and {{{html}}}"
        assert emulator.seen.texts == {"Use {{name}} and {{{html}}}": 1}


def test_without_a_batch_no_mail_shares_a_call() -> None:
    assert build(http_settings("ses", "https://email.example")).batch_key(an_email()) is None


async def test_each_entry_of_a_shared_call_is_answered_for_itself() -> None:
    said = [
        ("SUCCESS", Outcome.ACCEPTED),
        ("MESSAGE_REJECTED", Outcome.REJECTED),
        ("ACCOUNT_THROTTLED", Outcome.THROTTLED),
        ("TRANSIENT_FAILURE", Outcome.DEFERRED),
        ("ACCOUNT_SENDING_PAUSED", Outcome.MISCONFIGURED),
        ("SUCCESS", Outcome.ACCEPTED),
    ]
    api = Ses()
    api.entries = {f"a{n}@example.net": (status, f"{n}: {status}") for n, (status, _) in enumerate(said)}
    async with ses(api, batch=50) as (courier, emulator):
        answers = await sent(courier, *people(len(said)))
        assert [answer.outcome for answer in answers] == [outcome for _, outcome in said]
        assert [answer.detail for answer in answers[1:5]] == [f"{n}: {said[n][0]}" for n in range(1, 5)]
        assert emulator.seen.taken == {"a0@example.net": 1, "a5@example.net": 1}


async def test_a_shared_call_that_is_refused_is_sent_again_mail_by_mail() -> None:
    async with ses(batch=50) as (courier, emulator):
        emulator.set(Mode.REFUSE, times=1)
        calls = people(3)
        answers = await sent(courier, *calls)
        assert {(answer.outcome, answer.scope) for answer in answers} == {(Outcome.DEFERRED, Scope.MESSAGE)}
        assert emulator.seen.messages == 0
        for call in calls:
            assert courier.batch_key(call.message) is None
            assert (await sent(courier, call))[0].outcome is Outcome.ACCEPTED
        assert emulator.seen.taken == Counter(call.message.to for call in calls)


async def test_a_sender_that_a_shared_call_named_says_nothing_of_the_account() -> None:
    async with ses(Ses(identities={"shop.in"}), batch=50) as (courier, _):
        answers = await sent(courier, *people(2, sender="me@elsewhere.example"))
        assert {(a.outcome, a.scope) for a in answers} == {(Outcome.MISCONFIGURED, Scope.MESSAGE)}
        answers = await sent(courier, *people(2))
        assert {a.outcome for a in answers} == {Outcome.ACCEPTED}


@pytest.mark.parametrize("results", ["[]", '[{"Status":"SUCCESS","MessageId":"1"}]', '{"0":1}', "[1,2,3]", "null"])
async def test_results_that_are_not_one_for_each_message_leave_all_of_them_unknown(results: str) -> None:
    async with ses(batch=50) as (courier, _):
        body = f'{{"BulkEmailEntryResults":{results}}}'.encode()
        answers = courier.classify(people(2), WireAnswer(status=200, body=body))
        assert {answer.outcome for answer in answers} == {Outcome.UNKNOWN}


def test_a_shared_call_has_its_own_path() -> None:
    assert send_bulk_email(people(2), ACCOUNT).target == SEND_BULK


# ---------------------------------------------------------------------------------- refusals, clock and account


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


async def test_a_clock_that_stays_wrong_is_corrected_once() -> None:
    class Elsewhen(Ses):
        def _now_s(self) -> float:
            self.skew_s += 3600
            return super()._now_s()

    async with ses(Elsewhen()) as (courier, emulator):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "InvalidSignatureException")
        assert (emulator.seen.calls, emulator.seen.messages) == (2, 0)


async def test_an_unverified_sender_that_the_message_named_says_nothing_of_the_account() -> None:
    async with ses(Ses(identities={"verified.example"})) as (courier, _):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "MessageRejected")
        assert answer.scope is Scope.PROVIDER
        (named,) = await sent(courier, a_mail(sender="me@elsewhere.example"))
        assert (named.outcome, named.scope) == (Outcome.MISCONFIGURED, Scope.MESSAGE)
        assert (await sent(courier, a_mail(sender="me@verified.example")))[0].outcome is Outcome.ACCEPTED


async def test_a_recipient_that_the_sandbox_does_not_know_is_the_accounts_fault_whoever_the_sender_is() -> None:
    body = b'{"message":"Email address is not verified. The following identities failed the check: asha@example.net"}'
    came = WireAnswer(status=400, headers={"x-amzn-errortype": "MessageRejected"}, body=body)
    async with ses() as (courier, _):
        (answer,) = courier.classify([a_mail(sender="me@shop.in")], came)
        assert (answer.outcome, answer.scope) == (Outcome.MISCONFIGURED, Scope.PROVIDER)


async def test_a_configuration_set_that_does_not_exist_is_the_accounts_fault() -> None:
    api = Ses()
    api.sets = {"heliograph"}
    async with ses(api, options={"configuration_set": "other"}) as (courier, _):
        (answer,) = await sent(courier, a_mail())
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "NotFoundException")


async def test_a_path_before_the_api_is_signed_as_it_is_sent() -> None:
    async with running(Ses()) as emulator:
        courier = build(http_settings("ses", f"{emulator.url}/a%20b"))
        (answer,) = await courier.send([a_mail()], lambda: None)
        await courier.aclose()
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "UnknownOperationException")


@pytest.mark.parametrize(
    ("account", "detail"),
    [
        ({}, "production; 1234 of 50000 in 24 h, 14/s"),
        ({"ProductionAccessEnabled": False}, "sandbox: verified recipients only; 1234 of 50000 in 24 h, 14/s"),
        ({"EnforcementStatus": "PROBATION"}, "production, under review; 1234 of 50000 in 24 h, 14/s"),
        (
            {"SendQuota": {"Max24HourSend": -1.0, "MaxSendRate": 0.5, "SentLast24Hours": 0.0}},
            "production; 0 of no limit in 24 h, 0.5/s",
        ),
        ({"SendQuota": None}, "production; it does not tell its quota"),
    ],
)
async def test_the_check_tells_the_quota(account: dict[str, Any], detail: str) -> None:
    api = Ses()
    api.account |= account
    async with ses(api) as (courier, _):
        answer = await courier.check()
        assert (answer.outcome, answer.detail) == (Outcome.ACCEPTED, detail)


@pytest.mark.parametrize("account", [{"SendingEnabled": False}, {"EnforcementStatus": "SHUTDOWN"}])
async def test_the_check_tells_that_sending_is_switched_off(account: dict[str, Any]) -> None:
    api = Ses()
    api.account |= account
    async with ses(api) as (courier, _):
        assert (await courier.check()).outcome is Outcome.MISCONFIGURED


@pytest.mark.parametrize(
    ("quota", "allowance"),
    [
        ({}, Allowance(rate=14.0, remaining=48766)),
        ({"SentLast24Hours": 60000.0}, Allowance(rate=14.0, remaining=0)),
        ({"Max24HourSend": -1.0}, Allowance(rate=14.0)),
        ({"MaxSendRate": 0.0}, Allowance(remaining=48766)),
        ({"MaxSendRate": "x", "Max24HourSend": None}, None),
    ],
)
async def test_the_account_tells_what_it_may_send(quota: dict[str, Any], allowance: Allowance | None) -> None:
    api = Ses()
    api.account["SendQuota"] |= quota
    async with ses(api) as (courier, _):
        assert isinstance(courier, Measured)
        assert await courier.allowance() == allowance


@pytest.mark.parametrize(
    "mode", [Mode.UNAVAILABLE, Mode.UNAUTHORIZED, Mode.CUT, Mode.GARBAGE, Mode.HTML, Mode.THROTTLED]
)
async def test_an_account_that_cannot_be_asked_now_tells_nothing(mode: Mode) -> None:
    async with ses() as (courier, emulator):
        emulator.set(mode)
        assert await courier.allowance() is None
