"""The lines between supervisors and their stores, each through a proxy of its own, in a thread beside the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import trio

from tests.support.proxy import Proxy


class Lines:
    """By supervisor and store (`redis`, `postgres`)."""

    def __init__(self, urls: Mapping[str, str], supervisors: int) -> None:
        self._urls = urls
        self._wanted = [(n, store) for n in range(1, supervisors + 1) for store in urls]
        self._proxies: dict[tuple[int, str], Proxy] = {}
        self._token: trio.lowlevel.TrioToken
        self._end: trio.Event
        self._ready = threading.Event()

    def url(self, supervisor: int, store: str) -> str:
        """The store's, by way of the proxy."""
        parts = urlsplit(self._urls[store])
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self._proxies[supervisor, store].port}"))

    def each(self, store: str, supervisor: int | None, do: Callable[[Proxy], None]) -> None:
        """To one supervisor's line, or to all."""
        for (number, its_store), proxy in self._proxies.items():
            if its_store == store and supervisor in (None, number):
                trio.from_thread.run_sync(do, proxy, trio_token=self._token)

    async def _serve(self) -> None:
        self._token, self._end = trio.lowlevel.current_trio_token(), trio.Event()
        async with trio.open_nursery() as nursery:
            for supervisor, store in self._wanted:
                proxy = Proxy(urlsplit(self._urls[store]).port or 0)
                await nursery.start(proxy.serve)
                self._proxies[supervisor, store] = proxy
            self._ready.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()

    @contextmanager
    def served(self) -> Iterator[Lines]:
        thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)
        thread.start()
        assert self._ready.wait(10)
        try:
            yield self
        finally:
            trio.from_thread.run_sync(self._end.set, trio_token=self._token)
            thread.join(10)
