"""BulkSMS, JSON REST API v1: one call for one SMS, or for an array of them, each with text and sender of its own.

Every entry carries the attempt's id as `userSuppliedId`; the answer's elements are told apart by it, receipts name it,
and what became of an attempt whose answer was lost is looked up by it. A repeat under the same deduplication id within
some twelve hours sends nothing: a message that went alone goes so again after a failure that tells too little.
"""

from __future__ import annotations

from typing import Final

from heliograph.actors.model.message import Channel
from heliograph.providers.bulksms.answers import explain
from heliograph.providers.bulksms.courier import BASE_URL, BulkSmsCourier
from heliograph.providers.bulksms.receipts import reader
from heliograph.providers.bulksms.requests import MAX_PARTS, STANDARD
from heliograph.providers.kinds import Kind, Option, one_of, whole

KIND: Final = Kind(
    channels=frozenset({Channel.SMS}),
    courier=BulkSmsCourier,
    explain=explain,
    credentials=(("token_id", "token_secret"), ("username", "password")),
    options={
        "routing_group": Option(
            parse=one_of("ECONOMY", STANDARD, "PREMIUM"), about="price against quality", default=STANDARD
        ),
        "max_parts": Option(parse=whole(1, 255), about="longer messages are not routed here", default=MAX_PARTS),
    },
    receipts=reader,
    base_url=BASE_URL,
    rate=10,
    batch=30_000,
)
