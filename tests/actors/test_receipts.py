"""The receipts' actor in virtual time: one commit for what piles up, an answer after it, kept ones at their time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from heliograph.actors.kernel.actor import Mailbox
from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import Move, State
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.ports.ledger import Claimed, ClaimRequest, Finish, Reported, Taken
from heliograph.actors.ports.queue import Hint
from heliograph.actors.receipts import MOST, POLL_S, Arrived, Promised, Receipts
from tests.support.stage import Stage

TIMEOUT_S = 3600.0


class Watched:
    """Notes the size of each group, takes its time, and chokes on what `chokes_on` says yes to."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.groups: list[int] = []
        self.looks: list[float] = []
        self.commit_s = 0.0
        self.chokes_on: Callable[[Reported], bool] = lambda _: False

    async def take(self, reported: Sequence[Reported], *, keep_s: float) -> list[Taken]:
        self.groups.append(len(reported))
        await trio.sleep(self.commit_s)
        if any(map(self.chokes_on, reported)):
            raise ValueError("a text that nobody can store")
        taken: list[Taken] = await self._ledger.take(reported, keep_s=keep_s)
        return taken

    async def look_again(self, *, limit: int) -> Any:
        self.looks.append(trio.current_time())
        return await self._ledger.look_again(limit=limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


class Desk:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ledger = Watched(stage.ledger.receipts)
        self.mailbox: Mailbox[Any]

    def actor(self) -> Receipts:
        ledger: Any = self.ledger
        return Receipts(ledger, timeout_s=TIMEOUT_S, clock=self.stage.clock, metrics=self.stage.metrics)

    async def start(self) -> None:
        self.mailbox, self.scope = await self.stage.start("receipts", self.actor)

    async def report(self, *reported: Reported) -> None:
        await self.mailbox.ref.ask(lambda reply: Arrived(reported, reply), timeout_s=60)

    async def claimed(self) -> tuple[Hint, Claimed]:
        await trio.sleep(0.01)  # ids of the stage differ by their moment only in what an attempt's id keeps of them
        [hint] = await self.stage.accept()
        request = ClaimRequest(hint.message_id, "p1", 10.0)
        [claimed] = await self.stage.ledger.delivery.claim([request], supervisor="me")
        return hint, claimed

    async def finish(self, claimed: Claimed, outcome: Outcome = Outcome.ACCEPTED) -> None:
        state = State.SENT if outcome is Outcome.ACCEPTED else State.QUEUED
        finish = Finish(
            message_id=claimed.message_id, number=claimed.number, provider="p1", started_at=claimed.started_at,
            finished_at=claimed.started_at, answer=Answer(outcome=outcome), move=Move(state=state, due_in_s=600.0),
        )  # fmt: skip
        await self.stage.ledger.delivery.finish([finish], supervisor="me")

    async def sent(self) -> Hint:
        hint, claimed = await self.claimed()
        await self.finish(claimed)
        return hint

    def counted(self, name: str, **labels: str) -> float:
        return self.stage.registry.get_sample_value(f"heliograph_{name}_total", labels) or 0.0


def about(hint: Hint, effect: Effect = Effect.DELIVERED, number: int = 1, **fields: Any) -> Reported:
    return Reported("p1", Receipt(attempt_id=attempt_id(hint.message_id, number), effect=effect, **fields))


@pytest.fixture
async def desk(autojump_clock: object, nursery: trio.Nursery) -> Desk:
    desk = Desk(Stage(nursery))
    await desk.start()
    return desk


async def test_a_report_is_answered_when_it_is_committed_and_counted(desk: Desk, autojump_clock: object) -> None:
    hint = await desk.sent()
    desk.ledger.commit_s = 2.0
    began_s = trio.current_time()
    await desk.report(about(hint))
    assert trio.current_time() - began_s == pytest.approx(2.0)
    assert await desk.stage.state(hint) is State.DELIVERED
    assert desk.counted("messages", channel=str(hint.lane.channel), state="delivered") == 1


async def test_what_piles_up_during_a_commit_is_the_next_group(desk: Desk, autojump_clock: object) -> None:
    hints = [await desk.sent() for _ in range(6)]
    desk.ledger.commit_s = 1.0
    async with trio.open_nursery() as reports:
        for hint in hints:
            reports.start_soon(desk.report, about(hint))
            await trio.sleep(0.01)
    assert desk.ledger.groups == [1, 5]


async def test_a_large_report_goes_in_several_commits_and_is_answered_after_the_last(
    desk: Desk, autojump_clock: object
) -> None:
    hint = await desk.sent()
    desk.ledger.commit_s = 1.0
    began_s = trio.current_time()
    await desk.report(*([about(hint, Effect.TAKEN)] * (2 * MOST + 1)))
    assert desk.ledger.groups == [MOST, MOST, 1]
    assert trio.current_time() - began_s == pytest.approx(3.0)


async def test_while_the_ledger_is_away_reports_fail_and_the_actor_lives_on(desk: Desk, autojump_clock: object) -> None:
    hint = await desk.sent()
    desk.stage.ledger_down = True
    with pytest.raises(LedgerDown):
        await desk.report(about(hint))
    await trio.sleep(2 * POLL_S)
    desk.stage.ledger_down = False
    await desk.report(about(hint))
    assert await desk.stage.state(hint) is State.DELIVERED
    assert desk.stage.living == {"receipts"}


async def test_one_that_the_ledger_chokes_on_harms_no_neighbour_and_is_not_repeated_for_ever(
    desk: Desk, autojump_clock: object
) -> None:
    good, bad = await desk.sent(), await desk.sent()
    desk.ledger.chokes_on = lambda reported: reported.receipt.code == "bad"
    with capture_logs() as logs:
        await desk.report(about(bad, code="bad", detail="s3cret body"), about(good))
    assert [await desk.stage.state(hint) for hint in (good, bad)] == [State.DELIVERED, State.SENT]
    [entry] = [entry for entry in logs if entry["event"] == "receipts.refused"]
    assert (entry["provider"], entry["error"]) == ("p1", "ValueError")
    assert "s3cret" not in repr(logs)


async def test_what_postgresql_cannot_store_is_taken_out_of_a_receipt(desk: Desk, autojump_clock: object) -> None:
    hint = await desk.sent()
    await desk.report(about(hint, Effect.UNDELIVERED, code="5\x00", detail="no\ud800 user" + "x" * 9000))
    letter = await desk.stage.ledger.dead_letters.get(hint.message_id, tenant=None)
    assert (letter.code, letter.detail) == ("5\ufffd", ("no\ufffd user" + "x" * 9000)[:500])


async def test_one_that_comes_before_its_attempt_is_written_takes_effect_soon_after(
    desk: Desk, autojump_clock: object
) -> None:
    hint, claimed = await desk.claimed()
    await desk.report(about(hint))
    await trio.sleep(0.5)
    await desk.finish(claimed)
    await trio.sleep(1.0)
    assert await desk.stage.state(hint) is State.DELIVERED


async def test_an_attempt_without_an_answer_is_settled_counted_and_told(desk: Desk, autojump_clock: object) -> None:
    hint, claimed = await desk.claimed()
    await desk.finish(claimed, Outcome.UNKNOWN)
    with capture_logs() as logs:
        await desk.report(about(hint, Effect.TAKEN))
    assert await desk.stage.state(hint) is State.SENT
    assert desk.counted("unknown_settled", provider="p1", how="receipt") == 1
    [entry] = [entry for entry in logs if entry["event"] == "unknown.settled"]
    assert (entry["message_id"], entry["number"], entry["how"]) == (hint.message_id, 1, "receipt")


async def test_a_promised_receipt_comes_at_its_time_even_if_the_ledger_was_away(
    desk: Desk, autojump_clock: object
) -> None:
    first, second = await desk.sent(), await desk.sent()
    assert desk.mailbox.ref.offer(Promised((about(first),), 1.0))
    await trio.sleep(0.9)
    assert await desk.stage.state(first) is State.SENT
    await trio.sleep(0.2)
    assert await desk.stage.state(first) is State.DELIVERED
    desk.stage.ledger_down = True
    assert desk.mailbox.ref.offer(Promised((about(second, Effect.UNDELIVERED),), 1.0))
    await trio.sleep(20)
    desk.stage.ledger_down = False
    await trio.sleep(5)
    assert await desk.stage.state(second) is State.UNDELIVERED


async def test_what_another_one_has_kept_is_found_by_who_is_left(desk: Desk, autojump_clock: object) -> None:
    hint = await desk.sent()
    await desk.stage.ledger.receipts.expect([about(hint)], in_s=1.0, keep_s=TIMEOUT_S)
    await trio.sleep(POLL_S + 0.1)
    assert await desk.stage.state(hint) is State.DELIVERED


async def test_with_nothing_kept_it_looks_seldom(desk: Desk, autojump_clock: object) -> None:
    await trio.sleep(3600)
    assert len(desk.ledger.looks) <= 3600 / POLL_S + 2


async def test_it_ends_when_told_to_and_answers_what_waits_before(desk: Desk, autojump_clock: object) -> None:
    hint = await desk.sent()
    desk.ledger.commit_s = 1.0
    async with trio.open_nursery() as reports:
        reports.start_soon(desk.report, about(hint))
        await trio.sleep(0.1)
        reports.start_soon(desk.report, about(hint, Effect.UNDELIVERED))
        await trio.sleep(0.1)
        desk.mailbox.close()
    await trio.sleep(0.1)
    assert desk.stage.living == set()
    assert await desk.stage.state(hint) is State.UNDELIVERED
