from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.errors import UsageError
from minicpmv.export.merging.shards import write_shards

TENSORS = {
    "odd": torch.arange(3, dtype=torch.bfloat16),
    "wide": torch.randn(20, 15),
    "wider": torch.randn(20, 20),
    "scalar": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "turned": torch.randn(6, 2).T,
    "empty": torch.empty(0, 4, dtype=torch.float16),
}


def written(folder: Path, *, size: str = "5GB") -> list[str]:
    return write_shards(folder, TENSORS, TENSORS.__getitem__, max_shard_size=size)


def test_a_file_is_read_as_if_safetensors_had_written_it(tmp_path: Path) -> None:
    assert written(tmp_path) == ["model.safetensors"]
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "theirs")
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "theirs")
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in ours.items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in theirs.items()
    }


def test_every_value_lies_at_a_multiple_of_its_size(tmp_path: Path) -> None:
    written(tmp_path)
    raw = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for name, tensor in TENSORS.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.element_size() == 0, name


def test_shards_are_no_larger_than_asked_and_listed(tmp_path: Path) -> None:
    files = written(tmp_path, size="1.3KB")
    assert files == [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())
    assert index["weight_map"] == {name: file for file in files for name in load_file(tmp_path / file)}
    assert index["weight_map"].keys() == TENSORS.keys()
    for file in files:
        held = list(load_file(tmp_path / file).values())
        assert sum(tensor.numel() * tensor.element_size() for tensor in held) <= 1300 or len(held) == 1


def test_each_tensor_is_computed_once(tmp_path: Path) -> None:
    asked: list[str] = []
    write_shards(tmp_path, TENSORS, lambda name: (asked.append(name), TENSORS[name])[1], max_shard_size="1.3KB")
    assert sorted(asked) == sorted(TENSORS)


def test_what_is_no_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-shard-size: found 'much', expected a size such as 5GB"):
        written(tmp_path, size="much")
