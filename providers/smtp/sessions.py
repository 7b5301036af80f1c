"""The sessions with one mail server: opened, logged in, used again, left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ssl import SSLContext
from typing import Final, Protocol

import trio

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers.smtp.dialogue import Heard, Loss, lost
from heliograph.providers.smtp.opening import Bearer, Login, closing, opening
from heliograph.providers.smtp.replies import Stage
from heliograph.providers.smtp.session import Server, Session
from heliograph.providers.verdicts import clip

GOODBYE_S: Final = 1.5


class Logins(Protocol):
    """Where a session's login comes from."""

    async def login(self, refused: Login | None = None) -> Login | Answer | None:
        """What to log in with; None where the server asks for nothing; an answer where it cannot be had now. `refused`
        is one that the server did not accept: it is not given again, where there can be others."""


@dataclass(frozen=True, slots=True)
class FixedLogin:
    known: Login | None

    async def login(self, refused: Login | None = None) -> Login | None:  # noqa: ARG002 - there is no other
        return self.known


class Sessions:
    """The idle ones, the last used on top, so that others may grow old and go. It opens as many as are asked for."""

    def __init__(self, server: Server, tls: SSLContext, logins: Logins) -> None:
        self._server = server
        self._tls = tls
        self._logins = logins
        self._idle: list[Session] = []
        self._watched = False
        self._put_off: Answer | None = None
        self._put_off_until_s = 0.0

    async def take(self) -> Session | Answer:
        while self._idle:
            session = self._idle.pop()
            if not session.open:
                await session.hang_up()
            elif session.until_s <= trio.current_time():
                await self._leave(session)
            else:
                return session
        return await self.open()

    async def open(self) -> Session | Answer:
        """A new session, logged in. A server that wants to be left alone for a while is not asked until then."""
        wait_s = self._put_off_until_s - trio.current_time()
        if self._put_off is not None and wait_s > 0:
            return replace(self._put_off, retry_after_s=wait_s)
        opened = await self._log_in(trio.current_time() + self._server.timeout_s)
        if isinstance(opened, Answer) and opened.retry_after_s is not None:
            self._put_off, self._put_off_until_s = opened, trio.current_time() + opened.retry_after_s
        return opened

    async def _log_in(self, until_s: float) -> Session | Answer:
        """A token may be refused before its time, so another is tried before anybody is told."""
        login = await self._logins.login()
        if isinstance(login, Answer):
            return login
        opened = await self._connect(login, until_s)
        if isinstance(opened, Session) or opened.outcome is not Outcome.MISCONFIGURED or not isinstance(login, Bearer):
            return opened
        another = await self._logins.login(refused=login)
        return another if isinstance(another, Answer) else await self._connect(another, until_s)

    async def _connect(self, login: Login | None, until_s: float) -> Session | Answer:
        server = self._server
        try:
            with trio.fail_at(until_s):
                stream = await trio.open_tcp_stream(server.host, server.port)
        except trio.TooSlowError:
            heard = Heard((), Loss.TIMEOUT, f"no connection to {server.host}:{server.port} in time")
            return lost(heard, Stage.GREETING)
        except OSError as error:
            detail = clip(f"no connection to {server.host}:{server.port}: {_why(error)}")
            return Answer(outcome=Outcome.DEFERRED, code="unreachable", detail=detail)
        session = Session(stream, server, self._tls)
        try:
            fault = await self._introduce(session, login, until_s)
        except BaseException:
            await session.hang_up()
            raise
        if fault is None:
            return session
        await session.hang_up()
        return fault

    async def _introduce(self, session: Session, login: Login | None, until_s: float) -> Answer | None:
        server = self._server
        if server.tls == "implicit":
            heard = await session.secure(until_s)
            if heard.loss is not None:
                return lost(heard, Stage.TLS)
        dialogue = opening(
            ehlo_name=session.ehlo_name, starttls=server.tls == "starttls", login=login, rows=server.rows
        )
        features = await session.hold(dialogue, until_s=until_s, begin=_freely)
        if isinstance(features, Answer):
            return features
        session.features = features
        return None

    async def give_back(self, session: Session, *, reusable: bool) -> None:
        """Cannot be cancelled: there may be an answer to hand on."""
        if not reusable:
            await session.hang_up()
            return
        session.rest()
        if session.until_s <= trio.current_time():
            await self._leave(session)
            return
        self._idle.append(session)
        if not self._watched:
            self._watched = True
            trio.lowlevel.spawn_system_task(self._watch)

    async def _watch(self) -> None:
        """Leave those that are idle for too long, also when no mail comes that would find them so."""
        try:
            while self._idle:
                await trio.sleep_until(min(session.until_s for session in self._idle))
                now_s = trio.current_time()
                for session in [each for each in self._idle if each.until_s <= now_s]:
                    self._idle.remove(session)
                    await self._leave(session)
        finally:
            self._watched = False

    async def _leave(self, session: Session) -> None:
        """Say good-bye and do not wait for the answer: somebody waits for us."""
        with trio.CancelScope(shield=True):
            until_s = trio.current_time() + GOODBYE_S
            await session.hold(closing(replies=0), until_s=until_s, begin=_freely)
            await session.hang_up()

    async def part(self, session: Session) -> None:
        """Say good-bye, and wait a moment for the answer."""
        try:
            until_s = trio.current_time() + GOODBYE_S
            await session.hold(closing(), until_s=until_s, begin=_freely)
        finally:
            await session.hang_up()

    async def aclose(self) -> None:
        async with trio.open_nursery() as nursery:
            while self._idle:
                nursery.start_soon(self.part, self._idle.pop())


def _freely() -> None:
    """Nothing that is said has an effect: no right is needed."""


def _why(error: OSError) -> str:
    """The system's own words. Where several addresses were tried, those of the first."""
    tried = error.__cause__
    if isinstance(tried, BaseExceptionGroup) and isinstance(tried.exceptions[0], OSError):
        return _why(tried.exceptions[0])
    if isinstance(tried, OSError):
        return _why(tried)
    return error.strerror or "failed"
