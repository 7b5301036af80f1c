from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from heliograph.gateway.cli import main
from heliograph.gateway.cli.config import known_keys, load
from heliograph.gateway.cli.settings import file_schema


def begun(tmp_path: Path) -> Path:
    file = tmp_path / "heliograph.toml"
    assert main.run(["config", "init", str(file)]) == 0
    return file


def test_the_begun_file_can_be_used_as_it_is(tmp_path: Path) -> None:
    config = load(begun(tmp_path), {}).config
    assert [p.name for p in config.providers] == ["sandbox-sms", "sandbox-email"]


def test_the_begun_file_names_every_key(tmp_path: Path) -> None:
    text = begun(tmp_path).read_text()
    for *_, key in known_keys():
        assert re.search(rf"^(# )?{key} = |\[.*\b{key}\]", text, re.MULTILINE), key


def test_each_commented_line_of_the_begun_file_is_the_default(tmp_path: Path) -> None:
    file = begun(tmp_path)
    before = load(file, {}).config
    lines = [line for line in file.read_text().splitlines() if " = …" not in line]
    meant = [line[2:] if re.match(r"# (\w+ = |\[)", line) else line for line in lines]
    file.write_text("\n".join(meant))
    assert load(file, {}).config == before


def test_the_begun_file_fits_the_schema(tmp_path: Path) -> None:
    schema = file_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(begun(tmp_path).read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"delivery": {"drain_grace": 3}}, schema)


def test_no_file_is_written_over_unless_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = begun(tmp_path)
    assert main.run(["config", "init", str(file)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main.run(["config", "init", str(file), "--force"]) == 0


def test_bad_configuration_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[gateway]\nbnid = 1\n[webhooks]\nallow_private = true")
    assert main.run(["config", "show", "--config", str(file)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("heliograph: gateway.bnid: unknown key")
    assert told[1].startswith("heliograph: webhooks: is not available yet")
