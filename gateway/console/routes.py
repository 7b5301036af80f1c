"""The console as one blueprint: who may come in, which page answers, and in what form.

Pages are made here on the server and work without scripts. Everything they load is ours. A form that another site
sends is refused: browsers say where a request comes from (`Sec-Fetch-Site`, else `Origin`), and the cookie is
SameSite=Strict besides. What says neither is no browser of our time and brings no cookie against its owner's will.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import trio
from quart import Blueprint, Response, g, request
from werkzeug.datastructures import MultiDict

from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.actors.model.errors import HeliographError, LedgerDown
from heliograph.gateway.api.reading import refused
from heliograph.gateway.api.routing import Shared
from heliograph.gateway.api.schemas import MOST_IDS
from heliograph.gateway.api.stats import EVERY_S, STREAM_HEADERS
from heliograph.gateway.console import dead_letters, messages, operations, overview, providers, suppressions
from heliograph.gateway.console.filters import first_of_each
from heliograph.gateway.console.passes import SESSION_LIFE
from heliograph.gateway.console.rendering import Renderer, static_files
from heliograph.gateway.console.sessions import COOKIE, Sessions
from heliograph.gateway.console.visit import Moved, Page, View, Visit
from heliograph.gateway.limits import MOST_STREAMS, BoundedBody
from heliograph.gateway.problems import MEANINGS, Code, Fault, Refusal, Refused, refusal_of, unavailable
from heliograph.gateway.services import Services

VIEWS: Final = (
    *overview.VIEWS, *dead_letters.VIEWS, *messages.VIEWS, *suppressions.VIEWS, *operations.VIEWS, *providers.VIEWS,
)  # fmt: skip
HOME: Final = "/console"
LOGIN: Final = f"{HOME}/login"
MENU: Final = (
    ("Overview", HOME, ()),
    ("Dead letters", dead_letters.HERE, dead_letters.READ),
    ("Messages", messages.HERE, (ScopeName.MESSAGES_READ,)),
    ("Suppressions", suppressions.HERE, suppressions.READ),
    ("Operations", operations.HERE, operations.READ),
    ("Providers", providers.HERE, (ScopeName.PROVIDERS_READ,)),
)
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOBODY: Final[Mapping[str, Any]] = {"key": None, "menu": (), "now": None}
"""The frame of a page that nobody has logged in to."""

MOST_FIELDS: Final = MOST_IDS + 100
_OURS: Final = re.compile(r"/console(?:/[A-Za-z0-9_./-]*)?(?:\?[!-~]*)?", re.ASCII)


class CrossSite(HeliographError):
    """A form was sent by another site than ours."""


def blueprint(services: Services) -> Blueprint:
    return _Console(services).blueprint


class _Console:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._shared = Shared.of(services)
        self._sessions = Sessions(services, self._shared.authenticator)
        self._statics = static_files()
        self._renderer = Renderer(self._statics)
        self.blueprint = Blueprint("console", __name__)
        for view in VIEWS:
            self._add(view.method, _rule(view, ""), self._page_of(view))
            if view.live is not None:
                self._add("GET", _rule(view, "/stream"), self._stream_of(view))
        self._add("GET", LOGIN, self._login)
        self._add("POST", LOGIN, self._log_in)
        self._add("POST", f"{HOME}/logout", self._log_out)
        self._add("GET", f"{HOME}/static/<name>", self._static)
        self._add("GET", f"{HOME}/<path:rest>", self._nothing)

    def _add(self, method: str, rule: str, handler: Callable[..., Awaitable[Response]]) -> None:
        async def entry(**arguments: str) -> Response:
            try:
                if method == "POST":
                    _refuse_other_sites()
                return await handler(**arguments)
            except CrossSite as error:
                return self._error(403, "This form came from elsewhere", str(error), "Send it from the page itself.")
            except HeliographError as error:
                return self._refusal(refusal_of(error))

        # Dots would part the blueprint's name from the view's.
        name = f"{method} {rule}".replace(".", "_")
        self.blueprint.add_url_rule(rule, name, entry, methods=[method], provide_automatic_options=False)

    # ------------------------------------------------------------------------------------------- pages

    def _page_of(self, view: View) -> Callable[..., Awaitable[Response]]:
        async def answer(id: str = "") -> Response:  # noqa: A002 - the name in the path
            key = await self._sessions.key_of(request.cookies.get(COOKIE))
            if key is None:
                return _moved(_login_for(request.full_path if view.method == "GET" else HOME))
            _require_one(key, view.scopes)
            visit = await self._visit(key, id)
            found = await view.handler(visit)
            return _moved(found.to) if isinstance(found, Moved) else self._page(found, visit)

        return answer

    def _stream_of(self, view: View) -> Callable[..., Awaitable[Response]]:
        async def answer(id: str = "") -> Response:  # noqa: A002
            cookie = request.cookies.get(COOKIE)
            key = await self._sessions.key_of(cookie)
            if key is None:
                raise Refused(Code.UNAUTHORIZED, "the session is over")
            _require_one(key, view.scopes)
            if self._shared.streams >= MOST_STREAMS:
                raise Refused.of(unavailable(f"{MOST_STREAMS} streams are open already", 10))
            events = self._events(view, await self._visit(key, id), cookie)
            response = Response(events, content_type="text/event-stream", headers={**HEADERS, **STREAM_HEADERS})
            response.timeout = None
            return response

        return answer

    async def _events(self, view: View, visit: Visit, cookie: str | None) -> AsyncIterator[bytes]:
        """The live part of a page each second, where it has changed. Ends with the session, or when we drain."""
        last = ""
        self._shared.streams += 1
        try:
            while not self._services.draining():
                event = b": nothing new\n\n"
                try:
                    if await self._sessions.key_of(cookie) is None:
                        return
                    page = cast(Page, await view.handler(visit))
                    html = self._renderer.render(cast(str, view.live), {**self._frame(visit), **page.values})
                    if html != last:
                        event, last = _event(html), html
                except LedgerDown:
                    event = b": the store does not answer\n\n"
                except HeliographError:  # what it shows is gone
                    return
                yield event
                await trio.sleep(EVERY_S)
        finally:
            self._shared.streams -= 1

    async def _visit(self, key: ApiKey, path_id: str) -> Visit:
        return Visit(
            services=self._services,
            shared=self._shared,
            key=key,
            id=path_id,
            query=first_of_each(_pairs(request.query_string)),
            form=MultiDict(_pairs(await _body().whole()) if request.method == "POST" else ()),
            path=request.path,
            origin=request.host_url.rstrip("/"),
            headers=request.headers,
            request_id=g.request_id,
        )

    def _frame(self, visit: Visit) -> dict[str, Any]:
        """What every page shows around itself."""
        key = visit.key
        return {
            "now": visit.now,
            "key": key,
            "menu": [
                (name, path, _is_at(path, visit.path))
                for name, path, scopes in MENU
                if not scopes or visit.may(*scopes)
            ],
            "may_letters": visit.may(ScopeName.DEAD_LETTERS_READ),
            "may_operate": visit.may(ScopeName.DEAD_LETTERS_WRITE),
        }

    def _page(self, page: Page, visit: Visit) -> Response:
        return self._html(page.template, {**self._frame(visit), **page.values}, page.status)

    def _html(self, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        text = self._renderer.render(template, values)
        return Response(text, status, HEADERS, content_type="text/html; charset=utf-8")

    def _refusal(self, refusal: Refusal) -> Response:
        meaning = MEANINGS[refusal.code]
        response = self._error(refusal.status, meaning.title, refusal.detail, meaning.cure, refusal.faults)
        if "Retry-After" in refusal.headers:
            response.headers["Retry-After"] = refusal.headers["Retry-After"]
        return response

    def _error(self, status: int, title: str, detail: str, cure: str, faults: Sequence[Fault] = ()) -> Response:
        values = {"status": status, "title": title, "detail": detail, "cure": cure, "faults": faults}
        return self._html("error.html", {**NOBODY, **values, "request_id": g.request_id}, status)

    async def _nothing(self, rest: str) -> Response:  # noqa: ARG002
        raise Refused(Code.NOT_FOUND, "the console has no such page")

    async def _static(self, name: str) -> Response:
        file = self._statics.get(name)
        if file is None:
            raise Refused(Code.NOT_FOUND, "the console has no such file")
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'"{file.tag}"'}
        return Response(file.body, headers=headers, content_type=file.content_type)

    # --------------------------------------------------------------------------------------- coming and going

    async def _login(self) -> Response:
        query = first_of_each(_pairs(request.query_string))
        goal = _ours(query.get("next"))
        if "code" not in query or request.method == "HEAD":
            return self._ask_for_key(goal)
        key = await self._sessions.by_code(query["code"])
        if key is None:
            if await self._sessions.key_of(request.cookies.get(COOKIE)) is not None:
                return _moved(goal)  # the page was loaded again
            return self._ask_for_key(goal, "This link was used before, or is too old. Log in with the API key.", 401)
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # A strict cookie does not travel along a redirect that began on another site; from our own page it does.
            return _with_cookie(self._html("welcome.html", {**NOBODY, "goal": goal}), self._sessions.begin(key))
        return _with_cookie(_moved(goal), self._sessions.begin(key))

    async def _log_in(self) -> Response:
        form = first_of_each(_pairs(await _body().whole()))
        goal = _ours(form.get("next"))
        key = await self._sessions.by_key(form.get("key", ""))
        if key is None:
            return self._ask_for_key(goal, "This API key is not known, or it was revoked.", 401)
        return _with_cookie(_moved(goal), self._sessions.begin(key))

    async def _log_out(self) -> Response:
        response = _moved(LOGIN)
        response.delete_cookie(COOKIE, path=HOME, httponly=True, samesite="Strict")
        return response

    def _ask_for_key(self, goal: str, fault: str | None = None, status: int = 200) -> Response:
        return self._html("login.html", {**NOBODY, "goal": goal, "fault": fault}, status)


def _rule(view: View, under: str) -> str:
    path = HOME + under + view.path.removeprefix(HOME)
    return path.replace("{id}", f"<{view.id_kind}:id>")


def _require_one(key: ApiKey, scopes: tuple[ScopeName, ...]) -> None:
    if scopes and not any(key.allows(scope) for scope in scopes):
        wanted = " or ".join(scopes)
        raise Refused(Code.MISSING_SCOPE, f"this needs the scope {wanted}, which the API key {key.id} does not have")


def _refuse_other_sites() -> None:
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    ours = site in ("same-origin", "none") if site is not None else origin is None or urlsplit(origin).netloc == _host()
    if not ours:
        raise CrossSite("another site sent this form, and nothing was done")


def _host() -> str:
    return request.headers.get("Host", "")


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise refused([Fault("#", "the form cannot be read: it is not escaped UTF-8, or too long")]) from None


def _body() -> BoundedBody:
    return cast(BoundedBody, request.body)  # as the application's request class makes it


def _ours(goal: str | None) -> str:
    """Where to go after logging in: only to a page of ours."""
    return goal if goal and _OURS.fullmatch(goal) and not goal.startswith(LOGIN) else HOME


def _login_for(goal: str) -> str:
    goal = goal.rstrip("?")
    return LOGIN if goal == HOME else f"{LOGIN}?{urlencode({'next': goal})}"


def _is_at(path: str, here: str) -> bool:
    return here == path or (path != HOME and here.startswith(f"{path}/"))


def _moved(to: str) -> Response:
    return Response("", 303, {**HEADERS, "Location": to}, content_type="text/plain; charset=utf-8")


def _with_cookie(response: Response, session: str) -> Response:
    secure = request.scheme == "https" or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(
        COOKIE, session, max_age=int(SESSION_LIFE.total_seconds()), path=HOME, httponly=True, samesite="Strict",
        secure=secure,
    )  # fmt: skip
    return response


def _event(html: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in html.splitlines())
    return f"event: part\n{lines}\n".encode()
