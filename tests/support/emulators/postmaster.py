"""A mail server that holds its clients to RFC 5321 and its extensions to the letter.

It plays any reply or fault at any point of the dialogue, and counts what it takes; what a client does wrong stands in
`violations`.

In a test: `async with postmaster() as server`. It shares no code with the product, and none with aiosmtpd.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from enum import StrEnum
from functools import partial
from typing import Final

import trio

MOST_COMMAND: Final = 512 + 26 + 17 + 10 + 500  # RFC 5321, and what SIZE, 8BITMIME, SMTPUTF8 and DSN may add
MOST_AUTH: Final = 12_288  # RFC 4954
MOST_TEXT: Final = 998
_PATH: Final = r"<(?P<address>[^\x00-\x20<>\x7f]+@[^\x00-\x20<>\x7f]+)>(?P<parameters>(?: [A-Z0-9-]+(?:=[!-<>-~]+)?)*)"
_MAIL: Final = re.compile(rf"MAIL FROM:{_PATH}")
_RCPT: Final = re.compile(rf"RCPT TO:{_PATH}")
_TOKEN: Final = {
    "XOAUTH2": re.compile(r"user=[^\x01]+\x01auth=Bearer ([^\x01]+)\x01\x01"),
    "OAUTHBEARER": re.compile(r"n,a=[^\x01,]+,\x01auth=Bearer ([^\x01]+)\x01\x01"),
}
_AFTER_REFUSAL: Final = {"XOAUTH2": b"", "OAUTHBEARER": b"AQ=="}
_NAME: Final = re.compile(r"\[(?:IPv6:[0-9a-f:]+|[0-9.]+)\]|[A-Za-z0-9.-]+")


class Stage(StrEnum):
    """What the server answers, or is about to receive."""

    GREETING = "greeting"
    HELLO = "EHLO"
    TLS = "STARTTLS"
    HANDSHAKE = "handshake"
    LOGIN = "AUTH"
    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    DATA = "DATA"
    CONTENT = "the content"
    END = "the final dot"
    RESET = "RSET"
    GOODBYE = "QUIT"


class Fault(StrEnum):
    CUT = "cut"  # the connection is closed
    RESET = "reset"  # and the other end is told so rudely
    SILENT = "silent"  # no answer, and nothing more is read
    GARBAGE = "garbage"
    OVERSIZED = "oversized"  # a line that does not end
    ENDLESS = "endless"  # a reply that does not end
    TORN = "torn"  # the connection is closed in the middle of the answer
    RAW = "raw"  # garbage beneath TLS
    BABEL = "babel"  # the lines of one reply disagree
    SLOW = "slow"  # the right answer, after `delay_s`


Play = Fault | bytes
"""A fault, or what is answered in place of the right thing. After a reply that begins with 421 the server hangs up."""


@dataclass(frozen=True, slots=True)
class Mail:
    sender: str
    recipients: tuple[str, ...]
    parameters: tuple[str, ...]
    content: bytes = field(repr=False)

    @property
    def message_id(self) -> str:
        return str(message_from_bytes(self.content)["message-id"])


class _HangUp(Exception):
    """The end of a connection, by the server's will."""


@dataclass(slots=True)
class Postmaster:
    """`offers` beyond STARTTLS and AUTH, which follow from `starttls` and `login`. `token` is what XOAUTH2 must bring.
    `most_recipients` of one mail; the next RCPT is answered 452 4.5.3."""

    offers: tuple[str, ...] = ("PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
    starttls: ssl.SSLContext | None = None
    implicit: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    token: str | None = None
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN", "XOAUTH2")
    most_recipients: int = 100
    delay_s: float = 0.05
    port: int = 0
    connections: int = 0
    logins: int = 0
    goodbyes: int = 0
    left: trio.Event = field(default_factory=trio.Event)  # somebody said QUIT
    commands: list[str] = field(default_factory=list)
    bursts: list[int] = field(default_factory=list)  # how many commands came in each read
    mails: list[Mail] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    judge: Callable[[str], bytes | None] = lambda _: None  # a recipient's own reply
    _plays: dict[Stage, tuple[Play, int]] = field(default_factory=dict)

    def play(self, stage: Stage, play: Play, times: int = 1) -> None:
        """The next `times` that it comes to this stage."""
        self._plays[stage] = (play, times)

    def heal(self) -> None:
        self._plays.clear()

    def drawn(self, stage: Stage) -> Play | None:
        play, times = self._plays.get(stage, (None, 0))
        if times > 1:
            self._plays[stage] = (play, times - 1)  # type: ignore[assignment]
        else:
            self._plays.pop(stage, None)
        return play

    def violated(self, what: str) -> None:
        self.violations.append(what)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 32 * 1024)
        talk = _Talk(self, stream)
        try:
            await talk.run()
        except (_HangUp, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(talk.stream)


@asynccontextmanager
async def postmaster(**how: object) -> AsyncIterator[Postmaster]:
    """Listens on 127.0.0.1. What a client did wrong fails the test at the end."""
    server = Postmaster(**how)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()
    assert not server.violations, server.violations


class _Talk:
    """One connection."""

    def __init__(self, server: Postmaster, stream: trio.SocketStream) -> None:
        self.server = server
        self.raw = stream
        self.stream: trio.abc.Stream = stream
        self.buffer = bytearray()
        self.secure = False
        self.greeted = False
        self.known = False
        self._forget()

    def _forget(self) -> None:
        self.sender: str | None = None
        self.parameters: tuple[str, ...] = ()
        self.recipients: list[str] = []

    async def run(self) -> None:
        server = self.server
        if server.implicit is not None:
            await self._handshake(server.implicit)
        await self._answer(Stage.GREETING, b"220 mail.test ESMTP\r\n")
        while True:
            await self._obey(await self._command())

    # -------------------------------------------------------------------------------------------- bytes

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise _HangUp
        self.buffer += data
        if self.sender is None or self.recipients == []:
            self.server.bursts.append(data.count(b"\r\n"))

    async def _command(self, most: int = MOST_COMMAND) -> bytes:
        while b"\n" not in self.buffer:
            await self._more()
        line, _, rest = bytes(self.buffer).partition(b"\n")
        self.buffer = bytearray(rest)
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            self.server.violated(f"a line does not end in CRLF: {line!r}")
        if len(line) + 1 > most:
            self.server.violated(f"a command of {len(line) + 1} bytes")
        return line.removesuffix(b"\r")

    async def _write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _answer(self, stage: Stage, reply: bytes) -> bool:
        """The reply, or what is to be played in its place; whether what the reply says holds."""
        play = self.server.drawn(stage)
        match play:
            case None:
                await self._write(reply)
                return True
            case bytes():
                await self._write(play)
                if play.startswith(b"421"):
                    raise _HangUp
                return play.startswith((b"2", b"3"))
            case Fault.SLOW:
                await trio.sleep(self.server.delay_s)
                await self._write(reply)
                return True
            case _:
                await self._break(play)
                return False

    async def _break(self, fault: Fault) -> None:
        match fault:
            case Fault.RESET:
                self.raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                raise _HangUp
            case Fault.SILENT:
                await trio.sleep_forever()
            case Fault.GARBAGE:
                await self._write(b"\x00\xff\xfe<!doctype html>\r\n")
            case Fault.RAW:
                await self.raw.send_all(b"\x00\xff\xfe not a record of TLS, nor a reply\r\n")
            case Fault.OVERSIZED:
                await self._write(b"250 " + b"x" * 70_000)
                await trio.sleep_forever()
            case Fault.ENDLESS:
                while True:
                    await self._write(b"250-and so on\r\n" * 50)
            case Fault.TORN:
                await self._write(b"250-mail.test\r\n25")
            case Fault.BABEL:
                await self._write(b"250-yes\r\n550 no\r\n")
        raise _HangUp

    # ----------------------------------------------------------------------------------------- commands

    async def _obey(self, line: bytes) -> None:
        text = line.decode("utf-8", "surrogateescape")
        verb = text.partition(" ")[0].upper()
        self.server.commands.append(verb if verb == "AUTH" else text)
        alone = verb in ("EHLO", "STARTTLS", "AUTH", "DATA", "QUIT")
        if self.buffer and (alone or not self._offered("PIPELINING")):
            self.server.violated(f"something was said behind {verb} before its answer")
        if not line.isascii() and "SMTPUTF8" not in (*self.parameters, *text.split()):
            self.server.violated(f"a command outside ASCII: {text}")
        match verb:
            case "EHLO":
                await self._hello(text)
            case "STARTTLS":
                await self._starttls()
            case "AUTH":
                await self._login(text.split()[1:])
            case "MAIL":
                await self._mail(text)
            case "RCPT":
                await self._rcpt(text)
            case "DATA":
                await self._data()
            case "RSET":
                self._forget()
                await self._answer(Stage.RESET, b"250 2.0.0 as you like\r\n")
            case "QUIT":
                self.server.goodbyes += 1
                self.server.left.set()
                await self._answer(Stage.GOODBYE, b"221 2.0.0 bye\r\n")
                raise _HangUp
            case _:
                self.server.violated(f"there is no such command: {text}")
                await self._write(b"500 5.5.2 what?\r\n")

    def _offered(self, keyword: str) -> bool:
        return any(offer.partition(" ")[0] == keyword for offer in self.server.offers)

    async def _hello(self, text: str) -> None:
        if not _NAME.fullmatch(text.removeprefix("EHLO ")):
            self.server.violated(f"no host's name: {text}")
        offers = ["mail.test", *self.server.offers]
        if self.server.starttls is not None and not self.secure:
            offers.append("STARTTLS")
        elif self._logins:
            offers.append("AUTH " + " ".join(self.server.mechanisms))
        lines = [f"250{' ' if n == len(offers) - 1 else '-'}{offer}\r\n" for n, offer in enumerate(offers)]
        self.greeted = await self._answer(Stage.HELLO, "".join(lines).encode())
        self._forget()

    @property
    def _logins(self) -> bool:
        return self.server.login is not None or self.server.token is not None

    async def _starttls(self) -> None:
        context = self.server.starttls
        if context is None or self.secure:
            self.server.violated("STARTTLS was not offered")
            raise _HangUp
        if await self._answer(Stage.TLS, b"220 2.0.0 go ahead\r\n"):
            await self._handshake(context)

    async def _handshake(self, context: ssl.SSLContext) -> None:
        play = self.server.drawn(Stage.HANDSHAKE)
        if isinstance(play, Fault):
            await self._more()
            await self._break(play)
        secure = trio.SSLStream(self.stream, context, server_side=True, https_compatible=True)
        await secure.do_handshake()
        self.stream = secure
        self.buffer.clear()
        self.secure, self.greeted = True, False

    async def _login(self, words: list[str]) -> None:
        if self.server.starttls is not None and not self.secure:
            self.server.violated("AUTH in the clear")
        if self.known:
            self.server.violated("AUTH twice")
        mechanism, *initial = words
        if mechanism not in self.server.mechanisms:
            self.server.violated(f"{mechanism} was not offered")
        match mechanism:
            case "PLAIN":
                said = _decoded(initial[0]).split("\0")
                good = said == ["", *(self.server.login or ())]
            case "LOGIN":
                await self._write(b"334 VXNlcm5hbWU6\r\n")
                user = _decoded((await self._command(MOST_AUTH)).decode())
                await self._write(b"334 UGFzc3dvcmQ6\r\n")
                good = (user, _decoded((await self._command(MOST_AUTH)).decode())) == self.server.login
            case _:
                match = _TOKEN[mechanism].fullmatch(_decoded(initial[0]))
                good = match is not None and match[1] == self.server.token
                if not good:
                    await self._write(b"334 " + base64.b64encode(b'{"status":"400","schemes":"Bearer"}') + b"\r\n")
                    if await self._command() != _AFTER_REFUSAL[mechanism]:
                        self.server.violated("not what is said after a refused token")
        reply = b"235 2.7.0 accepted\r\n" if good else b"535 5.7.8 Username and Password not accepted\r\n"
        self.known = await self._answer(Stage.LOGIN, reply) and good
        self.server.logins += self.known

    async def _mail(self, text: str) -> None:
        match = _MAIL.fullmatch(text)
        if match is None or self.sender is not None or not self.greeted:
            self.server.violated(f"not now, or not so: {text}")
            await self._write(b"503 5.5.1 no\r\n")
            return
        if self._logins and not self.known:
            await self._write(b"530 5.7.0 authentication required\r\n")
            return
        parameters = tuple(match["parameters"].split())
        allowed = {"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN"}
        for parameter in parameters:
            if not self._offered(allowed.get(parameter.partition("=")[0], "?")):
                self.server.violated(f"{parameter} was not offered")
        if await self._answer(Stage.SENDER, b"250 2.1.0 fine\r\n"):
            self.sender, self.parameters = match["address"], parameters

    async def _rcpt(self, text: str) -> None:
        match = _RCPT.fullmatch(text)
        if match is None:
            self.server.violated(f"not so: {text}")
        if match is None or self.sender is None:
            await self._write(b"503 5.5.1 MAIL first\r\n")
            return
        if (own := self.server.judge(match["address"])) is not None:
            await self._write(own)
        elif len(self.recipients) == self.server.most_recipients:
            await self._write(b"452 4.5.3 too many recipients\r\n")
        elif await self._answer(Stage.RECIPIENT, b"250 2.1.5 fine\r\n"):
            self.recipients.append(match["address"])

    async def _data(self) -> None:
        if not self.recipients:
            await self._write(b"503 5.5.1 nobody to send it to\r\n")
            return
        if not await self._answer(Stage.DATA, b"354 go ahead\r\n"):
            return
        match self.server.drawn(Stage.CONTENT):
            case Fault() as fault:
                await self._more()
                await self._break(fault)
            case bytes() as reply:
                await self._more()
                await self._turn_away(reply)
        content = await self._content()
        self._take(content)
        await self._answer(Stage.END, f"250 2.0.0 OK {len(self.server.mails)} - test\r\n".encode())
        self._forget()

    async def _turn_away(self, reply: bytes) -> None:
        """Say so within the content, and read on so that the answer is not lost over what is still under way."""
        await self._write(reply)
        await self.raw.send_eof()
        while await self.raw.receive_some():
            pass
        raise _HangUp

    async def _content(self) -> bytes:
        """Everything up to the line with the dot alone, with its stuffing taken out."""
        while not (self.buffer.startswith(b".\r\n") or b"\r\n.\r\n" in self.buffer[-70_000:]):
            await self._more()
        whole = b"\r\n" + bytes(self.buffer)
        content, _, rest = whole.partition(b"\r\n.\r\n")
        self.buffer = bytearray(rest)
        if rest:
            self.server.violated("something was said behind the final dot before its answer")
        return (content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]

    def _take(self, content: bytes) -> None:
        """A mail is taken unless END plays a refusal."""
        violated, said = self.server.violated, dict(p.partition("=")[::2] for p in self.parameters)
        lines = content.split(b"\r\n")
        if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
            violated("a line break or a NUL within a line")
        if max(map(len, lines)) > MOST_TEXT:
            violated(f"a line of {max(map(len, lines))} bytes")
        if not content.isascii() and said.get("BODY") != "8BITMIME":
            violated("eight bits without BODY=8BITMIME")
        if "SIZE" in said and int(said["SIZE"]) != len(content):
            violated(f"SIZE={said['SIZE']}, and {len(content)} bytes came")
        play, _ = self.server._plays.get(Stage.END, (None, 0))
        if isinstance(play, bytes) and not play.startswith(b"2"):
            return
        assert self.sender is not None
        self.server.mails.append(Mail(self.sender, tuple(self.recipients), self.parameters, content))
        self.server.taken.update(self.recipients)


def _decoded(word: str) -> str:
    return base64.b64decode(word, validate=True).decode()
