"""Whatever is done to a ledger, in whatever order: nothing is lost, and messages go only where they may."""

from __future__ import annotations

import trio
from hypothesis import given, settings

from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.deadletter import DeadLetterState
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.message import Channel, State
from heliograph.actors.policy.lifecycle import DEAD, TRANSITIONS
from heliograph.actors.ports.ledger import MessageView
from tests.contract.ledger_script import Player, Step, play, scripts
from tests.contract.test_ledger_memory import memory_world

EDGES = {(before, after) for before, row in TRANSITIONS.items() for after in row.values()}
AT_ONCE = {(State.SCHEDULED, State.SENDING), (State.SCHEDULED, State.FAILED), (State.SENDING, State.SUPPRESSED)}
"""Due, and claimed or given up in the same call; or returned, and suppressed: over `queued`."""
PROVED = {(before, after) for before in (State.QUEUED, State.FAILED) for after in (State.DELIVERED, State.UNDELIVERED)}
"""A receipt about an attempt without an answer: over `sent`."""


class Watch:
    """Looks after each step."""

    def __init__(self) -> None:
        self._before: dict[str, MessageView] = {}
        self._won = 0

    async def __call__(self, player: Player, step: Step) -> None:
        ledger = player.world.ledger
        views = [await player.world.get(message) for message in player.messages]
        census = await ledger.stats.census()
        assert await ledger.stats.drift() == 0
        assert sum(census.accepted.values()) == len(views)
        assert sum(census.messages.values()) == sum(not view.archived for view in views)
        for state in State:
            counted = sum(census.messages[channel, state] for channel in Channel)
            assert counted == sum(v.standing.state is state and not v.archived for v in views)
        for view in views:
            self._look_at(view)
            await self._look_at_its_letter(player, view)
        for claimed, _, _ in player.claims[self._won :]:
            before = self._before[claimed.message_id].standing.state
            assert before in (State.QUEUED, State.SCHEDULED), f"claimed while {before}"
        self._won = len(player.claims)
        self._before = {view.message.id: view for view in views}

    def _look_at(self, view: MessageView) -> None:
        state, attempts = view.standing.state, view.attempts
        assert [a.number for a in attempts] == list(range(1, len(attempts) + 1))
        assert view.standing.attempts == len(attempts) - (state is State.SENDING)
        assert [a.outcome is None for a in attempts[:-1]] == [False] * len(attempts[:-1])
        assert state is not State.SENDING or attempts[-1].outcome is None
        assert state is not State.SENT or any(
            a.outcome is Outcome.ACCEPTED or a.settled is Settled.ACCEPTED for a in attempts
        )
        before = self._before.get(view.message.id)
        if before is None:
            return
        passed = (before.standing.state, state)
        assert passed[0] == passed[1] or passed in EDGES | AT_ONCE | PROVED
        assert view.standing.redrives - before.standing.redrives in (0, 1)
        for old, new in zip(before.attempts, attempts, strict=False):
            assert old.outcome is None or old.outcome is new.outcome, "a known outcome never changes"
            assert old.settled is None or old.settled is new.settled
            assert new.settled is None or new.outcome is Outcome.UNKNOWN
        closed = [a for a in before.attempts if a.outcome is not None]
        assert len(attempts) >= len(closed), "no ended attempt is ever taken out of the log"

    async def _look_at_its_letter(self, player: Player, view: MessageView) -> None:
        try:
            letter = await player.world.ledger.dead_letters.get(view.message.id, tenant=None)
        except NotFound:
            assert view.standing.state not in DEAD
            return
        if view.standing.state in DEAD:
            assert letter.state in (DeadLetterState.OPEN, DeadLetterState.ARCHIVED, DeadLetterState.DISCARDED)
            assert letter.reason is view.standing.reason
        else:
            assert letter.state in (DeadLetterState.REDRIVEN, DeadLetterState.SETTLED)
        assert letter.redrives == view.standing.redrives


@given(scripts)
@settings(max_examples=120, deadline=None)
def test_nothing_is_lost_and_only_the_edges_are_walked(script: list[Step]) -> None:
    trio.run(play, memory_world(), script, Watch())


@given(scripts)
@settings(max_examples=15, deadline=None)
def test_the_same_script_gives_the_same_ledger(script: list[Step]) -> None:
    assert trio.run(play, memory_world(), script) == trio.run(play, memory_world(), script)
