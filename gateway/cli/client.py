"""Talking to the API: which system is meant, and what its errors mean to the one at the terminal.

Meant is what `--url` and `--api-key` say, else HELIOGRAPH_URL and HELIOGRAPH_API_KEY, else what `up` runs from
./.heliograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from heliograph.gateway.cli.output import CommandFailed, CommandMisused
from heliograph.gateway.cli.state import DEFAULT_FOLDER, Folder

if TYPE_CHECKING:
    import httpx  # it takes a third of a second to load, which `--help` need not wait for

TIMEOUT_S: Final = 30.0

UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="HELIOGRAPH_URL", help="Of the gateway; else what `up` runs here.")
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="HELIOGRAPH_API_KEY", help="Else the key of what `up` runs here.")
]


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    api_key: str

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


def target(url: str | None, api_key: str | None) -> Target:
    """Raises CommandMisused where nothing says which system, or with which key."""
    if url and api_key:
        return Target(_checked(url), api_key)
    running = Folder(DEFAULT_FOLDER).running()
    if running is None or not running.url:
        missing = "--api-key (or HELIOGRAPH_API_KEY)" if url else "--url (or HELIOGRAPH_URL)"
        raise CommandMisused(
            f"{missing} is missing, and nothing runs from ./{DEFAULT_FOLDER}; `heliograph up` starts it"
        )
    if url and _checked(url) != running.url:
        raise CommandMisused("--api-key (or HELIOGRAPH_API_KEY) is missing")
    return Target(running.url, api_key or running.api_key)


def _checked(url: str) -> str:
    parsed = urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise CommandMisused("--url (or HELIOGRAPH_URL) should be like http://127.0.0.1:8080")
    return url.rstrip("/")


class Client:
    """One call after the other. Raises CommandFailed with the API's own words."""

    def __init__(self, where: Target) -> None:
        import httpx

        self._where = where
        self._http = httpx.Client(
            base_url=where.url, headers=where.headers(), timeout=TIMEOUT_S, trust_env=False, follow_redirects=False
        )

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        return self._call("GET", path, params={k: str(v) for k, v in (query or {}).items() if v is not None})

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        return self._call("POST", path, json={k: v for k, v in (body or {}).items() if v is not None})

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        import httpx

        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise CommandFailed(no_answer(self._where.url, error)) from error
        if answer.is_success:
            return answer.json()
        raise CommandFailed(refusal(answer))

    def pages(self, path: str, query: Mapping[str, object], *, most: int) -> Iterator[dict[str, Any]]:
        """The list's items, over as many pages as it takes."""
        cursor: object = query.get("cursor")
        while most > 0:
            page = self.get(path, {**query, "cursor": cursor, "limit": min(most, 200)})
            yield from page["data"]
            most -= len(page["data"])
            cursor = page["next_cursor"]
            if not page["has_more"]:
                return


def no_answer(url: str, error: httpx.TransportError) -> str:
    import httpx

    what = "no answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
    return f"{url}: {what}; is it running?"


def refusal(answer: httpx.Response) -> str:
    """A problem in words: `422 invalid: … ` and a line for each fault of the body."""
    try:
        return problem_text(answer.json(), answer.status_code)
    except (ValueError, AttributeError):
        return f"{answer.status_code} {answer.reason_phrase}"


def problem_text(problem: Mapping[str, Any], status: int | None = None) -> str:
    head = " ".join(str(part) for part in (problem.get("status", status), problem.get("code")) if part)
    lines = [f"{head}: {problem.get('detail') or problem.get('title') or 'refused'}"]
    lines += [f"  {error.get('pointer', '')}: {error.get('detail', '')}" for error in problem.get("errors") or []]
    return "\n".join(lines)
