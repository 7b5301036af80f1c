"""deploy/heliograph.toml, with its secrets from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliograph.actors.model.message import Channel
from heliograph.gateway.cli import config
from heliograph.gateway.cli.config import ConfigFaults, environment_name
from tests.support.deployment import SAMPLE, compose, example_secrets

STORES = {
    "HELIOGRAPH_POSTGRES__URL": "postgresql://heliograph@postgres:5432/heliograph",
    "HELIOGRAPH_REDIS__URL": "redis://redis:6379/0",
}


def load(**more: str) -> config.Loaded:
    return config.load(SAMPLE, {**STORES, **example_secrets(), **more})


def test_the_providers_stand_in_their_order() -> None:
    found = load().config.providers
    order = {
        channel: [(p.name, p.priority) for p in found if p.channel is channel and not p.test_only]
        for channel in Channel
    }
    assert order == {
        Channel.SMS: [("fast2sms", 1), ("bulksms", 2)],
        Channel.EMAIL: [("ses", 1), ("gmail", 2), ("sendgrid", 3)],
    }


def test_each_provider_is_of_the_kind_it_is_named_after() -> None:
    assert all(p.name == p.kind for p in load().config.providers if not p.test_only)


def test_the_environment_wins_over_the_file() -> None:
    changed = load(HELIOGRAPH_PROVIDERS__SES__RATE="50", HELIOGRAPH_LOG__LEVEL="debug").config
    assert next(p.rate for p in changed.providers if p.name == "ses") == 50
    assert changed.log.level == "debug"


@pytest.mark.parametrize("missing", sorted(example_secrets()))
def test_each_secret_is_asked_for_by_its_key(missing: str) -> None:
    given = {name: value for name, value in example_secrets().items() if name != missing}
    with pytest.raises(ConfigFaults) as refused:
        config.load(SAMPLE, {**STORES, **given})
    (fault,) = refused.value.faults
    _, name, table, key = (part.lower() for part in missing.removeprefix("HELIOGRAPH_").split("__"))
    assert fault.key.startswith(f"providers.{name}.{table}.")
    assert key in str(fault)


def test_the_file_holds_no_secret_and_names_every_variable() -> None:
    text = SAMPLE.read_text()
    assert [name for name in example_secrets() if name not in text] == []
    secrets = [e for e in load().entries if e.origin == SAMPLE.name and ".credentials" in e.key]
    assert [entry.key for entry in secrets] == ["providers.ses.credentials.region"]


def test_the_sample_is_what_the_containers_run_with() -> None:
    mounts = [mount for service in compose()["services"].values() for mount in service.get("volumes", ())]
    assert f"../{SAMPLE.name}:/etc/heliograph/heliograph.toml:ro" in mounts
    found = load().config
    assert (found.gateway.port, found.monitor.port) == (8080, 9464)
    assert {environment_name(p.name) for p in found.providers if not p.test_only} == {
        name.split("__")[1] for name in example_secrets()
    }
    assert Path(SAMPLE).name == "heliograph.toml"
