"""What is installed is what was looked at: each file of each package is known by its SHA-256, and comes from PyPI."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).parents[2]
# The addresses of PyPI's index and of its files, by their SHA-256: only the lock itself names a host.
INDEX: Final = "5a06749b2297be54ac5699f6f2761716adc5001a2d5f8b915ab2172922dd5706"
FILES: Final = "ecd9636e60d6eda7f33c9d42f265acc9af5f2bb64c1621695d8dda72527bedc8"
SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
PACKAGES: Final[list[dict[str, Any]]] = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


@pytest.mark.parametrize("package", [p for p in PACKAGES if p["name"] != "heliograph"], ids=lambda p: str(p["name"]))
def test_each_file_of_a_locked_package_has_its_hash_and_is_from_pypi(package: dict[str, Any]) -> None:
    assert [*package["source"]] == ["registry"]
    assert _digest(package["source"]["registry"]) == INDEX
    files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
    assert files
    for file in files:
        assert SHA256.fullmatch(file["hash"])
        url = urlsplit(file["url"])
        assert _digest(f"{url.scheme}://{url.netloc}") == FILES


def test_the_project_is_the_only_package_that_is_no_download() -> None:
    assert [p["source"] for p in PACKAGES if p["name"] == "heliograph"] == [{"editable": "."}]


def test_what_the_project_asks_for_is_in_the_lock() -> None:
    locked: dict[str, list[Version]] = {}
    for package in PACKAGES:
        if package["name"] != "heliograph":
            locked.setdefault(package["name"], []).append(Version(package["version"]))
    groups = PROJECT.get("dependency-groups", {}).values()
    wanted = [*PROJECT["project"]["dependencies"], *(line for group in groups for line in group)]
    for line in wanted:
        requirement = Requirement(line)
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert any(requirement.specifier.contains(v, prereleases=True) for v in versions), line


def test_the_installer_is_known_by_its_hashes_too() -> None:
    lines = [line for line in (ROOT / "deploy" / "uv.txt").read_text().splitlines() if not line.startswith("#")]
    assert re.fullmatch(r"uv==[0-9.]+ \\", lines[0])
    assert all(SHA256.search(line) for line in lines[1:])
    assert len(lines) > 2
    for file in ("Makefile", "deploy/Containerfile"):
        text = (ROOT / file).read_text()
        installs = re.findall(r"pip install [^\n]*", text)
        assert installs
        assert [line for line in installs if "--require-hashes" not in line] == []
        assert re.search(r"uv sync [^\n]*--(frozen|locked)", text)
