"""When two spellings are one recipient, for suppressions.

Numbers are E.164, so they are equal or not. Of an address the domain is compared in A-labels, and all of it without
regard to the case of ASCII letters: a server may tell `Asha@` from `asha@`, but none is known that does.
"""

from __future__ import annotations

from dataclasses import dataclass

import idna

from heliograph.actors.model.message import Channel
from heliograph.actors.policy import mail


@dataclass(frozen=True, slots=True)
class Recipient:
    """`shown` is how an entry is written. `folded` is what a message's recipient is compared with, and where the
    domain is an internationalised one, `spelled` too, for those that wrote it in its own letters."""

    shown: str
    folded: str
    spelled: str | None = None

    @property
    def spellings(self) -> tuple[str, ...]:
        return (self.folded,) if self.spelled is None else (self.folded, self.spelled)


def fold(text: str) -> str:
    """As `lower` of the ledger's SQL does it: ASCII letters only.

    >>> fold("Asha@BÜCHER.example")
    'asha@bÜcher.example'
    """
    return text.lower() if text.isascii() else text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "replace")


def recipient_of(channel: Channel, text: str) -> Recipient:
    """Total: what is no address of ours (a provider may name any) is compared as it stands.

    >>> recipient_of(Channel.EMAIL, "Asha@Bücher.example")
    Recipient(shown='Asha@xn--bcher-kva.example', folded='asha@xn--bcher-kva.example', spelled='asha@bücher.example')
    """
    plain = text.strip()
    if channel is Channel.SMS:
        return Recipient(plain, plain)
    try:
        local, _, domain = mail.parse_address(plain).rpartition("@")
    except ValueError:
        return Recipient(plain, fold(plain))
    domain = domain.lower()
    return Recipient(f"{local}@{domain}", f"{fold(local)}@{domain}", _spelled(fold(local), domain))


def spellings_of(to: str) -> set[str]:
    """What the recipient that somebody looks for, of either channel, may be folded as."""
    return {fold(to.strip()), recipient_of(Channel.EMAIL, to).folded}


def _spelled(local: str, domain: str) -> str | None:
    if "xn--" not in domain:
        return None
    try:
        return f"{local}@{idna.decode(domain)}"
    except (idna.IDNAError, UnicodeError):
        return None
