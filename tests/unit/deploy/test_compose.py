"""The compose file and the image: by the Compose Specification's schema, and by what this repository holds.

The schema is the copy that check-jsonschema ships (Apache-2.0, beside it as LICENSE.compose-spec).
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import ValidationError
from jsonschema.validators import validator_for

from heliograph.actors.model.duration import parse_duration
from heliograph.gateway.cli import config
from tests.support.deployment import COMPOSE, DEPLOY, OURS, ROOT, SAMPLE, compose, example_environment, example_secrets

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTAINERFILE = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")


def check(document: dict[str, Any]) -> None:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = validator_for(schema)
    validator.check_schema(schema)
    validator(schema).validate(document)


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in CONTAINERFILE.splitlines() if line.startswith(f"{name} ")]


def test_the_file_is_as_the_compose_specification_says() -> None:
    check(compose())


def test_the_schema_would_tell_a_mistake() -> None:
    wrong = compose()
    wrong["services"]["redis"]["healthcheck"]["tests"] = []
    with pytest.raises(ValidationError):
        check(wrong)


def test_every_variable_is_in_the_example_and_every_one_is_used() -> None:
    assert set(re.findall(r"\$\{(\w+)", COMPOSE.read_text())) == set(example_environment())


def test_redis_never_evicts_and_keeps_a_file() -> None:
    command = compose()["services"]["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_no_more_than_they_need(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert instructions("USER") == ["10001:10001"]


@pytest.mark.parametrize("name", ["supervisor", "delivery"])
def test_a_supervisor_starts_after_the_migration_and_is_given_time_to_drain(name: str) -> None:
    service = compose()["services"][name]
    assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    loaded = config.load(SAMPLE, {**service["environment"], **example_secrets()})
    assert parse_duration(service["stop_grace_period"]) > loaded.config.delivery.drain_grace_s


def test_workers_can_be_scaled() -> None:
    delivery = compose()["services"]["delivery"]
    assert "ports" not in delivery
    assert "container_name" not in delivery
    assert delivery["command"][-2:] == ["--role", "delivery"]
    assert delivery["deploy"]["replicas"] >= 1


def test_everything_that_is_mounted_exists() -> None:
    services = compose()["services"].values()
    sources = {mount.split(":")[0] for service in services for mount in service.get("volumes", ())}
    assert [s for s in sources if s.startswith(".") and not (COMPOSE.parent / s).exists()] == []
    assert {s for s in sources if not s.startswith(".")} == set(compose()["volumes"])


def test_nothing_but_loopback_is_published() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_built_from_what_there_is_and_all_that_it_needs() -> None:
    sources = {source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    packaged = {"actors", "gateway", "providers", "supervisor.py"}
    assert sources == packaged | {
        "deploy/uv.txt",
        "pyproject.toml",
        "uv.lock",
        PROJECT["readme"],
        *PROJECT["license-files"],
    }
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().split()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources
    build = compose()["services"]["supervisor"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Containerfile")


def test_image_and_compose_ask_for_health_in_the_same_way() -> None:
    asked = json.loads(instructions("HEALTHCHECK")[0].partition(" CMD ")[2])
    for name in ("supervisor", "delivery"):
        assert compose()["services"][name]["healthcheck"]["test"] == ["CMD", *asked]
    assert [json.loads(line) for line in instructions("ENTRYPOINT")] == [["heliograph"]]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert shlex.split(instructions("EXPOSE")[0]) == ["8080", "9464"]
