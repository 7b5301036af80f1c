"""`/v1/messages`: post one, read one or many, cancel."""

from __future__ import annotations

from typing import Any, Final

import orjson
import structlog

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.message import Channel, State
from heliograph.actors.policy.allowance import Exceeded, KeyLimits
from heliograph.actors.ports.ledger import (
    Acceptance,
    Accepted,
    MessageFilter,
    MessageView,
    Mismatch,
    Replay,
    Suppressed,
)
from heliograph.gateway.api import answers, pages
from heliograph.gateway.api.drafts import Draft, Poster
from heliograph.gateway.api.idempotency import REPLAYED, Known, fingerprint_of, key_in, mismatch
from heliograph.gateway.api.reading import loads
from heliograph.gateway.api.replies import Reply, dumps, json_reply
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import EmailBody, MessageAnswer, MessagePage, MessageQuery, SmsBody
from heliograph.gateway.auth import seen_tenant
from heliograph.gateway.limits import ATTACHED_BYTES, MB, PLAIN_BYTES
from heliograph.gateway.problems import Code, Refusal, Refused
from heliograph.gateway.services import Services

log = structlog.get_logger()
POST: Final = "POST /v1/messages"
LIST: Final = "messages"


async def post(call: Call[None, None]) -> Reply:
    key = key_in(call.headers)
    call.shared.admission.charge(call.key, 1)
    large = len(call.raw) > PLAIN_BYTES
    if large and b'"attachments"' not in call.raw:
        raise _too_large()
    posted, clean = loads(call.raw)
    if large and not (isinstance(posted, dict) and posted.get("attachments")):
        raise _too_large()
    poster = Poster.of(call.key, call.services.clock.now(), call.headers.get("traceparent"))
    if key is None:
        return await _accept(call, call.shared.drafter.draft(posted, poster, clean=clean), None, b"")
    known = Known(call.key.id, POST, key)
    with call.shared.in_flight.held(known):
        fingerprint = fingerprint_of(posted, clean=clean)
        return await _accept(call, call.shared.drafter.draft(posted, poster, clean=clean), known, fingerprint)


def _too_large() -> Refused:
    return Refused(Code.TOO_LARGE, f"a message without attachments is at most {PLAIN_BYTES / MB:g} MB")


async def _accept(call: Call[None, None], draft: Draft | Refusal, known: Known | None, fingerprint: bytes) -> Reply:
    if isinstance(draft, Refusal):
        return await replayed_or_refused(call.services, draft, known, fingerprint)
    body = dumps(answers.accepted_answer(draft.message, draft.state))
    acceptance = Acceptance(
        messages=(draft.message,),
        states=(draft.state,),
        idempotency=(known.record(fingerprint, 202, body),) if known else (),
        limits=KeyLimits.of(call.key),
    )
    match await call.services.accept(acceptance):
        case Accepted():
            return Reply(202, body, _location(draft.message.id))
        case Replay() as replay:
            return _replayed(replay)
        case Mismatch():
            raise mismatch()
        case Suppressed(message_ids):
            return await _accept(call, draft.suppressed(message_ids), known, fingerprint)
        case Exceeded() as exceeded:
            raise call.shared.admission.learn(call.key, exceeded)


async def replayed_or_refused(services: Services, refusal: Refusal, known: Known | None, fingerprint: bytes) -> Reply:
    """What is refused now may have been accepted before, when it was not too late or its provider was still there: a
    repeat is answered as the first was."""
    if known is not None:
        match await services.ledger.intake.recall(known.key_id, known.route, known.key, fingerprint):
            case Replay() as replay:
                return _replayed(replay)
            case Mismatch():
                raise mismatch()
            case None:
                pass
    raise Refused.of(refusal)


def _replayed(replay: Replay) -> Reply:
    return Reply(replay.status, replay.body, {**_location(orjson.loads(replay.body)["id"]), **REPLAYED})


def _location(message_id: str) -> dict[str, str]:
    return {"Location": f"/v1/messages/{message_id}"}


async def one(call: Call[None, None]) -> Reply:
    view = await call.services.ledger.messages.get(call.id, tenant=seen_tenant(call.key))
    return json_reply(200, await message_of(call, view))


async def cancel(call: Call[None, None]) -> Reply:
    services = call.services
    view = await services.ledger.messages.cancel(call.id, tenant=seen_tenant(call.key), supervisor=services.supervisor)
    services.metrics.messages.labels(view.message.channel, State.CANCELLED).inc()
    log.info("message.cancelled", message=view.message.id, key=call.key.id)
    return json_reply(200, await message_of(call, view))


async def message_of(call: Call[Any, Any], view: MessageView) -> MessageAnswer:
    waiting = await call.shared.cluster.waiting([view])
    return answers.message_answer(view, waiting[0])


async def many(call: Call[None, MessageQuery]) -> Reply:
    query = call.query
    wanted = MessageFilter(
        state=State(query.state) if query.state else None,
        channel=Channel(query.channel) if query.channel else None,
        to=query.to,
        tag=query.tag,
        since=query.since,
        until=query.until,
    )
    before = pages.id_before(LIST, query.cursor)
    found = await call.services.ledger.messages.list(
        wanted, tenant=seen_tenant(call.key), before=before, limit=query.limit + 1
    )
    shown, more = pages.split(found, query.limit)
    waiting = await call.shared.cluster.waiting(shown)
    page = MessagePage(
        data=[answers.message_answer(v, w) for v, w in zip(shown, waiting, strict=True)],
        has_more=more,
        next_cursor=pages.cursor_after(LIST, shown[-1].message.id) if more else None,
    )
    return json_reply(200, page)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/messages",
        handler=post,
        summary="Send a message: it is answered once it cannot be lost",
        tag="messages",
        scope=ScopeName.MESSAGES_WRITE,
        documents=SmsBody | EmailBody,
        answer=MessageAnswer,
        status=202,
        also=(
            Code.IDEMPOTENCY_IN_FLIGHT, Code.IDEMPOTENCY_MISMATCH, Code.NOT_AVAILABLE, Code.NO_ROUTE,
            Code.TOO_MANY_RECIPIENTS, Code.RATE_LIMITED, Code.DAILY_LIMIT, Code.FLOODED,
        ),
        most_bytes=ATTACHED_BYTES,
        idempotent_by_key=True,
        takes_messages=True,
    ),
    Route(
        method="GET",
        path="/v1/messages",
        handler=many,
        summary="List messages, the newest first",
        tag="messages",
        scope=ScopeName.MESSAGES_READ,
        query=MessageQuery,
        answer=MessagePage,
    ),
    Route(
        method="GET",
        path="/v1/messages/{id}",
        handler=one,
        summary="Read a message with its attempts",
        tag="messages",
        scope=ScopeName.MESSAGES_READ,
        id_kind="message",
        answer=MessageAnswer,
    ),
    Route(
        method="POST",
        path="/v1/messages/{id}/cancel",
        handler=cancel,
        summary="Cancel a message that waits",
        tag="messages",
        scope=ScopeName.MESSAGES_WRITE,
        id_kind="message",
        answer=MessageAnswer,
        also=(Code.CONFLICT,),
    ),
)  # fmt: skip
