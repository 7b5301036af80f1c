from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import expect

from tests.main_job.counts import Api, Counts
from tests.main_job.servers import ROOT, SERVERS, Server, running
from tests.support.browser import a_page, chromium
from tests.support.command import COMMAND, environment

CONFIG: Final = ROOT / "tests/data/main-job.toml"
PEOPLE: Final = ROOT / "tests/data/people.csv"
DOWN_S: Final = 60.0
REFUSING_S: Final = 10.0
QUIET_WITHIN_S: Final = 600.0
PATIENCE_S: Final = 300.0
LIVE: Final = ("scheduled", "queued", "sending")


class Job:
    def __init__(self, home: Path, picture: Path | None) -> None:
        self._home = home
        self._picture = picture
        self._began_s = time.monotonic()
        self._posted = _recipients()
        self._hopeless = Counter({to: n for to, n in self._posted.items() if _is_refused(to)})
        self.disagreements: list[str] = []

    def run(self) -> None:
        rejects = self._home / "rejects.txt"
        rejects.write_text("\n".join(self._hopeless))
        self._say(
            f"{PEOPLE.name}: {self._posted.total()} messages, {self._hopeless.total()} of them to recipients that are "
            "refused"
        )
        with running(SERVERS, rejects):
            self._say("receiving servers on loopback: " + ", ".join(server.name for server in SERVERS))
            with self._system() as running_now:
                api = Api(running_now["url"], running_now["api_key"])
                try:
                    self._deliver(api)
                    first = self._count(api, running_now, failed_before=0)
                    self._show_causes(api)
                    self._redrive(running_now, first.of("failed").total())
                    self._wait_for_quiet(api)
                    last = self._count(api, running_now, failed_before=first.of("failed").total())
                    self._show_causes(api)
                    self._check_end(api, last)
                finally:
                    api.close()

    # ------------------------------------------------------------------------------------------- the run

    @contextmanager
    def _system(self) -> Iterator[dict[str, Any]]:
        shown = CONFIG.relative_to(ROOT)
        done = self._command(
            f"up --config {shown} --detach", "up", "--port=0", f"--config={CONFIG}", "--detach", "--json"
        )
        try:
            yield json.loads(done)
        finally:
            self._command("down", "down")

    def _deliver(self, api: Api) -> None:
        by_name = {server.name: server for server in SERVERS}
        self._say(f"$ heliograph send --csv {PEOPLE.relative_to(ROOT)}")
        sending = subprocess.Popen(
            [*COMMAND, "send", f"--csv={PEOPLE}"], cwd=self._home, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = [by_name["fast2sms"], by_name["sendgrid"]]
        _until(lambda: all(s.taken().total() >= 50 for s in first), "the first messages arrive", 120)
        with self._trouble(first, lambda server: server.down, f"answer 503 for {DOWN_S:g} s"):
            said, told = sending.communicate(timeout=PATIENCE_S)
            self._say(f"{told.strip()} ({len(said.splitlines())} lines, exit {sending.returncode})")
            if sending.returncode != 0:
                self.disagreements.append(f"send ended with {sending.returncode}: {told}")
            self._sleep_until(self._trouble_began_s + DOWN_S)
        before = by_name["fast2sms"].taken().total()
        _until(lambda: by_name["fast2sms"].taken().total() > before + 20, "fast2sms is asked again", 120)
        self._say("fast2sms is asked again: its breaker has closed")
        both = [server for server in SERVERS if server.channel == "sms"]
        with self._trouble(both, lambda _: "refuse", f"refuse everything for good for {REFUSING_S:g} s"):
            self._sleep_until(self._trouble_began_s + REFUSING_S)
        self._wait_for_quiet(api)

    @contextmanager
    def _trouble(self, servers: list[Server], mode: Callable[[Server], str], what: str) -> Iterator[None]:
        names = " and ".join(server.name for server in servers)
        self._say(f"{names} {what}")
        for server in servers:
            server.be(mode(server))
        self._trouble_began_s = time.monotonic()
        yield
        for server in servers:
            server.be("ok")
        self._say(f"{names} are well again")

    def _wait_for_quiet(self, api: Api) -> None:
        def quiet() -> bool:
            stats = api.get("/v1/stats")
            waiting = sum(states[state] for states in stats["messages"].values() for state in LIVE)
            return not waiting and not any(queue["depth"] for queue in stats["queues"])

        _until(lambda: quiet() and (time.sleep(2) or quiet()), "everything is sent or failed", QUIET_WITHIN_S)
        self._say("quiet: nothing waits any more")

    def _redrive(self, running_now: dict[str, Any], count: int) -> None:
        """As a person would: by the address that `up` printed, the groups, `Redrive…`, the dry run, the progress."""
        with chromium() as browser, a_page(
            browser, viewport={"width": 1280, "height": 600}, device_scale_factor=1.5
        ) as watched:  # fmt: skip
            page = watched.page
            page.goto(running_now["console_url"])
            page.get_by_role("link", name="Dead letters", exact=True).click()
            expect(page.locator("[data-row]").first).to_be_visible()
            if self._picture is not None:
                self._picture.parent.mkdir(exist_ok=True)
                page.screenshot(path=self._picture)
                self._say(f"the console at this moment: {_shown(self._picture)}")
            page.get_by_role("button", name="Redrive…").click()
            shown = page.get_by_role("heading", level=1).inner_text()
            self._say(f"console, dry run: “{shown}”")
            if shown != f"Redrive {count:,} of {count:,}":
                self.disagreements.append(f"the console offers “{shown}”, and {count} failed")
            page.get_by_label("Why").fill("the main job: both providers are well again")
            page.get_by_role("button", name=f"Redrive {count:,}").click()
            expect(page.get_by_role("status")).to_contain_text("is done", timeout=QUIET_WITHIN_S * 1000)
            self._say(f"console: “{page.get_by_role('status').text_content()}”")
            ours = {running_now["url"].removeprefix("http://")}
            if watched.hosts() != ours or watched.complaints:
                self.disagreements.append(f"the console asked {watched.hosts()} and complained {watched.complaints}")

    # ---------------------------------------------------------------------------------------- the counts

    def _count(self, api: Api, running_now: dict[str, Any], *, failed_before: int) -> Counts:
        counts = Counts.take(SERVERS, api, running_now["postgres_url"], running_now["metrics_urls"])
        failed = counts.of("failed")
        counts.compare(self._posted, failed_so_far=failed_before + failed.total())
        for line in counts.table():
            self._say(line)
        self.disagreements += counts.disagreements
        for fault in counts.disagreements:
            self._say(f"DISAGREEMENT: {fault}")
        if not counts.disagreements:
            self._say("all four agree to the message")
        return counts

    def _show_causes(self, api: Api) -> None:
        self._say("dead letters by cause:")
        for group in api.get("/v1/dead-letters/groups")["data"]:
            where = f"{group['channel']} {group['provider']} {group['reason']} {group['code']}"
            self._say(f"  {group['count']:>5}  {where}: {group['cause']}")

    def _check_end(self, api: Api, last: Counts) -> None:
        """All but the hopeless ones were delivered, once each, and those failed again with their reason."""
        if last.of("failed") != self._hopeless:
            self.disagreements.append(f"{last.of('failed').total()} failed at the end, not just the refused ones")
        if last.all_taken != self._posted - self._hopeless:
            self.disagreements.append("the servers did not take each of the other recipients' messages once")
        wrong = [
            letter["id"]
            for letter in api.all("/v1/dead-letters")
            if (letter["reason"], letter["redrives"]) != ("rejected", 1) or not letter["detail"]
        ]
        if wrong:
            self.disagreements.append(f"{len(wrong)} dead letters lack their reason, such as {wrong[0]}")
        if not self.disagreements:
            self._say(
                f"{last.all_taken.total()} delivered, each once; {self._hopeless.total()} refused twice, with their "
                "reason; nothing lost, nothing doubled"
            )

    # ------------------------------------------------------------------------------------------- helpers

    def _command(self, shown: str, *arguments: str) -> str:
        self._say(f"$ heliograph {shown}")
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self._home, env=environment(), capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"heliograph {shown} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def _sleep_until(self, moment_s: float) -> None:
        time.sleep(max(0.0, moment_s - time.monotonic()))

    def _say(self, text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self._began_s:6.1f} s] {text}\n")
        sys.stdout.flush()


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _recipients() -> Counter[str]:
    with PEOPLE.open(newline="", encoding="utf-8") as file:
        return Counter(row["to"] for row in csv.DictReader(file))


def _is_refused(to: str) -> bool:
    return to.startswith("refused") if "@" in to else to.endswith("0404")


def _until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not within {within_s:g} s: {what}")
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.main_job")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/console.png", help="where the console's goes")
    parser.add_argument("--no-picture", dest="picture", action="store_const", const=None)
    arguments = parser.parse_args()
    if shutil.which("chromium") is None:
        raise SystemExit("chromium is missing; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="heliograph-main-job-") as home:
        Path(home).chmod(0o711)
        job = Job(Path(home), arguments.picture)
        job.run()
    for fault in job.disagreements:
        sys.stderr.write(f"main job: {fault}\n")
    return 1 if job.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
