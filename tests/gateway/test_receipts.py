"""Delivery reports over HTTP: who may bring them, what they are answered, and what of them is kept secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest
import trio
from structlog.testing import capture_logs

from heliograph.actors.model.attempt import Answer as ProviderAnswer
from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.identity import attempt_id
from heliograph.actors.model.message import Channel, Move, State
from heliograph.actors.model.receipt import Effect, Receipt
from heliograph.actors.ports.ledger import ClaimRequest, Finish
from heliograph.actors.ports.receipts import CertificateNeeded, Genuine, ReceiptCall, Refused, Reports
from heliograph.gateway.fetching import Fetcher, NotFetched
from tests.support.builders import NOW, a_provider
from tests.support.gateway_world import Gateway, World, a_gateway
from tests.support.sns import CERTIFICATE, SUBSCRIBE, TOPIC, Sns

SECRET: Final = "the-secret-in-the-url"
BULK: Final = a_provider(
    name="bulk", kind="bulksms", channel=Channel.SMS, priority=1,
    credentials={"token_id": "i", "token_secret": "t"}, receipts={"secret": SECRET},
)  # fmt: skip
PATH: Final = f"/v1/receipts/bulk?secret={SECRET}"


def with_bulksms(**fields: Any) -> World:
    return World(providers=(BULK, a_provider(name="post", channel=Channel.EMAIL)), **fields)


async def sent(gateway: Gateway, provider: str = "bulk", **fields: Any) -> str:
    """The id of a message that the provider has taken."""
    message_id = await gateway.accepted(**fields)
    delivery = gateway.world.ledger.delivery
    [claimed] = await delivery.claim([ClaimRequest(message_id, provider, 10)], supervisor="s1")
    finish = Finish(
        message_id=message_id, number=1, provider=provider, started_at=claimed.started_at,
        finished_at=claimed.started_at, answer=ProviderAnswer(outcome=Outcome.ACCEPTED),
        move=Move(state=State.SENT, counted=1),
    )  # fmt: skip
    await delivery.finish([finish], supervisor="s1")
    return message_id


def report(message_id: str, kind: str = "DELIVERED") -> list[dict[str, Any]]:
    return [{"type": "SENT", "userSuppliedId": attempt_id(message_id, 1), "status": {"type": kind}}]


async def state(gateway: Gateway, message_id: str) -> str:
    return str((await gateway.get(f"/v1/messages/{message_id}")).json["state"])


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_genuine_report_moves_its_message_without_an_api_key(method: str) -> None:
    async with a_gateway(with_bulksms()) as gateway:
        message_id = await sent(gateway)
        answer = await gateway.ask(method, PATH, report(message_id), secret=None)
        assert (answer.status, answer.json) == (200, {"receipts": 1, "ignored": 0})
        assert await state(gateway, message_id) == "delivered"


async def test_what_names_nobody_of_ours_and_an_empty_report_are_answered_200_too() -> None:
    async with a_gateway(with_bulksms()) as gateway:
        answer = await gateway.post(PATH, report("msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F"), secret=None)
        assert (answer.status, answer.json) == (200, {"receipts": 1, "ignored": 0})
        answer = await gateway.post(PATH, [], secret=None)
        assert (answer.status, answer.json) == (200, {"receipts": 0, "ignored": 0})


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/receipts/bulk", b"[]", 401, "not_genuine"),
        ("/v1/receipts/bulk?secret=wrong", b"not even JSON", 401, "not_genuine"),
        (PATH, b"not even JSON", 400, "malformed_request"),
        (PATH, b"\xff\xfe", 400, "malformed_request"),
        ("/v1/receipts/nobody?secret=x", b"[]", 404, "not_found"),
        ("/v1/receipts/post?secret=x", b"[]", 404, "not_found"),
        (PATH, b" " * 1_000_001, 413, "too_large"),
    ],
)
async def test_a_report_that_is_refused_says_why_as_a_problem(path: str, body: bytes, status: int, code: str) -> None:
    async with a_gateway(with_bulksms()) as gateway:
        answer = await gateway.post(path, raw=body, secret=None)
        assert (answer.status, answer.json["code"]) == (status, code)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert gateway.world.taken == []


async def test_whoever_calls_in_vain_does_not_fill_the_log() -> None:
    async with a_gateway(with_bulksms()) as gateway:
        with capture_logs() as logs:
            for _ in range(50):
                assert (await gateway.post("/v1/receipts/bulk", [], secret=None)).status == 401
        said = [entry for entry in logs if entry["event"] == "receipts.refused_call"]
        assert [(entry["provider"], entry["status"], entry["count"]) for entry in said] == [("bulk", 401, 1)]


async def test_an_api_key_is_no_proof() -> None:
    async with a_gateway(with_bulksms()) as gateway:
        assert (await gateway.post("/v1/receipts/bulk", [])).status == 401


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_reports_come_by_post_or_put(method: str) -> None:
    async with a_gateway(with_bulksms()) as gateway:
        answer = await gateway.ask(method, PATH, secret=None)
        assert answer.status == 405
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == {"POST", "PUT"}


async def test_without_the_ledger_a_report_is_to_be_repeated() -> None:
    async with a_gateway(with_bulksms()) as gateway:
        message_id = await sent(gateway)
        gateway.world.ledger_down = True
        answer = await gateway.post(PATH, report(message_id), secret=None)
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        gateway.world.ledger_down = False
        gateway.world.full = True
        assert (await gateway.post(PATH, report(message_id), secret=None)).status == 503
        gateway.world.full = False
        assert (await gateway.post(PATH, report(message_id), secret=None)).status == 200
        assert await state(gateway, message_id) == "delivered"


async def test_the_secret_reaches_no_log_no_metric_and_no_answer() -> None:
    async with a_gateway(with_bulksms()) as gateway:
        with capture_logs() as logs:
            answers = [
                await gateway.post(PATH, [], secret=None),
                await gateway.post(PATH, raw=b"x", secret=None),
                await gateway.post(f"/v1/receipts/bulk?secret={SECRET}x", [], secret=None),
                await gateway.get(PATH, secret=None),
            ]
        assert SECRET not in repr(logs)
        assert all(SECRET not in repr((a.headers, a.raw)) for a in answers)
        samples = [s for family in gateway.world.registry.collect() for s in family.samples]
        assert SECRET not in repr(samples)
        routes = {s.labels["route"] for s in samples if s.name == "heliograph_http_requests_total"}
        assert "/v1/receipts/{provider}" in routes


# ------------------------------------------------------------------------------------------------- what is fetched


@dataclass
class Signed:
    """A reader that asks for certificates one after the other, and confirms where the body says so."""

    certificates: int = 1
    given: list[Mapping[str, str]] = field(default_factory=list)

    def verify(self, call: ReceiptCall, certificates: Mapping[str, str]) -> Genuine | CertificateNeeded | Refused:
        self.given.append(dict(certificates))
        if len(certificates) < self.certificates:
            return CertificateNeeded(f"https://sns.example/{len(certificates)}.pem")
        return Genuine()

    def read(self, call: ReceiptCall) -> Reports | Refused:
        told = orjson.loads(call.body)
        receipt = Receipt(attempt_id=told["attempt"], effect=Effect.DELIVERED)
        return Reports(receipts=(receipt,), confirm=told.get("confirm"), notices=("suspended",))


class Fetching(Fetcher):
    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fails = fails

    async def _get(self, url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(url)
        if self.fails:
            raise NotFetched("the answer to a GET was 500")
        return b"PEM of " + url.encode()


def with_signed(reader: Signed, fetcher: Fetching) -> World:
    return World(readers={"signed": reader}, fetcher=fetcher)


BODY: Final = {"attempt": attempt_id("msg_01JD3Q8ZK4A7XNVT0B2C9M5E6F", 1)}


async def test_the_certificate_that_a_reader_names_is_fetched_once() -> None:
    reader, fetcher = Signed(), Fetching()
    async with a_gateway(with_signed(reader, fetcher)) as gateway:
        for _ in range(3):
            assert (await gateway.post("/v1/receipts/signed", BODY, secret=None)).status == 200
    assert fetcher.asked == ["https://sns.example/0.pem"]
    assert reader.given[1] == {"https://sns.example/0.pem": "PEM of https://sns.example/0.pem"}


async def test_a_certificate_that_cannot_be_had_makes_the_provider_repeat_and_is_not_asked_for_each_time() -> None:
    fetcher = Fetching(fails=True)
    async with a_gateway(with_signed(Signed(), fetcher)) as gateway:
        for _ in range(3):
            answer = await gateway.post("/v1/receipts/signed", BODY, secret=None)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert len(fetcher.asked) == 1


async def test_a_report_cannot_have_us_fetch_without_end() -> None:
    fetcher = Fetching()
    async with a_gateway(with_signed(Signed(certificates=99), fetcher)) as gateway:
        assert (await gateway.post("/v1/receipts/signed", BODY, secret=None)).status == 401
    assert len(fetcher.asked) == 3


async def test_a_subscription_is_confirmed_after_the_commit_and_the_operator_told_of_notices() -> None:
    fetcher = Fetching()
    async with a_gateway(with_signed(Signed(certificates=0), fetcher)) as gateway:
        with capture_logs() as logs:
            answer = await gateway.post(
                "/v1/receipts/signed", {**BODY, "confirm": "https://sns.example/?Token=t0ken"}, secret=None
            )
        assert (answer.status, len(gateway.world.taken)) == (200, 1)
    assert fetcher.asked == ["https://sns.example/?Token=t0ken"]
    assert {"receipts.notice", "receipts.subscribed"} <= {entry["event"] for entry in logs}
    assert "t0ken" not in repr(logs)


async def test_a_subscription_that_could_not_be_confirmed_is_asked_for_again() -> None:
    async with a_gateway(with_signed(Signed(certificates=0), Fetching(fails=True))) as gateway:
        answer = await gateway.post("/v1/receipts/signed", {**BODY, "confirm": "https://sns.example/"}, secret=None)
        assert answer.status == 503


# ------------------------------------------------------------------------------------------- a whole conversation


class Amazon(Fetching):
    """Has SNS' certificate, and confirms."""

    def __init__(self, sns: Sns) -> None:
        super().__init__()
        self.pem = sns.certificate()

    async def _get(self, url: str) -> bytes:
        await super()._get(url)
        return self.pem.encode() if url == CERTIFICATE else b"<ConfirmSubscriptionResponse/>"


async def test_sns_is_confirmed_and_then_tells_of_a_bounce() -> None:
    sns = Sns()
    ses = a_provider(
        name="ses", kind="ses", channel=Channel.EMAIL, sender="hi@shop.in", receipts={"topic_arns": [TOPIC]},
        credentials={"access_key_id": "AKIA", "secret_access_key": "s", "region": "ap-south-1"},
    )  # fmt: skip
    amazon = Amazon(sns)
    plain = {"Content-Type": "text/plain; charset=UTF-8"}
    async with a_gateway(World(providers=(ses, a_provider(name="text")), fetcher=amazon)) as gateway:
        gateway.world.clock.at = NOW

        async def call(envelope: dict[str, Any]) -> int:
            answer = await gateway.post("/v1/receipts/ses", envelope, secret=None, headers=plain)
            return answer.status

        assert await call(sns.envelope("You have chosen to subscribe", "SubscriptionConfirmation")) == 200
        assert amazon.asked == [CERTIFICATE, SUBSCRIBE]
        message_id = await sent(gateway, "ses", channel="email", to="asha@shop.in", subject="Hello")
        bounce = {
            "eventType": "Bounce",
            "bounce": {
                "bounceType": "Permanent",
                "bounceSubType": "General",
                "bouncedRecipients": [{"emailAddress": "asha@shop.in", "status": "5.1.1"}],
            },
            "mail": {"messageId": "m", "tags": {"hg-attempt": [attempt_id(message_id, 1)]}},
        }
        genuine = sns.envelope(bounce)
        assert await call({**genuine, "Message": genuine["Message"].replace("General", "NoEmail")}) == 401
        assert await state(gateway, message_id) == "sent"
        assert await call(genuine) == 200
        assert await state(gateway, message_id) == "undelivered"
        again = await gateway.accepted(channel="email", to="Asha@shop.in", subject="Again")
        assert await state(gateway, again) == "suppressed"
        assert amazon.asked == [CERTIFICATE, SUBSCRIBE]
        [entry] = (await gateway.get("/v1/suppressions")).json["data"]
        assert (entry["to"], entry["reason"], entry["message_id"]) == ("asha@shop.in", "bounce", message_id)
