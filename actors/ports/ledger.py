"""The ledger: the truth about every message. PostgreSQL, or its twin in memory.

Rules that hold for every method:

- Time is the ledger's own (PostgreSQL's `now()`; the twin's injected clock). Callers give and get *lengths*
  (`due_in_s`), never moments to compare with their own clock. Moments in answers are UTC and for people.
- Every change of state is guarded: what a method does not return as done did not happen.
- All methods may be repeated after `LedgerDown` (COMMIT in doubt included) without doing harm.
- A cancelled call leaves its connection to be thrown away; whether the statement took effect is unknown.
- Errors: `LedgerDown` from any method; others where said.

A message's stored state is never `sending`: it is `queued` (or `scheduled`) with an open *claim*, one narrow row,
unique by message. A claim is the right to one call. The edges of policy.lifecycle are the only ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.attempt import Answer, Attempt, Settled
from heliograph.actors.model.deadletter import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    DryRun,
    Operation,
    OperationKind,
)
from heliograph.actors.model.message import Channel, Lane, Message, Move, Reason, Standing, State, Tracked, WaitingFor
from heliograph.actors.model.provider import Controls, ForcedBreaker, Pause, ProviderReport
from heliograph.actors.model.receipt import Receipt, Suppression, SuppressionReason
from heliograph.actors.model.value import value
from heliograph.actors.policy.allowance import Exceeded, KeyLimits

# ------------------------------------------------------------------------------------------------ intake

RESUMED_S: Final = 10.0
"""How long `controls` tells that a provider was resumed: ten heartbeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """Known by (`key_id`, `route`, `key`) for 24 h. `fingerprint` is SHA-256 of the body's canonical JSON;
    `status` and `body` are the answer as it will be given."""

    key_id: str
    route: str
    key: str
    fingerprint: bytes
    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """One request's messages, committed whole or not at all. `states[i]` is where `messages[i]` is born:
    `queued`, `scheduled` (due at its `send_at`) or `suppressed`."""

    messages: tuple[Message, ...]
    states: tuple[State, ...]
    idempotency: tuple[IdempotencyRecord, ...] = ()
    """At most one for a whole request; in a batch, one for each item that brought its own key (then the
    batch is given as one Acceptance per such item)."""
    limits: KeyLimits | None = None
    """Those of the key that it comes by, where that has any."""


@dataclass(frozen=True, slots=True)
class Accepted:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The key was used before with the same body: nothing was stored, answer this."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used before with another body: nothing was stored."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """These messages of the acceptance go to recipients that are suppressed, and were not to be born so: nothing of
    it was stored, its idempotency records neither. Give it again, with them born `suppressed`."""

    message_ids: frozenset[str]


Admission = Accepted | Replay | Mismatch | Suppressed | Exceeded
"""Exceeded: more than its key may send; nothing of it was stored. What is stored is counted in the same commit, so
that no limit is passed, however many gateways there are; a repeat under an idempotency key is not counted."""


class IntakeLedger(Protocol):
    async def accept(self, batch: Sequence[Acceptance], *, supervisor: str) -> list[Admission]:
        """Store all of `batch` in one commit; answers in its order. Returned means committed."""

    async def recall(self, key_id: str, route: str, key: str, fingerprint: bytes) -> Replay | Mismatch | None:
        """What `accept` would answer to a repeat under this idempotency key; None where the key is new. Asked only
        before a request is refused: a repeat is answered as the first was, whatever has changed meanwhile."""


# ---------------------------------------------------------------------------------------------- delivery


@value(frozen=True, slots=True)
class Loaded:
    """A waiting message without an open claim. `due_in_s` <= 0: may be claimed now. `expires_in_s` <= 0: too late."""

    tracked: Tracked
    due_in_s: float
    expires_in_s: float


@value(frozen=True, slots=True)
class ClaimRequest:
    """`hold_s` is send window + longest call, and a moment: how long the reaper keeps away from it."""

    message_id: str
    provider: str
    hold_s: float


@value(frozen=True, slots=True)
class Claimed:
    message_id: str
    number: int
    started_at: datetime


@value(frozen=True, slots=True)
class Finish:
    """The end of one claim. `answer` None: no call was made (the previous attempt was asked about instead); then no
    attempt is logged. `settles` says what was learnt of an earlier unknown attempt: (number, what).
    With `overdue_only` (the reaper) it does nothing unless the claim's time is over."""

    message_id: str
    number: int
    provider: str
    started_at: datetime
    finished_at: datetime
    answer: Answer | None
    move: Move
    settles: tuple[int, Settled] | None = None
    overdue_only: bool = False


@value(frozen=True, slots=True)
class Finished:
    """What came of a Finish. `state` is where the message is now; `applied` whether our claim was still open.

    When it was not (the reaper closed it as unknown), the answer still counts as *late truth*: the attempt is
    marked settled, and an accepted one moves a waiting or failed message to `sent` (`state` SENT, its dead letter
    settled). Where a newer attempt is under way a mark stays on the message, and any Finish that would take it
    anywhere but SENT goes to SENT instead. `due_in_s` is set when the message is queued again by this Finish.
    A message that is archived or gone is left as it is, and told as FAILED. One that would be queued again for a
    recipient that is suppressed by now goes to SUPPRESSED. An answer that says to `suppress` enters its recipient in
    the same commit.
    """

    message_id: str
    state: State
    applied: bool
    due_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Overdue:
    """A claim whose time is over: its owner died, hangs, or is cut off. `due_in_s`: more than 0 where it is not yet."""

    tracked: Tracked
    number: int
    provider: str
    supervisor: str
    started_at: datetime
    due_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitingHint:
    message_id: str
    lane: Lane
    due_in_s: float
    cursor: tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Park:
    """A queued message that nobody can take now: look at it again in `due_in_s`."""

    message_id: str
    due_in_s: float
    waiting_for: WaitingFor
    waiting_provider: str | None


class DeliveryLedger(Protocol):
    async def load(self, ids: Sequence[str]) -> list[Loaded]:
        """Those of `ids` that wait (queued or scheduled) and have no open claim; others are left out. What waits for
        a suppressed recipient is moved to SUPPRESSED, and left out too."""

    async def claim(self, requests: Sequence[ClaimRequest], *, supervisor: str) -> list[Claimed]:
        """Open a claim for each that waits, is due, not expired, unclaimed and not for a suppressed recipient; the
        attempt's number is the message's `attempts` + 1. What is not returned was not won."""

    async def release(self, claims: Sequence[tuple[str, int]], *, supervisor: str) -> None:
        """Give claims up unused: no attempt is counted, the number is used again. Only this supervisor's own."""

    async def finish(self, finishes: Sequence[Finish], *, supervisor: str) -> list[Finished]:
        """Close claims, log attempts, move messages, file dead letters: one commit for each message. See `Finished`."""

    async def overdue(self, limit: int, *, within_s: float = 0.0) -> list[Overdue]:
        """Claims past their hold, and those that will be within so many seconds, oldest first. Changes nothing: the
        reaper then calls `finish` with `overdue_only`."""

    async def expire(self, limit: int) -> list[Tracked]:
        """Move waiting, unclaimed messages past `expires_at` to EXPIRED, each with a dead letter."""

    async def wake(self, ids: Sequence[str]) -> None:
        """SCHEDULED to QUEUED for those that are due."""

    async def park(self, parks: Sequence[Park]) -> None:
        """Put off queued, unclaimed messages; they keep their counters."""

    async def give_up(self, ids: Sequence[str], *, reason: Reason, cause: str, auto_retry_in_s: float | None) -> None:
        """QUEUED to FAILED without an attempt, for waiting, unclaimed messages (no provider could ever take them)."""

    async def waiting(self, lane: Lane, *, after: tuple[datetime, str] | None, limit: int) -> list[WaitingHint]:
        """All waiting, unclaimed messages of a lane by (due_at, id), a page at a time: to fill an empty queue."""

    async def touched_by(self, supervisor: str, *, limit: int) -> list[WaitingHint]:
        """Waiting, unclaimed messages that this supervisor accepted or moved last: it may have owed their hints."""

    async def due_count(self, lane: Lane, *, older_than_s: float, limit: int) -> int:
        """How many waiting, unclaimed messages of the lane have been due for so long; counts to `limit` at most."""

    async def spent(self, provider: str, *, part_s: float, parts: int) -> Sequence[int]:
        """Recipients that were handed to a provider, by age: item n has those of n to n + 1 parts ago, `parts` items.
        An open claim counts as just handed over. Reads the whole log of attempts of that time; archived ones are left
        out."""

    async def accepted_elsewhere(self, ids: Sequence[str], provider: str, *, within_s: float) -> set[str]:
        """Those of `ids` whose recipient another provider has accepted a message for within so long."""


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageView:
    """A message as the API shows it. `standing.state` is SENDING where a claim is open; `attempts` in order, the
    open one last. `archived`: it was found in the archive."""

    message: Message
    standing: Standing
    attempts: tuple[Attempt, ...] = ()
    archived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFilter:
    state: State | None = None
    channel: Channel | None = None
    to: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class MessageLedger(Protocol):
    """`tenant` None means every tenant's."""

    async def get(self, message_id: str, *, tenant: str | None) -> MessageView:
        """NotFound where there is none. Looks in the archive too."""

    async def list(
        self, wanted: MessageFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[MessageView]:
        """Newest first (by id), those before `before`. Hot tables only."""

    async def cancel(self, message_id: str, *, tenant: str | None, supervisor: str) -> MessageView:
        """SCHEDULED or QUEUED, unclaimed, to CANCELLED. Conflict once it is out of reach (names the state)."""


# ------------------------------------------------------------------------------------------------ receipts


@dataclass(frozen=True, slots=True)
class Reported:
    """A receipt, and the provider (its configured name) that gave it."""

    provider: str
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of a receipt. `message_id` None: it names no attempt that is known. `entered` are the states that its
    message went through just now; `settled` the number of an attempt without an answer that it proved. `kept`: what it
    does cannot be told yet, and it is looked at again."""

    provider: str
    message_id: str | None = None
    channel: Channel | None = None
    entered: tuple[State, ...] = ()
    settled: int | None = None
    kept: bool = False


class ReceiptLedger(Protocol):
    """`policy.receipts` says what a receipt does. Each may come any number of times, in any order."""

    async def take(self, reported: Sequence[Reported], *, keep_s: float) -> list[Taken]:
        """What these do, in one commit, answered in their order; returned means committed. What cannot be told yet is
        kept for `keep_s` at most. Archived messages come back where a receipt still moves them. What a receipt says
        to suppress is entered in the same commit, once its message is known."""

    async def expect(self, reported: Sequence[Reported], *, in_s: float, keep_s: float) -> None:
        """Have these looked at in `in_s`, as if they came then."""

    async def look_again(self, *, limit: int) -> tuple[list[Taken], float | None]:
        """Take the kept ones that are due, `limit` at most, in one commit: what came of those that are now decided or
        dropped, and in how many seconds the next one is due (None: none is kept)."""

    async def close(self, providers: Sequence[str], *, after_s: float, limit: int) -> tuple[int, bool]:
        """Messages that these providers took, and of which no receipt came in `after_s`, are sent for good: they get
        the reason `no_receipt`. Looks at about `limit` messages, each once over the whole cluster, oldest first;
        answers how many got it, and whether there are more to look at now."""

    async def forget(self, *, after_s: float, limit: int) -> int:
        """Forget which attempts providers name by their own ids, `limit` at most of those that are older."""


# -------------------------------------------------------------------------------------------- dead letters


class DeadLetterLedger(Protocol):
    async def get(self, message_id: str, *, tenant: str | None) -> DeadLetter:
        """NotFound where there is none. Archived ones included."""

    async def groups(self, wanted: DeadLetterFilter, *, tenant: str | None, limit: int) -> list[DeadLetterGroup]:
        """By (cause, reason, code, provider, channel), largest first."""

    async def counts(self) -> Mapping[Reason, int]:
        """Open ones by reason."""

    async def auto_retry(self, *, limit: int, supervisor: str, expires_after_s: float) -> list[WaitingHint]:
        """Redrive open dead letters whose automatic retry is due; answers the hints to push. Those to suppressed
        recipients are left open, with no further automatic retry."""

    async def list(
        self, wanted: DeadLetterFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[DeadLetter]:
        """Newest first by (created_at of the dead letter, id), those before the dead letter `before` (an id)."""


class OperationLedger(Protocol):
    """Redrive takes open and archived dead letters, refuses those with `max_redrives` behind them (`max_redrives`);
    and those to suppressed recipients (`suppressed`); archive takes open ones; discard open and archived ones. Reasons
    for skipping: `not_found`, `redriven`, `archived`, `discarded`, `settled`, `max_redrives`, `suppressed`,
    `cancelled` (the operation was cancelled first)."""

    async def dry_run(
        self,
        kind: OperationKind,
        *,
        ids: Sequence[str] | None,
        wanted: DeadLetterFilter | None,
        tenant: str | None,
        max_redrives: int,
    ) -> DryRun: ...

    async def create(
        self,
        operation_id: str,
        kind: OperationKind,
        *,
        ids: Sequence[str] | None,
        wanted: DeadLetterFilter | None,
        tenant: str | None,
        rate: float | None,
        reason: str | None,
        actor: str | None,
    ) -> Operation:
        """Fix the list of what it works on, now. An unknown id is an item that will be skipped as `not_found`."""

    async def get(self, operation_id: str, *, tenant: str | None) -> Operation: ...

    async def cancel(self, operation_id: str, *, tenant: str | None) -> Operation:
        """Items not yet worked on are skipped. Conflict when it is over."""

    async def step(
        self, *, limit: int, max_redrives: int, expires_after_s: float, supervisor: str
    ) -> tuple[list[WaitingHint], float | None]:
        """Work on up to `limit` items of one running operation that is due, in one commit. Any supervisor may.

        A redriven message keeps its id, attempts and first time; goes to QUEUED, counters anew, `expires_at` =
        now + `expires_after_s`, `redrives` + 1; an archived one is moved back to the hot tables. Obeys the
        operation's `rate`. Answers the hints to push, and when to come again (None: nothing is running).
        """

    async def list(self, *, tenant: str | None, before: str | None, limit: int) -> list[Operation]: ...


# -------------------------------------------------------------------------------------------- suppressions


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is to be entered; `recipient` as it came, `policy.suppression` says which spellings are one."""

    tenant: str
    channel: Channel
    recipient: str
    reason: SuppressionReason
    detail: str | None = None
    provider: str | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """`new` False: the recipient was suppressed before, and this is the first entry. `moved`: how many messages that
    waited for the recipient became SUPPRESSED just now."""

    suppression: Suppression
    new: bool
    moved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionFilter:
    """`to` finds a recipient in any of its spellings."""

    channel: Channel | None = None
    to: str | None = None
    reason: SuppressionReason | None = None


class SuppressionLedger(Protocol):
    """Unique by tenant, channel and recipient. Once an entry is committed no claim is opened for its recipient; one
    that was open ends as it may. Only `to` is looked at: a copy (`cc`, `bcc`) goes along as it is."""

    async def enter(self, entry: Entry) -> Entered:
        """With it all that waits for the recipient, unclaimed, goes to SUPPRESSED."""

    async def get(self, suppression_id: str, *, tenant: str | None) -> Suppression:
        """NotFound where there is none."""

    async def list(
        self, wanted: SuppressionFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[Suppression]:
        """Newest first (by id), those before `before`."""

    async def remove(self, suppression_id: str, *, tenant: str | None) -> None:
        """NotFound where there is none. What was suppressed stays so; only later messages go out."""


# ------------------------------------------------------------------------------------------ keys, cluster


class KeyLedger(Protocol):
    async def create(self, key: ApiKey) -> None: ...

    async def list(self) -> list[ApiKey]: ...

    async def revoke(self, key_id: str) -> ApiKey:
        """NotFound where there is none; revoking twice is no error."""

    async def find(self, digest: bytes) -> ApiKey | None:
        """The key with this digest, revoked or not."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A supervisor's row: `beats` rises each second while it lives; `ended` once it drained or was buried."""

    supervisor: str
    beats: int
    ended: bool
    roles: tuple[str, ...]
    metrics_url: str | None
    reports: tuple[ProviderReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """Name of the lists in use, and `Queue.server` as it was when they were made. `filled` once they hold all."""

    name: str
    run_id: str
    filled: bool = field(default=False, compare=False)


class ClusterLedger(Protocol):
    async def join(self, supervisor: str, *, roles: Sequence[str], metrics_url: str | None) -> None: ...

    async def beat(self, supervisor: str, reports: Sequence[ProviderReport]) -> list[Peer]:
        """Raise our counter, publish our providers' reports, answer all rows not ended (ours too)."""

    async def leave(self, supervisor: str) -> None:
        """Mark a row ended: our own after a drain, or a dead one's after its hints were moved."""

    async def peers(self) -> list[Peer]:
        """All rows not ended."""

    async def generation(self) -> Generation | None: ...

    async def renew_generation(self, old: Generation | None, new: Generation) -> Generation:
        """Compare and set; answers what is in force afterwards (new, or what another one set first)."""

    async def mark_filled(self, generation: Generation) -> None:
        """All that waited when it was made has been pushed to its lists."""

    async def controls(self) -> list[Controls]:
        """What operators have said and has not run out."""

    async def pause(self, provider: str, pause: Pause) -> None: ...

    async def resume(self, provider: str) -> None:
        """End its pause, and tell of it in `controls` for RESUMED_S."""

    async def force_breaker(self, provider: str, forced: ForcedBreaker | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """`messages` counts what is not archived, for every channel and state, zeros too (SENDING: an open claim).
    `accepted` counts messages, `entered` entries into a state, since ever; a retry or a redrive enters QUEUED again.
    `oldest_due_age_s` by lane, for what is due; None where nothing is."""

    accepted: Mapping[Channel, int]
    messages: Mapping[tuple[Channel, State], int]
    entered: Mapping[tuple[Channel, State], int]
    dead_letters: Mapping[Reason, int]
    due: Mapping[Lane, int]
    oldest_due_age_s: Mapping[Lane, float | None]


class StatsLedger(Protocol):
    async def census(self, *, count_to: int = 10_000) -> Census:
        """Cheap at any size: counters kept by each commit; `due` counts to `count_to` at most."""

    async def drift(self) -> int:
        """Messages accepted minus messages found (hot, archived, deleted on schedule). Reads the rows themselves; its
        cost grows with the hot tables, so it is asked once a minute."""


class RetentionLedger(Protocol):
    async def archive(self, *, dead_letters_after_s: float, messages_after_s: float, limit: int) -> int:
        """Move final messages (attempts and dead letter with them) to the archive's partitions; answers how many.
        Dead letters that are open or redriven-and-final count by their own age, other messages by `updated_at`."""

    async def strip_content(self, *, after_s: float, limit: int) -> int:
        """Remove the bodies of final messages (no open dead letter) older than this."""

    async def drop(self, *, after_s: float) -> list[str]:
        """Drop archive partitions that are wholly older; answers their names."""

    async def purge(self, *, limit: int) -> int:
        """Remove idempotency records past 24 h, finished operations past 30 days, supervisors ended a day ago."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """All of it, one adapter behind it."""

    intake: IntakeLedger
    delivery: DeliveryLedger
    messages: MessageLedger
    receipts: ReceiptLedger
    dead_letters: DeadLetterLedger
    operations: OperationLedger
    suppressions: SuppressionLedger
    keys: KeyLedger
    cluster: ClusterLedger
    stats: StatsLedger
    retention: RetentionLedger
