from __future__ import annotations

from datetime import UTC, datetime

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


def botocores(
    method: str, path: str, query: list[tuple[str, str]], body: bytes, content_type: str | None, token: str | None
) -> str:
    url = f"https://{HOST}{path}" + (f"?{canonical_query(query)}" if query else "")
    headers = {"host": HOST, "x-amz-date": TIMESTAMP}
    if content_type is not None:
        headers["content-type"] = content_type
    if token is not None:
        headers["x-amz-security-token"] = token
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    request.context["timestamp"] = TIMESTAMP
    auth = SigV4Auth(Credentials(KEY, SECRET, token), "ses", "ap-south-1")
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


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


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    segments=st.lists(st.sampled_from(["v2", "a%2Bb%40example.net", "x~y", "a-b_c.d"]), min_size=1, max_size=4),
    query=st.lists(st.tuples(st.text("abcXYZ +/=&%é~", min_size=1, max_size=5), st.text(max_size=8)), max_size=3),
    body=st.binary(max_size=50),
    content_type=st.sampled_from([None, "application/json"]),
    token=st.sampled_from([None, "FwoGZXIvYXdzE"]),
)
def test_it_signs_as_botocore_does(
    method: str,
    segments: list[str],
    query: list[tuple[str, str]],
    body: bytes,
    content_type: str | None,
    token: str | None,
) -> None:
    query = [(name, value.encode("utf-8", "ignore").decode()) for name, value in query]
    path = "/" + "/".join(segments)
    headers = sign(
        AwsCredentials(KEY, SECRET, token),
        method=method,
        host=HOST,
        path=path,
        query=query,
        body=body,
        content_type=content_type,
        region="ap-south-1",
        service="ses",
        timestamp=TIMESTAMP,
    )
    assert signature(headers) == botocores(method, path, query, body, content_type, token)


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
