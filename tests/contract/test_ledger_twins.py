"""The ledger in memory and the one on PostgreSQL are twins: whatever is done to both, they answer the same."""

from __future__ import annotations

import trio
from hypothesis import HealthCheck, Phase, given, settings

from heliograph.actors.ledger.postgres import open_ledger
from tests.contract.ledger_script import Step, play, scripts
from tests.contract.ledger_world import LedgerWorld
from tests.contract.test_ledger_memory import memory_world
from tests.contract.test_ledger_postgres import set_back
from tests.support.services import PostgresServer


async def play_on_postgres(url: str, script: list[Step]) -> list[object]:
    async def advance(seconds: float) -> None:
        set_back(url, seconds)

    async with open_ledger(url, supervisor="sup_me") as ledger:
        return await play(LedgerWorld(ledger, advance), script)


@given(script=scripts)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a script takes minutes: it is short enough
)
def test_both_ledgers_answer_a_random_script_alike(
    postgres: PostgresServer, migrated_template: str, script: list[Step]
) -> None:
    with postgres.fresh(migrated_template) as url:
        real = trio.run(play_on_postgres, url, script)
    twin = trio.run(play, memory_world(), script)
    assert [pair for pair in zip(real, twin, strict=True) if pair[0] != pair[1]] == []
