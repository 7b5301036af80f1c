"""What a call to a provider over HTTP costs this process, from a message to its classified answer.

.venv/bin/python -m tests.bench.calls [--client httpx] [--batch 100] [--tls] [--turns 3]

The provider is a process of its own, which answers as BulkSMS does; its CPU is not counted. 64 calls at a time.
"""

from __future__ import annotations

import argparse
import base64
import multiprocessing
import os
import re
import ssl
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import trio

from heliograph.actors.model.attempt import Outcome, ProviderCall
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import HttpClient
from heliograph.actors.ports.courier import Courier
from heliograph.providers import build
from tests.support.builders import a_call, a_message, a_provider
from tests.support.certificates import Authority

AT_ONCE: Final = 64
_LENGTH: Final = re.compile(rb"content-length: ([0-9]+)", re.IGNORECASE)
_ID: Final = re.compile(rb'"userSuppliedId":"([^"]+)"')
_ENTRY: Final = (
    b'{"id":"1234567890","type":"SENT","from":"+27000000000","to":"919876543210","body":null,"encoding":"TEXT",'
    b'"protocolId":0,"messageClass":0,"numberOfParts":1,"creditCost":1,"submission":{"id":"1-1","date":'
    b'"2025-01-01T00:00:00Z"},"status":{"id":"ACCEPTED.null","type":"ACCEPTED","subtype":null},'
    b'"relatedSentMessageId":null,"userSuppliedId":"%b"}'
)
_HEAD: Final = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def _serve(stream: trio.abc.Stream) -> None:
    came = b""
    async with stream:
        while piece := await stream.receive_some(1 << 20):
            came += piece
            head, blank, body = came.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if blank and length is not None and len(body) >= int(length[1]):
                answer = b"[%b]" % b",".join(_ENTRY % each for each in _ID.findall(body))
                await stream.send_all(_HEAD % len(answer) + answer)
                came = b""


def _provider(told: Connection, tls: ssl.SSLContext | None) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if tls is None:
                listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = await trio.open_tcp_listeners(0)
            else:
                listeners = await trio.open_ssl_over_tcp_listeners(0, tls, https_compatible=True)
            first = listeners[0]
            socket = first.socket if isinstance(first, trio.SocketListener) else first.transport_listener.socket
            told.send(socket.getsockname()[1])
            await nursery.start(trio.serve_listeners, _serve, listeners[:1])

    trio.run(main)


async def _drain(courier: Courier, calls: Sequence[ProviderCall], batch: int) -> None:
    groups = iter([calls[at : at + batch] for at in range(0, len(calls), batch)])

    async def send() -> None:
        for group in groups:
            answers = await courier.send(group, lambda: None)
            assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}, answers[0]

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(send)


async def _measure(url: str, client: HttpClient, batch: int, messages: int, turns: int) -> None:
    credentials = {"token_id": "a", "token_secret": base64.b64encode(b"of a usual length").decode()}
    settings = a_provider(
        "bulksms", Channel.SMS, base_url=url, credentials=credentials, batch=batch, http_client=client, timeout_s=60.0
    )
    courier = build(settings)
    for turn in range(turns + 1):
        calls = [a_call(a_message(f"+9198765{n:05}")) for n in range(messages)]
        began_s, cpu_s = time.perf_counter(), time.process_time()
        await _drain(courier, calls, batch)
        took_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        if turn:  # the first one opens the connections
            print(f"{client} batch={batch}: {used_s / messages * 1e6:.1f} us a message, {messages / took_s:.0f} /s")
    await courier.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", type=HttpClient, default=HttpClient.FAST)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.new(Path(folder))
        os.environ["SSL_CERT_FILE"] = str(authority.file())
        ours, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        provider = fork.Process(target=_provider, args=(theirs, authority.server() if given.tls else None))
        provider.start()
        try:
            url = f"{'https' if given.tls else 'http'}://localhost:{ours.recv()}"
            trio.run(_measure, url, given.client, given.batch, given.messages, given.turns)
        finally:
            provider.terminate()
            provider.join()


if __name__ == "__main__":
    main()
