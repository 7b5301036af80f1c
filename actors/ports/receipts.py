"""How a provider's delivery reports are read. Implemented by `providers/`, one reader a configured provider.

Readers are pure: what must be fetched (a certificate, a subscription to confirm) they name, and their caller fetches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from heliograph.actors.model.receipt import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptCall:
    """One HTTP request of a provider. Header names in lower case; `query` may hold a secret and is never logged."""

    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: datetime
    query: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Genuine:
    """It is from the provider."""


@dataclass(frozen=True, slots=True)
class CertificateNeeded:
    """Ask again with the PEM text at this URL. The URL has been checked: scheme, host, port and path are the
    provider's own; no redirect may be followed."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """401 for what is not from the provider, 400 for what cannot be read. `detail` is for the answer: no secret."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Reports:
    """What a genuine call says. `confirm` is a URL, checked like a certificate's, that must be fetched (GET) to begin
    a subscription. `ignored` counts well-formed events that change nothing. `notices` are short words on the account
    itself ("account_status_change compliance_suspend"), for the log: an operator must know of them."""

    receipts: tuple[Receipt, ...] = ()
    ignored: int = 0
    confirm: str | None = None
    notices: tuple[str, ...] = ()


class ReceiptReader(Protocol):
    def verify(self, call: ReceiptCall, certificates: Mapping[str, str]) -> Genuine | CertificateNeeded | Refused:
        """Whether the call is genuine. `certificates`: PEM text by URL, as fetched so far. Never raises."""

    def read(self, call: ReceiptCall) -> Reports | Refused:
        """What it says; only after `verify` found it genuine. Never raises; one bad event harms no neighbour."""
