"""Hundreds of messages through a whole system and four providers' real wire formats, counted at the receiving end.

SES is moto, SMTP is aiosmtpd, both HTTP ones for SMS are the strict emulators: none shares code with the product.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.main_job.counts import Api, Counting, Counts
from tests.main_job.servers import EMULATORS, Server, emulator
from tests.support.command import System
from tests.support.moto import know_sender, moto_server, recipients
from tests.support.services import wait_until

PEOPLE: Final = Path(__file__).parents[1] / "data/people.csv"
MESSAGES: Final = 300
CONFIG: Final = """
[[providers]]
name = "fast2sms"
kind = "fast2sms"
channel = "sms"
priority = 1
base_url = "{fast2sms}"
rate = 50
credentials.api_key = "fast2sms-test-key"
options.route = "q"

[[providers]]
name = "bulksms"
kind = "bulksms"
channel = "sms"
priority = 2
base_url = "{bulksms}"
rate = 50
credentials = {{ token_id = "token-id", token_secret = "token-secret" }}

[[providers]]
name = "ses"
kind = "ses"
channel = "email"
priority = 1
base_url = "{ses}"
rate = 30
sender = "Shop <orders@shop.in>"
credentials = {{ access_key_id = "AKIAEXAMPLE", secret_access_key = "example", region = "ap-south-1" }}

[[providers]]
name = "smtp"
kind = "smtp"
channel = "email"
priority = 2
host = "127.0.0.1"
port = {smtp}
tls = "none"
rate = 10
sender = "Shop <orders@shop.in>"
"""


@dataclass
class Moto:
    url: str
    name: str = "ses"

    def taken(self) -> Counter[str]:
        return recipients(self.url)

    def refused(self) -> Counter[str]:
        return Counter()


@dataclass
class Stage:
    system: System
    fast2sms: Server
    bulksms: Server
    smtp: Server
    ses: Moto
    config: Path
    csv: Path
    posted: Counter[str]
    hopeless: Counter[str]

    @property
    def servers(self) -> list[Counting]:
        return [self.fast2sms, self.bulksms, self.ses, self.smtp]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="heliograph-end-to-end-") as home:
        Path(home).chmod(0o711)
        with PEOPLE.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:MESSAGES]
        people, rejects, config = (Path(home) / name for name in ("people.csv", "rejects.txt", "job.toml"))
        with people.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        hopeless = Counter(row["to"] for row in rows if row["to"].endswith("0404"))
        rejects.write_text("\n".join(hopeless))
        servers = {}
        for name, module in (("fast2sms", EMULATORS), ("bulksms", EMULATORS), ("smtp", f"{EMULATORS}.smtp")):
            arguments = (module, *([name] if module == EMULATORS else []), f"--reject-file={rejects}")
            said = re.findall(r"(?:http|smtp)://\S+", stack.enter_context(emulator(*arguments)))
            servers[name] = (Server(name, "", arguments, said[-1]), said[0])
        ses = Moto(stack.enter_context(moto_server()))
        know_sender(ses.url, "shop.in")
        addresses = {name: said for name, (_, said) in servers.items()}
        config.write_text(CONFIG.format(**addresses | {"ses": ses.url, "smtp": addresses["smtp"].rpartition(":")[2]}))
        yield Stage(
            system=System(Path(home)), fast2sms=servers["fast2sms"][0], bulksms=servers["bulksms"][0],
            smtp=servers["smtp"][0], ses=ses, config=config, csv=people,
            posted=Counter(row["to"] for row in rows), hopeless=hopeless,
        )  # fmt: skip


def test_all_that_was_accepted_is_taken_once_or_fails_with_its_reason_and_a_redrive_mends_what_can_be(
    stage: Stage,
) -> None:
    system = stage.system
    try:
        done = system.command("up", "--port=0", f"--config={stage.config}", "--detach", "--json")
        assert done.returncode == 0, done.stderr
        running = json.loads(done.stdout)
        stage.fast2sms.be("503", times=4)  # too few for its breaker: the other one takes over for each
        stage.bulksms.be("refuse", times=10)
        system.json("providers", "pause", "ses")
        sent = system.command("send", f"--csv={stage.csv}")
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: stage.smtp.taken().total() > 0, "the other one takes what a paused provider does not")
        system.json("providers", "resume", "ses")
        api = Api(running["url"], running["api_key"])
        try:
            first = _counted_when_quiet(stage, api, running, failed_before=0)
            failed = first.of("failed")
            assert failed == first.refused
            assert failed.total() >= 10
            assert {name for name, taken in first.taken.items() if not taken} == set()
            redriven = system.json("dead-letters", "redrive", "--all", "--wait")
            assert (redriven["done"], redriven["state"]) == (failed.total(), "done")
            last = _counted_when_quiet(stage, api, running, failed_before=failed.total())
            assert last.of("failed") == stage.hopeless
            assert last.all_taken == stage.posted - stage.hopeless
            for letter in api.all("/v1/dead-letters"):
                assert (letter["reason"], letter["redrives"]) == ("rejected", 1)
        finally:
            api.close()
    finally:
        system.remove()


def _counted_when_quiet(stage: Stage, api: Api, running: dict[str, Any], *, failed_before: int) -> Counts:
    """Once all four agree: the stats and gauges may be a second old."""

    def quiet() -> bool:
        return not any(api.get("/v1/messages", state=s, limit="1")["data"] for s in ("queued", "sending", "scheduled"))

    def agree() -> bool:
        nonlocal counts
        counts = Counts.take(stage.servers, api, running["postgres_url"], running["metrics_urls"])
        counts.compare(stage.posted, failed_so_far=failed_before + counts.of("failed").total())
        return not counts.disagreements

    wait_until(quiet, "everything is sent or failed", within_s=90)
    counts: Counts | None = None
    try:
        wait_until(agree, "the counts agree", within_s=10)
    except TimeoutError:
        assert counts is not None
        assert counts.disagreements == []
    assert counts is not None
    return counts
