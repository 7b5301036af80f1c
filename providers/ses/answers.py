"""What SES' answers mean. Pure, and total: whatever came becomes a Finding.

An error has its name in the header `x-amzn-ErrorType`, or in the body as `__type` or `code`, and its text as `message`
or `Message`. A shared call that was taken has one entry for each of its messages, each with a status of its own.
Source: the service model of 2019-09-27, and for texts what the service was seen to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Final

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.ports.courier import Allowance
from heliograph.providers.http import by_status, explainer, parse, retry_after_s, table, word
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import WireAnswer

MODEL: Final = "Amazon SES API v2, service model 2019-09-27"
FIELD: Final = "Amazon SES API v2, seen in the field"
COMMON: Final = "AWS, common errors"
SENDER: Final = frozenset({"sender"})


def _row(
    outcome: Outcome,
    meaning: str,
    cure: str,
    *,
    wait_s: float | None = None,
    names: frozenset[str] = frozenset(),
    source: str = MODEL,
) -> Verdict:
    return Verdict(outcome=outcome, meaning=meaning, cure=cure, wait_s=wait_s, names=names, source=source)


def _credentials(meaning: str, cure: str = "check the access key, its secret, its rights and the region") -> Verdict:
    return _row(Outcome.MISCONFIGURED, meaning, cure, source=COMMON)


TAKEN: Final = _row(Outcome.ACCEPTED, "SES took the mail", "nothing")
FAULTY: Final = _row(Outcome.REJECTED, "SES cannot read the request", "read the text, correct the message")
CONTENT: Final = _row(Outcome.REJECTED, "SES refuses the mail for what is in it", "read the text, correct the message")
NOT_VERIFIED: Final = _row(
    Outcome.MISCONFIGURED,
    "an address is not verified: the sender's, or in the sandbox a recipient's",
    "verify the identities that the text names in this region, or ask for production access",
    names=SENDER,
)
MAIL_FROM: Final = _row(
    Outcome.MISCONFIGURED,
    "the sender's domain, or its MAIL FROM domain, is not verified",
    "mend its DNS records, or switch the MAIL FROM domain off",
    names=SENDER,
)
SUSPENDED: Final = _row(Outcome.MISCONFIGURED, "the account may not send any more", "read AWS' mail to you, answer it")
PAUSED: Final = _row(
    Outcome.MISCONFIGURED, "sending is paused for the account or the configuration set", "resume it in the SES console"
)
NO_SET: Final = _row(
    Outcome.MISCONFIGURED, "the configuration set does not exist in this region", "correct options.configuration_set"
)
NO_POOL: Final = _row(
    Outcome.MISCONFIGURED, "the configuration set names a pool of addresses that does not exist", "correct the set"
)
SLOWER: Final = _row(
    Outcome.THROTTLED,
    "faster than the account may send or call",
    "set rate to the account's MaxSendRate",
    wait_s=1,
)
DAILY: Final = _row(
    Outcome.THROTTLED,
    "the quota of 24 hours is used up",
    "ask for a higher quota, or let other providers carry more",
    wait_s=1800,
    source=FIELD,
)
BUSY: Final = _row(Outcome.DEFERRED, "SES is in trouble", "nothing: tried again elsewhere")
DENIED: Final = _credentials("these credentials may not send", "allow ses:SendEmail and ses:SendBulkEmail to them")
DENIED_IDENTITY: Final = _row(
    Outcome.MISCONFIGURED,
    "these credentials may not send from this address",
    "allow ses:SendEmail and ses:SendBulkEmail on the identity that the text names",
    names=SENDER,
    source=FIELD,
)
UNKNOWN_KEY: Final = _credentials("the access key is not known")
BAD_SIGNATURE: Final = _credentials("the signature is wrong")
LATE: Final = _credentials(
    "the signature is not of this time: this machine's clock is wrong", "set this machine's clock by NTP"
)
EXPIRED: Final = _credentials("the temporary credentials are over", "give new ones, or let a role of the machine do it")
PLACE: Final = _row(Outcome.MISCONFIGURED, "there is no such call at this address", "correct base_url", source=COMMON)

ERRORS: Final[Mapping[str, Verdict]] = {
    "TooManyRequestsException": SLOWER,
    "ThrottlingException": SLOWER,
    "Throttling": SLOWER,
    "RequestLimitExceeded": SLOWER,
    "LimitExceededException": DAILY,
    "MessageRejected": CONTENT,
    "MailFromDomainNotVerifiedException": MAIL_FROM,
    "AccountSuspendedException": SUSPENDED,
    "SendingPausedException": PAUSED,
    "BadRequestException": FAULTY,
    "NotFoundException": NO_SET,
    "AccessDeniedException": DENIED,
    "UnrecognizedClientException": UNKNOWN_KEY,
    "InvalidClientTokenId": UNKNOWN_KEY,
    "InvalidSignatureException": BAD_SIGNATURE,
    "SignatureDoesNotMatch": BAD_SIGNATURE,
    "MissingAuthenticationTokenException": _credentials("the request came unsigned"),
    "MissingAuthenticationToken": _credentials("the request came unsigned"),
    "IncompleteSignature": _credentials("the signature lacks a part"),
    "IncompleteSignatureException": _credentials("the signature lacks a part"),
    "OptInRequired": _credentials("the account has not signed up for SES", "open SES once in the console"),
    "ExpiredTokenException": EXPIRED,
    "ExpiredToken": EXPIRED,
    "RequestExpired": LATE,
    "RequestTimeTooSkewed": LATE,
    "InternalServiceErrorException": BUSY,
    "InternalServerException": BUSY,
    "InternalFailure": BUSY,
    "ServiceUnavailable": BUSY,
    "ServiceUnavailableException": BUSY,
    "ConcurrentModificationException": BUSY,
    "ConflictException": BUSY,
}
"""By the error's name. Where the text says more than the name, `_by_text` has the last word."""

ENTRIES: Final[Mapping[str, Verdict]] = {
    "SUCCESS": TAKEN,
    "MESSAGE_REJECTED": CONTENT,
    "INVALID_PARAMETER": FAULTY,
    "TEMPLATE_NOT_FOUND": FAULTY,  # ours is in the call itself
    "FAILED": _row(Outcome.REJECTED, "SES failed on this mail alone", "read the text, correct the message"),
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": MAIL_FROM,
    "CONFIGURATION_SET_NOT_FOUND": NO_SET,
    "INVALID_SENDING_POOL_NAME": NO_POOL,
    "ACCOUNT_SUSPENDED": SUSPENDED,
    "ACCOUNT_SENDING_PAUSED": PAUSED,
    "CONFIGURATION_SET_SENDING_PAUSED": PAUSED,
    "ACCOUNT_THROTTLED": SLOWER,
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": DAILY,
    "TRANSIENT_FAILURE": BUSY,
}
"""By the status of one entry of a shared call's answer."""


def judge(answer: WireAnswer) -> Finding:
    """What the answer to one SendEmail means, or a refusal of a shared call as a whole."""
    body = table(parse(answer.body))
    if 200 <= answer.status < 300:
        taken = word(body.get("MessageId"))
        if answer.whole and taken is not None:
            return Finding(verdict=TAKEN, provider_message_id=taken)
        return by_status(answer)
    detail = word(body.get("message")) or word(body.get("Message"))
    name = _error_name(answer, body)
    found = by_status(answer, detail)
    verdict = ERRORS.get(name) if name else None
    if verdict is not None:
        return Finding(
            verdict=_by_text(verdict, (detail or "").lower()),
            code=name,
            detail=detail,
            retry_after_s=retry_after_s(answer),
        )
    if answer.status in (404, 405):
        # SES says NotFoundException of what a request names; anything else does not know the call.
        found = replace(found, verdict=PLACE)
    return found if name is None else replace(found, code=name)


def judge_entries(answer: WireAnswer, count: int) -> list[Finding] | None:
    """What a shared call's answer means for each of its messages, in their order; None where it was refused as a whole
    (`judge` tells why). What is not one entry for each message says nothing of any."""
    if not 200 <= answer.status < 300:
        return None
    entries = _entries(answer)
    if not answer.whole or len(entries) != count:
        return [by_status(answer)] * count
    return [_entry(entry, answer) for entry in entries]


def account_state(answer: WireAnswer) -> Finding:
    """What GetAccount says: may it send, and how much."""
    if not 200 <= answer.status < 300:
        return judge(answer)
    body = table(parse(answer.body))
    if not answer.whole or "SendingEnabled" not in body:
        return by_status(answer)
    if body["SendingEnabled"] is not True or body.get("EnforcementStatus") == "SHUTDOWN":
        return Finding(verdict=PAUSED, code="SendingPausedException")
    place = "production" if body.get("ProductionAccessEnabled") is True else "sandbox: verified recipients only"
    if body.get("EnforcementStatus") == "PROBATION":
        place += ", under review"
    return Finding(verdict=TAKEN, detail=f"{place}; {_quota_in_words(table(body.get('SendQuota')))}")


def allowance(answer: WireAnswer) -> Allowance | None:
    """What GetAccount says of rate and quota; None where it says nothing that can be read."""
    if answer.status != 200 or not answer.whole:
        return None
    quota = table(table(parse(answer.body)).get("SendQuota"))
    rate = _number(quota.get("MaxSendRate"))
    most, used = _number(quota.get("Max24HourSend")), _number(quota.get("SentLast24Hours"))
    if rate is None and most is None:
        return None
    limited = most is not None and most >= 0 and used is not None
    return Allowance(
        rate=rate if rate is not None and rate > 0 else None,
        remaining=max(0, int((most or 0) - (used or 0))) if limited else None,
    )


class Complaint(Enum):
    """What is wrong with a signature that another one could mend."""

    CLOCK = auto()
    KEY = auto()


def complaint(answer: WireAnswer) -> Complaint | None:
    if not 400 <= answer.status < 500:
        return None
    verdict = judge(answer).verdict
    if verdict is LATE:
        return Complaint.CLOCK
    return Complaint.KEY if verdict in (EXPIRED, UNKNOWN_KEY) else None


def told_at_s(answer: WireAnswer) -> float | None:
    """The provider's own clock (Unix seconds), by `Date`."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _judge_any(answer: WireAnswer) -> Finding:
    """For people: of a shared call's answer, the first entry that was not taken."""
    findings = [_entry(entry, answer) for entry in _entries(answer)]
    if not findings:
        return judge(answer)
    return next((found for found in findings if found.verdict is not TAKEN), findings[0])


explain = explainer(_judge_any)


def _by_text(verdict: Verdict, text: str) -> Verdict:
    """`text` is in lower case."""
    if verdict is CONTENT and "not verified" in text:
        return NOT_VERIFIED
    if verdict is SLOWER and "daily" in text:
        return DAILY
    if verdict is DENIED and ":identity/" in text:
        return DENIED_IDENTITY
    if verdict.outcome is Outcome.MISCONFIGURED and _WRONG_TIME.search(text):
        return LATE
    return verdict


_WRONG_TIME: Final = re.compile(r"signature (?:has )?expired|signature not yet current|request has expired")
_ERROR_NAME: Final = re.compile(r"[A-Za-z0-9_.]{1,80}")


def _error_name(answer: WireAnswer, body: Mapping[str, object]) -> str | None:
    """`TooManyRequestsException:http://…` in the header, `com.amazonaws.ses#…` in the body."""
    raw = answer.headers.get("x-amzn-errortype") or word(body.get("__type")) or word(body.get("code")) or ""
    name = raw.partition(":")[0].rpartition("#")[2].strip()
    return name if _ERROR_NAME.fullmatch(name) else None


def _entries(answer: WireAnswer) -> Sequence[object]:
    listed = table(parse(answer.body)).get("BulkEmailEntryResults")
    return listed if isinstance(listed, list) else ()


def _entry(entry: object, answer: WireAnswer) -> Finding:
    said = table(entry)
    status, error = word(said.get("Status")), word(said.get("Error"))
    verdict = ENTRIES.get(status or "")
    if verdict is None:
        return replace(by_status(answer, error), code=status or str(answer.status))
    return Finding(
        verdict=_by_text(verdict, (error or "").lower()),
        code=None if verdict is TAKEN else status,
        detail=error,
        provider_message_id=word(said.get("MessageId")),
    )


def _quota_in_words(quota: Mapping[str, object]) -> str:
    used, most, rate = (_number(quota.get(name)) for name in ("SentLast24Hours", "Max24HourSend", "MaxSendRate"))
    if used is None or most is None or rate is None:
        return "it does not tell its quota"
    limit = "no limit" if most < 0 else f"{most:.0f}"
    return f"{used:.0f} of {limit} in 24 h, {rate:g}/s"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
