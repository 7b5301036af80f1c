"""SMTP submission (RFC 6409): any mail server.

What is said is decided in `opening` and `transaction`, what replies mean in `replies`; connections are `session`'s and
`sessions`', logins by OAuth 2 `tokens`'; `courier` makes a letter of a message, and `providers.mime` writes the mail.
"""

from __future__ import annotations

from typing import Final

from heliograph.actors.model.duration import parse_duration
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.policy.mail import parse_address
from heliograph.providers.kinds import Kind, Option, fault, text, whole
from heliograph.providers.smtp.courier import SmtpCourier
from heliograph.providers.smtp.opening import Password
from heliograph.providers.smtp.replies import explainer
from heliograph.providers.smtp.sessions import FixedLogin
from heliograph.providers.smtp.tokens import CREDENTIALS, Tokens


def _address(value: object) -> str:
    return parse_address(text(value))


def _domain(value: object) -> str:
    return parse_address(f"postmaster@{text(value)}").partition("@")[2]


def _ehlo_name(value: object) -> str:
    name = text(value)
    if " " in name:
        raise ValueError("must be a host name, or an address in brackets")
    return name


def _seconds(value: object) -> float:
    return parse_duration(text(value))


OPTIONS: Final = {
    "ehlo_name": Option(parse=_ehlo_name, about="the name given in EHLO; our address in brackets by default"),
    "ca_file": Option(parse=text, about="certificates (PEM) to trust besides the system's"),
    "envelope_sender": Option(parse=_address, about="where bounces go; the address in From by default"),
    "message_id_domain": Option(parse=_domain, about="what Message-ID ends in; the sender's domain by default"),
    "final_answer": Option(
        parse=_seconds, about="how much longer than `timeout` the answer to a whole mail may take", default=60.0
    ),
    "idle": Option(parse=_seconds, about="how long an idle session is kept", default=60.0),
    "lifetime": Option(parse=_seconds, about="how old a session may grow", default=600.0),
    "token_url": Option(parse=text, about="where OAuth 2 access tokens are fetched with the refresh token"),
    "token_scope": Option(parse=text, about="the scope to ask for there; none by default"),
    "mails_per_session": Option(parse=whole(1, 10_000), about="mails before a session is given up", default=100),
}


def _build(settings: ProviderSettings) -> SmtpCourier:
    credentials = settings.credentials
    if "refresh_token" in credentials:
        return SmtpCourier(settings, logins=Tokens(settings))
    for name in ("username", "password"):
        if credentials and name not in credentials:
            raise fault(settings, f"credentials.{name}", "missing; a login needs username and password")
    known = Password(credentials["username"], credentials["password"]) if credentials else None
    return SmtpCourier(settings, logins=FixedLogin(known))


KIND: Final = Kind(
    channels=frozenset({Channel.EMAIL}),
    courier=_build,
    explain=explainer(),
    credentials=(("username", "password"), CREDENTIALS, ()),
    options=OPTIONS,
)
