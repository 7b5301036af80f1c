"""Commands against a system that runs: what they print, and their exit codes."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.command import System
from tests.support.services import wait_until


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="heliograph-commands-") as home:
        Path(home).chmod(0o711)
        made = System(Path(home))
        done = made.command("up", "--port", "0", "--detach")
        assert done.returncode == 0, done.stderr
        yield made
        made.remove()


def test_send_prints_the_message(system: System) -> None:
    found = system.json("send", "--to", "+919876543210", "--text", "Hello")
    assert found["id"].startswith("msg_")
    assert found["channel"] == "sms"


def test_send_waits_for_the_end_and_its_exit_code_tells_which(system: System) -> None:
    good = system.command("send", "--to", "accepted@shop.in", "--subject", "s", "--text", "t", "--wait")
    assert good.returncode == 0, good.stderr
    assert good.stdout.split()[1] == "sent"
    bad = system.command("send", "--to", "rejected@shop.in", "--subject", "s", "--text", "t", "--wait")
    assert bad.returncode == 1
    assert bad.stdout.split()[1:] == ["failed", "(rejected)"]


def test_a_refused_message_shows_every_fault_and_ends_with_1(system: System) -> None:
    done = system.command("send", "--to", "nobody", "--text", "x", "--priority", "soon")
    assert done.returncode == 1
    assert done.stderr.startswith("heliograph: 422")
    assert "#/to" in done.stderr
    assert "#/priority" in done.stderr


def rows_of(folder: Path, count: int) -> Path:
    file = folder / f"{count}.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["to", "text", "subject", "tags"])
        for n in range(count):
            writer.writerow(
                [f"u{n}@shop.in" if n % 2 else "+919812340000", "नमस्ते, hello", "Hi" if n % 2 else "", "csv"]
            )
        writer.writerow(["nonsense", "x", "", ""])
    return file


def test_a_file_is_sent_line_by_line_and_again_doubles_nothing(system: System) -> None:
    file = rows_of(system.home, 2500)
    first = system.command("send", "--csv", str(file), "--json")
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [line["line"] for line in lines] == list(range(2, 2503))
    assert first.returncode == 1
    assert [line["line"] for line in lines if "error" in line] == [2502]
    assert "2500 accepted, 1 refused" in first.stderr
    again = [json.loads(line) for line in system.command("send", "--csv", str(file), "--json").stdout.splitlines()]
    assert [line.get("id") for line in again] == [line.get("id") for line in lines]
    anew = system.command("send", "--csv", str(file), "--run", "two", "--json")
    assert {json.loads(line).get("id") for line in anew.stdout.splitlines()}.isdisjoint(
        line["id"] for line in lines if "id" in line
    )


def test_a_file_is_followed_to_its_end(system: System) -> None:
    file = system.home / "w.csv"
    file.write_text("to,text,subject\naccepted@shop.in,x,y\nrejected@shop.in,x,y\n")
    done = system.command("send", "--csv", str(file), "--wait")
    assert done.returncode == 1
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [["2", "sent"], ["3", "failed"]]


def test_messages_are_listed_and_shown_with_their_attempts(system: System) -> None:
    made = system.json("send", "--to", "accepted@shop.in", "--subject", "s", "--text", "t", "--tag", "shown", "--wait")
    listed = system.json("messages", "list", "--tag", "shown", "--since", "1h")
    assert [message["id"] for message in listed["data"]] == [made["id"]]
    assert [attempt["outcome"] for attempt in system.json("messages", "show", made["id"])["attempts"]] == ["accepted"]
    plain = system.command("messages", "show", made["id"])
    assert "accepted" in plain.stdout
    missing = system.command("messages", "show", "msg_" + "0" * 26)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("heliograph: 404")


def test_dead_letters_are_grouped_tried_dry_and_redriven(system: System) -> None:
    ids = []
    for name in ("rejected", "rejected"):
        done = system.command(
            "send", "--to", f"{name}@x.in", "--subject", "s", "--text", "t", "--tag", "dl", "--wait", "--json"
        )
        ids.append(json.loads(done.stdout)["id"])
    listed = system.json("dead-letters", "list", "--tag", "dl")
    assert {letter["id"] for letter in listed["data"]} == set(ids)
    (group,) = system.json("dead-letters", "groups", "--tag", "dl")["data"]
    assert (group["count"], group["reason"]) == (2, "rejected")
    assert system.json("dead-letters", "show", ids[0])["id"] == ids[0]
    assert system.json("dead-letters", "redrive", "--tag", "dl", "--dry-run")["eligible"] == 2
    operation = system.json("dead-letters", "redrive", *ids, "--wait")
    assert (operation["total"], operation["done"]) == (2, 2)
    assert system.json("operations", "show", operation["id"])["state"] == "done"
    wait_until(
        lambda: len(system.json("dead-letters", "list", "--tag", "dl")["data"]) == 2, "both have failed once more"
    )
    archived = system.json("dead-letters", "archive", "--tag", "dl", "--wait")
    assert archived["done"] == 2
    discarded = system.json("dead-letters", "discard", "--tag", "dl", "--state", "archived", "--wait")
    assert discarded["done"] == 2


def test_a_redrive_of_nothing_named_is_bad_usage(system: System) -> None:
    assert system.command("dead-letters", "redrive").returncode == 2
    assert system.command("dead-letters", "redrive", "msg_x", "--all").returncode == 2


def test_providers_are_shown_paused_and_resumed(system: System) -> None:
    def found(name: str) -> dict[str, object]:
        return next(p for p in system.json("providers")["data"] if p["name"] == name)

    assert found("sandbox-sms")["paused"] is None
    system.json("providers", "pause", "sandbox-sms", "--duration", "10m", "--reason", "a test")
    assert found("sandbox-sms")["paused"] is not None
    system.json("providers", "resume", "sandbox-sms")
    assert found("sandbox-sms")["paused"] is None
    system.json("providers", "breaker", "sandbox-sms", "open", "--duration", "10m")
    system.json("providers", "breaker", "sandbox-sms", "auto")
    assert "sandbox-email" in system.command("providers").stdout
    assert system.command("providers", "pause", "nobody").returncode == 1


def test_a_key_is_made_used_listed_and_revoked(system: System) -> None:
    made = system.json("keys", "create", "--name", "shop", "--scope", "messages:read", "--test")
    assert set(made) == {"id", "name", "key", "scopes"}
    assert made["scopes"] == ["messages:read"]
    url = system.running().url

    def status() -> int:
        return httpx.get(f"{url}/v1/messages", headers={"X-API-Key": made["key"]}).status_code

    assert status() == 200
    assert made["id"] in {key["id"] for key in system.json("keys", "list")["data"]}
    assert made["key"] not in system.command("keys", "list").stdout
    system.json("keys", "revoke", made["id"])
    wait_until(lambda: status() == 401, "the revoked key is refused")
    assert system.command("keys", "revoke", "key_none").returncode == 1
    assert system.command("keys", "create", "--name", "x", "--scope", "everything").returncode == 2
    limited = system.json("keys", "create", "--name", "x", "--rate", "5", "--daily", "100")
    [listed] = [key for key in system.json("keys", "list")["data"] if key["id"] == limited["id"]]
    assert (listed["rate"], listed["daily"]) == (5, 100)
    assert system.command("keys", "create", "--name", "x", "--rate", "-1").returncode == 2


def test_check_finds_nothing_wrong(system: System) -> None:
    found = system.json("check", "--deep", "--live")
    assert found["ok"] is True
    assert {line["status"] for line in found["checks"]} == {"ok"}
    assert {"postgres", "migrations", "redis eviction", "redis persistence", "accounting"} <= {
        line["name"] for line in found["checks"]
    }


def test_commands_take_the_environment_and_options_over_what_runs_here(system: System, tmp_path: Path) -> None:
    elsewhere = System(tmp_path)
    assert elsewhere.command("messages", "list").returncode == 2
    running = system.running()
    known = {"HELIOGRAPH_URL": running.url, "HELIOGRAPH_API_KEY": running.api_key}
    assert elsewhere.command("messages", "list", **known).returncode == 0
    refused = elsewhere.command("messages", "list", "--api-key", "hg_live_" + "x" * 43, **known)
    assert refused.returncode == 1
    assert "401" in refused.stderr
    unreachable = elsewhere.command("messages", "list", "--url", "http://127.0.0.1:1", **known)
    assert unreachable.returncode == 1
    assert "cannot be reached" in unreachable.stderr


@pytest.mark.parametrize(("status", "body", "outcome"), [("550", "5.1.1 no such user", "rejected")])
def test_classify_tells_what_an_answer_means(tmp_path: Path, status: str, body: str, outcome: str) -> None:
    found = System(tmp_path).json("classify", "smtp", status, body)
    assert set(found) == {"outcome", "meaning", "cure", "source"}
    assert found["outcome"] == outcome
