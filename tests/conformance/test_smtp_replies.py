"""Every documented reply of mail servers, Gmail's published list among them, said over a real socket at its stage.

`fixtures/smtp/replies.toml` and `fixtures/gmail/replies.toml`:

    [[reply]]
    case = "no such user"
    stage = "RCPT"               # what is answered: greeting, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, the final dot
    reply = '''550 5.1.1 …'''    # as on the wire, line by line
    named = ["sender"]           # optional: what the message itself gave
    outcome = "rejected"
    code = "550 5.1.1"           # this and the rest: not compared where left out
    scope = "message"            # provider by default
    retry_after = 60             # none by default
    suppress = "bounce"          # none by default
    provider_message_id = "…"
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Channel, EmailContent
from heliograph.providers import build, explain
from tests.conformance.cases import Fixture, fixtures, unknown_keys
from tests.support.builders import a_call, a_message, a_provider
from tests.support.certificates import Authority
from tests.support.emulators.postmaster import Postmaster, Stage, postmaster

KEYS: Final = {
    "case", "stage", "reply", "named", "outcome", "code", "scope", "retry_after", "suppress", "provider_message_id",
}  # fmt: skip
LOGIN: Final = ("shop", "opensesame")
WRITTEN: Final = (Stage.SENDER, Stage.RECIPIENT, Stage.DATA, Stage.END)
CASES: Final = fixtures("replies.toml", "reply", "provider")


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The server's context and the client's options for STARTTLS."""
    authority = Authority.new(tmp_path_factory.mktemp("authority"))
    return {"context": authority.server(), "ca_file": str(authority.file())}


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("fixture", CASES, ids=str)
async def test_a_reply_comes_to_what_its_documentation_means(
    fixture: Fixture, pipelining: bool, secured: dict[str, Any]
) -> None:
    entry = fixture.entry
    assert not unknown_keys(fixture, KEYS)
    stage = Stage(entry["stage"])
    tls = stage is Stage.TLS
    offers = ("SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES", *(("PIPELINING",) if pipelining else ()))
    async with postmaster(login=LOGIN, offers=offers, starttls=secured["context"] if tls else None) as server:
        server.play(stage, "".join(f"{line}\r\n" for line in entry["reply"].splitlines()).encode(), times=2)
        answer, begun = await _send(fixture, server, secured["ca_file"] if tls else None)
    assert _shown(answer, entry) == {
        "outcome": entry["outcome"],
        "scope": entry.get("scope", "provider"),
        "retry_after": entry.get("retry_after"),
        "suppress": entry.get("suppress"),
        **{key: entry[key] for key in ("code", "provider_message_id") if key in entry},
    }
    assert (begun > 0) is (stage in WRITTEN)
    assert server.taken.total() == (answer.outcome is Outcome.ACCEPTED)


async def _send(fixture: Fixture, server: Postmaster, ca_file: str | None) -> tuple[Answer, int]:
    named = "sender" in fixture.entry.get("named", ())
    content = EmailContent(subject="Hi", text="Hello", sender="hi@other.in" if named else None)
    courier = build(
        a_provider(
            fixture.kind,
            Channel.EMAIL,
            host="localhost",
            port=server.port,
            tls="none" if ca_file is None else "starttls",
            credentials=dict(zip(("username", "password"), LOGIN, strict=True)),
            options={} if ca_file is None else {"ca_file": ca_file},
            sender="Shop <hi@shop.in>",
            timeout_s=5.0,
        )
    )
    begun: list[int] = []
    try:
        (answer,) = await courier.send(
            [a_call(a_message("asha@example.net", content=content))], lambda: begun.append(1)
        )
    finally:
        await courier.aclose()
    return answer, len(begun)


def _shown(answer: Answer, entry: dict[str, Any]) -> dict[str, Any]:
    said = {
        "outcome": str(answer.outcome),
        "scope": str(answer.scope),
        "retry_after": answer.retry_after_s,
        "suppress": None if answer.suppress is None else str(answer.suppress),
        "code": answer.code,
        "provider_message_id": answer.provider_message_id,
    }
    always = {"outcome", "scope", "retry_after", "suppress"}
    return {key: value for key, value in said.items() if key in always or key in entry}


@pytest.mark.parametrize(
    "fixture", [case for case in CASES if case.entry["stage"] == Stage.END and "named" not in case.entry], ids=str
)
def test_the_command_line_says_the_same_of_it(fixture: Fixture) -> None:
    lines = fixture.entry["reply"].splitlines()
    verdict = explain(fixture.kind, lines[0][:3], "\n".join(line[4:] for line in lines).encode())
    assert verdict.outcome == fixture.entry["outcome"]
    assert verdict.meaning
    assert verdict.cure
    assert verdict.source
