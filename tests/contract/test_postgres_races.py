"""Two who want the same message at the same moment: each order of events, with a transaction held open in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import psycopg
import pytest
import trio

from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.errors import Conflict
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import Channel, Reason, State, WaitingFor
from heliograph.actors.model.receipt import Effect, Receipt, SuppressionReason
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    Claimed,
    ClaimRequest,
    Entered,
    Entry,
    Finish,
    Finished,
    Park,
    Reported,
    Taken,
)
from tests.contract.ledger_world import ACCEPTED, AGAIN, ME, OTHER, SENT, UNKNOWN, LedgerWorld
from tests.contract.test_ledger_postgres import set_back
from tests.support.postgres import ask, until_waiting_for_a_lock


@pytest.fixture
async def world(postgres_url: str) -> AsyncIterator[LedgerWorld]:
    async def advance(seconds: float) -> None:
        set_back(postgres_url, seconds)

    async with open_ledger(postgres_url, supervisor=ME) as ledger:
        yield LedgerWorld(ledger, advance)


LOCK = "SELECT FROM messages WHERE id = %s FOR NO KEY UPDATE"


async def test_a_claim_that_waited_for_a_cancel_is_not_won(world: LedgerWorld, postgres_url: str) -> None:
    message = await world.queued()
    won: list[object] = []
    with psycopg.connect(postgres_url) as canceller:
        canceller.execute(LOCK, (message.id,))
        async with trio.open_nursery() as nursery:

            async def claim() -> None:
                won.extend(await world.try_claim(message.id))

            nursery.start_soon(claim)
            await until_waiting_for_a_lock(postgres_url)
            canceller.execute("UPDATE messages SET state = 'cancelled' WHERE id = %s", (message.id,))
            canceller.commit()
    assert won == []
    assert await world.state(message) is State.CANCELLED


@pytest.mark.parametrize("edge", ["cancel", "park", "give_up", "expire"])
async def test_whoever_waited_for_a_claim_leaves_the_message_alone(
    world: LedgerWorld, postgres_url: str, edge: str
) -> None:
    message = await world.queued(expires_at=world.now() + timedelta(seconds=30))
    if edge == "expire":
        await world.advance(31)

    async def move() -> None:
        delivery = world.ledger.delivery
        match edge:
            case "cancel":
                with pytest.raises(Conflict, match="sending"):
                    await world.ledger.messages.cancel(message.id, tenant=None, supervisor=OTHER)
            case "park":
                await delivery.park([Park(message.id, 60, WaitingFor.RATE, None)])
            case "give_up":
                await delivery.give_up([message.id], reason=Reason.NO_ROUTE, cause="?", auto_retry_in_s=None)
            case _:
                assert await delivery.expire(9) == []

    with psycopg.connect(postgres_url) as claimer:
        claimer.execute(LOCK, (message.id,))
        claimer.execute(
            "INSERT INTO claims (message_id, channel, number, provider, supervisor, started_at, reclaim_at) "
            "VALUES (%s, 'sms', 1, 'p1', %s, now(), now() + interval '10 s')",
            (message.id, ME),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            if edge != "expire":  # which passes by what somebody else holds
                await until_waiting_for_a_lock(postgres_url)
            claimer.commit()
    view = await world.get(message)
    assert (view.standing.state, view.standing.waiting_for, view.attempts[0].number) == (State.SENDING, None, 1)


async def test_an_answer_that_waited_for_the_reaper_still_counts(world: LedgerWorld, postgres_url: str) -> None:
    message = await world.queued()
    claimed = await world.claim(message)
    finished: list[Finished] = []
    with psycopg.connect(postgres_url) as reaper:
        reaper.execute(LOCK, (message.id,))
        async with trio.open_nursery() as nursery:

            async def finish() -> None:
                finished.append(await world.finish(claimed, ACCEPTED, SENT))

            nursery.start_soon(finish)
            await until_waiting_for_a_lock(postgres_url)
            reaper.execute("DELETE FROM claims")
            reaper.execute("UPDATE messages SET attempts = 1, counted = 1")
            reaper.execute(
                "INSERT INTO attempts (message_id, number, provider, started_at, finished_at, outcome) "
                "VALUES (%s, 1, 'p1', now(), now(), 'unknown')",
                (message.id,),
            )
            reaper.commit()
    assert [(f.state, f.applied) for f in finished] == [(State.SENT, False)]
    [attempt] = (await world.get(message)).attempts
    assert (attempt.outcome, attempt.settled) == (Outcome.UNKNOWN, Settled.ACCEPTED)


async def test_one_message_is_won_by_one_of_many(world: LedgerWorld) -> None:
    ids = [(await world.queued()).id for _ in range(40)]
    won: list[str] = []

    async def claim(n: int) -> None:
        mine = random.Random(n).sample(ids, len(ids))
        for part in (mine[:20], mine[20:]):
            won.extend(c.message_id for c in await world.try_claim(*part, supervisor=f"sup_{n}"))

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(claim, n)
    assert sorted(won) == sorted(ids)


ENTER = """
INSERT INTO suppressions (id, tenant, channel, recipient, folded, reason)
VALUES ('sup_other', 'default', 'sms', '+919876543210', '+919876543210', 'manual')"""


async def test_what_was_accepted_while_its_recipient_was_entered_is_not_claimed(
    world: LedgerWorld, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute(ENTER)
        first, second = await world.queued(), await world.queued()
        other.commit()
    assert await world.try_claim(first.id) == []
    assert await world.ledger.delivery.load([second.id]) == []
    assert [await world.state(m) for m in (first, second)] == [State.QUEUED, State.SUPPRESSED]
    assert await world.ledger.delivery.load([first.id]) == []
    assert await world.state(first) is State.SUPPRESSED


async def test_an_entry_waits_for_whoever_moves_its_message(world: LedgerWorld, postgres_url: str) -> None:
    message = await world.queued()
    claimed = await world.claim(message)
    entered: list[Entered] = []
    entry = Entry(
        tenant="default", channel=message.channel, recipient=message.to, reason=SuppressionReason.MANUAL
    )  # fmt: skip
    with psycopg.connect(postgres_url) as owner:
        owner.execute(LOCK, (message.id,))
        async with trio.open_nursery() as nursery:

            async def enter() -> None:
                entered.append(await world.ledger.suppressions.enter(entry))

            nursery.start_soon(enter)
            await until_waiting_for_a_lock(postgres_url)
            owner.execute("DELETE FROM claims WHERE message_id = %s", (claimed.message_id,))
            owner.commit()
    assert [e.moved for e in entered] == [1]
    assert await world.state(message) is State.SUPPRESSED


async def test_of_many_who_enter_the_same_one_is_the_first(world: LedgerWorld) -> None:
    entered: list[Entered] = []
    entry = Entry(tenant="default", channel=Channel.EMAIL, recipient="a@shop.in", reason=SuppressionReason.MANUAL)

    async def enter() -> None:
        entered.append(await world.ledger.suppressions.enter(entry))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(enter)
    assert sorted(e.new for e in entered) == [False] * 5 + [True]
    assert len({e.suppression.id for e in entered}) == 1


async def test_in_a_crowd_no_claim_is_opened_after_an_entry(world: LedgerWorld, postgres_url: str) -> None:
    """Messages come in, are claimed and come back, while one recipient after the other is entered."""
    recipients = [f"+9198765432{n:02}" for n in range(10)]
    made: dict[str, str] = {}
    entered: set[str] = set()
    late: list[str] = []

    async def accept(n: int) -> None:
        for to in random.Random(n).sample(recipients, len(recipients)):
            message = world.message(to)
            acceptance = Acceptance(messages=(message,), states=(State.QUEUED,))
            if await world.ledger.intake.accept([acceptance], supervisor=ME) == [Accepted()]:
                made[message.id] = to

    async def deliver(n: int) -> None:
        for _ in range(12):
            forbidden = frozenset(entered)
            won = await world.try_claim(*made, supervisor=f"sup_{n}")
            late.extend(c.message_id for c in won if made[c.message_id] in forbidden)
            for claimed in won:
                await world.finish(claimed, UNKNOWN, AGAIN, supervisor=f"sup_{n}")

    async def enter() -> None:
        for to in recipients:
            entry = Entry(tenant="default", channel=Channel.SMS, recipient=to, reason=SuppressionReason.MANUAL)
            await world.ledger.suppressions.enter(entry)
            entered.add(to)

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(accept, n)
            nursery.start_soon(deliver, n)
        nursery.start_soon(enter)
    assert late == []
    assert await world.ledger.delivery.load(list(made)) == []
    assert ask(postgres_url, "SELECT DISTINCT state FROM messages") == [("suppressed",)]
    census = await world.ledger.stats.census()
    assert census.messages[Channel.SMS, State.SUPPRESSED] == len(made)


async def test_in_a_crowd_nothing_is_done_twice_and_the_counters_stay_right(
    world: LedgerWorld, postgres_url: str
) -> None:
    messages = [world.message() for _ in range(60)]
    await world.accept(*messages)
    ids = [m.id for m in messages]
    taken: list[str] = []
    cancelled: list[str] = []

    async def deliver(n: int) -> None:
        draw, supervisor = random.Random(n), f"sup_{n}"
        for _ in range(6):
            requests = [ClaimRequest(i, "p1", 10.0) for i in draw.sample(ids, 20)]
            won = await world.ledger.delivery.claim(requests, supervisor=supervisor)
            ends = [draw.choice([(ACCEPTED, SENT), (UNKNOWN, AGAIN)]) for _ in won]
            finishes = [
                Finish(
                    message_id=c.message_id, number=c.number, provider="p1", started_at=c.started_at,
                    finished_at=c.started_at, answer=answer, move=move,
                )
                for c, (answer, move) in zip(won, ends, strict=True)
            ]  # fmt: skip
            done = await world.ledger.delivery.finish(finishes, supervisor=supervisor)
            assert all(f.applied for f in done)
            taken.extend(f.message_id for f in done if f.state is State.SENT)

    async def cancel() -> None:
        for message_id in random.Random(0).sample(ids, 30):
            try:
                await world.ledger.messages.cancel(message_id, tenant=None, supervisor=ME)
            except Conflict:
                continue
            cancelled.append(message_id)

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(deliver, n)
        nursery.start_soon(cancel)
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(cancelled)
    census = await world.ledger.stats.census()
    counted = {state: n for (_, state), n in census.messages.items() if n}
    stored = dict(ask(postgres_url, "SELECT state, count(*) FROM messages GROUP BY state"))
    assert counted == stored == {
        state: n
        for state, n in (
            ("sent", len(taken)), ("cancelled", len(cancelled)), ("queued", 60 - len(taken) - len(cancelled)),
        )
        if n
    }  # fmt: skip


async def test_a_receipt_and_the_end_of_its_attempt_at_once_come_to_the_same_end(world: LedgerWorld) -> None:
    """Each message's receipt, twice, while its attempt is finished or closed as unknown, by several connections."""
    draw = random.Random(5)
    messages = [world.message() for _ in range(60)]
    await world.accept(*messages)
    claims = await world.try_claim(*(m.id for m in messages))
    receipts, taken = world.ledger.receipts, list[Taken]()

    async def report(claimed: Claimed) -> None:
        await trio.sleep(draw.random() / 20)
        receipt = Receipt(attempt_id=attempt_id(claimed.message_id, claimed.number), effect=Effect.DELIVERED)
        taken.extend(await receipts.take([Reported("p1", receipt)], keep_s=3600))

    async def finish(claimed: Claimed, *, lost: bool) -> None:
        await trio.sleep(draw.random() / 20)
        await world.finish(claimed, *((UNKNOWN, AGAIN) if lost else (ACCEPTED, SENT)))

    async with trio.open_nursery() as nursery:
        for n, claimed in enumerate(claims):
            nursery.start_soon(partial(finish, claimed, lost=n % 2 == 0))
            nursery.start_soon(report, claimed)
            nursery.start_soon(report, claimed)
    assert 0 < sum(each.kept for each in taken) < 120, "some came before, and some after"
    await world.advance(2)
    again, _ = await receipts.look_again(limit=500)
    assert {await world.state(m) for m in messages} == {State.DELIVERED}
    entered = [state for each in (*taken, *again) for state in each.entered]
    assert (entered.count(State.DELIVERED), entered.count(State.SENT)) == (60, 30)
    assert await receipts.look_again(limit=500) == ([], None)
