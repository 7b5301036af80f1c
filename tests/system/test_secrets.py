"""What is secret stays so: a system is used and misused, and then everything that others could read is searched.

Its providers are hostile: they refuse, and say back all that they were sent. Each secret is searched for as it is and
as it travels (base64, escaped).
"""

from __future__ import annotations

import base64
import json
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx

from tests.support.command import Process, System, lines_of_up
from tests.support.services import wait_until

FAST2SMS: Final = "f2s-Key/with+signs=4711"
SENDGRID: Final = "SG.sendgrid-secret-4712"
SMTP: Final = "smtp pass:word-4713"
RECEIPTS: Final = "receipt-secret-4714"
WRONG_RECEIPTS: Final = "wrong-receipt-secret-4715"
WRONG_KEY: Final = "hg_live_" + "W" * 43
BODY: Final = "the body of a message 4716"
NUMBER: Final = "+919876504717"
MAILBOX: Final = "asha4718"
CONFIG: Final = """
[[providers]]
name = "text"
kind = "fast2sms"
channel = "sms"
base_url = "{http}"
rate = 100
credentials.api_key = "{FAST2SMS}"
receipts.secret = "{RECEIPTS}"
sender = "SHOPIN"
[[providers]]
name = "mail"
kind = "smtp"
channel = "email"
host = "127.0.0.1"
port = {smtp}
tls = "none"
rate = 100
sender = "hi@shop.in"
credentials.username = "shop"
credentials.password = "{SMTP}"
[[providers]]
name = "grid"
kind = "sendgrid"
channel = "email"
base_url = "{http}"
rate = 100
sender = "hi@shop.in"
credentials.api_key = "{SENDGRID}"
"""


class SaysItBack(BaseHTTPRequestHandler):
    """Refuses, with all that it was sent, in several lines."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("utf-8", "replace")
        said = f"not with\n{self.path}\n{self.headers}\n{body}\u2028{{}}"
        text = json.dumps({"return": False, "status_code": 412, "message": said, "errors": [{"message": said}]})
        self.send_response(500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


class RefusesLogins(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 mail.example\r\n")
        while line := self.rfile.readline():
            if line.upper().startswith(b"EHLO"):
                self.wfile.write(b"250-mail.example\r\n250 AUTH PLAIN LOGIN\r\n")
            elif line.upper().startswith(b"AUTH"):
                sent = line.split()[-1]
                known = base64.b64decode(sent + b"==").replace(b"\x00", b" ")
                self.wfile.write(b"535-5.7.8 not with " + sent + b"\r\n535 5.7.8 nor with " + known + b"\r\n")
            else:
                self.wfile.write(b"221 bye\r\n")


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])  # type: ignore[index]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def a_system(**environment: str) -> Iterator[tuple[System, Process]]:
    with (
        tempfile.TemporaryDirectory(prefix="heliograph-secrets-") as home,
        served(ThreadingHTTPServer(("127.0.0.1", 0), SaysItBack)) as http,
        served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), RefusesLogins)) as smtp,
    ):
        Path(home).chmod(0o711)
        file = Path(home) / "heliograph.toml"
        file.write_text(CONFIG.format(http=f"http://127.0.0.1:{http}", smtp=smtp, **globals()))
        file.chmod(0o600)
        system = System(Path(home))
        process = system.up("--config", str(file), "--supervisors", "2", **environment)
        try:
            yield system, process
        finally:
            process.remove()
            system.remove()


def as_it_travels(secret: str) -> set[str]:
    forms = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
    return forms | {base64.b64encode(form.encode()).decode().rstrip("=") for form in (secret, f"\0shop\0{secret}")}


def found(secrets: dict[str, str], text: str) -> list[str]:
    return [name for name, secret in secrets.items() if any(form in text for form in as_it_travels(secret))]


class Use:
    """Uses and misuses a system, and keeps all of its answers."""

    def __init__(self, url: str, key: str) -> None:
        self.answers: list[str] = []
        self.client = httpx.Client(base_url=url, timeout=20)
        self.key = {"Authorization": f"Bearer {key}"}
        self.ids: list[str] = []

    def ask(self, method: str, path: str, **how: object) -> httpx.Response:
        answer = self.client.request(method, path, **how)  # type: ignore[arg-type]
        self.answers.append(f"{answer.headers}\n{answer.text}")
        return answer

    def send(self) -> None:
        for message in (
            {"channel": "sms", "to": NUMBER, "text": BODY},
            {"channel": "email", "to": f"{MAILBOX}@shop.in", "subject": BODY, "text": BODY, "providers": ["mail"]},
            {"channel": "email", "to": f"{MAILBOX}@shop.in", "subject": BODY, "text": BODY, "providers": ["grid"]},
        ):
            answer = self.client.post("/v1/messages", json=message, headers=self.key)
            assert answer.status_code == 202, answer.text
            self.ids.append(answer.json()["id"])
        for id_ in self.ids:
            wait_until(lambda id_=id_: self.attempts(id_) != [], f"{id_} was tried")

    def attempts(self, message: str) -> list[dict[str, object]]:
        answer: list[dict[str, object]] = self.client.get(f"/v1/messages/{message}", headers=self.key).json()[
            "attempts"
        ]
        return answer

    def misuse(self) -> None:
        for headers in (
            {"Authorization": f"Bearer {WRONG_KEY}"},
            {"X-API-Key": WRONG_KEY},
            {"Authorization": "Basic x"},
        ):
            assert self.ask("GET", "/v1/messages", headers=headers).status_code == 401
        assert self.ask("GET", f"/v1/messages?api_key={WRONG_KEY}", headers=self.key).status_code == 422
        assert self.ask("POST", "/console/login", data={"key": WRONG_KEY}).status_code == 401
        assert self.ask("GET", f"/console/login?code={WRONG_KEY}").status_code == 401
        for secret, status in ((WRONG_RECEIPTS, 401), (RECEIPTS, 200)):
            path = f"/v1/receipts/text?secret={quote(secret)}"
            assert self.ask("POST", path, json={"request_id": BODY}).status_code == status
        self.ask("POST", f"/v1/receipts/text?secret={RECEIPTS}", content=b"\xff{")
        self.ask("POST", "/v1/messages", content=f'{{"text": "{BODY}"', headers=self.key)
        self.ask("POST", "/v1/messages", json={"channel": "sms", "to": "x", BODY: 1}, headers=self.key)
        self.ask("GET", f"/v1/nowhere/{WRONG_KEY}", headers=self.key)

    def read_all(self) -> None:
        for path in ("/v1/providers", "/v1/providers?view=supervisors", "/v1/stats", "/v1/keys", "/v1/dead-letters",
                     "/readyz", "/openapi.json", *(f"/v1/messages/{id_}" for id_ in self.ids)):  # fmt: skip
            assert self.ask("GET", path, headers=self.key).status_code == 200
        assert self.ask("POST", "/console/login", data={"key": self.key["Authorization"].split()[1]}).status_code == 303
        for path in (
            "/console",
            "/console/messages",
            "/console/providers",
            *(f"/console/messages/{i}" for i in self.ids),
        ):
            assert self.ask("GET", path).status_code == 200


def test_no_secret_is_where_others_could_read_it() -> None:
    with a_system(HELIOGRAPH_LOG__FORMAT="json", HELIOGRAPH_LOG__LEVEL="debug") as (system, up):
        url, key, console, _ = lines_of_up(up)
        running = system.running()
        kept = json.loads((system.folder.path / "secrets.json").read_text())
        secrets = {
            "fast2sms": FAST2SMS, "sendgrid": SENDGRID, "smtp": SMTP, "receipts": RECEIPTS, "key": key,
            "wrong receipts": WRONG_RECEIPTS, "wrong key": WRONG_KEY, "postgres": kept["postgres_password"],
            "redis": kept["redis_password"], "login": console.partition("code=")[2],
        }  # fmt: skip
        content = {"body": BODY, "number": NUMBER, "mailbox": MAILBOX}
        use = Use(url, key)
        with use.client:
            use.send()
            use.misuse()
            use.read_all()
            made = use.client.post("/v1/keys", json={"name": "another"}, headers=use.key).json()
            secrets["made"] = made["key"]
            assert use.client.get("/v1/keys", headers={"X-API-Key": made["key"]}).status_code == 200
        assert refused_after_s(system, url, made["id"], made["key"]) < 5
        configured = ["--config", str(system.home / "heliograph.toml")]
        urls = {
            "HELIOGRAPH_POSTGRES__URL": running.postgres_url, "HELIOGRAPH_REDIS__URL": running.redis_url,
        }  # fmt: skip
        shown = system.command("config", "show", "--origin", *configured, **urls)
        checked = system.command("check", *configured, **urls)
        assert "fast2sms" in shown.stdout
        metrics = "\n".join(httpx.get(address).text for address in running.metrics_urls)
        assert 'provider="grid"' in metrics
        logs = "\n".join(up.errors) + "".join(
            file.read_text(errors="replace") for file in (system.folder.path / "logs").iterdir()
        )
        assert len(logs) > 1000

        assert found(secrets, "\n".join(use.answers)) == []
        assert found({**secrets, **content}, logs) == []
        assert found({**secrets, **content}, metrics) == []
        assert found(secrets, shown.stdout + shown.stderr + checked.stdout + checked.stderr) == []
        assert found(secrets, commands_of(up.child.pid)) == []
        assert found(secrets, environments_of_others(up.child.pid)) == []
        assert readable_by_others(system.folder.path) == []
        assert [line for line in up.errors if line and not is_an_event(line)] == []
        assert any("provider." in line for line in up.errors)


def refused_after_s(system: System, url: str, key_id: str, secret: str) -> float:
    """How long a running gateway takes a key, over one connection, after the command that revoked it has ended."""
    with httpx.Client(base_url=url, headers={"X-API-Key": secret}, timeout=20) as client:
        assert client.get("/v1/keys").status_code == 200
        done = system.command("keys", "revoke", key_id)
        assert done.returncode == 0, done.stderr
        revoked_s = time.monotonic()
        wait_until(lambda: client.get("/v1/keys").status_code == 401, "the revoked key is refused")
        return time.monotonic() - revoked_s


def is_an_event(line: str) -> bool:
    """A line of ours for people is told from an event by its beginning."""
    return line.startswith("heliograph: ") or "event" in json.loads(line)


def with_descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def commands_of(pid: int) -> str:
    """What every user of the machine can read of our processes."""
    family = with_descendants(pid)
    assert len(family) >= 5  # up, two supervisors, Redis, PostgreSQL and what it starts
    return "\n".join(
        (Path(f"/proc/{member}") / name).read_text(errors="replace")
        for member in family for name in ("cmdline", "comm") if Path(f"/proc/{member}").exists()
    )  # fmt: skip


def environments_of_others(pid: int) -> str:
    """Of those of our processes that run as somebody else, or were started from a wheel: theirs need no secret."""
    found = []
    for member in with_descendants(pid):
        command = Path(f"/proc/{member}/cmdline").read_text(errors="replace")
        if "postgres" in command or "redis-server" in command:
            found.append(Path(f"/proc/{member}/environ").read_text(errors="replace"))
    assert found
    return "\n".join(found)


def readable_by_others(folder: Path) -> list[str]:
    """Files that another user could open; those of a folder that nobody else enters are none."""
    open_to = []
    for path in folder.iterdir():
        mode = path.stat().st_mode
        if mode & 0o077 and path.is_file() and path.name not in ("lock", "ports.json"):
            open_to.append(path.name)
        if path.is_dir() and mode & 0o077 and path.name != "postgres":
            open_to.append(path.name)
    return open_to
