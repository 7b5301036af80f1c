"""One connection to a mail server: what a dialogue says is done, what comes is heard."""

from __future__ import annotations

import ipaddress
import select
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar, assert_never

import trio

from heliograph.actors.ports.courier import Begin
from heliograph.providers.smtp.dialogue import Dialogue, Garbled, Heard, Loss, ReplyReader, Say, Secure, Step
from heliograph.providers.smtp.opening import Features
from heliograph.providers.smtp.replies import Reply, Row

CHUNK: Final = 16 * 1024
MOST_LAST_WORDS: Final = 2
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a mail server is and how it is treated. `tls` is starttls, implicit or none. The answer to the final dot
    may come `final_answer_s` later than any other: giving up on it makes attempts `unknown`."""

    host: str
    port: int
    tls: str
    ehlo_name: str | None = None
    timeout_s: float = 10.0
    final_answer_s: float = 60.0
    idle_s: float = 60.0
    lifetime_s: float = 600.0
    mails_per_session: int = 100
    rows: tuple[Row, ...] = ()

    @property
    def loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Session:
    """One connection. After a loss, or when cancelled in the middle of a step, it is of no use any more."""

    def __init__(self, stream: trio.SocketStream, server: Server, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._stream: trio.abc.Stream = stream
        self._socket = stream.socket
        self._server = server
        self._reader = ReplyReader()
        self._ends_s = trio.current_time() + server.lifetime_s
        self._stale_s = trio.current_time() + server.idle_s
        self.features = Features()
        self.mails = 0

    @property
    def ehlo_name(self) -> str:
        """As configured, or our address as a literal (RFC 5321, 4.1.3): few machines have a name that the DNS knows."""
        if self._server.ehlo_name:
            return self._server.ehlo_name
        address = self._socket.getsockname()[0].partition("%")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def rest(self) -> None:
        self._stale_s = trio.current_time() + self._server.idle_s

    @property
    def until_s(self) -> float:
        """When it is too old, or has been idle for too long; at once where it has carried its mails."""
        return 0.0 if self.mails >= self._server.mails_per_session else min(self._stale_s, self._ends_s)

    @property
    def open(self) -> bool:
        """Nobody hung up: whatever comes unasked is a good-bye."""
        return self._reader.idle and not self._shows(select.POLLIN | _HUNG_UP)

    def _shows(self, events: int) -> bool:
        """Whether the socket shows one of them, or an error, now."""
        poll = select.poll()
        poll.register(self._socket.fileno(), events)
        return bool(poll.poll(0))

    async def hold(self, dialogue: Dialogue[T], *, until_s: float, begin: Begin) -> T:
        """Drive a dialogue to its end. Only what `begin` raises comes out, and then nothing was written."""
        try:
            step = next(dialogue)
            while True:
                step = dialogue.send(await self._do(step, until_s, begin))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Step, until_s: float, begin: Begin) -> Heard:
        match step:
            case Secure():
                return await self.secure(until_s)
            case Say():
                return await self._say(step, until_s, begin)
            case _:
                assert_never(step)

    async def _say(self, say: Say, until_s: float, begin: Begin) -> Heard:
        replies: list[Reply] = []
        try:
            with trio.move_on_at(until_s + (self._server.final_answer_s if say.last else 0.0)):
                if say.begins:
                    begin()
                written = await self._write(say.data)
                # It makes a difference whether a broken connection is known before the final dot or after it.
                if not written or (not say.replies and self._shows(_HUNG_UP)):
                    return await self._last_words(written=written)
                while len(replies) < say.replies:
                    replies.append(await self._reply())
                return Heard(tuple(replies))
        except trio.BrokenResourceError:
            return Heard(tuple(replies), Loss.DISCONNECTED, "the connection broke")
        except Garbled as error:
            return Heard(tuple(replies), Loss.GARBLED, f"this is not SMTP: {error}")
        return Heard(tuple(replies), Loss.TIMEOUT, "no answer in time")

    async def _write(self, data: bytes) -> bool:
        """False where the socket did not take all of it."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            return False
        return True

    async def _last_words(self, *, written: bool) -> Heard:
        """Some servers say what they do not like before they hang up."""
        replies: list[Reply] = []
        with suppress(trio.BrokenResourceError, Garbled):
            while len(replies) < MOST_LAST_WORDS:
                replies.append(await self._reply())
        return Heard(tuple(replies), Loss.DISCONNECTED, "the connection broke", written=written)

    async def _reply(self) -> Reply:
        while (reply := self._reader.next()) is None:
            data = await self._stream.receive_some(CHUNK)
            if not data:
                raise trio.BrokenResourceError
            self._reader.feed(data)
        return reply

    async def secure(self, until_s: float) -> Heard:
        """TLS from here on. What was received in the clear and not read is thrown away: anybody may have said it."""
        self._reader.clear()
        stream = trio.SSLStream(self._stream, self._tls, server_hostname=self._server.host, https_compatible=True)
        try:
            with trio.move_on_at(until_s):
                await stream.do_handshake()
                self._stream = stream
                return Heard()
        except trio.BrokenResourceError as error:
            return _tls_fault(error)
        return Heard((), Loss.TIMEOUT, "no TLS handshake in time")

    async def hang_up(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


def _tls_fault(error: BaseException) -> Heard:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Heard((), Loss.CERTIFICATE, f"the server's certificate does not verify: {cause.verify_message}")
        cause = cause.__cause__ or cause.__context__
    return Heard((), Loss.TLS, "the TLS handshake failed")
