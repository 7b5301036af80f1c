from __future__ import annotations

import phonenumbers
import pytest
from email_validator import validate_email
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, NumberParseException, PhoneMetadata, PhoneNumberType

from heliograph.actors.policy import mail
from heliograph.gateway.addresses import address_fault, mailbox_fault, number_fault, sms_fault

CODES = sorted(COUNTRY_CODE_TO_REGION_CODE)
EXAMPLES = sorted(
    {
        phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        for region in phonenumbers.SUPPORTED_REGIONS
        for kind in PhoneNumberType.values()
        if (number := phonenumbers.example_number_for_type(region, kind)) is not None
    }
)


def by_the_library(number: str) -> bool:
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException:
        return False
    written = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return phonenumbers.is_valid_number(parsed) and written == number


def can_only_be_a_landline(number: str) -> bool:
    landline = phonenumbers.number_type(phonenumbers.parse(number)) == PhoneNumberType.FIXED_LINE
    return landline and number[:4] not in ("+916", "+917", "+918", "+919")


def agrees(number: str) -> None:
    assert (number_fault(number) is None) == by_the_library(number)


def test_every_kind_of_number_of_every_country_is_judged_as_the_library_does() -> None:
    assert len(EXAMPLES) > 900
    for number in EXAMPLES:
        agrees(number)


def test_every_kind_of_number_of_every_country_is_taken_for_a_landline_as_the_library_does() -> None:
    landlines = 0
    for number in filter(by_the_library, EXAMPLES):
        is_landline = can_only_be_a_landline(number)
        assert (sms_fault(number) is not None) == is_landline, number
        landlines += is_landline
    assert landlines > 150


@settings(max_examples=2000)
@given(st.sampled_from(EXAMPLES), st.text("0123456789", min_size=4, max_size=4))
def test_neighbours_are_taken_for_landlines_as_the_library_does(number: str, last: str) -> None:
    beside = number[:-4] + last
    if by_the_library(beside):
        assert (sms_fault(beside) is not None) == can_only_be_a_landline(beside)


def test_what_begins_as_indian_mobiles_do_is_none_whatever_the_table_says() -> None:
    number = "+916829228792"
    assert phonenumbers.number_type(phonenumbers.parse(number)) == PhoneNumberType.FIXED_LINE
    assert sms_fault(number) is None


@settings(max_examples=2000)
@given(st.sampled_from(CODES), st.text("0123456789", min_size=3, max_size=13))
def test_any_digits_after_a_calling_code_are_judged_as_the_library_does(code: int, rest: str) -> None:
    number = f"+{code}{rest}"
    if len(number) <= 16:
        agrees(number)


@settings(max_examples=2000)
@given(st.sampled_from(EXAMPLES), st.integers(1, 14), st.sampled_from("0123456789"), st.booleans())
def test_numbers_beside_a_valid_one_are_judged_as_the_library_does(
    number: str, place: int, digit: str, insert: bool
) -> None:
    place = min(place, len(number) - 1)
    beside = number[:place] + digit + number[place + (0 if insert else 1) :]
    if 6 <= len(beside) <= 16 and beside[1] != "0":
        agrees(beside)


@pytest.mark.parametrize("number", ["+27830001000", "+919876540001", "+15005550001", "+14155552671", "+80012345678"])
def test_valid_numbers_are_taken(number: str) -> None:
    assert number_fault(number) is None


@pytest.mark.parametrize(
    "number",
    ["", "+", "27830001000", "+27 83 000 1000", "+0123456789", "+4407911120001", "+15550100001", "+1415555267a",
     "+27830001000\n", "+٢٧٨٣٠٠٠١٠٠٠", "+999123456789", "tel:+27830001000", "+1415555267123456"],
)  # fmt: skip
def test_anything_but_a_valid_number_in_e164_is_refused(number: str) -> None:
    assert number_fault(number) is not None


def test_metadata_patterns_hold_nothing_but_digits_so_that_they_can_be_joined() -> None:
    for region in phonenumbers.SUPPORTED_REGIONS:
        pattern = PhoneMetadata.metadata_for_region(region, None).general_desc.national_number_pattern
        assert "$" not in pattern
        assert "^" not in pattern


def test_what_is_taken_without_looking_up_the_rules_keeps_them() -> None:
    for address in ("a@b.co", "A.b+c_d@x-y.example", "o'brien@example.ie", "{x}|y@sub.shop.in"):
        assert address_fault(address) is None
        assert mail.parse_address(address) == address


ADDRESSES = st.from_regex(r"[A-Za-z0-9._%+'-]{1,20}@([A-Za-z0-9-]{1,12}\.){1,3}[A-Za-z]{2,9}", fullmatch=True)


@settings(max_examples=1000)
@given(ADDRESSES | st.emails())
def test_addresses_are_judged_as_the_library_does(address: str) -> None:
    try:
        mail.parse_address(address)
        validate_email(address, check_deliverability=False, test_environment=True)
        valid = True
    except ValueError:  # EmailNotValidError is one
        valid = False
    assert (address_fault(address) is None) == valid


@pytest.mark.parametrize(
    "address",
    ["a@example.com", "asha@shop.in", "a.b+c@sub.example.org", "accepted@demo.test", "अशोक@उदाहरण.भारत",
     "x@bücher.example", "o'brien@example.ie"],
)  # fmt: skip
def test_addresses_that_mail_could_go_to_are_taken(address: str) -> None:
    assert address_fault(address) is None


@pytest.mark.parametrize(
    "address",
    ["", "a", "a@", "@b.com", "a@localhost", "a@b.local", "a b@c.com", "a@b.com\r\nBcc: x@y.com", "A <a@b.com>",
     "a@b..com", "a@[127.0.0.1]", '"a b"@c.com', "a@-b.com", "a" * 65 + "@b.com", "a@b.com,c@d.com", "a@b.com\x00"],
)  # fmt: skip
def test_anything_else_is_no_address(address: str) -> None:
    assert address_fault(address) is not None


@pytest.mark.parametrize(
    ("mailbox", "fine"),
    [
        ("Shop <hi@shop.in>", True),
        ("hi@shop.in", True),
        ('"Shop, Ltd." <hi@shop.in>', True),
        ("दुकान <hi@shop.in>", True),
        ("Shop\r\nBcc: <hi@shop.in>", False),
        ("Shop <hi@shop.in> <b@c.in>", False),
        ("Shop <hi>", False),
        ("<hi@shop.in", False),
    ],
)
def test_a_mailbox_may_carry_a_name_but_no_line_break(mailbox: str, fine: bool) -> None:
    assert (mailbox_fault(mailbox) is None) == fine
