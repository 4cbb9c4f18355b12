"""Refused in words, before anything expensive: output that is closed or full, places, and names that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.prepared import prepared_python
from tests.run.training import environment, flags, make_data

_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_NOBODY_ANSWERS = {"HF_HUB_OFFLINE": "", "HF_ENDPOINT": "http://127.0.0.1:9"}


def shell(command: str, *, python: str = sys.executable, **variables: str) -> subprocess.CompletedProcess[str]:
    prepared = f'm() {{ {python} -m minicpmv "$@"; }}\n{command}'
    return subprocess.run(
        ["sh", "-c", prepared], env=environment() | variables, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("command", ["chat --help", "estimate --help", "demo --help", "explain", "--help", "--version"])
@pytest.mark.parametrize(("place", "found"), [("> /dev/full", "No space left on device"), (">&-", "it closed")])
def test_output_that_takes_nothing_is_one_message(command: str, place: str, found: str) -> None:
    done = shell(f"m {command} {place}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: standard output: found {found}, expected ")
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize("dry", ["true", "false"])
def test_output_dir_that_is_a_file_is_refused_before_anything_is_loaded(dry: str, tmp_path: Path) -> None:
    data = make_data(tmp_path, num_records=2)
    (tmp_path / "file").touch()
    arguments = flags(data, tmp_path / "file" / "below", "--dry_run", dry)
    done = subprocess.run(
        [prepared_python(), "-m", "minicpmv.training", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --output_dir '{tmp_path}/file/below': found ")
    assert "a file where a folder is needed" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("command", "network"),
    [
        ("chat owner/model hi", _OFFLINE),
        ("export owner/model --output x", _OFFLINE),
        ("estimate owner/model", _OFFLINE),
        ("chat owner/model hi", _NOBODY_ANSWERS),
        pytest.param("export owner/model --output x", _NOBODY_ANSWERS, marks=pytest.mark.slow),
        pytest.param("estimate owner/model", _NOBODY_ANSWERS, marks=pytest.mark.slow),
    ],
)
def test_name_on_the_hub_that_cannot_be_had_is_refused_at_once(
    command: str, network: dict[str, str], tmp_path: Path
) -> None:
    # Whether there is a network is read when the hub's package is imported: a prepared Python was imported without one.
    python = prepared_python() if network == _OFFLINE else sys.executable
    done = shell(f"cd {tmp_path} && m {command}", python=python, HF_HOME=str(tmp_path / "cache"), **network)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model: found neither a directory 'owner/model' nor a copy of such a hub")
    assert "hf download owner/model" in done.stderr
    assert not os.path.exists(tmp_path / "x")


@pytest.mark.parametrize(
    ("command", "advice"),
    [("trainn", "did you mean train?"), ("chat x --images y", "did you mean --image?")],  # codespell:ignore trainn
)
def test_mistyped_word_is_answered_with_what_was_meant(command: str, advice: str, tmp_path: Path) -> None:
    done = shell(f"cd {tmp_path} && m {command}")
    assert done.returncode == 2
    assert advice in done.stderr
