"""What every ledger must do around the messages: dead letters, operations, keys, cluster, counts, retention."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.actors.model.deadletter import (
    DeadLetterFilter,
    DeadLetterState,
    Operation,
    OperationKind,
    OperationState,
)
from heliograph.actors.model.errors import Conflict, NotFound
from heliograph.actors.model.identity import new_id
from heliograph.actors.model.message import LANES, Channel, Lane, Message, Priority, Reason, State
from heliograph.actors.model.provider import BreakerState, ForcedBreaker, Pause, ProviderReport
from heliograph.actors.ports.ledger import (
    RESUMED_S,
    Acceptance,
    Generation,
    IdempotencyRecord,
    MessageFilter,
    WaitingHint,
)
from tests.contract.ledger_world import (
    ACCEPTED,
    ANY_STATE,
    DAY_S,
    DEAD,
    DEFERRED,
    ME,
    OTHER,
    SENT,
    LedgerWorld,
)

REDRIVE, ARCHIVE, DISCARD = OperationKind.REDRIVE, OperationKind.ARCHIVE, OperationKind.DISCARD
OPEN: Final = DeadLetterFilter()
EXHAUSTED: Final = replace(DEAD, reason=Reason.ATTEMPTS_EXHAUSTED, cause="Greylisted", code="451", auto_retry_in_s=60.0)
YEAR_S: Final = 365 * DAY_S


async def operate(world: LedgerWorld, kind: OperationKind, *messages: Message, **fields: object) -> Operation:
    known: dict[str, object] = {
        "ids": [m.id for m in messages], "wanted": None, "tenant": None, "rate": None, "reason": None, "actor": None
    }  # fmt: skip
    operation_id = new_id("op", world.now() + timedelta(seconds=next(world.numbers)))
    return await world.ledger.operations.create(operation_id, kind, **known | fields)  # type: ignore[arg-type]


async def step(
    world: LedgerWorld, *, limit: int = 100, max_redrives: int = 10
) -> tuple[list[WaitingHint], float | None]:
    return await world.ledger.operations.step(
        limit=limit, max_redrives=max_redrives, expires_after_s=DAY_S, supervisor=ME
    )


async def done(world: LedgerWorld, kind: OperationKind, *messages: Message, **fields: object) -> Operation:
    """Create an operation and work on it to its end."""
    operation = await operate(world, kind, *messages, **fields)
    for _ in range(100):
        _, again_s = await step(world)
        if again_s is None:
            return await world.ledger.operations.get(operation.id, tenant=None)
        await world.advance(again_s + 0.01)
    raise AssertionError("the operation did not end")


async def letter_state(world: LedgerWorld, message: Message) -> DeadLetterState:
    return (await world.ledger.dead_letters.get(message.id, tenant=None)).state


class DeadLetterSuite:
    async def test_a_dead_letter_is_its_tenants_own(self, world: LedgerWorld) -> None:
        message = await world.failed(tenant="shop")
        get = world.ledger.dead_letters.get
        assert (await get(message.id, tenant="shop")).id == message.id
        for tenant, message_id in (("rival", message.id), (None, "msg_unknown"), (None, (await world.sent()).id)):
            with pytest.raises(NotFound):
                await get(message_id, tenant=tenant)

    async def test_a_list_holds_the_open_ones_newest_first_and_goes_on_before_a_cursor(
        self, world: LedgerWorld
    ) -> None:
        ids = []
        for _ in range(4):
            ids.append((await world.failed()).id)
            await world.advance(1)
        gone = await world.failed()
        await done(world, DISCARD, gone)
        letters = world.ledger.dead_letters
        assert [x.id for x in await letters.list(OPEN, tenant=None, before=None, limit=2)] == ids[:-3:-1]
        assert [x.id for x in await letters.list(OPEN, tenant=None, before=ids[2], limit=9)] == ids[1::-1]
        assert [x.id for x in await letters.list(ANY_STATE, tenant=None, before=None, limit=1)] == [gone.id]

    async def test_many_of_one_moment_are_each_listed_once(self, world: LedgerWorld) -> None:
        messages = [world.message() for _ in range(7)]
        await world.accept(*messages)
        await world.ledger.delivery.give_up(
            [m.id for m in messages], reason=Reason.NO_ROUTE, cause="no route", auto_retry_in_s=None
        )
        seen: list[str] = []
        before = None
        while page := await world.ledger.dead_letters.list(OPEN, tenant=None, before=before, limit=3):
            seen += [x.id for x in page]
            before = page[-1].id
        assert sorted(seen) == sorted(m.id for m in messages)
        assert seen == sorted(seen, reverse=True)

    async def test_a_list_can_be_narrowed_by_each_field(self, world: LedgerWorld) -> None:
        a = await world.failed(tags=("otp",))
        b = await world.failed(
            to="asha@shop.in", answer=DEFERRED, move=replace(EXHAUSTED, detail="Try later, 50%"), provider="p2"
        )
        c = await world.failed(tenant="shop")
        await done(world, ARCHIVE, c)

        async def found(**wanted: object) -> set[str]:
            letters = await world.ledger.dead_letters.list(
                DeadLetterFilter(**wanted), tenant=None, before=None, limit=9  # type: ignore[arg-type]
            )  # fmt: skip
            return {x.id for x in letters}

        assert await found() == {a.id, b.id}
        assert await found(state=DeadLetterState.ARCHIVED) == {c.id}
        assert await found(state=None) == {a.id, b.id, c.id}
        assert await found(channel=Channel.EMAIL) == {b.id}
        assert await found(provider="p1") == {a.id}
        assert await found(reason=Reason.REJECTED) == {a.id}
        assert await found(code="451") == {b.id}
        assert await found(cause="No such user") == {a.id}
        assert await found(tag="otp") == {a.id}
        assert await found(text="NO SUCH") == {a.id}
        assert await found(text="asha@") == {b.id}
        assert await found(text="try later") == {b.id}
        assert await found(text="50%") == {b.id}
        assert await found(text="%") == {b.id}
        assert await found(text="_") == set()
        assert await found(provider="p2", reason=Reason.REJECTED) == set()

    async def test_a_list_can_be_narrowed_by_time_and_tenant(self, world: LedgerWorld) -> None:
        old = await world.failed(tenant="shop")
        await world.advance(600)
        new = await world.failed(tenant="rival")
        between = world.now() - timedelta(seconds=300)
        letters = world.ledger.dead_letters
        since = await letters.list(DeadLetterFilter(since=between), tenant=None, before=None, limit=9)
        until = await letters.list(DeadLetterFilter(until=between), tenant=None, before=None, limit=9)
        shop = await letters.list(OPEN, tenant="shop", before=None, limit=9)
        assert ([x.id for x in since], [x.id for x in until]) == ([new.id], [old.id])
        assert [x.id for x in shop] == [old.id]

    async def test_groups_hold_failures_of_one_cause_largest_first(self, world: LedgerWorld) -> None:
        exhausted = await world.failed(answer=DEFERRED, move=EXHAUSTED, provider="p2")
        first = await world.failed()
        await world.advance(10)
        middle, last = await world.failed(), await world.failed(tenant="shop")
        groups = await world.ledger.dead_letters.groups(OPEN, tenant=None, limit=9)
        assert [(g.cause, g.reason, g.code, g.provider, g.channel, g.count) for g in groups] == [
            ("No such user", Reason.REJECTED, "550 5.1.1", "p1", Channel.SMS, 3),
            ("Greylisted", Reason.ATTEMPTS_EXHAUSTED, "451", "p2", Channel.SMS, 1),
        ]
        assert (groups[0].last_at - groups[0].first_at).total_seconds() >= 10
        assert groups[0].sample_id in {first.id, middle.id, last.id}
        assert groups[1].sample_id == exhausted.id
        assert [g.count for g in await world.ledger.dead_letters.groups(OPEN, tenant="shop", limit=9)] == [1]
        assert len(await world.ledger.dead_letters.groups(OPEN, tenant=None, limit=1)) == 1
        narrowed = DeadLetterFilter(provider="p2")
        assert [g.count for g in await world.ledger.dead_letters.groups(narrowed, tenant=None, limit=9)] == [1]

    async def test_counts_are_of_the_open_ones(self, world: LedgerWorld) -> None:
        await world.failed()
        await world.failed()
        await world.expired()
        await done(world, DISCARD, await world.failed())
        counts = await world.ledger.dead_letters.counts()
        assert {r: n for r, n in counts.items() if n} == {Reason.REJECTED: 2, Reason.EXPIRED: 1}

    async def test_an_automatic_retry_comes_when_it_is_due(self, world: LedgerWorld) -> None:
        retried, _ = await world.failed(answer=DEFERRED, move=EXHAUSTED), await world.failed()
        auto_retry = world.ledger.dead_letters.auto_retry
        assert await auto_retry(limit=9, supervisor=ME, expires_after_s=DAY_S) == []
        await world.advance(61)
        [hint] = await auto_retry(limit=9, supervisor=ME, expires_after_s=7 * DAY_S)
        assert (hint.message_id, hint.lane) == (retried.id, Lane(Channel.SMS, Priority.NORMAL))
        assert hint.due_in_s <= 0
        assert await auto_retry(limit=9, supervisor=ME, expires_after_s=DAY_S) == []
        letter = await world.ledger.dead_letters.get(retried.id, tenant=None)
        assert (letter.state, letter.redrives, letter.next_auto_retry_at) == (DeadLetterState.REDRIVEN, 1, None)
        [loaded] = await world.ledger.delivery.load([retried.id])
        assert loaded.expires_in_s == pytest.approx(7 * DAY_S, abs=60)
        assert (await world.claim(retried)).number == 2

    async def test_automatic_retries_keep_to_their_limit(self, world: LedgerWorld) -> None:
        for _ in range(3):
            await world.failed(answer=DEFERRED, move=EXHAUSTED)
        await world.advance(61)
        auto_retry = world.ledger.dead_letters.auto_retry
        assert [len(await auto_retry(limit=2, supervisor=ME, expires_after_s=DAY_S)) for _ in range(3)] == [2, 1, 0]


class OperationSuite:
    async def test_a_redrive_keeps_id_and_attempts_and_gives_a_new_budget(self, world: LedgerWorld) -> None:
        message = await world.failed(move=replace(DEAD, counted=5, unknowns=1, throttled=2, passes=3, tried=("p1",)))
        await operate(world, REDRIVE, message)
        [hint], again_s = await step(world)
        assert (hint.message_id, again_s) == (message.id, None)
        view = await world.get(message)
        s = view.standing
        assert (s.state, s.reason, s.provider, s.redrives, s.attempts) == (State.QUEUED, None, None, 1, 1)
        assert (s.counted, s.unknowns, s.throttled, s.reclaims, s.passes, s.tried) == (0, 0, 0, 0, 0, ())
        assert (s.expires_at - s.updated_at).total_seconds() == pytest.approx(DAY_S, abs=1)
        assert [a.number for a in view.attempts] == [1]
        assert await letter_state(world, message) is DeadLetterState.REDRIVEN
        claimed = await world.claim(message)
        assert claimed.number == 2
        await world.finish(claimed, ACCEPTED, SENT)
        assert [a.number for a in (await world.get(message)).attempts] == [1, 2]

    async def test_a_redriven_message_that_fails_again_opens_its_dead_letter_again(self, world: LedgerWorld) -> None:
        message = await world.failed()
        await done(world, REDRIVE, message)
        await world.finish(await world.claim(message, "p2"), DEFERRED, EXHAUSTED, provider="p2")
        letter = await world.ledger.dead_letters.get(message.id, tenant=None)
        assert (letter.state, letter.redrives, letter.attempts) == (DeadLetterState.OPEN, 1, 2)
        assert (letter.reason, letter.cause, letter.provider) == (Reason.ATTEMPTS_EXHAUSTED, "Greylisted", "p2")
        assert (await world.ledger.dead_letters.counts())[Reason.ATTEMPTS_EXHAUSTED] == 1

    async def test_an_expired_message_is_redriven_with_a_new_expiry(self, world: LedgerWorld) -> None:
        message = await world.expired()
        await done(world, REDRIVE, message)
        assert await world.ledger.delivery.expire(9) == []
        assert (await world.claim(message)).number == 1

    async def test_archive_takes_open_ones_and_redrive_brings_them_back(self, world: LedgerWorld) -> None:
        message = await world.failed()
        operation = await done(world, ARCHIVE, message)
        assert (operation.state, operation.done) == (OperationState.DONE, 1)
        assert await letter_state(world, message) is DeadLetterState.ARCHIVED
        assert await world.state(message) is State.FAILED
        assert (await done(world, ARCHIVE, message)).skipped == 1
        assert (await done(world, REDRIVE, message)).done == 1
        assert await world.state(message) is State.QUEUED

    async def test_discard_takes_open_and_archived_ones_and_is_the_end(self, world: LedgerWorld) -> None:
        opened, archived = await world.failed(), await world.failed()
        await done(world, ARCHIVE, archived)
        assert (await done(world, DISCARD, opened, archived)).done == 2
        operation = await done(world, REDRIVE, opened, archived)
        assert (operation.done, operation.skipped) == (0, 2)
        assert set(operation.failures) == {(opened.id, "discarded"), (archived.id, "discarded")}

    async def test_each_item_that_is_skipped_says_why(self, world: LedgerWorld) -> None:
        good, redriven, discarded = await world.failed(), await world.failed(), await world.failed()
        await done(world, REDRIVE, redriven)
        await done(world, DISCARD, discarded)
        settled = await world.queued()
        claimed = await world.claim(settled)
        await world.reclaim(claimed, DEAD)
        await world.finish(claimed, ACCEPTED, SENT)
        ids = [good.id, redriven.id, discarded.id, settled.id, "msg_unknown", good.id]
        dry = await world.ledger.operations.dry_run(REDRIVE, ids=ids, wanted=None, tenant=None, max_redrives=10)
        assert (dry.matched, dry.eligible) == (5, 1)
        assert dry.skipped == {"redriven": 1, "discarded": 1, "settled": 1, "not_found": 1}
        operation = await done(world, REDRIVE, ids=ids)
        assert (operation.state, operation.total, operation.done, operation.failed, operation.skipped) == (
            OperationState.DONE, 5, 1, 0, 4,
        )  # fmt: skip
        assert set(operation.failures) == {
            (redriven.id, "redriven"),
            (discarded.id, "discarded"),
            (settled.id, "settled"),
            ("msg_unknown", "not_found"),
        }
        assert operation.finished_at is not None

    async def test_a_dry_run_changes_nothing(self, world: LedgerWorld) -> None:
        message = await world.failed()
        before = await world.get(message)
        dry = await world.ledger.operations.dry_run(REDRIVE, ids=None, wanted=OPEN, tenant=None, max_redrives=10)
        assert (dry.matched, dry.eligible, dry.skipped) == (1, 1, {})
        assert await world.get(message) == before
        assert await step(world) == ([], None)

    async def test_a_message_is_redriven_only_so_often(self, world: LedgerWorld) -> None:
        message = await world.failed()
        for _ in range(2):
            await done(world, REDRIVE, message)
            await world.finish(await world.claim(message), DEFERRED, EXHAUSTED)
        dry = await world.ledger.operations.dry_run(REDRIVE, ids=[message.id], wanted=None, tenant=None, max_redrives=2)
        assert (dry.eligible, dry.skipped) == (0, {"max_redrives": 1})
        operation = await operate(world, REDRIVE, message)
        assert await step(world, max_redrives=2) == ([], None)
        operation = await world.ledger.operations.get(operation.id, tenant=None)
        assert operation.failures == ((message.id, "max_redrives"),)

    async def test_a_filter_fixes_its_list_when_the_operation_is_made(self, world: LedgerWorld) -> None:
        matched, _ = await world.failed(), await world.failed(answer=DEFERRED, move=EXHAUSTED)
        operation = await operate(world, REDRIVE, ids=None, wanted=DeadLetterFilter(reason=Reason.REJECTED))
        later = await world.failed()
        hints, _ = await step(world)
        assert (operation.total, [h.message_id for h in hints]) == (1, [matched.id])
        assert await world.state(later) is State.FAILED

    async def test_an_operation_touches_its_tenants_own(self, world: LedgerWorld) -> None:
        mine, theirs = await world.failed(tenant="shop"), await world.failed(tenant="rival")
        by_ids = await operate(world, REDRIVE, mine, theirs, tenant="shop")
        await step(world)
        by_ids = await world.ledger.operations.get(by_ids.id, tenant="shop")
        assert (by_ids.tenant, by_ids.done, by_ids.failures) == ("shop", 1, ((theirs.id, "not_found"),))
        by_filter = await operate(world, DISCARD, ids=None, wanted=OPEN, tenant="shop")
        assert by_filter.total == 0
        for tenant in ("rival", "other"):
            with pytest.raises(NotFound):
                await world.ledger.operations.get(by_ids.id, tenant=tenant)
            with pytest.raises(NotFound):
                await world.ledger.operations.cancel(by_ids.id, tenant=tenant)
            assert await world.ledger.operations.list(tenant=tenant, before=None, limit=9) == []
        assert await world.state(theirs) is State.FAILED

    async def test_an_operation_on_nothing_is_done_at_once(self, world: LedgerWorld) -> None:
        operation = await operate(world, REDRIVE, ids=None, wanted=OPEN)
        assert (operation.state, operation.total) == (OperationState.DONE, 0)
        assert operation.finished_at is not None
        assert await step(world) == ([], None)

    async def test_an_operation_keeps_what_it_was_told(self, world: LedgerWorld) -> None:
        message = await world.failed()
        made = await operate(world, DISCARD, message, rate=2.5, reason="wrong list", actor="key_7", tenant="default")
        kept = await world.ledger.operations.get(made.id, tenant=None)
        assert kept == made
        assert (kept.kind, kept.state, kept.total, kept.rate, kept.reason, kept.actor, kept.finished_at) == (
            DISCARD, OperationState.RUNNING, 1, 2.5, "wrong list", "key_7", None,
        )  # fmt: skip

    async def test_making_an_operation_twice_makes_one(self, world: LedgerWorld) -> None:
        message = await world.failed()
        operation_id = new_id("op", world.now())
        for _ in range(2):
            await world.ledger.operations.create(
                operation_id, REDRIVE, ids=[message.id], wanted=None, tenant=None, rate=None, reason=None, actor=None
            )
        assert len(await world.ledger.operations.list(tenant=None, before=None, limit=9)) == 1
        await step(world)
        assert (await world.ledger.operations.get(operation_id, tenant=None)).done == 1

    async def test_work_goes_in_steps_and_shows_its_progress(self, world: LedgerWorld) -> None:
        messages = [await world.failed() for _ in range(5)]
        operation = await operate(world, REDRIVE, *messages)
        hints, again_s = await step(world, limit=2)
        assert (len(hints), again_s) == (2, 0.0)
        now = await world.ledger.operations.get(operation.id, tenant=None)
        assert (now.state, now.done, now.finished_at) == (OperationState.RUNNING, 2, None)
        assert len((await step(world, limit=2))[0]) == 2
        hints, again_s = await step(world, limit=2)
        assert (len(hints), again_s) == (1, None)
        now = await world.ledger.operations.get(operation.id, tenant=None)
        assert (now.state, now.done) == (OperationState.DONE, 5)
        assert now.finished_at is not None

    async def test_a_rate_is_kept(self, world: LedgerWorld) -> None:
        messages = [await world.failed() for _ in range(3)]
        await operate(world, REDRIVE, *messages, rate=0.1)
        hints, again_s = await step(world)
        assert len(hints) == 1
        assert again_s == pytest.approx(10, abs=1)
        hints, again_s = await step(world)
        assert hints == []
        assert again_s is not None
        assert again_s > 5
        await world.advance(10)
        assert len((await step(world))[0]) == 1
        assert (await step(world))[0] == []
        await world.advance(10)
        hints, again_s = await step(world)
        assert (len(hints), again_s) == (1, None)

    async def test_a_slow_operation_does_not_hold_up_another(self, world: LedgerWorld) -> None:
        slow = [await world.failed() for _ in range(2)]
        quick = await world.failed()
        await operate(world, REDRIVE, *slow, rate=0.1)
        assert len((await step(world))[0]) == 1
        await operate(world, REDRIVE, quick)
        assert [h.message_id for h in (await step(world))[0]] == [quick.id]

    async def test_a_cancelled_operation_skips_what_is_left(self, world: LedgerWorld) -> None:
        messages = [await world.failed() for _ in range(3)]
        operation = await operate(world, REDRIVE, *messages)
        await step(world, limit=1)
        cancelled = await world.ledger.operations.cancel(operation.id, tenant=None)
        assert (cancelled.state, cancelled.done, cancelled.skipped) == (OperationState.CANCELLED, 1, 2)
        assert cancelled.finished_at is not None
        assert await step(world) == ([], None)
        with pytest.raises(Conflict):
            await world.ledger.operations.cancel(operation.id, tenant=None)
        assert sorted([await world.state(m) for m in messages]) == [State.FAILED, State.FAILED, State.QUEUED]

    async def test_a_finished_operation_cannot_be_cancelled(self, world: LedgerWorld) -> None:
        operation = await done(world, DISCARD, await world.failed())
        with pytest.raises(Conflict, match="done"):
            await world.ledger.operations.cancel(operation.id, tenant=None)

    async def test_operations_are_listed_newest_first(self, world: LedgerWorld) -> None:
        made = [(await operate(world, REDRIVE, ids=["msg_unknown"])).id for _ in range(3)]
        operations = world.ledger.operations
        assert [o.id for o in await operations.list(tenant=None, before=None, limit=2)] == made[:-3:-1]
        assert [o.id for o in await operations.list(tenant=None, before=made[1], limit=9)] == [made[0]]

    async def test_what_was_redriven_belongs_to_the_supervisor_that_did_it(self, world: LedgerWorld) -> None:
        message = await world.failed()
        await operate(world, REDRIVE, message)
        await world.ledger.operations.step(limit=9, max_redrives=9, expires_after_s=DAY_S, supervisor=OTHER)
        assert [h.message_id for h in await world.ledger.delivery.touched_by(OTHER, limit=9)] == [message.id]


class KeySuite:
    @staticmethod
    def key(world: LedgerWorld, n: int) -> ApiKey:
        return ApiKey(
            id=f"key_{n}",
            name=f"Key {n}",
            tenant="shop",
            scopes=frozenset({ScopeName.MESSAGES_WRITE, ScopeName.ADMIN}),
            live=n % 2 == 1,
            digest=bytes([n]) * 32,
            created_at=(world.now() + timedelta(seconds=n)).replace(microsecond=0),
            rate=100 if n == 1 else None,
            daily=5000 if n == 1 else None,
        )

    async def test_a_key_is_found_by_its_digest(self, world: LedgerWorld) -> None:
        key = self.key(world, 1)
        await world.ledger.keys.create(key)
        await world.ledger.keys.create(key)
        assert await world.ledger.keys.find(key.digest) == key
        assert await world.ledger.keys.find(bytes(32)) is None
        assert await world.ledger.keys.list() == [key]

    async def test_a_revoked_key_is_found_and_says_since_when(self, world: LedgerWorld) -> None:
        key = self.key(world, 2)
        await world.ledger.keys.create(key)
        revoked = await world.ledger.keys.revoke(key.id)
        assert revoked.revoked_at is not None
        assert await world.ledger.keys.revoke(key.id) == revoked
        assert await world.ledger.keys.find(key.digest) == revoked
        assert await world.ledger.keys.list() == [revoked]

    async def test_a_key_that_is_not_there_cannot_be_revoked(self, world: LedgerWorld) -> None:
        with pytest.raises(NotFound):
            await world.ledger.keys.revoke("key_unknown")


class ClusterSuite:
    async def test_a_supervisor_is_seen_by_the_others_from_its_joining_to_its_leaving(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        await cluster.join(ME, roles=("gateway", "delivery"), metrics_url="http://127.0.0.1:9464/metrics")
        await cluster.join(OTHER, roles=("delivery",), metrics_url=None)
        peers = {p.supervisor: p for p in await cluster.peers()}
        assert set(peers) == {ME, OTHER}
        assert (peers[ME].roles, peers[ME].metrics_url, peers[ME].ended) == (
            ("gateway", "delivery"), "http://127.0.0.1:9464/metrics", False,
        )  # fmt: skip
        await cluster.leave(OTHER)
        await cluster.leave(OTHER)
        assert [p.supervisor for p in await cluster.peers()] == [ME]

    async def test_a_beat_raises_the_counter_and_answers_everybody(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        for supervisor in (ME, OTHER):
            await cluster.join(supervisor, roles=(), metrics_url=None)
        before = {p.supervisor: p.beats for p in await cluster.beat(ME, ())}
        after = {p.supervisor: p.beats for p in await cluster.beat(ME, ())}
        assert after[ME] > before[ME]
        assert after[OTHER] == before[OTHER]

    async def test_a_beat_publishes_its_providers_reports(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        since = world.now().replace(microsecond=0)
        report = ProviderReport(
            name="ses", breaker=BreakerState.OPEN, breaker_since=since, breaker_until=since + timedelta(seconds=10),
            effective_rate=13.5, in_flight=3, handled=42,
        )  # fmt: skip
        await cluster.join(ME, roles=(), metrics_url=None)
        await cluster.beat(ME, [report])
        [peer] = await cluster.peers()
        assert peer.reports == (report,)
        await cluster.beat(ME, ())
        assert (await cluster.peers())[0].reports == ()

    async def test_joining_again_goes_on_with_the_same_row(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        await cluster.join(ME, roles=("delivery",), metrics_url=None)
        [before] = await cluster.beat(ME, ())
        await cluster.join(ME, roles=("delivery",), metrics_url=None)
        [after] = await cluster.beat(ME, ())
        assert after.beats > before.beats

    async def test_one_that_was_buried_and_was_only_slow_is_back_with_its_next_beat(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        for supervisor in (ME, OTHER):
            await cluster.join(supervisor, roles=(), metrics_url=None)
        await cluster.leave(OTHER)
        assert {p.supervisor for p in await cluster.beat(OTHER, ())} == {ME, OTHER}
        assert {p.supervisor for p in await cluster.peers()} == {ME, OTHER}

    async def test_a_generation_is_renewed_by_one_of_those_who_saw_the_old_one(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        one, two, three = (Generation(f"g{n}", f"run{n}") for n in (1, 2, 3))
        assert await cluster.generation() is None
        assert await cluster.renew_generation(None, one) == one
        assert await cluster.renew_generation(None, two) == one
        assert await cluster.renew_generation(one, two) == two
        assert await cluster.renew_generation(one, three) == two
        assert await cluster.generation() == two

    async def test_what_operators_say_holds_until_it_runs_out(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        until = (world.now() + timedelta(seconds=60)).replace(microsecond=0)
        pause = Pause(until=until, reason="maintenance")
        forced = ForcedBreaker(state=BreakerState.OPEN, until=until + timedelta(seconds=600))
        assert await cluster.controls() == []
        await cluster.pause("ses", pause)
        await cluster.force_breaker("ses", forced)
        [said] = await cluster.controls()
        assert (said.provider, said.pause, said.forced) == ("ses", pause, forced)
        await world.advance(61)
        [said] = await cluster.controls()
        assert said.pause is None
        assert said.forced is not None
        assert said.forced.state is BreakerState.OPEN
        await world.advance(601)
        assert await cluster.controls() == []

    async def test_what_operators_take_back_is_gone(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        until = world.now() + timedelta(seconds=60)
        await cluster.pause("ses", Pause(until=until, reason=None))
        await cluster.force_breaker("gmail", ForcedBreaker(state=BreakerState.CLOSED, until=until))
        assert {c.provider for c in await cluster.controls()} == {"ses", "gmail"}
        await cluster.resume("ses")
        await cluster.force_breaker("gmail", None)
        await cluster.force_breaker("unknown", None)
        [said] = await cluster.controls()
        assert (said.provider, said.pause, said.forced) == ("ses", None, None)

    async def test_a_resume_is_told_for_ten_seconds_and_over_a_pause_that_follows(self, world: LedgerWorld) -> None:
        cluster = world.ledger.cluster
        await cluster.resume("ses")
        [first] = await cluster.controls()
        assert first.resumed_at is not None
        await cluster.pause("ses", Pause(until=world.now() + timedelta(seconds=60), reason=None))
        [paused] = await cluster.controls()
        assert paused.resumed_at == first.resumed_at
        await world.advance(1)
        await cluster.resume("ses")
        [second] = await cluster.controls()
        assert second.resumed_at is not None
        assert second.resumed_at > first.resumed_at
        await world.advance(RESUMED_S + 1)
        assert await cluster.controls() == []


class StatsSuite:
    async def test_a_census_names_everything_zeros_too(self, world: LedgerWorld) -> None:
        census = await world.ledger.stats.census()
        every = {(c, s): 0 for c in Channel for s in State}
        assert dict(census.messages) == every
        assert dict(census.entered) == every
        assert dict(census.accepted) == dict.fromkeys(Channel, 0)
        assert dict(census.due) == dict.fromkeys(LANES, 0)
        assert dict(census.oldest_due_age_s) == dict.fromkeys(LANES)
        assert not any(census.dead_letters.values())

    async def test_a_census_counts_where_messages_are(self, world: LedgerWorld) -> None:
        await world.sent()
        await world.sent()
        await world.failed()
        await world.queued("asha@shop.in")
        await world.scheduled(600)
        await world.accept(world.message(), state=State.SUPPRESSED)
        await world.claim(await world.queued())
        census = await world.ledger.stats.census()
        assert {key: n for key, n in census.messages.items() if n} == {
            (Channel.SMS, State.SENT): 2,
            (Channel.SMS, State.FAILED): 1,
            (Channel.EMAIL, State.QUEUED): 1,
            (Channel.SMS, State.SCHEDULED): 1,
            (Channel.SMS, State.SUPPRESSED): 1,
            (Channel.SMS, State.SENDING): 1,
        }
        assert dict(census.accepted) == {Channel.SMS: 6, Channel.EMAIL: 1}
        assert {r: n for r, n in census.dead_letters.items() if n} == {Reason.REJECTED: 1}
        assert set(census.messages) == {(c, s) for c in Channel for s in State}

    async def test_entries_are_counted_for_ever(self, world: LedgerWorld) -> None:
        message = await world.failed()
        await done(world, REDRIVE, message)
        await world.finish(await world.claim(message), ACCEPTED, SENT)
        await world.expired()
        cancelled = await world.queued()
        await world.ledger.messages.cancel(cancelled.id, tenant=None, supervisor=ME)
        await world.advance(400 * DAY_S)
        await world.ledger.retention.archive(dead_letters_after_s=DAY_S, messages_after_s=DAY_S, limit=9)
        census = await world.ledger.stats.census()
        entered = {s: census.entered[Channel.SMS, s] for s in State}
        assert entered[State.FAILED] == entered[State.SENT] == entered[State.EXPIRED] == entered[State.CANCELLED] == 1
        assert entered[State.QUEUED] == 4
        assert entered[State.SENDING] in (0, 2)  # a ledger may leave claims to the counters of each process
        assert sum(census.messages.values()) == 0

    async def test_due_is_counted_by_lane_up_to_a_number_with_the_oldest_age(self, world: LedgerWorld) -> None:
        bulk, normal = Lane(Channel.SMS, Priority.BULK), Lane(Channel.SMS, Priority.NORMAL)
        await world.queued()
        await world.advance(100)
        await world.queued()
        for _ in range(3):
            await world.queued(priority=Priority.BULK)
        await world.scheduled(600, priority=Priority.URGENT)
        await world.claim(await world.queued("asha@shop.in"))
        census = await world.ledger.stats.census()
        assert {lane: n for lane, n in census.due.items() if n} == {bulk: 3, normal: 2}
        assert census.oldest_due_age_s[normal] == pytest.approx(100, abs=5)
        assert {lane for lane, age in census.oldest_due_age_s.items() if age is not None} == {bulk, normal}
        assert (await world.ledger.stats.census(count_to=2)).due[bulk] == 2

    async def test_nothing_drifts_whatever_becomes_of_messages(self, world: LedgerWorld) -> None:
        drift = world.ledger.stats.drift
        await world.sent()
        await world.queued()
        await done(world, REDRIVE, await world.failed())
        await world.claim(await world.queued())
        await world.expired()
        assert await drift() == 0
        await world.advance(40 * DAY_S)
        assert await world.ledger.retention.archive(dead_letters_after_s=DAY_S, messages_after_s=DAY_S, limit=9) == 2
        assert await drift() == 0


class RetentionSuite:
    async def test_an_archived_message_is_found_again_by_its_id_with_all_of_it(self, world: LedgerWorld) -> None:
        message = await world.sent(tags=("otp",), metadata={"order": 7})
        before = await world.get(message)
        await world.advance(31 * DAY_S)
        archive = world.ledger.retention.archive
        assert await archive(dead_letters_after_s=DAY_S, messages_after_s=30 * DAY_S, limit=9) == 1
        after = await world.get(message)
        assert after.archived is True
        assert (after.message.content, after.message.tags, after.message.metadata) == (
            message.content, ("otp",), {"order": 7},
        )  # fmt: skip
        assert (after.standing.state, after.standing.provider, after.standing.attempts) == (State.SENT, "p1", 1)
        assert [a.outcome for a in after.attempts] == [a.outcome for a in before.attempts]
        assert await world.ledger.messages.list(MessageFilter(), tenant=None, before=None, limit=9) == []
        with pytest.raises(NotFound):
            await world.ledger.messages.get(message.id, tenant="rival")
        assert await archive(dead_letters_after_s=DAY_S, messages_after_s=30 * DAY_S, limit=9) == 0

    async def test_archiving_leaves_what_is_young_and_what_waits(self, world: LedgerWorld) -> None:
        waits = await world.queued(expires_at=world.now() + timedelta(days=100))
        old = await world.sent()
        await world.advance(31 * DAY_S)
        young = await world.sent(expires_at=world.now() + timedelta(days=100))
        assert (
            await world.ledger.retention.archive(dead_letters_after_s=30 * DAY_S, messages_after_s=30 * DAY_S, limit=9)
            == 1
        )
        assert [(await world.get(m)).archived for m in (waits, old, young)] == [False, True, False]

    async def test_dead_letters_are_archived_by_their_own_age(self, world: LedgerWorld) -> None:
        letter, sent = await world.failed(), await world.sent()
        redriven = await world.failed()
        await done(world, REDRIVE, redriven)
        await world.finish(await world.claim(redriven), ACCEPTED, SENT)
        await world.advance(31 * DAY_S)
        archive = world.ledger.retention.archive
        assert await archive(dead_letters_after_s=30 * DAY_S, messages_after_s=90 * DAY_S, limit=9) == 2
        assert [(await world.get(m)).archived for m in (letter, redriven, sent)] == [True, True, False]
        assert await letter_state(world, letter) is DeadLetterState.ARCHIVED
        assert await letter_state(world, redriven) is DeadLetterState.REDRIVEN
        assert sum((await world.ledger.dead_letters.counts()).values()) == 0

    async def test_archiving_keeps_to_its_limit(self, world: LedgerWorld) -> None:
        for _ in range(3):
            await world.sent()
        await world.advance(31 * DAY_S)
        archive = world.ledger.retention.archive
        assert [await archive(dead_letters_after_s=1, messages_after_s=1, limit=2) for _ in range(3)] == [2, 1, 0]

    async def test_an_archived_message_is_redriven_back_into_the_hot_tables(self, world: LedgerWorld) -> None:
        message = await world.failed()
        await world.advance(31 * DAY_S)
        await world.ledger.retention.archive(dead_letters_after_s=DAY_S, messages_after_s=DAY_S, limit=9)
        assert (await world.get(message)).archived is True
        operation = await operate(world, REDRIVE, message)
        [hint], _ = await step(world)
        assert hint.message_id == message.id
        assert (await world.ledger.operations.get(operation.id, tenant=None)).done == 1
        view = await world.get(message)
        assert (view.archived, view.standing.state, len(view.attempts)) == (False, State.QUEUED, 1)
        assert await letter_state(world, message) is DeadLetterState.REDRIVEN
        claimed = await world.claim(message)
        assert claimed.number == 2
        assert (await world.finish(claimed, ACCEPTED, SENT)).state is State.SENT
        assert (await world.get(message)).message.content == message.content
        assert await world.ledger.stats.drift() == 0

    async def test_an_answer_for_an_archived_message_is_of_no_effect(self, world: LedgerWorld) -> None:
        message = await world.queued()
        claimed = await world.claim(message)
        await world.reclaim(claimed, DEAD)
        await world.advance(31 * DAY_S)
        await world.ledger.retention.archive(dead_letters_after_s=DAY_S, messages_after_s=DAY_S, limit=9)
        assert (await world.finish(claimed, ACCEPTED, SENT)).applied is False
        assert (await world.get(message)).archived is True

    async def test_bodies_are_removed_but_not_where_a_dead_letter_is_open(self, world: LedgerWorld) -> None:
        sent, letter, waits = await world.sent(), await world.failed(), await world.queued()
        mail = await world.queued("asha@shop.in")
        await world.finish(await world.claim(mail), ACCEPTED, SENT)
        await world.advance(31 * DAY_S)
        young = await world.sent()
        strip = world.ledger.retention.strip_content
        assert await strip(after_s=30 * DAY_S, limit=9) == 2
        assert await strip(after_s=30 * DAY_S, limit=9) == 0
        has_body = [
            "Hello, Asha." in repr((await world.get(m)).message.content) for m in (sent, mail, letter, waits, young)
        ]
        assert has_body == [False, False, True, True, True]
        assert (await world.get(sent)).message.to == sent.to

    async def test_a_months_archive_is_dropped_once_it_is_wholly_older(self, world: LedgerWorld) -> None:
        ancient = await world.sent(made_at=world.now() - timedelta(days=400))
        recent = await world.sent()
        await world.advance(31 * DAY_S)
        retention = world.ledger.retention
        assert await retention.archive(dead_letters_after_s=DAY_S, messages_after_s=DAY_S, limit=9) == 2
        assert await retention.drop(after_s=2 * YEAR_S) == []
        assert len(await retention.drop(after_s=YEAR_S)) == 1
        assert await retention.drop(after_s=YEAR_S) == []
        with pytest.raises(NotFound):
            await world.get(ancient)
        assert (await world.get(recent)).archived is True
        assert await world.ledger.stats.drift() == 0

    async def test_purge_forgets_old_keys_operations_and_supervisors(self, world: LedgerWorld) -> None:
        record = IdempotencyRecord(
            key_id="key_1", route="POST /v1/messages", key="k", fingerprint=b"f" * 32, status=202, body=b"{}"
        )
        await world.ledger.intake.accept([Acceptance(messages=(), states=(), idempotency=(record,))], supervisor=ME)
        operation = await done(world, DISCARD, await world.failed())
        running = await operate(world, DISCARD, await world.failed(), rate=0.1)
        for supervisor in (ME, OTHER):
            await world.ledger.cluster.join(supervisor, roles=(), metrics_url=None)
        await world.ledger.cluster.leave(OTHER)
        purge = world.ledger.retention.purge
        assert await purge(limit=9) == 0
        await world.advance(DAY_S + 60)
        assert await purge(limit=9) == 2
        await world.advance(30 * DAY_S)
        assert await purge(limit=9) == 1
        with pytest.raises(NotFound):
            await world.ledger.operations.get(operation.id, tenant=None)
        assert (await world.ledger.operations.get(running.id, tenant=None)).state is OperationState.RUNNING
        assert [p.supervisor for p in await world.ledger.cluster.peers()] == [ME]


class AftercareSuite(DeadLetterSuite, OperationSuite, KeySuite, ClusterSuite, StatsSuite, RetentionSuite):
    """All that is not a message's way."""
