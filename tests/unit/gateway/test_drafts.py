"""The way around the model, for an SMS that asks for nothing special."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heliograph.gateway.api.drafts import PlainSms
from heliograph.gateway.api.schemas import MOST_TEXT, SmsBody, SmsItem

PLAIN: Final = {"channel": "sms", "to": "+919876540000", "text": "Hello, Asha."}
ODD: Final = st.sampled_from([None, "", " ", "sms", "urgent", "otp", 7, True, 1.5, [], ["a"], {}, "\u2003"])
"""Half a surrogate pair is not among them: the JSON is searched for it before anything is read from it."""
TEXTS: Final = st.text(max_size=20) | st.sampled_from(["x" * MOST_TEXT, "x" * (MOST_TEXT + 1), "\x1f", "\x85 "])
NUMBERS: Final = st.sampled_from(
    ["+919876540000", "+27831231234", "+12025550123", "+442079460000", "+9198", "asha@shop.in"]
)
POSTED: Final = st.fixed_dictionaries(
    {"channel": st.just("sms")},
    optional={
        "to": NUMBERS | st.text("+0123456789", max_size=16) | ODD,
        "text": TEXTS | ODD,
        "priority": st.sampled_from(["urgent", "normal", "bulk", "URGENT", "later"]) | ODD,
        "category": st.sampled_from(["otp", "transactional", "service", "promotional"]) | ODD,
        "tags": st.lists(st.text(max_size=3), max_size=2) | ODD,
        "colour": ODD,
    },
)


@settings(max_examples=1000)
@given(POSTED | st.fixed_dictionaries({"to": NUMBERS, "text": TEXTS}).map(lambda some: PLAIN | some))
@example(PLAIN)
def test_what_goes_around_the_model_is_what_the_model_would_read(posted: dict[str, Any]) -> None:
    plain = PlainSms.of(posted)
    if plain is None:
        return
    for model in (SmsBody, SmsItem):
        read = model.model_validate(posted)
        assert {name: getattr(read, name) or None for name in PlainSms._fields} == {
            name: value or None for name, value in plain._asdict().items()
        }


@given(POSTED)
def test_what_goes_through_the_model_is_odd_or_asks_for_more(posted: dict[str, Any]) -> None:
    if PlainSms.of(posted) is not None:
        return
    try:
        SmsBody.model_validate(posted)
    except ValidationError:
        return
    assert posted.keys() - {"channel", "to", "text", "priority", "category"}
