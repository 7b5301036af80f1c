"""In whose name SES is asked: configured keys, temporary ones, and those that AWS gives to where a program runs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from heliograph.actors.model.attempt import Answer, Outcome
from heliograph.providers import KINDS
from heliograph.providers.ses import SesCourier, credentials
from heliograph.providers.ses.credentials import Lease, RenewedKeys, Unavailable, surroundings
from heliograph.providers.signing import AwsCredentials
from tests.conformance.rigs import CREDENTIALS, http_settings
from tests.support.builders import a_call, an_email
from tests.support.emulators import Emulator, Mode, Ses, running
from tests.support.emulators.aws_keys import AGENT_TOKEN, Agent, Instance, issued

KEYS = {"ASIA1": ("secret-1", "token-1"), "ASIA2": ("secret-2", "token-2")}
HOUR_S = 3600.0


def keys(name: str = "ASIA1", lasts_s: float = 6 * HOUR_S) -> dict[str, Any]:
    return issued(name, *KEYS[name], time.time() + lasts_s)


@asynccontextmanager
async def ses(
    environment: Mapping[str, str], given: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[SesCourier, Emulator]]:
    """A courier of SES with these credentials, the region alone by default; it knows the keys of KEYS."""
    async with running(Ses(keys=KEYS)) as emulator:
        settings = http_settings("ses", emulator.url, credentials=given or {"region": "ap-south-1"})
        courier = SesCourier(KINDS["ses"].prepare(settings), environment=environment)
        try:
            yield courier, emulator
        finally:
            await courier.aclose()


async def send(courier: SesCourier, begun: list[None] | None = None) -> Answer:
    calls = [] if begun is None else begun
    (answer,) = await courier.send([a_call(an_email("asha@example.net"))], lambda: calls.append(None))
    return answer


# ----------------------------------------------------------------------------------------------- configured


async def test_temporary_keys_of_the_configuration_sign_with_their_token() -> None:
    given = {"region": "ap-south-1", "access_key_id": "ASIA1", "secret_access_key": "secret-1"}
    async with ses({}, given | {"session_token": "token-1"}) as (courier, emulator):
        assert (await send(courier)).outcome is Outcome.ACCEPTED
        sent = emulator.requests[-1].headers
        assert sent["x-amz-security-token"] == "token-1"
        assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token," in sent["authorization"]


async def test_configured_keys_win_over_the_surroundings() -> None:
    async with running(Instance(lambda: keys("ASIA2"))) as instance:
        given = {"region": "ap-south-1", "access_key_id": "ASIA1", "secret_access_key": "secret-1"}
        where = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url}
        async with ses(where, given | {"session_token": "token-1"}) as (courier, _):
            assert (await send(courier)).outcome is Outcome.ACCEPTED
        assert instance.seen.calls == 0


async def test_configured_keys_that_are_over_are_the_accounts_fault_and_are_not_tried_again() -> None:
    given = {"region": "ap-south-1", "access_key_id": "ASIA1", "secret_access_key": "secret-1"}
    async with ses({}, given | {"session_token": "token-1"}) as (courier, emulator):
        api = emulator.api
        assert isinstance(api, Ses)
        api.over = {"ASIA1"}
        answer = await send(courier)
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "ExpiredTokenException")
        assert emulator.seen.calls == 1


async def test_no_secret_gets_into_an_answer() -> None:
    """SES repeats what it was told when a signature is wrong."""
    given = {"region": "ap-south-1", "access_key_id": "ASIA1", "secret_access_key": "wrong-secret"}
    async with ses({}, given | {"session_token": "token-1"}) as (courier, _):
        answer = await send(courier)
        assert answer.code == "SignatureDoesNotMatch"
        assert answer.detail
        assert "x-amz-security-token" in answer.detail
        assert "token-1" not in answer.detail
        shown = repr(courier) + repr(vars(courier)) + repr(vars(courier._signed))
        assert "wrong-secret" not in shown
        assert "token-1" not in shown


# ---------------------------------------------------------------------------------------------- instance


async def test_an_instance_gives_the_keys_of_its_role() -> None:
    async with running(Instance(keys)) as instance:
        async with ses({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url}) as (courier, emulator):
            for _ in range(3):
                assert (await send(courier)).outcome is Outcome.ACCEPTED
            assert (await courier.check()).outcome is Outcome.ACCEPTED
            assert await courier.allowance() is not None
            assert emulator.requests[-1].headers["x-amz-security-token"] == "token-1"
        assert [(request.method, request.path.rpartition("/")[2]) for request in instance.requests] == [
            ("PUT", "token"),
            ("GET", ""),
            ("GET", "mail-sender"),
        ]


async def test_an_instance_without_a_role_is_told_and_nothing_is_sent() -> None:
    api = Instance(keys)
    api.role = ""
    async with (
        running(api) as instance,
        ses({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url}) as (courier, emulator),
    ):
        begun: list[None] = []
        answer = await send(courier, begun)
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "credentials")
        assert answer.detail == (
            "no AWS credentials: the instance's metadata service answers 404: has it a role that may be used?"
        )
        assert (await courier.check()).outcome is Outcome.MISCONFIGURED
        assert await courier.allowance() is None
        assert (begun, emulator.seen.calls) == ([], 0)


async def test_where_no_metadata_service_is_the_provider_is_misconfigured(unused_port: int) -> None:
    where = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{unused_port}"}
    async with ses(where) as (courier, emulator):
        answer = await send(courier)
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "credentials")
        assert "none are configured" in (answer.detail or "")
        assert emulator.seen.calls == 0


async def test_an_instance_is_not_asked_where_the_environment_forbids_it() -> None:
    async with running(Instance(keys)) as instance:
        where = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url, "AWS_EC2_METADATA_DISABLED": "true"}
        async with ses(where) as (courier, _):
            answer = await send(courier)
            assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "credentials")
        assert instance.seen.calls == 0


@pytest.mark.parametrize(
    "said",
    [
        {"Code": "AssumeRoleUnauthorizedAccess"},
        {"Code": "Success", "AccessKeyId": "ASIA1"},
        {**keys(), "Token": 7},
        {**keys(), "SecretAccessKey": "two\nlines"},
        {**keys(), "Expiration": "soon"},
        {**keys(), "Expiration": "2099-01-01T00:00:00"},
        {**keys(), "Expiration": None},
        keys(lasts_s=-HOUR_S),
    ],
)
async def test_keys_that_cannot_be_read_or_are_over_are_none(said: dict[str, Any]) -> None:
    async with (
        running(Instance(lambda: said)) as instance,
        ses({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url}) as (courier, emulator),
    ):
        answer = await send(courier)
        assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "credentials")
        assert "secret" not in (answer.detail or "")
        assert emulator.seen.calls == 0


@pytest.mark.parametrize("mode", [Mode.REDIRECT, Mode.GARBAGE, Mode.CUT, Mode.HTML, Mode.UNAVAILABLE])
async def test_a_metadata_service_that_fails_is_told(mode: Mode) -> None:
    async with running(Instance(keys)) as instance:
        instance.set(mode)
        async with ses({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url}) as (courier, emulator):
            assert (await send(courier)).outcome is Outcome.MISCONFIGURED
            assert emulator.seen.calls == 0


# --------------------------------------------------------------------------------------------- container


async def test_a_containers_agent_gives_keys_by_a_relative_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Agent(keys)) as agent:
        monkeypatch.setattr(credentials, "CONTAINER", agent.url)
        async with ses({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials?id=7f0c"}) as (courier, _):
            assert (await send(courier)).outcome is Outcome.ACCEPTED
        assert agent.seen.calls == 1


@pytest.mark.parametrize("by_file", [False, True])
async def test_a_containers_agent_is_shown_the_token_that_it_asks_for(by_file: bool, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{AGENT_TOKEN}\n")
    name = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
    where = {f"{name}_FILE": str(file), name: "not this one"} if by_file else {name: AGENT_TOKEN}
    api = Agent(keys)
    api.token = AGENT_TOKEN
    async with running(api) as agent:
        address = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/v2/credentials?id=7f0c"}
        async with ses(address | where) as (courier, _):
            assert (await send(courier)).outcome is Outcome.ACCEPTED
        async with ses(address) as (courier, emulator):
            assert (await send(courier)).outcome is Outcome.MISCONFIGURED
            assert emulator.seen.calls == 0


@pytest.mark.parametrize("token", ["two\nlines", "bé"])
async def test_a_token_that_is_no_header_is_not_sent(token: str) -> None:
    async with running(Agent(keys)) as agent:
        where = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/v2/credentials?id=7f0c"}
        async with ses(where | {"AWS_CONTAINER_AUTHORIZATION_TOKEN": token}) as (courier, _):
            answer = await send(courier)
            assert (answer.outcome, answer.code) == (Outcome.MISCONFIGURED, "credentials")
        async with ses(where | {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/no/such/file"}) as (courier, _):
            assert "cannot be read" in ((await send(courier)).detail or "")
        assert agent.seen.calls == 0


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("http://169.254.170.2/v2/credentials", True),
        ("http://169.254.170.23/v1/credentials", True),
        ("http://[fd00:ec2::23]/v1/credentials", True),
        ("http://localhost:8080/credentials", True),
        ("http://127.7.7.7/credentials", True),
        ("http://[::1]:8080/credentials", True),
        ("https://anywhere.example/credentials", True),
        ("http://169.254.170.3/credentials", False),
        ("http://example.com/credentials", False),
        ("http://localhost.example.com/credentials", False),
        ("http://127.0.0.1@example.com/credentials", False),
        ("http://192.168.0.1/credentials", False),
        ("ftp://localhost/credentials", False),
        ("http://localhost/a b", False),
        ("localhost/credentials", False),
        ("http://[::1", False),
    ],
)
def test_only_hosts_that_aws_names_are_asked_in_the_clear(url: str, may: bool) -> None:
    if may:
        base, target = credentials._container(url)
        assert target.endswith("/credentials")
        assert base.host in url
        return
    with pytest.raises(Unavailable) as refused:
        credentials._container(url)
    assert "AWS_CONTAINER_CREDENTIALS_" in str(refused.value)


async def test_an_address_that_may_not_be_asked_stops_this_provider_alone() -> None:
    for where in (
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/keys"},
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "@example.com/keys"},
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "nowhere"},
    ):
        with pytest.raises(Unavailable):
            await surroundings(where).fetch()
        async with ses(where) as (courier, emulator):
            assert (await send(courier)).outcome is Outcome.MISCONFIGURED
            assert emulator.seen.calls == 0


# ----------------------------------------------------------------------------------------------- renewal


@dataclass(slots=True)
class Well:
    """A source on a clock of its own: each fetch gives new keys, for an hour; `dry` it gives none."""

    now_s: float = 1_000_000.0
    lasts_s: float = HOUR_S
    fetched: int = 0
    dry: bool = False
    opened: trio.Event = field(default_factory=trio.Event)

    async def fetch(self) -> Lease:
        self.fetched += 1
        number = self.fetched
        await self.opened.wait()
        if self.dry:
            raise Unavailable("the well is dry")
        return Lease(AwsCredentials(f"ASIA{number}", "secret", "token"), self.now_s + self.lasts_s)


@pytest.fixture
def well() -> Well:
    well = Well()
    well.opened.set()
    return well


async def key_of(keys: RenewedKeys) -> str:
    return (await keys.get()).access_key_id


async def test_keys_are_renewed_a_quarter_of_an_hour_before_they_end(well: Well) -> None:
    keys = RenewedKeys(well, lambda: well.now_s)
    assert await key_of(keys) == "ASIA1"
    well.now_s += 44 * 60
    assert await key_of(keys) == "ASIA1"
    well.now_s += 2 * 60
    assert (await key_of(keys), well.fetched) == ("ASIA2", 2)


async def test_keys_that_cannot_be_renewed_are_used_as_long_as_they_last(well: Well) -> None:
    keys = RenewedKeys(well, lambda: well.now_s)
    await keys.get()
    well.dry = True
    well.now_s += 50 * 60
    assert await key_of(keys) == "ASIA1"
    assert await key_of(keys) == "ASIA1"
    assert well.fetched == 2
    well.now_s += 9 * 60
    assert await key_of(keys) == "ASIA1"
    well.now_s += 60
    with pytest.raises(Unavailable, match="the well is dry"):
        await keys.get()
    well.dry = False
    well.now_s += 10
    assert await key_of(keys) == "ASIA5"


async def test_after_a_failure_nobody_is_asked_again_for_some_seconds(well: Well) -> None:
    well.dry = True
    keys = RenewedKeys(well, lambda: well.now_s)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await keys.get()
    assert well.fetched == 1
    well.now_s += 6
    with pytest.raises(Unavailable):
        await keys.get()
    assert well.fetched == 2


async def test_keys_that_come_with_little_time_left_are_not_asked_for_with_each_call(well: Well) -> None:
    well.lasts_s = 10 * 60.0
    keys = RenewedKeys(well, lambda: well.now_s)
    for _ in range(5):
        assert await key_of(keys) == "ASIA1"
    well.now_s += 61
    assert (await key_of(keys), well.fetched) == ("ASIA2", 2)


async def test_many_calls_at_once_fetch_once(well: Well, autojump_clock: trio.testing.MockClock) -> None:
    well.opened = trio.Event()
    keys = RenewedKeys(well, lambda: well.now_s)
    got: list[str] = []

    async def one() -> None:
        got.append(await key_of(keys))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
        await trio.sleep(1)
        well.opened.set()
    assert (got, well.fetched) == (["ASIA1"] * 20, 1)


async def test_calls_go_on_with_the_old_keys_while_new_ones_are_fetched(
    well: Well, autojump_clock: trio.testing.MockClock
) -> None:
    keys = RenewedKeys(well, lambda: well.now_s)
    await keys.get()
    well.now_s += 50 * 60
    well.opened = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.get)
        await trio.sleep(1)
        assert await key_of(keys) == "ASIA1"
        well.opened.set()
    assert await key_of(keys) == "ASIA2"


async def test_a_source_that_does_not_answer_is_left_after_some_seconds(
    well: Well, autojump_clock: trio.testing.MockClock
) -> None:
    well.opened = trio.Event()
    keys = RenewedKeys(well, lambda: well.now_s)
    began_s = trio.current_time()
    with pytest.raises(Unavailable, match="no answer within 5 s"):
        await keys.get()
    assert trio.current_time() - began_s == pytest.approx(5)


async def test_a_call_that_is_cancelled_while_it_fetches_leaves_the_keys_usable(
    well: Well, autojump_clock: trio.testing.MockClock
) -> None:
    well.opened = trio.Event()
    keys = RenewedKeys(well, lambda: well.now_s)
    with trio.move_on_after(1) as scope:
        await keys.get()
    assert scope.cancelled_caught
    well.opened.set()
    assert await key_of(keys) == "ASIA2"


async def test_keys_that_ses_finds_over_are_replaced_in_the_same_call() -> None:
    given = iter(["ASIA1", "ASIA2"])
    async with (
        running(Instance(lambda: keys(next(given)))) as instance,
        ses({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url}) as (courier, emulator),
    ):
        assert (await send(courier)).outcome is Outcome.ACCEPTED
        api = emulator.api
        assert isinstance(api, Ses)
        api.over = {"ASIA1"}
        begun: list[None] = []
        assert (await send(courier, begun)).outcome is Outcome.ACCEPTED
        assert (len(begun), emulator.seen.messages, emulator.seen.calls) == (2, 2, 3)


async def test_static_keys_need_no_surroundings() -> None:
    async with running(Ses()) as emulator:
        settings = http_settings("ses", emulator.url, credentials=CREDENTIALS["ses"])
        courier = SesCourier(KINDS["ses"].prepare(settings), environment={"AWS_EC2_METADATA_DISABLED": "true"})
        assert (await send(courier)).outcome is Outcome.ACCEPTED
        await courier.aclose()
