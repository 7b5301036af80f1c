"""The console through the application: coming in, what pages show and hide, and what their forms do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Final
from urllib.parse import urlencode

import pytest
import trio
import trio.testing
from quart.typing import TestClientProtocol as Client
from werkzeug.datastructures import Headers

from heliograph.actors.kernel.actor import Health, Phase
from heliograph.actors.model.access import ApiKey, ScopeName
from heliograph.actors.model.provider import BreakerState
from heliograph.gateway.auth import CACHE_S, digest_of
from heliograph.gateway.console import passes
from heliograph.gateway.console.filters import Filter, parse_words
from heliograph.gateway.console.sessions import COOKIE
from tests.gateway.test_dead_letters import failed
from tests.support.gateway_world import Gateway, World, a_gateway

LETTERS: Final = "/console/dead-letters"
SUPPRESSIONS: Final = "/console/suppressions"
HOSTILE: Final = '<script>alert("x")</script>'


@dataclass(frozen=True)
class Shown:
    status: int
    headers: Headers
    text: str

    @property
    def words(self) -> str:
        """What a reader sees, without markup."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.text)).split())

    @property
    def cookie(self) -> str:
        return next((c for c in self.headers.getlist("Set-Cookie") if c.startswith(COOKIE)), "")

    def inputs(self, name: str) -> list[str]:
        return [unescape(value) for value in re.findall(f'<input[^>]*name="{name}"[^>]*value="([^"]*)"', self.text)]


@dataclass
class Browser:
    """Keeps one session's cookie and sends forms as a browser would."""

    gateway: Gateway
    cookie: str = ""

    @property
    def client(self) -> Client:
        return self.gateway.client.app.test_client(use_cookies=False)

    async def open(self, path: str, **headers: str) -> Shown:
        return await self._ask("GET", path, None, headers)

    async def send(self, path: str, fields: Sequence[tuple[str, str]] | dict[str, str] = (), **headers: str) -> Shown:
        known = {"Content_Type": "application/x-www-form-urlencoded", "Sec_Fetch_Site": "same-origin"}
        return await self._ask("POST", path, urlencode(fields).encode(), known | headers)

    async def _ask(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> Shown:
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        if self.cookie:
            named["Cookie"] = self.cookie
        answer = await self.client.open(path, method=method, headers=named, data=data)
        shown = Shown(answer.status_code, answer.headers, await answer.get_data(as_text=True))
        if shown.cookie:
            self.cookie = shown.cookie.partition(";")[0]
        return shown

    async def log_in(self, secret: str) -> Shown:
        return await self.send("/console/login", {"key": secret})


@asynccontextmanager
async def a_browser(*scopes: ScopeName, world: World | None = None, tenant: str = "default") -> AsyncIterator[Browser]:
    """One that is logged in with an admin's key, or one with these scopes."""
    async with a_gateway(world) as gateway:
        browser = Browser(gateway)
        secret = await gateway.world.key(*scopes, tenant=tenant) if scopes else gateway.secret
        assert (await browser.log_in(secret)).status == 303
        yield browser


async def key_of(gateway: Gateway, secret: str) -> ApiKey:
    key = await gateway.world.ledger.keys.find(digest_of(secret))
    assert key is not None
    return key


# ---------------------------------------------------------------------------------------------- coming in


async def test_without_a_session_each_page_asks_for_the_key_and_goes_on_to_what_was_wanted() -> None:
    async with a_gateway() as gateway:
        browser = Browser(gateway)
        refused = await browser.open(f"{LETTERS}?reason=rejected")
        assert (refused.status, refused.headers["Location"]) == (
            303,
            "/console/login?next=%2Fconsole%2Fdead-letters%3Freason%3Drejected",
        )
        form = await browser.open(refused.headers["Location"])
        assert form.status == 200
        [goal] = form.inputs("next")
        entered = await browser.send("/console/login", {"key": gateway.secret, "next": goal})
        assert (entered.status, entered.headers["Location"]) == (303, f"{LETTERS}?reason=rejected")
        assert (await browser.open(goal)).status == 200


async def test_the_cookie_is_for_the_console_and_12_hours_and_holds_no_key() -> None:
    async with a_gateway() as gateway:
        cookie = (await Browser(gateway).log_in(gateway.secret)).cookie
        parts = cookie.split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/console", "Max-Age=43200"} <= set(parts)
        assert "Secure" not in parts
        assert gateway.secret not in cookie
        assert gateway.secret.removeprefix("hg_live_") not in cookie


async def test_behind_tls_the_cookie_is_secure() -> None:
    async with a_gateway() as gateway:
        shown = await Browser(gateway).send("/console/login", {"key": gateway.secret}, X_Forwarded_Proto="https")
        assert "Secure" in shown.cookie.split("; ")


@pytest.mark.parametrize("key", ["", "hg_live_" + "x" * 43, "no key at all", HOSTILE])
async def test_a_wrong_key_is_refused_in_the_same_words_and_not_shown_again(key: str) -> None:
    async with a_gateway() as gateway:
        shown = await Browser(gateway).log_in(key)
        assert (shown.status, shown.cookie) == (401, "")
        assert "This API key is not known, or it was revoked." in shown.words
        assert not key or key not in shown.text


async def test_a_revoked_key_neither_logs_in_nor_keeps_its_session(autojump_clock: trio.testing.MockClock) -> None:
    async with a_gateway() as gateway:
        browser = Browser(gateway)
        await browser.log_in(gateway.secret)
        assert (await browser.open("/console")).status == 200
        await gateway.world.ledger.keys.revoke((await key_of(gateway, gateway.secret)).id)
        await trio.sleep(CACHE_S)
        assert (await browser.open("/console")).status == 303
        assert (await browser.log_in(gateway.secret)).status == 401


async def test_a_session_ends_after_12_hours() -> None:
    async with a_browser() as browser:
        browser.gateway.world.clock.move(12 * 3600 - 1)
        assert (await browser.open("/console")).status == 200
        browser.gateway.world.clock.move(1)
        assert (await browser.open("/console")).status == 303


async def test_a_session_is_good_at_any_gateway_process() -> None:
    async with a_browser() as browser, a_gateway(World(store=browser.gateway.world.ledger)) as second:
        assert (await Browser(second, browser.cookie).open("/console")).status == 200


@pytest.mark.parametrize("part", range(5))
async def test_a_cookie_that_was_changed_anywhere_is_none(part: int) -> None:
    async with a_browser() as browser:
        name, _, value = browser.cookie.partition("=")
        parts = value.split(".")
        last = parts[part][-1]
        parts[part] = parts[part][:-1] + ("7" if last != "7" else "8")
        browser.cookie = f"{name}={'.'.join(parts)}"
        assert (await browser.open("/console")).status == 303


async def test_a_login_code_is_no_session() -> None:
    async with a_gateway() as gateway:
        key = await key_of(gateway, gateway.secret)
        code = passes.login_path(key, gateway.world.clock.now()).partition("=")[2]
        assert (await Browser(gateway, f"{COOKIE}={code}").open("/console")).status == 303


async def test_a_code_logs_in_once_and_only_once_in_the_whole_cluster() -> None:
    async with a_gateway() as gateway:
        path = passes.login_path(await key_of(gateway, gateway.secret), gateway.world.clock.now())
        browser = Browser(gateway)
        entered = await browser.open(path)
        assert (entered.status, entered.headers["Location"]) == (303, "/console")
        assert (await browser.open("/console")).status == 200
        async with a_gateway(World(store=gateway.world.ledger)) as second:
            again = await Browser(second).open(path)
            assert (again.status, again.cookie) == (401, "")
            assert "used before" in again.words
        assert (await browser.open(path)).headers["Location"] == "/console"  # who is in stays in


async def test_a_code_that_is_too_old_or_of_a_revoked_key_is_refused() -> None:
    async with a_gateway() as gateway:
        world = gateway.world
        old = passes.login_path(await key_of(gateway, gateway.secret), world.clock.now())
        world.clock.move(passes.CODE_LIFE.total_seconds())
        assert (await Browser(gateway).open(old)).status == 401
        secret = await world.key()
        key = await key_of(gateway, secret)
        await world.ledger.keys.revoke(key.id)
        assert (await Browser(gateway).open(passes.login_path(key, world.clock.now()))).status == 401


async def test_a_code_followed_from_another_site_sets_the_cookie_on_our_own_page_first() -> None:
    """A strict cookie would not travel along a redirect that began elsewhere."""
    async with a_gateway() as gateway:
        path = passes.login_path(await key_of(gateway, gateway.secret), gateway.world.clock.now())
        shown = await Browser(gateway).open(path, Sec_Fetch_Site="cross-site")
        assert shown.status == 200
        assert shown.cookie
        assert '<meta http-equiv="refresh" content="0; url=/console">' in shown.text


@pytest.mark.parametrize("goal", ["https://evil.example/", "//evil.example/", "/console\\@evil", "/v1/keys", "x" * 9])
async def test_logging_in_leads_to_no_other_site(goal: str) -> None:
    async with a_gateway() as gateway:
        shown = await Browser(gateway).send("/console/login", {"key": gateway.secret, "next": goal})
        assert shown.headers["Location"] == "/console"


async def test_logging_out_forgets_the_cookie() -> None:
    async with a_browser() as browser:
        shown = await browser.send("/console/logout")
        assert (shown.status, shown.headers["Location"]) == (303, "/console/login")
        assert "Max-Age=0" in shown.cookie


# ------------------------------------------------------------------------------------------- other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "", "Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "", "Origin": "null"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/console/login", f"{LETTERS}/operate", "/console/providers/text/pause", "/console/suppressions"]
)
async def test_a_form_from_another_site_is_refused_and_does_nothing(path: str, headers: dict[str, str]) -> None:
    async with a_browser() as browser:
        message = await failed(browser.gateway)
        fields = {
            "key": browser.gateway.secret, "kind": "discard", "id": message, "duration": "1h", "channel": "email",
            "to": "x@shop.in",
        }  # fmt: skip
        shown = await browser.send(path, fields, **headers)
        assert (shown.status, shown.cookie) == (403, "")
        assert await browser.gateway.world.ledger.operations.list(tenant=None, before=None, limit=9) == []
        assert await browser.gateway.world.ledger.cluster.controls() == []
        assert (await browser.gateway.get("/v1/suppressions")).json["data"] == []


async def test_the_origin_decides_where_a_browser_does_not_say_which_site() -> None:
    async with a_gateway() as gateway:
        browser = Browser(gateway)
        shown = await browser.send(
            "/console/login", {"key": gateway.secret}, Sec_Fetch_Site="", Origin="http://localhost"
        )
        assert shown.status == 303


@pytest.mark.parametrize(
    "path", ["/console/login", "/console", "/console/nowhere", f"{LETTERS}/list", "/console/suppressions"]
)
async def test_every_page_loads_from_us_alone_and_is_framed_by_nobody(path: str) -> None:
    async with a_browser() as browser:
        shown = await browser.open(path)
        policy = shown.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert shown.headers["Cache-Control"] == "no-store"
        assert re.findall(r'(?:src|href|action)="(?!/|\?|#)', shown.text) == []
        assert re.findall(r"\son[a-z]+=|\sstyle=|<style|<script(?! src=)", shown.text) == []


async def test_static_files_are_kept_by_their_content() -> None:
    async with a_browser() as browser:
        page = await browser.open("/console")
        for address in re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page.text):
            file = await browser.open(address)
            assert file.status == 200
            assert "immutable" in file.headers["Cache-Control"]
        assert (await browser.open("/console/static/../routes.py")).status == 404


# ----------------------------------------------------------------------------------------------- pages


async def test_hostile_text_is_text_on_every_page() -> None:
    async with a_browser() as browser:
        gateway = browser.gateway
        message = await failed(gateway, HOSTILE, tags=[HOSTILE])
        operation = (
            await gateway.post("/v1/dead-letters/redrive", {"ids": [message, HOSTILE], "reason": HOSTILE})
        ).json["id"]
        await gateway.post("/v1/providers/text/pause", {"duration": "1h", "reason": HOSTILE})
        await gateway.post("/v1/suppressions", {"channel": "email", "to": "x@shop.in", "detail": HOSTILE})
        hostile = urlencode({"text": HOSTILE})
        for path in (
            "/console", LETTERS, f"{LETTERS}/list", f"{LETTERS}?{hostile}", f"{LETTERS}/list?{hostile}",
            f"/console/messages/{message}", "/console/messages", f"/console/messages?{urlencode({'tag': HOSTILE})}",
            "/console/operations", f"/console/operations/{operation}", "/console/providers", "/console/suppressions",
            f"/console/suppressions?{urlencode({'to': HOSTILE})}",
        ):  # fmt: skip
            shown = await browser.open(path)
            assert shown.status == 200, path
            assert "<script>" not in shown.text, path
        assert HOSTILE in (await browser.open(LETTERS)).words
        review = await browser.send(f"{LETTERS}/review", {"kind": "redrive", "what": "all", "text": HOSTILE})
        assert "<script>" not in review.text
        assert HOSTILE in unescape(review.text)


async def test_groups_are_counted_by_cause_with_a_way_to_their_own_letters() -> None:
    async with a_browser() as browser:
        for cause in ("rare", "often", "often"):
            await failed(browser.gateway, cause)
        page = await browser.open(LETTERS)
        assert "3 open, in 2 groups" in page.words
        links = [unescape(link) for link in re.findall(r'data-open href="([^"]+)"', page.text)]
        assert "cause=often" in links[0]
        assert "2 open" in (await browser.open(links[0])).words
        assert "1 open" in (await browser.open(links[1])).words


async def test_a_list_says_how_a_program_gets_the_same() -> None:
    async with a_browser() as browser:
        shown = await browser.open(f"{LETTERS}/list?{urlencode({'cause': 'no such number', 'since': '1h'})}")
        since = "2026-11-24T11:00:00Z"
        assert f"heliograph dead-letters list --cause 'no such number' --since {since}" in shown.words
        assert "curl -sS 'http://localhost/v1/dead-letters?cause=no+such+number&since=" in shown.words


async def test_recipients_are_masked_until_somebody_asks() -> None:
    async with a_browser() as browser:
        message = await failed(browser.gateway, "no such number", detail="+919876540000: no such number")
        for path in (LETTERS, f"{LETTERS}/list", "/console/messages", f"/console/messages/{message}"):
            assert "876540000" not in (await browser.open(path)).text, path
        revealed = await browser.send(f"/console/messages/{message}/reveal")
        assert "+919876540000" in revealed.words


async def test_a_message_tells_its_whole_story_the_newest_first() -> None:
    async with a_browser() as browser:
        message = await failed(browser.gateway)
        words = (await browser.open(f"/console/messages/{message}")).words
        story = words[words.index("What happened") :]
        places = [story.index(part) for part in ("Became a dead letter: rejected", "Attempt 1: rejected", "Accepted")]
        assert places == sorted(places)
        assert "411" in story


async def test_the_list_comes_in_pages_that_keep_the_filter() -> None:
    async with a_browser() as browser:
        ids = [await failed(browser.gateway, tags=["x"]) for _ in range(51)]
        first = await browser.open(f"{LETTERS}/list?tag=x")
        assert "all 51 that match" in first.words
        [older] = re.findall(r'href="(\?[^"]+)" rel="next"', first.text)
        second = await browser.open(f"{LETTERS}/list{unescape(older)}")
        assert re.findall(r'name="id" value="([^"]+)"', first.text + second.text) == ids[::-1]


async def test_the_search_box_is_another_way_to_write_the_address() -> None:
    async with a_browser() as browser:
        moved = await browser.open(f"{LETTERS}?{urlencode({'q': 'provider:text code:411 no such'})}")
        assert (moved.status, moved.headers["Location"]) == (303, f"{LETTERS}?provider=text&code=411&text=no+such")


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("tag=mine", True), ("text=SUCH", True), ("channel=sms&provider=text&reason=rejected&code=411", True),
        ("since=1h", True), ("since=", True), ("until=1h", False), ("channel=email", False), ("state=archived", False),
    ],
)  # fmt: skip
async def test_each_filter_narrows_what_is_shown(query: str, matches: bool) -> None:
    async with a_browser() as browser:
        message = await failed(browser.gateway, "no such number", tags=["mine"])
        assert (message in (await browser.open(f"{LETTERS}/list?{query}")).text) == matches


@pytest.mark.parametrize("query", ["state=lost", "since=yesterday", "channel=pigeon"])
async def test_a_filter_that_makes_no_sense_is_named(query: str) -> None:
    async with a_browser() as browser:
        shown = await browser.open(f"{LETTERS}?{query}")
        assert shown.status == 422
        assert f"?{query.partition('=')[0]}" in shown.words


def test_the_words_of_a_filter_read_as_the_same_filter() -> None:
    world = World()
    given = {"state": "archived", "code": "550 5.1.1", "cause": "it's full", "since": "2h", "text": "a b"}
    made = Filter.of(given, world.clock.now())
    assert parse_words(made.words) == given
    assert made.exact["since"] == "2026-11-24T10:00:00Z"


async def test_a_page_that_is_not_there_says_so_as_a_page() -> None:
    async with a_browser() as browser:
        for path in ("/console/nowhere", "/console/messages/msg_x", f"/console/messages/msg_{'0' * 26}"):
            shown = await browser.open(path)
            assert shown.status == 404
            assert shown.headers["Content-Type"].startswith("text/html")


async def test_without_the_store_the_console_says_when_to_come_again() -> None:
    async with a_browser() as browser:
        browser.gateway.world.ledger_down = True
        shown = await browser.open(LETTERS)
        assert (shown.status, shown.headers["Retry-After"]) == (503, "5")
        assert "does not answer" in shown.words


async def test_the_overview_shows_states_queues_providers_and_causes() -> None:
    async with a_browser() as browser:
        await failed(browser.gateway, "no such number")
        words = (await browser.open("/console")).words
        for part in ("sms:urgent", "text", "closed", "no such number", "undelivered"):
            assert part in words


async def test_the_actors_of_this_process_are_shown() -> None:
    world = World(actors=(Health("relay", Phase.RESTING, 3, 4096, 2, None),))
    async with a_browser(world=world) as browser:
        words = (await browser.open("/console/providers")).words
        assert "relay resting 3 of 4,096 2" in words


# ----------------------------------------------------------------------------------------------- actions


async def test_a_redrive_of_all_that_match_is_looked_at_first_and_then_followed() -> None:
    async with a_browser() as browser:
        world = browser.gateway.world
        ids = [await failed(browser.gateway, tags=["x"]) for _ in range(3)]
        await failed(browser.gateway, "another cause")
        fields = {"kind": "redrive", "what": "all", "tag": "x", "back": "tag=x"}
        review = await browser.send(f"{LETTERS}/review", fields)
        assert "Redrive 3 of 3" in review.words
        assert """-d '{"filter": {"tag": "x"}}'""" in unescape(review.text)
        assert "heliograph dead-letters redrive --tag x" in review.words
        assert await world.ledger.operations.list(tenant=None, before=None, limit=9) == []
        done = await browser.send(f"{LETTERS}/operate", fields | {"rate": "2.5", "why": "it was mended"})
        [operation] = await world.ledger.operations.list(tenant=None, before=None, limit=9)
        assert (operation.total, operation.rate, operation.reason) == (3, 2.5, "it was mended")
        assert operation.actor == (await key_of(browser.gateway, browser.gateway.secret)).id
        assert done.headers["Location"] == f"/console/operations/{operation.id}?back=tag%3Dx"
        running = await browser.open(done.headers["Location"])
        assert "The redrive is running: 0%." in running.words
        assert f'href="{LETTERS}?tag=x"' in running.text
        for _ in range(3):
            await world.ledger.operations.step(limit=10, max_redrives=10, expires_after_s=60, supervisor="s1")
            world.clock.move(5)
        assert (
            "The redrive is done: 3 done, 0 failed, 0 skipped." in (await browser.open(done.headers["Location"])).words
        )
        assert (await browser.gateway.get(f"/v1/messages/{ids[0]}")).json["state"] == "queued"
        assert "Redriven" in (await browser.open(f"/console/messages/{ids[0]}")).words


async def test_selected_ones_are_worked_on_and_what_cannot_be_is_said_before() -> None:
    async with a_browser() as browser:
        first, second, _ = [await failed(browser.gateway) for _ in range(3)]
        await browser.send(f"{LETTERS}/operate", {"kind": "archive", "id": first})
        await browser.gateway.world.ledger.operations.step(
            limit=10, max_redrives=10, expires_after_s=60, supervisor="s1"
        )
        fields = [("kind", "archive"), ("what", "selected"), ("id", first), ("id", second)]
        review = await browser.send(f"{LETTERS}/review", fields)
        assert "Archive 1 of 2" in review.words
        assert "1 are archived" in review.words
        assert review.inputs("id") == [first, second]


async def test_an_operation_is_cancelled() -> None:
    async with a_browser() as browser:
        await failed(browser.gateway)
        moved = await browser.send(f"{LETTERS}/operate", {"kind": "redrive", "what": "all", "rate": "0.1"})
        path = moved.headers["Location"]
        assert (await browser.send(f"{path}/cancel")).headers["Location"] == path
        assert "The redrive is cancelled" in (await browser.open(path)).words
        assert (await browser.send(f"{path}/cancel")).status == 409


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "redrive", "what": "selected"}, "select at least one"),
        ({"kind": "burn", "what": "all"}, "must be one of redrive, archive, discard"),
        ({"kind": "redrive", "what": "all", "rate": "fast"}, "must be a number"),
        ({"kind": "redrive", "what": "all", "rate": "-1"}, "greater than 0"),
        ({"kind": "redrive", "what": "all", "state": "lost"}, "state"),
    ],
)
async def test_a_form_that_asks_for_nothing_sensible_is_refused(fields: dict[str, str], says: str) -> None:
    async with a_browser() as browser:
        await failed(browser.gateway)
        shown = await browser.send(f"{LETTERS}/operate", fields)
        assert shown.status == 422
        assert says in shown.words
        assert await browser.gateway.world.ledger.operations.list(tenant=None, before=None, limit=9) == []


async def test_a_provider_is_paused_resumed_and_its_breaker_held() -> None:
    async with a_browser() as browser:
        cluster = browser.gateway.world.ledger.cluster
        moved = await browser.send("/console/providers/text/pause", {"duration": "1h", "reason": "a bad day"})
        assert (moved.status, moved.headers["Location"]) == (303, "/console/providers#text")
        [controls] = await cluster.controls()
        assert controls.pause is not None
        assert "a bad day" in (await browser.open("/console/providers")).words
        await browser.send("/console/providers/text/resume")
        await browser.send("/console/providers/text/breaker", {"state": "open", "duration": "5m"})
        [controls] = await cluster.controls()
        assert controls.pause is None
        assert controls.forced is not None
        assert controls.forced.state is BreakerState.OPEN
        await browser.send("/console/providers/text/breaker", {"state": "auto", "duration": "5m"})
        assert [c.forced for c in await cluster.controls() if c.forced] == []
        assert (await browser.send("/console/providers/text/pause", {"duration": "soon"})).status == 422
        assert (await browser.send("/console/providers/nobody/resume")).status == 404


async def test_a_waiting_message_is_cancelled() -> None:
    async with a_browser() as browser:
        message = await browser.gateway.accepted()
        page = await browser.open(f"/console/messages/{message}")
        assert "Cancel the message" in page.words
        await browser.send(f"/console/messages/{message}/cancel")
        assert (await browser.gateway.get(f"/v1/messages/{message}")).json["state"] == "cancelled"
        assert "Cancel the message" not in (await browser.open(f"/console/messages/{message}")).words


async def test_a_recipient_is_suppressed_found_and_written_to_again() -> None:
    async with a_browser() as browser:
        assert "Everybody may be written to" in (await browser.open(SUPPRESSIONS)).words
        fields = {"channel": "email", "to": " asha@shop.in", "reason": "unsubscribe", "detail": "by phone"}
        added = await browser.send(SUPPRESSIONS, fields)
        assert (added.status, added.headers["Location"]) == (303, f"{SUPPRESSIONS}?to=asha%40shop.in")
        found = await browser.open(added.headers["Location"])
        assert "a•••@shop.in email unsubscribe by phone" in found.words
        assert 'value="asha@shop.in"' in found.text
        for query, matches in (("to=ASHA@shop.in", True), ("channel=sms", False), ("reason=unsubscribe", True)):
            assert ("by phone" in (await browser.open(f"{SUPPRESSIONS}?{query}")).words) is matches
        [entry] = (await browser.gateway.get("/v1/suppressions")).json["data"]
        removed = await browser.send(f"{SUPPRESSIONS}/{entry['id']}/remove")
        assert (removed.status, removed.headers["Location"]) == (303, SUPPRESSIONS)
        assert (await browser.gateway.get("/v1/suppressions")).json["data"] == []
        assert (await browser.send(f"{SUPPRESSIONS}/{entry['id']}/remove")).status == 404


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"channel": "email", "to": "asha"}, "#/to"),
        ({"channel": "sms", "to": "asha@shop.in"}, "#/to"),
        ({"channel": "email", "to": ""}, "#/to"),
        ({"channel": "email", "to": "asha@shop.in", "reason": "whim"}, "#/reason"),
    ],
)
async def test_a_recipient_that_cannot_be_is_not_suppressed(fields: dict[str, str], says: str) -> None:
    async with a_browser() as browser:
        shown = await browser.send(SUPPRESSIONS, fields)
        assert shown.status == 422
        assert says in shown.words


async def test_suppressions_come_in_pages_and_a_reader_finds_no_button() -> None:
    async with a_browser(ScopeName.MESSAGES_READ) as browser:
        for n in range(51):
            answer = await browser.gateway.post("/v1/suppressions", {"channel": "email", "to": f"user{n}@shop.in"})
            assert answer.status == 201
            browser.gateway.world.clock.move(0.001)
        first = await browser.open(f"{SUPPRESSIONS}?channel=email")
        assert first.text.count("u•••@shop.in") == 50
        assert "Remove" not in first.words
        assert "Add a recipient" not in first.words
        [older] = re.findall(r'href="(\?[^"]*cursor=[^"]*)" rel="next"', first.text)
        rest = await browser.open(SUPPRESSIONS + unescape(older))
        assert rest.text.count("u•••@shop.in") == 1
        assert 'rel="next"' not in rest.text
        assert (await browser.send(SUPPRESSIONS, {"channel": "email", "to": "x@shop.in"})).status == 403


# ------------------------------------------------------------------------------------- scopes and tenants


async def test_a_key_that_may_only_read_finds_no_button_and_is_refused() -> None:
    async with a_browser(ScopeName.DEAD_LETTERS_READ) as browser:
        message = await failed(browser.gateway)
        for path in (LETTERS, f"{LETTERS}/list", f"/console/messages/{message}"):
            shown = await browser.open(path)
            assert shown.status == 200
            assert 'value="redrive"' not in shown.text
        for path in (f"{LETTERS}/review", f"{LETTERS}/operate"):
            shown = await browser.send(path, {"kind": "redrive", "id": message})
            assert shown.status == 403
            assert "dead_letters:write" in shown.words
        assert await browser.gateway.world.ledger.operations.list(tenant=None, before=None, limit=9) == []


@pytest.mark.parametrize(
    ("scope", "open_to"),
    [
        (ScopeName.DEAD_LETTERS_READ, {LETTERS, "/console/operations"}),
        (ScopeName.MESSAGES_READ, {"/console/messages", "/console/suppressions"}),
        (ScopeName.PROVIDERS_READ, {"/console/providers"}),
        (ScopeName.MESSAGES_WRITE, set()),
    ],
)
async def test_each_page_is_for_who_has_its_scope_and_the_menu_names_no_other(
    scope: ScopeName, open_to: set[str]
) -> None:
    async with a_browser(scope) as browser:
        pages = {
            LETTERS, "/console/operations", "/console/messages", "/console/suppressions", "/console/providers",
        }  # fmt: skip
        assert {page for page in pages if (await browser.open(page)).status == 200} == open_to
        home = await browser.open("/console")
        assert home.status == 200
        assert {page for page in pages if f'<a href="{page}">' in home.text} == open_to


async def test_a_tenant_sees_and_touches_only_its_own() -> None:
    async with a_browser(ScopeName.ADMIN, tenant="acme") as browser:
        gateway = browser.gateway
        message = await failed(gateway, "somebody else's")
        operation = (await gateway.post("/v1/dead-letters/redrive", {"ids": [message], "rate": 0.1})).json["id"]
        for path in ("/console", LETTERS, f"{LETTERS}/list", "/console/messages", "/console/operations"):
            shown = await browser.open(path)
            assert shown.status == 200
            assert message not in shown.text
            assert operation not in shown.text
            assert "somebody else" not in shown.words
            assert "Messages by state" not in shown.words
        assert (await browser.open(f"/console/messages/{message}")).status == 404
        assert (await browser.send(f"/console/messages/{message}/reveal")).status == 404
        assert (await browser.open(f"/console/operations/{operation}")).status == 404
        assert (await browser.send(f"/console/operations/{operation}/cancel")).status == 404
        assert "Redrive 0 of" in (await browser.send(f"{LETTERS}/review", {"kind": "redrive", "id": message})).words
        assert "Redrive 0 of 0" in (await browser.send(f"{LETTERS}/review", {"kind": "redrive", "what": "all"})).words


# ------------------------------------------------------------------------------------------------ streams


@pytest.mark.parametrize("part", ["", "/providers", "/operations/{operation}"])
async def test_the_live_part_of_a_page_is_sent_again_when_it_changes(
    part: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with a_browser() as browser:
        gateway = browser.gateway
        message = await failed(gateway)
        made = await gateway.post("/v1/dead-letters/redrive", {"ids": [message], "rate": 0.1})
        path = f"/console/stream{part.format(operation=made.json['id'])}"
        async with browser.client.request(path, headers={"Cookie": browser.cookie}) as stream:
            await stream.send_complete()
            first, second = [(await stream.receive()).decode() for _ in range(2)]
            assert first.startswith("event: part\ndata: ")
            assert second == ": nothing new\n\n"
            await gateway.world.ledger.operations.step(limit=9, max_redrives=9, expires_after_s=60, supervisor="s1")
            await gateway.post("/v1/providers/text/pause", {"duration": "1h"})
            with trio.fail_after(5):
                while not (await stream.receive()).startswith(b"event: part\n"):
                    pass
            gateway.world.draining = True
        response = await stream.as_response()
        assert response.content_type == "text/event-stream"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]


async def test_a_stream_ends_with_its_session(autojump_clock: trio.testing.MockClock) -> None:
    async with a_browser() as browser:
        with trio.fail_after(10):
            async with browser.client.request("/console/stream", headers={"Cookie": browser.cookie}) as stream:
                await stream.send_complete()
                await stream.receive()
                browser.gateway.world.clock.move(12 * 3600)


async def test_a_stream_is_for_those_with_a_session_and_the_scope() -> None:
    async with a_browser(ScopeName.MESSAGES_READ) as browser:
        assert (await browser.open("/console/stream/providers")).status == 403
        browser.cookie = ""
        assert (await browser.open("/console/stream")).status == 401
