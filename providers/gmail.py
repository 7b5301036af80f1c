"""Gmail by SMTP: the courier of `smtp` with Google's server, limits and logins.

An app password (16 letters; Google shows them with blanks), or OAuth 2: the refresh token of a client that may use
`https://mail.google.com/`. Google rewrites From to the account unless it is one of its verified aliases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.providers.kinds import Kind, Option, text
from heliograph.providers.smtp import OPTIONS
from heliograph.providers.smtp.courier import SmtpCourier
from heliograph.providers.smtp.opening import Password
from heliograph.providers.smtp.replies import GMAIL_ROWS, explainer
from heliograph.providers.smtp.sessions import FixedLogin
from heliograph.providers.smtp.tokens import CREDENTIALS, Tokens

HOST: Final = "smtp.gmail.com"
TOKENS: Final = "https://oauth2.googleapis.com/token"
MOST_RECIPIENTS: Final = 100
MOST_SESSIONS: Final = 5


def _build(settings: ProviderSettings) -> SmtpCourier:
    credentials = settings.credentials
    settings = replace(settings, host=settings.host or HOST)
    if "refresh_token" in credentials:
        logins: FixedLogin | Tokens = Tokens(settings)
    else:
        logins = FixedLogin(Password(credentials["username"], credentials["password"].replace(" ", "")))
    return SmtpCourier(
        settings, logins=logins, rows=GMAIL_ROWS, most_recipients=MOST_RECIPIENTS, most_sessions=MOST_SESSIONS
    )


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=_build,
    explain=explainer(GMAIL_ROWS),
    credentials=(("username", "password"), CREDENTIALS),
    options={**OPTIONS, "token_url": Option(parse=text, about=OPTIONS["token_url"].about, default=TOKENS)},
)
