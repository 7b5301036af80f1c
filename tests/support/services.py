"""A real PostgreSQL and a real Redis for tests: started once when first asked for, gone with the test session.

They are the product's own embedded services (gateway.cli.embedded) in a temporary folder, without durability: what a
test needs of them is their behaviour, and their data ends with the session. The kernel ends them should the session
be killed.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import redis
from psycopg import sql

from heliograph.gateway.cli import embedded
from heliograph.gateway.cli.processes import spawn
from tests.support.ports import a_free_port

PATIENCE_S: Final = 60.0
_NOT_DURABLE: Final = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class Server:
    """One service as a child process. `restart` keeps its data and its address."""

    def __init__(
        self,
        service: embedded.Postgres | embedded.Redis,
        folder: Path,
        answers: Callable[[], bool],
        *extra: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.url = service.url
        self._service = service
        self._folder = folder
        self._answers = answers
        self._extra = extra
        self._environ = dict(environ or {})
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)
        service.prepare()
        self.start()

    def start(self) -> None:
        with self._service.log.open("ab") as log:
            self._child = spawn(
                [*self._service.command(), *self._extra],
                environ=embedded.service_environ() | self._environ,
                stdout=log,
                stderr=log,
                account=self._service.account,
                death_signal=signal.SIGQUIT,
            )
        wait_until(self._answers, f"{self._service.name} answers (its log: {self._service.log})")

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._child is not None:
            self._child.send_signal(number)
            self._child.wait(PATIENCE_S)
            self._child = None

    def restart(self, number: signal.Signals) -> None:
        self.stop(number)
        self.start()

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def pause(self) -> None:
        """It takes connections, by the kernel, and answers nothing until `resume`."""
        for pid in (self.pid, *self._children()):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (self.pid, *self._children()):
            os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        """PostgreSQL has a process for each connection."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def remove(self) -> None:
        atexit.unregister(self.remove)
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)


class PostgresServer(Server):
    """`fresh` makes databases; each clones `template` (a name) or is empty. `settings`: `name=value` of the server."""

    def __init__(self, *settings: str, durable: bool = False) -> None:
        folder = _folder()
        service = embedded.Postgres(folder, a_free_port(), embedded.make_secret())
        self._numbers = itertools.count(1)
        extra = [word for setting in settings for word in ("-c", setting)]
        super().__init__(service, folder, self._answers_to_us, *extra, *(() if durable else _NOT_DURABLE))

    def address(self, database: str) -> str:
        return f"{self.url.rpartition('/')[0]}/{database}"

    def _answers_to_us(self) -> bool:
        try:
            with psycopg.connect(self.address("postgres"), connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    def administer(self, statement: sql.Composed | sql.SQL) -> None:
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def fresh(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, which is dropped afterwards together with whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        self.administer(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        try:
            yield self.address(name)
        finally:
            self.administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def empty(url: str) -> None:
    """Make a migrated database as good as new: a fiftieth of the price of another one."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        tables = connection.execute(
            "SELECT relname, relispartition FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'migrations'"
        ).fetchall()
        for name, partition in tables:
            verb = "DROP TABLE {}" if partition else "DELETE FROM {}"
            connection.execute(sql.SQL(verb).format(sql.Identifier(name)))


class RedisServer(Server):
    """`secret`: two that are to take each other's place have the same."""

    def __init__(
        self,
        *flags: str,
        port: int | None = None,
        durable: bool = False,
        secret: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder = _folder()
        self.port = port or a_free_port()
        service = embedded.Redis(folder, self.port, secret or embedded.make_secret())
        extra = flags if durable else ("--appendonly", "no", *flags)
        super().__init__(service, folder, self._answers_to_us, *extra, environ=environ)

    def _answers_to_us(self) -> bool:
        try:
            self.ask("PING")
        except redis.RedisError:
            return False
        return True

    def flush(self) -> None:
        self.ask("FLUSHALL")

    def ask(self, *command: str | int) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.execute_command(*command)

    @property
    def follows(self) -> bool:
        """It has copied what its master has."""
        with redis.Redis.from_url(self.url) as client:
            return bool(client.info("replication").get("master_link_status") == "up")


def wait_until(true: Callable[[], bool], what: str, *, within_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.02)


def _folder() -> Path:
    """One that the user whom PostgreSQL runs as can enter."""
    folder = Path(tempfile.mkdtemp(prefix="heliograph-test-"))
    folder.chmod(0o711)
    (folder / "logs").mkdir()
    return folder
