"""A message's states and what moves it from one to another.

| from | to | when |
|---|---|---|
| (born) | queued, scheduled, suppressed | accepted |
| scheduled | queued | its time has come |
| queued | sending | claimed |
| sending | sent, failed, queued | the attempt ended; also released, or reclaimed from a dead owner |
| queued | failed | given up without an attempt: nobody could ever take it |
| scheduled, queued | cancelled, expired, suppressed | before anybody claimed it |
| failed, undelivered, expired | queued | redriven |
| sent | delivered, undelivered | a receipt |
| delivered | undelivered | a receipt: a bounce after a delivery wins |
| queued, failed | sent | late truth: an attempt without an answer had been accepted after all |

`sending` is never stored: the ledger reads it from an open claim. There is no other edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from heliograph.actors.model.errors import HeliographError
from heliograph.actors.model.message import State


class Event(StrEnum):
    WOKEN = "woken"  # `send_at` has come
    CLAIMED = "claimed"  # the right to one call is committed
    TAKEN = "taken"  # the provider accepted it
    RETURNED = "returned"  # a retry, a release or a reclaim: the message waits again
    GIVEN_UP = "given_up"  # refused for good, out of attempts, or without any route
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    REDRIVEN = "redriven"  # sent on its way again out of the dead letters
    DELIVERED = "delivered"  # a receipt says so
    BOUNCED = "bounced"  # a receipt says that it did not arrive
    PROVED = "proved"  # late truth


class IllegalTransition(HeliographError):
    """A message cannot go this way from where it is; nothing was changed."""


_BEFORE_A_CLAIM: Final = {
    Event.CANCELLED: State.CANCELLED,
    Event.EXPIRED: State.EXPIRED,
    Event.SUPPRESSED: State.SUPPRESSED,
}

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.SCHEDULED: {Event.WOKEN: State.QUEUED, **_BEFORE_A_CLAIM},
    State.QUEUED: {
        Event.CLAIMED: State.SENDING,
        Event.GIVEN_UP: State.FAILED,
        Event.PROVED: State.SENT,
        **_BEFORE_A_CLAIM,
    },
    State.SENDING: {Event.TAKEN: State.SENT, Event.RETURNED: State.QUEUED, Event.GIVEN_UP: State.FAILED},
    State.SENT: {Event.DELIVERED: State.DELIVERED, Event.BOUNCED: State.UNDELIVERED},
    State.DELIVERED: {Event.BOUNCED: State.UNDELIVERED},
    State.UNDELIVERED: {Event.REDRIVEN: State.QUEUED},
    State.FAILED: {Event.REDRIVEN: State.QUEUED, Event.PROVED: State.SENT},
    State.EXPIRED: {Event.REDRIVEN: State.QUEUED},
    State.CANCELLED: {},
    State.SUPPRESSED: {},
}

BIRTHS: Final = frozenset({State.QUEUED, State.SCHEDULED, State.SUPPRESSED})
WAITING: Final = frozenset({State.QUEUED, State.SCHEDULED})
"""What somebody still has to do something for (besides SENDING, where somebody does)."""
AT_REST: Final = frozenset(State) - WAITING - {State.SENDING}
"""Nothing of ours moves it any more; a receipt, a redrive or late truth may."""
DEAD: Final = frozenset(state for state, row in TRANSITIONS.items() if Event.REDRIVEN in row)
"""Has a dead letter."""


def move(state: State, event: Event) -> State:
    """Where `event` takes a message that is in `state`. IllegalTransition where there is no such edge.

    >>> move(State.QUEUED, Event.CLAIMED)
    <State.SENDING: 'sending'>
    """
    after = TRANSITIONS[state].get(event)
    if after is None:
        raise IllegalTransition(f"a message that is {state} cannot be {event}")
    return after
