"""Digests find every changed value and no widened one; what was stored comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minicpmv.errors import CheckpointError
from minicpmv.models.checkpoints.reference import (
    REFERENCE,
    Reference,
    digest_tensors,
    discard,
    read_reference,
    write_reference,
)

_EVIDENCE = Reference(
    records=["train.json record 0"],
    loss=1.5,
    tolerance=0.1,
    reason="",
    dtypes=["float32"],
    autocast=None,
    in_four_bits=False,
    num_weights=1,
    tensors={"weight": ("float32", "aa")},
    not_saved=[],
)


def _digest(tensor: torch.Tensor, dtype: str) -> str:
    return digest_tensors({"weight": tensor}, {"weight": dtype})["weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widened_tensor_keeps_its_digest(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    saved = torch.randn(7, 5).to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert _digest(saved.float(), name) == _digest(saved, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_smallest_change_has_another_digest(dtype: torch.dtype) -> None:
    before = torch.ones(7, 5).to(dtype)
    after = before.clone()
    after.view(-1).view(torch.uint8)[0] ^= 1
    name = str(dtype).removeprefix("torch.")
    assert _digest(before, name) != _digest(after, name)


def test_layout_in_memory_does_not_matter() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert _digest(matrix.t().contiguous().t(), "float32") == _digest(matrix, "float32")


def test_scalar_and_empty_tensors_have_digests() -> None:
    assert _digest(torch.tensor(1.0), "float32") != _digest(torch.zeros(0), "float32")


def test_what_was_written_is_read_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    write_reference(tmp_path, _EVIDENCE, {"input_ids": torch.ones(1, 3, dtype=torch.int64).expand(2, 3)})
    reference, batch = read_reference(tmp_path)
    assert reference.loss == 1.5
    assert list(reference.tensors["weight"]) == ["float32", "aa"]
    assert torch.equal(batch["input_ids"], torch.ones(2, 3, dtype=torch.int64))
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [REFERENCE]


def test_damaged_evidence_is_refused(tmp_path: Path) -> None:
    write_reference(tmp_path, _EVIDENCE, {})
    (tmp_path / REFERENCE).write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"reference\.safetensors: found nothing to compare with"):
        read_reference(tmp_path)


def test_discarding_leaves_other_files_alone(tmp_path: Path) -> None:
    write_reference(tmp_path, _EVIDENCE, {})
    for name in ("verification.json", "model.safetensors"):
        (tmp_path / name).touch()
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
