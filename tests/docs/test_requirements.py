"""The locked requirements: complete, hashed, and what pyproject.toml allows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs.repository import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # with Python 3.10 it is installed

_LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
_PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_EXTRAS: dict[str, list[str]] = _PROJECT["optional-dependencies"]


def _entries(lock: Path) -> dict[str, str]:
    """Return each line ``name==version ; marker`` of a lock with the lines of hashes below it."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    return {line.split(" --hash")[0].strip(): line for line in text.splitlines() if line}


def _locked(*names: str) -> list[Requirement]:
    return [Requirement(entry) for name in names for entry in _entries(ROOT / f"requirements/{name}.txt")]


def test_every_extra_has_a_lock() -> None:
    """``all`` is the locks of those that it names, which ``scripts/install.sh all`` installs."""
    assert [lock.stem for lock in _LOCKS] == sorted([*(_EXTRAS.keys() - {"all"}), "base", "build"])


def test_all_is_every_extra_but_those_for_work_on_this_package() -> None:
    (every,) = [Requirement(text) for text in _EXTRAS["all"]]
    assert every.name == _PROJECT["name"]
    assert every.extras == _EXTRAS.keys() - {"all", "dev", "docs"}
    excluded = re.findall(r"-e (\w+)", (ROOT / "scripts/install.sh").read_text(encoding="utf-8").partition("all ]")[2])
    assert {"base", "build", "dev", "docs"} == set(excluded[:4])


def test_what_another_package_brings_is_asked_for_in_the_same_version() -> None:
    """An extra of a developer repeats those of users."""
    asked: dict[str, set[str]] = {}
    for text in [*_PROJECT["dependencies"], *(text for texts in _EXTRAS.values() for text in texts)]:
        requirement = Requirement(text)
        asked.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: found for name, found in asked.items() if len(found) > 1} == {}


@pytest.mark.parametrize("lock", _LOCKS, ids=lambda lock: lock.stem)
def test_every_package_is_pinned_and_hashed(lock: Path) -> None:
    for entry, line in _entries(lock).items():
        assert re.fullmatch(r"[a-z0-9-]+==[^ *]+( ; .+)?", entry)
        assert re.findall(r"--hash=(\w+):", line) == ["sha256"] * line.count("--hash=")
        assert "--hash=" in line


def test_versions_agree_among_the_locks() -> None:
    versions: dict[tuple[str, str], set[str]] = {}
    for requirement in _locked(*(lock.stem for lock in _LOCKS)):
        versions.setdefault((requirement.name, str(requirement.marker)), set()).add(str(requirement.specifier))
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("extra", ["", *sorted(_EXTRAS.keys() - {"all"})])
def test_what_is_asked_for_is_locked_in_a_version_that_is_allowed(extra: str) -> None:
    asked = [Requirement(text) for text in (_EXTRAS[extra] if extra else _PROJECT["dependencies"])]
    locked = _locked("base", extra) if extra else _locked("base")
    for requirement in asked:
        if requirement.name == "torch":
            continue
        pins = [pin for pin in locked if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
        assert pins, requirement
        for pin in pins:
            (version,) = [clause.version for clause in pin.specifier]
            assert requirement.specifier.contains(version), (requirement, version)


def test_torch_alone_is_pinned_without_hashes() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pin,) = [Requirement(line) for line in lines if not line.startswith("#")]
    (torch,) = [text for text in _PROJECT["dependencies"] if text.startswith("torch>")]
    (version,) = [clause.version for clause in pin.specifier]
    assert pin.name == "torch"
    assert Requirement(torch).specifier.contains(version)
    assert [entry for lock in _LOCKS for entry in _entries(lock) if entry.startswith(("torch==", "nvidia-"))] == []


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_the_build_needs_nothing_that_is_not_locked(kind: str, tmp_path: Path) -> None:
    """``scripts/install.sh`` builds without an index; ``editables`` is what hatchling would use otherwise."""
    code = f"import sys; sys.modules['editables'] = None; import hatchling.build as b; b.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, check=True)
