"""Posting, reading and cancelling single messages."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio

from heliograph.actors.model.attempt import Answer as ProviderAnswer
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Channel, Move, State, WaitingFor
from heliograph.actors.model.provider import Pause, RouteRule
from heliograph.actors.ports.ledger import ClaimRequest, Finish, Park
from heliograph.gateway.api.cluster import FRESH_S
from tests.support.builders import a_provider
from tests.support.gateway_world import EMAIL, SMS, World, a_gateway

FIELDS = {
    "id", "state", "channel", "to", "priority", "category", "provider", "parts", "waiting", "attempts", "created_at",
    "updated_at", "send_at", "expires_at", "tags", "metadata", "reason",
}  # fmt: skip


async def test_a_posted_sms_is_answered_with_every_field_once_it_is_committed() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", SMS)
        assert answer.status == 202
        message = answer.json
        assert set(message) == FIELDS
        assert message["id"].startswith("msg_")
        assert answer.headers["Location"] == f"/v1/messages/{message['id']}"
        assert message | {"id": ""} == {
            "id": "", "state": "queued", "channel": "sms", "to": SMS["to"], "priority": "normal",
            "category": "transactional", "provider": None, "parts": 1, "waiting": None, "attempts": [],
            "created_at": "2026-11-24T12:00:00Z", "updated_at": "2026-11-24T12:00:00Z", "send_at": None,
            "expires_at": "2026-11-25T12:00:00Z", "tags": [], "metadata": {}, "reason": None,
        }  # fmt: skip
        read = await gateway.get(f"/v1/messages/{message['id']}")
        assert read.status == 200
        assert read.json == message


async def test_an_email_keeps_all_that_was_posted() -> None:
    posted = {
        **EMAIL,
        "html": "<p>Hello</p>",
        "from": "Shop <hi@shop.in>",
        "reply_to": "help@shop.in",
        "cc": ["c@shop.in"],
        "bcc": ["b@shop.in"],
        "headers": {"X-Order": "17"},
        "attachments": [{"filename": "bill.pdf", "content_type": "application/pdf", "content": "aGVsbG8="}],
        "priority": "urgent",
        "category": "otp",
        "tags": ["a", "b"],
        "metadata": {"order": {"id": 17, "lines": [1, 2.5, None, True]}},
        "providers": ["post"],
    }
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", posted)
        assert answer.status == 202, answer.raw
        assert answer.json["metadata"] == posted["metadata"]
        assert answer.json["tags"] == ["a", "b"]
        [message] = gateway.world.accepted[0].messages
        assert message.recipients == 3
        content = message.content
        assert (content.subject, content.text, content.html) == ("Hello", "Hello, Asha.", "<p>Hello</p>")
        assert (content.sender, content.reply_to, content.cc, content.bcc) == (
            "Shop <hi@shop.in>", "help@shop.in", ("c@shop.in",), ("b@shop.in",),
        )  # fmt: skip
        assert content.headers == (("X-Order", "17"),)
        assert content.attachments[0].content_base64 == "aGVsbG8="


async def test_sms_options_travel_with_the_message() -> None:
    options = {"sender_id": "SHOPIN", "dlt_template_id": "1107", "dlt_entity_id": "1101", "dlt_variables": ["17", "x"]}
    async with a_gateway() as gateway:
        await gateway.accepted(sms=options)
        content = gateway.world.accepted[0].messages[0].content
        assert (content.sender_id, content.dlt_template_id, content.dlt_entity_id, content.dlt_variables) == (
            "SHOPIN", "1107", "1101", ("17", "x"),
        )  # fmt: skip


async def test_the_trace_parent_is_taken_in_and_nonsense_is_not() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with a_gateway() as gateway:
        await gateway.post("/v1/messages", SMS, headers={"traceparent": trace})
        await gateway.post("/v1/messages", SMS, headers={"traceparent": "nonsense"})
        given = [acceptance.messages[0].traceparent for acceptance in gateway.world.accepted]
        assert given == [trace, None]


async def test_a_message_for_later_is_scheduled_and_says_until_when() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", {**SMS, "send_at": "2026-11-24T19:30:00+05:30"})
        assert answer.json["state"] == "scheduled"
        assert answer.json["send_at"] == "2026-11-24T14:00:00Z"
        assert answer.json["expires_at"] == "2026-11-25T14:00:00Z"
        assert answer.json["waiting"] == {"for": "send_at", "provider": None, "until": "2026-11-24T14:00:00Z"}
        read = await gateway.get(f"/v1/messages/{answer.json['id']}")
        assert read.json["waiting"] == answer.json["waiting"]


async def test_a_send_at_in_the_past_means_now() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.post("/v1/messages", {**SMS, "send_at": "2026-11-24T11:00:00Z"})
        assert (answer.status, answer.json["state"]) == (202, "queued")


async def test_what_a_test_key_sends_is_not_live() -> None:
    world = World(providers=[a_provider("sandbox", Channel.SMS, name="text")])
    async with a_gateway(world) as gateway:
        secret = await world.key(live=False)
        assert secret.startswith("hg_test_")
        assert (await gateway.post("/v1/messages", SMS, secret=secret)).status == 202
        assert world.accepted[0].messages[0].live is False


async def test_a_long_sms_counts_its_parts_and_too_long_a_one_is_refused_with_the_count() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/messages", {**SMS, "text": "नमस्ते " * 20})).json["parts"] == 3
        answer = await gateway.post("/v1/messages", {**SMS, "text": "a" * 1531})
        assert answer.status == 422
        [error] = answer.json["errors"]
        assert error["pointer"] == "#/text"
        assert "11 parts" in error["detail"]


async def test_a_message_is_listed_newest_first_in_pages() -> None:
    async with a_gateway() as gateway:
        ids = []
        for _ in range(5):
            ids.append(await gateway.accepted(tags=["x"]))
            gateway.world.clock.move(1)
        first = (await gateway.get("/v1/messages?limit=2")).json
        assert [m["id"] for m in first["data"]] == [ids[4], ids[3]]
        assert first["has_more"] is True
        assert set(first["data"][0]) == FIELDS
        second = (await gateway.get(f"/v1/messages?limit=2&cursor={first['next_cursor']}")).json
        third = (await gateway.get(f"/v1/messages?limit=2&cursor={second['next_cursor']}")).json
        assert [m["id"] for m in second["data"] + third["data"]] == [ids[2], ids[1], ids[0]]
        assert (third["has_more"], third["next_cursor"]) == (False, None)


async def test_a_list_can_be_narrowed_by_every_filter_together() -> None:
    async with a_gateway() as gateway:
        mine = await gateway.accepted(tags=["mine"])
        await gateway.accepted(tags=["other"])
        await gateway.post("/v1/messages", EMAIL)
        query = "state=queued&channel=sms&to=%2B919876540000&tag=mine"
        query += "&since=2026-11-24T11:00:00Z&until=2026-11-24T18:00:00%2B05:30"
        found = (await gateway.get(f"/v1/messages?{query}")).json
        assert [m["id"] for m in found["data"]] == [mine]
        assert (await gateway.get("/v1/messages?state=failed")).json["data"] == []
        unescaped = (await gateway.get("/v1/messages?tag=mine&until=2026-11-24T18:00:00+05:30")).json
        assert [m["id"] for m in unescaped["data"]] == [mine]
        plus = (await gateway.get("/v1/messages?tag=mine&to=+919876540000")).json
        assert [m["id"] for m in plus["data"]] == [mine]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "?limit"),
        ("limit=201", "?limit"),
        ("limit=ten", "?limit"),
        ("limit=1.0", "?limit"),
        ("limit=5&limit=6", "?limit"),
        ("cursor=nonsense", "?cursor"),
        ("cursor=", "?cursor"),
        ("state=lost", "?state"),
        ("channel=fax", "?channel"),
        ("since=yesterday", "?since"),
        ("since=2026-11-24T12:00:00", "?since"),
        ("to=%00", "?to"),
        ("to=%ff", "?"),
        ("colour=red", "?colour"),
    ],
)
async def test_a_wrong_query_is_422_and_names_the_parameter(query: str, pointer: str) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get(f"/v1/messages?{query}")
        assert answer.status == 422
        assert pointer in {error["pointer"] for error in answer.json["errors"]}


async def test_every_fault_of_a_query_is_reported_at_once() -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get("/v1/messages?limit=0&state=lost&colour=red&since=x")
        assert {e["pointer"] for e in answer.json["errors"]} == {"?limit", "?state", "?colour", "?since"}


async def test_a_cursor_that_was_cut_changed_or_taken_from_another_list_is_refused() -> None:
    async with a_gateway() as gateway:
        for _ in range(3):
            await gateway.accepted()
        cursor = (await gateway.get("/v1/messages?limit=1")).json["next_cursor"]
        swapped = ("A" if cursor[5] != "A" else "B").join([cursor[:5], cursor[6:]])
        for wrong in (cursor[:-1], swapped, cursor + "A", cursor + "="):
            assert (await gateway.get(f"/v1/messages?cursor={wrong}")).status == 422
        assert (await gateway.get(f"/v1/keys?cursor={cursor}")).status == 422


async def test_a_waiting_message_can_be_cancelled_once() -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        cancelled = await gateway.post(f"/v1/messages/{message_id}/cancel")
        assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
        again = await gateway.post(f"/v1/messages/{message_id}/cancel")
        assert (again.status, again.json["code"]) == (409, "conflict")


async def test_an_unknown_message_is_404_for_every_call_on_it() -> None:
    async with a_gateway() as gateway:
        unknown = "msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F"
        assert (await gateway.get(f"/v1/messages/{unknown}")).status == 404
        assert (await gateway.post(f"/v1/messages/{unknown}/cancel")).status == 404
        assert (await gateway.get("/v1/messages/nonsense")).status == 404


async def test_a_tenant_sees_only_its_own_messages_and_the_default_tenants_admin_sees_all() -> None:
    async with a_gateway() as gateway:
        theirs = await gateway.world.key(tenant="acme")
        posted = (await gateway.post("/v1/messages", SMS, secret=theirs)).json["id"]
        mine = await gateway.accepted()
        assert (await gateway.get(f"/v1/messages/{mine}", secret=theirs)).status == 404
        assert (await gateway.post(f"/v1/messages/{mine}/cancel", secret=theirs)).status == 404
        listed = (await gateway.get("/v1/messages", secret=theirs)).json["data"]
        assert [m["id"] for m in listed] == [posted]
        assert {m["id"] for m in (await gateway.get("/v1/messages")).json["data"]} == {mine, posted}


async def test_a_due_message_waits_for_its_paused_provider_and_says_until_when() -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        until = gateway.world.clock.now() + timedelta(hours=1)
        await gateway.world.ledger.cluster.pause("text", Pause(until=until, reason="billing"))
        waiting = (await gateway.get(f"/v1/messages/{message_id}")).json["waiting"]
        assert waiting == {"for": "paused", "provider": "text", "until": "2026-11-24T13:00:00Z"}


async def test_what_was_put_off_for_the_rate_before_a_pause_waits_for_the_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        ledger, now = gateway.world.ledger, gateway.world.clock.now()
        await ledger.delivery.park([Park(message_id, 3.0, WaitingFor.RATE, "text")])
        path = f"/v1/messages/{message_id}"
        assert (await gateway.get(path)).json["waiting"]["for"] == "rate"
        await ledger.cluster.pause("text", Pause(until=now + timedelta(hours=1), reason=None))
        await trio.sleep(FRESH_S)
        waiting = (await gateway.get(path)).json["waiting"]
        assert waiting == {"for": "paused", "provider": "text", "until": "2026-11-24T13:00:00Z"}


async def test_a_due_message_waits_for_nothing_while_one_provider_could_be_asked() -> None:
    providers = [a_provider(name=name, channel=Channel.SMS) for name in ("first", "second")]
    async with a_gateway(World(providers=providers)) as gateway:
        message_id = await gateway.accepted()
        until = gateway.world.clock.now() + timedelta(hours=1)
        await gateway.world.ledger.cluster.pause("first", Pause(until=until, reason=None))
        assert (await gateway.get(f"/v1/messages/{message_id}")).json["waiting"] is None


async def test_a_message_that_no_provider_could_ever_take_is_refused_with_the_reasons() -> None:
    async with a_gateway(World(providers=[a_provider(name="post", channel=Channel.EMAIL)])) as gateway:
        answer = await gateway.post("/v1/messages", SMS)
        assert (answer.status, answer.json["code"]) == (422, "no_route")
        named = await gateway.post("/v1/messages", {**EMAIL, "providers": ["nobody"]})
        assert (named.status, named.json["code"]) == (422, "no_route")
        assert named.json["errors"][0]["pointer"] == "#/providers"
        assert "post: not_named" in named.json["detail"]


async def test_a_provider_named_by_the_message_is_refused_for_its_own_reason() -> None:
    indian = a_provider(name="indian", channel=Channel.SMS, routes=RouteRule(countries=frozenset({"IN"})))
    async with a_gateway(World(providers=[indian, a_provider(name="other", channel=Channel.SMS)])) as gateway:
        abroad = await gateway.post("/v1/messages", {**SMS, "to": "+27821234567", "providers": ["indian"]})
        assert abroad.json["errors"][0]["pointer"] == "#/to"


async def test_more_recipients_than_any_provider_takes_at_once_have_a_code_of_their_own() -> None:
    async with a_gateway(World(providers=[a_provider(name="post", rate=10, burst=3)])) as gateway:
        answer = await gateway.post("/v1/messages", {**EMAIL, "cc": [f"c{n}@shop.in" for n in range(5)]})
        assert (answer.status, answer.json["code"]) == (422, "too_many_recipients")


async def test_a_message_that_a_provider_has_names_it_and_the_open_attempt() -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        await gateway.world.ledger.delivery.claim([ClaimRequest(message_id, "text", 13.0)], supervisor="s1")
        message = (await gateway.get(f"/v1/messages/{message_id}")).json
        assert (message["state"], message["provider"], message["waiting"]) == ("sending", "text", None)
        [attempt] = message["attempts"]
        assert attempt == {
            "number": 1, "provider": "text", "started_at": "2026-11-24T12:00:00Z", "finished_at": None,
            "outcome": None, "code": None, "detail": None, "provider_message_id": None, "settled": None,
            "settled_at": None,
        }  # fmt: skip
        [listed] = (await gateway.get("/v1/messages?state=sending")).json["data"]
        assert (listed["id"], listed["provider"]) == (message_id, "text")


async def test_a_message_that_backs_off_says_until_when() -> None:
    async with a_gateway() as gateway:
        message_id = await gateway.accepted()
        ledger = gateway.world.ledger.delivery
        [claimed] = await ledger.claim([ClaimRequest(message_id, "text", 13.0)], supervisor="s1")
        finish = Finish(
            message_id=message_id,
            number=1,
            provider="text",
            started_at=claimed.started_at,
            finished_at=gateway.world.clock.now(),
            answer=ProviderAnswer(outcome=Outcome.DEFERRED, code="503"),
            move=Move(state=State.QUEUED, due_in_s=60, waiting_for=WaitingFor.BACKOFF, counted=1),
        )
        await ledger.finish([finish], supervisor="s1")
        message = (await gateway.get(f"/v1/messages/{message_id}")).json
        assert message["waiting"] == {"for": "backoff", "provider": None, "until": "2026-11-24T12:01:00Z"}
        assert (message["state"], message["provider"], message["attempts"][0]["outcome"]) == (
            "queued",
            None,
            "deferred",
        )
        [listed] = (await gateway.get("/v1/messages")).json["data"]
        assert listed["waiting"] == message["waiting"]
