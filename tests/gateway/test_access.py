"""Who comes in where: each rule of the application, as it is registered, is asked by those whom it must refuse.

A route that is new is walked too; one that is open to all, or whose things belong to a tenant, has to be named here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pytest

from heliograph.actors.model.access import ScopeName
from heliograph.gateway.app import ROUTES, make_app
from heliograph.gateway.console.routes import VIEWS
from tests.gateway.test_console import Browser
from tests.gateway.test_dead_letters import failed
from tests.support.gateway_world import Gateway, World, a_gateway

OPEN_TO_ALL: Final = {"GET /livez", "GET /readyz", "GET /openapi.json", "GET /docs"}
PROVEN_BY_THE_PROVIDER: Final = {"POST /v1/receipts/<provider:provider>", "PUT /v1/receipts/<provider:provider>"}
BEFORE_A_SESSION: Final = {
    "GET /console/login", "POST /console/login", "POST /console/logout", "GET /console/static/<name>",
    "GET /console/<path:rest>",
}  # fmt: skip
ULID: Final = "01JD3Q8ZK4A7XNVT0B2C9M5E6F"
SAMPLES: Final = {
    "<message:id>": f"msg_{ULID}", "<operation:id>": f"op_{ULID}", "<key:id>": f"key_{ULID}",
    "<suppression:id>": f"sup_{ULID}", "<provider:name>": "text", "<provider:id>": "text",
    "<provider:provider>": "text", "<name>": "none.css", "<path:rest>": "nowhere",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """`pattern` is as the application has it; `allowed` are the scopes any of which is enough."""

    method: str
    pattern: str
    allowed: frozenset[ScopeName] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.pattern}"

    def path(self, **ids: str) -> str:
        path = self.pattern
        for placeholder, sample in SAMPLES.items():
            kind = placeholder.strip("<>").partition(":")[0]
            path = path.replace(placeholder, ids.get(kind, sample))
        assert "<" not in path, f"SAMPLES needs an example for {self.pattern}"
        return path


def rules() -> list[Rule]:
    found = []
    for rule in make_app(World().services).url_map.iter_rules():
        [method] = (rule.methods or set()) - {"HEAD"}
        found.append(Rule(method, str(rule.rule), allowed(method, str(rule.rule))))
    return found


def allowed(method: str, pattern: str) -> frozenset[ScopeName] | None:
    """By the tables of routes and of the console's views; None: neither has it."""
    plain = pattern
    for placeholder in SAMPLES:
        plain = plain.replace(placeholder, "{}")
    for route in ROUTES:
        if (method, plain) == (route.method, route.path.replace(f"{{{route.parameter}}}", "{}")):
            return frozenset({*route.scopes, ScopeName.ADMIN})
    for view in VIEWS:
        paths = [view.path, view.path.replace("/console", "/console/stream", 1)]
        if method == view.method and plain in (path.replace("{id}", "{}") for path in paths):
            return frozenset({*view.scopes, ScopeName.ADMIN}) if view.scopes else frozenset(ScopeName)
    return None


ALL: Final = rules()
API: Final = [rule for rule in ALL if rule.pattern.startswith("/v1/") and str(rule) not in PROVEN_BY_THE_PROVIDER]
CONSOLE: Final = [rule for rule in ALL if rule.pattern.startswith("/console") and str(rule) not in BEFORE_A_SESSION]
FORMS: Final = [rule for rule in ALL if rule.pattern.startswith("/console") and rule.method == "POST"]


def test_only_what_is_named_here_is_open_to_all() -> None:
    by_key = {str(rule) for rule in [*API, *CONSOLE]}
    assert {str(rule) for rule in ALL} - by_key == OPEN_TO_ALL | PROVEN_BY_THE_PROVIDER | BEFORE_A_SESSION
    assert [str(rule) for rule in [*API, *CONSOLE] if rule.allowed is None] == []
    assert len(API) >= len(ROUTES)


# ------------------------------------------------------------------------------------------------- the API


@pytest.mark.parametrize("rule", API, ids=str)
async def test_without_a_key_each_route_is_401(rule: Rule) -> None:
    async with a_gateway() as gateway:
        for headers in ({}, {"Authorization": "Bearer hg_live_" + "A" * 43}, {"Cookie": "heliograph_console=x"}):
            answer = await gateway.ask(rule.method, rule.path(), secret=None, headers=headers)
            assert (answer.status, answer.json["code"]) == (401, "unauthorized")
            assert "WWW-Authenticate" in answer.headers


@pytest.mark.parametrize("rule", API, ids=str)
async def test_each_single_scope_opens_its_own_routes_and_no_other(rule: Rule) -> None:
    assert rule.allowed is not None
    async with a_gateway(World(draining=True)) as gateway:  # so that a stream ends
        for scope in ScopeName:
            answer = await gateway.ask(rule.method, rule.path(), secret=await gateway.world.key(scope))
            if scope in rule.allowed:
                assert answer.status not in (401, 403), scope
            else:
                assert (answer.status, answer.json["code"]) == (403, "missing_scope"), scope


async def of_acme(gateway: Gateway) -> dict[str, str]:
    """One thing of each kind that belongs to a tenant, by the kind of its id."""
    secret = await gateway.world.key(tenant="acme")
    letter = await failed(gateway, secret=secret)
    operation = await gateway.post("/v1/dead-letters/redrive", {"ids": [letter]}, secret=secret)
    letter = await failed(gateway, secret=secret)
    key = await gateway.post("/v1/keys", {"name": "k"}, secret=secret)
    suppression = await gateway.post("/v1/suppressions", {"channel": "email", "to": "x@shop.in"}, secret=secret)
    return {
        "message": letter, "operation": operation.json["id"], "key": key.json["id"],
        "suppression": suppression.json["id"],
    }  # fmt: skip


OF_NO_TENANT: Final = {"provider"}


@pytest.mark.parametrize("rule", [rule for rule in API if "<" in rule.pattern], ids=str)
async def test_what_is_anothers_is_not_there(rule: Rule) -> None:
    async with a_gateway() as gateway:
        stranger = await gateway.world.key(tenant="other")
        kind = rule.pattern.partition("<")[2].partition(":")[0]
        if kind in OF_NO_TENANT:
            answer = await gateway.ask(rule.method, rule.path(), body_for(rule), secret=stranger)
            assert (answer.status, answer.json["code"]) == (403, "missing_scope")
            return
        path = rule.path(**{kind: (await of_acme(gateway))[kind]})
        before = await gateway.get(path.removesuffix("/cancel"))
        answer = await gateway.ask(rule.method, path, secret=stranger)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
        missing = await gateway.ask(rule.method, rule.path(), secret=stranger)
        assert (missing.status, missing.json["title"]) == (404, answer.json["title"])
        # It is there, and nothing was done to it.
        after = await gateway.get(path.removesuffix("/cancel"))
        assert (before.status, after.json) == (200, before.json)


def body_for(rule: Rule) -> dict[str, str]:
    match rule.pattern.rpartition("/")[2]:
        case "pause":
            return {"duration": "1h"}
        case "breaker":
            return {"state": "open", "duration": "1h"}
        case _:
            return {}


@pytest.mark.parametrize("rule", [r for r in ALL if r.method == "GET" and r.pattern.startswith("/")], ids=str)
async def test_no_page_or_list_shows_what_is_anothers(rule: Rule) -> None:
    if "<" in rule.pattern:
        return  # by its id: above, and in the console's own tests
    async with a_gateway(World(draining=True)) as gateway:
        ids = await of_acme(gateway)
        stranger = await gateway.world.key(tenant="other")
        browser = Browser(gateway)
        await browser.log_in(stranger)
        shown = (await browser.open(rule.path())).text + str(
            (await gateway.get(rule.path(), secret=stranger)).raw, "utf-8"
        )
        assert [id_ for id_ in [*ids.values(), "x@shop.in", "acme"] if id_ in shown] == []


async def test_nothing_is_done_in_bulk_to_what_is_anothers() -> None:
    async with a_gateway() as gateway:
        ids = await of_acme(gateway)
        stranger = await gateway.world.key(tenant="other")
        for deed in ("redrive", "archive", "discard"):
            for wanted in ({"ids": [ids["message"]]}, {"filter": {}}):
                tried = await gateway.post(
                    f"/v1/dead-letters/{deed}", {**wanted, "dry_run": True, "reason": "r"}, secret=stranger
                )
                assert (tried.status, tried.json["eligible"]) == (200, 0)


async def test_a_key_makes_none_that_may_more_than_its_tenant_or_its_kind() -> None:
    async with a_gateway() as gateway:
        of_a_tenant = await gateway.world.key(tenant="acme")
        for_tests = await gateway.world.key(live=False)
        abroad = await gateway.post("/v1/keys", {"name": "k", "tenant": "default"}, secret=of_a_tenant)
        assert (abroad.status, abroad.json["errors"][0]["pointer"]) == (422, "#/tenant")
        alive = await gateway.post("/v1/keys", {"name": "k", "live": True}, secret=for_tests)
        assert (alive.status, alive.json["errors"][0]["pointer"]) == (422, "#/live")
        made = await gateway.post("/v1/keys", {"name": "k", "live": False}, secret=for_tests)
        assert (made.status, made.json["key"][:8]) == (201, "hg_test_")


# --------------------------------------------------------------------------------------------- the console


@pytest.mark.parametrize("rule", CONSOLE, ids=str)
async def test_without_a_session_no_page_of_the_console_shows_or_does_anything(rule: Rule) -> None:
    async with a_gateway() as gateway:
        for cookie in ("", "heliograph_console=x", f"heliograph_console={gateway.secret}"):
            browser = Browser(gateway, cookie)
            # A key is for the API: it opens no page, and a page's cookie opens no route of the API.
            headers = {"Authorization": f"Bearer {gateway.secret}"}
            ask = browser.send if rule.method == "POST" else browser.open
            shown = await ask(rule.path(), **headers)
            if "/stream" in rule.pattern:
                assert shown.status == 401
            else:
                assert shown.status == 303
                assert shown.headers["Location"].startswith("/console/login")
                assert shown.text == ""


@pytest.mark.parametrize("rule", CONSOLE, ids=str)
async def test_each_single_scope_opens_its_own_pages_and_no_other(rule: Rule) -> None:
    assert rule.allowed is not None
    async with a_gateway(World(draining=True)) as gateway:
        for scope in ScopeName:
            browser = Browser(gateway)
            await browser.log_in(await gateway.world.key(scope))
            shown = await (browser.send if rule.method == "POST" else browser.open)(rule.path())
            assert (shown.status == 403) == (scope not in rule.allowed), scope


@pytest.mark.parametrize("rule", FORMS, ids=str)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost"},
        {"Sec_Fetch_Site": "", "Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "", "Origin": "http://localhost.evil.example"},
        {"Sec_Fetch_Site": "", "Origin": "null"},
    ],
    ids=str,
)
async def test_each_form_from_another_site_is_refused(rule: Rule, headers: dict[str, str]) -> None:
    async with a_gateway() as gateway:
        browser = Browser(gateway)
        await browser.log_in(gateway.secret)
        shown = await browser.send(rule.path(), {"key": gateway.secret}, **headers)
        assert (shown.status, shown.cookie) == (403, "")
        assert "came from elsewhere" in shown.words


async def test_logging_in_ends_no_session_of_anothers_but_never_goes_on_with_one_that_was_there() -> None:
    """Session fixation: whoever planted a cookie learns nothing of what is done after the log-in."""
    async with a_gateway() as gateway:
        planted = Browser(gateway)
        await planted.log_in(await gateway.world.key(ScopeName.MESSAGES_READ))
        victim = Browser(gateway, planted.cookie)
        await victim.log_in(gateway.secret)
        again = Browser(gateway)
        await again.log_in(gateway.secret)
        assert len({planted.cookie, victim.cookie, again.cookie}) == 3
        assert (await planted.open("/console/dead-letters")).status == 403
        assert (await victim.open("/console/dead-letters")).status == 200


@pytest.mark.parametrize("rule", [r for r in ALL if r.method == "GET" and "/stream" not in r.pattern], ids=str)
async def test_no_page_runs_what_is_not_ours_or_is_shown_inside_anothers(rule: Rule) -> None:
    async with a_gateway() as gateway:
        browser = Browser(gateway)
        await browser.log_in(gateway.secret)
        shown = await browser.open(rule.path(), Authorization=f"Bearer {gateway.secret}")
        assert shown.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in shown.headers
        if shown.headers["Content-Type"].startswith("text/html"):
            policy = shown.headers["Content-Security-Policy"]
            assert re.match(r"default-src '(none|self)'; ", policy)
            assert "frame-ancestors 'none'" in policy
            assert "base-uri 'none'" in policy
            assert shown.headers["X-Frame-Options"] == "DENY"
            assert "Referrer-Policy" in shown.headers
            assert ("script-src" in policy, "unsafe-eval" in policy) == (False, False)


async def test_another_sites_script_may_not_ask_beforehand() -> None:
    """No CORS: a preflight is answered with no leave."""
    async with a_gateway() as gateway:
        headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        answer = await gateway.ask("OPTIONS", "/v1/messages", secret=None, headers=headers)
        assert answer.status == 405
        assert [name for name in answer.headers if str(name).lower().startswith("access-control")] == []


async def test_secrets_are_compared_in_a_time_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(left: bytes | str, right: bytes | str) -> bool:
        compared.append(len(left))
        return left == right

    monkeypatch.setattr("hmac.compare_digest", counted)
    async with a_gateway() as gateway:
        await gateway.get("/v1/messages")
        assert compared == [32]
        browser = Browser(gateway)
        await browser.log_in(gateway.secret)
        await browser.open("/console")
        assert compared == [32, 32, 43]
        forged = f"heliograph_console=session.key_{ULID}.99999999999.{'A' * 22}.{'A' * 43}"
        assert (await Browser(gateway, forged).open("/console")).status == 303
        assert compared == [32, 32, 43, 43]  # also for a key that does not exist
