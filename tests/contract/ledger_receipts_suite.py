"""What every ledger must do with receipts: find their messages, move them, keep what cannot be told yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from heliograph.actors.model.attempt import Settled
from heliograph.actors.model.deadletter import DeadLetterState, OperationKind
from heliograph.actors.model.identity import attempt_id, new_id
from heliograph.actors.model.message import Channel, EmailContent, Message, Reason, State
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.ledger import Reported, SuppressionFilter, Taken
from tests.contract.ledger_world import (
    ACCEPTED,
    AGAIN,
    DAY_S,
    DEAD,
    DEFERRED,
    ME,
    OTHER,
    SENT,
    UNKNOWN,
    LedgerWorld,
)

KEEP_S: Final = 3600.0
TRACED: Final = replace(ACCEPTED, traced=True, provider_message_id="req_7")
LOST: Final = replace(DEAD, reason=Reason.UNKNOWN, cause="no answer", code=None)


def about(message: Message, effect: Effect | None, number: int = 1, provider: str = "p1", **fields: Any) -> Reported:
    return Reported(provider, Receipt(attempt_id=attempt_id(message.id, number), effect=effect, **fields))


async def take(world: LedgerWorld, *reported: Reported) -> list[Taken]:
    return await world.ledger.receipts.take(reported, keep_s=KEEP_S)


async def look(world: LedgerWorld, after_s: float = 2.0) -> list[Taken]:
    await world.advance(after_s)
    taken, _ = await world.ledger.receipts.look_again(limit=100)
    return taken


async def redrive(world: LedgerWorld, message: Message) -> None:
    operations, operation_id = world.ledger.operations, new_id("op", world.now())
    await operations.create(
        operation_id, OperationKind.REDRIVE, ids=[message.id], wanted=None, tenant=None, rate=None, reason=None,
        actor=None,
    )  # fmt: skip
    hints, _ = await operations.step(limit=9, max_redrives=9, expires_after_s=DAY_S, supervisor=ME)
    assert [hint.message_id for hint in hints] == [message.id]


class EffectSuite:
    async def test_a_delivery_is_final_and_a_bounce_after_it_wins(self, world: LedgerWorld) -> None:
        message = await world.sent()
        [taken] = await take(world, about(message, Effect.DELIVERED))
        assert taken == Taken(provider="p1", message_id=message.id, channel=Channel.SMS, entered=(State.DELIVERED,))
        assert (await world.get(message)).standing.reason is None
        [taken] = await take(world, about(message, Effect.UNDELIVERED, code="30005", detail="No such number 98765432"))
        assert taken.entered == (State.UNDELIVERED,)
        standing = (await world.get(message)).standing
        assert (standing.state, standing.reason, standing.provider) == (State.UNDELIVERED, Reason.UNDELIVERED, "p1")
        letter = await world.ledger.dead_letters.get(message.id, tenant=None)
        assert (letter.state, letter.reason, letter.code, letter.provider, letter.cause, letter.detail) == (
            DeadLetterState.OPEN, Reason.UNDELIVERED, "30005", "p1", "No such number <number>",
            "No such number 98765432",
        )  # fmt: skip
        census = await world.ledger.stats.census()
        assert census.dead_letters[Reason.UNDELIVERED] == 1
        assert (census.messages[Channel.SMS, State.UNDELIVERED], census.messages[Channel.SMS, State.SENT]) == (1, 0)
        assert census.entered[Channel.SMS, State.DELIVERED] == 1

    async def test_no_receipt_moves_a_state_down(self, world: LedgerWorld) -> None:
        message = await world.sent()
        for effect in (Effect.UNDELIVERED, Effect.DELIVERED, Effect.TAKEN, Effect.UNDELIVERED):
            await take(world, about(message, effect))
            assert await world.state(message) is State.UNDELIVERED
        assert (await world.ledger.stats.census()).dead_letters[Reason.UNDELIVERED] == 1

    async def test_the_same_receipt_twice_changes_nothing_more(self, world: LedgerWorld) -> None:
        message = await world.sent()
        bounce = about(message, Effect.UNDELIVERED, code="5.1.1")
        first, second = await take(world, bounce, bounce)
        assert (first.entered, second.entered) == ((State.UNDELIVERED,), ())
        assert (await take(world, bounce))[0].entered == ()
        assert (await world.ledger.stats.census()).entered[Channel.SMS, State.UNDELIVERED] == 1

    async def test_one_that_says_only_that_it_was_taken_changes_nothing_of_what_is_sent(
        self, world: LedgerWorld
    ) -> None:
        message = await world.sent()
        [taken] = await take(world, about(message, Effect.TAKEN))
        assert (taken.message_id, taken.entered, taken.settled, taken.kept) == (message.id, (), None, False)
        assert await world.state(message) is State.SENT

    @pytest.mark.parametrize("end", ["nobody", "another provider", "another number", "no id of ours"])
    async def test_what_names_no_attempt_of_its_provider_is_of_no_effect(self, world: LedgerWorld, end: str) -> None:
        message = await world.sent()
        reported = {
            "nobody": about(world.message(), Effect.DELIVERED),
            "another provider": about(message, Effect.DELIVERED, provider="p2"),
            "another number": about(message, Effect.DELIVERED, 2),
            "no id of ours": Reported("p1", Receipt(attempt_id="not-one", effect=Effect.DELIVERED)),
        }[end]
        assert await take(world, reported) == [Taken(provider=reported.provider)]
        assert await world.state(message) is State.SENT
        assert await world.ledger.receipts.look_again(limit=9) == ([], None)

    async def test_a_receipt_about_a_copy_does_not_speak_for_the_recipient(self, world: LedgerWorld) -> None:
        content = EmailContent(subject="s", text="t", cc=("b@shop.in",))
        message = await world.queued("Asha@Bücher.example", content=content)
        await world.finish(await world.claim(message), ACCEPTED, SENT)
        [taken] = await take(world, about(message, Effect.UNDELIVERED, recipient="B@shop.in"))
        assert (taken.message_id, taken.entered) == (message.id, ())
        await take(world, about(message, Effect.UNDELIVERED, recipient="forwarded@elsewhere.example"))
        assert await world.state(message) is State.SENT
        await take(world, about(message, Effect.DELIVERED, recipient="asha@xn--bcher-kva.example"))
        assert await world.state(message) is State.DELIVERED

    async def test_where_there_are_no_copies_every_address_is_the_recipients(self, world: LedgerWorld) -> None:
        message = await world.queued("asha@shop.in", content=EmailContent(subject="s", text="t"))
        await world.finish(await world.claim(message), ACCEPTED, SENT)
        await take(world, about(message, Effect.UNDELIVERED, recipient="asha@forwarded.example"))
        assert await world.state(message) is State.UNDELIVERED

    async def test_an_archived_message_comes_back_where_a_receipt_moves_it(self, world: LedgerWorld) -> None:
        moved, still = await world.sent(), await world.sent()
        await world.advance(100)
        assert await world.ledger.retention.archive(dead_letters_after_s=50, messages_after_s=50, limit=9) == 2
        first, second = await take(world, about(moved, Effect.UNDELIVERED), about(still, Effect.TAKEN))
        assert (first.message_id, first.entered, second.message_id) == (moved.id, (State.UNDELIVERED,), still.id)
        assert [(await world.get(m)).archived for m in (moved, still)] == [False, True]
        assert (await world.get(moved)).standing.state is State.UNDELIVERED
        assert (await world.ledger.dead_letters.get(moved.id, tenant=None)).state is DeadLetterState.OPEN
        assert await world.ledger.stats.drift() == 0

    async def test_whom_it_says_to_suppress_is_entered_with_the_message_it_was_learnt_of(
        self, world: LedgerWorld
    ) -> None:
        content = EmailContent(subject="s", text="t", cc=("b@shop.in",))
        message = await world.queued("asha@shop.in", content=content, tenant="shop")
        await world.finish(await world.claim(message), ACCEPTED, SENT)
        bounce = {"suppress": SuppressionReason.BOUNCE, "detail": "no such user"}
        await take(
            world,
            about(message, Effect.UNDELIVERED, **bounce),
            about(message, None, recipient="b@shop.in", suppress=SuppressionReason.COMPLAINT),
            about(world.message(), Effect.UNDELIVERED, **bounce),
        )
        wanted = SuppressionFilter()
        found = await world.ledger.suppressions.list(wanted, tenant=None, before=None, limit=9)
        assert {(s.tenant, s.recipient, s.reason, s.detail, s.provider, s.message_id) for s in found} == {
            ("shop", "asha@shop.in", SuppressionReason.BOUNCE, "no such user", "p1", message.id),
            ("shop", "b@shop.in", SuppressionReason.COMPLAINT, None, "p1", message.id),
        }
        assert await world.state(message) is State.UNDELIVERED


class LateTruthSuite:
    async def test_it_settles_an_attempt_without_an_answer_and_the_message_is_not_sent_again(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        [taken] = await take(world, about(message, Effect.TAKEN))
        assert (taken.settled, taken.entered) == (1, (State.SENT,))
        view = await world.get(message)
        assert (view.standing.state, view.standing.provider, view.attempts[0].settled) == (
            State.SENT, "p1", Settled.ACCEPTED,
        )  # fmt: skip
        assert await world.try_claim(message.id) == []
        [taken] = await take(world, about(message, Effect.DELIVERED))
        assert (taken.settled, taken.entered) == (None, (State.DELIVERED,))

    async def test_a_failed_message_is_delivered_after_all_and_its_dead_letter_settled(
        self, world: LedgerWorld
    ) -> None:
        message = await world.failed(answer=UNKNOWN, move=LOST)
        [taken] = await take(world, about(message, Effect.DELIVERED))
        assert (taken.settled, taken.entered) == (1, (State.SENT, State.DELIVERED))
        assert (await world.ledger.dead_letters.get(message.id, tenant=None)).state is DeadLetterState.SETTLED
        assert sum((await world.ledger.stats.census()).dead_letters.values()) == 0

    async def test_a_failed_message_that_bounced_has_the_bounce_in_its_dead_letter(self, world: LedgerWorld) -> None:
        message = await world.failed(answer=UNKNOWN, move=LOST)
        await take(world, about(message, Effect.UNDELIVERED, code="5.1.1"))
        letter = await world.ledger.dead_letters.get(message.id, tenant=None)
        assert (letter.state, letter.reason, letter.code) == (DeadLetterState.OPEN, Reason.UNDELIVERED, "5.1.1")
        counted = {reason: n for reason, n in (await world.ledger.stats.census()).dead_letters.items() if n}
        assert counted == {Reason.UNDELIVERED: 1}

    @pytest.mark.parametrize("effect", [Effect.DELIVERED, Effect.UNDELIVERED])
    @pytest.mark.parametrize("early", [True, False])
    async def test_one_that_names_the_attempt_which_a_repeat_was_answered_for_speaks_for_the_repeat(
        self, world: LedgerWorld, effect: Effect, early: bool
    ) -> None:
        """The first call ended in a 502 though it was taken; the second, under the same id, was answered with its
        message."""
        message = await world.queued()
        await world.finish(await world.claim(message), DEFERRED, AGAIN)
        reported = about(message, effect, 1, provider_message_id="m-1")
        if early:
            [taken] = await take(world, reported)
            assert (taken.kept, taken.entered) == (True, ())
        await world.finish(await world.claim(message), replace(ACCEPTED, provider_message_id="m-1"), SENT)
        taken = (await look(world) if early else await take(world, reported))[0]
        wanted = State.DELIVERED if effect is Effect.DELIVERED else State.UNDELIVERED
        assert (taken.entered, taken.kept) == ((wanted,), False)
        assert await world.state(message) is wanted

    async def test_one_that_names_an_attempt_without_success_is_of_no_effect_where_another_message_was_sent(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), DEFERRED, AGAIN)
        await world.finish(await world.claim(message), replace(ACCEPTED, provider_message_id="m-2"), SENT)
        [taken] = await take(world, about(message, Effect.UNDELIVERED, 1, provider_message_id="m-1"))
        assert (taken.message_id, taken.entered, taken.kept) == (message.id, (), False)
        assert await world.state(message) is State.SENT

    @pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED])
    async def test_what_was_cancelled_or_expired_stays_so_with_its_attempt_settled(
        self, world: LedgerWorld, state: State
    ) -> None:
        message = await world.queued(expires_at=world.now() + (world.message().expires_at - world.now()) / 1000)
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        if state is State.CANCELLED:
            await world.ledger.messages.cancel(message.id, tenant=None, supervisor=ME)
        else:
            await world.advance(DAY_S)
            await world.ledger.delivery.expire(9)
        [taken] = await take(world, about(message, Effect.DELIVERED))
        assert (taken.settled, taken.entered, taken.kept) == (1, (), False)
        view = await world.get(message)
        assert (view.standing.state, view.attempts[0].settled) == (state, Settled.ACCEPTED)

    async def test_a_newer_attempt_under_way_leaves_a_mark_and_the_effect_follows_its_end(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        second = await world.claim(message, "p2")
        [taken] = await take(world, about(message, Effect.DELIVERED))
        assert (taken.settled, taken.entered, taken.kept) == (1, (), True)
        assert await world.state(message) is State.SENDING
        await world.finish(second, DEFERRED, AGAIN, provider="p2")
        assert (await world.get(message)).standing.state is State.SENT
        assert [t.entered for t in await look(world)] == [(State.DELIVERED,)]

    async def test_an_older_attempts_bounce_does_not_speak_for_a_newer_acceptance(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        await world.finish(await world.claim(message, "p2"), ACCEPTED, SENT, provider="p2")
        [taken] = await take(world, about(message, Effect.UNDELIVERED))
        assert (taken.settled, taken.entered, taken.kept) == (1, (), False)
        assert await world.state(message) is State.SENT
        await take(world, about(message, Effect.UNDELIVERED, 2, "p2"))
        assert await world.state(message) is State.UNDELIVERED

    async def test_a_bounce_waits_until_it_is_known_whether_a_later_attempt_was_accepted(
        self, world: LedgerWorld
    ) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        await world.finish(await world.claim(message), UNKNOWN, LOST)
        [taken] = await take(world, about(message, Effect.UNDELIVERED))
        assert (taken.entered, taken.kept) == ((State.SENT,), True)
        assert await look(world) == []
        await world.advance(KEEP_S)
        assert [(t.entered, t.kept) for t in await look(world)] == [((State.UNDELIVERED,), False)]

    async def test_receipts_of_an_earlier_life_say_nothing_of_the_new_one(self, world: LedgerWorld) -> None:
        message = await world.sent()
        old = [about(message, Effect.DELIVERED), about(message, Effect.UNDELIVERED)]
        await take(world, *old)
        await redrive(world, message)
        assert [t.entered for t in await take(world, *old)] == [(), ()]
        assert await world.state(message) is State.QUEUED
        await world.finish(await world.claim(message), ACCEPTED, SENT)
        assert [t.entered for t in await take(world, *old)] == [(), ()]
        assert await world.state(message) is State.SENT
        await take(world, about(message, Effect.DELIVERED, 2))
        assert await world.state(message) is State.DELIVERED


class KeptSuite:
    async def test_one_that_comes_before_its_attempt_is_written_is_kept_and_matched(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        [taken] = await take(world, about(message, Effect.DELIVERED, suppress=SuppressionReason.COMPLAINT))
        assert (taken.kept, taken.entered, taken.settled) == (True, (), None)
        assert await look(world) == []
        await world.finish(claimed, ACCEPTED, SENT)
        assert [t.entered for t in await look(world, 4)] == [(State.DELIVERED,)]
        found = await world.ledger.suppressions.list(SuppressionFilter(), tenant=None, before=None, limit=9)
        assert len(found) == 1
        assert await world.ledger.receipts.look_again(limit=9) == ([], None)

    async def test_one_whose_attempt_lost_its_answer_settles_it(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await take(world, about(message, Effect.DELIVERED))
        await world.reclaim(claimed)
        [taken] = await look(world)
        assert (taken.settled, taken.entered) == (1, (State.SENT, State.DELIVERED))

    async def test_it_is_looked_at_ever_more_rarely_and_then_dropped(self, world: LedgerWorld) -> None:
        await take(world, Reported("p1", Receipt(provider_message_id="somebody-else's", effect=Effect.DELIVERED)))
        waits: list[float] = []
        for _ in range(40):
            taken, next_s = await world.ledger.receipts.look_again(limit=9)
            if next_s is None:
                assert taken == [Taken(provider="p1")]
                break
            waits.append(next_s)
            await world.advance(next_s + 1)
        assert waits[0] < 2
        assert waits[:-1] == sorted(waits[:-1])
        assert 8 < len(waits) < 20

    async def test_what_is_expected_is_looked_at_when_it_is_due(self, world: LedgerWorld) -> None:
        message = await world.sent()
        await world.ledger.receipts.expect([about(message, Effect.DELIVERED)], in_s=10, keep_s=KEEP_S)
        taken, next_s = await world.ledger.receipts.look_again(limit=9)
        assert taken == []
        assert next_s is not None
        assert 5 < next_s <= 10
        assert [t.entered for t in await look(world, 10)] == [(State.DELIVERED,)]

    async def test_no_more_are_looked_at_than_asked_for(self, world: LedgerWorld) -> None:
        messages = [await world.sent() for _ in range(3)]
        await world.ledger.receipts.expect([about(m, Effect.DELIVERED) for m in messages], in_s=0, keep_s=KEEP_S)
        await world.advance(1)
        for left in (1, 0):
            taken, next_s = await world.ledger.receipts.look_again(limit=2)
            assert (len(taken), next_s) == (2 if left else 1, 0.0 if left else None)


class ProviderIdSuite:
    """Receipts that name an attempt by an id of the provider's."""

    async def test_a_traced_answers_id_finds_its_message(self, world: LedgerWorld) -> None:
        message, other = await world.queued(), await world.sent()
        await world.finish(await world.claim(message), TRACED, SENT)
        [taken] = await take(world, Reported("p1", Receipt(provider_message_id="req_7", effect=Effect.DELIVERED)))
        assert (taken.message_id, taken.entered) == (message.id, (State.DELIVERED,))
        [taken] = await take(world, Reported("p1", Receipt(provider_message_id="pm_1", effect=Effect.DELIVERED)))
        assert (taken.message_id, taken.kept) == (None, True)
        assert await world.state(other) is State.SENT

    async def test_one_id_for_a_whole_call_needs_the_recipient(self, world: LedgerWorld) -> None:
        numbers = ["+919876543210", "+919876543211"]
        messages = [await world.queued(number) for number in numbers]
        for message in messages:
            await world.finish(await world.claim(message), TRACED, SENT)
        nameless = Reported("p1", Receipt(provider_message_id="req_7", effect=Effect.DELIVERED))
        assert [(t.message_id, t.kept) for t in await take(world, nameless)] == [(None, False)]
        named = Receipt(provider_message_id="req_7", recipient=numbers[1], effect=Effect.UNDELIVERED)
        assert [t.message_id for t in await take(world, Reported("p1", named))] == [messages[1].id]
        assert [t.message_id for t in await take(world, Reported("p2", named))] == [None]
        assert [await world.state(m) for m in messages] == [State.SENT, State.UNDELIVERED]

    async def test_an_id_that_came_too_late_for_its_claim_is_known_too(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        early = Reported("p1", Receipt(provider_message_id="req_7", effect=Effect.DELIVERED))
        assert [t.kept for t in await take(world, early)] == [True]
        await world.reclaim(claimed)
        assert await look(world) == []
        await world.finish(claimed, TRACED, SENT)
        assert [t.entered for t in await look(world, 60)] == [(State.DELIVERED,)]

    async def test_ids_are_forgotten_by_age(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), TRACED, SENT)
        assert await world.ledger.receipts.forget(after_s=60, limit=9) == 0
        await world.advance(61)
        assert await world.ledger.receipts.forget(after_s=60, limit=9) == 1
        [taken] = await take(world, Reported("p1", Receipt(provider_message_id="req_7", effect=Effect.DELIVERED)))
        assert taken.kept


class NoReceiptSuite:
    async def test_what_gets_no_receipt_in_time_is_sent_for_good(self, world: LedgerWorld) -> None:
        waited, delivered, unconfigured = await world.sent(), await world.sent(), await world.queued()
        await take(world, about(delivered, Effect.DELIVERED))
        await world.finish(await world.claim(unconfigured, "p2"), ACCEPTED, SENT, provider="p2")
        close = world.ledger.receipts.close
        assert await close(["p1"], after_s=100, limit=50) == (0, False)
        await world.advance(101)
        young = await world.sent()
        assert await close(["p1"], after_s=100, limit=50) == (1, False)
        found = [await world.get(m) for m in (waited, delivered, unconfigured, young)]
        assert [(v.standing.state, v.standing.reason) for v in found] == [
            (State.SENT, Reason.NO_RECEIPT), (State.DELIVERED, None), (State.SENT, None), (State.SENT, None),
        ]  # fmt: skip
        assert (await world.ledger.stats.census()).dead_letters[Reason.NO_RECEIPT] == 0
        [taken] = await take(world, about(waited, Effect.UNDELIVERED))
        assert (taken.message_id, taken.entered, taken.kept) == (waited.id, (), False)
        assert await world.state(waited) is State.SENT

    async def test_it_goes_on_in_small_steps_and_looks_at_none_twice(self, world: LedgerWorld) -> None:
        messages = []
        for _ in range(5):
            messages.append(await world.sent())
            await world.advance(1)
        await world.ledger.retention.strip_content(after_s=3, limit=2)
        await world.advance(100)
        close, found = world.ledger.receipts.close, []
        more = True
        while more:
            count, more = await close(["p1"], after_s=90, limit=2)
            found.append(count)
        assert (sum(found), max(found)) == (5, 2)
        reasons = [(await world.get(m)).standing.reason for m in messages]
        assert reasons == [Reason.NO_RECEIPT] * 5
        await world.advance(100)
        assert await close(["p1", "p2"], after_s=90, limit=2) == (0, False)

    async def test_a_message_that_is_redriven_after_all_waits_anew(self, world: LedgerWorld) -> None:
        message = await world.queued()
        await world.finish(await world.claim(message), UNKNOWN, AGAIN)
        await world.advance(200)
        assert await world.ledger.receipts.close(["p1"], after_s=100, limit=50) == (0, False)
        await world.finish(await world.claim(message, supervisor=OTHER), ACCEPTED, SENT, supervisor=OTHER)
        await world.advance(101)
        assert await world.ledger.receipts.close(["p1"], after_s=100, limit=50) == (1, False)


class ReceiptsSuite(EffectSuite, LateTruthSuite, KeptSuite, ProviderIdSuite, NoReceiptSuite):
    """All of it."""
