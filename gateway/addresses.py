"""Whom a message may go to: numbers by the metadata of phonenumbers, addresses by email-validator, at hot-path cost.

Both have a quick way that only ever says yes, and the library itself for everything else: what the quick way takes, the
library takes too (tests draw both), and every refusal is the library's own. Nothing here asks the DNS.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, NumberParseException, PhoneMetadata

# ---------------------------------------------------------------------------------------------------- numbers

_E164: Final = re.compile(r"\+[1-9][0-9]{4,14}")


def number_fault(number: str) -> str | None:
    """None for a valid number in E.164 with `+`, nothing else in it; otherwise what is wrong."""
    if not _E164.fullmatch(number):
        return "is not a phone number in E.164: a plus sign, the country's code and the number, digits only"
    if _region(number) is not None:
        return None
    return _slow_fault(number)


def country_of(number: str) -> str | None:
    """The country of a valid number (ISO 3166); None for numbers of no country, and for others."""
    quick = _region(number)
    if quick is not None:
        return quick
    try:
        region = phonenumbers.region_code_for_number(phonenumbers.parse(number))
    except NumberParseException:
        return None
    return None if region == "001" else region


def _slow_fault(number: str) -> str | None:
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException:
        return "is not a phone number of any country"
    if not phonenumbers.is_valid_number(parsed):
        return "is not a valid phone number of its country"
    written = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return None if written == number else f"is not E.164 as written; it would be {written}"


@dataclass(frozen=True, slots=True)
class _Plan:
    """One calling code. `prefix` is what a dialler at home would put first: the library may strip it, so such numbers
    are left to it. `regions` are asked in order, as the library does: the first that answers True or False decides."""

    prefix: re.Pattern[str] | None
    regions: tuple[tuple[str, Callable[[str], bool | None]], ...]


def _region(number: str) -> str | None:
    """The region whose plan surely holds this number; None where that is not sure."""
    for digits in (3, 2, 4):  # index just after a code of two, one or three digits
        code = number[1:digits]
        if code in _CODES:
            plan = _plan(code)
            national = number[digits:]
            if plan.prefix is not None and plan.prefix.match(national):
                return None
            for region, decides in plan.regions:
                answer = decides(national)
                if answer is not None:
                    return region if answer else None
            return None
    return None


_CODES: Final = frozenset(str(code) for code, regions in COUNTRY_CODE_TO_REGION_CODE.items() if "001" not in regions)
"""Calling codes are prefix-free, so the order in which lengths are tried does not matter."""


@cache
def _plan(code: str) -> _Plan:
    names = COUNTRY_CODE_TO_REGION_CODE[int(code)]
    main = PhoneMetadata.metadata_for_region(names[0], None)
    prefix = main.national_prefix_for_parsing
    regions = tuple((name, _decider(PhoneMetadata.metadata_for_region(name, None), len(names) == 1)) for name in names)
    return _Plan(re.compile(prefix) if prefix else None, regions)


def _decider(region: PhoneMetadata, alone: bool) -> Callable[[str], bool | None]:
    valid = re.compile(_valid_pattern(region)).fullmatch
    if alone:
        return lambda national: valid(national) is not None
    if region.leading_digits is not None:
        leads = re.compile(region.leading_digits).match
        return lambda national: (valid(national) is not None) if leads(national) else None
    return lambda national: True if valid(national) else None


def _valid_pattern(region: PhoneMetadata) -> str:
    """One pattern for: the general description, and that of any type of number."""
    kinds = (
        region.mobile, region.fixed_line, region.toll_free, region.voip, region.personal_number, region.pager,
        region.uan, region.voicemail, region.shared_cost, region.premium_rate,
    )  # fmt: skip
    described = [_described(kind) for kind in kinds if kind is not None and kind.national_number_pattern]
    return f"(?={_described(region.general_desc)}$)(?:{'|'.join(described)})"


def _described(kind: phonenumbers.PhoneNumberDesc) -> str:
    lengths = "|".join(f"[0-9]{{{length}}}" for length in kind.possible_length if length > 0)
    return f"(?=(?:{lengths})$)(?:{kind.national_number_pattern})" if lengths else f"(?:{kind.national_number_pattern})"


# -------------------------------------------------------------------------------------------------- addresses

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?!-)){0,61}(?<!-)\."
_PLAIN: Final = re.compile(
    rf"(?=.{{1,254}}$)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL})+"
    r"(?!(?i:arpa|invalid|local|localhost|onion)$)[A-Za-z]{2,63}"
)
_NAMED: Final = re.compile(r"\s*(?P<name>[^<>]*?)\s*<(?P<address>[^<>\s]+)>\s*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
LONGEST_NAME: Final = 256


def address_fault(address: str) -> str | None:
    """None for an address that mail could be sent to (`a@b.example`, no name beside it); else what is wrong."""
    if _PLAIN.fullmatch(address):
        return None
    # The library is lenient here; SMTP (RFC 5321, 4.5.3.1) is not.
    if len(address.partition("@")[0].encode("utf-8", "replace")) > 64:
        return "is not an email address: the part before the @-sign is longer than 64 octets"
    try:
        # The test environment only adds `.test`, so that people can try things out.
        validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        return f"is not an email address: {error}"
    return None


def mailbox_fault(mailbox: str) -> str | None:
    """The same for `a@b.example` or `Name <a@b.example>`."""
    if "<" not in mailbox:
        return address_fault(mailbox)
    match = _NAMED.fullmatch(mailbox)
    if match is None:
        return "is not an email address: write a@b.example or Name <a@b.example>"
    if len(match["name"]) > LONGEST_NAME or _CONTROL.search(match["name"]):
        return f"has a name of more than {LONGEST_NAME} characters, or with a line break or control character in it"
    return address_fault(match["address"])
