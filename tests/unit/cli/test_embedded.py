from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from heliograph.actors.model.errors import HeliographError
from heliograph.gateway.cli.embedded import Postgres, Redis, claim_port, free_port, port_is_free
from heliograph.gateway.cli.processes import Identity


def test_a_pid_file_whose_number_belongs_to_another_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    left = tmp_path / "postgres" / "postmaster.pid"
    left.write_text(f"{os.getpid()}\n/somewhere\n")
    service = Postgres(tmp_path, 1, "x")
    assert service.orphan() is None
    service.command()
    assert not left.exists()


def test_a_process_that_works_in_the_data_folder_is_an_orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    (folder / "redis.pid").write_text(str(os.getpid()))
    service = Redis(tmp_path, 1, "x")
    assert service.orphan() is None
    monkeypatch.chdir(folder)
    assert service.orphan() == Identity.of(os.getpid())


def test_redis_file_is_set_aside_when_it_keeps_redis_from_starting(tmp_path: Path) -> None:
    service = Redis(tmp_path, 1, "x")
    service.prepare()
    file = tmp_path / "redis" / "appendonly.aof"
    file.write_text("broken")
    service.failed(1)
    assert file.exists()
    service.failed(2)
    assert not file.exists()
    assert (tmp_path / "redis" / "appendonly.aof.broken").read_text() == "broken"
    service.failed(2)


def test_redis_configuration_survives_a_folder_with_quotes_and_hides_its_password(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" \\c'
    folder.mkdir()
    Redis(folder, 1, "x").prepare()
    file = folder / "redis" / "redis.conf"
    assert 'a \\"b\\" \\\\c/redis"' in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_remembered_port_is_used_again_where_it_is_free() -> None:
    port = free_port(None)
    assert port_is_free("127.0.0.1", port)
    assert free_port(port) == port


def test_a_port_is_claimed_by_one_at_a_time_though_nobody_listens_there() -> None:
    port = free_port(None)
    first = claim_port(port)
    assert first is not None
    with first:
        assert claim_port(port) is None
        assert port_is_free("127.0.0.1", port)
    second = claim_port(port)
    assert second is not None
    second.close()


def test_a_process_is_known_by_more_than_its_number() -> None:
    ourselves = Identity.of(os.getpid())
    assert ourselves is not None
    assert ourselves.alive()
    assert not Identity(os.getpid(), ourselves.started + 1).alive()


def test_a_user_without_a_name_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    with pytest.raises(HeliographError, match="3999999 has no name"):
        Postgres(tmp_path, 1, "x").prepare()
