"""Logins by OAuth 2 (RFC 6749, 6): a refresh token becomes access tokens, for XOAUTH2 and OAUTHBEARER."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import orjson
import trio

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.provider import ProviderSettings
from heliograph.providers.kinds import fault
from heliograph.providers.smtp.opening import Bearer, Login
from heliograph.providers.transports import connected
from heliograph.providers.verdicts import clip
from heliograph.providers.wire import Base, Loss, WireAnswer, WireFailure, WireRequest

CREDENTIALS: Final = ("username", "client_id", "client_secret", "refresh_token")
EARLY_S: Final = 60.0
"""A token is not used in its last minute."""
UNTOLD_S: Final = 300.0
"""How long one lasts whose life the server does not tell."""
_LATER: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


class Tokens:
    """`Logins` for one account; an access token is kept while it lasts."""

    def __init__(self, settings: ProviderSettings) -> None:
        form = {name: settings.credentials[name] for name in CREDENTIALS[1:]} | {"grant_type": "refresh_token"}
        if (scope := settings.options["token_scope"]) is not None:
            form["scope"] = scope
        self._form = urlencode(form).encode()
        self._username = settings.credentials["username"]
        try:
            self._base = Base.parse(settings.options["token_url"] or "")
        except ValueError as error:
            raise fault(settings, "options.token_url", str(error)) from None
        self._timeout_s = settings.timeout_s
        self._http_client = settings.http_client
        self._lock = trio.Lock()
        self._known: Bearer | None = None
        self._until_s = 0.0

    async def login(self, refused: Login | None = None) -> Login | Answer:
        async with self._lock:
            if self._known is not None and self._known != refused and trio.current_time() < self._until_s:
                return self._known
            return await self._renew()

    async def _renew(self) -> Bearer | Answer:
        base = self._base
        headers = (("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json"))
        transport = connected(self._http_client, base, timeout_s=self._timeout_s)
        try:
            request = WireRequest(method="POST", target=base.prefix or "/", headers=headers, body=self._form)
            answer = await transport.exchange(request, _freely)
        finally:
            await transport.aclose()
        return self._learn(answer)

    def _learn(self, answer: WireAnswer | WireFailure) -> Bearer | Answer:
        if isinstance(answer, WireFailure):
            outcome = Outcome.MISCONFIGURED if answer.loss is Loss.UNTRUSTED else Outcome.DEFERRED
            return Answer(outcome=outcome, code=answer.code, detail=clip(f"no access token: {answer.detail}"))
        match _json(answer.body):
            case {"access_token": str(token), **rest} if answer.status == 200 and token:
                self._known = Bearer(self._username, token)
                self._until_s = trio.current_time() + _lasts_s(rest.get("expires_in")) - EARLY_S
                return self._known
            case {"error": str(error)} if 400 <= answer.status < 404 and error not in _LATER:
                detail = f"no access token: {error}; log the account in again and renew credentials.refresh_token"
                return Answer(outcome=Outcome.MISCONFIGURED, code=clip(error), detail=clip(detail))
            case _:
                detail = f"no access token: the server for tokens answers {answer.status}"
                return Answer(outcome=Outcome.DEFERRED, code=f"token {answer.status}", detail=detail)


def _lasts_s(told: object) -> float:
    """Some servers tell it as a text, some not at all."""
    match told:
        case bool():
            return UNTOLD_S
        case int() | float():
            return float(told)
        case str() if told.isascii() and told.isdigit():
            return float(told[:9])
        case _:
            return UNTOLD_S


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _freely() -> None:
    """A token moves no mail: no right is needed."""
