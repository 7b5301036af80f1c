"""The half of SMTP that does I/O: a message becomes a letter, and goes out over a session.

Opening a session takes longer than a send slot lasts, so the right to the call that opened it has often lapsed: the
session stays, and the next call has it.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import idna
import trio

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall, Scope, Settled
from heliograph.actors.model.errors import RightLapsed
from heliograph.actors.model.message import EmailContent, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.mail import Mailbox, parse_mailbox
from heliograph.actors.ports.courier import Begin
from heliograph.providers.kinds import fault
from heliograph.providers.mime import Unsendable, build_mime, envelope, needs_utf8
from heliograph.providers.smtp.opening import Features
from heliograph.providers.smtp.replies import Row, configured
from heliograph.providers.smtp.session import Server, Session
from heliograph.providers.smtp.sessions import Logins, Sessions
from heliograph.providers.smtp.transaction import Letter, Sent, transaction
from heliograph.providers.verdicts import clip
from heliograph.providers.wire import trusted

PORTS: Final = {"starttls": 587, "implicit": 465, "none": 25}
SLACK_S: Final = 1.0
LARGE: Final = 256 * 1024
"""Attachments of more base64 than this are put together in a thread: it takes longer than a send slot lasts."""
MOST_READY: Final = 4
_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


class SmtpCourier:
    """A `Courier` for one server. `rows` of replies come before the table that holds for all servers."""

    can_ask = False

    def __init__(
        self,
        settings: ProviderSettings,
        *,
        logins: Logins,
        rows: tuple[Row, ...] = (),
        most_recipients: int | None = None,
        most_sessions: int | None = None,
    ) -> None:
        options = settings.options
        rows = (*configured(settings), *rows)
        self._sender = _mailbox_of(settings)
        self._bounces_to = options["envelope_sender"]
        self._domain = options["message_id_domain"]
        self._most_recipients = most_recipients
        self._timeout_s = settings.timeout_s
        self._utf8 = True  # until the server was heard
        self._rows = rows
        self.longest_call_s = settings.timeout_s + options["final_answer"] + SLACK_S
        server = _server(settings, rows)
        self._sessions = Sessions(server, _context(settings), logins)
        self._room = trio.Semaphore(min(settings.concurrency, most_sessions or settings.concurrency))
        self._ready: dict[tuple[str, bool, bool], bytes] = {}

    def takes(self, message: Message) -> str | None:
        if self._most_recipients is not None and message.recipients > self._most_recipients:
            return "recipients"
        try:
            needed = needs_utf8(message, self._mailbox(message))
        except Unsendable as error:
            return "sender" if str(error).startswith("from") else "address"
        return "address" if needed and not self._utf8 else None

    def batch_key(self, message: Message) -> Hashable | None:  # noqa: ARG002 - SMTP has no bulk call
        return None

    async def send(self, calls: Sequence[ProviderCall], begin: Begin) -> Sequence[Answer]:
        return [await self._send(call, begin) for call in calls]

    async def ask(self, call: ProviderCall) -> Settled | None:  # noqa: ARG002 - a mail server cannot be asked
        return None

    async def check(self) -> Answer:
        """Connects, secures, logs in, says good-bye."""
        session = await self._sessions.open()
        if isinstance(session, Answer):
            return session
        await self._sessions.part(session)
        return Answer(outcome=Outcome.ACCEPTED, detail=f"the server takes mail from us; {session.features}")

    async def aclose(self) -> None:
        await self._sessions.aclose()

    # ----------------------------------------------------------------------------------------------- sending

    async def _send(self, call: ProviderCall, begin: Begin) -> Answer:
        async with self._room:
            while True:
                session = await self._sessions.take()
                if isinstance(session, Answer):
                    return session
                reused = session.mails > 0
                sent = await self._send_on(session, call, begin)
                if not (sent.stale and reused):
                    self._forget(call.message)
                    return sent.answer

    async def _send_on(self, session: Session, call: ProviderCall, begin: Begin) -> Sent:
        """After an error of ours or a lapsed right nothing was said, and the session is as good as before."""
        reusable = False
        try:
            self._utf8 = session.features.utf8
            letter = await self._letter(call, session.features)
            dialogue = transaction(letter, session.features, self._rows)
            sent = await session.hold(dialogue, until_s=trio.current_time() + self._timeout_s, begin=begin)
            session.mails += 1
            reusable = sent.reusable
        except Unsendable as error:
            reusable = True
            begin()
            return Sent(_refused(error), reusable=True)
        except RightLapsed:
            reusable = True
            raise
        finally:
            await self._sessions.give_back(session, reusable=reusable)
        return sent

    async def _letter(self, call: ProviderCall, features: Features) -> Letter:
        """Raises Unsendable, too where the server offers too little for this message."""
        message = call.message
        sender = self._mailbox(message)
        recipients = envelope(message)
        utf8 = needs_utf8(message, sender)
        if utf8 and not features.utf8:
            raise NoSmtpUtf8("an address has letters outside ASCII before its @, and the server offers no SMTPUTF8")
        data = await self._written(message, sender, features, utf8=utf8)
        if features.size is not None and len(data) > features.size:
            raise Unsendable(f"the mail has {len(data)} bytes, and the server takes {features.size} at most")
        return Letter(
            sender=self._bounces_to or sender.address,
            recipients=recipients,
            data=data,
            utf8=utf8,
            named=frozenset({"sender"}) if sender is not self._sender else frozenset(),
            envelope_id=call.attempt_id,
        )

    def _mailbox(self, message: Message) -> Mailbox:
        """Who the mail is from."""
        content = message.content
        if isinstance(content, EmailContent) and content.sender:
            try:
                return parse_mailbox(content.sender)
            except ValueError as error:
                raise Unsendable(f"from: {error}") from None
        if self._sender is None:
            raise Unsendable("from: neither the message nor the provider's configuration names a sender")
        return self._sender

    async def _written(self, message: Message, sender: Mailbox, features: Features, *, utf8: bool) -> bytes:
        """A large mail is kept until it was sent, so that it is ready when a call comes that may begin at once."""
        build = partial(
            build_mime,
            message,
            sender=sender,
            message_id_domain=self._domain or sender.domain,
            eight_bit=features.eight_bit,
            utf8=utf8,
        )
        content = message.content
        attachments = content.attachments if isinstance(content, EmailContent) else ()
        if sum(len(attachment.content_base64) for attachment in attachments) < LARGE:
            return build()
        key = (message.id, features.eight_bit, utf8)
        if key not in self._ready:
            data = await trio.to_thread.run_sync(build, abandon_on_cancel=True)
            while len(self._ready) >= MOST_READY:
                del self._ready[next(iter(self._ready))]
            self._ready[key] = data
        return self._ready[key]

    def _forget(self, message: Message) -> None:
        if self._ready:
            self._ready = {key: data for key, data in self._ready.items() if key[0] != message.id}


class NoSmtpUtf8(Unsendable):
    """Another server may take it."""


def _refused(error: Unsendable) -> Answer:
    if isinstance(error, NoSmtpUtf8):
        detail = str(error)
        return Answer(outcome=Outcome.DEFERRED, code="no_smtputf8", detail=detail, scope=Scope.MESSAGE)
    return Answer(outcome=Outcome.REJECTED, code="unsendable", detail=clip(str(error)))


# ------------------------------------------------------------------------------------------------- configuration


def _mailbox_of(settings: ProviderSettings) -> Mailbox | None:
    try:
        return parse_mailbox(settings.sender) if settings.sender else None
    except ValueError as error:
        raise fault(settings, "sender", str(error)) from None


def _host(settings: ProviderSettings) -> str:
    """As the resolver and TLS take it: a domain in A-labels, or an address."""
    if not settings.host:
        raise fault(settings, "host", "missing; the mail server's name or address")
    host = settings.host
    try:
        if not host.isascii():
            host = idna.encode(host, uts46=True).decode()
        if not _HOST.fullmatch(host):
            ipaddress.ip_address(host)
    except (ValueError, UnicodeError) as error:
        raise fault(settings, "host", "must be a host's name or address; the port goes into `port`") from error
    return host


def _server(settings: ProviderSettings, rows: tuple[Row, ...]) -> Server:
    options = settings.options
    server = Server(
        host=_host(settings),
        port=settings.port or PORTS[settings.tls],
        tls=settings.tls,
        ehlo_name=options["ehlo_name"],
        timeout_s=settings.timeout_s,
        final_answer_s=options["final_answer"],
        idle_s=options["idle"],
        lifetime_s=options["lifetime"],
        mails_per_session=options["mails_per_session"],
        rows=rows,
    )
    if settings.credentials and server.tls == "none" and not server.loopback:
        raise fault(settings, "tls", "none would send the password in the clear; it is for servers on this machine")
    return server


def _context(settings: ProviderSettings) -> ssl.SSLContext:
    """Verifies chain and host name; TLS 1.2 at least."""
    context = trusted()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    ca_file = settings.options["ca_file"]
    if ca_file is not None:
        try:
            context.load_verify_locations(Path(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise fault(settings, "options.ca_file", f"no certificates can be read from it: {error}") from None
    return context
