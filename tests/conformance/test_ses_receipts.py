"""SES' events through SNS: who is believed, and who is asked for what. The events themselves are in fixtures/ses."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, Refused, Reports
from heliograph.providers import build
from heliograph.providers.http import HttpCourier
from heliograph.providers.ses.receipts import SesReceipts, reader
from heliograph.providers.wire import WireAnswer
from tests.conformance.rigs import http_settings
from tests.support.builders import NOW, a_call, an_email
from tests.support.sns import CERTIFICATE, HOST, SUBSCRIBE, TOPIC, Sns, called, certificate

EVENT: Final = {
    "eventType": "Send",
    "send": {},
    "mail": {"messageId": "m", "tags": {"hg-attempt": ["1JD3Q8ZK4A7XNVT0B201"]}},
}
SNS: Final = Sns()
KNOWN: Final = {CERTIFICATE: SNS.certificate()}
READER: Final = SesReceipts(topics=frozenset({TOPIC}))


def configured(**receipts: Any) -> SesReceipts:
    return reader(http_settings("ses", "https://email.example", receipts={"topic_arns": [TOPIC], **receipts}))


def refusal(envelope: object, reader: SesReceipts = READER, known: dict[str, str] = KNOWN, **call: Any) -> str:
    """The detail of a refusal with 401, certificates at hand or not."""
    refused = reader.verify(called(envelope, **call), known)
    assert isinstance(refused, Refused), refused
    assert refused.status == 401
    return refused.detail


# ------------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("kind", ["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_a_call_is_believed_when_its_certificate_is_at_hand(kind: str, version: str) -> None:
    call = called(SNS.envelope(EVENT, kind, version))
    assert READER.verify(call, {}) == CertificateNeeded(CERTIFICATE)
    assert READER.verify(call, {f"{CERTIFICATE}x": KNOWN[CERTIFICATE]}) == CertificateNeeded(CERTIFICATE)
    assert READER.verify(call, KNOWN) == Genuine()


@pytest.mark.parametrize("subject", ["Amazon SES Email Event Notification", "", "नमस्ते", None])
def test_a_subject_is_signed_where_there_is_one(subject: str | None) -> None:
    assert READER.verify(called(SNS.envelope(EVENT, Subject=subject)), KNOWN) == Genuine()
    without = {**SNS.envelope(EVENT), "Subject": None}
    assert READER.verify(called(without), KNOWN) == Genuine()


def test_text_outside_ascii_is_signed_as_utf_8_whatever_the_json_escapes() -> None:
    envelope = SNS.envelope(json.dumps({"text": "नमस्ते 🎉"}, ensure_ascii=False))
    for ascii_only in (True, False):
        body = json.dumps(envelope, ensure_ascii=ascii_only).encode()
        assert READER.verify(called(body), KNOWN) == Genuine()


@pytest.mark.parametrize("name", ["Message", "MessageId", "Subject", "Timestamp", "Signature"])
def test_what_is_signed_cannot_be_changed(name: str) -> None:
    envelope = SNS.envelope(EVENT, Subject="x")
    other = SNS.envelope("other", Subject="y", MessageId="other", Timestamp="2026-11-24T11:59:59.000Z")
    assert "by this certificate" in refusal({**envelope, name: other[name]})


@pytest.mark.parametrize("name", ["Token", "SubscribeURL", "Message"])
def test_what_is_signed_of_a_subscription_cannot_be_changed(name: str) -> None:
    envelope = SNS.envelope("confirm", "SubscriptionConfirmation")
    assert "by this certificate" in refusal({**envelope, name: f"{envelope[name]}x"})


@pytest.mark.parametrize(
    "faulty", [{"MessageId": None}, {"Message": {"eventType": "Send"}}, {"Signature": "!"}, {"Signature": None}]
)
def test_an_envelope_that_lacks_what_is_signed_is_not_believed(faulty: dict[str, Any]) -> None:
    assert "by this certificate" in refusal(SNS.envelope(EVENT) | faulty)


def test_a_signature_holds_for_its_own_version_only() -> None:
    assert "by this certificate" in refusal({**SNS.envelope(EVENT, version="1"), "SignatureVersion": "2"})
    assert "by this certificate" in refusal({**SNS.envelope(EVENT, version="2"), "SignatureVersion": "1"})


def test_a_type_cannot_be_taken_for_another() -> None:
    envelope = SNS.envelope("confirm", "SubscriptionConfirmation")
    assert "by this certificate" in refusal({**envelope, "Type": "UnsubscribeConfirmation"})
    assert "by this certificate" in refusal({**envelope, "Type": "Notification"})


def test_a_signature_by_another_key_is_not_believed() -> None:
    assert "by this certificate" in refusal(Sns().envelope(EVENT))


@pytest.mark.parametrize("version", ["3", "0", "", "02"])
def test_an_unknown_signature_version_is_refused(version: str) -> None:
    assert "version" in refusal({**SNS.envelope(EVENT), "SignatureVersion": version})


@pytest.mark.parametrize("versions", [["2"], [2], "2"])
def test_version_1_is_refused_where_the_configuration_says_so(versions: Any) -> None:
    strict = configured(signature_versions=versions)
    assert "version" in refusal(SNS.envelope(EVENT, version="1"), strict)
    assert strict.verify(called(SNS.envelope(EVENT)), KNOWN) == Genuine()


# ------------------------------------------------------------------------------------------------ certificates


@pytest.mark.parametrize("days", [(1, 2), (-2, -1)])
def test_a_certificate_counts_only_while_it_is_valid(days: tuple[int, int]) -> None:
    begins, ends = (NOW + timedelta(days=day) for day in days)
    assert "not valid now" in refusal(SNS.envelope(EVENT), known={CERTIFICATE: SNS.certificate(begins, ends)})


@pytest.mark.parametrize("pem", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é"])
def test_what_is_no_certificate_proves_nothing(pem: str) -> None:
    assert "certificate" in refusal(SNS.envelope(EVENT), known={CERTIFICATE: pem})


def test_a_certificate_of_another_kind_of_key_proves_nothing() -> None:
    assert "certificate" in refusal(
        SNS.envelope(EVENT), known={CERTIFICATE: certificate(ec.generate_private_key(ec.SECP256R1()))}
    )


BAD_HOSTS: Final = (
    "http://sns.ap-south-1.amazonaws.com/x.pem",
    "https://sns.ap-south-1.amazonaws.com.example.org/x.pem",
    "https://example.org/sns.ap-south-1.amazonaws.com/x.pem",
    "https://sns.ap-south-1.amazonaws.com@example.org/x.pem",
    "https://user@sns.ap-south-1.amazonaws.com/x.pem",
    "https://sns.ap-south-1.amazonaws.com:8443/x.pem",
    "https://sns.ap-south-1.amazonaws.com.cn.example.org/x.pem",
    "https://sns.us-east-1.amazonaws.com/x.pem",
    "https://xsns.ap-south-1.amazonaws.com/x.pem",
    "https://sns.ap.south.1.amazonaws.com/x.pem",
    "https://sns.x.amazonaws.com/x.pem",
    "https://sns.ap-south-1.amazonaws.com\\@example.org/x.pem",
    "https://sns.ap-south-1.amazonaws.com/x y.pem",
    "https://sns.ap-south-1.amazonaws.com/x.pem#y",
    "https://[sns/x.pem",
    "//sns.ap-south-1.amazonaws.com/x.pem",
    "",
    7,
    None,
)


@pytest.mark.parametrize("url", [*BAD_HOSTS, f"{HOST}/x.txt", f"{HOST}/?x.pem", f"{HOST}/"])
def test_a_certificate_is_fetched_from_sns_in_the_topics_region_only(url: Any) -> None:
    envelope = SNS.envelope(EVENT, SigningCertURL=url)
    known = {url: KNOWN[CERTIFICATE]} if isinstance(url, str) else {}
    assert "address" in refusal(envelope, known=known)


@pytest.mark.parametrize(
    ("topic", "url"),
    [
        ("arn:aws-cn:sns:cn-north-1:123456789012:ses", "https://sns.cn-north-1.amazonaws.com.cn/x.pem"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:ses", "https://sns.us-gov-west-1.amazonaws.com/x.pem"),
        ("arn:aws:sns:eu-west-1:123456789012:ses", "https://sns.EU-WEST-1.amazonaws.com/a/b.pem"),
    ],
)
def test_other_partitions_have_their_own_hosts(topic: str, url: str) -> None:
    envelope = SNS.envelope(EVENT, TopicArn=topic, SigningCertURL=url)
    found = configured(topic_arns=[topic]).verify(called(envelope), {url: KNOWN[CERTIFICATE]})
    assert found == Genuine()


@pytest.mark.parametrize("url", BAD_HOSTS)
def test_a_subscription_is_confirmed_at_sns_in_the_topics_region_only(url: Any) -> None:
    refused = READER.read(called(SNS.envelope("confirm", "SubscriptionConfirmation", SubscribeURL=url)))
    assert isinstance(refused, Refused)
    assert refused.status == 400


def test_a_subscription_that_is_confirmed_names_its_address() -> None:
    reports = READER.read(called(SNS.envelope("confirm", "SubscriptionConfirmation")))
    assert reports == Reports(confirm=SUBSCRIBE)


# ------------------------------------------------------------------------------------------- topics and times


def test_only_configured_topics_are_believed_and_nobody_is_asked_for_others() -> None:
    other = "arn:aws:sns:ap-south-1:210987654321:ses-events"
    for kind in ("Notification", "SubscriptionConfirmation"):
        assert "topic_arns" in refusal(SNS.envelope(EVENT, kind, TopicArn=other), known={})
    assert configured(topic_arns=[TOPIC, other]).verify(called(SNS.envelope(EVENT, TopicArn=other)), KNOWN) == Genuine()


@pytest.mark.parametrize("kind", ["Notification\nx", " Notification", "Other", "", 7, None])
def test_another_type_is_not_believed(kind: Any) -> None:
    assert "envelope" in refusal({**SNS.envelope(EVENT), "Type": kind})


def test_values_cannot_be_cut_otherwise_than_they_were_signed() -> None:
    """Anybody may publish to a topic of his own, with a text that looks like the rest of an envelope for ours."""
    theirs = "arn:aws:sns:ap-south-1:210987654321:theirs"
    signed = SNS.envelope(f"x\nMessageId\n1\nTimestamp\n2026-11-24T12:00:00.000Z\nTopicArn\n{TOPIC}", TopicArn=theirs)
    rest = f"\nMessageId\n{signed['MessageId']}\nTimestamp\n{signed['Timestamp']}\nTopicArn\n{theirs}"
    forged = {**signed, "Message": "x", "MessageId": "1", "Timestamp": "2026-11-24T12:00:00.000Z"}
    for topic in (TOPIC, f"{TOPIC}{rest}"):
        assert refusal({**forged, "TopicArn": topic})


@pytest.mark.parametrize(
    ("age", "believed"),
    [(timedelta(0), True), (timedelta(minutes=59), True), (timedelta(minutes=61), False), (-timedelta(hours=2), True)],
)
def test_what_was_published_over_an_hour_ago_is_refused(age: timedelta, believed: bool) -> None:
    call = called(SNS.envelope(EVENT), received_at=NOW + age)
    assert (READER.verify(call, KNOWN) == Genuine()) is believed


def test_the_greatest_age_can_be_configured() -> None:
    call = called(SNS.envelope(EVENT), received_at=NOW + timedelta(hours=1, minutes=30))
    assert configured(max_age="2h").verify(call, KNOWN) == Genuine()
    assert isinstance(configured(max_age="1m").verify(call, KNOWN), Refused)


@pytest.mark.parametrize("timestamp", ["", "yesterday", "2026-11-24T12:00:00", 7, None])
def test_a_call_without_a_time_is_refused(timestamp: Any) -> None:
    assert "time" in refusal(SNS.envelope(EVENT, Timestamp=timestamp))


@pytest.mark.parametrize(
    "topics", [None, [], "", [""], ["ses-events"], ["arn:aws:sqs:ap-south-1:123456789012:x"], [f"{TOPIC}\n"], 7]
)
def test_topics_are_needed_and_must_be_arns(topics: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"receipts\.topic_arns"):
        configured(topic_arns=topics)


def test_topics_may_stand_in_one_text() -> None:
    other = "arn:aws:sns:ap-south-1:210987654321:ses-events"
    assert configured(topic_arns=f"{TOPIC}, {other}").topics == {TOPIC, other}


@pytest.mark.parametrize(
    ("key", "value"),
    [("signature_versions", ["3"]), ("signature_versions", []), ("max_age", "soon"), ("topic_arn", TOPIC)],
)
def test_a_wrong_key_of_the_receipts_table_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"receipts\.{key}"):
        configured(**{key: value})


# ---------------------------------------------------------------------------------------------------- totality

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
)
ENVELOPES = st.dictionaries(
    st.sampled_from(["Type", "TopicArn", "SignatureVersion", "SigningCertURL", "Signature", "Timestamp", "Message"]),
    VALUES | st.sampled_from(["Notification", "SubscriptionConfirmation", TOPIC, "1", "2", CERTIFICATE]),
)
WORDS = st.sampled_from(
    ["eventType", "notificationType", "Bounce", "Delivery", "Complaint", "Send", "Subscription", "mail", "tags",
     "hg-attempt", "messageId", "bounce", "bounceType", "bouncedRecipients", "emailAddress", "delivery", "recipients",
     "complaint", "complainedRecipients", "timestamp", "destination", "subscription", "newTopicPreferences"]
)  # fmt: skip
EVENTS = st.recursive(
    VALUES | WORDS, lambda inner: st.dictionaries(WORDS, inner, max_size=5) | st.lists(inner, max_size=3), max_leaves=15
)


@given(body=st.binary(max_size=50) | st.builds(lambda value: json.dumps(value).encode(), ENVELOPES | VALUES))
def test_no_call_is_an_error(body: bytes) -> None:
    call = called(body)
    assert isinstance(READER.verify(call, KNOWN), (Genuine, CertificateNeeded, Refused))
    assert isinstance(READER.read(call), (Reports, Refused))


@given(event=EVENTS)
def test_no_event_is_an_error(event: Any) -> None:
    envelope = {"Type": "Notification", "TopicArn": TOPIC, "Message": json.dumps(event)}
    reports = READER.read(called(envelope))
    assert isinstance(reports, Reports)
    assert len(reports.receipts) > 0 or reports.ignored == 1


@given(text=st.text(st.characters(blacklist_categories=("Cs",)), max_size=60), version=st.sampled_from(["1", "2"]))
def test_whatever_the_text_is_its_signature_holds(text: str, version: str) -> None:
    assert READER.verify(called(SNS.envelope(text, version=version)), KNOWN) == Genuine()


# -------------------------------------------------------------------------------------------- without our own id


@pytest.mark.parametrize(
    ("receipts", "options", "traced"),
    [
        ({"topic_arns": [TOPIC]}, {}, True),
        ({"topic_arns": [TOPIC]}, {"configuration_set": "heliograph"}, False),
        ({}, {}, False),
    ],
)
async def test_an_attempt_is_found_by_ses_own_id_where_events_carry_no_tags(
    receipts: dict[str, Any], options: dict[str, Any], traced: bool
) -> None:
    courier = build(http_settings("ses", "https://email.example", receipts=receipts, options=options))
    assert isinstance(courier, HttpCourier)
    (answer,) = courier.classify([a_call(an_email())], WireAnswer(status=200, body=b'{"MessageId":"m"}'))
    assert (answer.outcome, answer.traced) == (Outcome.ACCEPTED, traced)
    await courier.aclose()


def test_the_signature_is_base64_without_anything_around_it() -> None:
    envelope = SNS.envelope(EVENT)
    assert base64.b64decode(envelope["Signature"], validate=True)
    assert "by this certificate" in refusal({**envelope, "Signature": f"{envelope['Signature']}\n"})
