from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Attachment, Channel, Message, Priority, SmsContent
from heliograph.actors.ports.courier import Courier
from heliograph.providers import KINDS, build, country_of, explain
from tests.conformance.rigs import http_settings
from tests.support.builders import a_message, a_provider, an_email

HTTP_KINDS = ("bulksms", "fast2sms", "sendgrid", "ses")


def built(kind: str, **fields: Any) -> Courier:
    return build(http_settings(kind, "http://127.0.0.1:9", **fields))


@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_every_http_kind_has_a_real_base_url_by_default(kind: str) -> None:
    courier = built(kind, base_url=None)
    assert courier.base.secure  # type: ignore[attr-defined]
    assert courier.longest_call_s == 5.0


@pytest.mark.parametrize(
    ("kind", "fields", "key", "text"),
    [
        ("sendgrid", {"credentials": {}}, "credentials.api_key", "missing; sendgrid needs api_key"),
        ("sendgrid", {"credentials": {"api_kee": "x"}}, "credentials.api_kee", "did you mean api_key"),
        ("sendgrid", {"credentials": {"api_key": "a\nb"}}, "credentials.api_key", "characters"),
        ("sendgrid", {"credentials": {"api_key": ""}}, "credentials.api_key", "empty"),
        ("sendgrid", {"options": {"ip_pol": "x"}}, "options.ip_pol", "did you mean ip_pool"),
        ("sendgrid", {"options": {"unsubscribe_group": "x"}}, "options.unsubscribe_group", "whole number"),
        ("sendgrid", {"options": {"sandbox_mode": "maybe"}}, "options.sandbox_mode", "true or false"),
        ("sendgrid", {"sender": "nobody"}, "sender", "address"),
        ("sendgrid", {"batch": 1001}, "batch", "at most 1000"),
        ("sendgrid", {"base_url": "api.sendgrid.com"}, "base_url", "https://"),
        ("sendgrid", {"channel": Channel.SMS}, "channel", "carries email"),
        ("ses", {"credentials": {}}, "credentials.access_key_id", "missing"),
        (
            "ses",
            {"credentials": {"region": "ap-south-1", "secret_access_key": "x"}},
            "credentials.access_key_id",
            "missing",
        ),
        (
            "ses",
            {"credentials": {"region": "ap-south-1", "session_token": "x"}},
            "credentials.access_key_id",
            "missing",
        ),
        ("ses", {"options": {"configuration_set": "a b"}}, "options.configuration_set", "a configuration set's name"),
        ("bulksms", {"credentials": {"token_id": "x"}}, "credentials.token_secret", "or username and password"),
        ("bulksms", {"options": {"routing_group": "cheap"}}, "options.routing_group", "ECONOMY, STANDARD, PREMIUM"),
        ("bulksms", {"options": {"max_parts": 256}}, "options.max_parts", "1 to 255"),
        ("bulksms", {"sender": "A long name of ours"}, "sender", "at most 11"),
        ("fast2sms", {"options": {"route": "quick"}}, "options.route", "auto, dlt, dlt_manual, q, otp"),
        ("fast2sms", {"options": {"route": "dlt"}, "sender": "X1"}, "sender", "3 to 6 letters"),
        ("fast2sms", {"channel": Channel.EMAIL}, "channel", "carries sms"),
    ],
)
def test_a_fault_of_the_configuration_names_its_key(kind: str, fields: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        built(kind, **fields)
    assert str(caught.value).startswith(f'[[providers]] name = "{kind}", {key}: ')
    assert text in str(caught.value)


def test_a_kind_that_does_not_exist_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean sendgrid"):
        build(a_provider("sendgird"))


def test_options_from_the_environment_are_texts_and_mean_the_same() -> None:
    prepare = KINDS["bulksms"].prepare
    typed = prepare(http_settings("bulksms", "http://a", options={"max_parts": 6, "routing_group": "ECONOMY"}))
    texts = prepare(http_settings("bulksms", "http://a", options={"max_parts": "6", "routing_group": "economy"}))
    assert typed.options == texts.options == {"max_parts": 6, "routing_group": "ECONOMY"}


@pytest.mark.parametrize(
    ("number", "country"),
    [("+919876543210", "IN"), ("+14155552671", "US"), ("+442071838750", "GB"), ("+000", None), ("nonsense", None)],
)
def test_a_number_tells_its_country(number: str, country: str | None) -> None:
    assert country_of(number) == country


def test_an_answer_is_explained_in_words() -> None:
    verdict = explain("fast2sms", "400", b'{"return":false,"status_code":416,"message":"x"}')
    assert (verdict.outcome, verdict.meaning, verdict.cure) == (
        "misconfigured",
        "the wallet is empty",
        "recharge the wallet",
    )


@pytest.mark.parametrize(("kind", "status"), [("ses", "abc"), ("ses", "0200"), ("sandbox", "200"), ("nobody", "200")])
def test_what_cannot_be_explained_is_told(kind: str, status: str) -> None:
    with pytest.raises(ConfigurationError):
        explain(kind, status, b"")


class TestTakes:
    @pytest.mark.parametrize(
        ("to", "why"),
        [
            ("+919876543210", None),
            ("+916000000000", None),
            ("+915876543210", "country"),
            ("+9198765432101", "country"),
            ("+14155552671", "country"),
            ("+27001234567", "country"),
        ],
    )
    def test_fast2sms_takes_indian_mobiles_only(self, to: str, why: str | None) -> None:
        assert built("fast2sms").takes(a_message(to)) == why

    @pytest.mark.parametrize(
        ("route", "sender", "content", "why"),
        [
            ("auto", None, {}, None),
            ("auto", None, {"dlt_template_id": "1"}, "sender"),
            ("auto", "HELIOG", {"dlt_template_id": "1"}, None),
            ("dlt_manual", None, {}, "sender"),
            ("dlt_manual", None, {"sender_id": "HELIOG"}, None),
            ("dlt", "HELIOG", {}, "dlt_template"),
            ("dlt", "HELIOG", {"dlt_template_id": "1", "dlt_variables": ("a|b",)}, "dlt_variables"),
            ("dlt", "HELIOG", {"dlt_template_id": "1", "dlt_variables": ("a", "b")}, None),
            ("otp", None, {}, "otp_digits"),
            ("otp", None, {"text": "123456"}, None),
            ("otp", None, {"dlt_variables": ("123456",)}, None),
            ("q", None, {}, None),
        ],
    )
    def test_a_route_of_fast2sms_wants_its_fields(
        self, route: str, sender: str | None, content: dict[str, Any], why: str | None
    ) -> None:
        courier = built("fast2sms", options={"route": route}, sender=sender)
        assert courier.takes(a_message(content=SmsContent(**{"text": "Hi"} | content))) == why

    @pytest.mark.parametrize("text", ["Hi {fn}", "{F1###}", "{sn##} x"])
    def test_bulksms_would_fill_in_what_looks_like_its_fields(self, text: str) -> None:
        assert built("bulksms").takes(a_message(content=SmsContent(text=text))) == "template_field"

    def test_bulksms_takes_braces_that_are_no_fields(self) -> None:
        assert built("bulksms").takes(a_message(content=SmsContent(text="{x} {F} {fnord}"))) is None

    def test_bulksms_takes_no_more_parts_than_it_is_told(self) -> None:
        assert built("bulksms").takes(a_message(parts=10)) is None
        assert built("bulksms").takes(a_message(parts=11)) == "parts"

    @pytest.mark.parametrize("kind", ["ses", "sendgrid"])
    def test_mail_wants_a_sender_from_somewhere(self, kind: str) -> None:
        assert built(kind, sender=None).takes(an_email()) == "sender"
        assert built(kind, sender=None).takes(an_email(sender="hi@shop.in")) is None

    @pytest.mark.parametrize("kind", ["ses", "sendgrid"])
    def test_http_mail_takes_no_address_outside_ascii_but_any_domain(self, kind: str) -> None:
        courier = built(kind)
        assert courier.takes(an_email("jörg@example.net")) == "address"
        assert courier.takes(an_email(cc=("jörg@example.net",))) == "address"
        assert courier.takes(an_email("joerg@bücher.example")) is None

    def test_sendgrid_takes_no_header_that_it_sets_itself(self) -> None:
        assert built("sendgrid").takes(an_email(headers=(("X-SG-ID", "1"),))) == "header"
        assert built("sendgrid").takes(an_email(headers=(("X-A", "1"), ("x-a", "2")))) == "header"

    def test_sendgrid_takes_no_mail_of_thirty_megabytes_and_no_odd_content_id(self) -> None:
        def mail(**fields: str) -> Message:
            known = {"filename": "a.png", "content_type": "image/png", "content_base64": "YQ=="}
            return an_email(html="<p>a</p>", attachments=(Attachment(**known | fields),))

        assert built("sendgrid").takes(mail()) is None
        assert built("sendgrid").takes(mail(content_base64="YQ==" * 7_500_000)) == "size"
        assert built("sendgrid").takes(mail(content_id="a;b")) == "content_id"

    @pytest.mark.parametrize("kind", HTTP_KINDS)
    def test_the_other_channel_is_never_taken(self, kind: str) -> None:
        assert built(kind).takes(a_message() if kind in ("ses", "sendgrid") else an_email()) is not None


class TestSharing:
    @pytest.mark.parametrize("kind", HTTP_KINDS)
    def test_nothing_is_shared_unless_the_configuration_says_so(self, kind: str) -> None:
        message = an_email() if kind in ("ses", "sendgrid") else a_message()
        assert built(kind, batch=1).batch_key(message) is None

    @pytest.mark.parametrize("kind", HTTP_KINDS)
    def test_an_urgent_message_never_shares(self, kind: str) -> None:
        urgent = {"priority": Priority.URGENT}
        message = an_email(**urgent) if kind in ("ses", "sendgrid") else a_message(**urgent)
        assert built(kind, batch=10).batch_key(message) is None

    def test_any_two_messages_share_a_call_to_bulksms(self) -> None:
        courier = built("bulksms", batch=10)
        other = a_message("+14155552671", content=SmsContent(text="Other", sender_id="ME"))
        assert courier.batch_key(a_message()) == courier.batch_key(other) is not None

    def test_only_equal_texts_share_a_call_to_fast2sms(self) -> None:
        courier = built("fast2sms", batch=10)
        assert courier.batch_key(a_message()) == courier.batch_key(a_message("+919876543211"))
        assert courier.batch_key(a_message()) != courier.batch_key(a_message(content=SmsContent(text="Other")))

    def test_codes_of_the_otp_route_go_one_by_one(self) -> None:
        courier = built("fast2sms", batch=10, options={"route": "otp"})
        assert courier.batch_key(a_message(content=SmsContent(text="1234"))) is None

    def test_mails_share_a_call_to_sendgrid_by_content_but_not_by_subject(self) -> None:
        courier = built("sendgrid", batch=10)
        assert courier.batch_key(an_email()) == courier.batch_key(an_email("b@example.net", subject="Another"))
        assert courier.batch_key(an_email()) != courier.batch_key(an_email(text="Other"))
        small = Attachment(filename="a", content_type="text/plain", content_base64="YQ==")
        assert courier.batch_key(an_email()) != courier.batch_key(an_email(attachments=(small,))) is not None
        large = Attachment(filename="a", content_type="text/plain", content_base64="YQ==" * 20_000)
        assert courier.batch_key(an_email(attachments=(large,))) is None
        assert courier.batch_key(an_email(headers=(("X-Large", "a " * 4096),))) is None

    def test_mails_with_copies_share_a_call_to_sendgrid_where_a_full_one_has_at_most_a_thousand(self) -> None:
        three = an_email(cc=("c@example.net",), bcc=("d@example.net",))
        assert built("sendgrid", batch=333).batch_key(three) == built("sendgrid", batch=333).batch_key(an_email())
        assert built("sendgrid", batch=334).batch_key(three) is None
        assert built("sendgrid", batch=1000).batch_key(an_email()) is not None

    def test_mails_share_a_call_to_sendgrid_only_with_the_tags_that_become_its_categories(self) -> None:
        tagged = replace(an_email(), tags=("receipt",))
        courier = built("sendgrid", batch=10)
        assert courier.batch_key(tagged) != courier.batch_key(an_email())
        assert courier.batch_key(replace(an_email(), tags=("पर्ची",))) == courier.batch_key(an_email())
        courier = built("sendgrid", batch=10, options={"categories": False})
        assert courier.batch_key(tagged) == courier.batch_key(an_email()) is not None
