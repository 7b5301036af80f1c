"""AWS Signature Version 4 for services other than S3. Pure: the time comes in as text.

Written after "Create a signed AWS API request" of the AWS documentation; a test compares it with botocore.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNRESERVED: Final = "-._~"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """`session_token` belongs to temporary credentials, and is signed with the rest."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def sign(
    credentials: AwsCredentials,
    *,
    method: str,
    host: str,
    path: str,
    query: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    content_type: str | None = None,
    region: str,
    service: str,
    timestamp: str,
) -> list[tuple[str, str]]:
    """The headers to send with the request, beside `host`, which is signed and must be sent as it is given here.

    `timestamp` is `YYYYMMDDTHHMMSSZ`, within five minutes of the provider's clock. `path` is as sent (encoded once):
    it is normalised and encoded once more here, as every service but S3 wants it. `query` is not encoded yet.
    """
    headers = {"host": host, "x-amz-date": timestamp}
    if content_type is not None:
        headers["content-type"] = content_type
    if credentials.session_token is not None:
        headers["x-amz-security-token"] = credentials.session_token
    names = sorted(headers)
    signed = ";".join(names)
    canonical = "\n".join(
        (
            method,
            quote(_normal(path), safe="/" + _UNRESERVED),
            canonical_query(query),
            *(f"{name}:{headers[name].strip()}" for name in names),
            "",
            signed,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{timestamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join((ALGORITHM, timestamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = _signing_key(credentials.secret_access_key, timestamp[:8], region, service)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{credentials.access_key_id}/{scope}"
    authorization = f"{ALGORITHM} Credential={credential}, SignedHeaders={signed}, Signature={signature}"
    return [*((name, headers[name]) for name in names if name != "host"), ("authorization", authorization)]


def canonical_query(query: Sequence[tuple[str, str]]) -> str:
    """Sorted, RFC 3986 encoded; also the form to send.

    >>> canonical_query([("b", "x y"), ("a", "1+1"), ("empty", "")])
    'a=1%2B1&b=x%20y&empty='
    """
    pairs = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _normal(path: str) -> str:
    """Without `//`, `.` and `..`, and at least `/`."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """Good for a day and a region."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
