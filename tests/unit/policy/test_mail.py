from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.policy.mail import (
    Mailbox,
    content_id_fault,
    content_type_fault,
    header_fault,
    parse_address,
    parse_mailbox,
    text_fault,
)


@pytest.mark.parametrize(
    "text", ["a\rb", "a\nb", "a\r\nBcc: x@y.in", "a\x00b", "a\u2028b", "a\x85b", "a\x7fb", "\ud800"]
)
def test_a_line_with_a_control_character_is_refused(text: str) -> None:
    assert text_fault(text) is not None


@pytest.mark.parametrize(
    "text", ["=?UTF-8?Q?=0A?=Bcc: x@y.in", "Re: =?utf-8?b?Cg==?=", "=?x?q?a\tb?=", "=?utf-8*en?q?=0d=0a?="]
)
def test_an_encoded_word_is_refused(text: str) -> None:
    assert text_fault(text) is not None


@pytest.mark.parametrize("text", ["नमस्ते, आशा", "What? = 50% off!", "a\tb", "🎉", "a=?b", "", "\u200d"])
def test_ordinary_text_passes(text: str) -> None:
    assert text_fault(text) is None


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "X\r\nBcc", "Ä", "X" * 77, "X\x7f"])
def test_a_header_name_with_anything_odd_is_refused(name: str) -> None:
    assert header_fault(name, "v") is not None


@pytest.mark.parametrize(
    "name",
    [
        "From", "To", "CC", "bcc", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "content-anything",
        "Received", "Return-Path", "DKIM-Signature", "Sender", "Reply-To",
    ],
)  # fmt: skip
def test_headers_that_others_write_are_refused(name: str) -> None:
    assert header_fault(name, "v") == f"{name} cannot be set here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("List-Unsubscribe", "<https://shop.in/u/" + "t" * 300 + ">, <mailto:u@shop.in?subject=stop>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("X-Entity-Ref-ID", "42"),
        ("In-Reply-To", "<a@b>"),
    ],
)
def test_useful_headers_pass(name: str, value: str) -> None:
    assert header_fault(name, value) is None


@pytest.mark.parametrize("value", ["v" * 998, "a" + " " * 990 + "b" * 20])
def test_a_value_that_cannot_be_folded_is_refused(value: str) -> None:
    assert header_fault("X-Y", value) is not None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("asha@shop.in", "asha@shop.in"),
        ("o'neil+tag@mail.shop.co.in", "o'neil+tag@mail.shop.co.in"),
        ("asha@bücher.example", "asha@xn--bcher-kva.example"),
        ("आशा@उदाहरण.भारत", "आशा@xn--p1b6ci4b4b3a.xn--h2brj9c"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_an_address_gets_a_domain_in_ascii(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@b.in", "a@", "a b@c.in", "a@b c.in", "a@b..in", "a..b@c.in", ".a@c.in", "a.@c.in", "a<b@c.in",
        "a@-b.in",
        "a\r\nRCPT TO:<x@y.in>@c.in", "a@c.in\r\nDATA", "a@[127.0.0.1]", '"a b"@c.in', "a@b@c.in", "x" * 65 + "@c.in",
        "a@" + "b" * 64 + ".in", "a@" + "b." * 130 + "in", "a\u2028b@c.in", "a\x85@c.in", "a@c.in>", "ॐ" * 22 + "@c.in",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|part|longer"):
        parse_address(text)


@given(st.text(max_size=80))
def test_an_address_that_passes_cannot_break_a_command(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert not set(address) & set("\r\n\x00 <>")
    assert address.partition("@")[2].isascii()


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("hi@shop.in", Mailbox("", "hi@shop.in")),
        ("<hi@shop.in>", Mailbox("", "hi@shop.in")),
        ("Shop <hi@shop.in>", Mailbox("Shop", "hi@shop.in")),
        ('"Shop, Mumbai" <hi@shop.in>', Mailbox("Shop, Mumbai", "hi@shop.in")),
        ('"say \\"hi\\"" <hi@shop.in>', Mailbox('say "hi"', "hi@shop.in")),
        ("दुकान <hi@shop.in>", Mailbox("दुकान", "hi@shop.in")),
    ],
)
def test_a_mailbox_may_have_a_name(text: str, mailbox: Mailbox) -> None:
    assert parse_mailbox(text) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        "Shop",
        "Shop <>",
        "a <b@c.in> d",
        "a\nb <b@c.in>",
        "=?u?q?=0A?= <b@c.in>",
        "x" * 257 + " <b@c.in>",
        "a <b> <b@c.in>",
    ],
)
def test_what_is_no_mailbox_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|name|part"):
        parse_mailbox(text)


@pytest.mark.parametrize("kind", ["application/pdf", "image/svg+xml", "text/csv"])
def test_ordinary_content_types_pass(kind: str) -> None:
    assert content_type_fault(kind) is None


@pytest.mark.parametrize(
    "kind",
    ["", "pdf", "text/", "/x", "text/plain; charset=x", "a/b\r\nX: y", "multipart/mixed", "Message/rfc822", "a/b/c"],
)
def test_other_content_types_are_refused(kind: str) -> None:
    assert content_type_fault(kind) is not None


@pytest.mark.parametrize(("cid", "fine"), [("logo", True), ("a@b", True), ("", False), ("<a>", False), ("a b", False)])
def test_a_content_id_has_no_brackets(cid: str, fine: bool) -> None:
    assert (content_id_fault(cid) is None) is fine
