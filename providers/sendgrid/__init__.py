"""SendGrid, Web API v3: one `mail/send` for one mail, or for many whose content is the same.

A shared call has one personalization for each message; recipients, subject, headers and the attempt's id (`hg_attempt`,
flat in every event) are its own. It is taken or refused as a whole; a refusal mostly names the personalization at
fault. There is no idempotency key, and the look-up is a paid add-on that we leave alone.

What becomes of a mail is told by the Signed Event Webhook.
"""

from __future__ import annotations

from typing import Final

from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.receipts import ReceiptReader
from heliograph.providers.kinds import Kind, Option, flag, text, whole
from heliograph.providers.sendgrid.answers import explain
from heliograph.providers.sendgrid.courier import BASE_URL, SendGridCourier
from heliograph.providers.sendgrid.requests import MOST_RECIPIENTS


def _reader(settings: ProviderSettings) -> ReceiptReader:
    from heliograph.providers.sendgrid.receipts import reader  # it loads cryptography: for those who take receipts

    return reader(settings)


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=SendGridCourier,
    explain=explain,
    credentials=(("api_key",),),
    options={
        "ip_pool": Option(parse=text, about="the pool of addresses to send from"),
        "unsubscribe_group": Option(parse=whole(1, 2**31 - 1), about="the id of a group that recipients may leave"),
        "categories": Option(parse=flag, about="a message's tags become categories", default=True),
        "sandbox_mode": Option(parse=flag, about="SendGrid checks every mail and sends none", default=False),
    },
    receipts=_reader,
    base_url=BASE_URL,
    rate=100,
    batch=MOST_RECIPIENTS,
)
