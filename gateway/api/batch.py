"""`POST /v1/messages/batch`: many at once, each judged by itself.

Items without a key of their own are committed together, with the header's idempotency record if there is one. Items
with keys are committed first, each with its own record, so that the whole can be repeated: a keyed item is then
answered from its record, the rest from the header's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import trio

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.errors import HeliographError, LedgerDown, MailboxFull
from heliograph.actors.policy.allowance import Exceeded, KeyLimits
from heliograph.actors.ports.ledger import Acceptance, Accepted, Mismatch, Replay, Suppressed
from heliograph.gateway.api import answers
from heliograph.gateway.api.drafts import Draft, Poster
from heliograph.gateway.api.idempotency import REPLAYED, Known, fingerprint_of, item_key_fault, key_in, mismatch
from heliograph.gateway.api.messages import replayed_or_refused
from heliograph.gateway.api.reading import loads, refused
from heliograph.gateway.api.replies import Reply, dumps
from heliograph.gateway.api.routing import Call, Route
from heliograph.gateway.api.schemas import MOST_BATCH, BatchAnswer, BatchBody, MessageAnswer, ProblemItem
from heliograph.gateway.limits import BATCH_BYTES
from heliograph.gateway.problems import Code, Fault, Refusal, Refused

POST: Final = "POST /v1/messages/batch"
ITEM: Final = "POST /v1/messages/batch#item"
YIELD_EVERY: Final = 100
KEYED_AT_ONCE: Final = 100

Slot = MessageAnswer | ProblemItem | orjson.Fragment


@dataclass(slots=True)
class Keyed:
    """An item with a key of its own. `places` are those in the batch that brought the same."""

    known: Known
    fingerprint: bytes
    draft: Draft | Refusal
    places: list[int]


async def post(call: Call[None, None]) -> Reply:
    key = key_in(call.headers)
    posted, clean = loads(call.raw)
    items = _items(posted)
    call.shared.admission.charge(call.key, len(items))
    batch = _Batch(call, items, clean)
    if key is None:
        return await batch.accept(None, b"")
    known = Known(call.key.id, POST, key)
    with call.shared.in_flight.held(known):
        return await batch.accept(known, fingerprint_of(posted, clean=clean))


def _items(posted: object) -> list[Any]:
    if not isinstance(posted, dict):
        raise refused([Fault("#", "must be an object")])
    faults = [Fault(f"#/{name[:100]}", "is not known here") for name in posted if name != "messages"]
    items = posted.get("messages")
    if items is None:
        faults.append(Fault("#/messages", "is required"))
    elif not isinstance(items, list):
        faults.append(Fault("#/messages", "must be a list"))
    elif not 1 <= len(items) <= MOST_BATCH:
        faults.append(Fault("#/messages", f"must hold 1 to {MOST_BATCH} messages, not {len(items)}"))
    if faults or not isinstance(items, list):
        raise refused(faults)
    return items


class _Batch:
    """One request's items, and the answer that fills up: one slot for each, in order."""

    def __init__(self, call: Call[None, None], items: Sequence[Any], clean: bool) -> None:
        self._call = call
        self._items = items
        self._clean = clean
        self._slots: list[Slot | None] = [None] * len(items)
        self._plain: dict[int, Draft] = {}
        self._keyed: dict[Known, Keyed] = {}

    async def accept(self, known: Known | None, fingerprint: bytes) -> Reply:
        """LedgerDown and MailboxFull refuse the whole: repeated, it finds its keyed items where the first left them."""
        async with self._call.shared.turn:
            await self._draft()
        if self._keyed:
            if known is not None and (reply := await self._recalled(known, fingerprint)) is not None:
                return reply
            await self._accept_keyed()
        return await self._accept_plain(known, fingerprint)

    async def _accept_plain(self, known: Known | None, fingerprint: bytes) -> Reply:
        body = dumps({"data": self._slots})
        if not self._plain and known is None:
            return Reply(202, body)
        drafts = self._plain.values()
        acceptance = Acceptance(
            messages=tuple(draft.message for draft in drafts),
            states=tuple(draft.state for draft in drafts),
            idempotency=(known.record(fingerprint, 202, body),) if known else (),
            limits=KeyLimits.of(self._call.key),
        )
        match await self._call.services.accept(acceptance):
            case Accepted():
                return Reply(202, body)
            case Replay(status=status, body=first):
                return Reply(status, first, REPLAYED)
            case Mismatch():
                raise mismatch()
            case Suppressed(message_ids):
                for place, draft in self._plain.items():
                    self._file_plain(place, draft.suppressed(message_ids))
                return await self._accept_plain(known, fingerprint)
            case Exceeded() as exceeded:
                raise self._call.shared.admission.learn(self._call.key, exceeded)

    async def _draft(self) -> None:
        call, clean = self._call, self._clean
        poster = Poster.of(call.key, call.services.clock.now(), call.headers.get("traceparent"))
        draft = call.shared.drafter.draft
        for place, item in enumerate(self._items):
            if place % YIELD_EVERY == YIELD_EVERY - 1:
                await trio.lowlevel.checkpoint()
            drafted = draft(item, poster, clean=clean, item=True)
            key = item.get("idempotency_key") if isinstance(item, dict) else None
            if isinstance(key, str) and item_key_fault(key) is None:
                self._file_keyed(place, Known(call.key.id, ITEM, key), drafted)
            elif isinstance(drafted, Refusal):
                self._slots[place] = self._problem(drafted)
            else:
                self._file_plain(place, drafted)

    def _file_plain(self, place: int, draft: Draft) -> None:
        self._plain[place] = draft
        self._slots[place] = answers.accepted_answer(draft.message, draft.state)

    def _file_keyed(self, place: int, known: Known, drafted: Draft | Refusal) -> None:
        fingerprint = fingerprint_of(self._items[place], clean=self._clean)
        first = self._keyed.setdefault(known, Keyed(known, fingerprint, drafted, []))
        if first.fingerprint == fingerprint:
            first.places.append(place)
        else:
            self._slots[place] = self._problem(mismatch().refusal)

    async def _recalled(self, known: Known, fingerprint: bytes) -> Reply | None:
        """Before keyed items take effect: whether the whole was answered before."""
        intake = self._call.services.ledger.intake
        match await intake.recall(known.key_id, known.route, known.key, fingerprint):
            case Replay(status=status, body=body):
                return Reply(status, body, REPLAYED)
            case Mismatch():
                raise mismatch()
            case None:
                return None

    async def _accept_keyed(self) -> None:
        room = trio.CapacityLimiter(KEYED_AT_ONCE)
        troubles: list[HeliographError] = []

        async def accept(keyed: Keyed) -> None:
            async with room:
                try:
                    with self._call.shared.in_flight.held(keyed.known):
                        slot = await self._accept_one(keyed)
                except (LedgerDown, MailboxFull) as error:
                    troubles.append(error)
                    return
                except Refused as error:
                    slot = self._problem(error.refusal)
            for place in keyed.places:
                self._slots[place] = slot

        async with trio.open_nursery() as nursery:
            for keyed in self._keyed.values():
                nursery.start_soon(accept, keyed)
        if troubles:
            raise troubles[0]

    async def _accept_one(self, keyed: Keyed) -> Slot:
        services, known, fingerprint = self._call.services, keyed.known, keyed.fingerprint
        if isinstance(keyed.draft, Refusal):
            reply = await replayed_or_refused(services, keyed.draft, known, fingerprint)
            return orjson.Fragment(reply.body)
        draft, message, state = keyed.draft, keyed.draft.message, keyed.draft.state
        answer = answers.accepted_answer(message, state)
        record = known.record(fingerprint, 202, dumps(answer))
        limits = KeyLimits.of(self._call.key)
        acceptance = Acceptance(messages=(message,), states=(state,), idempotency=(record,), limits=limits)
        match await services.accept(acceptance):
            case Accepted():
                return answer
            case Replay(body=body):
                return orjson.Fragment(body)
            case Mismatch():
                raise mismatch()
            case Suppressed(message_ids):
                keyed.draft = draft.suppressed(message_ids)
                return await self._accept_one(keyed)
            case Exceeded() as exceeded:
                raise self._call.shared.admission.learn(self._call.key, exceeded)

    def _problem(self, refusal: Refusal) -> ProblemItem:
        return {"error": refusal.problem(self._call.request_id)}


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/messages/batch",
        handler=post,
        summary="Send up to 1000 messages: a bad one never harms its neighbours",
        tag="messages",
        scope=ScopeName.MESSAGES_WRITE,
        documents=BatchBody,
        answer=BatchAnswer,
        status=202,
        also=(
            Code.IDEMPOTENCY_IN_FLIGHT,
            Code.IDEMPOTENCY_MISMATCH,
            Code.RATE_LIMITED,
            Code.DAILY_LIMIT,
            Code.FLOODED,
        ),
        most_bytes=BATCH_BYTES,
        idempotent_by_key=True,
        takes_messages=True,
    ),
)
