"""Providers on loopback: they speak the real wire formats, refuse what the real ones refuse, and count what arrives.

In a test: `async with running(BulkSms()) as emulator`. As a process: `python -m tests.support.emulators bulksms --port
8101`, then `POST /_control {"mode": "503"}` and `GET /_seen`. They share no code with the product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.support.emulators.bulksms import BulkSms
from tests.support.emulators.fast2sms import Fast2Sms
from tests.support.emulators.sendgrid import SendGrid
from tests.support.emulators.server import Api, Emulator, Mode, running
from tests.support.emulators.ses import Ses

APIS: Final[dict[str, Callable[[], Api]]] = {
    "fast2sms": Fast2Sms,
    "bulksms": BulkSms,
    "ses": Ses,
    "sendgrid": SendGrid,
}

__all__ = ["APIS", "Api", "BulkSms", "Emulator", "Fast2Sms", "Mode", "SendGrid", "Ses", "running"]
