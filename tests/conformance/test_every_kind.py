"""What every kind of provider must do, whatever it speaks: over real sockets, counted at the other end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import RightLapsed
from heliograph.actors.model.provider import AnswerRule
from heliograph.providers import build
from tests.conformance.rigs import RIGS, Fault, Rig
from tests.support.builders import a_call


@pytest.fixture(params=sorted(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with RIGS[request.param]() as opened:
        yield opened


class Begun:
    """A right to call, counted; it lapses where told so."""

    def __init__(self, *, lapsed: bool = False) -> None:
        self.times = 0
        self.lapsed = lapsed

    def __call__(self) -> None:
        self.times += 1
        if self.lapsed:
            raise RightLapsed("too late")


async def test_a_message_is_taken_once_under_its_attempt_id(rig: Rig) -> None:
    begun, call = Begun(), a_call(rig.message())
    (answer,) = await rig.courier.send([call], begun)
    assert answer.outcome is Outcome.ACCEPTED
    assert answer.provider_message_id
    assert begun.times == 1
    assert rig.server.taken == {call.message.to: 1}
    assert set(rig.server.attempts) <= {call.attempt_id}


async def test_many_messages_in_a_row_are_all_taken(rig: Rig) -> None:
    for _ in range(20):
        (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
        assert answer.outcome is Outcome.ACCEPTED
    assert rig.server.taken.total() == 20


async def test_calls_at_the_same_time_do_not_mix_their_answers(rig: Rig) -> None:
    answers = {}

    async def one() -> None:
        call = a_call(rig.message())
        (answers[call.attempt_id],) = await rig.courier.send([call], Begun())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)
    assert {answer.outcome for answer in answers.values()} == {Outcome.ACCEPTED}
    assert len({answer.provider_message_id for answer in answers.values()}) == 10
    assert rig.server.taken.total() == 10


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault.UNAVAILABLE, Outcome.DEFERRED),
        (Fault.THROTTLED, Outcome.THROTTLED),
        (Fault.REFUSED, Outcome.REJECTED),
        (Fault.UNAUTHORIZED, Outcome.MISCONFIGURED),
    ],
)
async def test_a_refusal_is_told_apart_and_takes_nothing(rig: Rig, fault: Fault, outcome: Outcome) -> None:
    rig.server.fail(fault)
    (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
    assert answer.outcome is outcome
    assert answer.code
    assert answer.detail
    assert rig.server.taken.total() == 0
    rig.server.heal()
    (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
    assert answer.outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.GARBLED])
async def test_an_answer_that_is_lost_leaves_the_attempt_unknown(rig: Rig, fault: Fault) -> None:
    rig.server.fail(fault, times=1)
    call = a_call(rig.message())
    (answer,) = await rig.courier.send([call], Begun())
    assert answer.outcome is Outcome.UNKNOWN
    assert rig.server.taken == {call.message.to: 1}
    (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
    assert answer.outcome is Outcome.ACCEPTED


async def test_a_server_that_never_answers_leaves_the_attempt_unknown_after_the_timeout(rig: Rig) -> None:
    courier = rig.again(timeout_s=0.3)
    rig.server.fail(Fault.SILENT)
    (answer,) = await courier.send([a_call(rig.message())], Begun())
    assert answer.outcome is Outcome.UNKNOWN
    assert rig.server.taken.total() == 1
    assert courier.longest_call_s >= 0.3


async def test_a_server_that_is_not_there_defers_without_a_beginning(rig: Rig, unused_port: int) -> None:
    where = {"base_url": f"http://127.0.0.1:{unused_port}"} if rig.settings.base_url else {"port": unused_port}
    courier = build(replace(rig.settings, **where))
    begun = Begun()
    (answer,) = await courier.send([a_call(rig.message())], begun)
    await courier.aclose()
    assert answer.outcome is Outcome.DEFERRED
    assert begun.times == 0
    assert str(unused_port) in (answer.detail or "")


async def test_a_lapsed_right_writes_nothing_and_comes_out(rig: Rig) -> None:
    for _ in range(3):
        with pytest.raises(RightLapsed):
            await rig.courier.send([a_call(rig.message())], Begun(lapsed=True))
    assert rig.server.taken.total() == 0
    (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
    assert answer.outcome is Outcome.ACCEPTED
    assert rig.server.taken.total() == 1


async def test_a_cancelled_call_leaves_the_courier_usable(rig: Rig) -> None:
    rig.server.fail(Fault.SILENT)
    with trio.move_on_after(0.2) as scope:
        await rig.courier.send([a_call(rig.message())], Begun())
    assert scope.cancelled_caught
    rig.server.heal()
    (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
    assert answer.outcome is Outcome.ACCEPTED


async def test_the_check_proves_the_credentials_and_sends_nothing(rig: Rig) -> None:
    answer = await rig.courier.check()
    assert answer.outcome is Outcome.ACCEPTED
    assert rig.server.taken.total() == 0


async def test_the_check_tells_wrong_credentials(rig: Rig) -> None:
    rig.server.fail(Fault.UNAUTHORIZED)
    assert (await rig.courier.check()).outcome is Outcome.MISCONFIGURED


async def test_no_credential_is_in_a_repr(rig: Rig) -> None:
    shown = repr(rig.settings) + repr(rig.courier) + repr(vars(rig.courier))
    for name, secret in rig.settings.credentials.items():
        if name not in ("access_key_id", "region", "token_id", "username"):
            assert secret not in shown


@pytest.mark.parametrize("kind", sorted(RIGS))
async def test_a_row_of_the_configuration_goes_before_the_table(kind: str) -> None:
    row = AnswerRule(outcome=Outcome.DEFERRED, text=re.compile("."), retry_after_s=7)
    async with RIGS[kind](answers=(row,)) as rig:
        assert (await rig.courier.send([a_call(rig.message())], Begun()))[0].outcome is Outcome.ACCEPTED
        rig.server.fail(Fault.REFUSED)
        (answer,) = await rig.courier.send([a_call(rig.message())], Begun())
        assert (answer.outcome, answer.retry_after_s) == (Outcome.DEFERRED, 7)
