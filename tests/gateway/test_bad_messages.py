"""Odd messages, one row each: either it is accepted and written out exactly as it was meant, or it is refused with the
field's pointer and nothing of it is stored."""

from __future__ import annotations

import base64
from email import message_from_bytes, policy
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from typing import Any

import orjson
import pytest

from heliograph.actors.model.message import Channel, EmailContent, Message
from heliograph.actors.policy.mail import Mailbox, parse_address, parse_mailbox
from heliograph.providers.mime import build_mime, envelope
from tests.gateway.test_sockets import JSON, a_connection
from tests.support.builders import a_provider
from tests.support.gateway_world import EMAIL, SMS, World, a_gateway, a_served_gateway

MESSAGES = "/v1/messages"
FAMILY = "👩\u200d👩\u200d👧\u200d👦"
SHALOM = "\u202bשלום\u202c"
FROM = "hi@shop.in"


async def pointers_of(body: object = None, *, raw: bytes | None = None, world: World | None = None) -> set[str]:
    """Where the faults are; empty: it was accepted."""
    async with a_gateway(world) as gateway:
        answer = await gateway.post(MESSAGES, body, raw=raw)
        if answer.status == 202:
            return set()
        assert answer.status == 422, answer.raw
        assert gateway.world.accepted == []
        return {error["pointer"] for error in answer.json["errors"]}


async def accepted(body: object) -> Message:
    """What was stored of it."""
    async with a_gateway() as gateway:
        answer = await gateway.post(MESSAGES, body)
        assert answer.status == 202, answer.raw
        [message] = gateway.world.accepted[0].messages
        return message


# --------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "to",
    [
        "9876540000", "09876540000", "00919876540000", "91 9876540000", "+91 98765 40000", "+91-98765-40000",
        "tel:+919876540000", "+٩١٩٨٧٦٥٤٠٠٠٠", "＋919876540000", "\u202a+919876540000\u202c", "+919876540000\n",
        "+9198765400001", "+91987654000", "+999876540000", "+", "", " ", "asha@shop.in",
        919876540000, ["+919876540000"], None, {},
    ],
)  # fmt: skip
async def test_an_sms_goes_to_one_number_with_its_countrys_code(to: Any) -> None:
    assert await pointers_of({**SMS, "to": to}) == {"#/to"}


@pytest.mark.parametrize("to", ["+911123456789", "+442079460000", "+498912345678", "+33123456789", "+551133334444"])
async def test_a_landline_gets_no_sms_and_hears_why(to: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(MESSAGES, {**SMS, "to": to})
        [error] = answer.json["errors"]
        assert (answer.status, error["pointer"]) == (422, "#/to")
        assert "landline" in error["detail"]


@pytest.mark.parametrize("to", ["+919876540000", "+33612345678", "+5511987654321", "+12025550123", "+18005551234"])
async def test_what_may_be_a_mobile_gets_it(to: str) -> None:
    assert (await accepted({**SMS, "to": to})).to == to


# ------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("to", "envelope_to"),
    [
        ("asha@bücher.example", "asha@xn--bcher-kva.example"),
        ("asha@BÜCHER.example", "asha@xn--bcher-kva.example"),
        ("asha@bücher。example", "asha@xn--bcher-kva.example"),
        ("asha@xn--bcher-kva.example", "asha@xn--bcher-kva.example"),
        ("अशोक@उदाहरण.भारत", "अशोक@xn--p1b6ci4b4b3a.xn--h2brj9c"),
        ("o'brien+tag@shop.in", "o'brien+tag@shop.in"),
    ],
)
async def test_an_internationalised_domain_is_written_to_in_a_labels(to: str, envelope_to: str) -> None:
    message = await accepted({**EMAIL, "to": to})
    assert message.to == to, "it is shown as it was posted"
    assert envelope(message) == (envelope_to,)


@pytest.mark.parametrize(
    "to",
    [
        "asha", "asha@", "@shop.in", "asha@localhost", "asha@-bücher-.example", "asha@xn--zzzzzz99999.example",
        "asha@😀.example", "as\u200dha@shop.in", "\u202easha@shop.in", "asha@shop.in\r\nBcc: x@y.in", '"a b"@shop.in',
        "a@[10.0.0.1]", f"{'a' * 65}@shop.in", f"a@{'b' * 250}.in", "Asha <asha@shop.in>", "a@shop.in, b@shop.in",
        "a@shop.in;b@shop.in", "a..b@shop.in", ".a@shop.in", "", " ", 7, ["asha@shop.in"], None,
    ],
)  # fmt: skip
async def test_what_no_mail_can_go_to_is_refused(to: Any) -> None:
    assert await pointers_of({**EMAIL, "to": to}) == {"#/to"}


@pytest.mark.parametrize(
    ("mailbox", "name"),
    [
        ("hi@shop.in", ""),
        ("Asha Shah <hi@shop.in>", "Asha Shah"),
        ("Shah, Asha <hi@shop.in>", "Shah, Asha"),
        ('"Shah, Asha" <hi@shop.in>', "Shah, Asha"),
        (r'"Asha \"A\" Shah" <hi@shop.in>', 'Asha "A" Shah'),
        ('Asha "A" Shah <hi@shop.in>', 'Asha "A" Shah'),
        ('"Asha <hi@shop.in>', '"Asha'),
        (r'"back\\slash" <hi@shop.in>', r"back\slash"),
        ("Shop: sales; (now) <hi@shop.in>", "Shop: sales; (now)"),
        ("Grüße, 日本 <hi@shop.in>", "Grüße, 日本"),
        (f"{SHALOM} <hi@shop.in>", SHALOM),
        (f"{FAMILY} Shop, 1 <hi@shop.in>", f"{FAMILY} Shop, 1"),
    ],
)
@pytest.mark.parametrize("field", ["from", "reply_to"])
async def test_a_display_name_is_read_as_it_was_meant(field: str, mailbox: str, name: str) -> None:
    message = await accepted({**EMAIL, field: mailbox})
    mail = written(message)
    header = mail["From" if field == "from" else "Reply-To"]
    assert isinstance(header, AddressHeader)
    [address] = header.addresses
    assert (address.display_name, address.addr_spec) == (name, FROM)


@pytest.mark.parametrize(
    "mailbox",
    [
        "Asha\r\nBcc: x@y.in <hi@shop.in>", "Asha\n<hi@shop.in>", "hi@shop.in, ravi@shop.in", "Asha <hi@shop.in> x",
        "Asha <>", "<<hi@shop.in>>", "Asha <hi@>", "=?utf-8?q?a=0Ab?= <hi@shop.in>", f"{'n' * 257} <hi@shop.in>", "",
        7, ["hi@shop.in"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["from", "reply_to"])
async def test_what_is_no_mailbox_is_refused(field: str, mailbox: Any) -> None:
    assert await pointers_of({**EMAIL, field: mailbox}) == {f"#/{field}"}


@pytest.mark.parametrize("field", ["cc", "bcc"])
async def test_fifty_copies_go_out_and_the_next_one_is_refused(field: str) -> None:
    many = [f"copy{n}@bücher.example" for n in range(51)]
    message = await accepted({**EMAIL, field: many[:50]})
    assert len(envelope(message)) == message.recipients == 51
    assert await pointers_of({**EMAIL, field: many}) == {f"#/{field}"}


@pytest.mark.parametrize("field", ["cc", "bcc"])
@pytest.mark.parametrize("copy", ["Asha <asha@shop.in>", "c@", "", "c@shop.in\n", None, 7])
async def test_a_wrong_copy_is_named_by_its_place(field: str, copy: Any) -> None:
    assert await pointers_of({**EMAIL, field: ["fine@shop.in", copy]}) == {f"#/{field}/1"}


# ----------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    "subject",
    [
        "Hello", " Hello ", "a\tb", "ß" * 998, FAMILY * 60, SHALOM, "مرحبا بالعالم", "e\u0301 Zalgo\u0336",
        "=?utf-8?q?", "x" * 998, ("word " * 200)[:998], "Re: {{name}}, 100 %s",
    ],
)  # fmt: skip
async def test_a_subject_is_read_as_it_was_posted(subject: str) -> None:
    message = await accepted({**EMAIL, "subject": subject})
    assert " ".join(str(written(message)["Subject"]).split()) == " ".join(subject.split())


@pytest.mark.parametrize(
    "subject",
    ["a\nb", "a\rb", "a\r\nBcc: x@y.in", "a\u2028b", "a\u0085b", "a\x1bb", "a\x7fb", "=?utf-8?q?a=0Ab?=", "x" * 999,
     "", 7, None],
)  # fmt: skip
async def test_a_subject_that_is_no_line_is_refused(subject: Any) -> None:
    assert await pointers_of({**EMAIL, "subject": subject}) == {"#/subject"}


@pytest.mark.parametrize("text", [SHALOM, FAMILY, "₹100\r\nthank you", "e\u0301", "\t", "0", ".\r\n.\r\n", "From me"])
@pytest.mark.parametrize("channel", ["sms", "email"])
async def test_a_text_is_sent_as_it_was_posted(channel: str, text: str) -> None:
    if channel == "sms" and not text.strip():
        assert await pointers_of({**SMS, "text": text}) == {"#/text"}
        return
    message = await accepted({**(SMS if channel == "sms" else EMAIL), "text": text})
    assert getattr(message.content, "text", None) == text
    if channel == "email":
        part = written(message).get_body()
        assert isinstance(part, EmailMessage)
        assert part.get_content().replace("\r\n", "\n").rstrip("\n") == text.replace("\r\n", "\n").rstrip("\n")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({**SMS, "text": ""}, "#/text"),
        ({**SMS, "text": " \r\n\u00a0"}, "#/text"),
        ({**SMS, "text": None}, "#/text"),
        ({**SMS, "text": 7}, "#/text"),
        ({"channel": "sms", "to": SMS["to"]}, "#/text"),
        ({**EMAIL, "text": ""}, "#/text"),
        ({**EMAIL, "text": None}, "#/text"),
        ({**EMAIL, "html": ""}, "#/html"),
        ({**EMAIL, "text": None, "html": None}, "#/text"),
        ({**SMS, "html": "<p>x</p>"}, "#/html"),
        ({**SMS, "attachments": []}, "#/attachments"),
    ],
)
async def test_an_empty_body_is_refused_and_so_is_another_channels(body: Any, pointer: str) -> None:
    assert await pointers_of(body) == {pointer}


@pytest.mark.parametrize("odd", ["\\ud83d", "\\ude00\\ud83d", "\\u0000"])
@pytest.mark.parametrize(
    ("posted", "field", "pointer"),
    [
        (SMS, "text", "#/text"),
        (SMS, "to", "#/to"),
        (EMAIL, "to", "#/to"),
        (EMAIL, "subject", "#/subject"),
        (EMAIL, "html", "#/html"),
        (EMAIL, "from", "#/from"),
    ],
)
async def test_half_a_character_is_refused_where_it_stands(
    posted: dict[str, Any], field: str, pointer: str, odd: str
) -> None:
    raw = orjson.dumps({**posted, field: "@@"}).replace(b'"@@"', f'"{odd}"'.encode())
    assert await pointers_of(raw=raw) == {pointer}


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        ("headers", {"X-Shop": "a\r\nBcc: x@y.in"}, "#/headers"),
        ("headers", {"X Shop": "a"}, "#/headers"),
        ("headers", {"Subject": "a"}, "#/headers"),
        ("headers", {"X-Shop": 7}, "#/headers/X-Shop"),
        ("headers", {"X-Shop": "x" * 1000}, "#/headers"),
        ("attachments", [{"filename": "a\nb", "content": ""}], "#/attachments/0/filename"),
        ("attachments", [{"filename": "../a", "content": ""}], "#/attachments/0/filename"),
        ("attachments", [{"filename": "a", "content": "aGk"}], "#/attachments/0/content"),
        ("attachments", [{"filename": "a", "content": "a\nGk="}], "#/attachments/0/content"),
        ("attachments", [{"filename": "a", "content": "", "content_type": "x"}], "#/attachments/0/content_type"),
        ("attachments", [{"filename": "a", "content": "", "content_id": "a b"}], "#/attachments/0/content_id"),
        ("attachments", [{"filename": "a"}] * 101, "#/attachments"),
    ],
)
async def test_a_header_or_an_attachment_that_cannot_be_sent_is_named(field: str, value: Any, pointer: str) -> None:
    assert await pointers_of({**EMAIL, field: value}) == {pointer}


@pytest.mark.parametrize("name", ["तस्वीर 😀.png", 'a "b"; c.txt', "Grüße.pdf", f"{'n' * 250}.txt", "שלום.txt"])
async def test_an_attachment_arrives_under_its_name(name: str) -> None:
    content = base64.b64encode(b"\x00\xff" * 999).decode()
    message = await accepted({**EMAIL, "attachments": [{"filename": name, "content": content}]})
    [attachment] = written(message).iter_attachments()
    assert (attachment.get_filename(), attachment.get_content()) == (name, b"\x00\xff" * 999)


@pytest.mark.parametrize("megabytes", [11, 30])
async def test_attachments_beyond_the_limit_are_413_in_an_answer_that_can_be_read(megabytes: int) -> None:
    body = orjson.dumps({**EMAIL, "attachments": [{"filename": "a", "content": "A" * (megabytes * 1_000_000)}]})
    async with a_served_gateway() as served, a_connection(served) as connection:
        await connection.send(connection.head("POST", MESSAGES, JSON, f"Content-Length: {len(body)}"))
        await connection.send(body)
        status, headers, problem = await connection.answer()
        assert (status, problem["code"]) == (413, "too_large")
        assert headers["content-type"] == "application/problem+json"
        assert "10 MB" in problem["detail"]


# ------------------------------------------------------------------------------------------------- templates


async def test_a_template_and_its_variables_are_named_as_not_available() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(MESSAGES, {**SMS, "template": "otp", "variables": {"nobody": 1}})
        assert (answer.status, answer.json["code"]) == (422, "not_available")
        assert {error["pointer"] for error in answer.json["errors"]} == {"#/template", "#/variables"}


DLT = {
    "route": "dlt",
    "templates": {"1707161234567890123": {"text": "Dear {#var#}, your code is {#var#}.", "message_id": "111111"}},
}


@pytest.mark.parametrize(
    ("variables", "pointers"),
    [
        (["Asha", "5566"], set()),
        (["Asha"], {"#/sms/dlt_variables"}),
        ([], {"#/sms/dlt_variables"}),
        (["Asha", "5566", "more"], {"#/sms/dlt_variables"}),
        (["Asha|Ravi", "5566"], {"#/sms/dlt_variables"}),
        (["x" * 501, "5566"], {"#/sms/dlt_variables/0"}),
        (["Asha", 5566], {"#/sms/dlt_variables/1"}),
        ({"name": "Asha"}, {"#/sms/dlt_variables"}),
    ],
)
async def test_the_variables_of_a_registered_template_must_be_its_own(variables: Any, pointers: set[str]) -> None:
    account = a_provider("fast2sms", Channel.SMS, credentials={"api_key": "x"}, options=DLT, sender="SHOPIN")
    body = {**SMS, "sms": {"dlt_template_id": "1707161234567890123", "dlt_variables": variables}}
    assert await pointers_of(body, world=World(providers=[account])) == pointers


# ------------------------------------------------------------------------------------------- as it is written


def written(message: Message) -> EmailMessage:
    """The mail that goes out, read by a mail reader."""
    content = message.content
    assert isinstance(content, EmailContent)
    sender = parse_mailbox(content.sender) if content.sender else Mailbox("", parse_address(FROM))
    mail = message_from_bytes(build_mime(message, sender=sender, message_id_domain="shop.in"), policy=policy.default)
    assert isinstance(mail, EmailMessage)
    assert mail["Bcc"] is None
    return mail
