"""`heliograph up`: the whole system on one machine, as children of this process.

The order is the point: lock, orphans of a killed predecessor, embedded services, migration, key, supervisors. What
dies is started again. Stopping goes backwards, so that supervisors drain while both stores are still there.

A supervisor is told nothing but a configuration file and environment variables: each is a plain `heliograph run`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import trio

from heliograph.actors.model.message import Channel
from heliograph.actors.model.settings import Config
from heliograph.gateway.cli import config as configuration
from heliograph.gateway.cli import database, logs, output
from heliograph.gateway.cli.config import DEFAULT, Need
from heliograph.gateway.cli.embedded import (
    HOST,
    Postgres,
    Redis,
    Service,
    claim_port,
    free_port,
    make_secret,
    port_is_free,
    service_environ,
    stop_orphan,
)
from heliograph.gateway.cli.keeper import Child, Keeper
from heliograph.gateway.cli.output import CommandFailed
from heliograph.gateway.cli.processes import Identity, stop
from heliograph.gateway.cli.state import Folder, Register, Running
from heliograph.gateway.console.passes import login_path

EXTRA_GRACE_S: Final = 5.0
"""Between the end of a supervisor's own grace and force."""

SANDBOXES: Final[Mapping[str, str]] = {
    "HELIOGRAPH_PROVIDERS__SANDBOX_SMS__KIND": "sandbox",
    "HELIOGRAPH_PROVIDERS__SANDBOX_SMS__CHANNEL": "sms",
    "HELIOGRAPH_PROVIDERS__SANDBOX_EMAIL__KIND": "sandbox",
    "HELIOGRAPH_PROVIDERS__SANDBOX_EMAIL__CHANNEL": "email",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The options of the command."""

    folder: Path
    file: Path | None
    port: int | None
    supervisors: int


Announce = Callable[[Running, Config], None]


async def run(wish: Wish, announce: Announce) -> None:
    """From nothing to ready, `announce`, then until a signal. Raises what kept it from starting or going on."""
    plain = configuration.load(wish.file, os.environ, need=frozenset()).config
    logs.configure(plain.log)
    own = {} if any(not p.test_only for p in plain.providers) else SANDBOXES
    folder = Folder(wish.folder)
    folder.make()
    with folder.lock():
        owner = Identity.of(os.getpid())
        if owner is None:
            raise CommandFailed("`heliograph up` needs Linux with /proc")
        await stop_what_was_left(folder)
        try:
            await _System(wish, {**os.environ, **own}, folder, Register(folder, owner), announce).run()
        finally:
            folder.forget()


async def stop_what_was_left(folder: Folder) -> None:
    """A killed `up` may have left children, which drain or shut down and until then hold ports and data."""
    left = folder.left()
    for name, child in (left.children if left else {}).items():
        if name.startswith("supervisor"):
            # It was told to drain when its parent died; one more signal means now.
            await stop(child, ((signal.SIGTERM, 2.0),))
    services: tuple[Service, ...] = (Redis(folder.path, 0, ""), Postgres(folder.path, 0, ""))
    for service in services:
        await stop_orphan(service)


class _System:
    def __init__(
        self, wish: Wish, environ: dict[str, str], folder: Folder, register: Register, announce: Announce
    ) -> None:
        self._wish = wish
        self._environ = environ
        self._folder = folder
        self._register = register
        self._announce = announce
        self._ports = folder.ports()
        self._secrets = folder.secrets()
        self._stores: list[Keeper] = []
        self._supervisors: list[Keeper] = []
        self._claims = ExitStack()
        self._working = trio.CancelScope()  # ended by the first signal
        self._hurry = trio.Event()  # set by the second

    async def run(self) -> None:
        with self._claims, trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                await self._work()
                nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if self._working.cancel_called:
                self._hurry.set()
            else:
                output.tell("heliograph: stopping")
                self._working.cancel()

    async def _work(self) -> None:
        try:
            async with trio.open_nursery() as keepers:
                with self._working:
                    config = await self._start(keepers)
                    self._announce(self._register.running, config)
                    await trio.sleep_forever()
                keepers.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._stop(self._supervisors)
                await self._stop(self._stores)

    async def _stop(self, keepers: list[Keeper]) -> None:
        async with trio.open_nursery() as nursery:
            for keeper in keepers:
                nursery.start_soon(partial(keeper.stop, hurry=self._hurry))

    # ----------------------------------------------------------------------------------------------- starting

    async def _start(self, keepers: trio.Nursery) -> Config:
        file = self._wish.file
        loaded = configuration.load(file, self._environ, need=frozenset({Need.PROVIDERS}))
        origins = {entry.key: entry.origin for entry in loaded.entries}
        self._bind_gateway(loaded.config)
        await self._start_stores(
            keepers, embedded={key for key in ("redis", "postgres") if origins[f"{key}.url"] == DEFAULT}
        )
        config = configuration.load(file, self._environ).config
        await database.migrate(config.postgres_url)
        key, secret = await database.ensure_key(config.postgres_url, self._secrets.get("api_key"))
        self._keep(api_key=secret)
        url = f"http://{_reachable(config.gateway.host, config.gateway.port)}"
        monitors = self._monitors(config, chosen=origins["monitor.bind"] != DEFAULT)
        self._folder.keep_ports(self._ports)
        # One after the other: the first brings the gateway, and its faults are told once.
        for number, monitor in enumerate(monitors, 1):
            child = self._supervisor(number, monitor, config, gateway=url if number == 1 else None)
            await self._add(keepers, self._supervisors, child)
        self._register.update(
            url=url,
            api_key=secret,
            console_url=f"{url}{login_path(key, datetime.now(UTC))}",
            metrics_urls=tuple(f"http://{_reachable(host, port)}/metrics" for host, port in monitors),
            postgres_url=config.postgres_url,
            redis_url=config.redis_url,
        )
        return config

    def _bind_gateway(self, config: Config) -> None:
        host = config.gateway.host
        port = config.gateway.port if self._wish.port is None else self._wish.port
        if port == 0:
            port = free_port(self._ports.get("gateway"))
        elif not port_is_free(host, port):
            raise CommandFailed(f"port {port} on {host} is taken by another program; --port names another")
        self._ports["gateway"] = port
        self._environ["HELIOGRAPH_GATEWAY__BIND"] = _bind(host, port)

    async def _start_stores(self, keepers: trio.Nursery, *, embedded: set[str]) -> None:
        makers: Mapping[str, Callable[[Path, int, str], Service]] = {"redis": Redis, "postgres": Postgres}
        services = []
        for name in sorted(embedded):
            port = self._ports[name] = free_port(self._ports.get(name))
            self._keep(**{f"{name}_password": self._secrets.get(f"{name}_password") or make_secret()})
            service = makers[name](self._folder.path, port, self._secrets[f"{name}_password"])
            self._environ[f"HELIOGRAPH_{name.upper()}__URL"] = service.url
            services.append(service)
        async with trio.open_nursery() as nursery:
            for service in services:
                nursery.start_soon(self._start_store, keepers, service)

    async def _start_store(self, keepers: trio.Nursery, service: Service) -> None:
        await trio.to_thread.run_sync(service.prepare)
        child = Child(
            name=service.name,
            command=service.command,
            ready=service.ready,
            environ=service_environ(),
            stop_steps=service.stop_steps,
            account=service.account,
            file=service.log,
            early_ends=5,
            ended_early=service.failed,
        )
        await self._add(keepers, self._stores, child)

    async def _add(self, keepers: trio.Nursery, kind: list[Keeper], child: Child) -> None:
        keeper = Keeper(child, self._register)
        kind.append(keeper)
        await keepers.start(keeper.keep)

    def _keep(self, **secrets: str) -> None:
        if self._secrets != {**self._secrets, **secrets}:
            self._secrets.update(secrets)
            self._folder.keep_secrets(self._secrets)

    def _monitors(self, config: Config, *, chosen: bool) -> list[tuple[str, int]]:
        """An address for each supervisor; the configured one is the first's."""
        host, port = config.monitor.host, config.monitor.port
        if chosen and port and not port_is_free(host, port):
            raise CommandFailed(f"port {port} on {host} (monitor.bind) is taken by another program")
        binds = []
        for number in range(1, self._wish.supervisors + 1):
            name = f"monitor-{number}"
            wanted = port if number == 1 else 0
            if not (chosen and wanted):
                wanted = self._monitor_port(host, (wanted, self._ports.get(name, 0)))
            self._ports[name] = wanted
            binds.append((host, wanted))
        return binds

    def _monitor_port(self, host: str, wanted: Sequence[int]) -> int:
        """The first that can be had. A supervisor takes seconds to listen: till then no other `up` may choose it."""
        for port in wanted:
            if port and port_is_free(host, port) and (claim := claim_port(port)) is not None:
                self._claims.enter_context(claim)
                return port
        return free_port(None)

    def _supervisor(self, number: int, monitor: tuple[str, int], config: Config, gateway: str | None) -> Child:
        argv: list[str | Path] = [sys.executable, "-P", "-m", "heliograph.gateway.cli.main", "run"]
        if self._wish.file is not None:
            argv += ["--config", self._wish.file]
        if gateway is None:
            argv += ["--role", "delivery"]
        probes = [f"http://{_reachable(*monitor)}/readyz", *([f"{gateway}/readyz"] if gateway else [])]
        return Child(
            name=f"supervisor-{number}",
            command=lambda: argv,
            ready=partial(_all_ready, probes),
            environ={**self._environ, "HELIOGRAPH_MONITOR__BIND": _bind(*monitor)},
            stop_steps=((signal.SIGTERM, config.delivery.drain_grace_s + EXTRA_GRACE_S),),
        )


async def _all_ready(urls: list[str]) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        for url in urls:
            try:
                if (await client.get(url)).status_code != httpx.codes.OK:
                    return False
            except httpx.TransportError:
                return False
    return True


def _bind(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(host: str, port: int) -> str:
    """Where to find on this machine what listens there: everywhere includes loopback."""
    return _bind({"0.0.0.0": HOST, "::": "::1"}.get(host, host), port)  # noqa: S104


def example(running: Running, config: Config) -> str:
    """A command that posts a message which the system's own providers take."""
    live = {p.channel for p in config.providers if not p.test_only}
    message = '{"channel": "sms", "to": "+919876543210", "text": "Hello from Heliograph"}'
    if Channel.SMS not in live:
        message = '{"channel": "email", "to": "asha@example.com", "subject": "Hello", "text": "From Heliograph"}'
    headers = f"-H 'Authorization: Bearer {running.api_key}' -H 'Content-Type: application/json'"
    return f"curl -sS {running.url}/v1/messages {headers} -d '{message}'"
