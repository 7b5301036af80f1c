"""The data folder of `up`, `.heliograph` by default: its lock, what is kept in it, and who runs from it now.

    lock             held while an `up` runs; gone after it
    secrets.json     passwords of the embedded services and the development key; 0600
    ports.json       the ports of the last run, used again where they are free
    up.json          what runs now: addresses, key, processes; 0600; gone after it
    postgres/ redis/ logs/

Commands on the API read `up.json` to find the system they talk to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from heliograph.actors.model.errors import HeliographError
from heliograph.gateway.cli.processes import Identity

DEFAULT_FOLDER: Final = Path(".heliograph")


class AlreadyRunning(HeliographError):
    """Another `up` runs from this folder; `heliograph down` stops it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What an `up` says of itself. `url` is empty until it is ready."""

    owner: Identity
    children: Mapping[str, Identity] = field(default_factory=dict)
    url: str = ""
    api_key: str = ""
    console_url: str = ""
    metrics_urls: tuple[str, ...] = ()
    postgres_url: str = ""
    redis_url: str = ""

    def public(self) -> dict[str, object]:
        """As `up --detach --json` prints it."""
        names = ("url", "api_key", "console_url", "metrics_urls", "postgres_url", "redis_url")
        return {name: getattr(self, name) for name in names}


class Folder:
    """One data folder. Nothing here blocks but on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def make(self) -> None:
        """PostgreSQL's user, where that is another one, passes through to its own data and reads nothing else."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HeliographError(f"{self.path} cannot be used: {error.strerror}; --data-dir names another") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held by one process at a time; the system frees it when that dies. Raises AlreadyRunning."""
        path = self.path / "lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                running = self.running()
                who = f" (process {running.owner.pid})" if running else ""
                text = f"already running from {self.path}{who}; `heliograph down` stops it"
                raise AlreadyRunning(text) from None
            # The last owner may have removed the file between our two calls: then this is a lock on nothing.
            if _same_file(descriptor, path):
                break
            os.close(descriptor)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def running(self) -> Running | None:
        """What runs from this folder now, ready or not."""
        found = self.left()
        return found if found and found.owner.alive() else None

    def left(self) -> Running | None:
        """What the last `up` said, which may have been killed since."""
        raw = self._read("up.json")
        try:
            owner = Identity(**raw.pop("owner"))
            children = {name: Identity(**child) for name, child in raw.pop("children").items()}
            return Running(owner=owner, children=children, **{**raw, "metrics_urls": tuple(raw["metrics_urls"])})
        except (KeyError, TypeError, AttributeError):
            return None

    def say(self, running: Running) -> None:
        self._write("up.json", asdict(running))

    def forget(self) -> None:
        (self.path / "up.json").unlink(missing_ok=True)

    def secrets(self) -> dict[str, str]:
        return self._read("secrets.json")

    def keep_secrets(self, values: Mapping[str, str]) -> None:
        self._write("secrets.json", dict(values))

    def ports(self) -> dict[str, int]:
        return self._read("ports.json")

    def keep_ports(self, values: Mapping[str, int]) -> None:
        self._write("ports.json", dict(values))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, name: str, value: object) -> None:
        """Whole or not at all, readable by us only."""
        descriptor, fresh = tempfile.mkstemp(dir=self.path, prefix=name)
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file, indent=1)
        Path(fresh).replace(self.path / name)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class Register:
    """The living record of one `up`: each change is on disk before the next step."""

    def __init__(self, folder: Folder, owner: Identity) -> None:
        self._folder = folder
        self.running = Running(owner=owner)
        folder.say(self.running)

    def child(self, name: str, process: Identity | None) -> None:
        others = {other: known for other, known in self.running.children.items() if other != name}
        self.update(children=others | ({name: process} if process else {}))

    def update(self, **changes: Any) -> None:
        self.running = replace(self.running, **changes)
        self._folder.say(self.running)
