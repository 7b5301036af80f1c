"""One HTTP call: written, answered or lost. The couriers' only I/O.

What a lost call means depends on how much of it was written, and the right to a call ends with its first byte
(`Begin`). So a transport opens the line first, then asks for the right, then writes. Two stand behind `Transport`: our
own (`lines.py`), and one over httpx (`pooled.py`); `transports.py` takes the one that is configured.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from importlib.metadata import version
from typing import Final, Protocol
from urllib.parse import urlsplit

import certifi

from heliograph.actors.ports.courier import Begin

MIB: Final = 1024 * 1024
USER_AGENT: Final = f"heliograph/{version('heliograph')}"
IDLE_S: Final = 30.0
"""Servers close quiet connections after 5 s to some minutes, and say so in `Keep-Alive` or by closing; both are seen
before the next call. The bound keeps us from firewalls that forget connections without a word."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where a provider is: `https://host:8443/prefix`, taken apart. `authority` is what `Host` says."""

    secure: bool
    host: str
    port: int
    authority: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Base:
        """ValueError where it is no URL that a call could go to."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with https:// or http:// and a host")
        if parts.query or parts.fragment or parts.username is not None or not url.isascii() or not url.isprintable():
            raise ValueError("must be scheme, host, port and path only, in ASCII")
        secure = parts.scheme == "https"
        usual = 443 if secure else 80
        port = parts.port or usual
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = host if port == usual else f"{host}:{port}"
        return cls(secure, parts.hostname, port, authority, parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """`target` is path and query as sent, with the base's prefix; the transport adds `host` and the body's length.
    Headers and body hold secrets: not in the repr."""

    method: str
    target: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAnswer:
    """`headers` have lower-case names, the last of equal names. `whole` is False where the body broke off, took too
    long or grew over the limit. `at_s` is the wall clock (Unix) when it came."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    whole: bool = True
    at_s: float = 0.0


class Loss(Enum):
    """How a call can end without an answer."""

    NOT_SENT = auto()  # not a byte of the body was written: the provider cannot have acted
    UNTRUSTED = auto()  # nothing was written, since the certificate does not verify
    UNREADY = auto()  # nothing was written, since we have no credentials to call with
    UNANSWERED = auto()  # written, maybe in part: nobody knows


@dataclass(frozen=True, slots=True)
class WireFailure:
    """`detail` says what happened to the line; it holds nothing of the request."""

    loss: Loss
    code: str
    detail: str


class Transport(Protocol):
    async def exchange(self, request: WireRequest, begin: Begin) -> WireAnswer | WireFailure:
        """One call, within the transport's time-out, connecting included.

        `begin` is called in the slice of the first byte. When it raises, nothing is written, the connection stays
        good and the error comes out. It is called again in one case: a kept-alive connection took no byte of
        the request, and the call goes to another one. After cancellation nothing is known of the call.
        """

    async def aclose(self) -> None: ...


class Lost(Exception):
    """The line broke, or what came back is no HTTP."""

    def __init__(self, code: str, detail: str, loss: Loss = Loss.NOT_SENT) -> None:
        super().__init__(detail)
        self.failure = WireFailure(loss, code, detail)


def broken_off() -> Lost:
    return Lost("disconnected", "the connection broke before the answer was complete")


def too_late(timeout_s: float) -> WireFailure:
    return WireFailure(Loss.NOT_SENT, "timeout", f"no answer within {timeout_s:g} s")


def unreachable(base: Base, error: OSError) -> Lost:
    return Lost("unreachable", f"no connection to {base.authority}: {_why(error)}")


def _why(error: OSError) -> str:
    """The system's own words. Where several addresses were tried, those of the first."""
    tried = error.__cause__
    if isinstance(tried, BaseExceptionGroup) and isinstance(tried.exceptions[0], OSError):
        return _why(tried.exceptions[0])
    if isinstance(tried, OSError):
        return _why(tried)
    return error.strerror or "failed"


def tls_fault(base: Base, error: BaseException) -> Lost:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"the certificate of {base.authority} does not verify: {cause.verify_message}"
            return Lost("certificate", text, Loss.UNTRUSTED)
        cause = cause.__cause__ or cause.__context__
    return Lost("tls", f"no TLS with {base.authority}")


def unanswered(failure: WireFailure, *, written: bool) -> WireFailure:
    """The failure by how much was written: more than a head, and nobody knows what became of it."""
    if written and failure.loss is Loss.NOT_SENT:
        return WireFailure(Loss.UNANSWERED, failure.code, failure.detail)
    return failure


def trusted() -> ssl.SSLContext:
    """The machine's own certificate authorities (or SSL_CERT_FILE), and those of certifi where it has none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
