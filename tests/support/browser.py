"""A real Chromium, Debian's, that tells everything it asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Watched:
    """A page with what it asked for, and what its console complained about."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def tab_to(self, name: str, *, most: int = 120) -> None:
        """Press Tab until what has the focus is called so."""
        seen = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            focused = self.page.evaluate(
                "() => { const e = document.activeElement;"
                " return (e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText || '').trim() }"
            )
            if focused.startswith(name):
                return
            seen.append(focused)
        raise AssertionError(f"no Tab leads to {name!r}; it leads to {seen}")

    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.asked if not url.startswith("data:")}


@contextmanager
def chromium() -> Iterator[Browser]:
    """AssertionError names the package where it is missing."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def a_page(browser: Browser, **options: Any) -> Iterator[Watched]:
    """In a context of its own, so without any cookie."""
    context = browser.new_context(**options)
    watched = Watched(context.new_page())
    context.on("request", lambda request: watched.asked.append(request.url))
    watched.page.on(
        "console", lambda said: watched.complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    yield watched
    context.close()
