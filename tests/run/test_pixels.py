"""A run whose pictures travel as bytes is the run to which they come as float32 values, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from tests.run import poisoned
from tests.run.training import flags, losses, make_data, run_here, same_bytes


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("v2_6", "--packing true --model_max_length 256 --dataloader_num_workers 1"),
        pytest.param("v2_5", "--per_device_train_batch_size 2 --bf16 true", marks=pytest.mark.slow),
    ],
)
def test_losses_and_weights_are_those_of_values(
    model: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path)
    ours = run_here(flags(data, tmp_path / "bytes", *extra.split(), model=model))
    monkeypatch.setenv("POISONED", "-1")  # none: every record comes with values
    monkeypatch.setattr(ConversationDataset, "__getitem__", poisoned._poisoned)
    theirs = run_here(flags(data, tmp_path / "values", *extra.split(), model=model))
    assert len(losses(ours)) == 4
    assert losses(ours) == losses(theirs)
    assert same_bytes(tmp_path / "bytes" / "model.safetensors", tmp_path / "values" / "model.safetensors")
