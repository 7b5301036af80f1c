"""Whose name requests are signed in: keys from the configuration, or those that AWS gives to where we run.

A container's agent is named by the environment (ECS, EKS Pod Identity, Greengrass); else the machine's own metadata
service is asked, by version 2 (IMDSv2) alone. Both give keys that end after some hours; they are fetched again long
before, and the old ones are used as long as they last. Source: AWS SDKs reference, container and IMDS credential
providers; the names of the environment's variables are theirs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

import structlog
import trio

from heliograph.actors.model.errors import HeliographError
from heliograph.providers.http import parse, table
from heliograph.providers.lines import LineTransport
from heliograph.providers.signing import AwsCredentials
from heliograph.providers.wire import Base, WireFailure, WireRequest

log = structlog.get_logger()

CONTAINER: Final = "http://169.254.170.2"
CONTAINER_HOSTS: Final = frozenset({"localhost", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
"""Who may be asked in the clear, beside loopback addresses: nobody else is to hear the agent's token."""
INSTANCE: Final = "http://169.254.169.254"
INSTANCE_ROLE: Final = "/latest/meta-data/iam/security-credentials/"
INSTANCE_TOKEN: Final = "/latest/api/token"  # noqa: S105 - a path
FETCH_S: Final = 5.0
LINE_S: Final = 2.0
EARLY_S: Final = 15 * 60.0
LAST_S: Final = 10.0
"""Keys with less time left than that are not used: the call would be late."""
REST_S: Final = 5.0
"""How long nobody is asked again after a failure."""
LEAST_S: Final = 60.0
"""The same after a success, even where what came is soon over."""

_VISIBLE: Final = re.compile(r"[!-~]{1,8192}")


class Unavailable(HeliographError):
    """No keys can be had now. The text says why, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Keys until a time of the wall clock (Unix seconds)."""

    credentials: AwsCredentials
    until_s: float


class Source(Protocol):
    async def fetch(self) -> Lease:
        """Raises Unavailable."""


class Keys(Protocol):
    async def get(self) -> AwsCredentials:
        """What to sign with now. Raises Unavailable."""

    def refused(self, credentials: AwsCredentials) -> bool:
        """The provider does not know them. True where others can be asked for."""


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """From the configuration, temporary ones (with a session token) too: nobody can renew those but the operator."""

    credentials: AwsCredentials

    async def get(self) -> AwsCredentials:
        return self.credentials

    def refused(self, credentials: AwsCredentials) -> bool:  # noqa: ARG002 - there are no others
        return False


class RenewedKeys:
    """Keys of a source, kept while they last. One task fetches; the others go on with what is there, or wait for it."""

    def __init__(self, source: Source, now_s: Callable[[], float]) -> None:
        self._source = source
        self._now_s = now_s
        self._lock = trio.Lock()
        self._lease: Lease | None = None
        self._why = ""
        self._again_s = 0.0

    async def get(self) -> AwsCredentials:
        if self._settled() or (self._usable() is not None and self._lock.locked()):
            return self._known()
        async with self._lock:
            if not self._settled():
                await self._renew()
        return self._known()

    def refused(self, credentials: AwsCredentials) -> bool:
        if self._lease is not None and self._lease.credentials == credentials:
            self._lease, self._again_s = None, 0.0
        return True

    def _settled(self) -> bool:
        """Nothing is to be fetched now."""
        return self._now_s() < self._again_s and (self._usable() is not None or bool(self._why))

    def _usable(self) -> AwsCredentials | None:
        lease = self._lease
        return lease.credentials if lease is not None and self._now_s() < lease.until_s - LAST_S else None

    def _known(self) -> AwsCredentials:
        credentials = self._usable()
        if credentials is None:
            raise Unavailable(self._why or "those that came are over already: is this machine's clock right?")
        return credentials

    async def _renew(self) -> None:
        try:
            with trio.fail_after(FETCH_S):
                lease = await self._source.fetch()
        except (Unavailable, trio.TooSlowError) as error:
            self._why = str(error) or f"no answer within {FETCH_S:g} s"
            self._again_s = self._now_s() + REST_S
            log.warning("credentials.not_renewed", kind="ses", why=self._why)
            return
        now_s = self._now_s()
        self._lease, self._why = lease, ""
        left_s = lease.until_s - now_s
        self._again_s = now_s + (max(left_s - EARLY_S, LEAST_S) if left_s > LEAST_S else REST_S)


# --------------------------------------------------------------------------------------------------- sources


def surroundings(environment: Mapping[str, str]) -> Source:
    """Who gives keys to where we run. What is wrong with the environment is told by `fetch`."""
    relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if relative:
        return ContainerSource(CONTAINER + relative if relative.startswith("/") else "", environment)
    if full := environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return ContainerSource(full, environment)
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return Nowhere()
    return InstanceSource(environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or INSTANCE)


class Nowhere:
    async def fetch(self) -> Lease:
        raise Unavailable("none are configured, no container gives any, and AWS_EC2_METADATA_DISABLED is true")


@dataclass(frozen=True, slots=True)
class ContainerSource:
    url: str
    environment: Mapping[str, str]

    async def fetch(self) -> Lease:
        base, target = _container(self.url)
        transport = LineTransport(base, timeout_s=LINE_S)
        try:
            token = await self._token()
            headers = (("authorization", token),) if token else ()
            request = WireRequest(method="GET", target=target, headers=(*headers, ("accept", "application/json")))
            return _lease(await _asked(transport, request, "the container's agent"), "the container's agent")
        finally:
            await transport.aclose()

    async def _token(self) -> str | None:
        """The file is read each time, since the agent writes it anew."""
        file = self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        if not file:
            token = self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        else:
            try:
                token = (await trio.Path(file).read_text()).strip()
            except (OSError, ValueError):
                raise Unavailable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE cannot be read") from None
        if token and not _VISIBLE.fullmatch(token):
            raise Unavailable("the container's authorization token is no header's value")
        return token


@dataclass(frozen=True, slots=True)
class InstanceSource:
    url: str

    async def fetch(self) -> Lease:
        who = "the instance's metadata service"
        try:
            base = Base.parse(self.url)
        except ValueError as error:
            raise Unavailable(f"AWS_EC2_METADATA_SERVICE_ENDPOINT {error}") from None
        transport = LineTransport(base, timeout_s=LINE_S)
        try:
            ttl = (("x-aws-ec2-metadata-token-ttl-seconds", "21600"),)
            token = _visible(await _asked(transport, _ask(base, INSTANCE_TOKEN, ttl, method="PUT"), who), who)
            shown = (("x-aws-ec2-metadata-token", token),)
            role = _visible(await _asked(transport, _ask(base, INSTANCE_ROLE, shown), who), who)
            return _lease(await _asked(transport, _ask(base, INSTANCE_ROLE + quote(role, safe=""), shown), who), who)
        finally:
            await transport.aclose()


def _ask(base: Base, path: str, headers: tuple[tuple[str, str], ...], method: str = "GET") -> WireRequest:
    return WireRequest(method=method, target=base.prefix + path, headers=headers)


async def _asked(transport: LineTransport, request: WireRequest, who: str) -> bytes:
    answer = await transport.exchange(request, _freely)
    if isinstance(answer, WireFailure):
        raise Unavailable(f"none are configured, and {who} cannot be asked: {answer.detail}")
    if answer.status != 200 or not answer.whole:
        raise Unavailable(f"{who} answers {answer.status}: has it a role that may be used?")
    return answer.body


def _freely() -> None:
    """Nothing is sent by it: no right is needed."""


def _container(url: str) -> tuple[Base, str]:
    """Where to ask. Unavailable where it is nobody who may be asked."""
    try:
        parts = urlsplit(url)
        base = Base.parse(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        raise Unavailable("AWS_CONTAINER_CREDENTIALS_… is no URL that could be asked") from None
    if not base.secure and base.host not in CONTAINER_HOSTS and not _is_loopback(base.host):
        raise Unavailable("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or a host that AWS names for it")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise Unavailable("AWS_CONTAINER_CREDENTIALS_… is no URL that could be asked")
    return base, target


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _visible(body: bytes, who: str) -> str:
    """The first line: of several roles, the first one."""
    text = body.decode("latin-1").strip().partition("\n")[0].strip()
    if not _VISIBLE.fullmatch(text):
        raise Unavailable(f"{who} answers in words that are not documented")
    return text


def _lease(body: bytes, who: str) -> Lease:
    said = table(parse(body))
    if said.get("Code", "Success") != "Success":
        raise Unavailable(f"{who} has no keys for its role: look at the role and who may assume it")
    key, secret, token = (said.get(name) for name in ("AccessKeyId", "SecretAccessKey", "Token"))
    match key, secret, token:
        case (str(), str(), str()) if all(_VISIBLE.fullmatch(each) for each in (key, secret, token)):
            return Lease(AwsCredentials(key, secret, token), _until_s(said.get("Expiration"), who))
    raise Unavailable(f"{who} answers in words that are not documented")


def _until_s(text: object, who: str) -> float:
    try:
        until = datetime.fromisoformat(str(text))
    except ValueError:
        raise Unavailable(f"{who} does not say how long its keys last") from None
    if until.tzinfo is None:
        raise Unavailable(f"{who} does not say how long its keys last")
    return until.timestamp()
