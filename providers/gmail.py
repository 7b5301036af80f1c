"""Gmail by SMTP: the courier of `smtp` with Google's server, limits and logins.

An app password (16 letters; Google shows them with blanks), or OAuth 2: the refresh token of a client that may use
`https://mail.google.com/`. Google rewrites From to the account unless it is one of its verified aliases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

import orjson
import trio

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.providers.kinds import Kind, Option, fault, text
from heliograph.providers.smtp import OPTIONS, SmtpCourier
from heliograph.providers.smtp.dialogue import Bearer, Login, Password
from heliograph.providers.smtp.replies import SLOWER, Row, explainer
from heliograph.providers.smtp.session import FixedLogin, Logins
from heliograph.providers.verdicts import clip
from heliograph.providers.wire import Base, LineTransport, Loss, WireAnswer, WireFailure, WireRequest

HOST: Final = "smtp.gmail.com"
TOKENS: Final = "https://oauth2.googleapis.com/token"
MOST_RECIPIENTS: Final = 100
MOST_SESSIONS: Final = 5
EARLY_S: Final = 60.0
"""A token is not used in its last minute."""

# Gmail says 421 4.7.0 to a rate that it finds unusual, whatever the text.
GMAIL_ROWS: Final = (Row(verdict=SLOWER, codes=frozenset({421}), enhanced=("4.7.0",)),)


class Tokens:
    """`Logins` by OAuth 2 (RFC 6749, 6): access tokens for one account, kept while they last."""

    def __init__(self, settings: ProviderSettings) -> None:
        names = ("client_id", "client_secret", "refresh_token")
        form = {name: settings.credentials[name] for name in names} | {"grant_type": "refresh_token"}
        self._form = urlencode(form).encode()
        self._username = settings.credentials["username"]
        try:
            self._base = Base.parse(settings.options["token_url"])
        except ValueError as error:
            raise fault(settings, "options.token_url", str(error)) from None
        self._timeout_s = settings.timeout_s
        self._lock = trio.Lock()
        self._known: Bearer | None = None
        self._until_s = 0.0

    async def login(self) -> Login | Answer:
        async with self._lock:
            if self._known is not None and trio.current_time() < self._until_s:
                return self._known
            return await self._renew()

    def refused(self) -> None:
        self._known = None

    async def _renew(self) -> Bearer | Answer:
        base = self._base
        headers = (("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json"))
        transport = LineTransport(base, timeout_s=self._timeout_s)
        try:
            request = WireRequest(method="POST", target=base.prefix or "/", headers=headers, body=self._form)
            answer = await transport.exchange(request, _freely)
        finally:
            await transport.aclose()
        return self._learn(answer)

    def _learn(self, answer: WireAnswer | WireFailure) -> Bearer | Answer:
        match answer:
            case WireFailure(Loss.UNTRUSTED, code, detail):
                return Answer(outcome=Outcome.MISCONFIGURED, code=code, detail=clip(f"no access token: {detail}"))
            case WireFailure(_, code, detail):
                return Answer(outcome=Outcome.DEFERRED, code=code, detail=clip(f"no access token: {detail}"))
            case WireAnswer():
                pass
        match _json(answer.body):
            case {"access_token": str(token), "expires_in": int(lasts_s)} if answer.status == 200:
                self._known = Bearer(self._username, token)
                self._until_s = trio.current_time() + lasts_s - EARLY_S
                return self._known
            case {"error": str(error)} if 400 <= answer.status < 429:
                detail = f"no access token: {error}; log the account in again and renew credentials.refresh_token"
                return Answer(outcome=Outcome.MISCONFIGURED, code=clip(error), detail=clip(detail))
            case _:
                detail = f"no access token: the server for tokens answers {answer.status}"
                return Answer(outcome=Outcome.DEFERRED, code=f"token {answer.status}", detail=detail)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _freely() -> None:
    """A token moves no mail: no right is needed."""


def _build(settings: ProviderSettings) -> SmtpCourier:
    credentials = settings.credentials
    settings = replace(settings, host=settings.host or HOST)
    logins: Logins
    if "refresh_token" in credentials:
        logins = Tokens(settings)
    else:
        logins = FixedLogin(Password(credentials["username"], credentials["password"].replace(" ", "")))
    return SmtpCourier(
        settings, logins=logins, rows=GMAIL_ROWS, most_recipients=MOST_RECIPIENTS, most_sessions=MOST_SESSIONS
    )


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=_build,
    explain=explainer(GMAIL_ROWS),
    credentials=(("username", "password"), ("username", "client_id", "client_secret", "refresh_token")),
    options={**OPTIONS, "token_url": Option(parse=text, about="where OAuth 2 tokens are fetched", default=TOKENS)},
)
