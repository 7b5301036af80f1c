"""Built mails are read back by the standard library's parser, which shares no line with what writes their headers."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from email.utils import getaddresses, parseaddr
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.actors.model.message import Attachment, EmailContent, Message
from heliograph.actors.policy.mail import Mailbox, header_fault, parse_mailbox, text_fault
from heliograph.providers.mime import Unsendable, build_mime, needs_utf8
from tests.support.builders import NOW, a_message, an_email

SHOP = Mailbox("Shop", "hi@shop.in")


def built(message: Message, **options: Any) -> bytes:
    return build_mime(message, **{"sender": SHOP, "message_id_domain": "shop.in"} | options)


def read(raw: bytes) -> EmailMessage:
    parsed = message_from_bytes(raw, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def mailboxes(header: AddressHeader) -> list[tuple[str, str]]:
    return [(a.display_name, a.addr_spec) for a in header.addresses]


def body_of(part: Any) -> str:
    content: str = part.get_content()
    return content.replace("\r\n", "\n").removesuffix("\n")


lines_of_text = st.text(max_size=300).map(lambda t: t.strip(" \t")).filter(lambda t: text_fault(t) is None)


@given(lines_of_text)
def test_the_subject_is_read_as_it_was_given(subject: str) -> None:
    assert read(built(an_email(subject=subject)))["subject"] == subject


@given(lines_of_text)
def test_the_subject_is_read_as_it_was_given_over_smtputf8(subject: str) -> None:
    assert read(built(an_email(subject=subject), utf8=True))["subject"] == subject


@given(st.text(max_size=200))
def test_a_display_name_is_read_as_it_was_given_or_refused(name: str) -> None:
    try:
        sender = parse_mailbox(f"{name} <hi@shop.in>")
    except ValueError:
        return
    # `policy.default` puts a blank between two encoded words of a name; the older reader does as RFC 2047 says.
    raw = message_from_bytes(built(an_email(), sender=sender), policy=policy.compat32)["from"]
    read_name, address = parseaddr(raw)
    decoded = str(make_header(decode_header(read_name)))
    assert (decoded.split(), address) == (sender.name.split(), "hi@shop.in")


@pytest.mark.parametrize(
    "name", ["Shop, Mumbai", 'The "Shop"', "a\\b", "Töst, User <x>".replace("<x>", "x"), "दुकान, मुंबई", "Dr. No"]
)
def test_a_name_with_a_comma_stays_one_mailbox(name: str) -> None:
    others = tuple(f"Friend {n} <friend{n}@long-domain-name.example>" for n in range(20))
    mail = read(built(an_email(cc=others), sender=Mailbox(name, "hi@shop.in")))
    assert mailboxes(mail["from"]) == [(name, "hi@shop.in")]
    assert [a.addr_spec for a in mail["cc"].addresses] == [f"friend{n}@long-domain-name.example" for n in range(20)]


HOSTILE = [
    "Hello\r\nBcc: x@evil.in",
    "Hello\nBcc: x@evil.in",
    "Hello\rBcc: x@evil.in",
    "=?UTF-8?Q?=0A?=Bcc: x@evil.in",
    "=?UTF-8?Q?Hello=0D=0ABcc:_x@evil.in?=",
    "=?UTF-8?B?SGVsbG8NCkJjYzogeEBldmlsLmlu?=",
    "Hello\x00",
    "Hello\u2028Bcc: x@evil.in",
    "Hello\x0bBcc: x@evil.in",
    "Hello\x85Bcc: x@evil.in",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("utf8", [False, True])
@pytest.mark.parametrize("field", ["subject", "value", "name", "sender", "reply_to", "cc", "to", "filename", "cid"])
def test_no_field_can_smuggle_a_header(field: str, text: str, utf8: bool) -> None:
    photo = Attachment(filename="a.png", content_type="image/png", content_base64="AA==")
    messages = {
        "subject": lambda: an_email(subject=text),
        "value": lambda: an_email(headers=(("X-Note", text),)),
        "name": lambda: an_email(headers=((text, "v"),)),
        "reply_to": lambda: an_email(reply_to=f"{text} <a@b.in>"),
        "cc": lambda: an_email(cc=(f"{text}@b.in",)),
        "to": lambda: an_email(f"{text}@b.in"),
        "filename": lambda: an_email(attachments=(Attachment(filename=text, content_type="a/b", content_base64=""),)),
        "cid": lambda: an_email(
            html="<p>", attachments=(Attachment(filename="f", content_type="a/b", content_base64="", content_id=text),)
        ),
        "sender": lambda: an_email(attachments=(photo,)),
    }
    sender = Mailbox(text, "hi@shop.in") if field == "sender" else SHOP
    with pytest.raises(Unsendable):
        built(messages[field](), sender=sender, utf8=utf8)


@given(
    st.text(alphabet="aA-\r\n\x00:= ?Qq_0D", max_size=60), st.text(alphabet="a\r\n\x00\t:= ?Qq_0DBcéआ", max_size=200)
)
def test_a_header_arrives_as_given_or_is_refused(name: str, value: str) -> None:
    message = an_email(headers=((name, value),))
    if header_fault(name, value) is not None:
        with pytest.raises(Unsendable):
            built(message)
        return
    mail = read(built(message))
    assert [str(v) for n, v in mail.items() if n == name] == [value.strip(" \t")]
    assert {n.lower() for n in mail} - {name.lower()} == {
        "date", "message-id", "from", "to", "subject", "mime-version", "content-type", "content-transfer-encoding",
    }  # fmt: skip


def test_a_long_unsubscribe_link_is_not_torn() -> None:
    links = f"<https://shop.in/u/{'t' * 300}>, <mailto:stop@shop.in?subject=stop>"
    raw = built(
        an_email(headers=(("List-Unsubscribe", links), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")))
    )
    assert f"\r\nList-Unsubscribe: {links.replace(', ', ',')}".replace(",<", ",\r\n <").encode() in raw


def test_bcc_is_in_no_header() -> None:
    assert b"secret@shop.in" not in built(an_email(bcc=("secret@shop.in",), cc=("open@shop.in",)))


def test_two_builds_of_one_message_are_the_same_bytes() -> None:
    message = an_email(html="<p>Hi", attachments=(Attachment(filename="a", content_type="a/b", content_base64="AA=="),))
    assert built(message) == built(message)
    assert read(built(message))["message-id"] == f"<{message.id}@shop.in>"


def test_the_date_is_when_it_was_to_be_sent_however_often_that_is_tried() -> None:
    assert read(built(an_email()))["date"].datetime == NOW
    for zone in (UTC, timezone(timedelta(hours=5, minutes=30))):
        later = replace(an_email(), send_at=(NOW + timedelta(days=3)).astimezone(zone))
        assert b"\r\nMessage-ID" in built(later)
        assert built(later).startswith(b"Date: Fri, 27 Nov 2026 12:00:00 +0000\r\n")


def test_text_comes_before_html() -> None:
    mail = read(built(an_email(text="plain", html="<p>rich</p>")))
    assert [p.get_content_type() for p in mail.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert [body_of(p) for p in mail.iter_parts()] == ["plain", "<p>rich</p>"]


def test_html_alone_is_one_part() -> None:
    mail = read(built(an_email(text=None, html="<p>नमस्ते</p>")))
    assert (mail.get_content_type(), body_of(mail)) == ("text/html", "<p>नमस्ते</p>")


@given(
    st.binary(max_size=300),
    st.text(min_size=1, max_size=120).filter(lambda t: text_fault(t) is None and t == t.strip()),
)
def test_an_attachment_is_read_as_it_was_given(data: bytes, filename: str) -> None:
    attachment = Attachment(
        filename=filename, content_type="application/pdf", content_base64=base64.b64encode(data).decode()
    )
    [part] = read(built(an_email(attachments=(attachment,)))).iter_attachments()
    named = part["content-disposition"].params["filename"]  # get_filename() takes quotes off that are part of the name
    assert (named, part.get_content_type(), part.get_content()) == (filename, "application/pdf", data)


def test_an_inline_image_lies_beside_the_page_that_shows_it() -> None:
    logo = Attachment(filename="l.png", content_type="image/png", content_base64="AAEC", content_id="logo@shop.in")
    bill = Attachment(filename="b.pdf", content_type="application/pdf", content_base64="AAEC")
    mail = read(built(an_email(html='<img src="cid:logo@shop.in">', attachments=(logo, bill))))
    assert [p.get_content_type() for p in mail.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "application/pdf",
    ]  # fmt: skip
    image = next(p for p in mail.walk() if p.get_content_type() == "image/png")
    assert (image["content-id"], image.get_content_disposition()) == ("<logo@shop.in>", "inline")


def test_content_that_is_no_base64_is_refused() -> None:
    with pytest.raises(Unsendable, match="not base64"):
        built(an_email(attachments=(Attachment(filename="a", content_type="a/b", content_base64="*"),)))


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=2000)


@given(texts, st.booleans())
def test_a_body_is_read_as_it_was_given(text: str, eight_bit: bool) -> None:
    raw = built(an_email(text=text), eight_bit=eight_bit)
    assert body_of(read(raw)) == text.removesuffix("\n")
    assert eight_bit or raw.isascii()


@given(lines_of_text, texts, st.booleans(), st.booleans())
def test_every_line_is_one_that_smtp_takes(subject: str, text: str, eight_bit: bool, utf8: bool) -> None:
    raw = built(an_email(subject=subject, text=text + "\n" + "x" * 2000), eight_bit=eight_bit, utf8=utf8)
    lines = raw.split(b"\r\n")
    assert lines[-1] == b""
    assert max(map(len, lines)) <= 998
    assert not any(b"\n" in line or b"\r" in line for line in lines)


def test_a_message_that_a_program_cannot_tell_from_its_frame_stays_whole() -> None:
    message = an_email(html="<p>Hi")
    forged = an_email(text=f"--=_{message.id}_0--\r\n\r\nafter", html="<p>Hi")
    assert body_of(next(read(built(forged)).iter_parts())).endswith("after")


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (an_email("asha@bücher.example"), False),
        (an_email("आशा@shop.in"), True),
        (an_email(cc=("आशा@shop.in",)), True),
        (an_email(reply_to="आशा <a@shop.in>"), False),
    ],
)
def test_only_a_local_part_outside_ascii_needs_smtputf8(message: Message, needed: bool) -> None:
    assert needs_utf8(message, SHOP) is needed


def test_an_address_outside_ascii_is_written_as_it_is_over_smtputf8() -> None:
    raw = built(an_email("आशा@उदाहरण.भारत"), utf8=True)
    assert "To: आशा@xn--".encode() in raw


# ------------------------------------------------------------------------------------------------ a whole mail

awkward = st.text(alphabet="""aB ,.;:'"()[]@\\=?_%é आ🎉""", max_size=40)
names = (
    (st.text(max_size=60) | awkward)
    .map(lambda t: " ".join(t.split()))
    .filter(lambda t: text_fault(t) is None and "<" not in t)
)
names = names.filter(lambda t: ">" not in t and not t.startswith('"'))
local_parts = st.from_regex(r"[a-z0-9][a-z0-9!#$%&'*+/=?^_`{|}~-]{0,20}(\.[a-z]{1,5})?", fullmatch=True)
domains = st.sampled_from(["shop.in", "bücher.example", "उदाहरण.भारत", "mail.a-b.example", "localhost"])
addresses = st.builds(lambda local, domain: f"{local}@{domain}", local_parts, domains)
mailbox_texts = st.builds(
    lambda name, address: '"{}" <{}>'.format(re.sub(r'(["\\])', r"\\\1", name), address) if name else address,
    names,
    addresses,
)
one_line = st.text(max_size=200).filter(lambda t: text_fault(t) is None)
header_lines = st.tuples(st.from_regex(r"X-[A-Za-z0-9-]{1,20}", fullmatch=True), one_line)
files = st.builds(
    lambda name, data, kind, cid: Attachment(
        filename=name, content_type=kind, content_base64=base64.b64encode(data).decode(), content_id=cid
    ),
    st.text(min_size=1, max_size=60).filter(lambda t: text_fault(t) is None and t == t.strip()),
    st.binary(max_size=200),
    st.sampled_from(["application/pdf", "image/png", "text/csv", "text/html", "application/octet-stream"]),
    st.none() | st.from_regex(r"[a-z0-9]{1,20}@shop\.in", fullmatch=True),
)
bodies = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=500)


@st.composite
def emails(draw: st.DrawFn) -> Message:
    text, html = draw(st.none() | bodies), draw(st.none() | bodies)
    return an_email(
        draw(addresses),
        subject=draw(one_line),
        text="" if text is None and html is None else text,
        html=html,
        sender=draw(mailbox_texts),
        reply_to=draw(st.none() | mailbox_texts),
        cc=tuple(draw(st.lists(addresses, max_size=50 if draw(st.booleans()) else 3))),
        bcc=tuple(f"hidden{n}@bcc.example" for n in range(draw(st.integers(0, 3)))),
        headers=tuple(draw(st.lists(header_lines, max_size=3, unique_by=lambda line: line[0].lower()))),
        attachments=tuple(draw(st.lists(files, max_size=3))),
    )


def unfolded(mail: Any, name: str) -> list[str]:
    return [str(make_header(decode_header(re.sub(r"\r?\n(?=[ \t])", "", v)))) for v in mail.get_all(name, [])]


def pairs(mail: Any, name: str) -> list[tuple[str, str]]:
    """By the older reader, which does with blanks between encoded words as RFC 2047 says."""
    return [
        (" ".join(str(make_header(decode_header(who))).split()), address)
        for who, address in getaddresses([re.sub(r"\r?\n(?=[ \t])", "", v) for v in mail.get_all(name, [])])
    ]


def newlines(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text).removesuffix("\n")


@settings(max_examples=150)
@given(emails(), st.booleans())
def test_whatever_is_sent_is_read_as_it_was_given(message: Message, eight_bit: bool) -> None:
    content = message.content
    assert isinstance(content, EmailContent)
    assert content.sender is not None
    sender = parse_mailbox(content.sender)
    raw = built(message, sender=sender, eight_bit=eight_bit)
    older, mail = message_from_bytes(raw, policy=policy.compat32), read(raw)

    assert pairs(older, "from") == [(sender.name, sender.address)]
    assert pairs(older, "to") == [("", parse_mailbox(message.to).address)]
    assert pairs(older, "cc") == [("", parse_mailbox(cc).address) for cc in content.cc]
    wanted = [] if content.reply_to is None else [parse_mailbox(content.reply_to)]
    assert pairs(older, "reply-to") == [(m.name, m.address) for m in wanted]
    assert unfolded(older, "subject") == [content.subject.strip(" \t")]
    for name, value in content.headers:
        assert unfolded(older, name) == [value.strip(" \t")]
    ours = ["date", "message-id", "from", "to", "subject", "mime-version", "content-type"]
    ours += ["cc"] * bool(content.cc) + ["reply-to"] * bool(wanted) + [name.lower() for name, _ in content.headers]
    ours += [] if mail.is_multipart() else ["content-transfer-encoding"]
    assert sorted(name.lower() for name in mail) == sorted(ours)
    assert b"bcc.example" not in raw
    assert all(len(word) <= 75 for word in re.findall(rb"=\?[^?]*\?[bq]\?[^?]*\?=", raw)), "RFC 2047, 2"

    plain, page = mail.get_body(("plain",)), mail.get_body(("html",))
    assert (None if plain is None else newlines(body_of(plain))) == (
        None if content.text is None else newlines(content.text)
    )
    assert (None if page is None else newlines(body_of(page))) == (
        None if content.html is None else newlines(content.html)
    )
    parts = [part for part in mail.walk() if part.get_content_disposition() in ("attachment", "inline")]
    found = [(p.get_filename(), p.get_content_type(), p.get_payload(decode=True), p["content-id"]) for p in parts]
    given_files = [
        (a.filename, a.content_type, base64.b64decode(a.content_base64), a.content_id and f"<{a.content_id}>")
        for a in content.attachments
    ]
    assert sorted(found, key=repr) == sorted(given_files, key=repr)


@given(st.text(alphabet=st.characters(), max_size=200), st.booleans(), st.booleans())
def test_any_body_is_sent_in_lines_that_smtp_takes_or_refused(text: str, eight_bit: bool, html: bool) -> None:
    message = an_email(text=None if html else text, html=text if html else None)
    try:
        raw = built(message, eight_bit=eight_bit)
    except Unsendable:
        assert re.search("[\x00\ud800-\udfff]", text)
        return
    lines = raw.split(b"\r\n")
    assert not any(set(line) & {0, 10, 13} or len(line) > 998 for line in lines)
    assert newlines(body_of(read(raw))) == newlines(text)


@pytest.mark.parametrize("text", ["", "\n", "שלום עולם \u202eabc\u202c", "👩‍👩‍👧‍👦" * 50, "." * 3, ".\r\n.\r\n"])
def test_odd_bodies_arrive(text: str) -> None:
    assert newlines(body_of(read(built(an_email(text=text))))) == newlines(text)


@pytest.mark.parametrize(
    ("field", "text"), [("text", "half a pair: \ud83d"), ("html", "<p>\udc00"), ("text", "a\x00b")]
)
def test_a_body_that_no_mail_can_hold_is_refused_by_its_field(field: str, text: str) -> None:
    with pytest.raises(Unsendable, match=f"^{field}: must not contain U\\+"):
        built(an_email(**{field: text}))


def test_a_message_written_from_right_to_left_keeps_its_marks() -> None:
    subject = "\u202bחשבונית\u202c, \u2067₪ 500\u2069"
    assert read(built(an_email(subject=subject)))["subject"] == subject


def test_fifty_copies_stand_in_folded_lines() -> None:
    copies = tuple(f"person.number.{n}@a-rather-long-name.example" for n in range(50))
    raw = built(an_email(cc=copies))
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    assert [a.addr_spec for a in read(raw)["cc"].addresses] == list(copies)


def test_an_sms_is_no_mail() -> None:
    with pytest.raises(Unsendable):
        built(a_message())
