"""The Dockerfiles: linted, honest about not having been built, and asking for what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.repository import ROOT

_FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
_NEEDED = ["pyproject.toml", "README.md", "LICENSE", "NOTICE", "constraints.txt", "requirements/", "src/", "scripts/"]


def _name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("file", _FILES, ids=_name)
def test_the_linter_finds_nothing(file: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint for this system")
    done = subprocess.run([linter, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", _FILES, ids=_name)
def test_scripts_extras_and_files_that_are_named_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert f"--file docker/{file.name}" in text
    (extras,) = re.findall(r"(?m)^ARG EXTRAS=(\S+)$", text)
    assert [name for name in extras.split(",") if not (ROOT / f"requirements/{name}.txt").is_file()] == []
    for script in re.findall(r"/opt/minicpmv/(\S+\.sh)", text):
        assert (ROOT / script).is_file()
    assert "Not built" in text, "remove this line of the test with that of the file, once it was"


def test_what_the_installation_reads_is_sent_to_docker() -> None:
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [name for name in _NEEDED if name.rstrip("/") in left_out] == []
