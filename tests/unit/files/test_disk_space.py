from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from minicpmv.files.disk_space import DiskError, check_space, explain_system, writing
from minicpmv.training.checkpoints.checkpoint_size import estimate_bytes

_FULL = Path("/dev/full")  # the kernel's own full disk: every write to it fails with ENOSPC

pytestmark = pytest.mark.skipif(not _FULL.exists(), reason="only Linux has /dev/full")


def write_text(path: Path) -> None:
    path.write_text("x")


def write_tensors(path: Path) -> None:
    torch.save({"x": torch.zeros(100_000)}, path)


@pytest.mark.parametrize("write", [write_text, write_tensors])
def test_full_disk_says_where_and_leaves_nothing(write, tmp_path: Path) -> None:
    staged = tmp_path / ".saving" / "checkpoint-3"
    staged.mkdir(parents=True)
    (staged / "first").write_text("whole")
    (staged / "second").symlink_to(_FULL)
    with pytest.raises(DiskError) as told, writing(staged, needed=1_234_567):
        write(staged / "second")
    assert str(told.value).startswith(f"{tmp_path}: found ")
    assert "expected 1,234,567 bytes" in str(told.value)
    assert "fix: make room there" in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_safetensors_error_counts_as_well(tmp_path: Path) -> None:
    """It says why in words alone. Made with a missing folder: it does not write through links."""
    staged = tmp_path / ".saving" / "checkpoint-3"
    with pytest.raises(DiskError), writing(staged, needed=None):
        save_file({"x": torch.zeros(10)}, staged / "x.safetensors")


def test_what_has_nothing_to_do_with_writing_passes_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path / "a" / "b", needed=None):
        raise RuntimeError("shapes do not fit")


def test_too_little_room_is_seen_before_writing(tmp_path: Path) -> None:
    check_space(tmp_path / "not yet there", 1)
    with pytest.raises(DiskError, match=r"found too little room, .* expected 1,000,000,000,000,000 bytes"):
        check_space(tmp_path / "not yet there", 10**15)


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_only_a_run_with_checkpoints_can_be_resumed(has_checkpoint: bool, tmp_path: Path) -> None:
    if has_checkpoint:
        (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(DiskError) as told:
        check_space(tmp_path, 10**15)
    assert ("existing checkpoints are intact" in str(told.value)) is has_checkpoint
    assert ("--resume_from_checkpoint true" in str(told.value)) is has_checkpoint
    assert "fix: make room there" in str(told.value)


def test_full_disk_elsewhere_is_explained_and_other_errors_are_not(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run.json"))
    assert explain_system(full).startswith(f"{tmp_path}: found No space left on device")
    refused = explain_system(OSError(errno.EACCES, "Permission denied", "x")) or ""
    assert refused.startswith("'x': found Permission denied")
    assert "bytes free" not in refused
    assert explain_system(OSError("a library's own word for something else")) is None


def test_checkpoint_of_adam_takes_three_times_its_weights() -> None:
    model = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(10)).sum().backward()
    optimizer.step()
    assert estimate_bytes(model, optimizer) == pytest.approx(3 * 400, abs=8)  # and a step count
