"""The copies of the shell scripts: runnable, and never in place of what a user wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.training.launching.shell_scripts import copy_scripts
from tests.docs.repository import ROOT, TRAINING_SCRIPTS


def test_copies_are_the_scripts_of_the_root(tmp_path: Path) -> None:
    copied = copy_scripts(tmp_path / "new" / "recipes")
    assert [path.name for path in copied] == sorted(path.name for path in TRAINING_SCRIPTS)
    for path in [*copied, tmp_path / "new/recipes/scripts/finetune.sh"]:
        original = ROOT / path.relative_to(tmp_path / "new" / "recipes")
        assert path.read_bytes() == original.read_bytes()
        assert path.stat().st_mode & 0o111 == original.stat().st_mode & 0o111
    assert (tmp_path / "new/recipes/scripts/python.txt").read_text() == f"{sys.executable}\n"


def test_copying_again_renews_which_python_is_used(tmp_path: Path) -> None:
    copy_scripts(tmp_path)
    (tmp_path / "scripts" / "python.txt").write_text("/gone/bin/python\n")
    copy_scripts(tmp_path)
    assert (tmp_path / "scripts" / "python.txt").read_text() == f"{sys.executable}\n"


def test_a_changed_script_is_not_replaced(tmp_path: Path) -> None:
    copy_scripts(tmp_path)
    mine = tmp_path / "finetune_lora.sh"
    mine.write_text("echo mine\n")
    (tmp_path / "finetune_ds.sh").unlink()
    with pytest.raises(UsageError, match=r"found 'finetune_lora\.sh', not as this package has it(.|\n)*fix: "):
        copy_scripts(tmp_path)
    assert mine.read_text() == "echo mine\n"
    assert not (tmp_path / "finetune_ds.sh").exists(), "all or none"


def test_the_checkout_itself_is_not_written_to() -> None:
    with pytest.raises(UsageError, match="found the checkout, where the scripts are"):
        copy_scripts(ROOT)
