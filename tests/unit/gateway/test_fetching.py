"""What is fetched on somebody else's word: public addresses only, no redirect, bounded, and not again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from heliograph.gateway import fetching
from heliograph.gateway.fetching import Fetcher, NotFetched, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_an_address_that_anybody_may_ask_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "::7f00:1", "localhost", "",
    ],
)  # fmt: skip
def test_an_address_of_our_own_is_not_however_it_is_written(address: str) -> None:
    assert not is_public(address)


@asynccontextmanager
async def a_server(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers each connection with the same bytes; its URL, and the heads that it was sent."""
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some())
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://localhost:{listener.socket.getsockname()[1]}", heads
        nursery.cancel_scope.cancel()


def answer(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]).encode() + body


async def test_a_certificate_is_fetched_once_and_remembered() -> None:
    fetcher = Fetcher(lambda _: True)
    async with a_server(answer(b"PEM")) as (url, heads):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(fetcher.certificate, f"{url}/one.pem")
        assert await fetcher.certificate(f"{url}/one.pem") == "PEM"
    assert [head.split(b"\r\n")[0] for head in heads] == [b"GET /one.pem HTTP/1.1"]


async def test_a_name_that_stands_for_an_address_of_our_own_is_not_asked() -> None:
    async with a_server(answer(b"PEM")) as (url, heads):
        with pytest.raises(NotFetched, match="could not be fetched"):
            await Fetcher().ask(url)
    assert heads == []


async def test_an_address_is_judged_and_then_asked_itself() -> None:
    judged: list[str] = []

    def allowed(address: str) -> bool:
        judged.append(address)
        return True

    async with a_server(answer(b"")) as (url, heads):
        await Fetcher(allowed).ask(url)
    assert "127.0.0.1" in judged
    assert b"\r\nHost: localhost" in heads[0]


async def test_a_redirect_is_not_followed() -> None:
    async with a_server(answer(b"", "302 Found", "Location: /elsewhere")) as (url, heads):
        with pytest.raises(NotFetched, match="302"):
            await Fetcher(lambda _: True).ask(url)
    assert len(heads) == 1


@pytest.mark.parametrize(
    "said",
    [
        answer(b"x" * (fetching.MOST_BYTES + 1)),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"what is this",
        b"",
        answer(b"", "500 No"),
    ],
    ids=["too large", "cut off", "no HTTP", "nothing", "500"],
)
async def test_whatever_else_comes_is_not_fetched_and_not_asked_for_again_at_once(said: bytes) -> None:
    fetcher = Fetcher(lambda _: True)
    async with a_server(said) as (url, heads):
        for _ in range(3):
            with pytest.raises(NotFetched):
                await fetcher.certificate(f"{url}/one.pem")
    assert len(heads) == 1


async def test_where_nobody_listens_it_is_not_fetched() -> None:
    with pytest.raises(NotFetched):
        await Fetcher(lambda _: True).ask("http://127.0.0.1:1/")


async def test_what_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "LIMIT_S", 0.2)

    async def hold(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, hold, 0, host="127.0.0.1"))
        with pytest.raises(NotFetched, match="within"):
            await Fetcher(lambda _: True).ask(f"http://localhost:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


async def test_no_more_certificates_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MOST_KEPT", 2)
    fetcher = Fetcher(lambda _: True)
    async with a_server(answer(b"PEM")) as (url, heads):
        for name in ("a", "b", "c", "a", "c"):
            await fetcher.certificate(f"{url}/{name}.pem")
    assert [head.split(b" ")[1] for head in heads] == [b"/a.pem", b"/b.pem", b"/c.pem", b"/a.pem"]
