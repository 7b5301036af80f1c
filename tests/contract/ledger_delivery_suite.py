"""What every ledger must do with messages on their way: intake, claims, outcomes, late truth, waiting, reading."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.errors import Conflict, NotFound
from heliograph.actors.model.message import (
    LANES,
    Category,
    Channel,
    EmailContent,
    Lane,
    Move,
    Priority,
    Reason,
    SmsContent,
    State,
    WaitingFor,
)
from heliograph.actors.policy.allowance import Exceeded, KeyLimits, Limit
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    ClaimRequest,
    IdempotencyRecord,
    MessageFilter,
    Mismatch,
    Park,
    Replay,
)
from tests.contract.ledger_world import (
    ACCEPTED,
    AGAIN,
    DAY_S,
    DEAD,
    DEFERRED,
    HOLD_S,
    ME,
    OTHER,
    REJECTED,
    SENT,
    UNKNOWN,
    LedgerWorld,
)

SMS_NORMAL: Final = Lane(Channel.SMS, Priority.NORMAL)
ROUGHLY_S: Final = 5.0
"""A real ledger's time passes by itself."""


def record(key: str = "order-1", fingerprint: bytes = b"f" * 32, **fields: object) -> IdempotencyRecord:
    known: dict[str, object] = {"key_id": "key_1", "route": "POST /v1/messages", "status": 202, "body": b'{"id": 1}'}
    return IdempotencyRecord(key=key, fingerprint=fingerprint, **known | fields)  # type: ignore[arg-type]


class IntakeSuite:
    async def test_an_accepted_message_is_found_as_it_was_posted(self, world: LedgerWorld) -> None:
        content = EmailContent(
            subject="Ваш заказ", html="<p>नमस्ते 👋</p>", cc=("b@shop.in",), headers=(("X-Order", "7"),)
        )
        message = world.message(
            "asha@shop.in",
            content=content,
            priority=Priority.URGENT,
            tags=("otp", "in"),
            metadata={"order": {"id": 7, "lines": [1, None, "é"]}},
            providers=("ses", "gmail"),
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        await world.accept(message)
        view = await world.get(message)
        assert view.message.content == content
        assert replace(view.message, created_at=message.created_at, expires_at=message.expires_at) == message
        assert (view.standing.state, view.standing.attempts, view.attempts, view.archived) == (
            State.QUEUED, 0, (), False,
        )  # fmt: skip

    async def test_a_request_is_stored_whole_with_each_message_where_it_is_born(self, world: LedgerWorld) -> None:
        a, c = world.message(), world.message()
        b = world.message(send_at=world.now() + timedelta(seconds=600))
        acceptance = Acceptance(messages=(a, b, c), states=(State.QUEUED, State.SCHEDULED, State.SUPPRESSED))
        assert await world.ledger.intake.accept([acceptance], supervisor=ME) == [Accepted()]
        assert [await world.state(m) for m in (a, b, c)] == [State.QUEUED, State.SCHEDULED, State.SUPPRESSED]
        loaded = {x.tracked.message.id: x for x in await world.ledger.delivery.load([a.id, b.id, c.id])}
        assert set(loaded) == {a.id, b.id}
        assert loaded[a.id].due_in_s <= 0
        assert loaded[b.id].due_in_s == pytest.approx(600, abs=ROUGHLY_S)

    async def test_nothing_is_stored_where_one_of_a_group_cannot_be(self, world: LedgerWorld) -> None:
        good, bad = world.message(), world.message()
        with pytest.raises(Exception):  # noqa: B017  # whatever the store says: a message cannot be born sending
            await world.ledger.intake.accept(
                [
                    Acceptance(messages=(good,), states=(State.QUEUED,)),
                    Acceptance(messages=(bad,), states=(State.SENDING,)),
                ],
                supervisor=ME,
            )
        for message in (good, bad):
            with pytest.raises(NotFound):
                await world.get(message)

    async def test_a_repeat_of_the_same_commit_stores_nothing_twice(self, world: LedgerWorld) -> None:
        message = world.message()
        await world.accept(message)
        await world.accept(message)
        assert (await world.ledger.stats.census()).accepted[Channel.SMS] == 1
        assert await world.ledger.stats.drift() == 0

    async def test_a_group_that_had_landed_in_part_is_completed(self, world: LedgerWorld) -> None:
        there, new, keyed = world.message(), world.message(), world.message()
        await world.accept(there)
        group = [
            Acceptance(messages=(there,), states=(State.QUEUED,)),
            Acceptance(messages=(new,), states=(State.QUEUED,)),
            Acceptance(messages=(keyed,), states=(State.QUEUED,), idempotency=(record(),)),
        ]
        assert await world.ledger.intake.accept(group, supervisor=ME) == [Accepted()] * 3
        assert [await world.state(m) for m in (there, new, keyed)] == [State.QUEUED] * 3
        assert (await world.ledger.stats.census()).accepted[Channel.SMS] == 3
        assert await world.ledger.stats.drift() == 0

    async def test_messages_of_one_group_keep_what_is_their_own(self, world: LedgerWorld) -> None:
        content = SmsContent(
            text="x", sender_id="SHOP", dlt_template_id="1", dlt_entity_id="2", dlt_variables=("a", "é")
        )
        own: dict[str, Any] = {
            "tenant": "shop", "key_id": "key_2", "live": False, "priority": Priority.BULK, "category": Category.OTP,
            "expires_at": world.now() + timedelta(days=3), "content": content, "parts": None, "tags": ("a",),
            "metadata": {"n": 1}, "providers": ("p1",), "webhook_url": "https://shop.example/hook",
        }  # fmt: skip
        usual, odd = world.message(), world.message(**own)
        email = world.message("asha@shop.in", send_at=world.now() + timedelta(hours=1))
        await world.accept(usual, odd, email)
        await world.accept(odd_first := world.message(**own), usual_second := world.message())
        for message in (usual, odd, email, odd_first, usual_second):
            found = (await world.get(message)).message
            assert found.expires_at - found.created_at == message.expires_at - message.created_at
            moments = {"created_at": found.created_at, "expires_at": found.expires_at, "send_at": found.send_at}
            assert found == replace(message, **moments)

    async def test_a_repeat_under_an_idempotency_key_is_answered_as_the_first_was(self, world: LedgerWorld) -> None:
        first, second = world.message(), world.message()
        accept = world.ledger.intake.accept
        one = Acceptance(messages=(first,), states=(State.QUEUED,), idempotency=(record(body=b'{"n": 1}'),))
        two = Acceptance(messages=(second,), states=(State.QUEUED,), idempotency=(record(body=b'{"n": 2}'),))
        assert await accept([one], supervisor=ME) == [Accepted()]
        assert await accept([two], supervisor=ME) == [Replay(status=202, body=b'{"n": 1}')]
        with pytest.raises(NotFound):
            await world.get(second)

    async def test_the_same_key_with_another_body_stores_nothing(self, world: LedgerWorld) -> None:
        accept = world.ledger.intake.accept
        one = Acceptance(messages=(world.message(),), states=(State.QUEUED,), idempotency=(record(),))
        other = world.message()
        two = Acceptance(messages=(other,), states=(State.QUEUED,), idempotency=(record(fingerprint=b"g" * 32),))
        await accept([one], supervisor=ME)
        assert await accept([two], supervisor=ME) == [Mismatch()]
        with pytest.raises(NotFound):
            await world.get(other)

    async def test_one_group_may_bring_the_same_key_twice(self, world: LedgerWorld) -> None:
        a, b, c, d = (world.message() for _ in range(4))
        states = (State.QUEUED,)
        answers = await world.ledger.intake.accept(
            [
                Acceptance(messages=(a,), states=states, idempotency=(record(),)),
                Acceptance(messages=(b,), states=states, idempotency=(record(),)),
                Acceptance(messages=(c,), states=states, idempotency=(record(fingerprint=b"g" * 32),)),
                Acceptance(messages=(d,), states=states),
            ],
            supervisor=ME,
        )
        assert answers == [Accepted(), Replay(status=202, body=b'{"id": 1}'), Mismatch(), Accepted()]
        assert (await world.ledger.stats.census()).accepted[Channel.SMS] == 2

    async def test_a_key_is_known_by_api_key_and_route(self, world: LedgerWorld) -> None:
        accept = world.ledger.intake.accept
        for known in (record(), record(key_id="key_2"), record(route="POST /v1/messages/batch"), record(key="o-2")):
            acceptance = Acceptance(messages=(world.message(),), states=(State.QUEUED,), idempotency=(known,))
            assert await accept([acceptance], supervisor=ME) == [Accepted()]

    async def test_a_key_is_forgotten_after_a_day(self, world: LedgerWorld) -> None:
        accept = world.ledger.intake.accept
        await accept([Acceptance(messages=(), states=(), idempotency=(record(),))], supervisor=ME)
        await world.advance(DAY_S + 60)
        again = Acceptance(messages=(), states=(), idempotency=(record(fingerprint=b"g" * 32, body=b"{}"),))
        assert await accept([again], supervisor=ME) == [Accepted()]
        assert await accept([again], supervisor=ME) == [Replay(status=202, body=b"{}")]

    async def test_a_key_can_be_recalled_without_storing_anything(self, world: LedgerWorld) -> None:
        recall = world.ledger.intake.recall
        name = ("key_1", "POST /v1/messages", "order-1")
        assert await recall(*name, b"f" * 32) is None
        acceptance = Acceptance(messages=(world.message(),), states=(State.QUEUED,), idempotency=(record(),))
        await world.ledger.intake.accept([acceptance], supervisor=ME)
        assert await recall(*name, b"f" * 32) == Replay(status=202, body=b'{"id": 1}')
        assert await recall(*name, b"g" * 32) == Mismatch()
        await world.advance(DAY_S + 60)
        assert await recall(*name, b"g" * 32) is None


class ClaimSuite:
    async def test_what_a_key_may_send_is_counted_with_what_is_stored(self, world: LedgerWorld) -> None:
        limits = KeyLimits("key_1", None, 3)

        def request(n: int, key: str = "") -> Acceptance:
            records = (IdempotencyRecord(key_id="key_1", route="r", key=key, fingerprint=b"", status=202, body=b"1"),)
            messages = tuple(world.message() for _ in range(n))
            states = (State.QUEUED,) * n
            return Acceptance(messages=messages, states=states, idempotency=records if key else (), limits=limits)

        group = [request(2, "a"), request(2, "b"), request(2, "a"), request(1), request(1)]
        first, beyond, again, fits, last = await world.ledger.intake.accept(group, supervisor=ME)
        assert (first, fits) == (Accepted(), Accepted())
        assert again == Replay(status=202, body=b"1")
        assert isinstance(beyond, Exceeded)
        assert isinstance(last, Exceeded)
        assert (beyond.spent, last.spent, beyond.limit) == (False, True, Limit.DAILY)
        assert await world.ledger.intake.recall("key_1", "r", "b", b"") is None
        assert (await world.ledger.stats.census()).accepted[Channel.SMS] == 3
        other = replace(request(3), limits=KeyLimits("key_2", 1, None))
        assert await world.ledger.intake.accept([other], supervisor=ME) == [Accepted()]
        [refused] = await world.ledger.intake.accept([replace(other, messages=request(3).messages)], supervisor=ME)
        assert isinstance(refused, Exceeded)
        assert (refused.limit, refused.spent) == (Limit.RATE, True)
        assert 0 < refused.retry_after_s <= 3

    async def test_load_leaves_out_what_does_not_wait(self, world: LedgerWorld) -> None:
        waits, claimed, sent = await world.queued(), await world.queued(), await world.sent()
        await world.claim(claimed)
        loaded = await world.ledger.delivery.load([waits.id, claimed.id, sent.id, "msg_unknown", waits.id])
        assert [x.tracked.message.id for x in loaded] == [waits.id]
        assert loaded[0].tracked.standing.state is State.QUEUED
        assert loaded[0].expires_in_s == pytest.approx(DAY_S, abs=ROUGHLY_S)

    async def test_a_claim_is_won_once(self, world: LedgerWorld) -> None:
        message = await world.queued()
        won = await world.try_claim(message.id, message.id)
        assert [(c.message_id, c.number) for c in won] == [(message.id, 1)]
        assert await world.try_claim(message.id, supervisor=OTHER) == []

    async def test_an_open_claim_reads_as_sending_with_an_open_attempt(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message, "p7")
        view = await world.get(message)
        assert (view.standing.state, view.standing.provider) == (State.SENDING, "p7")
        [attempt] = view.attempts
        assert (attempt.number, attempt.provider, attempt.outcome, attempt.finished_at) == (1, "p7", None, None)
        assert attempt.started_at == claimed.started_at

    async def test_what_is_not_due_is_not_won(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.park(Park(message.id, 60, WaitingFor.BREAKER, "p1"))
        assert await world.try_claim(message.id) == []
        await world.advance(61)
        assert len(await world.try_claim(message.id)) == 1

    async def test_what_is_expired_is_not_won(self, world: LedgerWorld) -> None:
        message = await world.queued(expires_at=world.now() + timedelta(seconds=30))
        await world.advance(31)
        assert await world.try_claim(message.id) == []

    async def test_what_is_at_rest_or_unknown_is_not_won(self, world: LedgerWorld) -> None:
        sent, failed = await world.sent(), await world.failed()
        assert await world.try_claim(sent.id, failed.id, "msg_unknown") == []

    async def test_a_scheduled_message_is_won_once_it_is_due(self, world: LedgerWorld) -> None:
        message = await world.scheduled(60)
        assert await world.try_claim(message.id) == []
        await world.advance(61)
        claimed = await world.claim(message)
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT

    async def test_release_gives_the_message_back_and_counts_nothing(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.ledger.delivery.release([(message.id, claimed.number)], supervisor=ME)
        view = await world.get(message)
        assert (view.standing.state, view.standing.attempts, view.attempts) == (State.QUEUED, 0, ())
        assert (await world.claim(message, supervisor=OTHER)).number == 1

    async def test_release_leaves_alone_what_is_not_its_own(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.claim(message)
        release = world.ledger.delivery.release
        await release([(message.id, 1)], supervisor=OTHER)
        await release([(message.id, 2), ("msg_unknown", 1)], supervisor=ME)
        assert await world.state(message) is State.SENDING

    async def test_release_may_be_repeated_after_another_claim(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.claim(message)
        await world.ledger.delivery.release([(message.id, 1)], supervisor=ME)
        await world.claim(message, supervisor=OTHER)
        await world.ledger.delivery.release([(message.id, 1)], supervisor=ME)
        assert await world.state(message) is State.SENDING

    async def test_overdue_are_the_claims_past_their_hold_oldest_first(self, world: LedgerWorld) -> None:
        first, second, third = await world.queued(), await world.queued(), await world.queued()
        await world.claim(first, "p1")
        await world.advance(2)
        await world.claim(second, "p2", supervisor=OTHER)
        assert await world.ledger.delivery.overdue(10) == []
        await world.advance(HOLD_S - 1)
        await world.claim(third)
        [one] = await world.ledger.delivery.overdue(10)
        assert (one.tracked.message.id, one.number, one.provider, one.supervisor) == (first.id, 1, "p1", ME)
        await world.advance(2)
        assert [o.tracked.message.id for o in await world.ledger.delivery.overdue(10)] == [first.id, second.id]
        assert [o.tracked.message.id for o in await world.ledger.delivery.overdue(1)] == [first.id]
        coming = await world.ledger.delivery.overdue(10, within_s=HOLD_S)
        assert [o.tracked.message.id for o in coming] == [first.id, second.id, third.id]
        assert [o.due_in_s <= 0 for o in coming] == [True, True, False]
        assert coming[2].due_in_s == pytest.approx(HOLD_S - 2, abs=0.5)
        assert await world.state(first) is State.SENDING


class FinishSuite:
    async def test_accepted_is_sent_and_logged(self, world: LedgerWorld) -> None:
        message = await world.queued()
        finished = await world.finish(await world.claim(message), ACCEPTED, SENT)
        assert (finished.state, finished.applied, finished.due_in_s) == (State.SENT, True, None)
        view = await world.get(message)
        assert (view.standing.state, view.standing.provider, view.standing.attempts) == (State.SENT, "p1", 1)
        [attempt] = view.attempts
        assert (attempt.outcome, attempt.provider_message_id) == (Outcome.ACCEPTED, "pm_1")
        assert attempt.finished_at is not None

    async def test_a_retry_waits_with_its_counters(self, world: LedgerWorld) -> None:
        message = await world.queued()
        move = Move(
            state=State.QUEUED, due_in_s=60, waiting_for=WaitingFor.BACKOFF, waiting_provider="p2", counted=1,
            unknowns=2, throttled=3, reclaims=4, passes=5, tried=("p1", "p2"), unsettled=1, unsettled_provider="p1",
        )  # fmt: skip
        finished = await world.finish(await world.claim(message), DEFERRED, move)
        assert (finished.state, finished.applied) == (State.QUEUED, True)
        assert finished.due_in_s == pytest.approx(60, abs=ROUGHLY_S)
        [loaded] = await world.ledger.delivery.load([message.id])
        s = loaded.tracked.standing
        assert loaded.due_in_s == pytest.approx(60, abs=ROUGHLY_S)
        assert (s.state, s.attempts, s.waiting_for, s.waiting_provider) == (State.QUEUED, 1, WaitingFor.BACKOFF, "p2")
        assert (s.counted, s.unknowns, s.throttled, s.reclaims, s.passes) == (1, 2, 3, 4, 5)
        assert (s.tried, s.unsettled, s.unsettled_provider) == (("p1", "p2"), 1, "p1")
        await world.advance(61)
        assert (await world.claim(message)).number == 2

    async def test_a_failure_files_a_dead_letter(self, world: LedgerWorld) -> None:
        message = await world.failed(tags=("a", "b"), tenant="shop")
        view = await world.get(message)
        assert (view.standing.state, view.standing.reason) == (State.FAILED, Reason.REJECTED)
        assert view.attempts[0].detail == REJECTED.detail
        letter = await world.ledger.dead_letters.get(message.id, tenant="shop")
        assert (letter.state, letter.reason, letter.cause) == (DeadLetterState.OPEN, Reason.REJECTED, "No such user")
        assert (letter.code, letter.provider, letter.channel, letter.to) == (
            "550 5.1.1", "p1", Channel.SMS, message.to,
        )  # fmt: skip
        assert (letter.tags, letter.attempts, letter.redrives, letter.tenant) == (("a", "b"), 1, 0, "shop")
        assert letter.next_auto_retry_at is None

    async def test_a_message_may_expire_with_its_attempt(self, world: LedgerWorld) -> None:
        message = await world.queued()
        move = Move(state=State.EXPIRED, counted=1, reason=Reason.EXPIRED, cause="expired")
        assert (await world.finish(await world.claim(message), DEFERRED, move)).state is State.EXPIRED
        assert (await world.ledger.dead_letters.get(message.id, tenant=None)).reason is Reason.EXPIRED

    async def test_attempts_keep_their_order_and_numbers(self, world: LedgerWorld) -> None:
        message = await world.queued()
        for provider in ("p1", "p2", "p3"):
            await world.finish(await world.claim(message, provider), DEFERRED, AGAIN, provider=provider)
        attempts = (await world.get(message)).attempts
        assert [(a.number, a.provider) for a in attempts] == [(1, "p1"), (2, "p2"), (3, "p3")]

    async def test_many_end_in_one_commit(self, world: LedgerWorld) -> None:
        messages = [await world.queued() for _ in range(3)]
        claims = await world.try_claim(*(m.id for m in messages))
        assert [c.message_id for c in claims] == [m.id for m in messages]
        answers = [(ACCEPTED, SENT), (REJECTED, DEAD), (DEFERRED, AGAIN)]
        for claimed, (answer, move) in zip(claims, answers, strict=True):
            await world.finish(claimed, answer, move)
        assert [await world.state(m) for m in messages] == [State.SENT, State.FAILED, State.QUEUED]

    async def test_an_acceptance_is_logged_word_for_word(self, world: LedgerWorld) -> None:
        messages = [await world.queued() for _ in range(4)]
        texts = ['say "two"', "C:\\new\\", "{a,b},NULL", "", "NULL", None, "é ☎\n'x'"]
        for message, at in zip(messages, (0, 2, 4, 5), strict=True):
            code, detail = texts[at : at + 2] if at < 5 else (None, texts[6])
            said = replace(ACCEPTED, code=code, detail=detail, provider_message_id=texts[at])
            finished = await world.finish(await world.claim(message), said, SENT)
            assert finished.applied
            [attempt] = (await world.get(message)).attempts
            assert (attempt.code, attempt.detail, attempt.provider_message_id) == (code, detail, texts[at])

    async def test_a_repeat_of_a_finish_changes_nothing(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.finish(claimed, DEFERRED, AGAIN)
        before = await world.get(message)
        finished = await world.finish(claimed, DEFERRED, AGAIN)
        assert (finished.state, finished.applied) == (State.QUEUED, False)
        assert await world.get(message) == before

    async def test_a_repeat_of_an_unknown_outcome_settles_nothing(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.finish(claimed, UNKNOWN, AGAIN)
        await world.finish(claimed, UNKNOWN, AGAIN)
        assert (await world.get(message)).attempts[0].settled is None

    async def test_an_earlier_attempt_that_was_asked_about_sends_the_message_without_a_call(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        claimed = await world.claim(message)
        finished = await world.finish(claimed, None, SENT, settles=(1, Settled.ACCEPTED))
        assert (finished.state, finished.applied) == (State.SENT, True)
        view = await world.get(message)
        [attempt] = view.attempts
        assert (attempt.outcome, attempt.settled) == (Outcome.UNKNOWN, Settled.ACCEPTED)
        assert attempt.settled_at is not None
        assert view.standing.attempts == 1

    async def test_what_was_learnt_on_the_way_is_kept_with_the_new_attempt(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        await world.finish(await world.claim(message), ACCEPTED, SENT, settles=(1, Settled.NOT_SENT))
        first, second = (await world.get(message)).attempts
        assert (first.outcome, first.settled) == (Outcome.UNKNOWN, Settled.NOT_SENT)
        assert (second.outcome, second.settled) == (Outcome.ACCEPTED, None)

    async def test_an_outcome_that_is_known_is_never_settled(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), DEFERRED, AGAIN)
        await world.finish(await world.claim(message), DEFERRED, AGAIN, settles=(1, Settled.ACCEPTED))
        view = await world.get(message)
        assert (view.attempts[0].settled, view.standing.state) == (None, State.QUEUED)

    async def test_the_reaper_does_nothing_before_the_hold_is_over(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        finished = await world.finish(claimed, UNKNOWN, AGAIN, supervisor=OTHER, overdue_only=True)
        assert finished.applied is False
        assert await world.state(message) is State.SENDING

    async def test_the_reaper_closes_an_overdue_attempt_as_unknown(self, world: LedgerWorld) -> None:
        message = await world.queued()
        finished = await world.reclaim(await world.claim(message))
        assert (finished.state, finished.applied) == (State.QUEUED, True)
        [attempt] = (await world.get(message)).attempts
        assert attempt.outcome is Outcome.UNKNOWN
        assert await world.ledger.delivery.overdue(10) == []

    async def test_the_reaper_says_nothing_of_what_its_owner_ended(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.finish(claimed, DEFERRED, AGAIN)
        finished = await world.reclaim(claimed)
        assert finished.applied is False
        [attempt] = (await world.get(message)).attempts
        assert (attempt.outcome, attempt.settled) == (Outcome.DEFERRED, None)

    async def test_only_the_owner_ends_a_claim_that_is_not_overdue(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        assert (await world.finish(claimed, REJECTED, DEAD, supervisor=OTHER)).applied is False
        assert await world.state(message) is State.SENDING


class LateTruthSuite:
    """The reaper closed an attempt as unknown, and then its owner's answer comes after all."""

    async def test_an_acceptance_sends_a_message_that_waits(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.reclaim(claimed)
        finished = await world.finish(claimed, ACCEPTED, SENT)
        assert (finished.state, finished.applied) == (State.SENT, False)
        view = await world.get(message)
        assert (view.standing.state, view.standing.provider, view.standing.reason) == (State.SENT, "p1", None)
        [attempt] = view.attempts
        assert (attempt.outcome, attempt.settled) == (Outcome.UNKNOWN, Settled.ACCEPTED)
        assert await world.try_claim(message.id) == []

    async def test_an_acceptance_sends_a_message_that_had_failed_and_settles_its_dead_letter(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.reclaim(claimed, replace(DEAD, reason=Reason.POISON, auto_retry_in_s=60))
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT
        assert (await world.get(message)).standing.reason is None
        letter = await world.ledger.dead_letters.get(message.id, tenant=None)
        assert letter.state is DeadLetterState.SETTLED
        await world.advance(61)
        assert await world.ledger.dead_letters.auto_retry(limit=9, supervisor=ME, expires_after_s=DAY_S) == []

    async def test_an_acceptance_told_twice_is_one(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.reclaim(claimed)
        await world.finish(claimed, ACCEPTED, SENT)
        before = await world.get(message)
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT
        assert await world.get(message) == before
        assert (await world.ledger.stats.census()).entered[Channel.SMS, State.SENT] == 1

    async def test_other_answers_are_noted_and_move_nothing(self, world: LedgerWorld) -> None:
        for answer, move, settled in (
            (REJECTED, DEAD, Settled.REJECTED),
            (DEFERRED, AGAIN, Settled.NOT_SENT),
            (UNKNOWN, AGAIN, None),
        ):
            message = await world.queued()
            claimed = await world.claim(message)
            await world.reclaim(claimed)
            finished = await world.finish(claimed, answer, move)
            assert (finished.state, finished.applied) == (State.QUEUED, False)
            [attempt] = (await world.get(message)).attempts
            assert (attempt.outcome, attempt.settled) == (Outcome.UNKNOWN, settled)

    async def test_a_cancelled_message_stays_cancelled(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.reclaim(claimed)
        await world.ledger.messages.cancel(message.id, tenant=None, supervisor=ME)
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.CANCELLED
        assert (await world.get(message)).attempts[0].settled is Settled.ACCEPTED

    @pytest.mark.parametrize(
        ("answer", "move"), [(DEFERRED, AGAIN), (REJECTED, DEAD), (UNKNOWN, AGAIN)], ids=["retry", "failure", "unknown"]
    )
    async def test_a_newer_attempt_that_ends_badly_leaves_the_message_sent(
        self, world: LedgerWorld, answer: object, move: Move
    ) -> None:
        message = await world.queued()
        old = await world.claim(message, "p1")
        await world.reclaim(old)
        new = await world.claim(message, "p2", OTHER)
        assert (await world.finish(old, ACCEPTED, SENT)).state is not State.SENT
        assert await world.state(message) is State.SENDING
        finished = await world.finish(new, answer, move, provider="p2", supervisor=OTHER)  # type: ignore[arg-type]
        assert (finished.state, finished.applied, finished.due_in_s) == (State.SENT, True, None)
        view = await world.get(message)
        assert view.standing.state is State.SENT
        assert [a.settled for a in view.attempts] == [Settled.ACCEPTED, None]
        with pytest.raises(NotFound):
            await world.ledger.dead_letters.get(message.id, tenant=None)

    async def test_a_newer_claim_that_is_released_leaves_the_message_sent(self, world: LedgerWorld) -> None:
        message = await world.queued()
        old = await world.claim(message, "p1")
        await world.reclaim(old)
        new = await world.claim(message, "p2", OTHER)
        await world.finish(old, ACCEPTED, SENT)
        await world.ledger.delivery.release([(message.id, new.number)], supervisor=OTHER)
        assert await world.state(message) is State.SENT
        assert await world.ledger.delivery.load([message.id]) == []

    async def test_a_newer_claim_whose_owner_dies_leaves_the_message_sent(self, world: LedgerWorld) -> None:
        message = await world.queued()
        old = await world.claim(message)
        await world.reclaim(old)
        new = await world.claim(message)
        await world.finish(old, ACCEPTED, SENT)
        assert (await world.reclaim(new)).state is State.SENT

    async def test_a_newer_attempt_that_is_accepted_too_is_sent_and_both_are_in_the_log(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        old = await world.claim(message, "p1")
        await world.reclaim(old)
        new = await world.claim(message, "p2")
        await world.finish(old, ACCEPTED, SENT)
        assert (await world.finish(new, ACCEPTED, SENT, provider="p2")).state is State.SENT
        view = await world.get(message)
        assert view.standing.provider == "p2"
        assert [(a.outcome, a.settled) for a in view.attempts] == [
            (Outcome.UNKNOWN, Settled.ACCEPTED),
            (Outcome.ACCEPTED, None),
        ]

    async def test_what_was_learnt_by_asking_counts_although_the_claim_was_lost(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        asking = await world.claim(message)
        await world.reclaim(asking)
        finished = await world.finish(asking, None, SENT, settles=(1, Settled.ACCEPTED))
        assert (finished.state, finished.applied) == (State.SENT, False)
        assert (await world.get(message)).attempts[0].settled is Settled.ACCEPTED

    async def test_a_redriven_message_is_sent_by_the_late_truth_of_its_earlier_life(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.reclaim(claimed, replace(DEAD, auto_retry_in_s=0.0))
        await world.ledger.dead_letters.auto_retry(limit=9, supervisor=ME, expires_after_s=DAY_S)
        assert await world.state(message) is State.QUEUED
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT


class WaitingSuite:
    async def test_expire_ends_what_waits_past_its_time_with_a_dead_letter(self, world: LedgerWorld) -> None:
        soon = world.now() + timedelta(seconds=30)
        late, held, lasting = (
            await world.queued(expires_at=soon),
            await world.queued(expires_at=soon),
            await world.queued(),
        )
        scheduled = await world.scheduled(7200, expires_at=soon)
        claimed = await world.claim(held)
        assert await world.ledger.delivery.expire(100) == []
        await world.advance(31)
        expired = {t.message.id: t.standing.state for t in await world.ledger.delivery.expire(100)}
        assert expired == {late.id: State.EXPIRED, scheduled.id: State.EXPIRED}
        states = [await world.state(m) for m in (late, held, lasting, scheduled)]
        assert states == [State.EXPIRED, State.SENDING, State.QUEUED, State.EXPIRED]
        letter = await world.ledger.dead_letters.get(late.id, tenant=None)
        assert (letter.state, letter.reason) == (DeadLetterState.OPEN, Reason.EXPIRED)
        assert (await world.get(late)).standing.reason is Reason.EXPIRED
        await world.finish(claimed, DEFERRED, AGAIN)
        assert [t.message.id for t in await world.ledger.delivery.expire(100)] == [held.id]

    async def test_expire_takes_no_more_than_it_was_asked_for(self, world: LedgerWorld) -> None:
        for _ in range(3):
            await world.queued(expires_at=world.now() + timedelta(seconds=30))
        await world.advance(31)
        assert [len(await world.ledger.delivery.expire(2)) for _ in range(3)] == [2, 1, 0]

    async def test_wake_queues_what_is_due_and_nothing_else(self, world: LedgerWorld) -> None:
        early, late = await world.scheduled(60), await world.scheduled(7200)
        sent = await world.sent()
        await world.advance(61)
        await world.ledger.delivery.wake([early.id, late.id, sent.id, "msg_unknown"])
        assert [await world.state(m) for m in (early, late, sent)] == [State.QUEUED, State.SCHEDULED, State.SENT]
        assert (await world.get(early)).standing.waiting_for is None

    async def test_a_scheduled_message_says_what_it_waits_for(self, world: LedgerWorld) -> None:
        message = await world.scheduled(60)
        assert (await world.get(message)).standing.waiting_for is WaitingFor.SEND_AT

    async def test_park_puts_off_and_keeps_the_counters(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), DEFERRED, AGAIN)
        await world.park(Park(message.id, 60, WaitingFor.PAUSED, "p2"))
        [loaded] = await world.ledger.delivery.load([message.id])
        s = loaded.tracked.standing
        assert loaded.due_in_s == pytest.approx(60, abs=ROUGHLY_S)
        assert (s.waiting_for, s.waiting_provider, s.counted, s.tried) == (WaitingFor.PAUSED, "p2", 1, ("p1",))

    async def test_park_leaves_alone_what_is_claimed_or_at_rest(self, world: LedgerWorld) -> None:
        claimed, sent = await world.queued(), await world.sent()
        await world.claim(claimed)
        before = [await world.get(m) for m in (claimed, sent)]
        for message in (claimed, sent):
            await world.park(Park(message.id, 60, WaitingFor.PAUSED, None))
        assert [await world.get(m) for m in (claimed, sent)] == before

    async def test_give_up_fails_what_waits_without_an_attempt(self, world: LedgerWorld) -> None:
        message, claimed, sent = await world.queued(), await world.queued(), await world.sent()
        await world.claim(claimed)
        ids = [message.id, claimed.id, sent.id, "msg_unknown"]
        await world.ledger.delivery.give_up(ids, reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=60)
        assert [await world.state(m) for m in (message, claimed, sent)] == [State.FAILED, State.SENDING, State.SENT]
        view = await world.get(message)
        assert (view.standing.reason, view.standing.attempts, view.attempts) == (Reason.NO_ROUTE, 0, ())
        letter = await world.ledger.dead_letters.get(message.id, tenant=None)
        assert (letter.reason, letter.cause, letter.attempts) == (Reason.NO_ROUTE, "no route", 0)
        assert letter.next_auto_retry_at is not None

    async def test_waiting_pages_through_a_lane_by_due_time(self, world: LedgerWorld) -> None:
        messages = [await world.queued() for _ in range(7)]
        for n, message in enumerate(messages):
            await world.park(Park(message.id, 1000 - 100 * n, WaitingFor.BACKOFF, None))
        now = await world.queued()
        await world.queued("asha@shop.in")
        await world.queued(priority=Priority.BULK)
        await world.claim(await world.queued())
        seen: list[str] = []
        after = None
        while page := await world.ledger.delivery.waiting(SMS_NORMAL, after=after, limit=3):
            assert len(page) <= 3
            seen += [hint.message_id for hint in page]
            after = page[-1].cursor
        assert seen == [now.id, *(m.id for m in reversed(messages))]

    async def test_waiting_says_when_each_is_due(self, world: LedgerWorld) -> None:
        await world.queued()
        await world.scheduled(600)
        now, later = await world.ledger.delivery.waiting(SMS_NORMAL, after=None, limit=9)
        assert now.due_in_s <= 0
        assert later.due_in_s == pytest.approx(600, abs=ROUGHLY_S)
        assert now.lane == SMS_NORMAL

    async def test_many_of_one_moment_are_each_seen_once(self, world: LedgerWorld) -> None:
        messages = [world.message() for _ in range(10)]
        await world.accept(*messages)
        seen: list[str] = []
        after = None
        while page := await world.ledger.delivery.waiting(SMS_NORMAL, after=after, limit=4):
            seen += [hint.message_id for hint in page]
            after = page[-1].cursor
        assert sorted(seen) == sorted(m.id for m in messages)

    async def test_touched_by_are_the_waiting_that_a_supervisor_moved_last(self, world: LedgerWorld) -> None:
        touched = world.ledger.delivery.touched_by
        accepted = world.message()
        await world.accept(accepted, supervisor=OTHER)
        mine, retried = await world.queued(), await world.queued()
        [claimed] = await world.try_claim(retried.id, supervisor=OTHER)
        await world.finish(claimed, DEFERRED, AGAIN, supervisor=OTHER)
        taken = world.message()
        await world.accept(taken, supervisor=OTHER)
        await world.claim(taken)
        assert {h.message_id for h in await touched(OTHER, limit=9)} == {accepted.id, retried.id}
        assert {h.message_id for h in await touched(ME, limit=9)} == {mine.id}
        assert len(await touched(OTHER, limit=1)) == 1

    async def test_a_released_message_was_touched_by_the_one_who_released_it(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.claim(message, supervisor=OTHER)
        await world.ledger.delivery.release([(message.id, 1)], supervisor=OTHER)
        assert [h.message_id for h in await world.ledger.delivery.touched_by(OTHER, limit=9)] == [message.id]

    async def test_due_count_counts_what_has_been_due_for_so_long(self, world: LedgerWorld) -> None:
        count = world.ledger.delivery.due_count
        for _ in range(3):
            await world.queued()
        await world.claim(await world.queued())
        await world.scheduled(600)
        assert await count(SMS_NORMAL, older_than_s=30, limit=10) == 0
        await world.advance(31)
        await world.queued()
        assert await count(SMS_NORMAL, older_than_s=30, limit=10) == 3
        assert await count(SMS_NORMAL, older_than_s=0, limit=10) == 4
        assert await count(SMS_NORMAL, older_than_s=0, limit=2) == 2
        assert [await count(lane, older_than_s=0, limit=9) for lane in LANES if lane != SMS_NORMAL] == [0] * 5

    async def test_what_a_provider_was_handed_is_counted_by_age_and_in_recipients(self, world: LedgerWorld) -> None:
        async def spent() -> list[int]:
            return list(await world.ledger.delivery.spent("p1", part_s=100.0, parts=4))

        assert await spent() == [0, 0, 0, 0]
        copies = EmailContent(subject="s", text="t", cc=("b@shop.in", "c@shop.in"), bcc=("d@shop.in",))
        await world.sent(to="a@shop.in", content=copies)
        await world.advance(250)
        await world.failed()
        await world.failed(provider="p2")
        again = await world.queued()
        await world.finish(await world.claim(again), DEFERRED, AGAIN)
        assert await spent() == [2, 0, 4, 0]
        await world.claim(again)
        await world.claim(await world.queued(), provider="p2")
        assert await spent() == [3, 0, 4, 0]
        await world.advance(150)
        assert await spent() == [1, 2, 0, 0]

    async def test_it_is_known_whom_another_provider_has_lately_written_to(self, world: LedgerWorld) -> None:
        async def elsewhere(provider: str = "p1", within_s: float = DAY_S) -> set[str]:
            ids = [message.id for message in refused]
            return await world.ledger.delivery.accepted_elsewhere(ids, provider, within_s=within_s)

        await world.sent(to="+919876543210")  # by p1
        await world.failed(to="+919876543211", provider="p2")
        old = await world.queued(to="+919876543212")
        await world.finish(await world.claim(old, "p2"), ACCEPTED, SENT, provider="p2")
        await world.advance(7200)
        new = await world.queued(to="+919876543213")
        await world.finish(await world.claim(new, "p2"), ACCEPTED, SENT, provider="p2")
        refused = [await world.failed(to=f"+91987654321{n}") for n in range(5)]
        assert await elsewhere() == {refused[2].id, refused[3].id}
        assert await elsewhere(within_s=3600.0) == {refused[3].id}
        assert await elsewhere("p2") == {refused[0].id}
        assert await world.ledger.delivery.accepted_elsewhere(["msg_none"], "p1", within_s=DAY_S) == set()


class ReadingSuite:
    async def test_a_message_is_its_tenants_own(self, world: LedgerWorld) -> None:
        message = await world.queued(tenant="shop")
        get = world.ledger.messages.get
        assert (await get(message.id, tenant="shop")).message.id == message.id
        for tenant, message_id in (("rival", message.id), (None, "msg_unknown")):
            with pytest.raises(NotFound):
                await get(message_id, tenant=tenant)

    async def test_a_list_is_newest_first_and_goes_on_before_a_cursor(self, world: LedgerWorld) -> None:
        ids = [(await world.queued()).id for _ in range(5)]
        page = await world.ledger.messages.list(MessageFilter(), tenant=None, before=None, limit=2)
        assert [v.message.id for v in page] == ids[:-3:-1]
        rest = await world.ledger.messages.list(MessageFilter(), tenant=None, before=ids[3], limit=9)
        assert [v.message.id for v in rest] == ids[2::-1]

    async def test_a_list_shows_its_tenants_own(self, world: LedgerWorld) -> None:
        mine, _ = await world.queued(tenant="shop"), await world.queued(tenant="rival")
        found = await world.ledger.messages.list(MessageFilter(), tenant="shop", before=None, limit=9)
        assert [v.message.id for v in found] == [mine.id]

    async def test_a_list_can_be_narrowed_by_each_field_and_by_all(self, world: LedgerWorld) -> None:
        sent = await world.sent(tags=("otp", "in"))
        queued = await world.queued("asha@shop.in", tags=("otp",))
        sending = await world.queued("+447700900123")
        await world.claim(sending)

        async def found(wanted: MessageFilter) -> list[str]:
            views = await world.ledger.messages.list(wanted, tenant=None, before=None, limit=9)
            return [v.message.id for v in views]

        assert await found(MessageFilter(state=State.SENT)) == [sent.id]
        assert await found(MessageFilter(state=State.QUEUED)) == [queued.id]
        assert await found(MessageFilter(state=State.SENDING)) == [sending.id]
        assert await found(MessageFilter(state=State.FAILED)) == []
        assert await found(MessageFilter(channel=Channel.EMAIL)) == [queued.id]
        assert await found(MessageFilter(to="+447700900123")) == [sending.id]
        assert await found(MessageFilter(tag="otp")) == [queued.id, sent.id]
        assert await found(MessageFilter(tag="otp", state=State.SENT, channel=Channel.SMS)) == [sent.id]
        assert await found(MessageFilter(tag="otp", to="+447700900123")) == []

    async def test_a_list_can_be_narrowed_by_time(self, world: LedgerWorld) -> None:
        old = await world.queued(made_at=world.now() - timedelta(hours=3))
        new = await world.queued(made_at=world.now() - timedelta(hours=1))
        between = world.now() - timedelta(hours=2)
        since = await world.ledger.messages.list(MessageFilter(since=between), tenant=None, before=None, limit=9)
        until = await world.ledger.messages.list(MessageFilter(until=between), tenant=None, before=None, limit=9)
        assert ([v.message.id for v in since], [v.message.id for v in until]) == ([new.id], [old.id])

    async def test_a_list_shows_where_each_stands(self, world: LedgerWorld) -> None:
        sending = await world.queued()
        await world.claim(sending)
        sent = await world.sent()
        views = await world.ledger.messages.list(MessageFilter(), tenant=None, before=None, limit=9)
        assert views == [await world.get(sent), await world.get(sending)]
        assert [(v.standing.state, v.standing.provider) for v in views] == [(State.SENT, "p1"), (State.SENDING, "p1")]
        assert [[a.outcome for a in v.attempts] for v in views] == [[Outcome.ACCEPTED], [None]]

    @pytest.mark.parametrize("state", [State.QUEUED, State.SCHEDULED])
    async def test_what_waits_can_be_cancelled(self, world: LedgerWorld, state: State) -> None:
        message = await world.queued() if state is State.QUEUED else await world.scheduled(60)
        view = await world.ledger.messages.cancel(message.id, tenant="default", supervisor=ME)
        assert view.standing.state is State.CANCELLED
        await world.advance(61)
        assert await world.try_claim(message.id) == []
        with pytest.raises(NotFound):
            await world.ledger.dead_letters.get(message.id, tenant=None)

    async def test_a_claim_beats_a_cancel(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        with pytest.raises(Conflict, match="sending"):
            await world.ledger.messages.cancel(message.id, tenant=None, supervisor=ME)
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT

    async def test_a_message_at_rest_is_out_of_a_cancels_reach(self, world: LedgerWorld) -> None:
        for message, word in ((await world.sent(), "sent"), (await world.failed(), "failed")):
            with pytest.raises(Conflict, match=word):
                await world.ledger.messages.cancel(message.id, tenant=None, supervisor=ME)

    async def test_a_cancel_is_its_tenants_own(self, world: LedgerWorld) -> None:
        message = await world.queued(tenant="shop")
        with pytest.raises(NotFound):
            await world.ledger.messages.cancel(message.id, tenant="rival", supervisor=ME)
        assert await world.state(message) is State.QUEUED

    async def test_empty_requests_are_answered_emptily(self, world: LedgerWorld) -> None:
        requests: list[ClaimRequest] = []
        delivery = world.ledger.delivery
        assert await world.ledger.intake.accept([], supervisor=ME) == []
        assert await delivery.load([]) == []
        assert await delivery.claim(requests, supervisor=ME) == []
        assert await delivery.finish([], supervisor=ME) == []
        await delivery.release([], supervisor=ME)
        await delivery.wake([])
        await delivery.park([])


class DeliverySuite(IntakeSuite, ClaimSuite, FinishSuite, LateTruthSuite, WaitingSuite, ReadingSuite):
    """All of a message's way."""
