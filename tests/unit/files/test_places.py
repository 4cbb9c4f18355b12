"""Places are tried before anything expensive, and are as they were afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from minicpmv.errors import UsageError
from minicpmv.files.places import Recognised, check_directory, check_file


def test_place_that_can_be_written_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for place in (tmp_path / "a" / "b" / "c", tmp_path / "there"):
        check_directory(place, asked_by="--output_dir")
        check_file(place / "x.json", asked_by="--output", replaces="none", makes_folder=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("place", ["file", "file/below/it", "x" * 300, "a\0b", "", " ", "/proc/nothing/there"])
def test_directory_that_cannot_be_is_refused_in_words(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    named = os.path.join(tmp_path, place) if place.strip() else place
    with pytest.raises(UsageError, match=r"(?s)^--output_dir .*: found .*, expected .*\n  fix: "):
        check_directory(named, asked_by="--output_dir")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.parametrize("place", ["", " ", "missing/x", ".", "x" * 251, "/dev/null", "a\0b"])
def test_file_that_cannot_be_is_refused_in_words(place: str, tmp_path: Path) -> None:
    """The last letters of a long name are those of the file that is written first."""
    with pytest.raises(UsageError, match=r"(?s)^--output .*: found .*, expected .*\n  fix: "):
        check_file(os.path.join(tmp_path, place) if place.strip() else place, asked_by="--output", replaces="any")
    assert not list(tmp_path.iterdir())


_OURS = Recognised("a list of ours", lambda file: file.read(5) == b"ours\n")


@pytest.mark.parametrize(
    ("content", "replaces", "found"),
    [
        ("theirs\n", _OURS, "found a file there that is not a list of ours, expected a new one, or an earlier one"),
        ("theirs\n", "none", "found a file there, expected a new one\n  fix: name another, or move it away"),
        ("", "none", "found a file there"),
        ("theirs\n", "any", None),
        ("ours\nmore\n", _OURS, None),
        ("", _OURS, None),
    ],
)
def test_file_is_replaced_only_by_what_may_replace_it(
    content: str, replaces: Recognised | Literal["any", "none"], found: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text(content, encoding="utf-8")
    if found is None:
        check_file(file, asked_by="--output", replaces=replaces)
    else:
        with pytest.raises(UsageError) as told:
            check_file(file, asked_by="--output", replaces=replaces)
        assert f"--output {str(file)!r}: {found}" in str(told.value)
    assert file.read_text(encoding="utf-8") == content


def test_disk_that_is_read_only_or_full_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from minicpmv.files.places import check_directory\n"
        "try: check_directory(sys.argv[1], asked_by='--output_dir')\n"
        "except Exception as error: print(error)"
    )
    run = f'{sys.executable} -c "$CODE" {tmp_path}/new'
    for mount, found in (("-o ro,size=1m", "Read-only file system"), ("-o size=4k,nr_inodes=2", "No space left")):
        fill = "" if "ro" in mount else f"mkdir {tmp_path}/full; "
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", f"mount -t tmpfs {mount} x {tmp_path}; {fill}{run}"],
            env=os.environ | {"CODE": code},
            capture_output=True,
            text=True,
            check=False,
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip("no disk can be mounted here")
        assert found in done.stdout, done.stderr
