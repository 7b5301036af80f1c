"""A mail server (aiosmtpd) that can misbehave on order, and the counts of what arrived at it.

In a test: `with Smtp() as server`. As a process: `python -m tests.support.emulators.smtp --port N --control-port M`,
then `POST /_control {"mode": "unavailable", "times": 3}` and `GET /_seen` at the control port. It prints `listening on
smtp://… control http://…`, and ends on SIGTERM or SIGINT. It shares no code with the product.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import ssl
import sys
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

LOGIN: Final = ("shop", "open sesame 16")


class Mode(StrEnum):
    """What the server does with each mail. Those of the last group take the mail and lose the answer."""

    OK = "ok"
    UNAVAILABLE = "unavailable"  # 451 to MAIL
    THROTTLED = "throttled"  # 450 4.7.0 to MAIL
    REFUSE = "refuse"  # 550 5.1.1 to each RCPT
    UNAUTHORIZED = "unauthorized"  # 535 to AUTH, 530 to MAIL
    CLOSING = "closing"  # 421 to MAIL, and the connection closes
    DROP_MAIL = "drop_mail"  # closed at MAIL
    DROP_RCPT = "drop_rcpt"  # closed at RCPT
    DROP_DATA = "drop_data"  # closed at DATA, before 354
    DROP_CONTENT = "drop_content"  # closed after 354, before the final dot can be read
    SPAM = "spam"  # 554 5.7.1 after the final dot
    BUSY_AFTER = "busy_after"  # 452 4.3.1 after the final dot
    MUTE = "mute"  # no answer to MAIL

    LOST = "lost"  # closed after the final dot
    SILENT = "silent"  # no answer to the final dot
    GARBAGE = "garbage"  # what follows the final dot is no SMTP


TAKES_AND_LOSES: Final = {Mode.LOST, Mode.SILENT, Mode.GARBAGE}


@dataclass(slots=True)
class Seen:
    """The judge. `taken`: how often each recipient's mail was taken; `refused`: recipients refused for good."""

    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    message_ids: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    logins: int = 0
    commands: list[str] = field(default_factory=list)
    mails: deque[Envelope] = field(default_factory=lambda: deque(maxlen=200))

    def as_json(self) -> dict[str, object]:
        return {
            "connections": self.connections,
            "logins": self.logins,
            "messages": self.taken.total(),
            "unique": len(self.taken),
            "refused": self.refused.total(),
            "recipients": dict(self.taken),
            "refused_recipients": dict(self.refused),
            "message_ids": dict(self.message_ids),
        }

    @property
    def last(self) -> EmailMessage:
        """The mail that came last, read by the standard library."""
        content = self.mails[-1].content
        assert isinstance(content, bytes)
        mail = message_from_bytes(content, policy=modern)
        assert isinstance(mail, EmailMessage)
        return mail


class _Server(SMTP):
    """What aiosmtpd has no hook for: to hang up within DATA, and to see each command."""

    emulator: Smtp

    async def _handle_client(self) -> None:
        self.emulator.seen.connections += 1
        await super()._handle_client()

    async def push(self, status: Any) -> None:
        if self.transport is not None and not self.transport.is_closing():
            await super().push(status)

    async def smtp_RSET(self, arg: str) -> None:  # noqa: N802
        self.emulator.seen.commands.append("RSET")
        await super().smtp_RSET(arg)

    async def smtp_QUIT(self, arg: str) -> None:  # noqa: N802
        self.emulator.seen.commands.append("QUIT")
        await super().smtp_QUIT(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        match self.emulator.mode:
            case Mode.DROP_DATA:
                self.emulator.spend()
                self.hang_up()
            case Mode.DROP_CONTENT:
                self.emulator.spend()
                await self.push("354 go ahead")
                await self._reader.readuntil(b"\r\n")
                self.hang_up()
            case _:
                await super().smtp_DATA(arg)

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Smtp:
    """`offers` are keywords added to the reply to EHLO, `hides` are taken from it. `rejects` are recipients refused for
    good, `defers` for now. `times`: the mode holds for so many mails more, then it is OK again."""

    def __init__(
        self,
        *,
        port: int = 0,
        starttls: ssl.SSLContext | None = None,
        implicit: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN"),
        offers: tuple[str, ...] = ("PIPELINING", "ENHANCEDSTATUSCODES"),
        hides: tuple[str, ...] = (),
        size: int = 40_000_000,
        utf8: bool = True,
    ) -> None:
        self.mode = Mode.OK
        self.times: int | None = None
        self.rejects: set[str] = set()
        self.defers: set[str] = set()
        self.seen = Seen()
        self._login = login
        self._offers = offers
        self._hides = hides
        self._queued = 0
        self._wanted_port = port
        self._implicit = implicit
        self._how: dict[str, Any] = {
            "hostname": "mail.test",
            "tls_context": starttls,
            "require_starttls": starttls is not None,
            "authenticator": self._authenticate if login else None,
            "auth_require_tls": starttls is not None,
            "auth_exclude_mechanism": {"PLAIN", "LOGIN"} - set(mechanisms),
            "data_size_limit": size,
            "enable_SMTPUTF8": utf8,
        }
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._failure: OSError | None = None
        self.port = 0

    def __enter__(self) -> Smtp:
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            server = await self._loop.create_server(self._accept, "127.0.0.1", self._wanted_port, ssl=self._implicit)
        except OSError as error:
            self._failure = error
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()

    def _accept(self) -> SMTP:
        protocol = _Server(self, **self._how)
        protocol.emulator = self
        return protocol

    def set(self, mode: Mode | str, times: int | None = None) -> None:
        self.mode, self.times = Mode(mode), times

    def spend(self) -> Mode:
        """The mode for a mail, counted."""
        mode = self.mode
        if self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.mode, self.times = Mode.OK, None
        return mode

    # ---------------------------------------------------------------------------------------- aiosmtpd's hooks

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        kept = [line for line in responses if line[4:].partition(" ")[0] not in self._hides]
        return [*kept[:-1], *(f"250-{offer}" for offer in self._offers), kept[-1]]

    async def handle_MAIL(  # noqa: N802
        self, server: _Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.seen.commands.append(" ".join(["MAIL", *options]))
        match self.mode:
            case Mode.UNAVAILABLE:
                self.spend()
                return "451 4.3.0 local trouble, come again"
            case Mode.THROTTLED:
                self.spend()
                return "450 4.7.0 rate limit reached, slow down"
            case Mode.UNAUTHORIZED:
                return "530 5.7.0 authentication required"
            case Mode.CLOSING:
                self.spend()
                await server.push("421 4.4.2 good-bye")
                server.hang_up()
                return "421 4.4.2 good-bye"
            case Mode.DROP_MAIL:
                self.spend()
                server.hang_up()
            case Mode.MUTE:
                await asyncio.sleep(3600)
        if self._login is not None and not session.authenticated:
            return "530 5.7.0 authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 fine"

    async def handle_RCPT(  # noqa: N802
        self, server: _Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.mode is Mode.DROP_RCPT:
            self.spend()
            server.hang_up()
        if self.mode is Mode.REFUSE or address in self.rejects:
            self.seen.refused[address] += 1
            return "550 5.1.1 no such user here"
        if address in self.defers:
            return "452 4.2.2 mailbox full for now"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_DATA(self, server: _Server, session: Session, envelope: Envelope) -> str:  # noqa: N802
        mode = self.spend()
        if mode is Mode.SPAM:
            return "554 5.7.1 this looks like spam"
        if mode is Mode.BUSY_AFTER:
            return "452 4.3.1 out of space"
        self._take(envelope)
        match mode:
            case Mode.LOST:
                server.hang_up()
            case Mode.SILENT:
                await asyncio.sleep(3600)
            case Mode.GARBAGE:
                return "no code at all"
        return f"250 2.0.0 OK queued as {self._queued:08x}"

    def _take(self, envelope: Envelope) -> None:
        self._queued += 1
        content = envelope.content
        assert isinstance(content, bytes)
        self.seen.mails.append(envelope)
        self.seen.taken.update(envelope.rcpt_tos)
        head = content.partition(b"\r\n\r\n")[0]
        self.seen.message_ids[str(message_from_bytes(head)["message-id"])] += 1

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        if self.mode is Mode.UNAUTHORIZED or given != self._login:
            return AuthResult(success=False, handled=False, message="535 5.7.8 credentials not accepted")
        self.seen.logins += 1
        return AuthResult(success=True)

    # --------------------------------------------------------------------------------------------- by HTTP

    def control(self, order: Any) -> tuple[int, object]:
        known = {"mode", "times", "reject", "forget"}
        if not isinstance(order, dict) or not set(order) <= known:
            return 400, {"error": f"known are {sorted(known)}"}
        if order.get("mode", "ok") not in set(Mode):
            return 400, {"error": f"modes are {[str(mode) for mode in Mode]}"}
        if "mode" in order:
            self.set(order["mode"], order.get("times"))
        if "reject" in order:
            self.rejects = set(order["reject"])
        if order.get("forget"):
            self.seen = Seen()
        return 200, {"mode": self.mode, "rejects": len(self.rejects)}


class _Control(BaseHTTPRequestHandler):
    emulator: Smtp

    def do_GET(self) -> None:
        self._answer(*((200, self.emulator.seen.as_json()) if self.path == "/_seen" else (404, {})))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        try:
            order = json.loads(body)
        except ValueError:
            order = None
        self._answer(*(self.emulator.control(order) if self.path == "/_control" else (404, {})))

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not a word."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.emulators.smtp")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--login", nargs=2, metavar=("USER", "PASSWORD"))
    parser.add_argument("--reject", nargs="*", default=[], help="recipients to refuse for good")
    parser.add_argument("--reject-file", type=Path, help="the same, one a line")
    arguments = parser.parse_args()
    emulator = Smtp(port=arguments.port, login=tuple(arguments.login) if arguments.login else None)
    emulator.rejects = set(arguments.reject)
    if arguments.reject_file is not None:
        emulator.rejects |= set(arguments.reject_file.read_text().split())
    control = ThreadingHTTPServer(
        ("127.0.0.1", arguments.control_port), type("Bound", (_Control,), {"emulator": emulator})
    )
    control.daemon_threads = True
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with emulator:
        threading.Thread(target=control.serve_forever, daemon=True).start()
        sys.stdout.write(
            f"listening on smtp://127.0.0.1:{emulator.port} control http://127.0.0.1:{control.server_port}\n"
        )
        sys.stdout.flush()
        ended.wait()
        control.shutdown()
        control.server_close()


if __name__ == "__main__":
    main()
