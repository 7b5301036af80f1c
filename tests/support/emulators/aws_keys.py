"""Who gives AWS keys to programs where they run: an instance's metadata service (IMDSv2), a container's agent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from tests.support.emulators.server import Api, Request, Response

TOKEN: Final = "AQAEAIMDStoken=="
AGENT_TOKEN: Final = "Bearer-of-the-agent"
Issue = Callable[[], dict[str, Any]]


def issued(key: str, secret: str, token: str, until_s: float) -> dict[str, Any]:
    until = datetime.fromtimestamp(until_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": until}


class Keyed(Api):
    """`issue` makes the keys of each answer."""

    def __init__(self, issue: Issue) -> None:
        super().__init__()
        self.issue = issue

    def refuse(self, request: Request) -> Response:
        return Response(404)

    def unauthorized(self) -> Response:
        return Response(401)


class Instance(Keyed):
    """`role` '' is an instance without one."""

    role = "mail-sender"

    def handle(self, request: Request) -> Response:
        if "x-forwarded-for" in request.headers:
            return Response(403)
        if request.method == "PUT":
            ttl = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            good = request.path == "/latest/api/token" and ttl.isdecimal() and 1 <= int(ttl) <= 21600
            return Response(200, TOKEN.encode()) if good else Response(400)
        if request.headers.get("x-aws-ec2-metadata-token") != TOKEN:
            return Response(401)
        roles = "/latest/meta-data/iam/security-credentials/"
        asked = request.path.removeprefix(roles)
        if self.role and not asked:
            return Response(200, self.role.encode())
        if self.role and asked == self.role:
            return Response.of(200, {"Code": "Success", "Type": "AWS-HMAC", **self.issue()})
        return Response(404, b"<html>Not Found</html>")


class Agent(Keyed):
    """`token` None asks for none."""

    token: str | None = None

    def handle(self, request: Request) -> Response:
        if request.method != "GET" or request.target != "/v2/credentials?id=7f0c":
            return Response.of(404, {"code": "NoIdInRequest"})
        if request.headers.get("authorization") != self.token:
            return Response.of(403, {"code": "AccessDenied"})
        return Response.of(200, {"RoleArn": "arn:aws:iam::123456789012:role/mail-sender", **self.issue()})
