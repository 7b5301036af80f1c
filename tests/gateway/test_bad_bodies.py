"""What is wrong with a body is said at once, in full, and with its place; and nothing of it is stored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.support.gateway_world import EMAIL, SMS, Gateway, a_gateway


def pointers(answer: Any) -> set[str]:
    return {error["pointer"] for error in answer.json["errors"]}


async def refused(gateway: Gateway, body: Any, status: int = 422, code: str = "invalid") -> Any:
    answer = await gateway.post("/v1/messages", body)
    assert (answer.status, answer.json["code"]) == (status, code), answer.raw
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert gateway.world.accepted == []
    return answer


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nonsense", b'{"a":1,}', b"{'a':1}", b"NaN", b'{"a":NaN}', b'"\xff"', b"\xef\xbb\xbf{}", b'{"a":01}',
     b'{"a":"\x00"}', b"{} {}", b'{"channel":"sms","text":"\\ud8"}', "{}".encode("utf-16")],
)  # fmt: skip
async def test_what_is_no_json_is_400(raw: bytes) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", raw=raw)
        assert (answer.status, answer.json["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("body", [[], "sms", 7, None, True])
async def test_json_that_is_no_object_is_422(body: Any) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", raw=orjson.dumps(body))
        assert answer.status == 422
        assert pointers(answer) == {"#"}


async def test_all_faults_of_a_body_are_reported_at_once() -> None:
    body = {
        "channel": "sms", "to": "12345", "text": "", "priority": "asap", "category": 7, "tags": ["ok", 5, ""],
        "metadata": [], "send_at": "tomorrow", "expires_at": "2026-11-24T12:00:00", "providers": [], "colour": "red",
        "sms": {"sender_id": "", "header": "x"}, "subject": "for an email",
    }  # fmt: skip
    async with a_gateway() as gateway:
        answer = await refused(gateway, body)
        assert pointers(answer) == {
            "#/to", "#/text", "#/priority", "#/category", "#/tags/1", "#/tags/2", "#/metadata", "#/send_at",
            "#/expires_at", "#/providers", "#/colour", "#/sms/sender_id", "#/sms/header", "#/subject",
        }  # fmt: skip
        assert answer.json["request_id"] == answer.headers["X-Request-Id"]


async def test_all_faults_of_an_email_are_reported_at_once() -> None:
    body = {
        "channel": "email", "to": "Asha <asha@shop.in>", "subject": "a\r\nBcc: x@y.in", "from": "nobody",
        "reply_to": 5, "cc": ["c@shop.in", "c"], "bcc": ["b@"], "headers": {"Bcc": "x@y.in", "X-Fine": "yes"},
        "attachments": [{"filename": "../x", "content": "?", "content_type": "pdf"}, {}],
    }  # fmt: skip
    async with a_gateway() as gateway:
        answer = await refused(gateway, body)
        assert pointers(answer) == {
            "#/to", "#/subject", "#/from", "#/reply_to", "#/cc/1", "#/bcc/0", "#/headers", "#/text",
            "#/attachments/0/filename", "#/attachments/0/content", "#/attachments/0/content_type",
            "#/attachments/1/filename", "#/attachments/1/content",
        }  # fmt: skip


async def test_without_a_channel_the_rest_is_still_judged() -> None:
    async with a_gateway() as gateway:
        answer = await refused(gateway, {"to": "x", "text": "y", "priority": "asap", "colour": "red"})
        assert pointers(answer) == {"#/channel", "#/priority", "#/colour"}
        assert pointers(await refused(gateway, {**SMS, "channel": "fax"})) == {"#/channel"}
        assert pointers(await refused(gateway, {**SMS, "channel": ["sms"]})) == {"#/channel"}


async def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    async with a_gateway() as gateway:
        answer = await refused(gateway, {**SMS, "prioritty": "urgent"})
        [error] = answer.json["errors"]
        assert error == {"pointer": "#/prioritty", "detail": "is not known here; did you mean priority?"}
        odd = await refused(gateway, {**SMS, "a/b~c d": 1})
        assert pointers(odd) == {"#/a~1b~0c%20d"}
        assert pointers(await refused(gateway, {**SMS, "idempotency_key": "x"})) == {"#/idempotency_key"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("template", "otp"),
        ("variables", {"code": 1}),
        ("fallback", {"after": "60s"}),
        ("webhook_url", "https://example.com/hook"),
    ],
)
async def test_what_this_version_lacks_is_not_available(field: str, value: Any) -> None:
    async with a_gateway() as gateway:
        answer = await refused(gateway, {**SMS, field: value}, code="not_available")
        assert answer.json["errors"] == [{"pointer": f"#/{field}", "detail": "is not available yet"}]


async def test_a_template_in_place_of_the_content_is_only_not_available() -> None:
    async with a_gateway() as gateway:
        body = {"channel": "sms", "to": SMS["to"], "template": "otp", "variables": {}}
        answer = await refused(gateway, body, code="not_available")
        assert pointers(answer) == {"#/template", "#/variables"}
        body = {"channel": "email", "to": EMAIL["to"], "template": "otp"}
        assert pointers(await refused(gateway, body, code="not_available")) == {"#/template"}


@pytest.mark.parametrize(
    "number", ["", "919876540000", "+91 98765 40000", "+910000000000", "+999123456789", "asha@shop.in"]
)
async def test_a_number_must_be_valid_e164(number: str) -> None:
    async with a_gateway() as gateway:
        assert pointers(await refused(gateway, {**SMS, "to": number})) == {"#/to"}


@pytest.mark.parametrize("address", ["", "asha", "asha@", "asha@localhost", "a@b.in, c@d.in", "a@b.in\r\nRCPT TO:<x>"])
async def test_an_address_must_be_one_that_mail_can_go_to(address: str) -> None:
    async with a_gateway() as gateway:
        assert pointers(await refused(gateway, {**EMAIL, "to": address})) == {"#/to"}


async def test_an_email_needs_a_text_or_html() -> None:
    async with a_gateway() as gateway:
        body = {"channel": "email", "to": EMAIL["to"], "subject": "x"}
        assert pointers(await refused(gateway, body)) == {"#/text"}
        assert (await gateway.post("/v1/messages", {**body, "html": "<p>x</p>"})).status == 202


@pytest.mark.parametrize(
    ("field", "fits", "exceeds"),
    [
        ("subject", "s" * 998, "s" * 999),
        ("tags", ["t"] * 20, ["t"] * 21),
        ("tags", ["t" * 128], ["t" * 129]),
        ("metadata", {"m": "x" * (16_384 - 8)}, {"m": "x" * (16_384 - 7)}),
        ("cc", ["c@shop.in"] * 50, ["c@shop.in"] * 51),
    ],
)
async def test_each_limit_is_the_last_value_that_fits(field: str, fits: Any, exceeds: Any) -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/messages", {**EMAIL, field: fits})).status == 202
        gateway.world.accepted.clear()
        found = pointers(await refused(gateway, {**EMAIL, field: exceeds}))
        assert all(pointer.startswith(f"#/{field}") for pointer in found)


async def test_copies_are_counted_together() -> None:
    async with a_gateway() as gateway:
        many = ["c@shop.in"] * 26
        assert pointers(await refused(gateway, {**EMAIL, "cc": many, "bcc": many})) == {"#/bcc"}
        assert (await gateway.post("/v1/messages", {**EMAIL, "cc": many[:25], "bcc": many[:25]})).status == 202


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels - 1):
        inner = {"a": inner}
    return inner


async def test_nesting_is_limited_to_32_levels() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/messages", {**SMS, "metadata": nested(31)})).status == 202
        gateway.world.accepted.clear()
        answer = await refused(gateway, {**SMS, "metadata": nested(32)})
        assert "32" in answer.json["detail"]


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
async def test_nesting_beyond_all_reason_costs_nothing_and_is_422(depth: int) -> None:
    async with a_gateway() as gateway:
        raw = b'{"metadata":' + b"[" * depth + b"]" * depth + b"}"
        answer = await gateway.post("/v1/messages", raw=raw)
        assert answer.status == 422
        assert "32" in answer.json["detail"]


@pytest.mark.parametrize("depth", [33, 1_000, 100_000])
async def test_what_is_deep_and_never_closes_is_no_json(depth: int) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", raw=b'{"metadata":' + b"[" * depth)
        assert (answer.status, answer.json["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "a\\udfffb"])
@pytest.mark.parametrize("place", ["text", "metadata", "name"])
async def test_characters_that_no_store_takes_are_422_with_their_place(text: str, place: str) -> None:
    async with a_gateway() as gateway:
        body = {
            "text": f'{{"channel":"sms","to":"+919876540000","text":"x{text}"}}',
            "metadata": f'{{"channel":"sms","to":"+919876540000","text":"x","metadata":{{"a":["{text}"]}}}}',
            "name": f'{{"channel":"sms","to":"+919876540000","text":"x","metadata":{{"{text}":1}}}}',
        }[place]
        answer = await gateway.post("/v1/messages", raw=body.encode())
        assert answer.status == 422
        expected = {"text": "#/text", "metadata": "#/metadata/a/0", "name": "#/metadata"}[place]
        assert pointers(answer) == {expected}


async def test_numbers_beyond_a_double_are_422_and_large_whole_ones_are_read_as_doubles() -> None:
    async with a_gateway() as gateway:
        body = '{"channel":"sms","to":"+919876540000","text":"x","metadata":{"n":%s}}'
        huge = await gateway.post("/v1/messages", raw=(body % "1e999").encode())
        assert (huge.status, pointers(huge)) == (422, {"#/metadata/n"})
        long = await gateway.post("/v1/messages", raw=(body % ("9" * 5000)).encode())
        assert (long.status, pointers(long)) == (422, {"#/metadata/n"})
        large = await gateway.post("/v1/messages", raw=(body % "123456789012345678901234567890").encode())
        assert large.status == 202
        assert large.json["metadata"]["n"] == pytest.approx(1.2345678901234568e29)


async def test_of_a_key_that_comes_twice_the_last_one_counts() -> None:
    async with a_gateway() as gateway:
        raw = b'{"channel":"sms","to":"+919876540000","text":"x","text":"y"}'
        assert (await gateway.post("/v1/messages", raw=raw)).status == 202
        assert gateway.world.accepted[0].messages[0].content.text == "y"


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": "2026-11-24T11:59:59Z"},
        {"expires_at": "2026-11-24T12:00:00Z"},
        {"send_at": "2026-11-24T13:00:00Z", "expires_at": "2026-11-24T13:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expires_at": "2026-02-30T00:00:00Z"},
        {"expires_at": 1795521600},
        {"expires_at": "2026-11-24"},
    ],
)
async def test_times_must_exist_and_be_in_order(changes: dict[str, Any]) -> None:
    async with a_gateway() as gateway:
        assert pointers(await refused(gateway, {**SMS, **changes})) == {"#/expires_at"}


async def test_a_send_at_years_away_is_refused() -> None:
    async with a_gateway() as gateway:
        assert pointers(await refused(gateway, {**SMS, "send_at": "2099-01-01T00:00:00Z"})) == {"#/send_at"}


async def test_wrong_order_of_times_is_reported_beside_other_faults() -> None:
    async with a_gateway() as gateway:
        answer = await refused(gateway, {**SMS, "to": "x", "expires_at": "2026-11-24T11:00:00Z"})
        assert pointers(answer) == {"#/to", "#/expires_at"}


async def test_null_means_the_same_as_not_given_where_a_field_may_be_left_out() -> None:
    async with a_gateway() as gateway:
        body = {
            **EMAIL,
            "html": None,
            "from": None,
            "reply_to": None,
            "send_at": None,
            "expires_at": None,
            "providers": None,
        }
        assert (await gateway.post("/v1/messages", body)).status == 202


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
async def test_json_must_be_announced_as_json(content_type: str) -> None:
    async with a_gateway() as gateway:
        raw = orjson.dumps(SMS)
        answer = await gateway.post("/v1/messages", raw=raw, headers={"Content-Type": content_type})
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"']
)
async def test_the_charset_may_be_said(content_type: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", raw=orjson.dumps(SMS), headers={"Content-Type": content_type})
        assert answer.status == 202


async def test_no_answer_holds_what_was_posted_in_a_wrong_field() -> None:
    async with a_gateway() as gateway:
        answer = await refused(gateway, {**SMS, "to": "secret-recipient", "text": 5, "tags": "secret-tag"})
        assert b"secret" not in answer.raw
