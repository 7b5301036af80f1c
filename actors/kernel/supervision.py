"""Keeping actors alive: a tree of nurseries, one-for-one, with a bound on how often a child may crash.

Children start in order, each after the one before is ready, and are drained in the opposite order. A crash of one
child touches no other: it is built anew after a pause, with the same mailbox. A child that crashes too often either
*escalates* (its whole group ends with RestartsExceeded, which is then the parent's to handle) or *rests* for a while
and is tried again, as a provider does, whose trouble must never become its neighbours'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import structlog
import trio

from heliograph.actors.kernel.actor import Actor, Health, Inbox, Mailbox, Phase
from heliograph.actors.kernel.clock import Clock
from heliograph.actors.model.errors import ConfigurationError, HeliographError
from heliograph.actors.policy.restart import Crashes, Intensity

log = structlog.get_logger()
REST_S: Final = 30.0


class RestartsExceeded(HeliographError):
    """A child crashed more often than its restart intensity allows."""


class ActorEnded(HeliographError):
    """An actor returned although nobody had told it to finish."""


class Exceeded(StrEnum):
    ESCALATE = "escalate"
    REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """`build` makes a fresh object for each start, so that no state survives a crash by accident. `grace_s` is how
    long it may take to finish once its mailbox is closed; then it is cancelled."""

    mailbox: Mailbox[Any]
    build: Callable[[], Actor[Any]]
    grace_s: float = 5.0
    intensity: Intensity = Intensity()
    exceeded: Exceeded = Exceeded.ESCALATE

    @property
    def name(self) -> str:
        return self.mailbox.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A branch: children under one nursery, restarted as a whole when one of them escalates. With `together` they are
    drained at the same time, not from the last to the first."""

    name: str
    children: Sequence[ChildSpec | Group]
    together: bool = False
    intensity: Intensity = Intensity(most=3, window_s=300.0)
    exceeded: Exceeded = field(default=Exceeded.ESCALATE)

    def leaves(self) -> Iterator[ChildSpec]:
        for child in self.children:
            if isinstance(child, Group):
                yield from child.leaves()
            else:
                yield child

    def health(self) -> list[Health]:
        return [leaf.mailbox.health() for leaf in self.leaves()]


class Supervisor:
    """Runs one group. `drain` ends it in order; leaving `run` any other way is an escalation."""

    def __init__(self, group: Group, clock: Clock) -> None:
        self._group = group
        self._clock = clock
        self._draining = trio.Event()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._done: dict[str, trio.Event] = {child.name: trio.Event() for child in group.children}
        self._below: dict[str, Supervisor] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start all children in order, then keep them until drained. RestartsExceeded (in an exception group, as
        nurseries raise) when one escalates."""
        async with trio.open_nursery() as nursery:
            for child in self._group.children:
                if self._draining.is_set():
                    self._done[child.name].set()
                    continue
                await nursery.start(self._keep, child)
            task_status.started()

    async def drain(self) -> None:
        """Finish the children, each within its grace."""
        self._draining.set()
        if self._group.together:
            async with trio.open_nursery() as nursery:
                for child in self._group.children:
                    nursery.start_soon(self._finish, child)
            return
        for child in reversed(self._group.children):
            await self._finish(child)

    async def _finish(self, child: ChildSpec | Group) -> None:
        done = self._done[child.name]
        if isinstance(child, Group):
            if below := self._below.get(child.name):
                await below.drain()
            await done.wait()
            return
        child.mailbox.close()
        with trio.move_on_after(child.grace_s):
            await done.wait()
        if not done.is_set():
            log.warning("actor.grace_over", actor=child.name, grace_s=child.grace_s)
            if scope := self._scopes.get(child.name):
                scope.cancel()
            await done.wait()

    async def _keep(self, child: ChildSpec | Group, *, task_status: trio.TaskStatus[None]) -> None:
        crashes = Crashes(child.intensity)
        first = _Once(task_status)
        try:
            while not self._draining.is_set():
                error = await self._once(child, first)
                if error is None:
                    return
                if _holds(error, ConfigurationError):
                    raise error  # a restart mends no configuration
                pause_s = crashes.add(self._clock.boot_s())
                if pause_s is None:
                    if child.exceeded is Exceeded.ESCALATE:
                        raise RestartsExceeded(f"{child.name} crashed too often") from error
                    crashes.forget()
                    pause_s = REST_S
                    first.started()  # the others are not to wait for it
                log.error("actor.crashed", actor=child.name, error=_leaves(error), restart_in_s=round(pause_s, 3))
                self._count(child)
                with trio.move_on_after(pause_s):
                    await self._draining.wait()
        finally:
            first.started()
            if isinstance(child, ChildSpec):
                child.mailbox.phase = Phase.STOPPED
            self._done[child.name].set()

    async def _once(self, child: ChildSpec | Group, first: _Once) -> Exception | None:
        """One life of a child; its crash, or None when it ended as told."""
        try:
            with trio.CancelScope() as scope:
                self._scopes[child.name] = scope
                if isinstance(child, Group):
                    self._below[child.name] = below = Supervisor(child, self._clock)
                    async with trio.open_nursery() as nursery:
                        await nursery.start(below.run)
                        first.started()
                else:
                    await self._live(child, first)
        except Exception as error:
            return error
        if self._draining.is_set():
            return None
        return ActorEnded(f"{child.name} ended by itself")

    async def _live(self, child: ChildSpec, first: _Once) -> None:
        inbox: Inbox[Any] = Inbox(child.mailbox)
        child.mailbox.phase = Phase.STARTING
        async with trio.open_nursery() as nursery:

            async def announce() -> None:
                await inbox.ready.wait()
                first.started()

            nursery.start_soon(announce)
            try:
                await child.build().run(inbox)
            finally:
                if inbox.ready.is_set():
                    first.started()
            nursery.cancel_scope.cancel()

    def _count(self, child: ChildSpec | Group) -> None:
        leaves = child.leaves() if isinstance(child, Group) else iter((child,))
        for leaf in leaves:
            leaf.mailbox.phase = Phase.RESTING
            leaf.mailbox.restarts += 1
            leaf.mailbox.observer.restarted(leaf.name)


class _Once:
    """Reports a start to the nursery once, however often the child is built."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._status: trio.TaskStatus[None] | None = task_status

    def started(self) -> None:
        if self._status is not None:
            status, self._status = self._status, None
            status.started()


def _holds(error: BaseException, kind: type[Exception]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)


def _leaves(error: BaseException) -> list[str]:
    """Type and place of each error in a group; an error's own text only where it is one of ours, since others may
    quote a message's body or a secret."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" at {where.tb_frame.f_globals.get('__name__')}:{where.tb_lineno}" if where is not None else ""
    text = f": {error}" if isinstance(error, HeliographError) else ""
    return [f"{type(error).__name__}{place}{text}"]
