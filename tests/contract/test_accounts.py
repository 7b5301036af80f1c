"""`check --deep` over real PostgreSQL and Redis: whatever is lost by hand is found, and mended where it can be."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from heliograph.actors.ledger.postgres import open_ledger
from heliograph.actors.model.message import Channel, Lane, Priority, Reason, State
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import Config
from heliograph.actors.ports.ledger import Generation
from heliograph.actors.ports.queue import Hint, Queue
from heliograph.actors.queue.redis import open_queue
from heliograph.gateway.cli import accounts
from heliograph.gateway.cli.accounts import Account, settle
from tests.contract.ledger_world import LedgerWorld
from tests.support.builders import a_provider
from tests.support.postgres import ask

SMS = Lane(Channel.SMS, Priority.NORMAL)
LOST_ROW = "messages had lost the row that says where they stand"
MISCOUNTED = "counters did not agree with the rows"
MINUTES_AGO = "UPDATE messages SET due_at = now() - interval '5 minutes'"


class Deployment:
    def __init__(self, url: str, redis_url: str, world: LedgerWorld, queue: Queue) -> None:
        self.url = url
        self.redis_url = redis_url
        self.world = world
        self.queue = queue

    def ask(self, query: str, *params: object) -> list[tuple[object, ...]]:
        return ask(self.url, query, *params)

    async def account(self, rule: UnknownRule = UnknownRule.ASK) -> Account:
        providers = (a_provider(name="p1", rate=10.0, unknown=rule),)
        return await settle(Config(redis_url=self.redis_url, postgres_url=self.url, providers=providers))

    async def found(self, rule: UnknownRule = UnknownRule.ASK) -> dict[str, tuple[list[str], bool]]:
        """By what it is: whose, and whether it was mended; what was is not found again."""
        account = await self.account(rule)
        found = {each.what: (list(each.ids), each.mended is not None) for each in account.found}
        again = {each.what for each in (await self.account(rule)).found}
        assert again == {what for what, (_, mended) in found.items() if not mended}
        return found


@pytest.fixture
async def deployment(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    monkeypatch.setattr(accounts, "LOOK_AGAIN_S", 0.01)
    async with open_ledger(postgres_url, supervisor="a") as ledger, open_queue(redis_url, "a") as queue:
        generation = Generation("g1", await queue.server())
        await ledger.cluster.renew_generation(await ledger.cluster.generation(), generation)
        await queue.open("g1")

        async def overdue(_: float) -> None:
            ask(postgres_url, "UPDATE claims SET reclaim_at = now() - interval '1 second'")

        yield Deployment(postgres_url, redis_url, LedgerWorld(ledger, overdue), queue)


async def test_where_all_is_well_nothing_is_found(deployment: Deployment) -> None:
    world = deployment.world
    waiting, scheduled = await world.queued(), await world.scheduled(3600)
    await world.sent()
    await world.failed()
    await world.claim(await world.queued())
    await deployment.queue.push([Hint(waiting.id, SMS)])
    deployment.ask(f"{MINUTES_AGO} WHERE id = %s", waiting.id)
    account = await deployment.account()
    assert (account.drift, account.found, account.unseen) == (0, [], None)
    assert await world.state(scheduled) is State.SCHEDULED


async def test_a_row_that_was_deleted_by_hand_is_a_drift_and_is_made_anew(deployment: Deployment) -> None:
    world = deployment.world
    waiting, sent, failed, asked = (
        await world.queued(), await world.sent(), await world.failed(), await world.queued(),
    )  # fmt: skip
    await world.reclaim(await world.claim(asked))
    scheduled = await world.scheduled(3600)
    all_five = (waiting, sent, failed, asked, scheduled)
    deployment.ask("DELETE FROM messages")
    assert await world.ledger.stats.drift() == 5
    account = await deployment.account()
    assert (account.drift, account.drift_left) == (5, 0)
    assert {each.what: sorted(each.ids) for each in account.found} == {LOST_ROW: sorted(m.id for m in all_five)}
    states = [await world.state(message) for message in all_five]
    assert states == [State.QUEUED, State.SENT, State.FAILED, State.QUEUED, State.SCHEDULED]
    standing = (await world.get(asked)).standing
    assert (standing.unsettled, standing.unsettled_provider) == (1, "p1")
    assert await deployment.queue.hints(SMS) == {waiting.id, asked.id}
    assert (await deployment.account()).found == []


async def test_a_message_that_is_nowhere_stays_a_drift(deployment: Deployment) -> None:
    message = await deployment.world.queued()
    deployment.ask("DELETE FROM messages WHERE id = %s", message.id)
    deployment.ask("DELETE FROM contents WHERE id = %s", message.id)
    account = await deployment.account()
    assert (account.drift, account.drift_left) == (1, 1)


async def test_what_has_lost_its_content_or_all_but_its_attempts_is_told(deployment: Deployment) -> None:
    world = deployment.world
    empty, gone, claimed = await world.sent(), await world.sent(), await world.queued()
    await world.claim(claimed)
    deployment.ask("DELETE FROM contents WHERE id = ANY(%s)", [empty.id, gone.id, claimed.id])
    deployment.ask("DELETE FROM messages WHERE id = ANY(%s)", [gone.id, claimed.id])
    found = await deployment.found()
    assert found.pop("messages have lost what was posted") == ([empty.id], False)
    assert found.pop("messages have left nothing but attempts or a dead letter") == ([gone.id], False)
    assert found.pop("claims were of no message") == ([claimed.id], True)
    assert list(found) == [MISCOUNTED]


async def test_a_hint_that_is_nowhere_is_pushed(deployment: Deployment) -> None:
    lost, known = await deployment.world.queued(), await deployment.world.queued()
    await deployment.queue.push([Hint(known.id, SMS)])
    deployment.ask(MINUTES_AGO)
    assert await deployment.found() == {"messages were due and no queue knew of them": ([lost.id], True)}
    assert await deployment.queue.hints(SMS) == {lost.id, known.id}


@pytest.mark.parametrize("rule", UnknownRule)
async def test_a_claim_that_nobody_ends_is_ended(deployment: Deployment, rule: UnknownRule) -> None:
    world = deployment.world
    message, fresh = await world.queued(), await world.queued()
    await world.claim(message)
    await world.claim(fresh)
    deployment.ask("UPDATE claims SET reclaim_at = now() - interval '2 minutes' WHERE message_id = %s", message.id)
    found = await deployment.found(rule)
    assert found == {"attempts were overdue and nobody had ended them": ([message.id], True)}
    view = await world.get(message)
    assert (view.standing.state, view.attempts[0].outcome) == (State.QUEUED, "unknown")
    assert await world.state(fresh) is State.SENDING


async def test_a_failure_without_a_dead_letter_is_filed(deployment: Deployment) -> None:
    world = deployment.world
    message = await world.failed()
    deployment.ask("DELETE FROM dead_letters")
    found = await deployment.found()
    assert found.pop("messages had ended badly without a dead letter") == ([message.id], True)
    letter = await world.ledger.dead_letters.get(message.id, tenant=None)
    assert (letter.state, letter.to) == ("open", message.to)
    assert sum((await world.ledger.stats.census()).dead_letters.values()) == 1


async def test_counters_that_went_wrong_are_put_right(deployment: Deployment) -> None:
    world = deployment.world
    await world.queued()
    deployment.ask("UPDATE tallies SET present = present + 3 WHERE counted = 'queued'")
    assert await deployment.found() == {MISCOUNTED: (["sms queued -3"], True)}
    assert (await world.ledger.stats.census()).messages[Channel.SMS, State.QUEUED] == 1
    assert (await world.ledger.stats.census()).dead_letters[Reason.REJECTED] == 0


async def test_without_lists_in_redis_it_says_so(deployment: Deployment) -> None:
    await deployment.world.queued()
    deployment.ask(MINUTES_AGO)
    deployment.ask("UPDATE queue_generation SET name = 'g2'")
    account = await deployment.account()
    assert (account.found, account.unseen) == ([], "the next supervisor that runs fills Redis anew")
