"""What `heliograph check --deep` does: looks for messages that nobody has in mind, in both stores, and mends them.

It works beside supervisors that run. What they have merely not got round to yet is no finding, so it is patient where
they are: a hint is missing when it was nowhere at two looks, a claim is overdue when no reaper came for a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from heliograph.actors.journal import OVERDUE
from heliograph.actors.ledger.accounting import Accounting, open_accounting
from heliograph.actors.model.errors import QueueDown, StaleGeneration
from heliograph.actors.model.message import Lane
from heliograph.actors.model.provider import UnknownRule
from heliograph.actors.model.settings import Config
from heliograph.actors.policy.triage import Situation, triage
from heliograph.actors.ports.ledger import Finish, Ledger, Overdue
from heliograph.actors.ports.queue import Hint, Queue
from heliograph.actors.queue.redis import open_queue
from heliograph.gateway.cli.database import ledger_at

OVERDUE_S: Final = 60.0
DUE_S: Final = 30.0
LOOK_AGAIN_S: Final = 2.0
NAME: Final = "command"
BACKUP: Final = "bring them back from a backup of PostgreSQL, and report it with the supervisors' logs"


@dataclass(frozen=True, slots=True)
class Found:
    """`mended` says what was done about it; None: nothing could be."""

    what: str
    ids: Sequence[str]
    mended: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """`drift` before anything was mended and after; `unseen`: why the hints in Redis could not be looked at."""

    drift: int
    drift_left: int
    found: Sequence[Found]
    unseen: str | None


async def settle(config: Config) -> Account:
    """LedgerDown, NotMigrated."""
    async with ledger_at(config.postgres_url) as ledger, open_accounting(config.postgres_url) as accounting:
        drift = await ledger.stats.drift()
        found: list[Found] = []

        def note(what: str, ids: Sequence[str], mended: str | None) -> None:
            if ids:
                found.append(Found(what, ids, mended))

        restored = await accounting.restore_lost()
        note("messages had lost the row that says where they stand", restored, "it was made anew from the rest")
        note("messages have lost what was posted", await accounting.without_content(), None)
        note("messages have left nothing but attempts or a dead letter", await accounting.without_message(), None)
        note("claims were of no message", await accounting.drop_stray_claims(), "they were deleted")
        overdue = await accounting.overdue(by_s=OVERDUE_S)
        ids = await _end(ledger, overdue, config)
        note("attempts were overdue and nobody had ended them", ids, "they are `unknown` now, and their messages go on")
        unfiled = await accounting.file_letters()
        note("messages had ended badly without a dead letter", unfiled, "it was filed")
        missing, unseen = await _hints(config, ledger, accounting, [*restored, *ids])
        note("messages were due and no queue knew of them", missing, "they were queued")
        wrong = [
            f"{what} {n:+}" if not channel else f"{channel} {what} {n:+}"
            for (channel, what), n in sorted((await accounting.recount()).items())
        ]
        note("counters did not agree with the rows", wrong, "they were put right")
        return Account(drift, await ledger.stats.drift(), found, unseen)


async def _end(ledger: Ledger, overdue: Sequence[Overdue], config: Config) -> list[str]:
    """As the reaper would have. Those that it did end meanwhile are left out."""
    now = datetime.now(UTC)
    rules = {provider.name: provider.unknown for provider in config.providers}
    finishes = [
        Finish(
            message_id=each.tracked.message.id,
            number=each.number,
            provider=each.provider,
            started_at=each.started_at,
            finished_at=now,
            answer=OVERDUE,
            move=triage(
                Situation(
                    standing=each.tracked.standing,
                    priority=each.tracked.message.priority,
                    number=each.number,
                    provider=each.provider,
                    answer=OVERDUE,
                    candidates=(),
                    blocked={},
                    unknown=rules.get(each.provider, UnknownRule.RETRY),
                    can_ask=True,
                    expires_in_s=(each.tracked.standing.expires_at - now).total_seconds(),
                    draw=0.5,
                    reclaimed=True,
                ),
                config.delivery,
                config.dead_letters.auto_retry_s,
            ),
            overdue_only=True,
        )
        for each in overdue
    ]
    finished = await ledger.delivery.finish(finishes, supervisor=NAME) if finishes else []
    return [each.message_id for each in finished if each.applied]


async def _hints(
    config: Config, ledger: Ledger, accounting: Accounting, mended: Sequence[str]
) -> tuple[list[str], str | None]:
    """Those of the due messages that no list knew of; with what was just mended they are pushed."""
    due = await accounting.due(for_s=DUE_S)
    anew = await accounting.due(for_s=0.0, among=mended) if mended else {}
    if not due and not anew:
        return [], None
    try:
        async with open_queue(config.redis_url, NAME) as queue:
            generation, name = await ledger.cluster.generation(), await queue.current()
            if generation is None or generation.name != name:
                return [], "the next supervisor that runs fills Redis anew"
            await queue.open(name, over=name)
            missing = await _nowhere(queue, due)
            if missing:
                await trio.sleep(LOOK_AGAIN_S)
                missing = await _nowhere(queue, await accounting.due(for_s=DUE_S, among=list(missing)))
            await queue.push([Hint(message_id, lane) for message_id, lane in {**anew, **missing}.items()])
            return sorted(missing.keys() - anew.keys()), None
    except (QueueDown, StaleGeneration) as error:
        return [], str(error)


async def _nowhere(queue: Queue, due: Mapping[str, Lane]) -> dict[str, Lane]:
    known = {lane: await queue.hints(lane) for lane in set(due.values())}
    return {message_id: lane for message_id, lane in due.items() if message_id not in known[lane]}
