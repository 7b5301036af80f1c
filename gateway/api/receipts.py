"""Delivery reports from providers. No API key: each provider proves in its own way that it is the one who calls.

Nothing of a report is read before it is known to be genuine, and it is answered 200 only once it is committed, also
when it says nothing of ours. While the ledger is away the answer is 503: providers repeat a report then, and drop it
where they are told that it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

import structlog
from typing_extensions import TypedDict

from heliograph.actors.ports.ledger import Reported
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, ReceiptReader, Refused
from heliograph.gateway import problems
from heliograph.gateway.api.replies import Reply, json_reply
from heliograph.gateway.fetching import NotFetched
from heliograph.gateway.limits import MB
from heliograph.gateway.problems import Code
from heliograph.gateway.services import Services

log = structlog.get_logger()
PATH: Final = "/v1/receipts/{provider}"
METHODS: Final = ("POST", "PUT")
MOST_BYTES: Final = MB
MOST_CERTIFICATES: Final = 3
RETRY_S: Final = 5


class ReportedAnswer(TypedDict):
    """To a provider: how many receipts were committed, and how many events say nothing of a message."""

    receipts: int
    ignored: int


def reader_of(services: Services, provider: str) -> ReceiptReader:
    """Refused with 404 where no such provider is configured, or without receipts."""
    reader = services.receipts.get(provider)
    if reader is None:
        raise problems.Refused(Code.NOT_FOUND, f"no provider {provider} with receipts is configured")
    return reader


async def take(services: Services, provider: str, reader: ReceiptReader, call: ReceiptCall) -> Reply:
    await _verify(services, provider, reader, call)
    reports = reader.read(call)
    if isinstance(reports, Refused):
        raise _refusal(services, provider, reports)
    for notice in reports.notices:
        log.warning("receipts.notice", provider=provider, text=notice)
    if reports.receipts:
        await services.report([Reported(provider, receipt) for receipt in reports.receipts])
    if reports.confirm is not None:
        await _confirm(services, provider, reports.confirm)
    answer: ReportedAnswer = {"receipts": len(reports.receipts), "ignored": reports.ignored}
    return json_reply(200, answer)


async def _verify(services: Services, provider: str, reader: ReceiptReader, call: ReceiptCall) -> None:
    certificates: dict[str, str] = {}
    for _ in range(MOST_CERTIFICATES):
        match reader.verify(call, certificates):
            case Genuine():
                return
            case Refused() as refused:
                raise _refusal(services, provider, refused)
            case CertificateNeeded(url):
                try:
                    certificates[url] = await services.fetcher.certificate(url)
                except NotFetched as error:
                    log.warning("receipts.not_fetched", provider=provider, what="certificate", error=str(error))
                    raise _later("the provider's certificate cannot be had just now") from None
            case _ as never:
                assert_never(never)
    raise _refusal(services, provider, Refused(status=401, detail="it names one certificate after the other"))


async def _confirm(services: Services, provider: str, url: str) -> None:
    try:
        await services.fetcher.ask(url)
    except NotFetched as error:
        log.warning("receipts.not_fetched", provider=provider, what="confirmation", error=str(error))
        raise _later("the subscription cannot be confirmed just now") from None
    log.info("receipts.subscribed", provider=provider)


def _refusal(services: Services, provider: str, refused: Refused) -> problems.Refused:
    if (count := services.complaints.count(f"receipts of {provider}")) is not None:
        log.warning(
            "receipts.refused_call", provider=provider, status=refused.status, error=refused.detail, count=count
        )
    if refused.status == 401:
        return problems.Refused(Code.NOT_GENUINE, refused.detail, headers=CHALLENGE)
    return problems.Refused(Code.MALFORMED_REQUEST, refused.detail)


def _later(detail: str) -> problems.Refused:
    return problems.Refused.of(problems.unavailable(detail, RETRY_S))


CHALLENGE: Final[Mapping[str, str]] = {"WWW-Authenticate": 'Basic realm="heliograph receipts"'}
