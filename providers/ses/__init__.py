"""Amazon SES, API v2: SendEmail over HTTPS, signed with Signature Version 4.

A mail without attachments and headers of its own goes as `Simple`, and SES builds it; any other goes as `Raw`, built by
`providers.mime`. The attempt's id is the tag `hg-attempt`, which comes back in every event. There is no idempotency
token and no look-up: an answer that is lost is lost.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formataddr, parsedate_to_datetime
from typing import Final

import orjson

from heliograph.actors.model.attempt import Answer, Outcome, ProviderCall
from heliograph.actors.model.message import Channel, EmailContent, Message
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.mail import Mailbox, parse_mailbox
from heliograph.providers.envelope import configured_sender, envelope, refusal
from heliograph.providers.http import HttpCourier, by_status, explainer, parse, retry_after_s, table, word
from heliograph.providers.kinds import Kind, Option, chosen, text
from heliograph.providers.mime import build_mime
from heliograph.providers.signing import AwsCredentials, sign
from heliograph.providers.verdicts import Finding, Verdict
from heliograph.providers.wire import Transport, WireAnswer, WireRequest

BASE_URL: Final = "https://email.{region}.amazonaws.com"
SEND: Final = "/v2/email/outbound-emails"
ACCOUNT: Final = "/v2/email/account"
MOST_RECIPIENTS: Final = 50
MODEL: Final = "Amazon SES API v2, service model 2019-09-27"
FIELD: Final = "Amazon SES API v2, seen in the field"


def _row(outcome: Outcome, meaning: str, cure: str, *, wait_s: float | None = None, source: str = MODEL) -> Verdict:
    return Verdict(outcome=outcome, meaning=meaning, cure=cure, wait_s=wait_s, source=source)


def _credentials(meaning: str) -> Verdict:
    cure = "check the access key, its secret, its rights (ses:SendEmail) and the region"
    return _row(Outcome.MISCONFIGURED, meaning, cure)


TAKEN: Final = _row(Outcome.ACCEPTED, "SES took the mail", "nothing")
NOT_VERIFIED: Final = Verdict(
    outcome=Outcome.MISCONFIGURED,
    meaning="an address is not verified: the sender's, or in the sandbox a recipient's",
    cure="verify the identities that the text names in this region, or ask for production access",
    source=MODEL,
    names=frozenset({"sender"}),
)
DAILY: Final = _row(
    Outcome.THROTTLED,
    "the quota of 24 hours is used up",
    "ask for a higher quota, or let other providers carry more",
    wait_s=1800,
    source=FIELD,
)
SLOWER: Final = _row(
    Outcome.THROTTLED, "faster than the account's send rate", "set rate to the account's MaxSendRate", wait_s=1
)
FAULTY: Final = _row(Outcome.REJECTED, "SES cannot read the request", "read the text, correct the message")
PAUSED: Final = _row(
    Outcome.MISCONFIGURED, "sending is paused for the account or the configuration set", "resume it in the SES console"
)
BUSY: Final = _row(Outcome.DEFERRED, "SES is in trouble", "nothing: tried again elsewhere")
LATE: Final = _credentials("the signature is too old: this machine's clock is wrong, or temporary credentials ended")

ERRORS: Final[Mapping[str, Verdict]] = {
    "TooManyRequestsException": SLOWER,
    "ThrottlingException": SLOWER,
    "Throttling": SLOWER,
    "RequestLimitExceeded": SLOWER,
    "LimitExceededException": DAILY,
    "MessageRejected": _row(
        Outcome.REJECTED, "SES refuses the mail for what is in it", "read the text, correct the message"
    ),
    "MailFromDomainNotVerifiedException": _row(
        Outcome.MISCONFIGURED, "the MAIL FROM domain is not verified", "mend its DNS records, or switch it off"
    ),
    "AccountSuspendedException": _row(
        Outcome.MISCONFIGURED, "the account may not send any more", "read AWS' mail, answer it"
    ),
    "SendingPausedException": PAUSED,
    "BadRequestException": FAULTY,
    "NotFoundException": _row(
        Outcome.MISCONFIGURED,
        "the configuration set does not exist in this region",
        "correct options.configuration_set",
    ),
    "AccessDeniedException": _credentials("these credentials may not send"),
    "UnrecognizedClientException": _credentials("the access key is not known"),
    "InvalidClientTokenId": _credentials("the access key is not known"),
    "InvalidSignatureException": _credentials("the signature is wrong"),
    "SignatureDoesNotMatch": _credentials("the signature is wrong"),
    "MissingAuthenticationTokenException": _credentials("the request came unsigned"),
    "IncompleteSignature": _credentials("the signature lacks a part"),
    "OptInRequired": _credentials("the account has not signed up for SES"),
    "ExpiredTokenException": LATE,
    "ExpiredToken": LATE,
    "RequestExpired": LATE,
    "InternalServiceErrorException": BUSY,
    "InternalFailure": BUSY,
    "ServiceUnavailable": BUSY,
    "ConcurrentModificationException": BUSY,
    "ConflictException": BUSY,
}

_SIMPLE_NAME: Final = re.compile(r"[!-9;-~]{1,126}")
_SIMPLE_VALUE: Final = re.compile(r"[ -~]{1,800}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SesAccount:
    """What the requests are made from. `sender` is used where the message names nobody."""

    credentials: AwsCredentials
    region: str
    authority: str
    prefix: str = ""
    sender: Mailbox | None = None
    configuration_set: str | None = None


# -------------------------------------------------------------------------------------------------- writing


def request(call: ProviderCall, account: SesAccount, timestamp: str) -> WireRequest:
    """SendEmail. `timestamp` is `YYYYMMDDTHHMMSSZ`. Raises Unsendable where no mail can be made of the message."""
    mail = envelope(call.message, account.sender)
    content = mail.content
    to = {"ToAddresses": (mail.to,), "CcAddresses": mail.cc, "BccAddresses": mail.bcc}
    body: dict[str, object] = {
        "FromEmailAddress": _written(mail.sender),
        "Destination": {name: [m.address for m in mailboxes] for name, mailboxes in to.items() if mailboxes},
        "Content": {"Simple": _simple(content)} if _is_simple(content) else {"Raw": _raw(call.message, mail.sender)},
        "EmailTags": [{"Name": "hg-attempt", "Value": call.attempt_id}],
    }
    if mail.reply_to is not None:
        body["ReplyToAddresses"] = [_written(mail.reply_to)]
    if account.configuration_set:
        body["ConfigurationSetName"] = account.configuration_set
    return _signed("POST", SEND, orjson.dumps(body), account, timestamp)


def _written(mailbox: Mailbox) -> str:
    """A name outside ASCII becomes an encoded word (RFC 2047)."""
    return formataddr((mailbox.name, mailbox.address))


def probe(account: SesAccount, timestamp: str) -> WireRequest:
    return _signed("GET", ACCOUNT, b"", account, timestamp)


def _signed(method: str, path: str, body: bytes, account: SesAccount, timestamp: str) -> WireRequest:
    headers = sign(
        account.credentials,
        method=method,
        host=account.authority,
        path=account.prefix + path,
        body=body,
        content_type="application/json" if body else None,
        region=account.region,
        service="ses",
        timestamp=timestamp,
    )
    return WireRequest(method=method, target=account.prefix + path, headers=tuple(headers), body=body)


def _is_simple(content: EmailContent) -> bool:
    """SES takes 15 headers of printable ASCII; List-Unsubscribe is another feature of SES when it comes that way."""
    return (
        not content.attachments
        and len(content.headers) <= 15
        and all(
            _SIMPLE_NAME.fullmatch(name)
            and _SIMPLE_VALUE.fullmatch(value)
            and not name.lower().startswith(("list-unsubscribe", "x-ses-"))
            for name, value in content.headers
        )
    )


def _simple(content: EmailContent) -> dict[str, object]:
    parts = {"Text": content.text, "Html": content.html}
    simple: dict[str, object] = {
        "Subject": _data(content.subject),
        "Body": {name: _data(part) for name, part in parts.items() if part is not None},
    }
    if content.headers:
        simple["Headers"] = [{"Name": name, "Value": value} for name, value in content.headers]
    return simple


def _data(written: str) -> dict[str, str]:
    return {"Data": written, "Charset": "UTF-8"}


def _raw(message: Message, sender: Mailbox) -> dict[str, str]:
    """SES puts its own Message-ID and Date over ours."""
    written = build_mime(message, sender=sender, message_id_domain=sender.domain)
    return {"Data": base64.b64encode(written).decode()}


# -------------------------------------------------------------------------------------------------- reading


def judge(answer: WireAnswer) -> Finding:
    """What the answer to one SendEmail means."""
    body = table(parse(answer.body))
    detail = word(body.get("message")) or word(body.get("Message"))
    if 200 <= answer.status < 300:
        taken = word(body.get("MessageId"))
        if answer.whole and taken is not None:
            return Finding(verdict=TAKEN, provider_message_id=taken)
        return by_status(answer)
    name = _error_name(answer, body)
    verdict = ERRORS.get(name) if name else None
    if verdict is None:
        found = by_status(answer, detail)
        return found if name is None else replace(found, code=name)
    lowered = (detail or "").lower()
    if name == "MessageRejected" and "not verified" in lowered:
        verdict = NOT_VERIFIED
    elif verdict is SLOWER and "daily" in lowered:
        verdict = DAILY
    elif "signature expired" in lowered or "signature not yet current" in lowered:
        verdict = LATE
    return Finding(verdict=verdict, code=name, detail=detail, retry_after_s=retry_after_s(answer))


def classify(calls: Sequence[ProviderCall], answer: WireAnswer) -> list[Answer]:
    finding = judge(answer)
    return [finding.answer(_named(call.message, finding)) for call in calls]


def account_state(answer: WireAnswer) -> Finding:
    """What GetAccount says: may it send, and how much."""
    body = table(parse(answer.body))
    quota = table(body.get("SendQuota"))
    if not 200 <= answer.status < 300:
        return judge(answer)
    if not answer.whole or "SendingEnabled" not in body:
        return by_status(answer)
    if body["SendingEnabled"] is not True or body.get("EnforcementStatus") == "SHUTDOWN":
        return Finding(verdict=PAUSED, code="SendingPausedException")
    place = "production" if body.get("ProductionAccessEnabled") is True else "sandbox: verified recipients only"
    used = f"{quota.get('SentLast24Hours')} of {quota.get('Max24HourSend')} in 24 h, {quota.get('MaxSendRate')}/s"
    return Finding(verdict=TAKEN, detail=f"{place}; {used}")


explain = explainer(judge)


def _error_name(answer: WireAnswer, body: Mapping[str, object]) -> str | None:
    """`TooManyRequestsException:http://…` in the header, `com.amazonaws.ses#…` in the body."""
    raw = answer.headers.get("x-amzn-errortype") or word(body.get("__type")) or word(body.get("code")) or ""
    name = raw.partition(":")[0].rpartition("#")[2].strip()
    return name if re.fullmatch(r"[A-Za-z0-9_.]{1,80}", name) else None


def _named(message: Message, finding: Finding) -> Collection[str]:
    """The sender is the message's own fault where it named one, and SES complains of that one."""
    content = message.content
    if not isinstance(content, EmailContent) or not content.sender:
        return ()
    try:
        address = parse_mailbox(content.sender).address.lower()
    except ValueError:
        return ()
    complaint = (finding.detail or "").lower()
    return {"sender"} if address in complaint or address.rpartition("@")[2] in complaint else ()


# -------------------------------------------------------------------------------------------------- courier


class SesCourier(HttpCourier):
    def __init__(
        self, settings: ProviderSettings, transport: Transport | None = None, now_s: Callable[[], float] = time.time
    ) -> None:
        given = settings.credentials
        credentials = AwsCredentials(given["access_key_id"], given["secret_access_key"], given.get("session_token"))
        region = given["region"]
        secrets = [s for s in (credentials.secret_access_key, credentials.session_token) if s]
        super().__init__(settings, BASE_URL.format(region=region), secrets, transport)
        self.account = SesAccount(
            credentials=credentials,
            region=region,
            authority=self.base.authority,
            prefix=self.base.prefix,
            sender=configured_sender(settings),
            configuration_set=chosen(settings, "configuration_set", str),
        )
        self._now_s = now_s
        self._ahead_s = 0.0

    def takes(self, message: Message) -> str | None:
        if message.recipients > MOST_RECIPIENTS:
            return "too_many_recipients"
        return refusal(message, self.account.sender)

    def likeness(self, message: Message) -> Hashable | None:  # noqa: ARG002 - SendBulkEmail takes templates only
        return None

    def request(self, calls: Sequence[ProviderCall]) -> WireRequest:
        (call,) = calls
        return request(call, self.account, self._timestamp())

    def classify(self, calls: Sequence[ProviderCall], answer: WireAnswer) -> Sequence[Answer]:
        self._watch_clock(answer)
        return classify(calls, answer)

    def probe(self) -> WireRequest:
        return probe(self.account, self._timestamp())

    def proved(self, answer: WireAnswer) -> Finding:
        self._watch_clock(answer)
        return account_state(answer)

    def _timestamp(self) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now_s() + self._ahead_s))

    def _watch_clock(self, answer: WireAnswer) -> None:
        """SES refuses a clock that is five minutes off: the next signature goes by its own, told in `Date`."""
        if answer.status != 403 or judge(answer).verdict is not LATE:
            return
        try:
            self._ahead_s = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - self._now_s()
        except (ValueError, TypeError, OverflowError, IndexError):
            self._ahead_s = 0.0


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=SesCourier,
    explain=explain,
    credentials=(("access_key_id", "secret_access_key", "region"),),
    optional_credentials=("session_token",),
    options={"configuration_set": Option(parse=text, about="needed for events: receipts come through it")},
    base_url=BASE_URL,
    rate=14,
)
