"""Providers, keys, stats and the pages that are open to all."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
import trio

from heliograph.actors.model.access import ScopeName
from heliograph.actors.model.message import LANES, Channel
from heliograph.actors.model.provider import BreakerState, ProviderReport, Quota
from heliograph.gateway.api.providers import BRIDGE_S
from heliograph.gateway.health import Check
from tests.support.builders import a_provider
from tests.support.gateway_world import SMS, Gateway, World, a_gateway


async def report(gateway: Gateway, supervisor: str, name: str = "text", **fields: Any) -> None:
    known: dict[str, Any] = {
        "name": name,
        "breaker": BreakerState.CLOSED,
        "breaker_since": gateway.world.clock.now() - timedelta(minutes=5),
        "breaker_until": None,
        "effective_rate": 1000.0,
        "in_flight": 2,
        "handled": 30,
    }
    cluster = gateway.world.ledger.cluster
    await cluster.join(supervisor, roles=["delivery"], metrics_url="http://127.0.0.1:9464")
    await cluster.beat(supervisor, [ProviderReport(**known | fields)])


async def one_provider(gateway: Gateway, name: str = "text") -> Any:
    found = (await gateway.get("/v1/providers")).json["data"]
    return next(provider for provider in found if provider["name"] == name)


async def test_a_provider_is_shown_with_every_field_before_any_supervisor_has_spoken() -> None:
    async with a_gateway() as gateway:
        assert await one_provider(gateway) == {
            "name": "text", "kind": "sandbox", "channel": "sms", "priority": 1, "weight": 1, "paused": None,
            "breaker": {"state": "closed", "since": None, "until": None, "forced": False},
            "limiter": {"rate": 1000, "burst": 1000, "effective_rate": 1000}, "quota": None, "in_flight": 0,
            "share": 0.0,
        }  # fmt: skip


async def test_the_clusters_view_adds_up_what_supervisors_report() -> None:
    providers = [a_provider(name=n, channel=Channel.SMS) for n in ("text", "other")]
    async with a_gateway(World(providers=providers)) as gateway:
        opened = gateway.world.clock.now()
        await report(gateway, "s1", effective_rate=10.0)
        await report(gateway, "s2", breaker=BreakerState.OPEN, breaker_since=opened, effective_rate=20.0)
        await report(gateway, "s3", "other", handled=40)
        provider = await one_provider(gateway)
        assert (provider["in_flight"], provider["share"]) == (4, 0.6)
        assert provider["limiter"]["effective_rate"] == 10.0
        assert provider["breaker"]["state"] == "open"  # the newest word holds
        each = (await gateway.get("/v1/providers?view=supervisors")).json["data"]
        assert {s["supervisor"] for s in each} == {"s1", "s2", "s3"}
        assert each[0]["providers"][0]["handled"] == 30


async def test_a_quota_is_shown_as_the_supervisor_tells_that_has_seen_the_least_of_it() -> None:
    providers = [a_provider(name="text", channel=Channel.SMS, quota=Quota(1000, 86_400.0))]
    async with a_gateway(World(providers=providers)) as gateway:
        await report(gateway, "s1", quota_remaining=80)
        await report(gateway, "s2", quota_remaining=75)
        await report(gateway, "s3")
        assert (await one_provider(gateway))["quota"] == {"limit": 1000, "remaining": 75}


async def test_what_waits_for_a_quota_says_so_and_until_when() -> None:
    providers = [a_provider(name="text", channel=Channel.SMS, quota=Quota(1000, 86_400.0))]
    async with a_gateway(World(providers=providers)) as gateway:
        until = gateway.world.clock.now() + timedelta(hours=2)
        await report(gateway, "s1", quota_remaining=40, quota_until=until)
        ordinary, urgent = await gateway.accepted(), await gateway.accepted(priority="urgent")
        waiting = (await gateway.get(f"/v1/messages/{ordinary}")).json["waiting"]
        assert waiting == {"for": "quota", "provider": "text", "until": "2026-11-24T14:00:00Z"}
        assert (await gateway.get(f"/v1/messages/{urgent}")).json["waiting"] is None
    async with a_gateway(World(providers=providers)) as gateway:
        await report(gateway, "s1", quota_remaining=0, quota_until=until)
        urgent = await gateway.accepted(priority="urgent")
        waiting = (await gateway.get(f"/v1/messages/{urgent}")).json["waiting"]
        assert waiting == {"for": "quota", "provider": "text", "until": "2026-11-24T14:00:00Z"}


async def test_a_provider_is_paused_for_a_time_and_resumed() -> None:
    async with a_gateway() as gateway:
        paused = await gateway.post("/v1/providers/text/pause", {"duration": "1h30m", "reason": "billing"})
        assert paused.status == 200
        assert paused.json["paused"] == {"until": "2026-11-24T13:30:00Z", "reason": "billing"}
        _, paused_for_s = await gateway.world.services.coordination.record("text")
        assert 0 < paused_for_s <= BRIDGE_S, "the supervisors obey the ledger, where it can be taken back"
        resumed = await gateway.post("/v1/providers/text/resume")
        assert (resumed.status, resumed.json["paused"]) == (200, None)
        assert (await gateway.world.services.coordination.record("text"))[1] == 0


async def test_a_resume_is_told_to_every_supervisor_though_there_was_no_pause() -> None:
    async with a_gateway() as gateway:
        resumed = await gateway.post("/v1/providers/text/resume")
        assert (resumed.status, resumed.json["paused"]) == (200, None)
        [controls] = await gateway.world.ledger.cluster.controls()
        assert (controls.pause, controls.resumed_at) == (None, gateway.world.clock.now())


async def test_a_pause_runs_out() -> None:
    async with a_gateway() as gateway:
        await gateway.post("/v1/providers/text/pause", {"duration": "10s"})
        gateway.world.clock.move(11)
        resumed = await gateway.post("/v1/providers/text/breaker", {"state": "auto"})
        assert resumed.json["paused"] is None


async def test_a_breaker_is_held_open_for_a_time_and_left_to_itself_again() -> None:
    async with a_gateway() as gateway:
        held = await gateway.post("/v1/providers/text/breaker", {"state": "open", "duration": "1h"})
        assert held.json["breaker"] == {
            "state": "open", "since": None, "until": "2026-11-24T13:00:00Z", "forced": True,
        }  # fmt: skip
        message_id = await gateway.accepted()
        waiting = (await gateway.get(f"/v1/messages/{message_id}")).json["waiting"]
        assert waiting == {"for": "breaker", "provider": "text", "until": "2026-11-24T13:00:00Z"}
        auto = await gateway.post("/v1/providers/text/breaker", {"state": "auto"})
        assert auto.json["breaker"]["forced"] is False
        assert (await gateway.get(f"/v1/messages/{message_id}")).json["waiting"] is None


async def test_each_supervisor_says_that_its_breaker_is_held_by_an_operator() -> None:
    async with a_gateway() as gateway:
        await report(gateway, "s1", breaker=BreakerState.OPEN)
        await report(gateway, "s2")  # has not heard of it
        await gateway.post("/v1/providers/text/breaker", {"state": "open", "duration": "1h"})
        each = (await gateway.get("/v1/providers?view=supervisors")).json["data"]
        assert {s["supervisor"]: s["providers"][0]["breaker"]["forced"] for s in each} == {"s1": True, "s2": False}


@pytest.mark.parametrize("path", ["pause", "resume", "breaker"])
async def test_one_tenant_does_not_stop_what_serves_all(path: str) -> None:
    async with a_gateway() as gateway:
        theirs = await gateway.world.key(ScopeName.ADMIN, tenant="shop")
        body = {"pause": {"duration": "1h"}, "resume": None, "breaker": {"state": "auto"}}[path]
        answer = await gateway.post(f"/v1/providers/text/{path}", body, secret=theirs)
        assert (answer.status, answer.json["code"]) == (403, "missing_scope")


async def test_redis_being_away_does_not_keep_an_operator_from_pausing() -> None:
    async with a_gateway() as gateway:
        gateway.world.redis.down(True)
        answer = await gateway.post("/v1/providers/text/pause", {"duration": "1h"})
        assert (answer.status, answer.json["paused"]["reason"]) == (200, None)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("pause", {}, "#/duration"),
        ("pause", {"duration": 60}, "#/duration"),
        ("pause", {"duration": "soon"}, "#/duration"),
        ("pause", {"duration": "0s"}, "#/duration"),
        ("pause", {"duration": "1h", "why": "x"}, "#/why"),
        ("breaker", {"state": "open"}, "#/duration"),
        ("breaker", {"state": "half_open", "duration": "1h"}, "#/state"),
    ],
)
async def test_an_operators_word_must_say_for_how_long(path: str, body: Any, pointer: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post(f"/v1/providers/text/{path}", body)
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, pointer)


async def test_a_provider_that_is_not_configured_is_404() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/providers/nobody/pause", {"duration": "1h"})).status == 404
        assert (await gateway.post("/v1/providers/nobody/resume")).status == 404


async def test_keys_are_made_listed_and_revoked() -> None:
    async with a_gateway() as gateway:
        made = await gateway.post("/v1/keys", {"name": "shop", "scopes": ["messages:write"], "live": False})
        assert made.status == 201
        assert made.json["key"].startswith("hg_test_")
        assert (made.json["scopes"], made.json["tenant"], made.json["live"]) == (["messages:write"], "default", False)
        listed = (await gateway.get("/v1/keys")).json["data"]
        assert all("key" not in key and "digest" not in key for key in listed)
        path = f"/v1/keys/{made.json['id']}"
        assert (await gateway.get(path)).json["revoked_at"] is None
        assert (await gateway.post("/v1/messages", SMS, secret=made.json["key"])).status == 202
        revoked = await gateway.ask("DELETE", path)
        assert (revoked.status, revoked.raw) == (204, b"")
        assert (await gateway.get(path)).json["revoked_at"] is not None


async def test_keys_come_in_pages() -> None:
    async with a_gateway() as gateway:
        for n in range(3):
            gateway.world.clock.move(1)
            await gateway.post("/v1/keys", {"name": f"k{n}"})
        first = (await gateway.get("/v1/keys?limit=3")).json
        second = (await gateway.get(f"/v1/keys?limit=3&cursor={first['next_cursor']}")).json
        assert [k["name"] for k in first["data"] + second["data"]] == ["k2", "k1", "k0", "test"]


async def test_an_admin_of_a_tenant_makes_keys_of_that_tenant_only() -> None:
    async with a_gateway() as gateway:
        theirs = await gateway.world.key(tenant="acme")
        made = await gateway.post("/v1/keys", {"name": "k"}, secret=theirs)
        assert made.json["tenant"] == "acme"
        other = await gateway.post("/v1/keys", {"name": "k", "tenant": "default"}, secret=theirs)
        assert (other.status, other.json["errors"][0]["pointer"]) == (422, "#/tenant")
        assert (await gateway.post("/v1/keys", {"name": "k", "tenant": "acme"})).status == 201
        mine = (await gateway.post("/v1/keys", {"name": "k"})).json["id"]
        assert (await gateway.ask("DELETE", f"/v1/keys/{mine}", secret=theirs)).status == 404


async def test_limits_of_a_key_are_told_and_none_is_no_limit() -> None:
    async with a_gateway() as gateway:
        limited = (await gateway.post("/v1/keys", {"name": "k", "rate": 5, "daily": 100})).json
        unlimited = (await gateway.post("/v1/keys", {"name": "k"})).json
        assert [(k["rate"], k["daily"]) for k in (limited, unlimited)] == [(5, 100), (None, None)]
        listed = (await gateway.get("/v1/keys")).json["data"]
        assert {k["id"]: k["rate"] for k in listed}.items() >= {limited["id"]: 5, unlimited["id"]: None}.items()
        assert (await gateway.get(f"/v1/keys/{limited['id']}")).json["daily"] == 100


@pytest.mark.parametrize(("field", "value"), [("rate", 0), ("rate", 1.5), ("daily", -1), ("daily", 10**10)])
async def test_a_limit_is_a_whole_number_of_messages(field: str, value: float) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/keys", {"name": "k", field: value})
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, f"#/{field}")


async def test_stats_name_every_state_queue_and_reason() -> None:
    async with a_gateway() as gateway:
        await gateway.accepted()
        stats = (await gateway.get("/v1/stats")).json
        assert set(stats) == {"messages", "queues", "dead_letters", "rates"}
        assert stats["messages"]["sms"]["queued"] == 1
        assert set(stats["messages"]["email"]) == {
            "scheduled", "queued", "sending", "sent", "delivered", "undelivered", "failed", "expired", "cancelled",
            "suppressed",
        }  # fmt: skip
        assert [q["queue"] for q in stats["queues"]] == [str(lane) for lane in LANES]
        normal = next(q for q in stats["queues"] if q["queue"] == "sms:normal")
        assert (normal["depth"], normal["oldest_age_seconds"]) == (1, 0.0)
        assert stats["rates"] == {"accepted": 1.5, "sent": 1.0, "failed": 0.0}
        assert stats["dead_letters"]["rejected"] == 0


async def test_stats_of_all_tenants_are_not_for_one_of_them() -> None:
    async with a_gateway() as gateway:
        theirs = await gateway.world.key(tenant="acme")
        assert (await gateway.get("/v1/stats", secret=theirs)).status == 403
        assert (await gateway.get("/v1/stats/stream", secret=theirs)).status == 403


async def test_the_stream_sends_the_stats_each_second_until_the_process_drains(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_gateway() as gateway:
        headers = {"Authorization": f"Bearer {gateway.secret}"}
        async with gateway.client.request("/v1/stats/stream", headers=headers) as stream:
            await stream.send_complete()
            began = trio.current_time()
            events = [await stream.receive() for _ in range(3)]
            assert trio.current_time() - began == pytest.approx(2.0)
            for event in events:
                name, data = event.decode().strip().split("\n")
                assert name == "event: stats"
                assert "queues" in orjson.loads(data.removeprefix("data: "))
            gateway.world.ledger_down = True
            await trio.sleep(5)
            events = [await stream.receive() for _ in range(5)]
            assert events[-1].startswith(b": ")
            gateway.world.draining = True
        response = await stream.as_response()
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.content_type == "text/event-stream"


async def test_a_stream_ends_when_its_key_is_revoked(autojump_clock: trio.testing.MockClock) -> None:
    async with a_gateway() as gateway:
        made = (await gateway.post("/v1/keys", {"name": "k"})).json
        with trio.fail_after(10):
            async with gateway.client.request("/v1/stats/stream", headers={"X-API-Key": made["key"]}) as stream:
                await stream.send_complete()
                await stream.receive()
                await gateway.ask("DELETE", f"/v1/keys/{made['id']}")


async def test_liveness_asks_nobody_and_readiness_tells_each_check() -> None:
    async with a_gateway() as gateway:
        gateway.world.ledger_down = True
        assert (await gateway.get("/livez", secret=None)).json == {"status": "live"}
        gateway.world.checks = {"postgres": Check(True, "answers"), "redis": Check(False, "no answer", required=False)}
        ready = await gateway.get("/readyz", secret=None)
        assert ready.status == 200
        assert ready.json["checks"]["redis"] == {"ok": False, "detail": "no answer", "required": False}
        gateway.world.checks = {"postgres": Check(False, "no answer")}
        assert (await gateway.get("/readyz", secret=None)).status == 503
        gateway.world.checks = {}
        gateway.world.draining = True
        draining = await gateway.get("/readyz", secret=None)
        assert draining.status == 503
        assert draining.json["checks"]["draining"]["ok"] is False


async def test_the_documentation_loads_nothing_from_anywhere() -> None:
    async with a_gateway() as gateway:
        page = await gateway.get("/docs", secret=None)
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        text = page.raw.decode()
        assert "<script" not in text
        assert "src=" not in text
        assert "url(" not in text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
        assert "/v1/messages/batch" in text
        assert 'id="no_route"' in text
