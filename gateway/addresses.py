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
from email_validator import validate_email
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, NumberParseException, PhoneMetadata, PhoneNumberType

from heliograph.actors.policy import mail

# ---------------------------------------------------------------------------------------------------- numbers

_AS_INDIAN_MOBILES: Final = re.compile(r"\+91[6-9]")
_E164: Final = re.compile(r"\+[1-9][0-9]{4,14}")


def number_fault(number: str) -> str | None:
    """None for a valid number in E.164 with `+`, nothing else in it; otherwise what is wrong."""
    if not _E164.fullmatch(number):
        return "is not a phone number in E.164: a plus sign, the country's code and the number, digits only"
    return _slow_fault(number) if _place_of(number) is None else None


def sms_fault(number: str) -> str | None:
    """The same for a number that an SMS is to go to: one that can only be a landline is refused. Where a country's
    numbers do not tell (as in North America) they pass, and so do toll-free ones: some of them take SMS.

    In India so does whatever begins as mobiles do: their series grow into the area codes faster than any table of them.
    """
    if _E164.fullmatch(number) and (place := _place_of(number)) is not None:
        region, national = place
        if region.is_mobile(national):
            return None
    elif (fault := number_fault(number)) is not None:
        return fault
    if _AS_INDIAN_MOBILES.match(number):
        return None
    if phonenumbers.number_type(phonenumbers.parse(number)) == PhoneNumberType.FIXED_LINE:
        return "is a landline's number, and an SMS goes to a mobile phone"
    return None


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
class _Region:
    """`decides` answers None where the number may be another region's of the same calling code."""

    decides: Callable[[str], bool | None]
    is_mobile: Callable[[str], re.Match[str] | None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """One calling code. `prefix` is what a dialler at home would put first: the library may strip it, so such numbers
    are left to it. `regions` are asked in order, as the library does: the first that answers True or False decides."""

    prefix: re.Pattern[str] | None
    regions: tuple[_Region, ...]


def _place_of(number: str) -> tuple[_Region, str] | None:
    """The region that a valid number is surely of, and what stands after the calling code."""
    for digits in (3, 2, 4):  # index just after a code of two, one or three digits
        code = number[1:digits]
        if code in _CODES:
            plan = _plan(code)
            national = number[digits:]
            if plan.prefix is not None and plan.prefix.match(national):
                return None
            for region in plan.regions:
                answer = region.decides(national)
                if answer is not None:
                    return (region, national) if answer else None
            return None
    return None


_CODES: Final = frozenset(str(code) for code, regions in COUNTRY_CODE_TO_REGION_CODE.items() if "001" not in regions)
"""Calling codes are prefix-free, so the order in which lengths are tried does not matter."""


@cache
def _plan(code: str) -> _Plan:
    names = COUNTRY_CODE_TO_REGION_CODE[int(code)]
    metadata = [found for name in names if (found := PhoneMetadata.metadata_for_region(name, None)) is not None]
    prefix = metadata[0].national_prefix_for_parsing
    regions = tuple(_Region(_decider(each, alone=len(metadata) == 1), _mobile(each)) for each in metadata)
    return _Plan(re.compile(prefix) if prefix else None, regions)


def _decider(region: PhoneMetadata, *, alone: bool) -> Callable[[str], bool | None]:
    valid = re.compile(_valid_pattern(region)).fullmatch
    if alone:
        return lambda national: valid(national) is not None
    if region.leading_digits is not None:
        leads = re.compile(region.leading_digits).match
        return lambda national: (valid(national) is not None) if leads(national) else None
    return lambda national: True if valid(national) else None


def _mobile(region: PhoneMetadata) -> Callable[[str], re.Match[str] | None]:
    kind = region.mobile
    pattern = _described(kind) if kind is not None and kind.national_number_pattern else "(?!)"
    return re.compile(pattern).fullmatch


def _valid_pattern(region: PhoneMetadata) -> str:
    """One pattern for: the general description, and that of any type of number."""
    kinds = (
        region.mobile, region.fixed_line, region.toll_free, region.voip, region.personal_number, region.pager,
        region.uan, region.voicemail, region.shared_cost, region.premium_rate,
    )  # fmt: skip
    described = [_described(kind) for kind in kinds if kind is not None and kind.national_number_pattern]
    general = f"(?={_described(region.general_desc)}$)" if region.general_desc is not None else ""
    return f"{general}(?:{'|'.join(described)})"


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


def address_fault(address: str) -> str | None:
    """None for an address that mail could be sent to (`a@b.example`, no name beside it); else what is wrong."""
    if _PLAIN.fullmatch(address):
        return None
    try:
        mail.parse_address(address)
        # The test environment only adds `.test`, so that people can try things out.
        validate_email(address, check_deliverability=False, test_environment=True)
    except ValueError as error:  # EmailNotValidError is one
        return f"is not an email address: {error}"
    return None


def mailbox_fault(mailbox: str) -> str | None:
    """The same for `a@b.example` or `Name <a@b.example>`."""
    if _PLAIN.fullmatch(mailbox):
        return None
    try:
        parsed = mail.parse_mailbox(mailbox)
    except ValueError as error:
        return f"is not an email address: {error}"
    return address_fault(parsed.address)
