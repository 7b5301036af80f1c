from __future__ import annotations

from pathlib import Path

import pytest

from heliograph.gateway.cli.output import CommandFailed, CommandMisused
from heliograph.gateway.cli.table import Line, read


def lines_of(tmp_path: Path, text: str | bytes, run: str = "") -> list[Line]:
    file = tmp_path / "m.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(file, run)


def test_the_header_names_the_fields_and_empty_cells_leave_them_out(tmp_path: Path) -> None:
    text = 'to,text,subject,tags,metadata,sms.sender_id\n+919812345678,Hi,,a;b,,SHOP\na@shop.in,Hi,Yo,,"{""n"": 1}",\n'
    first, second = lines_of(tmp_path, text)
    assert {k: v for k, v in first.message.items() if k != "idempotency_key"} == {
        "channel": "sms",
        "to": "+919812345678",
        "text": "Hi",
        "tags": ["a", "b"],
        "sms": {"sender_id": "SHOP"},
    }
    assert second.message["channel"] == "email"
    assert second.message["metadata"] == {"n": 1}


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    text = 'to,text\na@shop.in,"two\nlines"\n\nb@shop.in,x\n'
    assert [line.number for line in lines_of(tmp_path, text)] == [2, 5]


def test_the_same_file_makes_the_same_keys_and_another_run_or_file_makes_others(tmp_path: Path) -> None:
    def keys(text: str, run: str = "") -> list[str]:
        return [line.message["idempotency_key"] for line in lines_of(tmp_path, text, run)]

    text = "to,text\na@shop.in,x\na@shop.in,x\n"
    first = keys(text)
    assert first == keys(text)
    assert len(set(first)) == 2
    assert set(first).isdisjoint(keys(text, "second"))
    assert set(first).isdisjoint(keys(text + "b@shop.in,x\n"))
    assert all(len(key) <= 255 for key in first)


def test_a_key_of_ones_own_is_kept(tmp_path: Path) -> None:
    assert lines_of(tmp_path, "to,idempotency_key\na@shop.in,mine\n")[0].message["idempotency_key"] == "mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("to,txet\n", "unknown column 'txet'; the nearest known one is text"),
        ("text\n", "no column `to`"),
        ("to,to\n", "named twice"),
        ("to,text\na@shop.in,x,y\n", "line 2: 3 cells, but the header names 2"),
        ("to,metadata\na@shop.in,{\n", "line 2: metadata should be JSON"),
        ('to,text\na@shop.in,"open\n', "unexpected end of data"),
        (b"to,text\n\xff,x\n", "is not UTF-8"),
        ("", "no column `to`"),
    ],
)
def test_a_file_that_cannot_be_understood_sends_nothing(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(CommandMisused, match=told):
        lines_of(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot be read"):
        read(tmp_path / "none.csv", "")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert lines_of(tmp_path, "\ufeffto\na@shop.in\n")[0].message["to"] == "a@shop.in"
