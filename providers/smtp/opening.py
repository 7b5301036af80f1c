"""From the greeting of a mail server to a session that takes mail; and the good-bye."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from typing import assert_never

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers.http import masker
from heliograph.providers.smtp.dialogue import Dialogue, Heard, Say, Secure, lost
from heliograph.providers.smtp.replies import Reply, Row, Stage, find
from heliograph.providers.verdicts import clip


@dataclass(frozen=True, slots=True)
class Password:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """An OAuth 2 access token for a user's mailbox: XOAUTH2, or OAUTHBEARER (RFC 7628)."""

    username: str
    token: str = field(repr=False)


Login = Password | Bearer


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a server offers. `size` is the largest mail it takes, in bytes; None where it does not say."""

    starttls: bool = False
    pipelining: bool = False
    eight_bit: bool = False
    utf8: bool = False
    dsn: bool = False
    size: int | None = None
    mechanisms: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """For people."""
        known = {"PIPELINING": self.pipelining, "8BITMIME": self.eight_bit, "SMTPUTF8": self.utf8, "DSN": self.dsn}
        offers = ", ".join(name for name, offered in known.items() if offered) or "no extension that we use"
        return offers if self.size is None else f"{offers}; mails of up to {self.size / 1e6:.1f} MB"

    @classmethod
    def parse(cls, reply: Reply) -> Features:
        """From the reply to EHLO; its first line is the server's name."""
        offers: dict[str, list[str]] = {}
        for line in reply.lines[1:]:
            keyword, *parameters = line.upper().replace("AUTH=", "AUTH ").split() or [""]
            offers.setdefault(keyword, []).extend(parameters)
        size = offers.get("SIZE", [])
        return cls(
            starttls="STARTTLS" in offers,
            pipelining="PIPELINING" in offers,
            eight_bit="8BITMIME" in offers,
            utf8="SMTPUTF8" in offers,
            dsn="DSN" in offers,
            size=int(size[0]) if size and re.fullmatch(r"[1-9][0-9]{0,15}", size[0]) else None,
            mechanisms=frozenset(offers.get("AUTH", [])),
        )


def opening(
    *, ehlo_name: str, starttls: bool, login: Login | None, rows: tuple[Row, ...] = ()
) -> Dialogue[Features | Answer]:
    """From the greeting to a session that takes mail; the answer says why there is none."""
    greeted = yield Say(b"")
    if (fault := _refusal(greeted, Stage.GREETING, rows)) is not None:
        return fault
    features = yield from _hello(ehlo_name, rows)
    if isinstance(features, Answer):
        return features
    if starttls:
        if not features.starttls:
            return _misconfigured("no_starttls", "the server offers no STARTTLS, or somebody on the way hides it")
        if (fault := _refusal((yield Say(b"STARTTLS\r\n")), Stage.TLS, rows)) is not None:
            return fault
        secured = yield Secure()
        if secured.loss is not None:
            return lost(secured, Stage.TLS)
        features = yield from _hello(ehlo_name, rows)
        if isinstance(features, Answer):
            return features
    if login is not None and (fault := (yield from _authenticate(features, login, rows))) is not None:
        return fault
    return features


def _hello(ehlo_name: str, rows: tuple[Row, ...]) -> Dialogue[Features | Answer]:
    heard = yield Say(f"EHLO {ehlo_name}\r\n".encode())
    return _refusal(heard, Stage.HELLO, rows) or Features.parse(heard.replies[0])


def _authenticate(features: Features, login: Login, rows: tuple[Row, ...]) -> Dialogue[Answer | None]:
    """None where it is done. A server asks with 334 for the next line; an unwanted 334 (XOAUTH2's has JSON on what is
    wrong with the token) gets an empty one, upon which the server refuses."""
    match login:
        case Bearer() if "XOAUTH2" in features.mechanisms:
            lines = [f"user={login.username}\1auth=Bearer {login.token}\1\1"]
            command = b"AUTH XOAUTH2 " + _base64(lines.pop(0))
        case Bearer() if "OAUTHBEARER" in features.mechanisms:
            lines = [f"n,a={_escaped(login.username)},\1auth=Bearer {login.token}\1\1", "\1"]
            command = b"AUTH OAUTHBEARER " + _base64(lines.pop(0))
        case Password() if "PLAIN" in features.mechanisms:
            lines = [f"\0{login.username}\0{login.password}"]
            command = b"AUTH PLAIN " + _base64(lines.pop(0))
        case Password() if "LOGIN" in features.mechanisms:
            lines = [login.username, login.password]
            command = b"AUTH LOGIN"
        case Bearer() | Password():
            offered = ", ".join(sorted(features.mechanisms)) or "none"
            return _misconfigured("no_auth", clip(f"the server offers no login that fits these credentials: {offered}"))
        case _:
            assert_never(login)
    heard = yield Say(command + b"\r\n")
    for _ in range(3):
        if heard.loss is not None or heard.replies[0].code != 334:
            break
        heard = yield Say((_base64(lines.pop(0)) if lines else b"") + b"\r\n")
    refused = _refusal(heard, Stage.LOGIN, rows)
    if refused is None or refused.detail is None:
        return refused
    return replace(refused, detail=masker(_secrets_of(login))(refused.detail))


def _secrets_of(login: Login) -> list[str]:
    """As they are, and as they were said: some servers say back what they were told."""
    secret = login.token if isinstance(login, Bearer) else login.password
    user, escaped = login.username, _escaped(login.username)
    bearer = f"auth=Bearer {secret}\1\1"
    said = [secret, f"\0{user}\0{secret}", f"user={user}\1{bearer}", f"n,a={escaped},\1{bearer}"]
    return [secret, *(_base64(text).decode().rstrip("=") for text in said)]


def _escaped(user: str) -> str:
    return user.replace("=", "=3D").replace(",", "=2C")


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def closing(*, replies: int = 1) -> Dialogue[None]:
    """`replies` 0: whoever says it hangs up at once."""
    yield Say(b"QUIT\r\n", replies)


def _refusal(heard: Heard, stage: Stage, rows: tuple[Row, ...]) -> Answer | None:
    if heard.loss is not None:
        return lost(heard, stage)
    reply = heard.replies[0]
    return None if reply.positive else find(reply, stage, rows).answer()


def _misconfigured(code: str, detail: str) -> Answer:
    return Answer(outcome=Outcome.MISCONFIGURED, code=code, detail=detail)
