"""An actor: one task that owns some state, and a mailbox that others may put messages in.

Nobody else touches the state, so there are no locks. Closing the mailbox is the order to finish: the actor's
`async for` ends once the mailbox is empty, the actor tidies up and returns. The mailbox belongs to the supervisor and
outlives a crash: what waits in it is kept, what was in hand is gone. That is safe because the ledger, not memory,
holds the promises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

import trio

from heliograph.actors.kernel.clock import Clock
from heliograph.actors.model.errors import HeliographError, MailboxFull

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")


class ActorStopped(HeliographError):
    """The actor has been told to finish and takes no more messages."""


class Phase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    RESTING = "resting"  # crashed; built anew after a pause
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """A snapshot: `progress_at` is the last time the actor took a message, or said that it got on, or now where it
    waits at an empty mailbox: an idle actor is not a stuck one."""

    name: str
    phase: Phase
    depth: int
    capacity: int
    restarts: int
    progress_at: datetime | None


class Observer(Protocol):
    """Told of what happens in the tree; makes metrics of it. Must not raise."""

    def handled(self, name: str, duration_s: float) -> None: ...

    def restarted(self, name: str) -> None: ...


class Silent:
    """The observer of those who do not look."""

    def handled(self, name: str, duration_s: float) -> None:
        pass

    def restarted(self, name: str) -> None:
        pass


class Actor(Protocol[M]):
    async def run(self, inbox: Inbox[M]) -> None:
        """Work until the inbox ends. An `Exception` out of here is a crash; cancellation passes through."""


class Reply(Generic[R]):
    """Where one answer to one question goes. The asker may be gone: answering is then of no effect."""

    __slots__ = ("_answered", "_error", "_value")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._value: R | None = None
        self._error: Exception | None = None

    def send(self, value: R) -> None:
        if not self._answered.is_set():
            self._value = value
            self._answered.set()

    def fail(self, error: Exception) -> None:
        if not self._answered.is_set():
            self._error = error
            self._answered.set()

    @property
    def answered(self) -> bool:
        return self._answered.is_set()

    async def wait(self) -> R:
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set by send, whose type is R


class Patience:
    """Ends what waits for an answer longer than `limit_s`, with trio.TooSlowError. One sleeper watches the oldest of
    all: a deadline for each question would cost as much as the question."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._asked: deque[tuple[float, Reply[Any]]] = deque()
        self._watched = False

    def watch(self, reply: Reply[Any]) -> None:
        self._forget_answered()
        self._asked.append((trio.current_time() + self._limit_s, reply))
        if not self._watched:
            self._watched = True
            trio.lowlevel.spawn_system_task(self._end_in_time)

    async def _end_in_time(self) -> None:
        try:
            while self._asked:
                await trio.sleep_until(self._asked[0][0])
                now_s = trio.current_time()
                while self._asked and self._asked[0][0] <= now_s:
                    self._asked.popleft()[1].fail(trio.TooSlowError())
                self._forget_answered()
        finally:
            self._watched = False

    def _forget_answered(self) -> None:
        asked = self._asked
        while asked and asked[0][1].answered:
            asked.popleft()


class Mailbox(Generic[M]):
    """What waits for one actor, its counters, and the way in (`ref`). What was put in stays until it is taken out,
    whoever is cancelled meanwhile. Many can be put in and taken out at once, at the price of one."""

    def __init__(self, name: str, capacity: int, clock: Clock, observer: Observer | None = None) -> None:
        self.name = name
        self.capacity = capacity
        self.clock = clock
        self.observer: Observer = observer or Silent()
        self.phase = Phase.STARTING
        self.restarts = 0
        self.progress_at: datetime | None = None
        self.closed = False
        self._waiting: deque[M] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self.ref: Ref[M] = Ref(self)
        self._patience: dict[float, Patience] = {}

    def patience(self, limit_s: float) -> Patience:
        """Questions are asked with one of few limits."""
        found = self._patience.get(limit_s)
        if found is None:
            found = self._patience[limit_s] = Patience(limit_s)
        return found

    def close(self) -> None:
        """The order to finish. What waits is still handled."""
        self.closed = True
        self._readers.unpark_all()
        self._writers.unpark_all()

    async def put(self, message: M) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.put_nowait([message]):
            await self._writers.park()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def put_nowait(self, messages: Sequence[M]) -> int:
        """As many as there is room for, the first ones first; answers how many."""
        if self.closed:
            raise ActorStopped(f"{self.name} takes no more messages")
        room = self.capacity - len(self._waiting)
        if room < len(messages):
            messages = messages[:room]
        self._waiting.extend(messages)
        self._readers.unpark()
        return len(messages)

    async def get(self) -> M:
        """Waits for a message; trio.EndOfChannel once it is closed and empty."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            if self.closed:
                raise trio.EndOfChannel
            await self._readers.park()
        [message] = self.take(1)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message

    def take(self, most: int) -> list[M]:
        """Whatever waits, up to `most`."""
        waiting = self._waiting
        taken = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        if self._writers:
            self._writers.unpark(count=len(taken))
        return taken

    @property
    def depth(self) -> int:
        return len(self._waiting)

    def health(self) -> Health:
        waits = bool(self._readers)
        progress_at = self.clock.now() if waits else self.progress_at
        return Health(self.name, self.phase, self.depth, self.capacity, self.restarts, progress_at)


class Ref(Generic[M]):
    """All that other actors ever hold of an actor."""

    __slots__ = ("_mailbox", "name")

    def __init__(self, mailbox: Mailbox[M]) -> None:
        self.name = mailbox.name
        self._mailbox = mailbox

    async def tell(self, message: M) -> None:
        """Put a message in, waiting for room: this is the back-pressure. ActorStopped once it was told to finish."""
        await self._mailbox.put(message)

    def offer(self, message: M) -> bool:
        """Put a message in if there is room; the caller decides what it means when there is none."""
        return self.offer_all([message]) == 1

    def offer_all(self, messages: Sequence[M]) -> int:
        """Put in as many as there is room for, the first ones first; answers how many. None where it was told to
        finish."""
        try:
            return self._mailbox.put_nowait(messages)
        except ActorStopped:
            return 0

    async def ask(self, order: Callable[[Reply[R]], M], *, timeout_s: float) -> R:
        """Put a question in and wait for its answer. MailboxFull at once where there is no room; the answerer's own
        error where it fails; trio.TooSlowError after `timeout_s`, when whether it took effect is unknown."""
        reply: Reply[R] = Reply()
        if not self._mailbox.put_nowait([order(reply)]):
            raise MailboxFull(f"the mailbox of {self.name} is full ({self._mailbox.capacity})")
        self._mailbox.patience(timeout_s).watch(reply)
        return await reply.wait()

    def health(self) -> Health:
        return self._mailbox.health()


class Inbox(Generic[M]):
    """An actor's side of its mailbox, for one incarnation: `async for message in inbox`."""

    def __init__(self, mailbox: Mailbox[M]) -> None:
        self._mailbox = mailbox
        self._began_s: float | None = None
        self.ready = trio.Event()

    @property
    def name(self) -> str:
        return self._mailbox.name

    @property
    def closed(self) -> bool:
        """Told to finish; messages may still wait."""
        return self._mailbox.closed

    @property
    def depth(self) -> int:
        return self._mailbox.depth

    def started(self) -> None:
        """Ready for work: the next child may start. Waiting for the first message says so too."""
        self._mailbox.phase = Phase.RUNNING
        self.ready.set()

    def progressed(self) -> None:
        """For work that no message begins: a turn is over. Times it as one message."""
        mailbox = self._mailbox
        mailbox.progress_at = mailbox.clock.now()
        if self._began_s is not None:
            mailbox.observer.handled(mailbox.name, mailbox.clock.boot_s() - self._began_s)
            self._began_s = None

    def began(self) -> None:
        """A turn of work begins that no message began."""
        self._began_s = self._mailbox.clock.boot_s()

    def __aiter__(self) -> Inbox[M]:
        return self

    async def __anext__(self) -> M:
        self._turn_over()
        try:
            message = await self._mailbox.get()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        self._began_s = self._mailbox.clock.boot_s()
        return message

    async def receive(self, wait_s: float) -> M | None:
        """The next message, or None after `wait_s` (then also when the mailbox is closed: look at `closed`)."""
        self._turn_over()
        message: M | None = None
        with trio.move_on_after(wait_s):
            try:
                message = await self._mailbox.get()
            except trio.EndOfChannel:
                await trio.lowlevel.checkpoint()
                return None
        self._began_s = self._mailbox.clock.boot_s()
        return message

    def pile(self, most: int) -> list[M]:
        """Whatever else waits already, up to `most`, without waiting: for work that is done in groups."""
        return self._mailbox.take(most)

    def _turn_over(self) -> None:
        if not self.ready.is_set():
            self.started()
        self.progressed()
