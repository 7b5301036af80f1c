"""What the shared suite drives: a courier, and the server that it talks to over a real socket.

A new kind joins with one entry of RIGS. The server is the judge of what was taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol

from heliograph.actors.model.message import Channel, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.support.builders import a_message, a_provider
from tests.support.emulators import APIS, Emulator, Mode, running
from tests.support.emulators import bulksms as bulksms_emulator
from tests.support.emulators import fast2sms as fast2sms_emulator
from tests.support.emulators import sendgrid as sendgrid_emulator
from tests.support.emulators import ses as ses_emulator
from tests.support.emulators import smtp as smtp_emulator


class Fault(Enum):
    """What a server can do to a call, whatever it speaks."""

    UNAVAILABLE = auto()  # it says that it cannot now
    THROTTLED = auto()  # it says that this is too fast
    REFUSED = auto()  # it refuses this message for good
    UNAUTHORIZED = auto()  # it does not know the credentials
    LOST = auto()  # it takes the message, and the connection breaks before its answer
    SILENT = auto()  # it takes the message and never answers
    GARBLED = auto()  # it takes the message, and answers in no language


class Server(Protocol):
    @property
    def taken(self) -> Counter[str]:
        """How often each recipient's message was taken."""

    @property
    def attempts(self) -> Counter[str]:
        """Under which of our attempt ids, where the kind has a place for them."""

    def fail(self, fault: Fault, times: int | None = None) -> None:
        """From the next call on, for so many calls (None: until `heal`)."""

    def heal(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Rig:
    """`again` makes another courier of the same settings with these changes (`timeout_s=0.2`)."""

    kind: str
    settings: ProviderSettings
    courier: Courier
    server: Server
    message: Callable[..., Message]
    again: Callable[..., Courier]


RIG_TIMEOUT_S: Final = 5.0
CREDENTIALS: Final[Mapping[str, dict[str, str]]] = {
    "fast2sms": {"api_key": fast2sms_emulator.KEY},
    "bulksms": dict(zip(("token_id", "token_secret"), bulksms_emulator.TOKEN, strict=True)),
    "sendgrid": {"api_key": sendgrid_emulator.KEY},
    "ses": {
        "access_key_id": ses_emulator.ACCESS_KEY,
        "secret_access_key": ses_emulator.SECRET,
        "region": ses_emulator.REGION,
    },
}
CHANNELS: Final = {"fast2sms": Channel.SMS, "bulksms": Channel.SMS, "sendgrid": Channel.EMAIL, "ses": Channel.EMAIL}
MODES: Final[Mapping[Fault, Mode]] = {
    Fault.UNAVAILABLE: Mode.UNAVAILABLE,
    Fault.THROTTLED: Mode.THROTTLED,
    Fault.REFUSED: Mode.REFUSE,
    Fault.UNAUTHORIZED: Mode.UNAUTHORIZED,
    Fault.LOST: Mode.LOST,
    Fault.SILENT: Mode.SILENT,
    Fault.GARBLED: Mode.GARBAGE,
}


@dataclass(slots=True)
class HttpServer:
    emulator: Emulator

    @property
    def taken(self) -> Counter[str]:
        return self.emulator.seen.taken

    @property
    def attempts(self) -> Counter[str]:
        return self.emulator.seen.attempts

    def fail(self, fault: Fault, times: int | None = None) -> None:
        self.emulator.set(MODES[fault], times)

    def heal(self) -> None:
        self.emulator.set(Mode.OK)


def http_settings(kind: str, url: str, **fields: Any) -> ProviderSettings:
    known: dict[str, Any] = {
        "channel": CHANNELS[kind],
        "base_url": url,
        "credentials": CREDENTIALS[kind],
        "timeout_s": RIG_TIMEOUT_S,
        "sender": "HELIOG" if CHANNELS[kind] is Channel.SMS else "Shop <hi@shop.in>",
    }
    return a_provider(kind, **known | fields)


def an_order(channel: Channel) -> Callable[..., Message]:
    def message(to: str | None = None, **fields: Any) -> Message:
        return a_message(to or ("+919876543210" if channel is Channel.SMS else "asha@example.net"), **fields)

    return message


def http_rig(kind: str) -> Callable[..., AbstractAsyncContextManager[Rig]]:
    @asynccontextmanager
    async def opened(**fields: Any) -> AsyncIterator[Rig]:
        async with running(APIS[kind]()) as emulator:
            settings = http_settings(kind, emulator.url, **fields)
            couriers = [build(settings)]

            def again(**changes: Any) -> Courier:
                couriers.append(build(http_settings(kind, emulator.url, **fields | changes)))
                return couriers[-1]

            try:
                yield Rig(kind, settings, couriers[0], HttpServer(emulator), an_order(CHANNELS[kind]), again)
            finally:
                for courier in couriers:
                    await courier.aclose()

    return opened


SMTP_MODES: Final[Mapping[Fault, smtp_emulator.Mode]] = {
    Fault.UNAVAILABLE: smtp_emulator.Mode.UNAVAILABLE,
    Fault.THROTTLED: smtp_emulator.Mode.THROTTLED,
    Fault.REFUSED: smtp_emulator.Mode.REFUSE,
    Fault.UNAUTHORIZED: smtp_emulator.Mode.UNAUTHORIZED,
    Fault.LOST: smtp_emulator.Mode.LOST,
    Fault.SILENT: smtp_emulator.Mode.SILENT,
    Fault.GARBLED: smtp_emulator.Mode.GARBAGE,
}


@dataclass(slots=True)
class MailServer:
    emulator: smtp_emulator.Smtp

    @property
    def taken(self) -> Counter[str]:
        return self.emulator.seen.taken

    @property
    def attempts(self) -> Counter[str]:
        return Counter()

    def fail(self, fault: Fault, times: int | None = None) -> None:
        self.emulator.set(SMTP_MODES[fault], times)

    def heal(self) -> None:
        self.emulator.set(smtp_emulator.Mode.OK)


def mail_settings(kind: str, port: int, **fields: Any) -> ProviderSettings:
    """A server on this machine, in the clear; the answer to a mail is waited for no longer than any other."""
    known: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "tls": "none",
        "credentials": dict(zip(("username", "password"), smtp_emulator.LOGIN, strict=True)),
        "options": {"final_answer": "0s"},
        "timeout_s": RIG_TIMEOUT_S,
        "sender": "Shop <hi@shop.in>",
    }
    return a_provider(kind, Channel.EMAIL, **known | fields)


def mail_rig(kind: str, login: tuple[str, str]) -> Callable[..., AbstractAsyncContextManager[Rig]]:
    @asynccontextmanager
    async def opened(**fields: Any) -> AsyncIterator[Rig]:
        with smtp_emulator.Smtp(login=login) as emulator:
            settings = mail_settings(kind, emulator.port, **fields)
            couriers = [build(settings)]

            def again(**changes: Any) -> Courier:
                couriers.append(build(mail_settings(kind, emulator.port, **fields | changes)))
                return couriers[-1]

            try:
                yield Rig(kind, settings, couriers[0], MailServer(emulator), an_order(Channel.EMAIL), again)
            finally:
                for courier in couriers:
                    await courier.aclose()

    return opened


RIGS: Final[dict[str, Callable[..., AbstractAsyncContextManager[Rig]]]] = {
    **{kind: http_rig(kind) for kind in CHANNELS},
    "smtp": mail_rig("smtp", smtp_emulator.LOGIN),
    "gmail": mail_rig("gmail", (smtp_emulator.LOGIN[0], smtp_emulator.LOGIN[1].replace(" ", ""))),
}
