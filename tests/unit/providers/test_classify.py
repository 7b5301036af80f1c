"""What the HTTP kinds make of answers: the tables row by row, and the law that no answer is an error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.message import SmsContent
from heliograph.providers import KINDS, explain
from heliograph.providers.bulksms import answers as bulksms
from heliograph.providers.bulksms.requests import deduplication_id
from heliograph.providers.fast2sms import answers as fast2sms
from heliograph.providers.http import HttpCourier
from heliograph.providers.sendgrid import answers as sendgrid
from heliograph.providers.ses import answers as ses
from heliograph.providers.wire import WireAnswer
from tests.conformance.rigs import http_settings
from tests.support.builders import a_call, a_message, an_email

NOW_S = 1_795_521_600.0
A, R, D, T, M, U = (
    Outcome.ACCEPTED,
    Outcome.REJECTED,
    Outcome.DEFERRED,
    Outcome.THROTTLED,
    Outcome.MISCONFIGURED,
    Outcome.UNKNOWN,
)


def answer(status: int, body: Any = b"", whole: bool = True, **headers: str) -> WireAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WireAnswer(status=status, headers=named, body=raw, whole=whole, at_s=NOW_S)


def courier(kind: str) -> HttpCourier:
    built = KINDS[kind].courier(KINDS[kind].prepare(http_settings(kind, "http://127.0.0.1:9", batch=10)))
    assert isinstance(built, HttpCourier)
    return built


COURIERS = {kind: courier(kind) for kind in ("ses", "sendgrid", "bulksms", "fast2sms")}


def calls_of(kind: str, number: int = 1) -> list[ProviderCall]:
    if kind in ("bulksms", "fast2sms"):
        return [a_call(a_message(f"+9198765432{n:02}")) for n in range(number)]
    return [a_call(an_email(f"a{n}@example.net")) for n in range(number)]


def one(kind: str, came: WireAnswer, call: ProviderCall | None = None) -> Answer:
    (answered,) = COURIERS[kind].classify([call or calls_of(kind)[0]], came)
    return answered


# ------------------------------------------------------------------------------------------------ every kind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    [
        "return", "request_id", "status_code", "message", "wallet", "id", "status", "type", "subtype", "errors",
        "userSuppliedId", "field", "MessageId", "__type", "code", "SendQuota", "SendingEnabled", "detail", "title",
        "credits", "scopes", "quota", "balance", "Message", "BulkEmailEntryResults", "Status",
    ]
)  # fmt: skip
LIKELY = st.recursive(
    JSON, lambda inner: st.dictionaries(WORDS, inner, max_size=5) | st.lists(inner, max_size=3), max_leaves=12
)
BODIES = st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), LIKELY | JSON)
NAMES = ["retry-after", "x-message-id", "x-ratelimit-reset", "x-ratelimit-remaining", "x-amzn-errortype", "date"]
HEADERS = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30))
STATUSES = st.integers(100, 999) | st.sampled_from([200, 201, 202, 400, 401, 403, 404, 413, 429, 500, 503])
ANSWERS = st.builds(WireAnswer, status=STATUSES, headers=HEADERS, body=BODIES, whole=st.booleans(), at_s=st.just(NOW_S))


@given(kind=st.sampled_from(sorted(COURIERS)), came=ANSWERS, number=st.integers(1, 3))
def test_no_answer_is_an_error_and_every_call_gets_its_own(kind: str, came: WireAnswer, number: int) -> None:
    answers = COURIERS[kind].classify(calls_of(kind, number), came)
    assert len(answers) == number
    for answered in answers:
        for text in (answered.code, answered.detail, answered.provider_message_id):
            assert text is None or (text.isprintable() and len(text) <= 500)
        assert answered.retry_after_s is None or 0 <= answered.retry_after_s <= 86_400
        if answered.outcome is Outcome.ACCEPTED:
            assert 200 <= came.status < 300
            assert came.whole


@given(kind=st.sampled_from(sorted(COURIERS)), came=ANSWERS)
def test_no_answer_to_the_check_is_an_error(kind: str, came: WireAnswer) -> None:
    finding = COURIERS[kind].proved(came)
    if finding.verdict.outcome is Outcome.ACCEPTED:
        assert 200 <= came.status < 300
        assert came.whole


@given(came=ANSWERS)
def test_no_answer_to_a_look_up_is_an_error(came: WireAnswer) -> None:
    assert bulksms.found(came, "01JD3Q8ZK4A7XNVT0B2C") in (None, *Settled)


@given(kind=st.sampled_from(sorted(COURIERS)), status=st.integers(100, 999), body=BODIES)
def test_every_answer_can_be_explained(kind: str, status: int, body: bytes) -> None:
    verdict = explain(kind, str(status), body)
    assert verdict.meaning
    assert verdict.cure
    assert verdict.source


@pytest.mark.parametrize("kind", sorted(COURIERS))
@pytest.mark.parametrize("body", [b"", b"<html>welcome</html>", b'{"return": tru', b"NaN", b"[]", b"null", b"\xff"])
def test_a_success_without_its_documented_body_is_unknown(kind: str, body: bytes) -> None:
    status = {"bulksms": 201, "sendgrid": 204}.get(kind, 200)  # SendGrid's own, 202 and 200, have no body
    assert one(kind, answer(status, body)).outcome is U


@pytest.mark.parametrize("kind", sorted(COURIERS))
@pytest.mark.parametrize(
    ("status", "outcome"),
    [(302, M), (401, M), (403, M), (408, D), (429, T), (500, D), (502, D), (503, D), (504, D), (522, D)],
)
def test_an_answer_from_something_in_front_is_judged_by_its_status(kind: str, status: int, outcome: Outcome) -> None:
    answered = one(kind, answer(status, b"<html>gateway</html>", retry_after="17"))
    assert answered.outcome is outcome
    if outcome in (T, D):
        assert answered.retry_after_s == 17


@pytest.mark.parametrize(
    ("kind", "status", "body", "headers"),
    [
        ("ses", 200, {"MessageId": "1"}, {}),
        ("sendgrid", 202, b"", {"x_message_id": "1"}),
        ("bulksms", 201, [{"id": "1", "status": {"type": "ACCEPTED"}}], {}),
        ("fast2sms", 200, {"return": True, "request_id": "1", "message": ["ok"]}, {}),
    ],
)
def test_a_success_is_accepted_whole_and_unknown_when_it_broke_off(
    kind: str, status: int, body: Any, headers: dict[str, str]
) -> None:
    taken = one(kind, answer(status, body, **headers))
    assert (taken.outcome, taken.provider_message_id) == (A, "1")
    assert one(kind, answer(status, body, whole=False, **headers)).outcome is U


@pytest.mark.parametrize("kind", sorted(COURIERS))
def test_rows_tell_what_to_do_and_whence_they_are_known(kind: str) -> None:
    modules: dict[str, Sequence[Any]] = {
        "ses": [*ses.ERRORS.values(), *ses.ENTRIES.values()],
        "sendgrid": [row.verdict for row in sendgrid.ROWS],
        "bulksms": [row.verdict for row in bulksms.ROWS] + list(bulksms.FAILED.values()),
        "fast2sms": list(fast2sms.CODES.values()),
    }
    for row in modules[kind]:
        assert row.meaning
        assert row.cure
        assert row.source


# -------------------------------------------------------------------------------------------------- fast2sms

FAST2SMS: list[tuple[int, int, Outcome]] = [
    (400, 401, M), (400, 402, R), (400, 403, M), (400, 404, M), (400, 405, R), (400, 406, M), (400, 407, R),
    (400, 408, M), (400, 409, M), (400, 410, M), (400, 411, R), (401, 412, M), (401, 413, M), (400, 414, M),
    (400, 415, M), (400, 416, M), (400, 417, R), (400, 424, M), (400, 425, R), (400, 426, R), (400, 427, R),
    (400, 500, M), (400, 990, M), (400, 995, D), (400, 996, M), (400, 997, R), (400, 998, M), (400, 999, M),
    (200, 411, R), (200, 416, M), (400, 12345, R), (400, 777, R), (200, 777, R), (401, 777, M),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "outcome"), FAST2SMS)
def test_fast2sms_codes_mean_what_its_list_says(status: int, code: int, outcome: Outcome) -> None:
    body = {"return": False, "status_code": code, "message": "Something"}
    answered = one("fast2sms", answer(status, body))
    assert answered.outcome is outcome
    assert answered.detail == "Something"
    if code in fast2sms.CODES:
        assert answered.code == str(code)
        assert one("fast2sms", answer(status, body | {"status_code": str(code), "message": ["Something"]})) == answered


def test_every_code_of_fast2sms_is_in_the_test_of_its_table() -> None:
    assert set(fast2sms.CODES) <= {code for _, code, _ in FAST2SMS}


@pytest.mark.parametrize(
    ("code", "content", "outcome"),
    [
        (406, {"sender_id": "BADONE"}, M),
        (406, {"dlt_template_id": "1"}, M),
        (424, {"dlt_template_id": "1"}, R),
        (424, {"sender_id": "BADONE"}, M),
        (500, {"sender_id": "BADONE"}, M),
        (500, {"sender_id": "BADONE", "dlt_template_id": "1"}, R),
        (500, {"dlt_template_id": "1"}, R),
        (416, {"sender_id": "BADONE"}, M),
    ],
)
def test_fast2sms_faults_are_the_messages_where_it_named_the_template(
    code: int, content: dict[str, str], outcome: Outcome
) -> None:
    call = a_call(a_message(content=SmsContent(text="Hi", **content)))
    assert one("fast2sms", answer(400, {"return": False, "status_code": code}), call).outcome is outcome


def test_fast2sms_says_no_by_return_and_not_by_status() -> None:
    assert one("fast2sms", answer(200, {"return": "true", "request_id": "r"})).outcome is A
    assert one("fast2sms", answer(200, {"return": True})).provider_message_id is None
    assert one("fast2sms", answer(200, {"return": False, "message": "no"})).outcome is R
    assert one("fast2sms", answer(400, {"return": True, "request_id": "r"})).outcome is U
    assert one("fast2sms", answer(500, {"return": False, "status_code": 500})).outcome is D


def test_a_repeat_that_came_too_soon_concerns_its_number_only() -> None:
    answered = one("fast2sms", answer(400, {"return": False, "status_code": 995, "message": "Spamming"}))
    assert (answered.outcome, answered.scope, answered.retry_after_s) == (D, Scope.MESSAGE, 300)


# --------------------------------------------------------------------------------------------------- bulksms


def problem(fragment: str, detail: str = "x") -> dict[str, str]:
    return {"type": f"https://developer.bulksms.com/json/v1/errors#{fragment}", "detail": detail}


@pytest.mark.parametrize(
    ("status", "body", "outcome", "code"),
    [
        (400, problem("bad-request"), R, "bad-request"),
        (400, problem("bad-request", "'from' is not a valid sender"), M, "bad-request"),
        (401, problem("authentication-failed"), M, "authentication-failed"),
        (403, problem("insufficient-credits"), M, "insufficient-credits"),
        (403, problem("forbidden"), M, "forbidden"),
        (404, problem("not-found"), M, "not-found"),
        (400, b"<html>", R, "400"),
        (429, b"", T, "429"),
        (500, problem("internal"), D, "500"),
    ],
)
def test_bulksms_errors_go_by_status_and_then_by_type(status: int, body: Any, outcome: Outcome, code: str) -> None:
    answered = one("bulksms", answer(status, body))
    assert (answered.outcome, answered.code) == (outcome, code)


@pytest.mark.parametrize(
    ("status", "outcome", "code"),
    [
        ({"type": "ACCEPTED", "subtype": None}, A, None),
        ({"type": "SCHEDULED"}, A, None),
        ({"type": "SENT"}, A, None),
        ({"type": "DELIVERED"}, A, None),
        ({"type": "UNKNOWN"}, A, None),
        ({"type": "FAILED", "subtype": "NOT_SENT"}, R, "FAILED.NOT_SENT"),
        ({"type": "failed", "subtype": "BLOCKED"}, R, "FAILED.BLOCKED"),
        ({"type": "FAILED", "subtype": None}, R, "FAILED"),
    ],
)
def test_an_element_of_bulksms_tells_of_its_message(status: Any, outcome: Outcome, code: str | None) -> None:
    call = calls_of("bulksms")[0]
    element = {"id": "7", "status": status, "userSuppliedId": call.attempt_id}
    answered = one("bulksms", answer(201, [element]), call)
    assert (answered.outcome, answered.code) == (outcome, code)
    assert one("bulksms", answer(201, element), call) == answered


def test_one_call_of_bulksms_has_one_deduplication_id_and_another_has_another() -> None:
    first, second = (call.attempt_id for call in calls_of("bulksms", 2))
    ids = {deduplication_id(attempts) for attempts in ([first], [second], [first, second], [second, first])}
    assert len(ids) == 4
    assert all(0 <= number < 2**31 for number in ids)
    assert deduplication_id([first]) == deduplication_id([first])


# ------------------------------------------------------------------------------------------------------- ses

SES: list[tuple[int, str, str, Outcome, float | None]] = [
    (429, "TooManyRequestsException", "Maximum sending rate exceeded.", T, 1),
    (429, "TooManyRequestsException", "Daily message quota exceeded", T, 1800),
    (400, "LimitExceededException", "x", T, 1800),
    (400, "ThrottlingException", "x", T, 1),
    (400, "Throttling", "x", T, 1),
    (400, "RequestLimitExceeded", "x", T, 1),
    (400, "MessageRejected", "Email address is not verified. a@b.c", M, None),
    (400, "MessageRejected", "Illegal content", R, None),
    (400, "MailFromDomainNotVerifiedException", "x", M, None),
    (400, "AccountSuspendedException", "x", M, None),
    (400, "SendingPausedException", "x", M, None),
    (400, "BadRequestException", "x", R, None),
    (404, "NotFoundException", "x", M, None),
    *[
        (403, name, "x", M, None)
        for name in (
            "AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException",
            "SignatureDoesNotMatch", "MissingAuthenticationTokenException", "IncompleteSignature", "OptInRequired",
            "ExpiredTokenException", "ExpiredToken", "RequestExpired", "RequestTimeTooSkewed", "NeverHeardOfIt",
            "MissingAuthenticationToken", "IncompleteSignatureException",
        )
    ],
    (413, "RequestEntityTooLarge", "x", R, None),
    (500, "InternalServiceErrorException", "x", D, None),
    (500, "InternalFailure", "x", D, None),
    (500, "InternalServerException", "x", D, None),
    (500, "ConcurrentModificationException", "x", D, None),
    (503, "ServiceUnavailableException", "x", D, None),
    (503, "ServiceUnavailable", "x", D, None),
    (409, "ConflictException", "x", D, None),
    (400, "InvalidParameterValue", "Missing domain", R, None),
]  # fmt: skip


@pytest.mark.parametrize(("status", "name", "text", "outcome", "wait_s"), SES)
def test_ses_errors_are_known_by_name_wherever_it_stands(
    status: int, name: str, text: str, outcome: Outcome, wait_s: float | None
) -> None:
    in_header = one("ses", answer(status, {"message": text}, x_amzn_errortype=f"{name}:http://internal/"))
    assert (in_header.outcome, in_header.code, in_header.retry_after_s) == (outcome, name, wait_s)
    assert one("ses", answer(status, {"Message": text, "__type": f"com.amazonaws.ses#{name}"})) == in_header
    assert one("ses", answer(status, {"message": text, "code": name})) == in_header


def test_every_error_of_ses_is_in_the_test_of_its_table() -> None:
    assert set(ses.ERRORS) <= {name for _, name, _, _, _ in SES}


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"SendingEnabled": True, "EnforcementStatus": "HEALTHY"}, A),
        ({"SendingEnabled": True, "EnforcementStatus": "PROBATION"}, A),
        ({"SendingEnabled": True, "EnforcementStatus": "SHUTDOWN"}, M),
        ({"SendingEnabled": False}, M),
        ({}, U),
    ],
)
def test_ses_account_may_send_or_not(body: Any, outcome: Outcome) -> None:
    assert ses.account_state(answer(200, body)).verdict.outcome is outcome


# -------------------------------------------------------------------------------------------------- sendgrid


def errors(message: str, field: str | None = None) -> dict[str, Any]:
    return {"errors": [{"message": message, "field": field, "help": None}]}


@pytest.mark.parametrize(
    ("status", "body", "outcome", "code"),
    [
        (200, b"", A, None),
        (202, b"", A, None),
        (400, errors("Does not contain a valid address.", "personalizations.0.to.0.email"), R, "400"),
        (400, errors("The from email does not contain a valid address.", "from.email"), M, "400"),
        (400, errors("Your account has no plan for this"), M, "400"),
        (401, errors("The provided authorization grant is invalid, expired, or revoked"), M, "401"),
        (401, errors("Maximum credits exceeded"), M, "credits"),
        (401, errors("Authenticated user is not authorized to send mail"), M, "401"),
        (403, errors("The from address does not match a verified Sender Identity.", "from"), M, "403"),
        (403, errors("access forbidden"), M, "403"),
        (404, b"", M, "404"),
        (405, b"", M, "405"),
        (406, b"", M, "406"),
        (413, b"", R, "413"),
        (415, b"", M, "415"),
        (500, b"", D, "500"),
        (503, b"", D, "503"),
    ],
)
def test_sendgrid_answers_mean_what_its_reference_says(status: int, body: Any, outcome: Outcome, code: str) -> None:
    answered = one("sendgrid", answer(status, body))
    assert (answered.outcome, answered.code) == (outcome, code)


def test_sendgrid_tells_when_its_limit_ends() -> None:
    reset = str(int(NOW_S) + 30)
    assert one("sendgrid", answer(429, b"", x_ratelimit_reset=reset)).retry_after_s == 30
    last = one("sendgrid", answer(202, b"", x_ratelimit_reset=reset, x_ratelimit_remaining="0"))
    assert (last.outcome, last.retry_after_s) == (A, 30)
    assert one("sendgrid", answer(202, b"", x_ratelimit_reset=reset, x_ratelimit_remaining="9")).retry_after_s is None


def test_a_key_of_sendgrid_without_the_scope_to_send_is_no_good() -> None:
    assert sendgrid.scopes(answer(200, {"scopes": ["mail.send"]})).verdict.outcome is A
    assert sendgrid.scopes(answer(200, {"scopes": ["alerts.read"]})).verdict.outcome is M
    assert sendgrid.scopes(answer(200, {"scopes": "mail.send"})).verdict.outcome is U


@pytest.mark.parametrize("field", ["personalizations.17.to.0.email", "personalizations[17].subject"])
def test_a_refusal_of_sendgrid_names_its_culprit(field: str) -> None:
    assert sendgrid.culprits(answer(400, errors("bad", field))) == {17: "bad"}
    outside = COURIERS["sendgrid"].classify(calls_of("sendgrid", 2), answer(400, errors("bad", field)))
    assert {a.outcome for a in outside} == {D}
