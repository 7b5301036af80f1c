"""The folders keep their promises: what is packaged, who knows whom, and no second copy of a module."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("actors", "gateway", "providers")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules() -> list[Path]:
    return sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)


def test_every_folder_of_code_is_packaged() -> None:
    folders = {".".join(("heliograph", *path.parent.relative_to(ROOT).parts)) for path in modules()}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {"heliograph"}


def test_every_folder_of_code_is_a_package() -> None:
    assert [path.parent for path in modules() if not (path.parent / "__init__.py").exists()] == []


def test_no_other_module_lies_at_the_top() -> None:
    """It would land in the wheel."""
    assert [path.name for path in ROOT.glob("*.py")] == ["supervisor.py"]


@pytest.mark.parametrize("file", sorted((ROOT / "actors").glob("*.py")), ids=lambda file: file.stem)
def test_an_actor_knows_ports_and_no_adapter(file: Path) -> None:
    adapters = ("heliograph.actors.ledger", "heliograph.actors.queue", "heliograph.providers", "heliograph.gateway")
    assert [name for name in imports(file) if name.startswith(adapters)] == []


def test_policy_and_model_do_no_io() -> None:
    outside = {"trio", "psycopg", "redis", "httpx", "time", "random", "socket", "structlog"}
    pure = [*(ROOT / "actors/policy").glob("*.py"), *(ROOT / "actors/model").glob("*.py")]
    assert pure
    assert [(file.name, name) for file in pure for name in imports(file) if name.split(".")[0] in outside] == []
