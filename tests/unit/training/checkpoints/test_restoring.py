"""A checkpoint's weights come back into the model that is trained, tensor by tensor, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.errors import CheckpointError
from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.checkpoints.restoring import restore_weights
from tests.tiny import FIXTURES


def _load(version: str, dtype: torch.dtype) -> Any:
    return MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / version, dtype=dtype)


@pytest.mark.parametrize(
    "version", ["v2", *(pytest.param(each, marks=pytest.mark.slow) for each in ("v2_5", "v2_6", "v4", "v4_5"))]
)
def test_every_tensor_comes_back_as_it_is_loaded(version: str) -> None:
    model, loaded = _load(version, torch.bfloat16), _load(version, torch.bfloat16)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    restore_weights(model, Path(FIXTURES / version))
    found, expected = model.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_one_tensor_at_a_time_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    one = OwnTensors.read

    def note(tensors: OwnTensors, own: str) -> torch.Tensor:
        found = one(tensors, own)
        read.append((own, found.numel()))
        return found

    monkeypatch.setattr(OwnTensors, "read", note)
    model = _load("v2_6", torch.float32)
    restore_weights(model, Path(FIXTURES / "v2_6"))
    assert dict(read) == {name: tensor.numel() for name, tensor in model.state_dict().items()}


def test_checkpoint_of_another_shape_is_refused_before_a_weight_changes(tmp_path: Path) -> None:
    checkpoint = shutil.copytree(FIXTURES / "v2_6", tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": config["intermediate_size"] * 2}))
    model = _load("v2_6", torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="misshapen"):
        restore_weights(model, checkpoint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
