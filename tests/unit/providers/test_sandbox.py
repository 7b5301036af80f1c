from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock

from heliograph.actors.model.attempt import Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.errors import RightLapsed
from heliograph.actors.model.identity import attempt_id, new_id
from heliograph.actors.model.message import Category, Channel, EmailContent, Message, Priority, SmsContent
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.ports.courier import Reporting
from heliograph.providers.sandbox import NAMES, SandboxCourier

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def settings(channel: Channel = Channel.EMAIL, timeout_s: float = 10.0) -> ProviderSettings:
    return ProviderSettings(
        name="sandbox", kind="sandbox", channel=channel, priority=1, rate=1000, burst=1000, timeout_s=timeout_s
    )


def a_call(to: str, number: int = 1) -> ProviderCall:
    channel = Channel.EMAIL if "@" in to else Channel.SMS
    message = Message(
        id=new_id("msg", NOW),
        tenant="default",
        key_id="key_1",
        live=True,
        channel=channel,
        priority=Priority.NORMAL,
        category=Category.TRANSACTIONAL,
        to=to,
        content=EmailContent(subject="s", text="t") if channel is Channel.EMAIL else SmsContent(text="t"),
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )
    return ProviderCall(message=message, number=number, attempt_id=attempt_id(message.id, number))


def begin() -> None:
    """The right to the call holds."""


EXPECTED = {
    "accepted": Outcome.ACCEPTED,
    "rejected": Outcome.REJECTED,
    "deferred": Outcome.DEFERRED,
    "throttled": Outcome.THROTTLED,
    "misconfigured": Outcome.MISCONFIGURED,
    "unknown": Outcome.UNKNOWN,
    "delivered": Outcome.ACCEPTED,
    "undelivered": Outcome.ACCEPTED,
}


@pytest.mark.parametrize(("wish", "outcome"), EXPECTED.items())
async def test_the_local_part_names_the_outcome(wish: str, outcome: Outcome) -> None:
    [answer] = await SandboxCourier(settings()).send([a_call(f"{wish}@shop.in")], begin)
    assert answer.outcome is outcome


@pytest.mark.parametrize(("digits", "wish"), [item for item in NAMES.items() if item[1] != "slow"])
async def test_the_last_four_digits_name_the_outcome(digits: str, wish: str) -> None:
    [answer] = await SandboxCourier(settings(Channel.SMS)).send([a_call(f"+91987654{digits}")], begin)
    assert answer.outcome is EXPECTED[wish]


async def test_every_other_recipient_is_accepted() -> None:
    courier = SandboxCourier(settings())
    answers = await courier.send([a_call("asha@shop.in"), a_call("+919876543210"), a_call("+919876540009")], begin)
    assert [a.outcome for a in answers] == [Outcome.ACCEPTED] * 3


async def test_answers_keep_the_order_of_a_batch() -> None:
    wishes = list(EXPECTED) * 3
    answers = await SandboxCourier(settings()).send([a_call(f"{w}@shop.in") for w in wishes], begin)
    assert [a.outcome for a in answers] == [EXPECTED[w] for w in wishes]


async def test_throttled_asks_to_wait_a_second() -> None:
    [answer] = await SandboxCourier(settings()).send([a_call("throttled@shop.in")], begin)
    assert answer.retry_after_s == 1.0


async def test_misconfigured_says_nothing_of_the_provider() -> None:
    [wrong, late] = await SandboxCourier(settings()).send(
        [a_call("misconfigured@s.in"), a_call("deferred@s.in")], begin
    )
    assert (wrong.scope, late.scope) == (Scope.MESSAGE, Scope.PROVIDER)


async def test_slow_takes_five_seconds_and_is_accepted(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    [answer] = await SandboxCourier(settings()).send([a_call("+919876540006")], begin)
    assert (answer.outcome, trio.current_time() - started) == (Outcome.ACCEPTED, pytest.approx(5))


async def test_slow_beyond_the_time_out_is_unknown(autojump_clock: MockClock) -> None:
    courier = SandboxCourier(settings(timeout_s=2))
    started = trio.current_time()
    [answer] = await courier.send([a_call("slow@shop.in")], begin)
    assert (answer.outcome, trio.current_time() - started) == (Outcome.UNKNOWN, pytest.approx(2))
    assert courier.longest_call_s == 2


async def test_slow_shares_no_call() -> None:
    courier = SandboxCourier(settings())
    assert courier.batch_key(a_call("slow@shop.in").message) is None
    assert courier.batch_key(a_call("a@shop.in").message) == courier.batch_key(a_call("rejected@shop.in").message)


@pytest.mark.parametrize(
    ("to", "truth"),
    [
        ("unknown@shop.in", Settled.ACCEPTED),
        ("+919876540005", Settled.ACCEPTED),
        ("asha@shop.in", Settled.ACCEPTED),
        ("rejected@shop.in", Settled.REJECTED),
        ("deferred@shop.in", Settled.NOT_SENT),
    ],
)
async def test_asked_afterwards_it_tells_the_truth(to: str, truth: Settled) -> None:
    assert await SandboxCourier(settings()).ask(a_call(to)) is truth


async def test_an_attempt_always_gets_the_same_provider_id() -> None:
    courier, call = SandboxCourier(settings()), a_call("asha@shop.in")
    [first], [second] = await courier.send([call], begin), await courier.send([call], begin)
    assert first.provider_message_id == second.provider_message_id
    assert call.attempt_id in (first.provider_message_id or "")


async def test_a_lapsed_right_comes_through() -> None:
    def lapsed() -> None:
        raise RightLapsed

    with pytest.raises(RightLapsed):
        await SandboxCourier(settings()).send([a_call("asha@shop.in")], lapsed)


async def test_a_message_costs_microseconds() -> None:
    courier, calls = SandboxCourier(settings()), [a_call("asha@shop.in") for _ in range(1000)]
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        await courier.send(calls, begin)
        best = min(best, time.perf_counter() - started)
    assert best / len(calls) < 20e-6


async def test_its_receipts_are_promised_for_a_second_after_acceptance() -> None:
    courier = SandboxCourier(settings())
    assert isinstance(courier, Reporting)
    promised: list[tuple[Receipt, float]] = []
    courier.reports_to(lambda receipts, in_s: promised.extend((receipt, in_s) for receipt in receipts))
    calls = [a_call(f"{name}@shop.in") for name in ("accepted", "delivered", "rejected", "Undelivered", "unknown")]
    await courier.send(calls, begin)
    assert [(r.attempt_id, r.recipient, r.effect, in_s) for r, in_s in promised] == [
        (calls[1].attempt_id, "delivered@shop.in", Effect.DELIVERED, 1.0),
        (calls[3].attempt_id, "Undelivered@shop.in", Effect.UNDELIVERED, 1.0),
    ]


async def test_nothing_is_promised_of_a_call_that_was_not_made() -> None:
    courier = SandboxCourier(settings())
    promised: list[Receipt] = []
    courier.reports_to(lambda receipts, _: promised.extend(receipts))

    def lapsed() -> None:
        raise RightLapsed("the time to send has passed")

    with pytest.raises(RightLapsed):
        await courier.send([a_call("delivered@shop.in")], lapsed)
    assert promised == []
