"""Only plain files are read, and nothing that stands under a file's name can hold the reader up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minicpmv.files.plain_files import UnusableFileError, read_plain


def test_a_file_is_read_through_a_link_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "link", most_bytes=5) == b"12345"
    with pytest.raises(UnusableFileError, match="5 bytes, where 4 are the most"):
        read_plain(tmp_path / "link", most_bytes=4)


def test_a_fifo_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnusableFileError, match="not a plain file"):
        read_plain(tmp_path / "fifo")


@pytest.mark.parametrize("name", ["missing", "broken"])
def test_a_file_that_is_not_there_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / name)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError):
        read_plain(tmp_path / "a\0b")
