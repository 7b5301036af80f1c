from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from heliograph.providers.signing import AwsCredentials, canonical_query, sign

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
HOST, TIMESTAMP = "email.ap-south-1.amazonaws.com", "20261124T120000Z"
BODY = (
    b'{"FromEmailAddress":"no-reply@example.com","Destination":{"ToAddresses":["a@example.net"]},"Content":{"Simple":'
    b'{"Subject":{"Data":"Hi","Charset":"UTF-8"},"Body":{"Text":{"Data":"Hello","Charset":"UTF-8"}}}}}'
)


def signature(headers: list[tuple[str, str]]) -> str:
    return dict(headers)["authorization"].rpartition("Signature=")[2]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and who signs it when."""

    method: str
    host: str
    path: str
    query: tuple[tuple[str, str], ...]
    body: bytes
    content_type: str | None
    keys: tuple[str, str, str | None]
    region: str
    timestamp: str

    def ours(self) -> dict[str, str]:
        signed = sign(
            AwsCredentials(*self.keys),
            method=self.method,
            host=self.host,
            path=self.path,
            query=self.query,
            body=self.body,
            content_type=self.content_type,
            region=self.region,
            service="ses",
            timestamp=self.timestamp,
        )
        assert len({name for name, _ in signed}) == len(signed)
        return dict(signed)

    def botocores(self) -> dict[str, str]:
        """Its own steps, with our clock in place of its own."""
        url = f"https://{self.host}{self.path}" + (f"?{canonical_query(self.query)}" if self.query else "")
        headers = {"host": self.host, "x-amz-date": self.timestamp}
        if self.content_type is not None:
            headers["content-type"] = self.content_type
        key, _, token = self.keys
        if token is not None:
            headers["x-amz-security-token"] = token
        request = AWSRequest(method=self.method, url=url, data=self.body, headers=headers)
        request.context["timestamp"] = self.timestamp
        auth = SigV4Auth(Credentials(*self.keys), "ses", self.region)
        canonical = auth.canonical_request(request)
        signature = auth.signature(auth.string_to_sign(request, canonical), request)
        names = auth.signed_headers(auth.headers_to_sign(request))
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={names}, Signature={signature}"
        )
        assert key in headers["authorization"]
        del headers["host"]
        return headers


VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
SEGMENTS = st.sampled_from(
    ["v2", "email", "a%2Bb%40example.net", "x~y", "a-b_c.d", "", ".", "..", "%E0%A4%A8", "a=b&c"]
)
REQUESTS = st.builds(
    Asked,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    host=st.sampled_from([HOST, "email.eu-west-1.api.aws", "localhost:5077", "127.0.0.1:8080"]),
    path=st.lists(SEGMENTS, max_size=5).map(lambda segments: "/" + "/".join(segments)),
    query=st.lists(
        st.tuples(
            st.text("abcXYZ +/=&%é~", min_size=1, max_size=5),
            st.text(st.characters(blacklist_categories=("Cs",)), max_size=8),
        ),
        max_size=3,
    ).map(tuple),
    body=st.binary(max_size=200),
    content_type=st.sampled_from([None, "application/json"]),
    keys=st.tuples(VISIBLE.map(lambda key: key.replace("/", "x")), VISIBLE, st.none() | VISIBLE),
    region=st.sampled_from(["ap-south-1", "us-east-1", "us-gov-west-1"]),
    timestamp=st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)).map(lambda at: at.strftime("%Y%m%dT%H%M%SZ")),  # noqa: DTZ001
)


@given(asked=REQUESTS)
def test_it_signs_as_botocore_does(asked: Asked) -> None:
    assert asked.ours() == asked.botocores()


def test_the_known_request_to_send_has_the_known_signature() -> None:
    headers = sign(
        AwsCredentials(KEY, SECRET),
        method="POST",
        host=HOST,
        path="/v2/email/outbound-emails",
        body=BODY,
        content_type="application/json",
        region="ap-south-1",
        service="ses",
        timestamp=TIMESTAMP,
    )
    assert dict(headers) == {
        "content-type": "application/json",
        "x-amz-date": TIMESTAMP,
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/ap-south-1/ses/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=44c34b3ffe8eac260941f78fb41e7783ae5ccc40172133e019144c652229a8d4",
    }


def test_the_known_request_for_the_account_has_the_known_signature() -> None:
    headers = sign(
        AwsCredentials(KEY, SECRET),
        method="GET",
        host=HOST,
        path="/v2/email/account",
        region="ap-south-1",
        service="ses",
        timestamp=TIMESTAMP,
    )
    assert signature(headers) == "308533654e96f3c7689fb7f8bebcc8459b7c046f28dabf690e81c3945160426f"


TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7"
    "mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d"
    "+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
LETTERS = "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SUITE: dict[str, tuple[dict[str, Any], str]] = {
    "get-vanilla": ({}, VANILLA),
    "get-unreserved": ({"path": LETTERS}, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
    "get-relative": ({"path": "/example/.."}, VANILLA),
    "get-relative-relative": ({"path": "/example1/example2/../.."}, VANILLA),
    "get-slash": ({"path": "//"}, VANILLA),
    "get-slash-dot-slash": ({"path": "/./"}, VANILLA),
    "get-vanilla-query-order-key-case": (
        {"query": [("Param2", "value2"), ("Param1", "value1")]},
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-utf8-query": (
        {"query": [("\u1234", "bar")]},
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    "post-vanilla": ({"method": "POST"}, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "post-x-www-form-urlencoded": (
        {"method": "POST", "content_type": "application/x-www-form-urlencoded", "body": b"Param1=value1"},
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    "post-sts-header-before": (
        {"method": "POST", "token": TOKEN},
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
}


@pytest.mark.parametrize("name", SUITE)
def test_the_requests_of_awss_own_test_suite_have_the_signatures_that_it_gives(name: str) -> None:
    """aws-sig-v4-test-suite, those whose path is not encoded anew and that have no headers but ours."""
    fields, expected = SUITE[name]
    fields = {"method": "GET", "path": "/", **fields}
    headers = sign(
        AwsCredentials(KEY, SECRET, fields.pop("token", None)),
        host="example.amazonaws.com",
        region="us-east-1",
        service="service",
        timestamp="20150830T123600Z",
        **fields,
    )
    assert signature(headers) == expected


def test_keys_are_of_a_day_and_a_region() -> None:
    def signed(day: str, region: str) -> str:
        return signature(
            sign(
                AwsCredentials(KEY, SECRET),
                method="GET",
                host=HOST,
                path="/",
                region=region,
                service="ses",
                timestamp=f"{day}T120000Z",
            )
        )

    days = [datetime(2026, 11, n, tzinfo=UTC).strftime("%Y%m%d") for n in (24, 25)]
    assert len({signed(day, region) for day in days for region in ("ap-south-1", "us-east-1")}) == 4


def test_secrets_are_in_no_repr() -> None:
    shown = repr(AwsCredentials(KEY, SECRET, "session-token"))
    assert KEY in shown
    assert SECRET not in shown
    assert "session-token" not in shown
