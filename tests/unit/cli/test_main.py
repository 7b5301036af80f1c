from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from heliograph.actors.model.errors import ConfigurationError, LedgerDown
from heliograph.gateway.cli import main, output
from heliograph.gateway.cli.moments import moment
from heliograph.gateway.cli.output import CommandMisused


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["nonsense"], 2),
        (["send", "--nonsense"], 2),
        (["send"], 2),
        (["providers", "breaker", "x", "ajar"], 2),
        (["keys", "create", "--name", "x", "--tenant", ""], 2),
        ([], 2),
    ],
)
def test_exit_codes_of_usage(arguments: list[str], code: int) -> None:
    assert main.run(arguments) == code


@pytest.mark.parametrize(
    "arguments", [["--json", "--version"], ["config", "show", "--json"], ["--json", "config", "show"]]
)
def test_json_may_stand_before_or_after_the_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output.forget_wishes()
    assert main.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)
    output.forget_wishes()


@pytest.mark.parametrize(
    "command", ["up", "down", "run", "migrate", "check", "healthy", "send", "classify", "providers"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (LedgerDown("PostgreSQL gives no answer"), 1, "heliograph: PostgreSQL gives no answer"),
        (ConfigurationError("a: b\nc: d"), 2, "heliograph: a: b\nheliograph: c: d"),
        (ExceptionGroup("", [LedgerDown("same"), ExceptionGroup("", [LedgerDown("same")])]), 1, "heliograph: same"),
        (ZeroDivisionError("secret"), 1, "heliograph: internal error: ZeroDivisionError at"),
        (KeyboardInterrupt(), 1, "heliograph: interrupted"),
    ],
)
def test_an_error_is_told_in_words_once_and_without_a_traceback(
    error: BaseException,
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "application", fail)
    assert main.run([]) == code
    said = capsys.readouterr().err.strip()
    assert said.startswith(told)
    assert "Traceback" not in said
    assert "secret" not in said
    assert said.count("heliograph: ") == told.count("heliograph: ")


def test_columns_are_aligned_and_nothing_is_cut_off() -> None:
    assert output.columns(("id", "state"), [["msg_1", "sent"], ["m", None]]) == [
        "ID     STATE",
        "msg_1  sent",
        "m      -",
    ]


def test_what_is_inside_is_shown_and_what_is_empty_is_a_dash() -> None:
    assert output.fields({"waiting": {"for": "rate"}, "metadata": {}, "tags": ["a"], "reason": None}) == [
        'waiting   {"for": "rate"}',
        "metadata  -",
        'tags      ["a"]',
        "reason    -",
    ]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_answer_is_classified_as_json(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["classify", "smtp", "550", "5.1.1 user unknown", *flags]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (set(said), said["outcome"]) == ({"outcome", "meaning", "cure", "source"}, "rejected")
    output.forget_wishes()


def test_a_configurations_own_rows_come_before_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text("""
        [[providers]]
        name = "ours"
        kind = "smtp"
        channel = "email"
        rate = 10
        host = "localhost"
        [[providers.answers]]
        status = 550
        text = "user unknown"
        outcome = "deferred"
        meaning = "their directory is being moved"
        cure = "nothing: tried again"
    """)
    reply = ["550", "5.1.1 user unknown"]
    assert main.run(["classify", "smtp", *reply, "--config", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "outcome": "deferred",
        "meaning": "their directory is being moved",
        "cure": "nothing: tried again",
        "source": "the configuration: [[providers.answers]] of ours, row 1",
    }
    for others in (["smtp", "550", "5.1.1 mailbox disabled"], ["gmail", *reply]):
        assert main.run(["classify", *others, "--config", str(file)]) == 0
        assert json.loads(capsys.readouterr().out)["outcome"] == "rejected"
    file.write_text(file.read_text().replace("deferred", "accepted"))
    assert main.run(["classify", "smtp", *reply, "--config", str(file)]) == 2
    assert "providers.ours.answers.0.outcome" in capsys.readouterr().err
    output.forget_wishes()


def test_a_moment_is_a_time_with_its_offset_or_how_long_ago() -> None:
    assert moment("--since", "2026-11-25T09:00:00+05:30") == "2026-11-25T03:30:00Z"
    ago = moment("--since", "1h30m")
    assert ago is not None
    passed = datetime.now(UTC) - datetime.fromisoformat(ago)
    assert 5400 <= passed.total_seconds() < 5460
    assert moment("--since", None) is None


@pytest.mark.parametrize("text", ["yesterday", "2026-11-25T09:00:00", "5"])
def test_a_moment_without_an_offset_or_a_unit_is_bad_usage(text: str) -> None:
    with pytest.raises(CommandMisused, match=re.escape("--since should be a time with its offset")):
        moment("--since", text)
