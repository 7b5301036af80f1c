"""The SMTP and Gmail couriers against Nodemailer's server: PIPELINING and XOAUTH2 as others understand them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.actors.model.message import Channel, Message
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.support.builders import a_call, a_provider, an_email
from tests.support.certificates import Authority

PACKAGE: Final = "smtp-server@3.21.6"
SCRIPT: Final = Path(__file__).with_name("smtp_server.js")
OAUTH: Final = {"username": "me@gmail.com", "client_id": "id", "client_secret": "s", "refresh_token": "r"}


@dataclass(slots=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    ca_file: str

    async def next(self) -> dict[str, Any]:
        """What it did next."""
        assert self.process.stdout is not None
        with trio.fail_after(10):
            line = await trio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True)
        said: dict[str, Any] = json.loads(line)
        return said


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed by npm."""
    folder = tmp_path_factory.mktemp("npm")
    npm = shutil.which("npm")
    assert npm is not None, "npm is missing (apt-get install npm)"
    done = subprocess.run([npm, "install", "--prefix", folder, PACKAGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"npm cannot install {PACKAGE}: {done.stderr}"
    return folder / "node_modules"


@pytest.fixture
def server(modules: Path, tmp_path: Path) -> Iterator[Server]:
    authority = Authority.new(tmp_path)
    authority.server()
    process = subprocess.Popen(
        ["node", SCRIPT, tmp_path / "localhost.pem"],
        env=os.environ | {"NODE_PATH": str(modules)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Server(process, json.loads(process.stdout.readline())["port"], str(authority.file()))
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


@asynccontextmanager
async def courier_of(server: Server, kind: str = "smtp", **fields: Any) -> AsyncIterator[Courier]:
    known: dict[str, Any] = {
        "host": "localhost",
        "port": server.port,
        "tls": "starttls",
        "sender": "Shop <hi@shop.in>",
        "credentials": {"username": "me@gmail.com", "password": "open sesame 16"},
        "options": {"ca_file": server.ca_file},
    }
    courier = build(a_provider(kind, Channel.EMAIL, **known | fields))
    try:
        yield courier
    finally:
        await courier.aclose()


async def send(courier: Courier, message: Message) -> Answer:
    (answer,) = await courier.send([a_call(message)], lambda: None)
    return answer


@asynccontextmanager
async def tokens(token: str) -> AsyncIterator[str]:
    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while b"grant_type=refresh_token" not in request:
            request += await stream.receive_some()
        body = json.dumps({"access_token": token, "expires_in": 3599}).encode()
        await stream.send_all(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/token"
        nursery.cancel_scope.cancel()


@pytest.mark.tools
async def test_mails_are_pipelined_over_one_session_and_arrive_as_written(server: Server) -> None:
    async with courier_of(server) as courier:
        message = an_email("asha@example.net", subject="बिल", text=".\n..\nनमस्ते", bcc=("audit@shop.in",))
        assert "PIPELINING" in ((await courier.check()).detail or "")
        assert (await server.next())["login"] == "PLAIN"
        assert (await send(courier, message)).outcome is Outcome.ACCEPTED
        assert (await server.next()) == {"login": "PLAIN", "secure": True, "good": True}
        first = await server.next()
        assert (await send(courier, an_email("gone@example.net"))).code == "550 5.1.1"
        assert (await send(courier, an_email("ravi@example.net"))).outcome is Outcome.ACCEPTED
        second = await server.next()
    mail = message_from_bytes(base64.b64decode(first["content"]), policy=policy.default)
    assert (first["sender"], first["recipients"]) == ("hi@shop.in", ["asha@example.net", "audit@shop.in"])
    assert (mail["subject"], mail.get_content().replace("\r\n", "\n")) == ("बिल", ".\n..\nनमस्ते\n")
    assert first["session"] == second["session"]


@pytest.mark.tools
async def test_gmail_logs_in_by_a_token(server: Server) -> None:
    async with tokens("fresh") as url:
        options = {"ca_file": server.ca_file, "token_url": url}
        async with courier_of(server, "gmail", credentials=OAUTH, options=options) as courier:
            assert (await send(courier, an_email())).outcome is Outcome.ACCEPTED
    assert await server.next() == {"login": "XOAUTH2", "secure": True, "good": True}


@pytest.mark.tools
async def test_a_token_that_is_refused_is_the_accounts_fault(server: Server) -> None:
    async with tokens("stale") as url:
        options = {"ca_file": server.ca_file, "token_url": url}
        async with courier_of(server, "gmail", credentials=OAUTH, options=options) as courier:
            answer = await send(courier, an_email())
    assert (answer.outcome, (answer.code or "")[:3]) == (Outcome.MISCONFIGURED, "535")
    assert [(await server.next())["good"] for _ in range(2)] == [False, False]
