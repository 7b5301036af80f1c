"""Fetching what a genuine-looking report names: a certificate, or the address that confirms a subscription.

Whoever can post to us chooses what we are to fetch, within what a provider's reader has checked (scheme, host, port,
path). So nothing else is asked: no redirect is followed, no proxy of the environment's is used, names are resolved here
and only public addresses are connected to, exactly those that were judged; size, time and number are bounded, and
failures are remembered for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpcore
import trio

from heliograph.actors.model.errors import HeliographError

MOST_BYTES: Final = 64 * 1024
LIMIT_S: Final = 8.0
MOST_AT_ONCE: Final = 4
KEPT_S: Final = 24 * 3600.0
FAILED_FOR_S: Final = 30.0
MOST_KEPT: Final = 64

_SPECIAL_V4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/3",
        ),
    )
)  # fmt: skip
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
"""IANA's registries of special addresses. Python's own `is_global` follows them as they were at its release, and takes
much for global that is nobody's."""
_CARRIERS: Final = tuple(
    (IPv6Network(network), shift)
    for network, shift in (
        ("::/96", 0),  # IPv4-compatible (RFC 4291)
        ("::ffff:0:0/96", 0),  # IPv4-mapped (RFC 4291)
        ("::ffff:0:0:0/96", 0),  # IPv4-translated (RFC 2765)
        ("64:ff9b::/96", 0),  # NAT64 (RFC 6052)
        ("2002::/16", 80),  # 6to4 (RFC 3056)
    )
)
"""Networks whose addresses carry one of IPv4, and how many bits follow it."""
_UNREACHED: Final = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    OSError,
    UnicodeError,  # a name that no resolver takes
)
Options = Iterable[httpcore.SOCKET_OPTION]


class NotFetched(HeliographError):
    """What a report names could not be had; the report is to be repeated. Says why, for the log."""


def is_public(text: str) -> bool:
    """Whether an address is one that anybody may ask: the inner one, where it carries one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        for network, shift in _CARRIERS:
            if address in network:
                return _is_public_v4(IPv4Address(int(address) >> shift & 0xFFFFFFFF))
        return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)
    return _is_public_v4(address)


def _is_public_v4(address: IPv4Address) -> bool:
    return not any(address in network for network in _SPECIAL_V4)


@dataclass(frozen=True, slots=True)
class _Kept:
    """`body` None: it could not be had."""

    body: bytes | None
    until_s: float


class Fetcher:
    """`allowed` judges the addresses that a name stands for; every one of them must pass."""

    def __init__(self, allowed: Callable[[str], bool] = is_public) -> None:
        self._backend = _Judged(allowed)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._fetching: dict[str, trio.Event] = {}
        self._room = trio.Semaphore(MOST_AT_ONCE)

    async def certificate(self, url: str) -> str:
        """The text at this URL, which stays the same: remembered for a day. NotFetched."""
        while (kept := self._known(url)) is None:
            if (fetching := self._fetching.get(url)) is not None:
                await fetching.wait()  # somebody fetches it already; if he is cancelled we do it ourselves
            else:
                await self._fetch(url)
        if kept.body is None:
            raise NotFetched("the certificate could not be fetched a moment ago")
        return kept.body.decode("ascii", "replace")

    async def ask(self, url: str) -> None:
        """Ask for a URL once, whatever is there. NotFetched."""
        async with self._room:
            await self._get(url)

    def _known(self, url: str) -> _Kept | None:
        kept = self._kept.get(url)
        return kept if kept is not None and trio.current_time() < kept.until_s else None

    async def _fetch(self, url: str) -> None:
        self._fetching[url] = trio.Event()
        try:
            async with self._room:
                self._keep(url, await self._get(url), KEPT_S)
        except NotFetched:
            self._keep(url, None, FAILED_FOR_S)
            raise
        finally:
            self._fetching.pop(url).set()

    def _keep(self, url: str, body: bytes | None, for_s: float) -> None:
        self._kept[url] = _Kept(body, trio.current_time() + for_s)
        self._kept.move_to_end(url)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    async def _get(self, url: str) -> bytes:
        body = bytearray()
        try:
            with trio.move_on_after(LIMIT_S) as limit:
                async with (
                    httpcore.AsyncConnectionPool(network_backend=self._backend, max_keepalive_connections=0) as pool,
                    pool.stream("GET", url, headers={"Accept": "*/*"}) as answer,
                ):
                    if answer.status != 200:
                        raise NotFetched(f"the answer to a GET was {answer.status}")
                    async for chunk in answer.aiter_stream():
                        body += chunk
                        if len(body) > MOST_BYTES:
                            limit.cancel()  # and not out of the loop, which would leave its generators open
        except _UNREACHED as error:
            raise NotFetched(f"it could not be fetched ({type(error).__name__})") from None
        if len(body) > MOST_BYTES:
            raise NotFetched(f"it is larger than {MOST_BYTES} bytes")
        if limit.cancelled_caught:
            raise NotFetched(f"it did not come within {LIMIT_S:g} s")
        return bytes(body)


class _Judged(httpcore.AsyncNetworkBackend):
    """Connects to exactly the address that was judged: a name may stand for another one a moment later."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(map(self._allowed, addresses)):
            raise httpcore.ConnectError("it stands for an address that is not public")
        failure: Exception = httpcore.ConnectError("there is no address")
        for address in dict.fromkeys(addresses):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure
