"""The relay in virtual time: new work reaches the lists, and all of it again after Redis was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import structlog
import trio

from heliograph.actors import relay as module
from heliograph.actors.kernel.actor import Mailbox
from heliograph.actors.model.message import LANES, Channel, Priority, State
from heliograph.actors.ports.ledger import ClaimRequest, Generation
from heliograph.actors.ports.queue import Hint, Later
from heliograph.actors.queue.memory import MemoryQueue
from heliograph.actors.relay import Dirty, NewWork, Relay, RelayMessage
from tests.support.stage import Stage

ROOM = dict.fromkeys(Priority, 100_000)


@dataclass
class Member:
    name: str
    queue: MemoryQueue
    mailbox: Mailbox[RelayMessage]
    scope: trio.CancelScope

    async def tell(self, hints: Sequence[Hint], later: Sequence[Later] = ()) -> None:
        await self.mailbox.ref.tell(NewWork(hints, later))


@pytest.fixture
async def stage(autojump_clock: object, nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


async def join(stage: Stage, name: str) -> Member:
    await stage.ledger.cluster.join(name, roles=["delivery"], metrics_url=None)
    queue = stage.queue(name)
    mailbox, scope = await stage.start("relay", lambda: Relay(stage.ledger, queue, supervisor=name, clock=stage.clock))
    await trio.sleep(2)  # until a first filling of the lists is over
    return Member(name, queue, mailbox, scope)


def in_lanes(stage: Stage) -> list[str]:
    """Ids in the lanes in use, lane by lane in the order of LANES."""
    data = stage.redis.data
    lists = data.lists.get(data.generation or "")
    return [] if lists is None else [message_id for lane in LANES for message_id in lists.lanes[lane]]


def delayed(stage: Stage) -> set[str]:
    lists = stage.redis.data.lists[stage.redis.data.generation or ""]
    return {hint.message_id for each in lists.later.values() for hint in each.due_us}


def ids(hints: Sequence[Hint]) -> list[str]:
    return [hint.message_id for hint in hints]


async def test_new_work_is_pushed_and_delayed_work_is_delayed(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    now, soon, later = await stage.accept(3)
    await member.tell([now], [Later(soon, -1.0), Later(later, 60.0)])
    await trio.sleep(0.01)
    assert in_lanes(stage) == ids([now, soon])
    assert delayed(stage) == {later.message_id}


async def test_it_is_ready_only_when_the_lists_are_open(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    assert await member.queue.current() is not None
    assert await member.queue.take(Channel.SMS, ROOM, most=1, bulk_share=0, wait_s=0) == []


async def test_it_does_not_keep_others_from_starting_while_redis_is_away(stage: Stage, autojump_clock: object) -> None:
    stage.redis.down(True)
    hints = await stage.accept(2)
    member = await join(stage, "a")
    await member.tell(hints[:1])
    await trio.sleep(30)
    stage.redis.down(False)
    await trio.sleep(2.5)
    assert set(in_lanes(stage)) == set(ids(hints)), "the ledger's as well as what it was told"


async def test_work_that_could_not_be_pushed_is_kept_and_pushed_when_redis_is_back(
    stage: Stage, autojump_clock: object
) -> None:
    member = await join(stage, "a")
    await trio.sleep(5)
    with structlog.testing.capture_logs() as logs:
        stage.redis.down(True)
        now, soon, far = await stage.accept(3)
        await member.tell([now])
        await member.tell([], [Later(soon, 20.0), Later(far, 100.0)])
        await trio.sleep(40)
        stage.redis.down(False)
        await trio.sleep(2.5)
    assert in_lanes(stage) == ids([now, soon]), "no walk over the ledger, for nothing was lost"
    assert delayed(stage) == {far.message_id}
    _, next_s = await member.queue.wake(Channel.SMS, limit=1)
    assert next_s is not None
    assert 56 < next_s < 60, "as long as it had to wait here, it has to wait less there"
    told = [entry["event"] for entry in logs]
    assert sorted(told) == [
        "relay.generation.resumed",
        "relay.generation.waits",
        "relay.resumed",
        "relay.waits",
    ], "once, not at every try"


async def test_more_than_can_be_kept_is_found_in_the_ledger(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP", 10)
    member = await join(stage, "a")
    stage.redis.down(True)
    hints = await stage.accept(30)
    for hint in hints:
        await member.tell([hint])
    await trio.sleep(20)
    stage.redis.down(False)
    await trio.sleep(3)
    assert set(in_lanes(stage)) == set(ids(hints))


async def test_dirty_makes_everything_good_that_waits(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    hints, scheduled = await stage.accept(2500), await stage.accept(in_s=100.0)
    await trio.sleep(5)
    assert in_lanes(stage) == []
    await member.mailbox.ref.tell(Dirty())
    await trio.sleep(1)
    assert sorted(in_lanes(stage)) == sorted(ids(hints))
    assert delayed(stage) == set(ids(scheduled))


async def test_after_a_loss_all_that_waits_is_there_again_urgent_first(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    pushes: list[list[Hint]] = []
    push = member.queue.push

    async def watched(hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        pushes.append([*hints, *(each.hint for each in later)])
        await push(hints, later=later, front=front)

    member.queue.push = watched  # type: ignore[method-assign]
    bulk = await stage.accept(1500, priority=Priority.BULK)
    urgent = await stage.accept(1500, priority=Priority.URGENT)
    await stage.accept(3)
    [claimed] = await stage.accept()
    await stage.ledger.delivery.claim([ClaimRequest(claimed.message_id, "p", 1000.0)], supervisor="a")
    later = await stage.accept(2, in_s=300.0)
    stage.redis.flush()
    await trio.sleep(1.5)
    assert len(in_lanes(stage)) == 3003
    assert delayed(stage) == set(ids(later))
    assert claimed.message_id not in in_lanes(stage)
    order = [hint.message_id for page in pushes for hint in page]
    assert order[:1500] == ids(urgent), "the oldest first"
    assert order[-1500:] == ids(bulk)


async def test_work_goes_on_while_the_lists_are_filled(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 1)
    member = await join(stage, "a")
    push = member.queue.push

    async def slow(hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        await trio.sleep(0.1)
        await push(hints, later=later, front=front)

    member.queue.push = slow  # type: ignore[method-assign]
    await stage.accept(100)
    stage.redis.flush()
    await trio.sleep(3)
    [fresh] = await stage.accept(priority=Priority.URGENT)
    await member.tell([fresh])
    await trio.sleep(0.5)
    assert 10 < len(in_lanes(stage)) < 50
    assert in_lanes(stage)[0] == fresh.message_id
    await trio.sleep(10)
    assert len(set(in_lanes(stage))) == 101


async def test_a_loss_while_the_lists_are_filled_begins_anew(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    member = await join(stage, "a")
    push = member.queue.push
    calls = 0

    async def lossy(hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            stage.redis.flush()
        await push(hints, later=later, front=front)

    member.queue.push = lossy  # type: ignore[method-assign]
    hints = await stage.accept(200)
    stage.redis.flush()
    await trio.sleep(4)
    assert sorted(in_lanes(stage)) == sorted(ids(hints))


async def test_lists_of_an_older_life_of_redis_are_never_taken_for_ours(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    [old] = await stage.accept()
    await member.tell([old])
    await trio.sleep(1)
    file = stage.redis.snapshot()
    assert await member.queue.take(Channel.SMS, ROOM, most=1, bulk_share=0, wait_s=0) == [old]
    await stage.ledger.messages.cancel(old.message_id, tenant=None, supervisor="a")
    await member.queue.settle([old.message_id])
    before = await stage.ledger.cluster.generation()
    stage.redis.replace(file)
    await trio.sleep(2)
    after = await stage.ledger.cluster.generation()
    assert before is not None
    assert after is not None
    assert (after.name != before.name, after.run_id) == (True, stage.redis.run_id)
    assert in_lanes(stage) == []


async def test_of_several_one_renews_and_fills_and_all_go_on(stage: Stage, autojump_clock: object) -> None:
    members = [await join(stage, name) for name in "abc"]
    hints = await stage.accept(50)
    await trio.sleep(10)
    for loss in range(3):
        if loss:
            stage.redis.flush()
        else:
            stage.redis.replace()
        await trio.sleep(3)
        assert sorted(in_lanes(stage)) == sorted(ids(hints)), "once, by one of them"
        for member in members:
            await member.queue.sweep()


async def test_new_work_told_at_the_moment_of_a_loss_is_not_lost(stage: Stage, autojump_clock: object) -> None:
    members = [await join(stage, name) for name in "ab"]
    stage.redis.flush()
    hints = []
    for step in range(200):
        [hint] = await stage.accept()
        hints.append(hint)
        await members[step % 2].tell([hint])
        await trio.sleep(0.01)
    await trio.sleep(3)
    assert set(in_lanes(stage)) == set(ids(hints))


async def test_a_generation_whose_proposal_was_never_answered_is_filled_all_the_same(
    stage: Stage, autojump_clock: object
) -> None:
    await join(stage, "a")
    hints = await stage.accept(5)
    stage.lost_answers.add("cluster.renew_generation")
    stage.redis.flush()
    await trio.sleep(5)
    assert stage.lost_answers == set()
    assert in_lanes(stage) == ids(hints)


async def test_one_that_dies_while_filling_is_succeeded(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await join(stage, "a")
    hints = await stage.accept(20)

    async def dies(*_: object, **__: object) -> None:
        first.scope.cancel()
        await trio.sleep_forever()

    monkeypatch.setattr(first.queue, "push", dies)
    stage.redis.flush()
    await trio.sleep(2)
    await join(stage, "b")
    await trio.sleep(20)
    assert in_lanes(stage) == [], "the dead one is not known to be dead yet"
    await stage.ledger.cluster.leave("a")
    await trio.sleep(6)
    assert sorted(in_lanes(stage)) == sorted(ids(hints))


async def test_a_second_loss_is_not_hidden_by_one_that_had_not_seen_the_first(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    await join(stage, "a")
    late = await join(stage, "b")
    hints = await stage.accept(20)
    asleep, server = trio.Event(), late.queue.server

    async def asks_late() -> str:
        await asleep.wait()
        return await server()

    monkeypatch.setattr(late.queue, "server", asks_late)
    await trio.sleep(1.5)  # its next look has begun; that of the other one is half a second away
    before = await stage.ledger.cluster.generation()
    stage.redis.flush()
    await trio.sleep(1)
    assert in_lanes(stage) == ids(hints)
    assert await stage.ledger.cluster.generation() != before
    stage.redis.flush()
    asleep.set()
    await trio.sleep(3)
    assert in_lanes(stage) == ids(hints)


async def test_one_that_dies_before_it_opened_what_it_renewed_is_succeeded_in_seconds(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await join(stage, "a")
    hints = await stage.accept(20)

    async def dies(*_: object, **__: object) -> None:
        first.scope.cancel()
        await trio.sleep_forever()

    monkeypatch.setattr(first.queue, "open", dies)
    stage.redis.flush()
    await trio.sleep(2)
    assert first.scope.cancelled_caught
    second = await join(stage, "b")
    await trio.sleep(module.OPEN_S)
    assert await second.queue.current() is not None
    assert in_lanes(stage) == ids(hints)


async def test_one_that_went_back_to_older_lists_is_put_right(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    [hint] = await stage.accept()
    await member.tell([hint])
    await trio.sleep(1)
    slow = stage.queue("slow")
    await slow.open("gen_of_long_ago")
    [other] = await stage.accept()
    await member.tell([other])
    await trio.sleep(2)
    assert in_lanes(stage) == ids([hint, other])


async def test_the_ledger_away_at_a_loss_only_takes_time(stage: Stage, autojump_clock: object) -> None:
    await join(stage, "a")
    hints = await stage.accept(5)
    stage.ledger_down = True
    stage.redis.flush()
    await trio.sleep(60)
    assert in_lanes(stage) == []
    stage.ledger_down = False
    await trio.sleep(2.5)
    assert in_lanes(stage) == ids(hints)


async def test_filling_goes_on_where_an_outage_stopped_it(
    stage: Stage, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    member = await join(stage, "a")
    push = member.queue.push
    calls = 0

    async def failing(hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        nonlocal calls
        calls += 1
        stage.ledger_down = calls == 6
        await push(hints, later=later, front=front)

    member.queue.push = failing  # type: ignore[method-assign]
    hints = await stage.accept(100)
    stage.redis.flush()
    await trio.sleep(10)
    assert len(in_lanes(stage)) == 60
    stage.ledger_down = False
    await trio.sleep(3)
    assert in_lanes(stage) == ids(hints)


async def test_a_scheduled_message_that_is_due_when_the_lists_are_filled_is_queued(
    stage: Stage, autojump_clock: object
) -> None:
    await join(stage, "a")
    [hint] = await stage.accept(in_s=10.0)
    await trio.sleep(20)
    assert await stage.state(hint) is State.SCHEDULED
    stage.redis.flush()
    await trio.sleep(3)
    assert in_lanes(stage) == [hint.message_id]
    assert await stage.state(hint) is State.QUEUED


async def test_hints_stranded_in_our_hand_come_back_within_ten_seconds(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    [hint] = await stage.accept()
    await member.tell([hint])
    await trio.sleep(1)
    stage.redis.lose_replies(1)
    with pytest.raises(module.QueueDown):
        await member.queue.take(Channel.SMS, ROOM, most=1, bulk_share=0, wait_s=0)
    assert in_lanes(stage) == []
    await trio.sleep(10)
    assert in_lanes(stage) == [hint.message_id]


async def test_the_audit_finds_what_is_in_no_list_once(stage: Stage, autojump_clock: object) -> None:
    members = [await join(stage, name) for name in "ab"]
    lost, held = await stage.accept(2)
    await members[0].tell([held])
    await trio.sleep(1)
    assert await members[1].queue.take(Channel.SMS, ROOM, most=1, bulk_share=0, wait_s=0) == [held]
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(45)
        assert in_lanes(stage) == []
        await trio.sleep(200)
    assert in_lanes(stage).count(lost.message_id) == 1, "by one of them"
    mended = [entry for entry in logs if entry["event"] == "relay.mended"]
    assert [(entry["lane"], entry["hints"], entry["log_level"]) for entry in mended] == [("sms:normal", 1, "warning")]


async def test_the_audit_mends_nothing_where_nothing_is_lost(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    await member.tell(await stage.accept(50), [Later(hint, 900.0) for hint in await stage.accept(5, in_s=900.0)])
    await trio.sleep(0.5)
    await member.queue.take(Channel.SMS, ROOM, most=20, bulk_share=0, wait_s=0)
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(100)
        assert len(in_lanes(stage)) == 30
        await trio.sleep(500)
    assert [entry["event"] for entry in logs] == ["relay.swept"], "of what a dispatcher forgot"
    assert len(in_lanes(stage)) == 50


async def test_told_to_finish_it_pushes_what_waits_and_ends(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    hints = await stage.accept(50)
    for hint in hints:
        await member.tell([hint])
    member.mailbox.close()
    await trio.sleep(0.1)
    assert in_lanes(stage) == ids(hints)
    assert not member.scope.cancel_called


async def test_told_to_finish_while_redis_is_away_it_does_not_hang(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    stage.redis.down(True)
    await member.tell(await stage.accept())
    await trio.sleep(3)
    with structlog.testing.capture_logs() as logs:
        member.mailbox.close()
        await trio.sleep(0.1)
    assert [(entry["event"], entry["hints"]) for entry in logs] == [("relay.leaves", 1)]


async def test_a_new_supervisor_on_a_running_cluster_changes_nothing(stage: Stage, autojump_clock: object) -> None:
    member = await join(stage, "a")
    hints = await stage.accept(5)
    await member.tell(hints)
    await trio.sleep(1)
    before = await stage.ledger.cluster.generation()
    await join(stage, "b")
    await trio.sleep(30)
    assert await stage.ledger.cluster.generation() == before
    assert isinstance(before, Generation)
    assert in_lanes(stage) == ids(hints)
