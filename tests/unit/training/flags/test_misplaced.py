"""What stands where it cannot is named, with what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.words.settings_file import with_settings_file


@pytest.mark.parametrize(("name", "kind"), [("inits", "a directory"), ("train.json", "a file that is not YAML")])
def test_what_is_no_settings_file_in_its_place_is_named(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "inits").mkdir()
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(UsageError, match=f"{name}', {kind}, expected a file of settings.*\n.*--data .*{name}"):
        parse_arguments(with_settings_file([str(tmp_path / name)]))
