"""Values of the model as the API shows them. Times stay datetimes: the JSON writer gives them their `Z`."""

from __future__ import annotations

from datetime import datetime

from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.attempt import Attempt
from heliograph.actors.model.deadletter import DeadLetter, DeadLetterGroup, DryRun, Operation
from heliograph.actors.model.message import Message, State, WaitingFor
from heliograph.actors.model.receipt import Suppression
from heliograph.actors.ports.ledger import MessageView
from heliograph.gateway.api.schemas import (
    AttemptAnswer,
    DeadLetterAnswer,
    DryRunAnswer,
    GroupAnswer,
    KeyAnswer,
    MessageAnswer,
    OperationAnswer,
    SuppressionAnswer,
    WaitingAnswer,
)


def waiting_answer(reason: WaitingFor, provider: str | None, until: datetime | None) -> WaitingAnswer:
    return {"for": reason.value, "provider": provider, "until": until}


def accepted_answer(message: Message, state: State) -> MessageAnswer:
    """A message that is only just being accepted."""
    scheduled = state is State.SCHEDULED
    return {
        "id": message.id,
        "state": state.value,
        "channel": message.channel.value,
        "to": message.to,
        "priority": message.priority.value,
        "category": message.category.value,
        "provider": None,
        "parts": message.parts,
        "waiting": waiting_answer(WaitingFor.SEND_AT, None, message.send_at) if scheduled else None,
        "attempts": [],
        "created_at": message.created_at,
        "updated_at": message.created_at,
        "send_at": message.send_at,
        "expires_at": message.expires_at,
        "tags": list(message.tags),
        "metadata": dict(message.metadata),
        "reason": None,
    }


def message_answer(view: MessageView, waiting: WaitingAnswer | None) -> MessageAnswer:
    message, standing = view.message, view.standing
    return {
        "id": message.id,
        "state": standing.state.value,
        "channel": message.channel.value,
        "to": message.to,
        "priority": message.priority.value,
        "category": message.category.value,
        "provider": standing.provider,
        "parts": message.parts,
        "waiting": waiting,
        "attempts": [attempt_answer(a) for a in view.attempts],
        "created_at": message.created_at,
        "updated_at": standing.updated_at,
        "send_at": message.send_at,
        "expires_at": standing.expires_at,
        "tags": list(message.tags),
        "metadata": dict(message.metadata),
        "reason": standing.reason.value if standing.reason else None,
    }


def attempt_answer(attempt: Attempt) -> AttemptAnswer:
    return {
        "number": attempt.number,
        "provider": attempt.provider,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "outcome": attempt.outcome.value if attempt.outcome else None,
        "code": attempt.code,
        "detail": attempt.detail,
        "provider_message_id": attempt.provider_message_id,
        "settled": attempt.settled.value if attempt.settled else None,
        "settled_at": attempt.settled_at,
    }


def dead_letter_answer(letter: DeadLetter) -> DeadLetterAnswer:
    return {
        "id": letter.id,
        "state": letter.state.value,
        "channel": letter.channel.value,
        "to": letter.to,
        "reason": letter.reason.value,
        "code": letter.code,
        "provider": letter.provider,
        "cause": letter.cause,
        "detail": letter.detail,
        "tags": list(letter.tags),
        "attempt_count": letter.attempts,
        "redrives": letter.redrives,
        "created_at": letter.created_at,
        "updated_at": letter.updated_at,
        "next_auto_retry_at": letter.next_auto_retry_at,
    }


def group_answer(group: DeadLetterGroup) -> GroupAnswer:
    return {
        "cause": group.cause,
        "reason": group.reason.value,
        "code": group.code,
        "provider": group.provider,
        "channel": group.channel.value,
        "count": group.count,
        "first_at": group.first_at,
        "last_at": group.last_at,
        "sample_id": group.sample_id,
    }


def dry_run_answer(run: DryRun) -> DryRunAnswer:
    return {"matched": run.matched, "eligible": run.eligible, "skipped": dict(run.skipped)}


def operation_answer(operation: Operation) -> OperationAnswer:
    return {
        "id": operation.id,
        "kind": operation.kind.value,
        "state": operation.state.value,
        "total": operation.total,
        "done": operation.done,
        "failed": operation.failed,
        "skipped": operation.skipped,
        "failures": [{"id": message_id, "reason": reason} for message_id, reason in operation.failures],
        "created_at": operation.created_at,
        "finished_at": operation.finished_at,
    }


def suppression_answer(suppression: Suppression) -> SuppressionAnswer:
    return {
        "id": suppression.id,
        "tenant": suppression.tenant,
        "channel": suppression.channel.value,
        "to": suppression.recipient,
        "reason": suppression.reason.value,
        "detail": suppression.detail,
        "provider": suppression.provider,
        "message_id": suppression.message_id,
        "created_at": suppression.created_at,
    }


def key_answer(key: ApiKey) -> KeyAnswer:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(scope.value for scope in key.scopes),
        "live": key.live,
        "rate": key.rate,
        "daily": key.daily,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
