"""What an email may say about itself: the rules for header lines, display names and addresses.

A line break that gets into a header is a second header, chosen by whoever typed it; one that gets into an SMTP
command is a second command. So nothing here is stripped or repaired: a fault is named, the gateway answers 422 with
it, and whoever builds mails asks again before writing a line.

Each `…_fault` function answers None where all is well, else the fault in words for the one who sent it; `parse_…`
raises ValueError with such words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import idna

MAX_ADDRESS: Final = 254  # octets of a whole address (RFC 5321, 4.5.3.1.3, less the angle brackets)
MAX_LOCAL: Final = 64
MAX_NAME: Final = 256
MAX_LINE: Final = 998  # octets of a line without its CRLF (RFC 5322, 2.1.1)

RESERVED: Final = frozenset(
    {"from", "to", "cc", "bcc", "subject", "date", "message-id", "mime-version", "received", "return-path"}
    | {"dkim-signature", "sender", "reply-to"}
)
"""Written by us, by fields of their own, or by the servers on the way; so is every `Content-…`."""

PIECES: Final = re.compile(r"[ \t]*[^ \t]+")
_NAME: Final = re.compile(r"[!-9;-~]{1,76}")
_BROKEN: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSENDABLE: Final = re.compile("[\x00\ud800-\udfff]")
# Mail libraries decode `=?charset?q?…?=` wherever it stands, and what comes out may hold a line break (CPython before
# 3.11.10 writes it out as one). Text is given as it shall read, so nobody needs the form.
_ENCODED_WORD: Final = re.compile(r"=\?.*\?=", re.DOTALL)
_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a0-\U0010ffff-]+")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_DISPLAYED: Final = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]*)>")
_CONTENT_TYPE: Final = re.compile(r"(?P<main>[a-z0-9!#$&^_.+-]{1,127})/[a-z0-9!#$&^_.+-]{1,127}", re.IGNORECASE)
_CONTENT_ID: Final = re.compile(r"[!-;=?-Z^-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """`address` has its domain in ASCII (A-labels); `name` is '' where none was given."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def text_fault(text: str) -> str | None:
    """For what becomes one line of a header: a subject, a display name, a file name."""
    if (broken := _BROKEN.search(text)) is not None:
        return f"must not contain the control character U+{ord(broken[0]):04X}"
    if _ENCODED_WORD.search(text):
        return "must be plain text: an encoded word (=?…?=) is not taken"
    return None


def body_fault(text: str) -> str | None:
    """For a mail's text or HTML, which may have any line break."""
    if (broken := _UNSENDABLE.search(text)) is not None:
        return f"must not contain U+{ord(broken[0]):04X}"
    return None


def header_fault(name: str, value: str) -> str | None:
    """For one of a message's own `headers`."""
    if not _NAME.fullmatch(name) or _ENCODED_WORD.search(name):
        return "the name must be 1 to 76 printable ASCII characters without blank and colon"
    lowered = name.lower()
    if lowered in RESERVED or lowered.startswith("content-"):
        return f"{name} cannot be set here"
    if (fault := text_fault(value)) is not None:
        return f"the value {fault}"
    longest = longest_piece(value)
    if longest + len(name) + 2 > MAX_LINE:
        return f"the value cannot be broken into lines of {MAX_LINE} bytes: {longest} stand in one piece"
    return None


def longest_piece(value: str) -> int:
    """Bytes of the longest part of a line that folding cannot break: a run of blanks and what follows it."""
    return max((len(piece.encode()) for piece in PIECES.findall(value)), default=0)


def content_type_fault(content_type: str) -> str | None:
    """For an attachment's `type/subtype`, without parameters."""
    match = _CONTENT_TYPE.fullmatch(content_type)
    if match is None:
        return "must be type/subtype, such as application/pdf, without parameters"
    if match["main"].lower() in {"multipart", "message"}:
        return "must be a single part's type; application/octet-stream carries anything"
    return None


def content_id_fault(content_id: str) -> str | None:
    """For an inline image's id, as HTML refers to it by `cid:`; without angle brackets."""
    if not _CONTENT_ID.fullmatch(content_id) or _ENCODED_WORD.search(content_id):
        return "must be 1 to 200 printable ASCII characters without blanks and brackets"
    return None


def parse_address(address: str) -> str:
    """A bare address as it goes into a command: the domain in A-labels. Quoted local parts and address literals are
    not taken; letters outside ASCII are.

    >>> parse_address("asha@bücher.example")
    'asha@xn--bcher-kva.example'
    """
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        raise ValueError("must be an address such as name@example.com")
    if not all(_ATOM.fullmatch(atom) for atom in local.split(".")) or text_fault(local) is not None:
        raise ValueError("the part before the @ has a character or a dot where none may be")
    if len(local.encode()) > MAX_LOCAL:
        raise ValueError(f"the part before the @ is longer than {MAX_LOCAL} bytes")
    whole = f"{local}@{_ascii_domain(domain)}"
    if len(whole.encode()) > MAX_ADDRESS:
        raise ValueError(f"is longer than {MAX_ADDRESS} bytes")
    return whole


def parse_mailbox(text: str) -> Mailbox:
    """`a@b`, `Name <a@b>` or `"Name" <a@b>`: an address that may carry a name."""
    match = _DISPLAYED.fullmatch(text.strip(" "))
    if match is None:
        return Mailbox("", parse_address(text.strip(" ")))
    name = match["name"].strip(" ")
    if len(name) >= 2 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    name = re.sub(r"[ \t]+", " ", name).strip(" ")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name is longer than {MAX_NAME} characters")
    if (fault := text_fault(name)) is not None:
        raise ValueError(f"the name {fault}")
    return Mailbox(name, parse_address(match["address"]))


def _ascii_domain(domain: str) -> str:
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode()
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError("the part after the @ is no domain name") from error
    if len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise ValueError("the part after the @ is no domain name")
    return domain
