from __future__ import annotations

from pathlib import Path

import pytest

from heliograph.actors.model.attempt import Outcome, Scope
from heliograph.actors.model.errors import ConfigurationError, NotAvailableYet
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import HttpClient, Quota
from heliograph.gateway.cli.config import EVERYTHING, ConfigFaults, Loaded, known_keys, load, without_password

STORES = {
    "HELIOGRAPH_REDIS__URL": "redis://127.0.0.1:6379/0",
    "HELIOGRAPH_POSTGRES__URL": "postgresql://me@127.0.0.1/db",
}
SANDBOX = """
[[providers]]
name = "main-sms"
kind = "sandbox"
channel = "sms"
"""


def loaded(tmp_path: Path, text: str, **environ: str) -> Loaded:
    file = tmp_path / "heliograph.toml"
    file.write_text(text)
    return load(file, STORES | environ)


def faults(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigFaults) as raised:
        loaded(tmp_path, text, **environ)
    return [str(fault) for fault in raised.value.faults]


def origins(found: Loaded) -> dict[str, str]:
    return {entry.key: entry.origin for entry in found.entries}


def values(found: Loaded) -> dict[str, object]:
    return {entry.key: entry.value for entry in found.entries}


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, SANDBOX).config
    assert (config.gateway.host, config.gateway.port) == ("127.0.0.1", 8080)
    assert config.delivery.max_attempts == 5
    assert config.delivery.expires_after_s == 86_400
    assert config.dead_letters.auto_retry_s == (60, 600, 3600)


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = """
    [gateway]
    bnid = "127.0.0.1:1"
    [log]
    level = "loud"
    [delivery]
    max_attempts = 0
    [[providers]]
    name = "a"
    kind = "sandbx"
    channel = "sms"
    """
    assert [fault.partition(":")[0] for fault in faults(tmp_path, text)] == [
        "gateway.bnid",
        "log.level",
        "providers.a.kind",
        "delivery.max_attempts",
    ]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[gateway]\nbnid = 1", "gateway.bind"),
        ("[gatway]\nbind = 1", "gateway"),
        ("[gateway]\nmax_attempts = 3", "delivery.max_attempts"),
        ("[providers_]\nx = 1", "providers"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path, text: str, nearest: str) -> None:
    (fault,) = faults(tmp_path, text + SANDBOX)
    assert fault.startswith(text.split("]")[0].strip("[") if nearest in ("gateway", "providers") else "gateway.")
    assert f"the nearest known one is {nearest} (" in fault


def test_an_unknown_key_of_a_provider_names_the_provider(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, SANDBOX + "[providers.breaker]\nfailure_ration = 0.4")
    assert fault.startswith("providers.main-sms.breaker.failure_ration: unknown key")
    assert "providers.breaker.failure_ratio" in fault


@pytest.mark.parametrize(
    "text",
    [
        '[[windows]]\ncategory = "otp"',
        "[webhooks]\nallow_private = false",
        '[retention]\narchive = "s3://bucket"',
    ],
)
def test_what_comes_later_is_not_available_yet(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotAvailableYet, match="not available yet"):
        loaded(tmp_path, text + SANDBOX)


def test_a_quota_is_recipients_in_a_length_of_time(tmp_path: Path) -> None:
    for text, quota in (("5/day", Quota(5, 86_400.0)), ("100/minute", Quota(100, 60.0)), ("7/1h30m", Quota(7, 5400.0))):
        found = loaded(tmp_path, SANDBOX + f'quota = "{text}"')
        assert found.config.providers[0].quota == quota
        assert ("providers.main-sms.quota", text) in [(entry.key, entry.value) for entry in found.entries]


@pytest.mark.parametrize("text", ["5", "0/day", "5/week", "5/10", "-1/day", "5/0s", "5/40d", "5.5/day", "5/day "])
def test_a_quota_that_is_none_is_said_to_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"providers\.main-sms\.quota: should be"):
        loaded(tmp_path, SANDBOX + f'quota = "{text}"')


@pytest.mark.parametrize(
    "text",
    [
        '[gateway]\nhttp_server = "hypercorn"',
        '[retention]\narchive = "partition"',
    ],
)
def test_the_plain_choice_beside_a_later_one_is_taken(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text + SANDBOX).config


def test_every_provider_is_called_by_the_one_client_that_is_chosen(tmp_path: Path) -> None:
    for text, client in (("", HttpClient.FAST), ('[delivery]\nhttp_client = "httpx"', HttpClient.HTTPX)):
        config = loaded(tmp_path, text + SANDBOX).config
        assert {p.http_client for p in config.providers if not p.test_only} == {client}


@pytest.mark.parametrize(
    ("text", "expected_s"), [("0s", 0), ("250ms", 0.25), ("10s", 10), ("1h30m", 5400), ("1d", 86_400), ("1.5s", 1.5)]
)
def test_durations_are_numbers_with_units_summed(tmp_path: Path, text: str, expected_s: float) -> None:
    found = loaded(tmp_path, f'[delivery]\nunknown_wait = "{text}"' + SANDBOX)
    assert found.config.delivery.unknown_wait_s == expected_s


@pytest.mark.parametrize("text", ['"10"', "10", '"10 s"', '"-1s"', '"1x"', '""', "true", '"1e9d"', '"99999999999d"'])
def test_what_is_no_duration_is_refused(tmp_path: Path, text: str) -> None:
    (fault,) = faults(tmp_path, f"[delivery]\nbackoff_cap = {text}" + SANDBOX)
    assert fault.startswith("delivery.backoff_cap: ")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    found = loaded(tmp_path, '[log]\nlevel = "debug"' + SANDBOX, HELIOGRAPH_LOG__LEVEL="error")
    assert found.config.log.level == "error"
    assert origins(found)["log.level"] == "HELIOGRAPH_LOG__LEVEL"


def test_the_environment_reaches_into_a_provider_by_its_name_in_capitals(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        SANDBOX,
        HELIOGRAPH_PROVIDERS__MAIN_SMS__RATE="2.5",
        HELIOGRAPH_PROVIDERS__MAIN_SMS__BREAKER__OPEN_FOR="3s",
        HELIOGRAPH_PROVIDERS__MAIN_SMS__ROUTES__COUNTRIES="IN, US",
    )
    provider = found.config.providers[0]
    assert (provider.rate, provider.burst, provider.breaker.open_for_s) == (2.5, 3.0, 3.0)
    assert provider.routes.countries == {"IN", "US"}
    assert origins(found)["providers.main-sms.burst"] == "from rate"


def test_a_provider_may_live_in_the_environment_alone() -> None:
    environ = STORES | {
        "HELIOGRAPH_PROVIDERS__SANDBOX_EMAIL__KIND": "sandbox",
        "HELIOGRAPH_PROVIDERS__SANDBOX_EMAIL__CHANNEL": "email",
    }
    provider = load(None, environ).config.providers[0]
    assert (provider.name, provider.channel, provider.rate, provider.burst) == (
        "sandbox-email",
        Channel.EMAIL,
        10_000,
        10_000,
    )


def test_lists_and_tables_in_the_environment_are_written_as_in_a_file(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        SANDBOX,
        HELIOGRAPH_DEAD_LETTERS__AUTO_RETRY="[]",
        HELIOGRAPH_PROVIDERS__MAIN_SMS__ROUTES='{countries = ["IN"], tags = ["otp"]}',
    )
    assert found.config.dead_letters.auto_retry_s == ()
    assert found.config.providers[0].routes.tags == {"otp"}


def test_an_unknown_variable_with_a_section_is_a_fault_and_others_are_not_configuration(tmp_path: Path) -> None:
    (fault,) = faults(
        tmp_path, SANDBOX, HELIOGRAPH_URL="http://x", HELIOGRAPH_API_KEY="k", HELIOGRAPH_GATEWAY__BNID="1"
    )
    assert fault == "gateway.bnid: unknown key; the nearest known one is gateway.bind (HELIOGRAPH_GATEWAY__BNID)"


def test_a_channel_without_a_sandbox_gets_one_for_test_keys_only(tmp_path: Path) -> None:
    found = loaded(tmp_path, SANDBOX)
    assert [(p.name, p.test_only) for p in found.config.providers] == [("main-sms", False), ("sandbox-email", True)]


def test_names_are_unique_also_as_variables(tmp_path: Path) -> None:
    assert "is used twice" in faults(tmp_path, SANDBOX + SANDBOX)[0]
    other = SANDBOX.replace("main-sms", "main_sms")
    assert "shares its environment name MAIN_SMS" in faults(tmp_path, SANDBOX + other)[0]


def test_stores_are_required_only_where_they_are_needed() -> None:
    with pytest.raises(ConfigFaults) as raised:
        load(None, {})
    assert {fault.key for fault in raised.value.faults} == {"redis.url", "postgres.url", "providers"}
    assert load(None, {}, need=frozenset()).config.redis_url == ""
    assert len(EVERYTHING) == 3


def test_a_rate_is_required_but_for_a_sandbox(tmp_path: Path) -> None:
    text = '[[providers]]\nname = "a"\nkind = "ses"\nchannel = "email"'
    assert faults(tmp_path, text)[0].startswith("providers.a.rate: is required")


def test_a_kind_refuses_a_channel_that_it_does_not_carry(tmp_path: Path) -> None:
    text = '[[providers]]\nname = "a"\nkind = "ses"\nchannel = "sms"\nrate = 1'
    assert faults(tmp_path, text)[0].startswith("providers.a.channel: ses carries email only")


def test_credentials_are_looked_at_by_the_kind(tmp_path: Path) -> None:
    text = '[[providers]]\nname = "a"\nkind = "ses"\nchannel = "email"\nrate = 1\n[log]\nlevel = "loud"'
    told = faults(tmp_path, text)
    assert any(fault.startswith("providers.a.credentials.") for fault in told)
    assert any(fault.startswith("log.level") for fault in told)


def test_no_fault_quotes_a_value(tmp_path: Path) -> None:
    text = SANDBOX + 'timeout = "hunter2"\nbase_url = "ftp://me:hunter2@x"\n[log]\nlevel = "hunter2"'
    told = faults(tmp_path, text)
    assert len(told) == 3
    assert "hunter2" not in repr(told)


@pytest.mark.parametrize(
    ("content", "told"), [(b"[gateway\n", "is not TOML"), (b"\xff", "is not UTF-8"), (b"providers = 3", "array of")]
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told):
        load(file, STORES)


@pytest.mark.parametrize("text", ['archive_after = "366d"', 'delete_after = "29d"'])
def test_nothing_is_deleted_before_it_is_archived(tmp_path: Path, text: str) -> None:
    (fault,) = faults(tmp_path, f"{SANDBOX}\n[dead_letters]\n{text}")
    assert fault.startswith("dead_letters: archive_after must not be longer than delete_after")
    both = '[dead_letters]\narchive_after = "29d"\ndelete_after = "29d"'
    assert loaded(tmp_path, f"{SANDBOX}\n{both}").config.dead_letters.delete_after_s == 29 * 86_400


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", STORES)


def test_secrets_are_masked_in_what_is_in_force(tmp_path: Path) -> None:
    text = """
    [[providers]]
    name = "a"
    kind = "sendgrid"
    channel = "email"
    rate = 1
    sender = "a@shop.in"
    base_url = "https://u:hunter2@x.test/?t=hunter2"
    [providers.credentials]
    api_key = "hunter2"
    """
    found = loaded(tmp_path, text, HELIOGRAPH_POSTGRES__URL="postgresql://me:hunter2@db/x")
    shown = values(found)
    assert "hunter2" not in repr(shown)
    assert shown["postgres.url"] == "postgresql://me:********@db/x"
    assert shown["providers.a.credentials.api_key"] == "********"


@pytest.mark.parametrize("text", ["8080", "x:y", "::1:80", "127.0.0.1:70000", ""])
def test_a_bind_is_an_address_and_a_port(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, f'[gateway]\nbind = "{text}"' + SANDBOX)[0].startswith("gateway.bind: ")


def test_a_bind_may_be_ipv6_or_every_address(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[gateway]\nbind = "[::1]:80"\n[monitor]\nbind = ":0"' + SANDBOX).config
    assert (config.gateway.host, config.gateway.port) == ("::1", 80)
    assert (config.monitor.host, config.monitor.port) == ("0.0.0.0", 0)


def test_every_key_in_force_has_an_origin(tmp_path: Path) -> None:
    found = loaded(tmp_path, SANDBOX)
    assert set(origins(found).values()) == {
        "default",
        "heliograph.toml",
        "from rate",
        "HELIOGRAPH_REDIS__URL",
        "HELIOGRAPH_POSTGRES__URL",
    }
    assert ("providers", "breaker", "window") in set(known_keys())


def test_a_url_without_a_password_stays_as_it_is() -> None:
    assert without_password("redis://127.0.0.1:6379/0") == "redis://127.0.0.1:6379/0"


BULKSMS = """
[[providers]]
name = "bulk"
kind = "bulksms"
channel = "sms"
rate = 10
credentials = { token_id = "a", token_secret = "b" }
"""


def test_a_providers_answers_are_read_row_by_row(tmp_path: Path) -> None:
    rows = """
    [[providers.answers]]
    status = 403
    text = "daily (quota|limit)"
    outcome = "throttled"
    meaning = "the day's messages are used up"
    cure = "wait"
    retry_after = "1h"
    [[providers.answers]]
    code = "FAILED.NOT_SENT"
    outcome = "deferred"
    scope = "message"
    """
    found = loaded(tmp_path, BULKSMS + rows)
    daily, unsent = next(p for p in found.config.providers if p.name == "bulk").answers
    assert (daily.status, daily.outcome, daily.retry_after_s, daily.cure) == (403, Outcome.THROTTLED, 3600, "wait")
    assert daily.text is not None
    assert daily.text.search("Your DAILY LIMIT is reached")
    assert (unsent.code, unsent.outcome, unsent.scope) == ("FAILED.NOT_SENT", Outcome.DEFERRED, Scope.MESSAGE)
    assert values(found)["providers.bulk.answers.1"] == {
        "code": "FAILED.NOT_SENT",
        "outcome": "deferred",
        "scope": "message",
    }
    assert origins(found)["providers.bulk.answers.1"] == "heliograph.toml"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('status = 400\noutcome = "lost"', "providers.bulk.answers.1.outcome: "),
        ("status = 400", "providers.bulk.answers.1.outcome: is required"),
        ('outcome = "rejected"', "providers.bulk.answers.1: needs a status, a code or a text"),
        ('text = "(unclosed"\noutcome = "rejected"', "providers.bulk.answers.1.text: is no regular expression"),
        ('status = 42\noutcome = "rejected"', "providers.bulk.answers.1.status: "),
        ('status = 400\noutcome = "deferred"\nretry_after = 5', "providers.bulk.answers.1.retry_after: "),
        (
            'status = 400\noutcome = "deferred"\nretry_afetr = "5s"',
            "providers.bulk.answers.1.retry_afetr: unknown key; the nearest known one is providers.answers.retry_after",
        ),
    ],
)
def test_a_bad_row_of_answers_is_told_by_its_key(tmp_path: Path, row: str, told: str) -> None:
    good = '[[providers.answers]]\nstatus = 500\noutcome = "deferred"\n'
    (fault,) = faults(tmp_path, f"{BULKSMS}{good}[[providers.answers]]\n{row}")
    assert fault.startswith(told)
    assert "heliograph.toml" in fault


def test_answers_can_be_written_in_the_environment(tmp_path: Path) -> None:
    found = loaded(tmp_path, BULKSMS, HELIOGRAPH_PROVIDERS__BULK__ANSWERS='[{status = 418, outcome = "rejected"}]')
    assert [rule.status for p in found.config.providers for rule in p.answers] == [418]


def test_receipts_are_for_their_kind_to_read_and_secret(tmp_path: Path) -> None:
    found = loaded(tmp_path, BULKSMS + 'receipts.secret = "0123456789abcdef"')
    assert found.config.providers[0].receipts == {"secret": "0123456789abcdef"}
    shown = {entry.key: entry.value for entry in found.entries}
    assert shown["providers.bulk.receipts.secret"] == "********"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (BULKSMS + 'receipts.secret = "a b"', "providers.bulk.receipts.secret: must be ASCII without spaces"),
        (BULKSMS + 'receipts.secrt = "0123456789abcdef"', "providers.bulk.receipts.secrt: unknown key"),
        (SANDBOX + "receipts.secret = 1", "providers.main-sms.receipts: sandbox has no receipts"),
        (BULKSMS + 'receipts = "x"', "providers.bulk.receipts: should be a table"),
    ],
)
def test_a_wrong_table_of_receipts_is_told_by_its_key(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults(tmp_path, text)
    assert found.startswith(fault)
