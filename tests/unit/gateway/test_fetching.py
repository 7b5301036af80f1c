"""What is fetched on somebody else's word: public addresses only, no redirect, bounded, and not again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

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
        "192.0.0.9", "192.88.99.1", "198.18.0.1", "240.0.0.1", "2001::1", "2001:db8::1", "3fff::1",
        "64:ff9b:1::808:808", "::ffff:0:7f00:1", "2002:a00:1::8.8.8.8", "4000::1", "fe80::5efe:808:808", "0x7f.1",
        "127.1", "2130706433", "0127.0.0.1", " 8.8.8.8", "8.8.8.8.",
    ],
)  # fmt: skip
def test_an_address_of_our_own_is_not_however_it_is_written(address: str) -> None:
    assert not is_public(address)


WRAPPED = ("::{}", "::ffff:{}", "::ffff:0:{}", "64:ff9b::{}")


@given(st.ip_addresses(v=4), st.sampled_from(WRAPPED))
def test_an_address_is_judged_the_same_in_whatever_it_is_wrapped(inner: IPv4Address, wrapping: str) -> None:
    assert is_public(wrapping.format(inner)) == is_public(str(inner))
    assert is_public(str(IPv6Address((0x2002 << 112) | (int(inner) << 80) | 1))) == is_public(str(inner))


@given(st.ip_addresses())
def test_what_is_public_the_language_holds_for_global_too(address: IPv4Address | IPv6Address) -> None:
    carries_one = isinstance(address, IPv6Address) and address.sixtofour is not None  # newer ones refuse these
    if is_public(str(address)) and not carries_one:
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved or address in IPv6Network("::/8")


@pytest.mark.parametrize(
    "network",
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10", "fc00::/7",
     "fe80::/10", "ff00::/8"],
)  # fmt: skip
@given(data=st.data())
def test_no_address_of_a_private_network_is_public(network: str, data: st.DataObject) -> None:
    assert not is_public(str(data.draw(st.ip_addresses(network=network))))


async def test_one_private_address_among_public_ones_is_enough_to_ask_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int, **_: object) -> list[object]:
        return [(0, 0, 0, "", ("127.0.0.1", port)), (0, 0, 0, "", ("8.8.8.8", port))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    with pytest.raises(NotFetched):
        await Fetcher(lambda address: not asked.append(address) and is_public(address)).ask("http://both.example/")
    assert asked == ["127.0.0.1"]


async def test_a_name_is_looked_up_once_so_that_it_cannot_turn_to_another_address_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_server(answer(b"judged")) as (url, _):
        turns = iter([[(0, 0, 0, "", ("127.0.0.1", int(url.rpartition(":")[2])))]])

        async def resolve(host: str, port: int, **_: object) -> list[object]:
            return next(turns) if host == "rebinding.example" else [(2, 1, 6, "", (host, port))]

        monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
        port = url.rpartition(":")[2]
        fetcher = Fetcher(lambda _: True)
        assert await fetcher.certificate(f"http://rebinding.example:{port}/") == "judged"
        assert next(turns, None) is None


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_server(answer(b"from the proxy")) as (proxy, heads), a_server(answer(b"direct")) as (url, _):
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        assert await Fetcher(lambda _: True).certificate(url) == "direct"
    assert heads == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://x/", "http://a..b/", "http://" + "a" * 70 + ".example/"]
)
async def test_what_is_no_address_of_the_web_is_not_fetched(url: str) -> None:
    with pytest.raises(NotFetched):
        await Fetcher(lambda _: True).ask(url)


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
