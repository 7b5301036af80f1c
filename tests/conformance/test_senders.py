"""Who a message is from, by every kind; and what must reach the recipient as it was given: our id, the Message-ID, and
the headers of one-click unsubscribe (RFC 8058)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from email.utils import parseaddr
from typing import Any, Final, cast

import pytest

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Attachment, Channel, EmailContent, Message, SmsContent
from heliograph.actors.policy.route import Router
from heliograph.providers import KINDS, country_of
from tests.conformance.rigs import RIGS, HttpServer, MailServer, Rig
from tests.support.builders import a_call, a_message, a_provider
from tests.support.gateway_world import EMAIL, SMS, World, a_gateway

SMS_KINDS: Final = ("bulksms", "fast2sms")
MAIL_KINDS: Final = tuple(sorted(set(RIGS) - set(SMS_KINDS)))
KIND_NAMES: Final = (*SMS_KINDS, *MAIL_KINDS)
SENDERS: Final = {kind: "HELIOG" if kind in SMS_KINDS else "Shop <hi@shop.in>" for kind in KIND_NAMES}
OTHERS: Final = {kind: "OTHERS" if kind in SMS_KINDS else "Other <me@other.in>" for kind in KIND_NAMES}
UNSUBSCRIBE: Final = (
    ("List-Unsubscribe", f"<https://shop.in/u/{'k3Zq' * 60}?list=7>, <mailto:leave@shop.in?subject=k3Zq>"),
    ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
)


def a_message_for(kind: str, sender: str | None = None, to: str | None = None, **fields: Any) -> Message:
    """On a template with the operators, where Fast2SMS has a use for a sender."""
    if kind in SMS_KINDS:
        content = SmsContent(text="Your code is 5566", sender_id=sender, dlt_template_id="1107161234567890123")
        return a_message(to or "+919876543210", content=content, **fields)
    return a_message(
        to or "asha@example.net", content=EmailContent(subject="Hello", text="Hello.", sender=sender, **fields)
    )


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the server was told last: who it is from, and the headers of a mail (names in lower case)."""

    sender: str
    headers: Mapping[str, str]


def arrived(rig: Rig) -> Arrived:
    match rig.server:
        case MailServer(emulator):
            mail = emulator.seen.last
            assert emulator.seen.mails[-1].mail_from == parseaddr(mail["From"])[1]
            return _mail(mail)
        case HttpServer(emulator):
            body = emulator.requests[-1].json()
        case _:
            raise AssertionError(rig.server)
    match rig.kind:
        case "bulksms":
            return Arrived(body[0]["from"]["address"] if "from" in body[0] else "", {})
        case "fast2sms":
            return Arrived(body.get("sender_id", ""), {})
        case "sendgrid":
            return Arrived(
                f"{body['from']['name']} <{body['from']['email']}>",
                {name.lower(): value for name, value in body["personalizations"][0].get("headers", {}).items()},
            )
        case "ses":
            return _ses(body)
        case _:
            raise AssertionError(f"say where {rig.kind} has its sender")


def _ses(body: Mapping[str, Any]) -> Arrived:
    content = body["Content"]
    if "Raw" in content:
        mail = message_from_bytes(base64.b64decode(content["Raw"]["Data"]), policy=modern)
        told = _mail(cast(EmailMessage, mail))
        assert told.sender == body["FromEmailAddress"]
        return told
    headers = {header["Name"].lower(): header["Value"] for header in content["Simple"].get("Headers", [])}
    return Arrived(body["FromEmailAddress"], headers)


def _mail(mail: EmailMessage) -> Arrived:
    return Arrived(str(mail["From"]), {name.lower(): str(value) for name, value in mail.items()})


async def send(rig: Rig, message: Message, number: int = 1) -> Arrived:
    (answer,) = await rig.courier.send([a_call(message, number)], lambda: None)
    assert answer.outcome is Outcome.ACCEPTED
    return arrived(rig)


# --------------------------------------------------------------------------------------------------- the sender


def test_no_kind_is_forgotten_here() -> None:
    assert set(KIND_NAMES) | {"sandbox"} == set(KINDS)


@pytest.mark.parametrize("kind", KIND_NAMES)
async def test_a_message_that_names_nobody_is_from_the_providers_sender(kind: str) -> None:
    async with RIGS[kind](sender=SENDERS[kind]) as rig:
        assert (await send(rig, a_message_for(kind))).sender == SENDERS[kind]


@pytest.mark.parametrize("kind", KIND_NAMES)
async def test_a_message_that_names_its_sender_is_from_that_one(kind: str) -> None:
    for configured in (SENDERS[kind], None):
        async with RIGS[kind](sender=configured) as rig:
            message = a_message_for(kind, OTHERS[kind])
            assert rig.courier.takes(message) is None
            assert (await send(rig, message)).sender == OTHERS[kind]


@pytest.mark.parametrize("kind", KIND_NAMES)
async def test_a_failover_changes_who_a_message_is_from_only_where_it_names_nobody(kind: str) -> None:
    nobody, named = a_message_for(kind), a_message_for(kind, OTHERS[kind])
    senders = []
    for configured in (SENDERS[kind], OTHERS[kind]):
        async with RIGS[kind](sender=configured) as rig:
            senders.append((await send(rig, nobody)).sender)
            assert (await send(rig, named)).sender == OTHERS[kind]
    assert senders == [SENDERS[kind], OTHERS[kind]]


WITHOUT: Final[Mapping[str, str | None]] = {
    "bulksms": None,  # it has numbers of its own to send from
    "fast2sms": "sender",
    **dict.fromkeys(MAIL_KINDS, "sender"),
}


@pytest.mark.parametrize("kind", KIND_NAMES)
async def test_a_provider_without_a_sender_takes_only_what_names_one(kind: str) -> None:
    async with RIGS[kind](sender=None) as rig:
        assert rig.courier.takes(a_message_for(kind)) == WITHOUT[kind]
        assert rig.courier.takes(a_message_for(kind, OTHERS[kind])) is None
        if WITHOUT[kind] is None:
            assert (await send(rig, a_message_for(kind))).sender == ""


async def test_fast2sms_needs_no_sender_on_the_routes_that_have_none() -> None:
    for options, text in (({"route": "q"}, "Hello"), ({"route": "otp"}, "5566")):
        async with RIGS["fast2sms"](sender=None, options=options) as rig:
            message = a_message("+919876543210", content=SmsContent(text=text))
            assert rig.courier.takes(message) is None
            assert (await send(rig, message)).sender == ""


async def test_a_route_goes_around_a_provider_that_has_no_sender_for_the_message() -> None:
    nobody, named = a_message_for("smtp"), a_message_for("smtp", "me@other.in")
    async with RIGS["smtp"](sender=None, name="bare", priority=1) as bare, RIGS["ses"](name="whole") as whole:
        rigs = {"bare": bare, "whole": whole}
        router = Router(
            [rig.settings for rig in rigs.values()], {name: r.courier.takes for name, r in rigs.items()}, country_of
        )
        assert router.candidates(nobody).names == ("whole",)
        assert router.candidates(nobody).refused == {"bare": "sender"}
        assert set(router.candidates(named).names) == {"bare", "whole"}


async def test_a_mail_for_which_no_provider_has_a_sender_is_refused_as_it_is_posted() -> None:
    post = a_provider("sendgrid", name="post", credentials={"api_key": "SG.x"})
    async with a_gateway(World(providers=[post])) as gateway:
        posted = {name: value for name, value in EMAIL.items() if name != "from"}
        refused = await gateway.post("/v1/messages", posted)
        assert (refused.status, refused.json["code"]) == (422, "no_route")
        assert "post: sender" in refused.json["detail"]
        assert [error["pointer"] for error in refused.json["errors"]] == ["#/from"]
        assert (await gateway.post("/v1/messages", {**posted, "from": "Shop <hi@shop.in>"})).status == 202


async def test_an_sms_for_which_no_provider_has_a_sender_is_refused_as_it_is_posted() -> None:
    dlt = a_provider("fast2sms", Channel.SMS, name="dlt", credentials={"api_key": "x"}, options={"route": "dlt_manual"})
    async with a_gateway(World(providers=[dlt])) as gateway:
        refused = await gateway.post("/v1/messages", SMS)
        assert (refused.status, refused.json["code"]) == (422, "no_route")
        assert [error["pointer"] for error in refused.json["errors"]] == ["#/sms/sender_id"]


# ------------------------------------------------------------------------------------------------------- our id


@pytest.mark.parametrize("kind", KIND_NAMES)
async def test_our_id_is_carried_in_each_providers_own_place(kind: str) -> None:
    """A mail server has none but the Message-ID, which holds the message's id."""
    async with RIGS[kind]() as rig:
        call = a_call(a_message_for(kind), number=3)
        (answer,) = await rig.courier.send([call], lambda: None)
        assert answer.outcome is Outcome.ACCEPTED
        if isinstance(rig.server, MailServer):
            assert call.message.id in arrived(rig).headers["message-id"]
        else:
            assert rig.server.attempts == {call.attempt_id: 1}


RAW: Final = {"attachments": (Attachment(filename="a.txt", content_type="text/plain", content_base64="aGVsbG8="),)}


@pytest.mark.parametrize("kind", ["ses", "smtp", "gmail"])
async def test_the_message_id_is_the_same_in_every_attempt(kind: str) -> None:
    async with RIGS[kind]() as rig:
        message, another = a_message_for(kind, **RAW), a_message_for(kind, **RAW)
        ids = [(await send(rig, message, number)).headers["message-id"] for number in (1, 2, 7)]
        assert len(set(ids)) == 1
        assert message.id in ids[0]
        assert (await send(rig, another)).headers["message-id"] != ids[0]


async def test_the_message_id_is_the_same_from_every_provider_where_the_message_names_its_sender() -> None:
    message = a_message_for("smtp", "Other <me@other.in>", **RAW)
    ids = set()
    for kind in ("ses", "smtp", "gmail"):
        async with RIGS[kind]() as rig:
            ids.add((await send(rig, message)).headers["message-id"])
    assert len(ids) == 1


# --------------------------------------------------------------------------------------- one-click unsubscribe


@pytest.mark.parametrize("html", [None, "<p>Hello.</p>"])
@pytest.mark.parametrize("kind", MAIL_KINDS)
async def test_the_headers_of_one_click_unsubscribe_arrive_unharmed(kind: str, html: str | None) -> None:
    async with RIGS[kind]() as rig:
        headers = (await send(rig, a_message_for(kind, headers=UNSUBSCRIBE, html=html))).headers
        assert [headers[name.lower()] for name, _ in UNSUBSCRIBE] == [value for _, value in UNSUBSCRIBE]


async def test_mails_that_share_a_call_keep_their_own_way_out() -> None:
    async with RIGS["sendgrid"](batch=10) as rig:
        ways = [(("List-Unsubscribe", f"<https://shop.in/u/{n}>"), UNSUBSCRIBE[1]) for n in range(3)]
        calls = [a_call(a_message_for("sendgrid", to=f"a{n}@example.net", headers=way)) for n, way in enumerate(ways)]
        assert len({rig.courier.batch_key(call.message) for call in calls} - {None}) == 1
        await rig.courier.send(calls, lambda: None)
        assert isinstance(rig.server, HttpServer)
        told = rig.server.emulator.requests[-1].json()["personalizations"]
        assert [tuple(each["headers"].items()) for each in told] == ways
