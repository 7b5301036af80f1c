"""Amazon SES, API v2: SendEmail, or SendBulkEmail for mails of one content, signed with Signature Version 4.

The attempt's id is the tag `hg-attempt`, which comes back in every event. There is no idempotency token and no look-up:
an answer that is lost is lost, until an event tells of it.

What becomes of a mail is told by events, through SNS.
"""

from __future__ import annotations

import re
from typing import Final

from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.receipts import ReceiptReader
from heliograph.providers.kinds import Kind, Option, flag
from heliograph.providers.ses.answers import explain
from heliograph.providers.ses.courier import BASE_URL, SesCourier
from heliograph.providers.ses.requests import MOST_RECIPIENTS

__all__ = ["KIND", "SesCourier"]


def _configuration_set(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError("must be a configuration set's name: letters, digits, _ and -, at most 64")
    return value


def _reader(settings: ProviderSettings) -> ReceiptReader:
    from heliograph.providers.ses.receipts import reader  # it loads cryptography: for those who take receipts

    return reader(settings)


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=SesCourier,
    explain=explain,
    credentials=(
        ("access_key_id", "secret_access_key", "region"),
        ("access_key_id", "secret_access_key", "session_token", "region"),
        ("region",),
    ),
    options={
        "configuration_set": Option(parse=_configuration_set, about="needed for events: receipts come through it"),
        "tags": Option(parse=flag, about="a message's tags become SES' tags", default=True),
    },
    receipts=_reader,
    base_url=BASE_URL,
    rate=14,
    batch=MOST_RECIPIENTS,
)
