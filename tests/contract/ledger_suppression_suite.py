"""What every ledger must do about recipients that are not written to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.deadletter import DeadLetterFilter, DeadLetterState, OperationKind
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import Channel, Message, State
from heliograph.actors.model.receipt import SuppressionReason
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    Entered,
    Entry,
    IdempotencyRecord,
    Mismatch,
    Replay,
    Suppressed,
    SuppressionFilter,
)
from tests.contract.ledger_world import (
    ACCEPTED,
    AGAIN,
    DAY_S,
    DEAD,
    ME,
    REJECTED,
    SENT,
    UNKNOWN,
    LedgerWorld,
)

ASHA = "asha@shop.in"
NUMBER = "+919876543210"
GONE = replace(REJECTED, suppress=SuppressionReason.INVALID)


def an_entry(recipient: str = ASHA, **fields: Any) -> Entry:
    channel = Channel.EMAIL if "@" in recipient else Channel.SMS
    known: dict[str, Any] = {"tenant": "default", "channel": channel, "reason": SuppressionReason.MANUAL}
    return Entry(**{**known, "recipient": recipient, **fields})


async def enter(world: LedgerWorld, recipient: str = ASHA, **fields: Any) -> Entered:
    return await world.ledger.suppressions.enter(an_entry(recipient, **fields))


async def admit(world: LedgerWorld, *messages: Message, state: State = State.QUEUED, key: str = "") -> object:
    record = IdempotencyRecord(key_id="k", route="r", key=key, fingerprint=b"f", status=202, body=str(state).encode())
    acceptance = Acceptance(messages=messages, states=(state,) * len(messages), idempotency=(record,) if key else ())
    [answer] = await world.ledger.intake.accept([acceptance], supervisor=ME)
    return answer


async def is_stored(world: LedgerWorld, message: Message) -> bool:
    try:
        await world.get(message)
    except NotFound:
        return False
    return True


async def redrive(world: LedgerWorld, message: Message) -> tuple[int, dict[str, str]]:
    operations = world.ledger.operations
    name = new_id("op", world.now(), next(world.numbers))
    await operations.create(
        name, OperationKind.REDRIVE, ids=[message.id], wanted=None, tenant=None, rate=None, reason=None, actor=None
    )
    await operations.step(limit=9, max_redrives=3, expires_after_s=DAY_S, supervisor=ME)
    operation = await operations.get(name, tenant=None)
    return operation.done, dict(operation.failures)


class SuppressionSuite:
    # ----------------------------------------------------------------------------------------------- entries

    async def test_an_entry_is_read_as_it_was_entered(self, world: LedgerWorld) -> None:
        entered = await enter(
            world, "Asha@SHOP.in", reason=SuppressionReason.BOUNCE, detail="5.1.1", provider="p1", message_id="msg_1"
        )
        suppression = entered.suppression
        assert (entered.new, entered.moved, suppression.id[:4]) == (True, 0, "sup_")
        assert (suppression.tenant, suppression.channel, suppression.recipient) == (
            "default",
            Channel.EMAIL,
            "Asha@shop.in",
        )
        assert (suppression.reason, suppression.detail) == (SuppressionReason.BOUNCE, "5.1.1")
        assert (suppression.provider, suppression.message_id) == ("p1", "msg_1")
        assert abs((world.now() - suppression.created_at).total_seconds()) < 60
        assert await world.ledger.suppressions.get(suppression.id, tenant="default") == suppression

    @pytest.mark.parametrize(
        ("first", "again"),
        [
            (NUMBER, NUMBER),
            (ASHA, "ASHA@Shop.IN"),
            ("asha@bücher.example", "Asha@xn--bcher-kva.EXAMPLE"),
            ("asha@xn--bcher-kva.example", "asha@bücher.example"),
        ],
    )
    async def test_whoever_is_entered_again_keeps_the_first_entry(
        self, world: LedgerWorld, first: str, again: str
    ) -> None:
        before = await enter(world, first, detail="first")
        after = await enter(world, again, detail="second", reason=SuppressionReason.COMPLAINT)
        assert (after.new, after.suppression) == (False, before.suppression)

    async def test_tenants_and_channels_have_entries_of_their_own(self, world: LedgerWorld) -> None:
        ids = {
            (await enter(world)).suppression.id,
            (await enter(world, tenant="acme")).suppression.id,
            (await enter(world, channel=Channel.SMS)).suppression.id,
        }
        assert len(ids) == 3

    async def test_what_is_no_address_at_all_can_be_entered(self, world: LedgerWorld) -> None:
        entered = await enter(world, '"odd one"@[10.0.0.1]')
        assert (await enter(world, '"ODD one"@[10.0.0.1]')).suppression == entered.suppression

    async def test_a_list_has_the_newest_first_and_goes_on_where_it_was_left(self, world: LedgerWorld) -> None:
        ids = []
        for n in range(5):
            ids.append((await enter(world, f"user{n}@shop.in")).suppression.id)
            await world.advance(1)
        everybody = SuppressionFilter()
        pages = world.ledger.suppressions
        first = await pages.list(everybody, tenant=None, before=None, limit=3)
        rest = await pages.list(everybody, tenant=None, before=first[-1].id, limit=3)
        assert [s.id for s in (*first, *rest)] == sorted(ids, reverse=True)

    async def test_a_list_keeps_to_its_filter_and_to_its_tenant(self, world: LedgerWorld) -> None:
        mail = (await enter(world, "Asha@bücher.example", reason=SuppressionReason.BOUNCE)).suppression.id
        number = (await enter(world, NUMBER)).suppression.id
        acme = (await enter(world, ASHA, tenant="acme")).suppression.id

        async def found(tenant: str | None = None, **fields: Any) -> set[str]:
            listed = await world.ledger.suppressions.list(
                SuppressionFilter(**fields), tenant=tenant, before=None, limit=9
            )
            return {s.id for s in listed}

        assert await found() == {mail, number, acme}
        assert await found("acme") == {acme}
        assert await found(channel=Channel.SMS) == {number}
        assert await found(reason=SuppressionReason.BOUNCE) == {mail}
        assert await found(to=NUMBER) == {number}
        assert await found(to="ASHA@Bücher.example") == {mail} == await found(to="asha@xn--bcher-kva.example")
        assert await found(to="nobody@shop.in") == set()

    async def test_an_entry_is_removed_once_and_by_its_tenant_only(self, world: LedgerWorld) -> None:
        name = (await enter(world, "asha@bücher.example")).suppression.id
        suppressions = world.ledger.suppressions
        with pytest.raises(NotFound):
            await suppressions.get(name, tenant="acme")
        with pytest.raises(NotFound):
            await suppressions.remove(name, tenant="acme")
        await suppressions.remove(name, tenant="default")
        for call in (suppressions.get, suppressions.remove):
            with pytest.raises(NotFound):
                await call(name, tenant=None)
        message = world.message("asha@bücher.example")
        assert await admit(world, message) == Accepted(), "and is written to again"

    # ------------------------------------------------------------------------------------------------ intake

    @pytest.mark.parametrize("to", [ASHA, "ASHA@Shop.in"])
    async def test_a_request_to_a_suppressed_recipient_is_not_stored_before_it_says_so(
        self, world: LedgerWorld, to: str
    ) -> None:
        await enter(world)
        refused, fine = world.message(to), world.message("ravi@shop.in")
        assert await admit(world, refused, fine) == Suppressed(frozenset({refused.id}))
        assert not await is_stored(world, refused)
        assert not await is_stored(world, fine)
        acceptance = Acceptance(messages=(refused, fine), states=(State.SUPPRESSED, State.QUEUED))
        assert await world.ledger.intake.accept([acceptance], supervisor=ME) == [Accepted()]
        assert [await world.state(m) for m in (refused, fine)] == [State.SUPPRESSED, State.QUEUED]

    @pytest.mark.parametrize("spelling", ["asha@bücher.example", "Asha@xn--bcher-kva.example"])
    @pytest.mark.parametrize("to", ["Asha@bücher.example", "asha@XN--bcher-kva.example"])
    async def test_an_internationalised_domain_is_known_in_both_spellings(
        self, world: LedgerWorld, spelling: str, to: str
    ) -> None:
        await enter(world, spelling)
        message = world.message(to)
        assert await admit(world, message) == Suppressed(frozenset({message.id}))

    async def test_a_request_beside_it_is_stored(self, world: LedgerWorld) -> None:
        await enter(world)
        refused, fine = world.message(ASHA), world.message(NUMBER)
        one, two = (Acceptance(messages=(m,), states=(State.QUEUED,)) for m in (refused, fine))
        answers = await world.ledger.intake.accept([one, two, one], supervisor=ME)
        assert answers == [Suppressed(frozenset({refused.id})), Accepted(), Suppressed(frozenset({refused.id}))]
        assert [await is_stored(world, m) for m in (refused, fine)] == [False, True]

    async def test_the_other_tenant_and_the_other_channel_are_not_meant(self, world: LedgerWorld) -> None:
        await enter(world, tenant="acme")
        await enter(world, ASHA, channel=Channel.SMS)
        assert await admit(world, world.message(ASHA)) == Accepted()

    async def test_its_idempotency_key_is_kept_with_the_answer_that_is_given_in_the_end(
        self, world: LedgerWorld
    ) -> None:
        await enter(world)
        message = world.message(ASHA)
        assert await admit(world, message, key="1") == Suppressed(frozenset({message.id}))
        assert await world.ledger.intake.recall("k", "r", "1", b"f") is None
        assert await admit(world, message, state=State.SUPPRESSED, key="1") == Accepted()
        assert await admit(world, world.message(ASHA), key="1") == Replay(status=202, body=b"suppressed")

    async def test_a_key_that_came_twice_in_one_commit_is_judged_by_what_is_stored(self, world: LedgerWorld) -> None:
        await enter(world)

        def keyed(fingerprint: bytes) -> Acceptance:
            record = IdempotencyRecord(
                key_id="k", route="r", key="1", fingerprint=fingerprint, status=202, body=b"queued"
            )
            return Acceptance(messages=(first,), states=(State.QUEUED,), idempotency=(record,))

        first = world.message(ASHA)
        answers = await world.ledger.intake.accept([keyed(b"f"), keyed(b"f")], supervisor=ME)
        assert answers == [Suppressed(frozenset({first.id}))] * 2
        assert await world.ledger.intake.recall("k", "r", "1", b"f") is None

    async def test_a_known_key_is_answered_as_before_whoever_was_suppressed_since(self, world: LedgerWorld) -> None:
        message = world.message(ASHA)
        assert await admit(world, message, key="1") == Accepted()
        await enter(world)
        assert await admit(world, world.message(ASHA), key="1") == Replay(status=202, body=b"queued")
        record = IdempotencyRecord(key_id="k", route="r", key="1", fingerprint=b"other", status=202, body=b"")
        other = Acceptance(messages=(world.message(ASHA),), states=(State.QUEUED,), idempotency=(record,))
        assert await world.ledger.intake.accept([other], supervisor=ME) == [Mismatch()]

    # ------------------------------------------------------------------------------------- what waits already

    @pytest.mark.parametrize("to", [ASHA, "Asha@SHOP.in", NUMBER])
    async def test_an_entry_takes_what_waits_for_its_recipient(self, world: LedgerWorld, to: str) -> None:
        queued, scheduled = await world.queued(to), await world.scheduled(60.0, to=to)
        others = [await world.queued("ravi@shop.in"), await world.queued(to, tenant="acme"), await world.sent(to=to)]
        entered = await enter(world, to.lower())
        assert entered.moved == 2
        assert [await world.state(m) for m in (queued, scheduled)] == [State.SUPPRESSED] * 2
        assert [await world.state(m) for m in others] == [State.QUEUED, State.QUEUED, State.SENT]
        standing = (await world.get(scheduled)).standing
        assert (standing.waiting_for, standing.waiting_provider, standing.provider) == (None, None, None)
        assert await world.try_claim(queued.id, scheduled.id) == []
        census = await world.ledger.stats.census()
        channel = queued.channel
        assert census.messages[channel, State.SUPPRESSED] == census.entered[channel, State.SUPPRESSED] == 2
        assert await world.ledger.stats.drift() == 0

    async def test_entered_again_it_takes_what_came_to_wait_meanwhile(self, world: LedgerWorld) -> None:
        assert (await enter(world)).moved == 0
        await world.accept(message := world.message(ASHA), state=State.SUPPRESSED)
        assert (await enter(world)).moved == 0
        assert await world.state(message) is State.SUPPRESSED

    async def test_an_open_claim_ends_as_it_may(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        claimed = await world.claim(message)
        assert (await enter(world)).moved == 0
        assert await world.state(message) is State.SENDING
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT

    async def test_what_comes_back_after_its_claim_is_suppressed(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        claimed = await world.claim(message)
        await enter(world)
        finished = await world.finish(claimed, Answer(outcome=Outcome.DEFERRED), AGAIN)
        assert (finished.state, finished.applied, finished.due_in_s) == (State.SUPPRESSED, True, None)
        view = await world.get(message)
        assert (view.standing.state, len(view.attempts)) == (State.SUPPRESSED, 1)
        assert await world.ledger.delivery.load([message.id]) == []

    async def test_what_is_released_is_suppressed(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        claimed = await world.claim(message)
        await enter(world)
        await world.ledger.delivery.release([(message.id, claimed.number)], supervisor=ME)
        assert await world.state(message) is State.SUPPRESSED

    async def test_what_a_reaper_returns_is_suppressed(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        claimed = await world.claim(message)
        await enter(world)
        assert (await world.reclaim(claimed)).state is State.SUPPRESSED

    async def test_late_truth_does_not_move_what_was_suppressed(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        claimed = await world.claim(message)
        await world.reclaim(claimed)
        await enter(world)
        finished = await world.finish(claimed, ACCEPTED, SENT)
        assert (finished.state, finished.applied) == (State.SUPPRESSED, False)
        [attempt] = (await world.get(message)).attempts
        assert str(attempt.settled) == "accepted"

    # ---------------------------------------------------------------------------------------- what ended before

    async def test_a_redrive_leaves_it_alone_and_says_so(self, world: LedgerWorld) -> None:
        refused, fine = await world.failed(to="Asha@shop.in"), await world.failed(to="ravi@shop.in")
        await enter(world)
        run = await world.ledger.operations.dry_run(
            OperationKind.REDRIVE, ids=[refused.id, fine.id], wanted=None, tenant=None, max_redrives=3
        )
        assert (run.matched, run.eligible, run.skipped) == (2, 1, {"suppressed": 1})
        run = await world.ledger.operations.dry_run(
            OperationKind.REDRIVE, ids=None, wanted=DeadLetterFilter(), tenant=None, max_redrives=3
        )
        assert (run.matched, run.eligible, run.skipped) == (2, 1, {"suppressed": 1})
        assert await redrive(world, refused) == (0, {refused.id: "suppressed"})
        assert await redrive(world, fine) == (1, {})
        assert await world.state(refused) is State.FAILED
        assert (await world.ledger.dead_letters.get(refused.id, tenant=None)).state is DeadLetterState.OPEN

    async def test_it_can_still_be_archived_or_discarded(self, world: LedgerWorld) -> None:
        message = await world.failed(to=ASHA)
        await enter(world)
        for kind in (OperationKind.ARCHIVE, OperationKind.DISCARD):
            run = await world.ledger.operations.dry_run(
                kind, ids=[message.id], wanted=None, tenant=None, max_redrives=3
            )
            assert run.eligible == 1

    async def test_an_archived_one_is_not_redriven_either(self, world: LedgerWorld) -> None:
        message = await world.failed(to=ASHA)
        await world.advance(100)
        assert await world.ledger.retention.archive(dead_letters_after_s=50, messages_after_s=50, limit=9) == 1
        await enter(world)
        assert await redrive(world, message) == (0, {message.id: "suppressed"})

    async def test_an_automatic_retry_is_left_out_for_good(self, world: LedgerWorld) -> None:
        message = await world.failed(to=ASHA, move=replace(DEAD, auto_retry_in_s=50.0))
        await enter(world)
        await world.advance(51)
        assert await world.ledger.dead_letters.auto_retry(limit=9, supervisor=ME, expires_after_s=DAY_S) == []
        letter = await world.ledger.dead_letters.get(message.id, tenant=None)
        assert (letter.state, letter.next_auto_retry_at) == (DeadLetterState.OPEN, None)

    # --------------------------------------------------------------------------------- an answer that says so

    async def test_an_answer_may_enter_its_recipient(self, world: LedgerWorld) -> None:
        message, waits = await world.queued(ASHA), await world.queued(ASHA)
        finished = await world.finish(await world.claim(message), GONE, DEAD)
        assert (finished.state, await world.state(waits)) == (State.FAILED, State.SUPPRESSED)
        [entry] = await world.ledger.suppressions.list(SuppressionFilter(), tenant="default", before=None, limit=9)
        assert (entry.recipient, entry.reason, entry.provider) == (ASHA, SuppressionReason.INVALID, "p1")
        assert (entry.message_id, entry.detail) == (message.id, REJECTED.detail)

    async def test_its_own_message_does_not_try_again(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        assert (await world.finish(await world.claim(message), GONE, AGAIN)).state is State.SUPPRESSED

    async def test_an_answer_that_came_late_counts_all_the_same(self, world: LedgerWorld) -> None:
        message = await world.queued(ASHA)
        claimed = await world.claim(message)
        await world.finish(claimed, UNKNOWN, AGAIN)
        finished = await world.finish(claimed, GONE, DEAD)
        assert (finished.applied, finished.state) == (False, State.SUPPRESSED)
        other = world.message(ASHA)
        assert await admit(world, other) == Suppressed(frozenset({other.id}))
