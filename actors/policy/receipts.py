"""What a provider's receipt does to the message whose attempt it names: pure.

An attempt without an answer is proved by any receipt that says the provider has it. Then, for the message's state:

| receipt | moves | counts |
|---|---|---|
| delivered | `sent` to `delivered` | for any accepted attempt of the message's present life |
| undelivered | `sent`, `delivered` to `undelivered` | unless a later attempt was accepted, too: then that one's do |

What cannot be told yet (the attempt is not written; one is under way; a later one may have been accepted, too) is kept
and looked at again. So the order in which receipts and ends of attempts come makes no difference, nor their repetition.

A provider that takes a repeat for what it is (BulkSMS) answers it with the message that it made at first, and its
receipts name the attempt of then, whatever that had come to. The provider's own id tells which attempt they speak for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from heliograph.actors.model.attempt import Outcome, Settled
from heliograph.actors.model.identity import MOST_NUMBERED
from heliograph.actors.model.message import Channel, Reason, State
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.policy.lifecycle import TRANSITIONS, Event
from heliograph.actors.policy.suppression import recipient_of

FIRST_LOOK_S: Final = 1.0
RAREST_LOOK_S: Final = 3600.0

_EVENTS: Final = {Effect.DELIVERED: Event.DELIVERED, Effect.UNDELIVERED: Event.BOUNCED}


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt in the log, as far as receipts ask about it."""

    number: int
    provider: str
    outcome: Outcome
    settled: Settled | None = None
    provider_message_id: str | None = None

    @property
    def open(self) -> bool:
        """Nobody knows what became of it."""
        return self.outcome is Outcome.UNKNOWN and self.settled is None

    @property
    def accepted(self) -> bool:
        return self.outcome is Outcome.ACCEPTED or self.settled is Settled.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where the message stands. `under_way` is the number and provider of its open claim; `earlier_lives` the last
    attempt before its last redrive, 0 where it had none. `last`: what cannot be told now is not looked at again."""

    state: State
    reason: Reason | None
    attempts: Sequence[Ended]
    under_way: tuple[int, str] | None = None
    earlier_lives: int = 0
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """`known`: the attempt is in the log. `settles`: its number, had it been without an answer. `event`: along which
    edge the message goes then. `kept`: look again later."""

    known: bool = False
    settles: int | None = None
    event: Event | None = None
    provider: str | None = None
    kept: bool = False


NOTHING: Final = Ruling()


def rule(
    effect: Effect | None, number: int, provider: str, situation: Situation, *, provider_message_id: str | None = None
) -> Ruling:
    """What a receipt of `provider` about the attempt `number` does. Numbers from MOST_NUMBERED on are one.
    `provider_message_id` is what the receipt says."""
    found = [a for a in situation.attempts if _same(a.number, number) and a.provider == provider]
    if not found:
        claim = situation.under_way
        return Ruling(kept=claim is not None and _same(claim[0], number) and claim[1] == provider)
    attempt = found[-1]
    repeat = _repeat(attempt, provider_message_id, situation.attempts)
    if effect is None or not (attempt.open or attempt.accepted or repeat):
        # It was put off, and yet the provider has it: what repeats it may be on its way.
        coming = attempt.outcome is Outcome.DEFERRED or attempt.settled is Settled.NOT_SENT
        waits = coming and effect in _EVENTS and situation.state in (State.QUEUED, State.SENDING)
        return Ruling(known=True, kept=waits and provider_message_id is not None)
    ruling = Ruling(known=True, provider=provider, settles=attempt.number if attempt.open else None)
    if (event := _EVENTS.get(effect)) is None or situation.reason is Reason.NO_RECEIPT:
        return ruling
    if situation.state is State.SENDING:
        return replace(ruling, kept=True)
    proves = attempt.open and situation.state in (State.QUEUED, State.FAILED)
    if event not in TRANSITIONS[State.SENT if proves else situation.state]:
        return ruling
    spoken_for = repeat or attempt
    later = [a for a in situation.attempts if a.number > spoken_for.number]
    if event is Event.DELIVERED:
        overtaken = spoken_for.number <= situation.earlier_lives and any(a.accepted for a in later) and not proves
        return ruling if overtaken else replace(ruling, event=event)
    if any(a.accepted for a in later):
        return ruling
    if any(a.open for a in later) and not situation.last:
        return replace(ruling, kept=True)
    return replace(ruling, event=event)


def _repeat(attempt: Ended, provider_message_id: str | None, attempts: Sequence[Ended]) -> Ended | None:
    """The later attempt that was answered with the message of this one."""
    if provider_message_id is None:
        return None
    same = (attempt.provider, provider_message_id)
    later = (a for a in attempts if a.number > attempt.number and a.accepted)
    return next((a for a in later if (a.provider, a.provider_message_id) == same), None)


def concerns(receipt: Receipt, channel: Channel, to: str, copies: Sequence[str] | None) -> bool:
    """Whether the receipt is about `to`, whose state the message's is, and not about one in `cc` or `bcc`. `copies`
    None: nobody knows any longer who they were."""
    if channel is Channel.SMS or receipt.recipient is None or _alike(receipt.recipient, to):
        return True
    return copies is not None and not copies  # a provider may name the address that it was forwarded to


def addressed(receipt: Receipt, channel: Channel, to: str) -> bool:
    """Whether it names `to` in so many words, or nobody: then who the copies went to need not be known."""
    return concerns(receipt, channel, to, None)


def next_look_s(looks: int) -> float:
    """After so many looks: soon at first, then ever more rarely."""
    return min(RAREST_LOOK_S, FIRST_LOOK_S * 2.0 ** min(looks, 16))


def _same(number: int, named: int) -> bool:
    return min(number, MOST_NUMBERED) == min(named, MOST_NUMBERED)


def _alike(one: str, other: str) -> bool:
    return one == other or recipient_of(Channel.EMAIL, one).folded == recipient_of(Channel.EMAIL, other).folded
