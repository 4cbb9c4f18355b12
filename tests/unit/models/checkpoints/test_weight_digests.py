"""Weights are told by their values and names, not by their files; and what was read once is not read again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.errors import CheckpointError
from minicpmv.models.checkpoints.stored_tensors import StoredTensor
from minicpmv.models.checkpoints.weight_digests import digest_weights
from minicpmv.models.checkpoints.weight_files import find_weight_files
from tests.tiny import FIXTURES

_MODEL = FIXTURES / "v2_6"


def _write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _values() -> dict[str, torch.Tensor]:
    return {name: tensor for file in find_weight_files(_MODEL) for name, tensor in load_file(file).items()}


def test_shards_order_and_format_of_the_files_do_not_count(tmp_path: Path) -> None:
    values, whole = _values(), digest_weights(_MODEL, kept=None)
    turned = dict(reversed(values.items()))
    assert digest_weights(_write(tmp_path / "one", turned), kept=None) == whole
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(values)
    parts = [names[::2], names[1::2]]
    for number, part in enumerate(parts):
        save_file({name: values[name] for name in part}, shards / f"{number}.safetensors")
    index = {name: f"{number}.safetensors" for number, part in enumerate(parts) for name in part}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert digest_weights(shards, kept=None) == whole
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(values, pickled / "pytorch_model.bin")
    assert digest_weights(pickled, kept=None) == whole


def test_one_changed_number_a_name_or_a_precision_counts(tmp_path: Path) -> None:
    values, whole = _values(), digest_weights(_MODEL, kept=None)
    name = next(name for name in values if name.endswith("q_proj.weight"))
    other = values[name].clone()
    other[0, 0] = -other[0, 0]
    changed = digest_weights(_write(tmp_path / "a", values | {name: other}), kept=None)
    assert changed.weights != whole.weights
    assert changed.shapes == whole.shapes
    renamed = digest_weights(_write(tmp_path / "b", values | {f"{name}.2": other}), kept=None)
    assert renamed.shapes != whole.shapes
    precise = digest_weights(_write(tmp_path / "c", {n: v.double() for n, v in values.items()}), kept=None)
    assert precise.weights != whole.weights
    assert precise.shapes == whole.shapes


def test_known_files_are_not_read_again_and_changed_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = tmp_path / "model", tmp_path / "kept"
    shutil.copytree(_MODEL, model)
    first = digest_weights(model, kept=kept)
    read = list[Path]()
    digest = StoredTensor.digest
    monkeypatch.setattr(StoredTensor, "digest", lambda stored: (read.append(stored.file), digest(stored))[1])
    assert digest_weights(model, kept=kept) == first
    assert not read
    file = find_weight_files(model)[0]
    state = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 0x80]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # size and time of change are as they were
    assert digest_weights(model, kept=kept).weights != first.weights
    assert read


@pytest.mark.parametrize("content", ["", "a b", "a b c", "\udcff"])
def test_damaged_entry_counts_as_missing(content: str, tmp_path: Path) -> None:
    first = digest_weights(_MODEL, kept=tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(content.encode(errors="surrogateescape"))
    assert digest_weights(_MODEL, kept=tmp_path) == first
    assert entry.read_text().split()[0] == first.weights, "it is written again"


def test_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert digest_weights(_MODEL, kept=tmp_path / "file" / "below") == digest_weights(_MODEL, kept=None)


def test_files_that_are_cut_or_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no weights"):
        digest_weights(tmp_path, kept=None)
    shutil.copytree(_MODEL, tmp_path / "model")
    file = find_weight_files(tmp_path / "model")[0]
    os.truncate(file, file.stat().st_size - 10)
    with pytest.raises(CheckpointError, match=r"model.*\.safetensors"):
        digest_weights(tmp_path / "model", kept=None)
