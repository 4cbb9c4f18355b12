"""What a ``KeyboardInterrupt`` says of a run that could not say it itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.api import train


def test_interrupt_before_the_first_checkpoint_says_that_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="ended at once; nothing was saved"):
        train._raise([], 130, str(tmp_path / "output"), is_interrupted=True)


def test_interrupt_later_names_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(KeyboardInterrupt, match=r"its last checkpoint, .*/checkpoint-4, is complete"):
        train._raise([], -2, str(tmp_path), is_interrupted=True)
