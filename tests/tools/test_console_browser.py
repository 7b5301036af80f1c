"""The console in a real browser over a real system: by keyboard, without scripts, by axe, and from one host alone."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from heliograph.gateway.cli.state import Running
from tests.support.browser import Watched, a_page, chromium
from tests.support.command import System
from tests.support.services import wait_until

pytestmark = pytest.mark.tools

REFUSED: Final = 60
PHONE: Final = {"viewport": {"width": 390, "height": 844}}
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
}


class Console:
    """A system that runs, and what the tests ask its API."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._http = httpx.Client(base_url=running.url, headers={"X-API-Key": running.api_key}, timeout=30)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def url(self, path: str = "") -> str:
        return f"{self.running.url}/console{path}"

    def get(self, path: str, **query: str) -> Any:
        answer = self._http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, to: str, tag: str) -> str:
        body = {"channel": "email", "to": to, "subject": "Hello", "text": "Hello", "tags": [tag]}
        answer = self._http.post("/v1/messages", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def suppress(self, to: str) -> None:
        answer = self._http.post("/v1/suppressions", json={"channel": "email", "to": to})
        assert answer.status_code in (200, 201), answer.text

    def refused(self, tag: str, count: int) -> list[str]:
        """So many dead letters with this tag."""
        ids = [self.post("rejected@shop.in", tag) for _ in range(count)]
        wait_until(lambda: self.open_letters(tag) == count, "all are dead letters")
        return ids

    def open_letters(self, tag: str) -> int:
        return sum(group["count"] for group in self.get("/v1/dead-letters/groups", tag=tag)["data"])


@pytest.fixture(scope="module")
def console() -> Iterator[Console]:
    with tempfile.TemporaryDirectory(prefix="heliograph-console-") as home:
        Path(home).chmod(0o711)
        system = System(Path(home))
        done = system.command("up", "--port", "0", "--detach")
        assert done.returncode == 0, done.stderr
        with Console(system.running()) as made:
            yield made
        system.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture
def watched(console: Console, browser: Browser, options: dict[str, Any]) -> Iterator[Watched]:
    """Logged in. At the end: all that was asked for came from us, and nothing was complained about."""
    with a_page(browser, **options) as opened:
        opened.page.goto(console.url("/login"))
        opened.page.get_by_label("API key").fill(console.running.api_key)
        opened.page.get_by_role("button", name="Log in").click()
        expect(opened.page.get_by_role("heading", name="Overview")).to_be_visible()
        yield opened
        assert opened.hosts() == {httpx.URL(console.running.url).netloc.decode()}
        assert opened.complaints == []


def test_a_whole_redrive_with_tab_arrows_and_enter(console: Console, browser: Browser) -> None:
    console.refused("keyboard", REFUSED)
    with a_page(browser) as watched:
        page, keyboard = watched.page, watched.page.keyboard
        page.goto(console.running.console_url)  # as `up` printed it
        expect(page).to_have_url(console.url())
        watched.tab_to("Dead letters")
        keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Dead letters")).to_be_visible()
        watched.tab_to("the recipient asks to be refused")
        keyboard.press("Enter")
        expect(page.get_by_role("heading", name="the recipient asks to be refused")).to_be_visible()
        watched.tab_to("the selected")
        keyboard.press("ArrowDown")
        expect(page.get_by_label(f"all {REFUSED} that match")).to_be_checked()
        watched.tab_to("Redrive…")
        keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"Redrive {REFUSED} of {REFUSED}")).to_be_visible()
        watched.tab_to(f"Redrive {REFUSED}")
        keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"Redrive of {REFUSED}")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text(
            f"The redrive is done: {REFUSED} done, 0 failed, 0 skipped.", timeout=30_000
        )
        watched.tab_to("Back to the dead letters")
        keyboard.press("Enter")
        expect(page).to_have_url(re.compile(r"/console/dead-letters\?.*cause="))  # the filter is still there
        assert watched.hosts() == {httpx.URL(console.running.url).netloc.decode()}
        assert watched.complaints == []
    wait_until(lambda: console.open_letters("keyboard") == REFUSED, "they fail again, with their reason")
    [sample] = console.get("/v1/dead-letters", tag="keyboard", limit="1")["data"]
    assert (sample["redrives"], sample["attempt_count"], sample["reason"]) == (1, 2, "rejected")


def test_the_code_that_up_prints_logs_in_once(console: Console, browser: Browser) -> None:
    """The test before has used it."""
    with a_page(browser) as watched:
        watched.page.goto(console.running.console_url)
        expect(watched.page.get_by_role("alert")).to_contain_text("used before")
        expect(watched.page.get_by_label("API key")).to_be_focused()


@pytest.mark.parametrize("options", [{"java_script_enabled": False}])
def test_without_scripts_one_logs_in_selects_and_redrives(console: Console, watched: Watched) -> None:
    ids = console.refused("no-script", 3)
    page = watched.page
    page.goto(console.url("/dead-letters/list?tag=no-script"))
    for chosen in ids[:2]:
        page.get_by_label(f"Select {chosen}").check()
    page.get_by_role("button", name="Redrive…").click()
    page.get_by_label("Why").fill("tried without scripts")
    page.get_by_role("button", name="Redrive 2").click()
    expect(page.get_by_text("2 done, 0 failed, 0 skipped, of 2")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Back to the dead letters").click()
    expect(page).to_have_url(console.url("/dead-letters?tag=no-script"))


@pytest.mark.parametrize("options", LOOKS.values(), ids=LOOKS.keys())
def test_axe_finds_nothing_serious_on_any_page(console: Console, watched: Watched) -> None:
    [message] = console.refused("axe", 1) if not console.open_letters("axe") else [_id_of(console, "axe")]
    console.suppress("asha@shop.in")
    page = watched.page
    found = {}

    def look(name: str) -> None:
        violations = Axe().run(page).response["violations"]
        serious = [v for v in violations if v["impact"] in ("serious", "critical")]
        found[name] = [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in serious]

    for path in (
        "",
        "/dead-letters",
        "/dead-letters/list?tag=axe",
        f"/messages/{message}",
        "/messages",
        "/providers",
        "/suppressions",
    ):
        page.goto(console.url(path))
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        look(path)
    page.goto(console.url("/dead-letters/list?tag=axe"))
    page.get_by_label(f"Select {message}").check()
    page.get_by_role("button", name="Redrive…").click()
    look("review")
    page.get_by_role("button", name="Redrive 1").click()
    expect(page.get_by_role("status")).to_contain_text("done", timeout=30_000)
    look("operation")
    page.goto(console.url("/operations"))
    look("operations")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    look("help")
    page.goto(console.url("/login"))
    look("login")
    wait_until(lambda: console.open_letters("axe") == 1, "it failed again")
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert len(found) == 12


def _id_of(console: Console, tag: str) -> str:
    return str(console.get("/v1/dead-letters", tag=tag)["data"][0]["id"])


def test_a_recipient_is_suppressed_and_released_by_keyboard_alone(console: Console, watched: Watched) -> None:
    page = watched.page
    page.goto(console.url("/suppressions?to=keyboard@shop.in"))
    summary = page.locator("summary", has_text="Add a recipient")
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # the channel: email
    page.keyboard.press("Tab")
    page.keyboard.type("keyboard@shop.in")
    page.keyboard.press("Enter")
    remove = page.get_by_role("button", name="Write to k•••@shop.in again")
    expect(remove).to_be_visible()
    remove.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(console.url("/suppressions"))
    assert console.get("/v1/suppressions", to="keyboard@shop.in")["data"] == []


def test_numbers_change_by_themselves_and_can_be_stopped(console: Console, watched: Watched) -> None:
    page = watched.page
    failed = page.locator('[data-cell="email-failed"]')
    before = int(failed.inner_text())
    console.refused("live", 1)
    expect(failed).to_have_text(str(before + 1))
    page.keyboard.press("p")
    expect(page.get_by_role("button", name="Pause live numbers")).to_have_attribute("aria-pressed", "true")
    console.refused("live-2", 1)
    page.reload()
    expect(failed).to_have_text(str(before + 2))


def test_keys_search_step_open_and_explain_themselves(console: Console, watched: Watched) -> None:
    ids = console.refused("keys", 3)
    page = watched.page
    page.goto(console.url("/dead-letters/list"))
    page.keyboard.press("/")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    page.keyboard.type("tag:keys")
    page.keyboard.press("Enter")
    expect(page).to_have_url(console.url("/dead-letters/list?tag=keys"))
    expect(page.locator("[data-row]")).to_have_count(3)
    for key in "jjkj":
        page.keyboard.press(key)
    page.keyboard.press("x")
    expect(page.get_by_label(f"Select {ids[1]}")).to_be_checked()
    expect(page.locator("[data-selected-count]")).to_have_text("(1)")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/console/messages/{ids[1]}$"))


def test_select_all_takes_the_page_and_the_choice_follows(console: Console, watched: Watched) -> None:
    console.refused("select", 3)
    page = watched.page
    page.goto(console.url("/dead-letters/list?tag=select"))
    page.get_by_label("all 3 that match").check()
    page.get_by_label("Select all on this page").check()
    expect(page.locator("[data-selected-count]")).to_have_text("(3)")
    expect(page.get_by_label("the selected")).to_be_checked()


@pytest.mark.parametrize("options", [{"permissions": ["clipboard-read", "clipboard-write"]}])
@pytest.mark.parametrize("interface", [True, False], ids=["clipboard", "as over plain HTTP"])
def test_a_command_is_copied(console: Console, watched: Watched, interface: bool) -> None:
    [message] = console.refused("copy", 1)
    page = watched.page
    page.goto(console.url(f"/messages/{message}"))
    page.evaluate("navigator.clipboard.writeText('something else')")
    if not interface:
        page.evaluate("navigator.clipboard.writeText = undefined")
    page.get_by_text("The same for programs").click()
    page.get_by_role("button", name="Copy as command").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"heliograph messages show {message}"


def test_a_form_that_another_site_sends_does_nothing(console: Console, watched: Watched) -> None:
    page = watched.page
    page.route("http://elsewhere.example/", lambda route: route.fulfill(
        content_type="text/html",
        body=f'<form method="post" action="{console.url("/providers/sandbox-email/pause")}">'
        '<input name="duration" value="1h"></form><script>document.forms[0].submit()</script>',
    ))  # fmt: skip
    page.goto("http://elsewhere.example/")
    page.wait_for_url(console.url("/providers/sandbox-email/pause"))
    expect(page.get_by_role("heading", name="This form came from elsewhere")).to_be_visible()
    assert [p["paused"] for p in console.get("/v1/providers")["data"]] == [None, None]
    watched.asked[:] = [url for url in watched.asked if "elsewhere.example" not in url]
    watched.complaints.clear()  # the refusal itself
