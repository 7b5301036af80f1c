"""The judge can bite: with a guard taken out, it finds what the guard was for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from heliograph.actors.journal import JournalActor
from heliograph.actors.ledger.memory import MemoryDelivery
from heliograph.actors.ledger.memory_store import Row, Store
from heliograph.actors.model.attempt import Outcome, ProviderCall, Settled
from heliograph.actors.model.errors import LedgerDown
from heliograph.actors.model.message import Channel, Priority, State
from heliograph.actors.model.provider import Quota
from heliograph.actors.policy.breaker import Admission, Breaker
from heliograph.actors.ports.coordination import Reservation, Slot
from heliograph.actors.ports.ledger import Finish, Finished
from heliograph.actors.ports.queue import Hint
from heliograph.actors.queue.memory import MemoryCoordination, MemoryQueue
from heliograph.actors.relay import Relay
from tests.simulation.stories import BREAKER, Fault, Story, Trouble, Wave, tell
from tests.support.builders import a_provider
from tests.support.world import Script, ScriptedProvider, Spell

STEADY = Script(latency_s=0.3)


def a_story(*faults: Fault, script: Script = STEADY, rate: float = 40.0, quota: Quota | None = None) -> Story:
    provider = a_provider(
        "scripted", Channel.SMS, name="one", rate=rate, burst=5.0, concurrency=16, breaker=BREAKER, quota=quota
    )
    waves = tuple(Wave(Channel.SMS, priority, 80, 0.0, 6.0) for priority in Priority)
    return Story(supervisors=3, providers=((provider, script),), waves=waves, faults=faults, seed=3, patience_s=120.0)


KILLS = tuple(Fault(Trouble.KILL, at_s, 2.0, who) for at_s, who in ((1.3, 0), (2.4, 1), (3.5, 2)))
OUTAGE = Fault(Trouble.LEDGER_AWAY, 2.0, 4.0, 0)


def found(story: Story) -> str:
    return "; ".join(tell(story).world.judge.verdict())


@pytest.mark.parametrize("faults", [(), KILLS, (OUTAGE,), (Fault(Trouble.FLUSH, 2.0, 0.0, 0),)])
def test_with_all_guards_in_place_it_finds_nothing(faults: Sequence[Fault]) -> None:
    assert found(a_story(*faults)) == ""


def test_without_the_bucket_the_rate_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reserve(self: MemoryCoordination, provider: str, shape: object, *, want: int, **_: object) -> Reservation:
        record, paused_for_s = await self.record(provider)
        now_s = self._server.now()
        return Reservation(
            slots=(Slot(now_s, now_s + 0.01),) * want, next_in_s=0.0, record=record, paused_for_s=paused_for_s
        )

    monkeypatch.setattr(MemoryCoordination, "reserve", reserve)
    assert "too fast" in found(a_story(rate=10.0))


def test_a_quota_that_is_counted_from_nothing_after_a_loss_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spent(self: MemoryDelivery, provider: str, *, part_s: float, parts: int) -> list[int]:
        return [0] * parts

    story = a_story(Fault(Trouble.FLUSH, 3.0, 0.0, 0), quota=Quota(60, 20.0))
    assert found(story) == ""
    monkeypatch.setattr(MemoryDelivery, "spent", spent)
    assert "over its quota" in found(story)


def test_without_claims_doubled_hints_make_doubled_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hint is pushed twice, which alone does no harm; then what is claimed already may be claimed again."""
    push = MemoryQueue.push

    async def twice(self: MemoryQueue, hints: Sequence[Hint], **more: Any) -> None:
        await push(self, [*hints, *hints], **more)

    def waiting(self: Store, message_id: str) -> Row | None:
        row = self.rows.get(message_id)
        return row if row is not None and row.standing.state is State.QUEUED else None

    monkeypatch.setattr(MemoryQueue, "push", twice)
    assert found(a_story()) == ""
    monkeypatch.setattr(Store, "waiting", waiting)
    assert "called without a claim" in found(a_story())


def test_answers_thrown_away_make_second_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit(self: JournalActor, finishes: Sequence[Finish], releases: Any) -> list[Finished]:
        try:
            return await self._ledger.finish(finishes, supervisor=self._supervisor)
        except LedgerDown:
            return [Finished(message_id=f.message_id, state=f.move.state, applied=False) for f in finishes]

    monkeypatch.setattr(JournalActor, "_commit", commit)
    assert "called again after a final answer" in found(a_story(OUTAGE, script=Script(latency_s=0.3, can_ask=False)))


def test_without_asking_a_death_is_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(self: ScriptedProvider, call: ProviderCall) -> Settled | None:
        return Settled.NOT_SENT

    assert tell(a_story(*KILLS)).world.judge.duplicates == 0
    monkeypatch.setattr(ScriptedProvider, "ask", ask)
    assert tell(a_story(*KILLS)).world.judge.duplicates > 0


def test_a_breaker_that_lets_everybody_through_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "admit", lambda self, now_s: Admission.GO)
    monkeypatch.setattr("heliograph.actors.queue.memory.blocked_for", lambda record, paused_for_s: None)
    down = Script(latency_s=0.05, spells=(Spell(Outcome.DEFERRED, 1.0, 6.0),))
    assert "breaker was open" in found(a_story(script=down))


def test_without_a_new_generation_an_emptied_redis_strands_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep_generation(self: Relay) -> None:
        """It looks once, at the start."""

    async def audit(self: Relay) -> None:
        """Nobody looks for what is missing."""

    monkeypatch.setattr(Relay, "_keep_generation", keep_generation)
    monkeypatch.setattr(Relay, "_audit", audit)
    assert "never settled" in found(a_story(Fault(Trouble.FLUSH, 2.0, 0.0, 0)))
