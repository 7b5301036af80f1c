"""Who is let in, and to what."""

from __future__ import annotations

import pytest
import trio

from heliograph.actors.model.access import ScopeName
from heliograph.gateway.auth import make_key
from tests.support.gateway_world import SMS, World, a_gateway


async def test_the_key_comes_in_either_header() -> None:
    async with a_gateway() as gateway:
        for headers in (
            {"Authorization": f"Bearer {gateway.secret}"},
            {"Authorization": f"bearer  {gateway.secret} "},
            {"X-API-Key": gateway.secret},
            {"X-API-Key": gateway.secret, "Authorization": f"Bearer {gateway.secret}"},
        ):
            assert (await gateway.get("/v1/messages", secret=None, headers=headers)).status == 200


async def test_two_different_keys_are_400() -> None:
    async with a_gateway() as gateway:
        headers = {"X-API-Key": await gateway.world.key(), "Authorization": f"Bearer {gateway.secret}"}
        answer = await gateway.get("/v1/messages", headers=headers)
        assert (answer.status, answer.json["code"]) == (400, "conflicting_credentials")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer hg_live_short"},
        {"X-API-Key": ""},
        {"X-API-Key": "hg_live_" + "A" * 43},
        {"X-API-Key": "hg_live_" + "A" * 5000},
    ],
)
async def test_no_key_or_a_bad_one_is_401_and_says_how(headers: dict[str, str]) -> None:
    async with a_gateway() as gateway:
        answer = await gateway.get("/v1/messages", secret=None, headers=headers)
        assert (answer.status, answer.json["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_revoked_key_is_refused_within_five_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async with a_gateway() as gateway:
        secret = await gateway.world.key()
        assert (await gateway.get("/v1/messages", secret=secret)).status == 200
        [key] = [k for k in await gateway.world.ledger.keys.list() if secret and k.digest == make_digest(secret)]
        await gateway.world.ledger.keys.revoke(key.id)
        await trio.sleep(4.9)
        answer = await gateway.get("/v1/messages", secret=secret)
        assert (answer.status, answer.json["detail"]) == (401, "this API key was revoked")


def make_digest(secret: str) -> bytes:
    from hashlib import sha256

    return sha256(secret.encode()).digest()


async def test_a_new_key_works_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with a_gateway() as gateway:
        assert (await gateway.get("/v1/messages", secret=await gateway.world.key())).status == 200


async def test_the_ledger_is_asked_for_a_key_once_in_a_while_however_many_requests_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World()
    asked = []
    async with a_gateway(world) as gateway:
        find = world.ledger.keys.find

        async def counted(digest: bytes) -> object:
            asked.append(digest)
            await trio.sleep(0.1)
            return await find(digest)

        world.ledger.keys.find = counted  # type: ignore[method-assign,assignment]
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(gateway.get, "/v1/messages")
        assert len(asked) == 1
        await trio.sleep(3)
        await gateway.get("/v1/messages")
        assert len(asked) == 2


async def test_without_the_ledger_nobody_can_be_let_in_and_that_is_503(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_gateway() as gateway:
        gateway.world.ledger_down = True
        answer = await gateway.get("/v1/messages")
        assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "unavailable", "5")


CALLS = [
    ("POST", "/v1/messages", ScopeName.MESSAGES_WRITE),
    ("POST", "/v1/messages/batch", ScopeName.MESSAGES_WRITE),
    ("POST", "/v1/messages/msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F/cancel", ScopeName.MESSAGES_WRITE),
    ("GET", "/v1/messages", ScopeName.MESSAGES_READ),
    ("GET", "/v1/messages/msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F", ScopeName.MESSAGES_READ),
    ("GET", "/v1/dead-letters", ScopeName.DEAD_LETTERS_READ),
    ("GET", "/v1/dead-letters/groups", ScopeName.DEAD_LETTERS_READ),
    ("GET", "/v1/dead-letters/msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F", ScopeName.DEAD_LETTERS_READ),
    ("POST", "/v1/dead-letters/redrive", ScopeName.DEAD_LETTERS_WRITE),
    ("POST", "/v1/dead-letters/archive", ScopeName.DEAD_LETTERS_WRITE),
    ("POST", "/v1/dead-letters/discard", ScopeName.DEAD_LETTERS_WRITE),
    ("POST", "/v1/operations/op_01JD3Q8ZK4A7XNVT0B2C9M5E6F/cancel", ScopeName.DEAD_LETTERS_WRITE),
    ("GET", "/v1/suppressions", ScopeName.MESSAGES_READ),
    ("POST", "/v1/suppressions", ScopeName.MESSAGES_WRITE),
    ("GET", "/v1/suppressions/sup_01JD3Q8ZK4A7XNVT0B2C9M5E6F", ScopeName.MESSAGES_READ),
    ("DELETE", "/v1/suppressions/sup_01JD3Q8ZK4A7XNVT0B2C9M5E6F", ScopeName.MESSAGES_WRITE),
    ("GET", "/v1/providers", ScopeName.PROVIDERS_READ),
    ("POST", "/v1/providers/text/pause", ScopeName.PROVIDERS_WRITE),
    ("POST", "/v1/providers/text/resume", ScopeName.PROVIDERS_WRITE),
    ("POST", "/v1/providers/text/breaker", ScopeName.PROVIDERS_WRITE),
    ("GET", "/v1/stats", ScopeName.MESSAGES_READ),
    ("GET", "/v1/keys", ScopeName.ADMIN),
    ("POST", "/v1/keys", ScopeName.ADMIN),
    ("GET", "/v1/keys/key_01JD3Q8ZK4A7XNVT0B2C9M5E6F", ScopeName.ADMIN),
    ("DELETE", "/v1/keys/key_01JD3Q8ZK4A7XNVT0B2C9M5E6F", ScopeName.ADMIN),
]


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
async def test_each_call_needs_its_scope_and_names_it(method: str, path: str, scope: ScopeName) -> None:
    async with a_gateway() as gateway:
        others = await gateway.world.key(*(s for s in ScopeName if s not in (scope, ScopeName.ADMIN)))
        answer = await gateway.ask(method, path, secret=others)
        assert (answer.status, answer.json["code"]) == (403, "missing_scope")
        assert str(scope) in answer.json["detail"]
        its = await gateway.world.key(scope)
        assert (await gateway.ask(method, path, secret=its)).status not in (401, 403)


async def test_who_may_start_an_operation_may_see_what_became_of_it() -> None:
    path = "/v1/operations/op_01JD3Q8ZK4A7XNVT0B2C9M5E6F"
    either = {ScopeName.DEAD_LETTERS_READ, ScopeName.DEAD_LETTERS_WRITE}
    async with a_gateway() as gateway:
        others = await gateway.world.key(*set(ScopeName) - either - {ScopeName.ADMIN})
        answer = await gateway.get(path, secret=others)
        assert answer.status == 403
        assert "dead_letters:read or dead_letters:write" in answer.json["detail"]
        for scope in either:
            assert (await gateway.get(path, secret=await gateway.world.key(scope))).status == 404


async def test_a_bad_key_is_refused_before_the_body_is_looked_at() -> None:
    async with a_gateway() as gateway:
        assert (await gateway.post("/v1/messages", raw=b"{", secret=None)).status == 401
        readers = await gateway.world.key(ScopeName.MESSAGES_READ)
        assert (await gateway.post("/v1/messages", SMS, secret=readers)).status == 403


def test_a_key_is_256_random_bits_and_only_its_digest_is_kept() -> None:
    world_time = World().clock.now()
    key, secret = make_key("n", now=world_time)
    other, other_secret = make_key("n", now=world_time)
    assert len(secret) == len("hg_live_") + 43
    assert secret != other_secret
    assert key.digest == make_digest(secret)
    assert key.id != other.id
    assert secret not in repr(key)
